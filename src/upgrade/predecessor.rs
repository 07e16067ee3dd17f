//! The generation before, as its successor sees it.

use super::descriptors::{receive, send};
use super::message::{HEADER, Kind, MOST_SOCKETS, VERSION, decode_key, encode, expect, wrong};
use super::{VARIABLE, read_header, within};
use crate::listener::generations::Passed;
use crate::panic::log_line;
use crate::text::{explained, explained_by};
use async_io::Async;
use rustix::fs::fstat;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::dup2_stdin;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long an answer of the generation before may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The lowest number of the copy of the standard input: not 0, 1 or 2.
const ABOVE_STANDARD: i32 = 3;

/// The generation before, which waits until this one is ready.
#[derive(Debug)]
pub(super) struct Predecessor {
    channel: UnixStream,
}

/// Finds the generation before by the value of the variable, and takes its sockets over. `None`: the variable was meant
/// for another process, from which this one has inherited it.
pub(super) fn find(value: &OsStr) -> io::Result<Option<(Predecessor, Vec<Passed>)>> {
    let shown = value.to_string_lossy();
    let Some((version, identity)) = parse(&shown) else {
        return wrong(format_args!(
            "`{VARIABLE}` is `{shown}`, which no hand-over sets: remove it from the environment of this program"
        ));
    };
    if version != VERSION {
        return wrong(format_args!(
            "the generation before speaks version {version} of the hand-over (`{VARIABLE}`), and this one version \
             {VERSION}: stop the program and start it again"
        ));
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
    take(channel).map(Some).map_err(|error| {
        let text = format!("cannot take over from the generation before: {error}; it goes on serving");
        explained_by(error, text)
    })
}

/// Reads `version:device:inode`.
fn parse(value: &str) -> Option<(u8, (i128, i128))> {
    let (version, identity) = value.split_once(':')?;
    let (device, inode) = identity.split_once(':')?;
    Some((version.parse().ok()?, (device.parse().ok()?, inode.parse().ok()?)))
}

fn take(channel: UnixStream) -> io::Result<(Predecessor, Vec<Passed>)> {
    channel.set_read_timeout(Some(PATIENCE))?;
    channel.set_write_timeout(Some(PATIENCE))?;
    send(&channel, &encode(Kind::Hello, b""), None)?;
    let mut passed = Vec::new();
    loop {
        match receive(&channel).map_err(explain)? {
            (Kind::Stdin, _, Some(stdin)) => dup2_stdin(stdin)?,
            (Kind::Socket, body, Some(socket)) if passed.len() < MOST_SOCKETS => {
                passed.push(Passed::new(decode_key(&body)?, socket)?);
            }
            (Kind::End, body, None) if body == u16::try_from(passed.len()).unwrap_or(0).to_be_bytes() => {
                return Ok((Predecessor { channel }, passed));
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
    /// Tells it that this generation is ready, and waits until it accepts no more.
    pub(super) async fn tell_ready(self) -> io::Result<()> {
        let told = async {
            let channel = Async::new(self.channel)?;
            let sent = channel.write_with(|channel| send(channel, &encode(Kind::Ready, b""), None)).await?;
            if sent != HEADER {
                return Err(ErrorKind::WriteZero.into());
            }
            expect(read_header(&channel).await?, Kind::Go)
        };
        let told = within(Instant::now().checked_add(PATIENCE), told).await;
        told.unwrap_or_else(|| Err(ErrorKind::TimedOut.into())).map_err(|error| {
            let error = explain(error);
            let text = format!("cannot take over from the generation before: {error}; end this process");
            explained_by(error, text)
        })
    }
}

/// Says in words what the loss of the connection means.
fn explain(error: io::Error) -> io::Error {
    let text = match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            "it has ended, or has given this process up, because it took too long or a server was closed"
        }
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
