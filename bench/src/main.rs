fn main() -> std::process::ExitCode {
    ebbtide_bench::main(None)
}
