//! The client's side of one connection of HTTP/2: any number of streams, each with a request without a body.
//!
//! It reads frames, but decodes no header: each head must begin with the status 200, which has a code of one byte.

use super::wrong;
use crate::http::{Answer, PART};
use std::io;
use std::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `:method: GET`, `:scheme: http` and `:path: /` from the static table, and `:authority` as a literal.
const HEAD: &[u8] = b"\x82\x86\x84\x01\x09127.0.0.1";
/// `:status: 200` in the static table.
const STATUS_200: u8 = 0x88;

/// What a connection's window grows by at its beginning: the most that there is. It lasts for 165 million answers.
const WINDOW: u32 = (1 << 31) - 1 - 65_535;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Flags of which this client understands nothing: padding and priority.
const OTHER: u8 = 0x28;

pub(super) struct Client {
    answer: Answer,
    /// Bytes of a frame that is not complete.
    input: Vec<u8>,
    next_id: u32,
    /// The streams without a whole answer.
    pub(super) streams: Vec<Stream>,
    /// GOAWAY has come.
    pub(super) is_ending: bool,
}

pub(super) struct Stream {
    id: u32,
    sent: Instant,
    /// The head has come.
    has_head: bool,
    /// How much of the body has come.
    received: usize,
    /// It was refused or reset, and gets no answer. It stays among those without one.
    is_reset: bool,
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("the frames of this client are short");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

impl Client {
    /// Makes the client. `out` gets the beginning of the connection.
    pub(super) fn new(answer: Answer, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(PREFACE);
        frame(out, SETTINGS, 0, 0, &[]);
        frame(out, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        Self { answer, input: Vec::new(), next_id: 1, streams: Vec::new(), is_ending: false }
    }

    pub(super) fn request(&mut self, now: Instant, out: &mut Vec<u8>) {
        frame(out, HEADERS, END_STREAM | END_HEADERS, self.next_id, HEAD);
        self.streams.push(Stream { id: self.next_id, sent: now, has_head: false, received: 0, is_reset: false });
        self.next_id += 2;
    }

    pub(super) fn receive(&mut self, bytes: &[u8], answered: &mut Vec<Instant>, out: &mut Vec<u8>) -> io::Result<()> {
        let mut joined;
        let mut bytes = bytes;
        if !self.input.is_empty() {
            joined = std::mem::take(&mut self.input);
            joined.extend_from_slice(bytes);
            bytes = &joined;
        }
        while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
            let [a, b, c, kind, flags, id @ ..] = *head;
            let Some((payload, rest)) = rest.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize) else { break };
            self.frame(kind, flags, u32::from_be_bytes(id), payload, answered, out)?;
            bytes = rest;
        }
        self.input.extend_from_slice(bytes);
        Ok(())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        payload: &[u8],
        answered: &mut Vec<Instant>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        match kind {
            HEADERS | DATA => self.part(kind, flags, id, payload, answered),
            SETTINGS | PING if flags & ACK == 0 => {
                frame(out, kind, ACK, 0, if kind == PING { payload } else { &[] });
                Ok(())
            }
            GOAWAY => {
                self.is_ending = true;
                Ok(())
            }
            RST_STREAM => {
                self.streams.iter_mut().filter(|stream| stream.id == id).for_each(|stream| stream.is_reset = true);
                Ok(())
            }
            SETTINGS | PING | WINDOW_UPDATE => Ok(()),
            other => Err(wrong(format!("a frame of the type {other}"))),
        }
    }

    /// Receives a part of an answer.
    fn part(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8], answered: &mut Vec<Instant>) -> io::Result<()> {
        let unexpected =
            || wrong(format!("an unexpected frame: type {kind}, flags {flags:x}, stream {id}, {payload:?}"));
        let index = self.streams.iter().position(|stream| stream.id == id).ok_or_else(unexpected)?;
        let stream = &mut self.streams[index];
        let whole = self.answer.parts() * PART.len();
        let as_it_should = flags & OTHER == 0
            && if kind == HEADERS {
                // An update of the table's size may come first.
                let status = payload.iter().find(|byte| *byte & 0xe0 != 0x20);
                !stream.has_head && flags & END_HEADERS != 0 && status == Some(&STATUS_200)
            } else {
                let expected = PART.iter().cycle().skip(stream.received % PART.len());
                stream.has_head
                    && stream.received + payload.len() <= whole
                    && payload.iter().eq(expected.take(payload.len()))
            };
        if !as_it_should {
            return Err(unexpected());
        }
        stream.has_head = true;
        if kind == DATA {
            stream.received += payload.len();
        }
        if flags & END_STREAM != 0 {
            if stream.received != whole {
                return Err(unexpected());
            }
            answered.push(self.streams.swap_remove(index).sent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let mut client = Client::new(Answer { streaming: false }, &mut Vec::new());
        (0..2).for_each(|_| client.request(Instant::now(), &mut Vec::new()));
        client
    }

    fn answer(id: u32, head: &[u8], body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, HEADERS, END_HEADERS, id, head);
        frame(&mut bytes, DATA, END_STREAM, id, body);
        bytes
    }

    #[test]
    fn answers_count_in_any_order_and_cut_anywhere() {
        let (mut client, mut answered, mut out) = (client(), Vec::new(), Vec::new());
        let mut bytes = Vec::new();
        frame(&mut bytes, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 200]);
        bytes.extend(answer(3, b"\x88\x61", PART));
        bytes.extend(answer(1, b"\x20\x88", PART));
        frame(&mut bytes, GOAWAY, 0, 0, &[0; 8]);
        for byte in bytes {
            client.receive(&[byte], &mut answered, &mut out).unwrap();
        }
        assert_eq!((answered.len(), client.streams.len(), client.is_ending), (2, 0, true));
        assert_eq!(out, [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]);
    }

    #[test]
    fn another_answer_is_an_error_and_a_reset_stream_stays_without_one() {
        for bytes in [
            answer(1, b"\x8d", PART),
            answer(1, b"\x88", b"Hello, World!"),
            answer(1, b"\x88", b"Hello"),
            answer(5, b"\x88", PART),
        ] {
            assert!(client().receive(&bytes, &mut Vec::new(), &mut Vec::new()).is_err(), "{bytes:?}");
        }
        let (mut client, mut bytes) = (client(), Vec::new());
        frame(&mut bytes, RST_STREAM, 0, 1, &[0, 0, 0, 7]);
        client.receive(&bytes, &mut Vec::new(), &mut Vec::new()).unwrap();
        assert_eq!(client.streams.len(), 2);
    }
}
