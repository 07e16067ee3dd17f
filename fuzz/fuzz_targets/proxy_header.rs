//! Fuzzes the parser of PROXY headers: see `src/proxy/parse/invariants.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ebbtide::fuzz::proxy_header(bytes));
