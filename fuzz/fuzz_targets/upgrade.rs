//! Fuzzes the reader of another generation's messages: see `src/upgrade/message/invariants.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ebbtide::fuzz::upgrade(bytes));
