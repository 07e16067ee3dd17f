//! Any bytes as HTTP: whatever the pieces in which they arrive, the answers are the same, and each comes from one call of
//! the service.

use super::pieces::{Pieces, serve};
use ebbtide::BoxError;
use ebbtide::http::Http;
use ebbtide::http::http_body_util::{BodyExt, Limited};
use ebbtide::http::hyper::body::Incoming;
use ebbtide::http::hyper::service::service_fn;
use ebbtide::http::hyper::{Method, Request, Response, StatusCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The settings, which are the first bytes of an input.
pub const SETTINGS: usize = 2;

/// Checks an input: the settings, and then the bytes that the client sends.
pub fn check(bytes: &[u8]) -> &'static str {
    let Some((&[longest, seed], sent)) = bytes.split_first_chunk::<SETTINGS>() else { return "too short" };
    let (at_once, in_pieces) = (exchange(Pieces::new(sent, 0, 0)), exchange(Pieces::new(sent, longest.max(1), seed)));
    let (Exchange::Http1(one), Exchange::Http1(other)) = (&at_once, &in_pieces) else {
        let both_http2 = matches!((&at_once, &in_pieces), (Exchange::Http2, Exchange::Http2));
        assert!(both_http2, "{at_once:?}, and in pieces {in_pieces:?}");
        return "HTTP/2";
    };
    // While an answer is still being written, hyper closes the connection at a malformed head, and does not refuse it.
    assert_eq!(without_refusal(one), without_refusal(other), "the pieces change the answers");
    match one.last() {
        None => "no answer",
        Some((200, _)) => "answered",
        Some(_) => "refused",
    }
}

/// Returns the answers without the last one, if that is hyper's.
fn without_refusal(answers: &[(u16, String)]) -> &[(u16, String)] {
    match answers.split_last() {
        Some(((200 | 405 | 413, _), _)) | None => answers,
        Some((_, before)) => before,
    }
}

#[derive(Debug)]
enum Exchange {
    /// The status and the body of each answer.
    Http1(Vec<(u16, String)>),
    Http2,
}

fn exchange(pieces: Pieces) -> Exchange {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&calls);
    let service = service_fn(move |request: Request<Limited<Incoming>>| {
        let calls = Arc::clone(&shared);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            if ![Method::GET, Method::POST].contains(&head.method) {
                let mut answer = Response::new(String::new());
                *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                return Ok::<_, BoxError>(answer);
            }
            let text = format!("{} {}", head.uri, body.escape_ascii());
            calls.lock().unwrap().push(text.clone());
            Ok(Response::new(text))
        }
    });
    let http = Http::new().max_body(1000).max_head(2000).header_timeout(Duration::from_secs(60));
    let traffic = pieces.traffic();
    let report = serve(pieces, |listener| listener, http.handler(service));
    assert_eq!(report.failed(), 0, "{report}");
    let written = traffic.written();
    let calls = calls.lock().unwrap();
    if written.get(3) == Some(&4) && written.get(..3) != Some(b"HTT") {
        check_frames(&written);
        return Exchange::Http2; // it begins with the frame SETTINGS
    }
    let answers = answers(&written);
    let answered: Vec<_> = answers.iter().filter(|(status, _)| *status == 200).map(|(_, body)| body).collect();
    assert!(answered.len() <= calls.len(), "more answers than calls: {answered:?}, {calls:?}");
    assert_eq!(answered, calls[..answered.len()].iter().collect::<Vec<_>>(), "the answers are those of the calls");
    Exchange::Http1(answers)
}

/// Splits HTTP/1 answers. Panics if they are malformed.
fn answers(written: &[u8]) -> Vec<(u16, String)> {
    let mut rest = std::str::from_utf8(written).expect("answers are text");
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no whole head: {rest:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 "), "{head:?}");
        let field = head.to_ascii_lowercase();
        let length = field.split("\r\ncontent-length: ").nth(1).map(|rest| rest.split("\r\n").next().unwrap());
        let length = length.map_or(0, |length| length.parse().unwrap());
        let (body, others) = after.split_at(length);
        if status != 100 {
            answers.push((status, body.to_owned()));
        }
        rest = others;
    }
    answers
}

/// Checks that the bytes are whole frames of HTTP/2.
fn check_frames(written: &[u8]) {
    let mut rest = written;
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        rest = after.get(length..).expect("the whole frame");
    }
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
}
