//! The load generator: a process of its own, with a plain epoll loop.

mod churn;
mod conn;
mod hold;
mod messages;
mod poll;

use crate::args::Args;
use crate::kernel::{self, Cpu};
use crate::measured::{Measured, nanos};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) const OPTIONS: &[&str] =
    &["cores", "pid", "connections", "active", "message", "warm-up", "time", "rate", "count", "at-a-time", "beside"];
pub(crate) const FLAGS: &[&str] = &["spin", "reset", "close", "keep"];

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
    waited: u64,
}

/// The last operation is over.
pub(crate) struct End {
    at: Instant,
    own: Duration,
    waited: u64,
}

impl End {
    fn now() -> Self {
        Self { at: Instant::now(), own: kernel::own_cpu(), waited: kernel::own_waits() }
    }
}

impl Subject {
    /// Both sides must be quiet, so that the scheduler's books are up to date.
    fn begin(&self) -> io::Result<Begin> {
        std::thread::sleep(QUIET);
        let server = self.pid.map_or(Ok(Cpu::default()), Cpu::of)?;
        Ok(Begin { server, own: kernel::own_cpu(), waited: kernel::own_waits(), at: Instant::now() })
    }

    /// The server's part goes on until now, ours ended with the last operation.
    fn end(&self, begin: &Begin, end: &End, ops: u64) -> io::Result<Measured> {
        let mut measured = Measured {
            ops,
            wall_ns: nanos(end.at - begin.at),
            load_ns: nanos(end.own - begin.own),
            waited_ns: end.waited - begin.waited,
            ..Measured::default()
        };
        if let Some(pid) = self.pid {
            std::thread::sleep(QUIET);
            measured.set_cpu(Cpu::of(pid)?.since(begin.server));
            measured.peak_bytes = kernel::memory(pid, "VmHWM")?;
        }
        Ok(measured)
    }

    /// Waits until the server has as many sockets as `before`: it has seen the end of all connections that came since.
    fn wait_until_closed(&self, before: usize) -> io::Result<()> {
        let Some(pid) = self.pid else { return Ok(()) };
        let net = Instant::now() + NET;
        while kernel::open_sockets(pid)? > before {
            in_time(net)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn open_sockets(&self) -> io::Result<usize> {
        self.pid.map_or(Ok(0), kernel::open_sockets)
    }
}

fn in_time(net: Instant) -> io::Result<()> {
    if Instant::now() < net {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not answer"))
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
        "churn" => churn::run(address, &subject, &churn::Plan::parse(args)?),
        "hold" => hold::run(address, &hold::Plan::parse(args)?),
        other => return Err(format!("there is no load `{other}`")),
    };
    measured.map_err(|error| format!("the load failed: {error}"))?.print();
    Ok(())
}
