//! The load generator: a process of its own, with a plain epoll loop.

mod conn;
mod messages;
mod poll;

use crate::args::Args;
use crate::kernel::{self, Cpu};
use crate::measured::{Measured, nanos};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) const OPTIONS: &[&str] = &["cores", "pid", "connections", "active", "message", "warm-up", "time", "rate"];
pub(crate) const FLAGS: &[&str] = &["spin"];

/// Whoever waits for a server longer than this has found a bug.
const NET: Duration = Duration::from_secs(30);

/// What is measured, from outside: the process that serves.
pub(crate) struct Subject {
    pid: Option<u32>,
}

/// Where an account begins.
pub(crate) struct Begin {
    at: Instant,
    server: Cpu,
    own: Duration,
}

impl Subject {
    /// Both sides must be quiet, so that the scheduler's books are up to date.
    fn begin(&self) -> io::Result<Begin> {
        std::thread::sleep(QUIET);
        let server = self.pid.map_or(Ok(Cpu::default()), Cpu::of)?;
        Ok(Begin { server, own: kernel::own_cpu(), at: Instant::now() })
    }

    /// `end` is when the last operation was over.
    fn end(&self, begin: &Begin, end: Instant, ops: u64) -> io::Result<Measured> {
        let load = kernel::own_cpu() - begin.own;
        std::thread::sleep(QUIET);
        let Some(pid) = self.pid else {
            return Ok(Measured { ops, wall_ns: nanos(end - begin.at), load_ns: nanos(load), ..Measured::default() });
        };
        let spent = Cpu::of(pid)?.since(begin.server);
        Ok(Measured {
            ops,
            wall_ns: nanos(end - begin.at),
            cpu_ns: spent.exact_ns,
            user_ns: spent.user_ns,
            system_ns: spent.system_ns,
            load_ns: nanos(load),
            peak_bytes: kernel::memory(pid, "VmHWM")?,
            ..Measured::default()
        })
    }
}

/// Time for a server's threads to find nothing more to do and go to sleep.
const QUIET: Duration = Duration::from_millis(3);

/// `load ADDRESS KIND`: does the work, checks the answers, prints what it measured.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let address: SocketAddr = args.word(1, "the address")?.parse().map_err(|_| "that is no address")?;
    let kind = args.word(2, "the kind of load")?;
    args.no_words_after(3)?;
    if let Some(cores) = args.list("cores")? {
        kernel::pin(&cores).map_err(|error| format!("cannot use the cores {cores:?}: {error}"))?;
    }
    kernel::raise_open_files();
    let subject = Subject { pid: args.value("pid")? };
    let measured = match kind {
        "echo" => messages::run(address, &subject, &messages::Plan::parse(args)?),
        other => return Err(format!("there is no load `{other}`")),
    };
    measured.map_err(|error| format!("the load failed: {error}"))?.print();
    Ok(())
}
