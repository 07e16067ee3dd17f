//! Fuzzes the parser of PROXY headers: it must not panic, not change a decision, and not ask for a byte too many.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ebbtide::fuzz_proxy_header(bytes));
