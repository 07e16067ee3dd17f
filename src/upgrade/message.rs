//! The messages between two generations, as bytes.
//!
//! ```text
//! next: HELLO
//! old:  STDIN (its standard input), SOCKET (a descriptor and its key) for each socket, END (their number)
//! next: READY     it can serve
//! old:  GO        it has stopped accepting
//! next: TAKEN     it accepts from now on
//!
//! old, at any time before it has received TAKEN: STOP     the hand-over is over; the old generation serves on
//! ```
//!
//! TAKEN decides: once it is in the old generation's receive buffer, the sockets are the next one's. So that both come
//! to the same result, whatever ends first:
//!
//! 1. The old generation withdraws by STOP, then closes its receiving side (`shutdown`), and then reads what is in the
//!    buffer. Either TAKEN is there, or it cannot come any more: the attempt to send it fails, and STOP is the reason.
//! 2. The next generation withdraws by closing its receiving side. Either GO is there, or it cannot come any more.
//! 3. EOF without STOP means that the old process has ended. It accepts nothing any more, so the next one takes over.
//!    Hence the old generation never closes the connection without STOP while its process lives.
//!
//! A message is a header of [`HEADER`] bytes (`eb`, the version, the type, the length of the body) and a body. The next
//! generation's messages have no body, so the old one never reads more than a header, whatever it is sent.

#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;

use crate::listener::generations::Key;
use crate::text::{Escaped, explained};
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The version of these messages: both generations must have the same one.
pub(super) const VERSION: u8 = 1;

/// The length of a message without its body.
pub(super) const HEADER: usize = 6;

/// The longest body: a path has at most 4096 bytes.
pub(super) const LONGEST_BODY: usize = 8192;

/// The most sockets that are handed over.
pub(super) const MOST_SOCKETS: usize = 1024;

const MAGIC: [u8; 2] = *b"eb";

/// The types of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Hello = 1,
    Stdin = 2,
    Socket = 3,
    End = 4,
    Ready = 5,
    Go = 6,
    Taken = 7,
    Stop = 8,
}

const KINDS: [Kind; 8] =
    [Kind::Hello, Kind::Stdin, Kind::Socket, Kind::End, Kind::Ready, Kind::Go, Kind::Taken, Kind::Stop];

/// Returns the bytes of a message. The body is at most [`LONGEST_BODY`] bytes long.
pub(super) fn encode(kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("the longest body has fewer than 65,536 bytes");
    let mut message = [&MAGIC[..], &[VERSION, kind as u8], &length.to_be_bytes()].concat();
    message.extend_from_slice(body);
    message
}

/// Reads a header: the type of the message, and the length of its body.
pub(super) fn decode(header: [u8; HEADER]) -> io::Result<(Kind, usize)> {
    let [magic @ .., version, kind, high, low] = header;
    if magic != MAGIC {
        let bytes = String::from_utf8_lossy(&header);
        return wrong(format_args!("`{}` is no message of the hand-over", Escaped(bytes.trim_end())));
    }
    if version != VERSION {
        return wrong(format_args!(
            "the other generation has version {version} of the hand-over, and this one version {VERSION}: stop the \
             program and start it again"
        ));
    }
    let Some(&kind) = KINDS.iter().find(|known| **known as u8 == kind) else {
        return wrong(format_args!("a message of the hand-over has the unknown type {kind}"));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_BODY {
        return wrong(format_args!("a message of the hand-over is {length} bytes long"));
    }
    Ok((kind, length))
}

/// Reads a header that must be of this type, and without a body.
pub(super) fn expect(header: [u8; HEADER], wanted: Kind) -> io::Result<()> {
    match decode(header)? {
        (kind, 0) if kind == wanted => Ok(()),
        (kind, length) => wrong(format_args!("expected the message {wanted:?}, got {kind:?} with {length} bytes")),
    }
}

/// Returns the body of a message `Socket`.
pub(super) fn encode_key(key: &Key) -> io::Result<Vec<u8>> {
    let body = match key {
        Key::Tcp(address) => [b"T", address.to_string().as_bytes()].concat(),
        Key::Unix { path, identity: (device, inode) } => {
            [b"U", &device.to_be_bytes()[..], &inode.to_be_bytes(), path.as_os_str().as_bytes()].concat()
        }
    };
    if body.len() > LONGEST_BODY {
        return wrong(format_args!("the path of a socket is {} bytes long", body.len()));
    }
    Ok(body)
}

/// Reads the body of a message `Socket`.
pub(super) fn decode_key(body: &[u8]) -> io::Result<Key> {
    let key = match body.split_first() {
        Some((b'T', text)) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).map(Key::Tcp),
        Some((b'U', rest)) => unix(rest),
        _ => None,
    };
    match key {
        Some(key) => Ok(key),
        None => wrong(format_args!("`{}` names no socket", Escaped(String::from_utf8_lossy(body)))),
    }
}

fn unix(rest: &[u8]) -> Option<Key> {
    let (device, rest) = rest.split_first_chunk()?;
    let (inode, path) = rest.split_first_chunk()?;
    let identity = (u64::from_be_bytes(*device), u64::from_be_bytes(*inode));
    (!path.is_empty()).then(|| Key::Unix { path: PathBuf::from(OsStr::from_bytes(path)), identity })
}

/// Returns an error of kind `InvalidData`.
pub(super) fn invalid(text: std::fmt::Arguments<'_>) -> io::Error {
    explained(ErrorKind::InvalidData, text)
}

/// Returns `Err` with an error of kind `InvalidData`.
pub(super) fn wrong<T>(text: std::fmt::Arguments<'_>) -> io::Result<T> {
    Err(invalid(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(message: &[u8]) -> [u8; HEADER] {
        *message.first_chunk().unwrap()
    }

    #[test]
    fn each_message_is_read_as_it_was_written() {
        for kind in KINDS {
            assert_eq!(decode(header(&encode(kind, b"body"))).unwrap(), (kind, 4));
        }
        expect(header(&encode(Kind::Ready, b"")), Kind::Ready).unwrap();
        let keys = [
            Key::Tcp("127.0.0.1:0".parse().unwrap()),
            Key::Tcp("[fe80::1%3]:8888".parse().unwrap()),
            Key::Unix { path: "/run/a \u{e9}\n.sock".into(), identity: (1, u64::MAX) },
        ];
        for key in keys {
            assert_eq!(decode_key(&encode_key(&key).unwrap()).unwrap(), key);
        }
    }

    #[test]
    fn whatever_is_no_message_is_an_error_that_shows_it() {
        let table = [
            (*b"\x1b[31mr", "`\\u{1b}[31mr` is no message"),
            (*b"HTTP/1", "`HTTP/1` is no message"),
            (*b"eb\x02\x01\0\0", "version 2 of the hand-over, and this one version 1"),
            (*b"eb\0\x01\0\0", "version 0"),
            (*b"eb\x01\x09\0\0", "unknown type 9"),
            (*b"eb\x01\x01\xff\xff", "65535 bytes long"),
        ];
        for (header, text) in table {
            let error = decode(header).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert!(error.to_string().contains(text), "no `{text}` in `{error}`");
        }
        for (message, text) in [
            (encode(Kind::Ready, b""), "expected the message Hello, got Ready"),
            (encode(Kind::Hello, b"x"), "got Hello with 1 bytes"),
        ] {
            let error = expect(header(&message), Kind::Hello).unwrap_err();
            assert!(error.to_string().contains(text), "no `{text}` in `{error}`");
        }
        for body in [&b""[..], b"T", b"T127.0.0.1", b"X", b"U", b"U123456781234567", b"U1234567812345678", b"T\xff"] {
            assert!(decode_key(body).is_err(), "{body:?}");
        }
        let path = "x".repeat(LONGEST_BODY).into();
        assert!(encode_key(&Key::Unix { path, identity: (0, 0) }).is_err());
    }
}
