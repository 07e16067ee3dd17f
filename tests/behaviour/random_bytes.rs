//! Random and damaged bytes for each reader that has a public way in: lines and frames, the PROXY header of a connection,
//! HTTP. Each module has the check of one reader, which `fuzz/` runs too. Private readers have theirs in modules
//! `invariants` below `src`.
//!
//! For a longer run: `EBBTIDE_FUZZ_SECONDS=600 cargo test --release --all-features --lib --test behaviour random_bytes --
//! --nocapture`.

#![allow(unreachable_pub, reason = "`fuzz/` includes the modules too")]

mod framing;
#[cfg(feature = "http")]
mod http;
mod pieces;
#[cfg(feature = "proxy-protocol")]
mod proxy;

use crate::support::on_thread;
use crate::support::random_bytes::{Inputs, run};

/// Runs each check as a part of a test, so that it has a time limit.
fn run_in_tests(usual: u64, inputs: &Inputs<'_>, kinds: &[&str], check: fn(&[u8]) -> &'static str) {
    run(usual, inputs, kinds, |bytes| {
        let bytes = bytes.to_vec();
        on_thread(move || check(&bytes))
    });
}

/// Returns each content after each of the settings.
fn with_settings(settings: &[&[u8]], contents: &[&[u8]]) -> Vec<Vec<u8>> {
    let pairs = settings.iter().flat_map(|settings| contents.iter().map(move |content| [*settings, content].concat()));
    pairs.collect()
}

#[test]
fn random_bytes_are_the_lines_and_frames_of_a_reference_whatever_their_pieces() {
    // Limit, flags, counts, longest piece, its seed, whether the server drains.
    let settings: [&[u8; framing::SETTINGS]; 10] = [
        b"\x02\x07\0\0\0\0",
        b"\x05\x04\0\x03\x01\x01",
        b"\x05\0\0\0\0\0",
        b"\x04\x14\x21\x07\0\0",
        b"\x02\x1a\x42\x01\0\x01",
        b"\x08\x17\x11\x40\x05\x01",
        b"\x0f\x12\x13\x03\x09\0",
        b"\x06\x97\x12\xff\0\0",
        b"\x07\xc1\xff\xff\x02\0",
        b"\x06\xf8\x05\xf0\x01\0",
    ];
    let contents: [&[u8]; 7] = [
        b"\0\0\0\x05hello\0\0\0\x06sixsix\0\0\0\0",
        b"one\r\ntwo\n\n\r\nlast\r",
        b"\0\0\0\x05hello\0\0\0\0\0\0\0\x01x",
        b"\x05hello\0\x01x\x02\r\n",
        b"\0\x05hello\0\0a line\n\0\x01x",
        b"\xc3\xa4\xff\n\0\0\0\x03abc\n",
        b"\0\0\0\0\0\0\0\x10sixteen bytes ok\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    let settings = settings.map(|settings| &settings[..]);
    let parts: [&[u8]; 12] = [
        b"\n",
        b"\r\n",
        b"\r",
        b"\0\0\0\x02ab",
        b"\0\0\0\0",
        b"\x01",
        b"\xff\xff\xff\xff",
        b"\xc3",
        b"a line",
        b"seventeen bytes!!",
        b"\0\0\x40\0",
        b"\0\x01",
    ];
    let inputs = Inputs { seeds: with_settings(&settings, &contents), parts: &parts };
    run_in_tests(800, &inputs, &["read to the end", "too long", "cut"], framing::check);
}

#[cfg(feature = "proxy-protocol")]
#[test]
fn random_bytes_before_a_connection_are_a_proxy_header_or_none_and_no_byte_after_it_is_lost() {
    let contents: [&[u8]; 7] = [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nhello",
        b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 0 65535\r\n",
        b"PROXY UNKNOWN whatever\r\nhello",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbbhello",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb\x04\0\x04abcdhello",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0hello",
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    let parts: [&[u8]; 12] = [
        b"PROXY ",
        b"TCP4 ",
        b"TCP6 ",
        b"UNKNOWN",
        b"\r\n",
        b"127.0.0.1 ",
        b"::1 ",
        b"65535 ",
        b" ",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\x21\x11\0\x0c",
        b"\x03\0\x04",
    ];
    let settings: [&[u8]; 4] = [b"\0\0\0", b"\x01\0\0", b"\0\x01\0", b"\x01\x09\x03"];
    let inputs = Inputs { seeds: with_settings(&settings, &contents), parts: &parts };
    run_in_tests(800, &inputs, &["header", "no header", "rejected"], proxy::check);
}

#[cfg(feature = "http")]
#[test]
fn random_bytes_as_http_have_the_same_answers_whatever_their_pieces() {
    let contents: [&[u8]; 7] = [
        b"GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nok",
        b"GET / HTTP/1.1\nhost: a\n\n",
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\nCONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x05\0\0\0\x01\x82\x84\x86\x41\0",
    ];
    let parts: [&[u8]; 18] = [
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"GET ",
        b"POST / HTTP/1.1\r\n",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"host: b\r\n",
        b"content-length: 3\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"connection: upgrade\r\n",
        b"0\r\n\r\n",
        b"a;x=\"y\"\r\n",
        b"ffffffffffffffff\r\n",
        b"upgrade: websocket\r\n",
        b"expect: 100-continue\r\n",
        b"\0\0\x08\x06\0\0\0\0\0abcdefgh",
    ];
    let inputs = Inputs { seeds: with_settings(&[b"\x01\0", b"\x09\x05", b"\x40\x07"], &contents), parts: &parts };
    run_in_tests(300, &inputs, &["answered", "refused", "no answer", "HTTP/2"], http::check);
}
