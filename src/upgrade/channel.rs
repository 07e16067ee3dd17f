//! The connection between two generations: what both do with it, without waiting.

use super::descriptors;
use super::message::{HEADER, Kind, decode, encode, invalid};
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;

/// What a look at the connection has found. The message is taken from the buffer.
#[derive(Debug)]
pub(super) enum Look {
    /// A message without a body.
    Message(Kind),
    /// Nothing yet.
    Nothing,
    /// EOF: the other process has closed the connection, or this one has closed its receiving side.
    Eof,
    /// Something else than a message without a body.
    Wrong(io::Error),
}

/// Reads the next header, without waiting. The socket is non-blocking.
pub(super) fn look(channel: &UnixStream) -> Look {
    let mut header = [0; HEADER];
    loop {
        return match (&*channel).read(&mut header) {
            Ok(0) => Look::Eof,
            // A header is sent at once, so it arrives at once.
            Ok(HEADER) => match decode(header) {
                Ok((kind, 0)) => Look::Message(kind),
                Ok((kind, length)) => Look::Wrong(unexpected(kind, length)),
                Err(error) => Look::Wrong(error),
            },
            Ok(read) => Look::Wrong(invalid(format_args!("{read} bytes are no message of the hand-over"))),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Look::Nothing,
            // It has closed the connection with unread messages in its buffer.
            Err(error) if is_gone(&error) => Look::Eof,
            Err(error) => Look::Wrong(error),
        };
    }
}

/// Returns the error for a message at the wrong time.
pub(super) fn unexpected(kind: Kind, length: usize) -> io::Error {
    invalid(format_args!("the message {kind:?} with {length} bytes was not expected"))
}

/// Sends a message without a body, all of it or nothing, without waiting. The socket is non-blocking.
pub(super) fn post(channel: &UnixStream, kind: Kind) -> io::Result<()> {
    match descriptors::send(channel, &encode(kind, b""), None)? {
        HEADER => Ok(()),
        _ => Err(ErrorKind::WriteZero.into()),
    }
}

/// Returns whether the other side of the connection is closed.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected
    )
}
