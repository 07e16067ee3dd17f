//! Fuzzes the reader of `LISTEN_FDS` and its like: see `src/systemd/variables/invariants.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ebbtide::fuzz::listen_fds(bytes));
