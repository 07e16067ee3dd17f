//! Builds and starts other programs: the peers in Go and Python, and the twins of this program, one that counts its
//! heap and one on smol.

use super::Peer;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/peers").join(name)
}

/// Returns the path of the Go program: beside this one.
fn go_program() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("ebbtide-bench-go"))
}

/// Returns the path of the interpreter itself, not of a wrapper script, which would cost a shell.
pub(crate) fn python() -> Option<String> {
    output(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]))
}

pub(crate) fn go() -> Option<String> {
    output(Command::new("go").arg("version"))
}

pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(super) fn build_go() -> io::Result<()> {
    let status = Command::new("go").arg("build").arg("-o").arg(go_program()?).arg(source("go/main.go")).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("`go build` failed")) }
}

/// The twin of this program with the allocator that counts.
pub(crate) const COUNTED: &str = "ebbtide-bench-counted";

/// The twin of this program in which the crate runs on smol.
pub(crate) const SMOL: &str = "ebbtide-bench-smol";

/// Returns the path of a twin: beside this program.
pub(crate) fn twin(name: &str) -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// Builds a twin by the same cargo in the same profile, beside this program.
pub(super) fn build_twin(name: &str, features: &[&str]) -> io::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--bin", name]).args(features).arg("--manifest-path");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let program = twin(name)?;
    let profile = program.parent().ok_or_else(|| io::Error::other("the program has no folder"))?;
    command.args((!cfg!(debug_assertions)).then_some("--release"));
    command.args(profile.parent().into_iter().flat_map(|target| ["--target-dir".as_ref(), target.as_os_str()]));
    let status = command.status()?;
    if status.success() && program.exists() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{name} could not be built")))
    }
}

/// Executes the peer's program in place of this one, with the same process id.
pub(super) fn serve(peer: Peer, buffer: usize, controlled: bool) -> io::Result<()> {
    let mut command = match peer {
        Peer::Asyncio => {
            let mut command = Command::new(python().ok_or_else(|| io::Error::other("there is no python3"))?);
            command.arg(source("asyncio_echo.py"));
            command
        }
        _ => Command::new(go_program()?),
    };
    command.arg(buffer.to_string()).args(controlled.then_some("controlled"));
    Err(command.exec())
}
