//! Describes the machine and the versions, for the notes under the table.

use crate::kernel;
use crate::peers::foreign;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The highest load average at which results may be written.
pub(crate) const QUIET: f64 = 0.5;

/// How long to wait for it. The compiler's own load is gone after two minutes.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn load_average() -> Result<f64, String> {
    kernel::load_average().map_err(|error| format!("cannot read the load average: {error}"))
}

/// Waits until the load average is low enough, and returns it. Fails if it stays too high.
pub(crate) fn quiet() -> Result<f64, String> {
    let since = Instant::now();
    loop {
        let load = load_average()?;
        if load <= QUIET {
            return Ok(load);
        }
        if since.elapsed() > PATIENCE {
            return Err(format!(
                "the load average is {load:.2}, and `--write` needs {QUIET} or less: end the other programs"
            ));
        }
        eprintln!("waiting for a load average of {QUIET}: it is {load:.2}");
        std::thread::sleep(Duration::from_secs(15));
    }
}

/// Returns a Markdown list.
pub(crate) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let stdout_of =
        |program: &str, args: &[&str]| foreign::output(Command::new(program).args(args)).unwrap_or_default();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let revision = stdout_of("git", &["-C", &manifest.to_string_lossy(), "describe", "--always", "--dirty"]);
    let lock = fs::read_to_string(manifest.join("../Cargo.lock")).unwrap_or_default();
    let crates = ["tokio", "tokio-util", "tokio-rustls", "rustls", "async-std", "async-io", "async-executor", "smol"];
    let versions = crates.map(|name| format!("{name} {}", locked(&lock, name).unwrap_or("?"))).join(", ");
    let foreign = [stdout_of("python3", &["--version"]), stdout_of("go", &["version"])];
    let foreign: Vec<String> = foreign.into_iter().filter(|version| !version.is_empty()).collect();
    let lines = [
        format!("Processor: {}", cpu_model(&read("/proc/cpuinfo")).unwrap_or("unknown")),
        format!("Cores that could be used: {}", kernel::cores().len()),
        format!("Kernel: {} {}", read("/proc/sys/kernel/ostype"), read("/proc/sys/kernel/osrelease")),
        format!("Compiler: {}", stdout_of("rustc", &["--version"])),
        format!("Crates: ebbtide {revision}, {versions}"),
        format!("Others: {}", if foreign.is_empty() { "none".to_owned() } else { foreign.join(", ") }),
        format!(
            "Open files: at most {} a process; backlog: at most {}",
            kernel::raise_open_files(),
            read("/proc/sys/net/core/somaxconn")
        ),
    ];
    lines.map(|line| format!("- {line}\n")).concat()
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    cpuinfo.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()))
}

/// Returns a crate's version in a lock file; the last, if there are several.
fn locked<'lock>(lock: &'lock str, name: &str) -> Option<&'lock str> {
    let (_, rest) = lock.rsplit_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(rest.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_by_the_whole_name() {
        let lock = "[[package]]\nname = \"tokio-util\"\nversion = \"0.7.1\"\n\n\
                    [[package]]\nname = \"tokio\"\nversion = \"1.2.3\"\n";
        assert_eq!(locked(lock, "tokio"), Some("1.2.3"));
        assert_eq!(locked(lock, "smol"), None);
    }

    #[test]
    fn the_model_of_the_processor_is_found() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC"));
        assert_eq!(cpu_model(""), None);
    }
}
