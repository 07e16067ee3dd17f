//! Counts the requests that a shutdown loses: `bench/README.md` describes it.

fn main() -> std::process::ExitCode {
    ebbtide_bench::lost_requests()
}
