//! Fuzzes the reader of `NOTIFY_SOCKET` and its like: see `src/systemd/notify/environment/invariants.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ebbtide::fuzz::notify_socket(bytes));
