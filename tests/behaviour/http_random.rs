//! Random requests through the memory listener: whatever the pieces in which they arrive, valid ones get their answers,
//! and no others fail the server. For a longer run: `EBBTIDE_FUZZ_SECONDS=600 cargo test --release --features http
//! --test behaviour http_random -- --nocapture`.
#![cfg(feature = "http")]

use crate::support::dice::Dice;
use crate::support::*;
use async_std::prelude::*;
use async_std::task::yield_now;
use ebbtide::http::Http;
use ebbtide::http::http_body_util::{BodyExt, Limited};
use ebbtide::http::hyper::body::Incoming;
use ebbtide::http::hyper::service::service_fn;
use ebbtide::http::hyper::{Request, Response};
use ebbtide::{BoxError, Connector, Listener, Server};
use std::fmt::Write as _;
use std::time::Instant;

/// Random bytes and requests.
trait Requests {
    fn bytes(&mut self, most: usize) -> Vec<u8>;
    /// Appends a valid request. Returns its answer.
    fn request(&mut self, bytes: &mut Vec<u8>, is_last: bool) -> String;
    /// Damages a stream of requests.
    fn mutate(&mut self, bytes: &mut Vec<u8>);
}

impl Requests for Dice {
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        // Many line ends: what looks like the end of a head may be in a body.
        let len = self.below(most + 1);
        (0..len).map(|_| b"\r\n\r\n\nabcGET /HTTP1.:0"[self.below(21)]).collect()
    }

    fn request(&mut self, bytes: &mut Vec<u8>, is_last: bool) -> String {
        let kind = self.below(6);
        let path = format!("/{}", self.below(1000));
        let end = if kind == 0 { "\n" } else { "\r\n" };
        let body = if kind < 2 { Vec::new() } else { self.bytes(300) };
        if self.below(4) == 0 {
            bytes.extend_from_slice(b"\r\n"); // permitted before a request
        }
        let mut head = format!("{} {path} HTTP/1.1{end}host: a{end}", if kind < 2 { "GET" } else { "POST" });
        if is_last {
            write!(head, "connection: close{end}").unwrap();
        }
        match kind {
            0 | 1 => bytes.extend_from_slice(format!("{head}{end}").as_bytes()),
            2 | 3 => {
                bytes.extend_from_slice(format!("{head}content-length: {}{end}{end}", body.len()).as_bytes());
                bytes.extend_from_slice(&body);
            }
            _ => {
                bytes.extend_from_slice(format!("{head}transfer-encoding: chunked{end}{end}").as_bytes());
                let mut rest = &body[..];
                while !rest.is_empty() {
                    let (chunk, others) = rest.split_at(1 + self.below(rest.len()));
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                    rest = others;
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        describe(&path, &body)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.splice(at..at, self.bytes(20)).for_each(drop),
                2 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                3 if at < bytes.len() => drop(bytes.remove(at)),
                4 => {
                    let copy = bytes[self.below(at + 1)..at].to_vec();
                    bytes.splice(at..at, copy).for_each(drop);
                }
                _ => {
                    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
                    for _ in 0..self.below(5) {
                        let payload = self.bytes(40);
                        frames.extend_from_slice(&[0, 0, payload.len() as u8]);
                        frames.extend((0..6).map(|_| [0, 0, 1, 4, 5, self.below(256) as u8][self.below(6)]));
                        frames.extend_from_slice(&payload);
                    }
                    bytes.splice(0..0, frames).for_each(drop);
                }
            }
        }
    }
}

fn describe(path: &str, body: &[u8]) -> String {
    let sum = body.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    format!("{path} {} {sum}", body.len())
}

/// Sends the bytes in random pieces, and returns what is answered until EOF.
async fn exchange(connector: &Connector, bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut client = connector.connect().await.unwrap();
    let mut rest = bytes;
    let whole = dice.below(3) == 0;
    while !rest.is_empty() {
        let len = if whole { rest.len() } else { 1 + dice.below(rest.len().min(60)) };
        if client.write_all(&rest[..len]).await.is_err() {
            break; // the server has answered with an error and closed
        }
        rest = &rest[len..];
        for _ in 0..dice.below(3) {
            yield_now().await;
        }
    }
    let _ = client.close().await;
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).await.unwrap();
    answers
}

/// Returns the bodies of whole answers.
fn bodies(answers: &str) -> Vec<String> {
    let (mut rest, mut bodies) = (answers, Vec::new());
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        let (body, others) = after.split_at(length);
        bodies.push(body.to_owned());
        rest = others;
    }
    assert_eq!(rest, "");
    bodies
}

#[test]
fn random_requests_in_random_pieces_are_answered_and_damaged_ones_fail_nothing() {
    let long = crate::support::random_bytes::long();
    let start = Instant::now();
    let seed = if long.is_some() { u64::from(std::process::id()) } else { 1 };
    let mut dice = Dice::new(seed);
    let mut cases = 0;
    loop {
        dice = test(round(dice, 300));
        cases += 300;
        if start.elapsed() >= long.unwrap_or_default() {
            break;
        }
    }
    println!("seed {seed}: {cases} streams of requests ({:.1?})", start.elapsed());
}

async fn round(mut dice: Dice, cases: usize) -> Dice {
    let service = service_fn(async |request: Request<Limited<Incoming>>| {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok::<_, BoxError>(Response::new(describe(head.uri.path(), &body)))
    });
    let http = Http::new().max_body(5000).max_head(2000);
    let (listener, connector) = Listener::memory();
    let body = async |_| {
        for _ in 0..cases {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for left in (0..=dice.below(5)).rev() {
                expected.push(dice.request(&mut bytes, left == 0));
            }
            let answers = exchange(&connector, &bytes, &mut dice).await;
            let text = String::from_utf8(answers).unwrap();
            assert_eq!(bodies(&text), expected, "{}", bytes.escape_ascii());
            dice.mutate(&mut bytes);
            let answers = exchange(&connector, &bytes, &mut dice).await;
            let is_http1 = answers.starts_with(b"HTTP/1.1 ");
            let is_http2 = bytes.starts_with(b"PRI") && answers.get(3) == Some(&4); // SETTINGS
            assert!(answers.is_empty() || is_http1 || is_http2, "{}", answers.escape_ascii());
        }
    };
    let (_, report) = Server::new(listener).scope(http.handler(service), body).await.unwrap();
    assert_adds_up(&report);
    let faults = report.failed() + report.panicked() + report.cancelled();
    assert_eq!((report.accepted(), faults), (2 * cases as u64, 0), "{report}");
    assert!(report.disconnected() > cases as u64 / 10, "the damage reaches the parser: {report}");
    dice
}
