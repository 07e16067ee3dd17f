//! Starts the processes of a run, a server and a load generator, gives each its cores, and talks to them by pipes.

use crate::kernel::{self, Cpu};
use crate::measured::Measured;
use crate::peers::Peer;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Which cores the server and the load generator run on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Places {
    pub(crate) server: Vec<usize>,
    pub(crate) load: Vec<usize>,
}

impl Places {
    /// Chooses a core for each of the server's threads, and another for the load generator. With too few cores, they
    /// share.
    pub(crate) fn choose(cores: &[usize], threads: usize) -> Self {
        let server = cores[..threads.min(cores.len())].to_vec();
        let load = cores.get(server.len()).map_or_else(|| server.clone(), |&core| vec![core]);
        Self { server, load }
    }

    pub(crate) fn shared(&self) -> bool {
        self.load.iter().any(|core| self.server.contains(core))
    }

    pub(crate) fn here(threads: usize) -> Self {
        Self::choose(&kernel::cores(), threads)
    }
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// A child process with pipes. Dropping it kills the process.
struct Piped {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Piped {
    fn start(program: &PathBuf, args: &[String]) -> Result<Self, String> {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).ok_or("no pipes")?;
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    fn send(&mut self, line: &str) -> Result<(), String> {
        writeln!(self.stdin, "{line}").map_err(|error| format!("cannot send `{line}`: {error}"))
    }

    /// Reads a line that must begin with `word`, and returns the rest.
    fn expect(&mut self, word: &str) -> Result<String, String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|error| format!("waiting for `{word}`: {error}"))?;
        let rest = line.trim_end().strip_prefix(word).ok_or_else(|| format!("`{line}` in place of `{word}`"))?;
        Ok(rest.trim_start().to_owned())
    }

    /// Reads the rest of its output, and waits for its successful end.
    fn finish(mut self) -> Result<String, String> {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut text).map_err(|error| error.to_string())?;
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(text) } else { Err(format!("a part of the benchmark ended with {status}")) }
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // An error: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn own_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("cannot find the path of this program: {error}"))
}

/// Returns the path of the program that runs the peer.
pub(crate) fn program(peer: Peer) -> Result<PathBuf, String> {
    peer.program().map_err(|error| format!("cannot find the program of {}: {error}", peer.name()))
}

/// A server process.
pub(crate) struct Server {
    process: Piped,
    address: String,
}

impl Server {
    /// Starts a server. `what` is the part of its command line that says what it serves.
    pub(crate) fn start(program: &PathBuf, peer: Peer, threads: usize, what: &str) -> Result<Self, String> {
        let cores = list(&Places::here(threads).server);
        let args = format!("serve {} --controlled --threads {threads} {what} --cores {cores}", peer.name());
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        let mut process = Piped::start(program, &args)?;
        let address = process.expect("listening").map_err(|error| format!("{}: {error}", peer.name()))?;
        Ok(Self { process, address })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    pub(crate) fn cpu(&self) -> Result<Cpu, String> {
        Cpu::of(self.pid()).map_err(|error| format!("cannot read the server's processor time: {error}"))
    }

    pub(crate) fn memory(&self, field: &str) -> Result<u64, String> {
        kernel::memory(self.pid(), field).map_err(|error| format!("cannot read the server's memory: {error}"))
    }

    /// Returns how many bytes of its heap are in use; 0 if its allocator does not count.
    pub(crate) fn heap(&mut self) -> Result<u64, String> {
        self.process.send("heap")?;
        let answer = self.process.expect("heap")?;
        answer.parse().map_err(|_| format!("`{answer}` bytes of heap"))
    }

    /// Stops it. Returns the nanoseconds from the request until it was closed, and what it reports of its connections.
    pub(crate) fn stop(&mut self, how: &str) -> Result<(u64, String), String> {
        self.process.send(how)?;
        let answer = self.process.expect("closed")?;
        let (took, account) = answer.split_once(' ').unwrap_or((&answer, ""));
        let took = took.parse().map_err(|_| format!("closed after `{took}`"))?;
        Ok((took, account.trim().to_owned()))
    }
}

/// Runs an `inside` process to its end.
pub(crate) fn inside(peer: Peer, threads: usize, what: &str) -> Result<Measured, String> {
    let cores = list(&Places::here(threads).server);
    let args = format!("inside {} {what} --threads {threads} --cores {cores}", peer.name());
    let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    Measured::parse(&Piped::start(&program(peer)?, &args)?.finish()?)
}

/// A load generator process.
pub(crate) struct Load {
    process: Piped,
}

impl Load {
    /// Starts a load generator. `what` is the command line after the address.
    pub(crate) fn start(server: &Server, threads: usize, what: &str) -> Result<Self, String> {
        let cores = list(&Places::here(threads).load);
        let args = format!("load {} {what} --pid {} --cores {cores}", server.address, server.pid());
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        Ok(Self { process: Piped::start(&own_program()?, &args)? })
    }

    /// Waits until every connection is open and has its first byte answered.
    pub(crate) fn ready(&mut self) -> Result<(), String> {
        self.process.expect("ready").map(drop)
    }

    /// Lets a load generator that holds connections continue.
    pub(crate) fn go_on(&mut self) -> Result<(), String> {
        self.process.send("go on")
    }

    pub(crate) fn finish(self) -> Result<Measured, String> {
        let text = self.process.finish()?;
        Measured::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_enough_cores_each_side_has_its_own() {
        let places = Places::choose(&[0, 1], 1);
        assert_eq!(places, Places { server: vec![0], load: vec![1] });
        assert!(!places.shared());
        assert_eq!(Places::choose(&[2, 4, 6, 8], 2), Places { server: vec![2, 4], load: vec![6] });
    }

    #[test]
    fn with_too_few_cores_both_sides_share() {
        let places = Places::choose(&[0, 1], 2);
        assert_eq!(places, Places { server: vec![0, 1], load: vec![0, 1] });
        assert!(places.shared());
        assert!(Places::choose(&[3], 1).shared());
    }
}
