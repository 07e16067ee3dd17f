//! The benchmark's program with an allocator that counts live bytes. Only its `serve` is used.

use std::alloc::System;

#[global_allocator]
static ALLOCATOR: cap::Cap<System> = cap::Cap::new(System, usize::MAX);

fn main() -> std::process::ExitCode {
    ebbtide_bench::main(Some(|| ALLOCATOR.allocated()))
}
