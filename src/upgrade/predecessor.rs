//! The previous generation, as its successor sees it: finding it, and receiving its sockets.

use super::VARIABLE;
use super::channel::{is_gone, post};
use super::descriptors::receive;
use super::message::{Kind, MOST_SOCKETS, VERSION, decode_key, wrong};
use crate::listener::generations::PassedSocket;
use crate::panic::log_line;
use crate::text::{explained, explained_by};
use rustix::fs::fstat;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::dup2_stdin;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long an answer of the previous generation may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The lowest number of the copy of the standard input: not 0, 1 or 2.
const ABOVE_STANDARD: i32 = 3;

/// Whether this process has taken the sockets. Its standard input is another one since, so a second look would take it
/// for a first generation, which would bind addresses that are in use.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The previous generation, which waits until this one is ready.
#[derive(Debug)]
pub(super) struct Predecessor {
    channel: UnixStream,
}

/// Finds the previous generation by the value of the variable, and receives its sockets. `None`: the variable was meant
/// for another process, from which this one has inherited it.
pub(super) fn find(value: &OsStr) -> io::Result<Option<(Predecessor, Vec<PassedSocket>)>> {
    let shown = value.to_string_lossy();
    let Some((version, identity)) = parse(&shown) else {
        return wrong(format_args!(
            "`{VARIABLE}` is `{shown}`, which no hand-over sets: remove it from the environment of this program"
        ));
    };
    if version != VERSION {
        return wrong(format_args!(
            "the previous generation has version {version} of the hand-over (`{VARIABLE}`), and this one version \
             {VERSION}: stop the program and start it again"
        ));
    }
    if TAKEN.load(Ordering::SeqCst) {
        let text = "the sockets of the previous generation have been taken already: clone the first `Upgrade` of this \
                    process, and do not make a second one";
        return Err(explained(ErrorKind::InvalidInput, text));
    }
    let stdin = io::stdin();
    let found = fstat(&stdin)?;
    if (i128::from(found.st_dev), i128::from(found.st_ino)) != identity {
        log_line!(
            info,
            "`{VARIABLE}` is meant for another process: the standard input of this one is not the socket that it names"
        );
        return Ok(None);
    }
    let channel = UnixStream::from(fcntl_dupfd_cloexec(&stdin, ABOVE_STANDARD)?);
    dup2_stdin(File::open("/dev/null")?)?; // until the own one arrives; a child must not inherit the socket
    TAKEN.store(true, Ordering::SeqCst);
    take(channel).map(Some).map_err(|error| {
        let text = format!("cannot take over from the previous generation: {error}; end this process");
        explained_by(error, text)
    })
}

/// Reads `version:device:inode`.
pub(super) fn parse(value: &str) -> Option<(u8, (i128, i128))> {
    let (version, identity) = value.split_once(':')?;
    let (device, inode) = identity.split_once(':')?;
    Some((version.parse().ok()?, (device.parse().ok()?, inode.parse().ok()?)))
}

fn take(channel: UnixStream) -> io::Result<(Predecessor, Vec<PassedSocket>)> {
    channel.set_read_timeout(Some(PATIENCE))?;
    channel.set_write_timeout(Some(PATIENCE))?;
    post(&channel, Kind::Hello)?;
    let mut passed = Vec::new();
    loop {
        match receive(&channel).map_err(explain)? {
            (Kind::Stdin, _, Some(stdin)) => dup2_stdin(stdin)?,
            (Kind::Socket, body, Some(socket)) if passed.len() < MOST_SOCKETS => {
                passed.push(PassedSocket::new(decode_key(&body)?, socket)?);
            }
            (Kind::End, body, None) if body == u16::try_from(passed.len()).unwrap_or(0).to_be_bytes() => {
                return Ok((Predecessor { channel }, passed));
            }
            (Kind::Stop, ..) => {
                let text =
                    "it has withdrawn the hand-over, because this process took too long or a listener was closed";
                return Err(explained(ErrorKind::ConnectionAborted, text));
            }
            (kind, body, _) => {
                return wrong(format_args!(
                    "unexpected message {kind:?} with {} bytes, after {} sockets",
                    body.len(),
                    passed.len()
                ));
            }
        }
    }
}

impl Predecessor {
    pub(super) fn into_channel(self) -> UnixStream {
        self.channel
    }
}

/// Returns the error with a text that says what the loss of the connection means.
fn explain(error: io::Error) -> io::Error {
    let text = match error.kind() {
        _ if is_gone(&error) => "its process has ended before it had passed all sockets",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not answer",
        _ => return error,
    };
    explained(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_that_a_hand_over_sets_is_read() {
        assert_eq!(parse("1:8:4294967296"), Some((1, (8, 4_294_967_296))));
        for value in ["", "1", "1:2", "1:2:", ":2:3", "1:2:3:4", "a:2:3", "256:1:1", "1:1:x"] {
            assert_eq!(parse(value), None, "{value}");
        }
    }
}
