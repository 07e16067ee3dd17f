//! The load generator: a process of its own with one thread and a plain epoll loop.
//!
//! `messages` sends messages, `http` requests; `churn` opens and closes connections, `hold` keeps idle ones open.
//! `lost` counts what a shutdown loses; it is a thread of the program `lost_requests`.

mod churn;
mod conn;
mod hold;
mod http;
pub(crate) mod lost;
mod messages;
mod poll;

use crate::args::Args;
use crate::kernel::{self, Cpu};
use crate::measured::{Measured, nanos};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) const OPTIONS: &[&str] = &[
    "cores",
    "pid",
    "connections",
    "active",
    "message",
    "warm-up",
    "time",
    "rate",
    "count",
    "at-a-time",
    "beside",
    "http",
    "streams",
];
pub(crate) const FLAGS: &[&str] = &["spin", "reset", "close", "keep", "speak", "tls"];

/// Safety net: the longest time to wait for a server. A longer wait is a bug.
const NET: Duration = Duration::from_secs(30);

/// The server process that is measured.
pub(crate) struct Subject {
    /// `None` if only the load generator is measured.
    pid: Option<u32>,
}

/// The state of all clocks when a measurement begins.
pub(crate) struct Begin {
    at: Instant,
    /// Processor time of the server.
    server: Cpu,
    /// Processor time of the load generator.
    own: Duration,
    /// How long the load generator was ready and had no core, in nanoseconds.
    waited: u64,
}

/// The state of the load generator's clocks after the last operation.
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
    /// Begins a measurement. Both sides must be quiet, so that the scheduler's counters are up to date.
    fn begin(&self) -> io::Result<Begin> {
        std::thread::sleep(QUIET);
        let server = self.pid.map_or(Ok(Cpu::default()), Cpu::of)?;
        Ok(Begin { server, own: kernel::own_cpu(), waited: kernel::own_waits(), at: Instant::now() })
    }

    /// Ends a measurement: the server's part now, the load generator's with the last operation.
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

    /// Waits until the server has as many sockets as `before`: it has closed all later connections.
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

/// Time in which a server's threads run out of work and go to sleep.
const QUIET: Duration = Duration::from_millis(3);

/// Runs `load ADDRESS KIND`: does the work, checks the answers, and prints what it measured.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let address: SocketAddr = args.word(1, "the address")?.parse().map_err(|_| "the address is not `IP:PORT`")?;
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
        "http" => http::run(address, &subject, &http::Plan::parse(args)?),
        "hold" => hold::run(address, &hold::Plan::parse(args)?),
        other => return Err(format!("there is no load `{other}`")),
    };
    measured.map_err(|error| format!("the load failed: {error}"))?.print();
    Ok(())
}
