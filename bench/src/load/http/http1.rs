//! The client's side of one connection of HTTP/1.1: one request at a time.

use super::wrong;
use crate::http::{Answer, PART};
use std::io;
use std::time::Instant;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
const LAST_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";

pub(super) struct Client {
    request: &'static [u8],
    /// The header field that gives the body's length.
    framing: &'static str,
    /// The last bytes of an answer: the end of the head and the body. They come nowhere else in it.
    end: Vec<u8>,
    /// What has arrived of the answer.
    answer: Vec<u8>,
    /// The length of an answer whose head was inspected, and does not announce the end. Heads of this length differ
    /// only in their date. 0: none was inspected yet.
    usual: usize,
    /// When the request without a whole answer was sent.
    pub(super) sent: Option<Instant>,
    /// The last answer said `Connection: close`.
    pub(super) is_ending: bool,
}

impl Client {
    pub(super) fn new(answer: Answer, close: bool) -> Self {
        let framing = if answer.streaming { "transfer-encoding: chunked" } else { "content-length: 13" };
        let mut end = b"\r\n\r\n".to_vec();
        if answer.streaming {
            for _ in 0..answer.parts() {
                end.extend_from_slice(format!("{:X}\r\n", PART.len()).as_bytes());
                end.extend_from_slice(PART);
                end.extend_from_slice(b"\r\n");
            }
            end.extend_from_slice(b"0\r\n\r\n");
        } else {
            end.extend_from_slice(PART);
        }
        let request = if close { LAST_REQUEST } else { REQUEST };
        Self { request, framing, end, answer: Vec::with_capacity(256), usual: 0, sent: None, is_ending: false }
    }

    pub(super) fn request(&mut self, now: Instant, out: &mut Vec<u8>) {
        debug_assert!(self.sent.is_none(), "one request at a time");
        self.sent = Some(now);
        out.extend_from_slice(self.request);
    }

    pub(super) fn receive(&mut self, bytes: &[u8], answered: &mut Vec<Instant>) -> io::Result<()> {
        self.answer.extend_from_slice(bytes);
        if !self.answer.ends_with(&self.end) {
            // Longer than any answer: it will not become the one that is expected.
            return if self.answer.len() < 1024 { Ok(()) } else { Err(self.unexpected()) };
        }
        if self.answer.len() != self.usual {
            self.inspect()?;
        }
        let sent = self.sent.take().filter(|_| self.answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        answered.push(sent.ok_or_else(|| self.unexpected())?);
        self.answer.clear();
        Ok(())
    }

    /// Inspects the head of a complete answer.
    fn inspect(&mut self) -> io::Result<()> {
        let head = self.answer.len() - self.end.len();
        let head = String::from_utf8_lossy(&self.answer[..head]).to_ascii_lowercase();
        let has = |field| head.split("\r\n").any(|line| line == field);
        if head.contains("\r\n\r\n") || !has(self.framing) {
            return Err(self.unexpected());
        }
        self.is_ending = has("connection: close");
        if !self.is_ending {
            self.usual = self.answer.len();
        }
        Ok(())
    }

    fn unexpected(&self) -> io::Error {
        wrong(format!("an unexpected answer: {:?}", String::from_utf8_lossy(&self.answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(answer: Answer, text: &str) -> io::Result<(usize, bool)> {
        let mut answered = Vec::new();
        let mut client = Client::new(answer, false);
        client.request(Instant::now(), &mut Vec::new());
        // In two parts, cut anywhere.
        let (first, second) = text.as_bytes().split_at(text.len() / 2);
        client.receive(first, &mut answered)?;
        client.receive(second, &mut answered)?;
        Ok((answered.len(), client.is_ending))
    }

    const PLAIN: Answer = Answer { streaming: false };

    #[test]
    fn a_whole_answer_counts_and_its_head_may_announce_the_end() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\ndate: x\r\n\r\nHello, world!";
        assert_eq!(receive(PLAIN, answer).unwrap(), (1, false));
        assert_eq!(receive(PLAIN, &answer.replace("date: x", "Connection: close")).unwrap(), (1, true));
        assert_eq!(receive(PLAIN, answer.trim_end_matches('!')).unwrap(), (0, false));
        let chunks = "D\r\nHello, world!\r\n".repeat(4);
        let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
        assert_eq!(receive(Answer { streaming: true }, &answer).unwrap(), (1, false));
        assert_eq!(receive(Answer { streaming: true }, answer.trim_end_matches("\r\n")).unwrap(), (0, false));
    }

    #[test]
    fn another_answer_is_an_error() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nHello, world!";
        for (part, other) in [("200 OK", "500 X"), ("13", "12"), ("HTTP", "!HTTP")] {
            assert!(receive(PLAIN, &answer.replace(part, other)).is_err(), "{other}");
        }
        let mut client = Client::new(PLAIN, false);
        assert!(client.receive(answer.as_bytes(), &mut Vec::new()).is_err(), "there was no request");
    }
}
