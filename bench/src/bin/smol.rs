//! The benchmark's program on smol: the crate has the feature `smol` in place of `async-std`. Only its `serve` and
//! `inside` are used.

fn main() -> std::process::ExitCode {
    ebbtide_bench::main(None)
}
