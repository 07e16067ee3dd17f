//! Fuzzes lines and frames, in pieces: see `tests/behaviour/random_bytes/framing.rs`.
#![no_main]

#[path = "../../tests/behaviour/random_bytes/framing.rs"]
mod framing;
#[path = "../../tests/behaviour/random_bytes/pieces.rs"]
mod pieces;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    framing::check(bytes);
});
