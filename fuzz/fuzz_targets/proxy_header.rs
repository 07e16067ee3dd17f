//! The PROXY header's parser: nothing panics, no decision is taken back, no byte too many is asked for.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ebbtide::fuzz_proxy_header(bytes));
