//! Measures ebbtide beside other servers: processor time, latency, memory and stop time.
//!
//! `bench/README.md` describes the method, the options and the pitfalls.

mod args;
mod control;
mod growth;
mod http;
mod inside;
mod judge;
mod kernel;
mod load;
mod lost;
mod machine;
mod measured;
mod peers;
mod plot;
mod process;
mod rounds;
mod stats;
mod suite;
mod table;
mod tls;
mod workloads;

use args::Args;
use std::process::ExitCode;

/// Runs both programs: the whole benchmark, or one process of it (`serve`, `load`, `inside`). `heap` returns
/// how much of the heap is in use, if the program's allocator counts.
pub fn main(heap: Option<fn() -> usize>) -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(heap),
        Some("load") => parse(load::OPTIONS, load::FLAGS).and_then(|args| load::run(&args)),
        Some("inside") => parse(inside::OPTIONS, inside::FLAGS).and_then(|args| inside::run(&args)),
        _ => parse(suite::OPTIONS, suite::FLAGS).and_then(|args| suite::run(&args)),
    };
    exit_code(result)
}

/// Runs the program `lost_requests`, and its servers.
pub fn lost_requests() -> ExitCode {
    exit_code(match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(None),
        _ => parse(lost::OPTIONS, &[]).and_then(|args| lost::run(&args)),
    })
}

fn serve(heap: Option<fn() -> usize>) -> Result<(), String> {
    parse(peers::OPTIONS, peers::FLAGS).and_then(|args| peers::serve(&args, heap))
}

fn exit_code(result: Result<(), String>) -> ExitCode {
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
