//! The peers that are not written in Rust.

use super::Peer;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/peers").join(name)
}

/// Where the go program is built: beside this one.
fn go_program() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("ebbtide-bench-go"))
}

/// The interpreter itself, and no script in front of it that would cost a shell.
pub(super) fn python() -> Option<String> {
    output(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]))
}

pub(super) fn go() -> Option<String> {
    output(Command::new("go").arg("version"))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(super) fn build_go() -> io::Result<()> {
    let status = Command::new("go").arg("build").arg("-o").arg(go_program()?).arg(source("go/main.go")).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("`go build` failed")) }
}

/// Becomes that program, with the same process id.
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
