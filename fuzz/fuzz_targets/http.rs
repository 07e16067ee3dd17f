//! Fuzzes HTTP, in pieces: see `tests/behaviour/random_bytes/http.rs`.
#![no_main]

#[path = "../../tests/behaviour/random_bytes/http.rs"]
mod http;
#[path = "../../tests/behaviour/random_bytes/pieces.rs"]
mod pieces;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    http::check(bytes);
});
