//! Measures ebbtide beside other servers. How, and what can go wrong with it, is in `bench/README.md`.

mod args;
mod control;
mod growth;
mod inside;
mod kernel;
mod load;
mod machine;
mod measured;
mod peers;
mod plot;
mod process;
mod rounds;
mod stats;
mod suite;
mod table;
mod workloads;

use args::Args;
use std::process::ExitCode;

/// The programs' one entry: the benchmark itself, or one side of it. `heap` tells how much of the heap is in use, where
/// the program's allocator counts.
pub fn main(heap: Option<fn() -> usize>) -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("serve") => {
            parse(&["threads", "buffer", "cores"], &["controlled"]).and_then(|args| peers::serve(&args, heap))
        }
        Some("load") => parse(load::OPTIONS, load::FLAGS).and_then(|args| load::run(&args)),
        Some("inside") => parse(inside::OPTIONS, inside::FLAGS).and_then(|args| inside::run(&args)),
        _ => parse(suite::OPTIONS, suite::FLAGS).and_then(|args| suite::run(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebbtide-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(with_value: &[&str], flags: &[&str]) -> Result<Args, String> {
    Args::parse(std::env::args().skip(1), with_value, flags)
}
