//! Workloads without a client: children of a group, and the stop of an idle server. The process measures itself.

mod children;
mod stop_idle;

use crate::args::Args;
use crate::kernel::{self, Cpu};
use crate::measured::{Measured, nanos};
use crate::peers::{self, Peer};
use std::time::{Duration, Instant};

pub(crate) const OPTIONS: &[&str] = &["threads", "cores", "count"];
pub(crate) const FLAGS: &[&str] = &["from-main"];

/// Runs `inside PEER KIND`: does the work, and prints what it measured.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let peer: Peer = args.word(1, "the peer")?.parse()?;
    let kind = args.word(2, "what is to be done")?;
    args.no_words_after(3)?;
    let threads = args.value_or("threads", 1)?;
    peers::prepare(peer, threads, args)?;
    let measured = match kind {
        "children" => children::run(peer, threads, args.value_or("count", 1_000_000)?, args.flag("from-main")),
        "stop-idle" => stop_idle::run(peer, threads, args.value_or("count", 200)?),
        other => Err(format!("there is no `{other}` to be done")),
    };
    measured?.print();
    Ok(())
}

/// The state of this process' clocks when a measurement begins.
struct Account {
    /// Processor time of all threads, those that have ended included.
    cpu: Duration,
    /// The same in ticks, for the split into user and system time.
    coarse: Cpu,
    at: Instant,
}

/// The end of a measurement: how many operations were done, and how long they took.
struct Done {
    account: Account,
    ops: usize,
    wall: Duration,
}

impl Account {
    fn begin() -> Self {
        let coarse = Cpu::of(std::process::id()).unwrap_or_default();
        Self { coarse, cpu: kernel::own_cpu(), at: Instant::now() }
    }

    fn done(self, ops: usize) -> Done {
        Done { wall: self.at.elapsed(), ops, account: self }
    }
}

impl Done {
    /// Returns the cost of the work. Work that it has left to other threads counts too: the measurement ends when they
    /// are quiet.
    fn measure(self) -> Measured {
        let mut cpu = kernel::own_cpu();
        loop {
            std::thread::sleep(Duration::from_millis(5));
            let now = kernel::own_cpu();
            if now - cpu < Duration::from_micros(200) {
                break;
            }
            cpu = now;
        }
        let id = std::process::id();
        let coarse = Cpu::of(id).unwrap_or_default().since(self.account.coarse);
        Measured {
            ops: self.ops as u64,
            wall_ns: nanos(self.wall),
            // The clock of the process includes threads that have ended.
            cpu_ns: nanos(cpu - self.account.cpu),
            user_ns: coarse.user_ns,
            system_ns: coarse.system_ns,
            queued_ns: coarse.queued_ns,
            peak_bytes: kernel::memory(id, "VmHWM").unwrap_or(0),
            closed: self.ops as u64,
            ..Measured::default()
        }
    }
}
