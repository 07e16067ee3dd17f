//! What needs no client: children of a group, and the stop of an idle server. The process measures itself.

mod children;
mod stop_idle;

use crate::args::Args;
use crate::kernel::{self, Cpu};
use crate::measured::{Measured, nanos};
use crate::peers::{self, Peer};
use std::time::Instant;

pub(crate) const OPTIONS: &[&str] = &["threads", "cores", "count"];
pub(crate) const FLAGS: &[&str] = &["from-main"];

/// `inside PEER KIND`: does it, prints what it measured.
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

/// An account of this process.
struct Account {
    cpu: std::time::Duration,
    coarse: Cpu,
    at: Instant,
}

impl Account {
    fn begin() -> Self {
        let coarse = Cpu::of(std::process::id()).unwrap_or_default();
        Self { coarse, cpu: kernel::own_cpu(), at: Instant::now() }
    }

    fn end(&self, ops: usize) -> Measured {
        let (wall_ns, cpu_ns) = (nanos(self.at.elapsed()), nanos(kernel::own_cpu() - self.cpu));
        let id = std::process::id();
        // The process's own clock knows of threads that have ended too.
        let mut spent = Cpu::of(id).unwrap_or_default().since(self.coarse);
        spent.exact_ns = cpu_ns;
        let peak_bytes = kernel::memory(id, "VmHWM").unwrap_or(0);
        let mut measured = Measured { ops: ops as u64, wall_ns, peak_bytes, closed: ops as u64, ..Measured::default() };
        measured.set_cpu(spent);
        measured
    }
}
