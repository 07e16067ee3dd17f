//! Checks what is read from the previous or the next generation, on any bytes: for the tests and for the fuzzer.

use super::{HEADER, KINDS, Kind, LONGEST_BODY, MAGIC, VERSION, decode, decode_key, encode, encode_key};
use crate::listener::generations::Key;
use crate::upgrade::channel::{Look, look};
use crate::upgrade::descriptors::receive;
use crate::upgrade::predecessor;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// More bytes than this are cut off: they must fit into the buffer of a socket.
const MOST: usize = 64 * 1024;

/// Reads the bytes as messages, as the body of a message `Socket`, and as the value of `EBBTIDE_UPGRADE`.
///
/// # Panics
///
/// If the messages are others than those that are there, if what was read is not the same after it was written, or if
/// an error is more than one line.
pub(crate) fn check(bytes: &[u8]) -> &'static str {
    let bytes = &bytes[..bytes.len().min(MOST)];
    check_variable(bytes);
    let is_key = check_key(bytes);
    check_looks(bytes);
    match check_messages(bytes) {
        0 if is_key => "socket",
        0 => "refused",
        _ => "messages",
    }
}

/// Returns how many messages there are.
fn check_messages(bytes: &[u8]) -> usize {
    let socket = sent(bytes);
    let mut rest = bytes;
    for n in 0.. {
        match (receive(&socket), next(rest)) {
            (Ok((kind, body, None)), Some((expected, after))) => {
                assert_eq!((kind, body.as_slice()), expected);
                assert!(body.len() <= LONGEST_BODY);
                assert_eq!(encode(kind, &body), rest[..rest.len() - after.len()]);
                rest = after;
            }
            (Err(error), None) => {
                check_error(&error);
                return n;
            }
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }
    unreachable!("there are fewer messages than bytes")
}

/// A message and the bytes after it.
type Next<'a> = ((Kind, &'a [u8]), &'a [u8]);

/// Returns the first message; `None` if it is not whole, or no message.
fn next(bytes: &[u8]) -> Option<Next<'_>> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let kind = *KINDS.get(usize::from(header[3]).checked_sub(1)?)?;
    let length = usize::from(header[4]) << 8 | usize::from(header[5]);
    let is_message = header[..2] == MAGIC && header[2] == VERSION && length <= LONGEST_BODY;
    let (body, rest) = rest.split_at_checked(length).filter(|_| is_message)?;
    Some(((kind, body), rest))
}

/// Reads the bytes without waiting: each message without a body, and then something wrong or EOF.
fn check_looks(bytes: &[u8]) {
    let socket = sent(bytes);
    socket.set_nonblocking(true).unwrap();
    for part in bytes.chunks(HEADER) {
        match (look(&socket), next(part)) {
            (Look::Message(kind), Some(((expected, []), _))) => assert_eq!(kind, expected),
            (Look::Wrong(error), None) => return check_error(&error),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }
    assert!(matches!(look(&socket), Look::Eof));
}

/// Returns a socket from which the bytes and then EOF can be read.
fn sent(bytes: &[u8]) -> UnixStream {
    let (mut one, other) = UnixStream::pair().unwrap();
    one.write_all(bytes).unwrap();
    one.shutdown(Shutdown::Write).unwrap();
    other
}

fn check_key(body: &[u8]) -> bool {
    let header = body.first_chunk().map(|header| decode(*header));
    if let Some(Err(error)) = header {
        check_error(&error);
    }
    match decode_key(body) {
        Ok(key) => {
            let Ok(again) = encode_key(&key) else {
                assert!(body.len() > LONGEST_BODY);
                return true;
            };
            assert_eq!(decode_key(&again).unwrap(), key);
            assert!(matches!(key, Key::Tcp(_)) || again == body, "a path is kept byte for byte");
            true
        }
        Err(error) => {
            check_error(&error);
            false
        }
    }
}

fn check_variable(value: &[u8]) {
    if let Ok(value) = std::str::from_utf8(value) {
        if let Some((version, (device, inode))) = predecessor::parse(value) {
            let again = format!("{version}:{device}:{inode}");
            assert_eq!(predecessor::parse(&again), Some((version, (device, inode))));
            assert_eq!(value.matches(':').count(), 2);
        }
    }
}

fn check_error(error: &io::Error) {
    assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof), "{error:?}");
    assert!(!error.to_string().contains(char::is_control), "{error}");
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, encode, encode_key};
    use crate::listener::generations::Key;
    use crate::random_bytes::{Inputs, run};

    #[test]
    fn random_bytes_of_another_generation_are_its_messages_or_an_error() {
        let unix = Key::Unix { path: "/run/echo.sock".into(), identity: (1, u64::MAX) };
        let keys = [unix, Key::Tcp("[fe80::1%3]:8888".parse().unwrap())].map(|key| encode_key(&key).unwrap());
        let [unix, tcp] = &keys;
        let old = [encode(Kind::Stdin, b""), encode(Kind::Socket, unix), encode(Kind::Socket, tcp)].concat();
        let end = [encode(Kind::End, &[0, 2]), encode(Kind::Go, b""), encode(Kind::Stop, b"")].concat();
        let next = [encode(Kind::Hello, b""), encode(Kind::Ready, b""), encode(Kind::Taken, b"")].concat();
        let seeds = vec![old, end, next, unix.clone(), tcp.clone(), b"1:8:4294967296".to_vec()];
        let parts: &[&[u8]] = &[
            b"eb\x01\x01\0\0",
            b"eb\x01\x03\0\x0fT127.0.0.1:8888",
            b"eb",
            b"eb\x02\x01\0\0",
            b"T",
            b"U",
            b":",
            b"\0\0",
            b"\x1f\xff",
            b"\x20\x01",
            b"\xff\xff",
            b"-1:",
            b"\n",
        ];
        run(2_000, &Inputs { seeds, parts }, &["messages", "socket", "refused"], super::check);
    }
}
