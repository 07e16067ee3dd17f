//! Fuzzes the reader of addresses: see `src/bind_addrs/host_port/invariants.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ebbtide::fuzz::address(bytes));
