//! Starts programs as systemd does: descriptor 3 is a listening socket, and environment variables describe it.

use super::process::{Process, example};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

/// Shell script that passes one socket, without a name.
pub const ONE: &str = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3<&0 0</dev/null";

/// Starts `program` from a shell that runs `script`, with the socket as its standard input. The shell becomes the
/// program (`exec`), so `$$` is the program's process id.
pub fn launch(script: &str, program: &Command, socket: impl AsFd) -> Process {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let socket = socket.as_fd().try_clone_to_owned().expect("a descriptor can be duplicated");
    Process::start_with(&mut shell, Stdio::from(socket))
}

/// Returns the command for the example `socket_activation` with this number of executor threads. `None` stands for
/// async-std's default.
pub fn service(threads: Option<&str>) -> Command {
    let mut service = example("socket_activation");
    match threads {
        Some(threads) => service.env("ASYNC_STD_THREAD_COUNT", threads).env("SMOL_THREADS", threads),
        None => service.env_remove("ASYNC_STD_THREAD_COUNT").env_remove("SMOL_THREADS"),
    };
    service
}
