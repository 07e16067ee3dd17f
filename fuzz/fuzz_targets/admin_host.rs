//! Fuzzes the look at `Host` of the admin listener: see `src/admin/host/invariants.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ebbtide::fuzz::admin_host(bytes));
