//! The benchmark's program. The library has everything.

fn main() -> std::process::ExitCode {
    ebbtide_bench::main(None)
}
