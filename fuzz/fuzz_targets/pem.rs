//! Fuzzes the reader of certificates and keys: see `src/tls/files/invariants.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ebbtide::fuzz::pem(bytes));
