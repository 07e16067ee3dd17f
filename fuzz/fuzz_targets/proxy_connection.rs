//! Fuzzes a connection with a PROXY header, in pieces: see `tests/behaviour/random_bytes/proxy.rs`.
#![no_main]

#[path = "../../tests/behaviour/random_bytes/proxy.rs"]
mod proxy;
#[path = "../../tests/behaviour/random_bytes/pieces.rs"]
mod pieces;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    proxy::check(bytes);
});
