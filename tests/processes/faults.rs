//! Faults of the system around a server: each must end or pass, with the right numbers, and must not take the server
//! down, make it spin, or keep it from ending.
//!
//! - `injected`: system calls that fail, one after the other, by `strace`.
//! - `killed`: thousands of clients that are killed at once. `bursts`: hundreds of signals.
//! - `outputs`: a full pipe and a full disk under the logger.
//! - `stopped`: a server, or a client, that is stopped for longer than each of its time limits.
//! - `relay`: a network that delays, splits and cuts. `small`: socket buffers of a few kilobytes, and a memory limit.
//! - `clocks`: clocks that do not begin where one expects.
//!
//! The server is a program of its own, `tests/programs/src/bin/faults.rs`. docs/reliability.md has what was found.
#![cfg(target_os = "linux")]

mod bursts;
mod clocks;
mod injected;
mod killed;
mod outputs;
mod relay;
mod small;
mod stopped;

use crate::support::process::{Ended, PATIENCE, Process, other_program};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;

/// Returns the command of the server, with its arguments and this number of executor threads.
fn server(arguments: &[&str], threads: usize) -> Command {
    let mut command = other_program("faults");
    command.args(arguments).env("ASYNC_STD_THREAD_COUNT", threads.to_string());
    command
}

/// Returns the server's own process id: it may run under another program.
fn id(server: &Process) -> u32 {
    let line = server.wait_for("process ");
    line.trim_start_matches("process ").parse().unwrap_or_else(|error| panic!("no id in `{line}`: {error}"))
}

/// The numbers that a server has counted, by name.
#[derive(Debug)]
struct Numbers(BTreeMap<String, u64>);

impl Numbers {
    /// Reads them from the last line that the server has printed, and checks that they add up.
    fn of(ended: &Ended) -> Self {
        let line = ended.stdout.iter().rfind(|line| line.starts_with("numbers: "));
        Self::from_line(line.unwrap_or_else(|| panic!("it has printed no numbers: {ended:?}")))
    }

    fn from_line(line: &str) -> Self {
        let pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
        let this = Self(pairs.map(|(name, number)| (name.to_owned(), number.parse().unwrap())).collect());
        let others = ["accepted", "accept_errors", "undelivered", "open"];
        let ends = this.0.iter().filter(|(name, _)| !others.contains(&name.as_str()));
        assert_eq!(ends.map(|(_, number)| number).sum::<u64>(), this.get("accepted"), "they do not add up: {line}");
        assert_eq!(this.get("open"), 0, "{line}");
        this
    }

    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// Connects a client. A wait of it is an error only after a long time: then it would wait for ever.
fn connect(port: u16) -> io::Result<TcpStream> {
    let client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    Ok(client)
}

/// Sends a message, and reads its echo. An error of the kind `UnexpectedEof`, `ConnectionReset` or `BrokenPipe` is the
/// end of the connection.
fn say_and_hear(client: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    client.write_all(message)?;
    let mut echo = vec![0; message.len()];
    client.read_exact(&mut echo)?;
    assert!(echo == message, "another echo");
    Ok(())
}

/// Returns whether the error is the end of a connection, and not a wait without end.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Checks that the client reads EOF or a reset.
fn assert_ends(client: &mut TcpStream, server: &Process) {
    let mut rest = [0; 1024];
    loop {
        match client.read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return assert!(is_end(&error), "a client waits without end: {error}: {server}"),
        }
    }
}

/// Returns the processor time that a process has used, in ticks of 10 ms.
fn ticks(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
