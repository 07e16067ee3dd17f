//! Runs one workload: in each round every peer once, in an order that rotates.

use crate::measured::Measured;
use crate::peers::{Peer, foreign};
use crate::process::{self, Load, Places, Server};
use crate::workloads::{BUFFER, Kind, Rate, Workload};

/// How long and how often the workloads run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) time_ms: u64,
    pub(crate) warm_up_ms: u64,
    /// Divides the counts of workloads without a set time: short connections, children, stops.
    pub(crate) divide: usize,
    /// The most connections at a time, because of the limit of open files.
    pub(crate) most: usize,
}

/// Results of one workload with one number of threads: for each peer, one of each round; `None` if it failed.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    pub(crate) workload: Workload,
    pub(crate) threads: usize,
    /// The server and the load generator have the same cores.
    pub(crate) shared: bool,
    pub(crate) peers: Vec<(Peer, Vec<Option<Measured>>)>,
    /// Notes for the reader of the table.
    pub(crate) notes: Vec<String>,
    /// How many runs failed.
    pub(crate) failed: usize,
}

pub(crate) fn run(workload: &Workload, threads: usize, peers: &[Peer], effort: Effort) -> Results {
    let mut results = Results {
        workload: workload.clone(),
        threads,
        shared: workload.kind.has_load() && Places::here(threads).shared(),
        peers: peers.iter().map(|&peer| (peer, vec![None; effort.rounds])).collect(),
        notes: Vec::new(),
        failed: 0,
    };
    let mut run = Run { threads, effort, rate: None };
    if let Err(error) = run.choose_rate(workload.kind) {
        results.notes.push(format!("cannot measure tokio's capacity, and so the rate: {error}"));
        results.failed += 1;
        return results;
    }
    results.notes.extend(run.rate.map(|rate| format!("{rate:.0} messages a second")));
    for round in 0..effort.rounds {
        for turn in 0..peers.len() {
            let (peer, rounds) = &mut results.peers[(round + turn) % peers.len()];
            match run.once(workload.kind, *peer) {
                Ok(measured) => rounds[round] = Some(measured),
                Err(error) => {
                    results.notes.push(format!("{} in round {}: {error}", peer.name(), round + 1));
                    results.failed += 1;
                }
            }
        }
        eprint!(".");
    }
    results
}

/// The settings that are the same for all runs of a workload.
struct Run {
    threads: usize,
    effort: Effort,
    /// Messages a second, if the workload has a rate.
    rate: Option<f64>,
}

impl Run {
    /// Sets the rate, the same for all peers: a share of tokio's capacity, which is the median of three runs.
    fn choose_rate(&mut self, kind: Kind) -> Result<(), String> {
        let Kind::Echo { connections, active, message, buffer, rate } = kind else { return Ok(()) };
        self.rate = match rate {
            None => None,
            Some(Rate::Fixed(rate)) => Some(rate),
            Some(Rate::OfCapacity(share)) => {
                let closed_loop = Kind::Echo { connections, active, message, buffer, rate: None };
                let mut capacity = Vec::new();
                for _ in 0..3 {
                    capacity.push(self.once(closed_loop, Peer::TokioSpawned)?.ops_per_second());
                }
                capacity.sort_by(f64::total_cmp);
                Some(capacity[1] * share)
            }
        };
        Ok(())
    }

    fn once(&self, kind: Kind, peer: Peer) -> Result<Measured, String> {
        let Self { threads, effort, .. } = *self;
        let few = |connections: usize| connections.min(effort.most);
        match kind {
            Kind::Echo { connections, active, message, buffer, rate } => {
                let connections = few(connections);
                let active = active.min(connections);
                let mut what = format!("echo --connections {connections} --active {active} --message {message}");
                what += &format!(" --time {} --warm-up {}", effort.time_ms, effort.warm_up_ms);
                if let (Some(rate), Some(_)) = (self.rate, rate) {
                    // With its own core it need not sleep, and so sends on time.
                    let spin = if Places::here(threads).shared() { "" } else { "--spin" };
                    what += &format!(" --rate {rate} {spin}");
                }
                let server = self.serve(peer, &format!("--buffer {buffer}"))?;
                all_of(connections, Load::start(&server, threads, &what)?.finish()?)
            }
            Kind::Churn { reset, beside } => {
                let count = 6000 / effort.divide;
                let reset = if reset { "--reset" } else { "" };
                let server = self.serve(peer, &format!("--buffer {BUFFER}"))?;
                let what = format!("churn --count {count} --beside {} {reset}", few(beside));
                all_of(count, Load::start(&server, threads, &what)?.finish()?)
            }
            Kind::Http { version, connections, streams } => {
                let server = self.serve(peer, &format!("--http {version}"))?;
                let mut what = format!("http --http {version} --connections {connections} --streams {streams}");
                what += &format!(" --time {} --warm-up {}", effort.time_ms, effort.warm_up_ms);
                all_of(connections, Load::start(&server, threads, &what)?.finish()?)
            }
            Kind::HttpChurn { version } => {
                let count = 6000 / effort.divide;
                let server = self.serve(peer, &format!("--http {version}"))?;
                let what = format!("churn --http {version} --count {count}");
                all_of(count, Load::start(&server, threads, &what)?.finish()?)
            }
            Kind::Tls { connections } => {
                let server = self.serve(peer, &format!("--tls --buffer {BUFFER}"))?;
                let mut what = format!("echo --tls --connections {connections} --message 64");
                what += &format!(" --time {} --warm-up {}", effort.time_ms, effort.warm_up_ms);
                all_of(connections, Load::start(&server, threads, &what)?.finish()?)
            }
            Kind::TlsChurn => {
                let count = 2000 / effort.divide;
                let server = self.serve(peer, &format!("--tls --buffer {BUFFER}"))?;
                all_of(count, Load::start(&server, threads, &format!("churn --tls --count {count}"))?.finish()?)
            }
            Kind::Memory { connections } => self.memory(peer, few(connections)),
            Kind::Stop { how, clients_close, connections, just_spoken } => {
                let close = if clients_close { "--close" } else { "" };
                let speak = if just_spoken { "--speak" } else { "" };
                self.stop(peer, how, &format!("{close} {speak}"), few(connections))
            }
            Kind::StopIdle => process::inside(peer, threads, &format!("stop-idle --count {}", 200 / effort.divide)),
            Kind::Children { from_main } => {
                let from_main = if from_main { "--from-main" } else { "" };
                let count = 1_000_000 / effort.divide;
                all_of(count, process::inside(peer, threads, &format!("children --count {count} {from_main}"))?)
            }
        }
    }

    fn serve(&self, peer: Peer, what: &str) -> Result<Server, String> {
        Server::start(&process::program(peer)?, peer, self.threads, what)
    }

    /// Measures the growth by so many connections, after a hundred others: then the server has what it needs only once.
    fn memory(&self, peer: Peer, connections: usize) -> Result<Measured, String> {
        let program = foreign::twin(foreign::COUNTED).map_err(|error| error.to_string())?;
        let mut server = Server::start(&program, peer, self.threads, &format!("--buffer {BUFFER}"))?;
        let look = |server: &mut Server| -> Result<(u64, u64), String> {
            let counts = !matches!(peer, Peer::Go | Peer::Asyncio);
            Ok((if counts { server.heap()? } else { 0 }, server.memory("VmRSS")?))
        };
        let idle = |server: &Server, connections| -> Result<Load, String> {
            let mut load = Load::start(server, self.threads, &format!("hold --keep --connections {connections}"))?;
            load.ready()?;
            Ok(load)
        };
        let _first = idle(&server, 100)?;
        let before = look(&mut server)?;
        let mut load = idle(&server, connections)?;
        let after = look(&mut server)?;
        load.go_on()?;
        let mut measured = all_of(connections, load.finish()?)?;
        let grown = |before: u64, after: u64| after.saturating_sub(before) / connections as u64;
        measured.heap_bytes = grown(before.0, after.0);
        measured.resident_bytes = grown(before.1, after.1);
        measured.peak_bytes = server.memory("VmHWM")?;
        Ok(measured)
    }

    /// Measures from the request until the server reports that it is closed. Every client must see EOF.
    fn stop(&self, peer: Peer, how: &str, clients: &str, connections: usize) -> Result<Measured, String> {
        let mut server = self.serve(peer, &format!("--buffer {BUFFER}"))?;
        let mut load = Load::start(&server, self.threads, &format!("hold --connections {connections} {clients}"))?;
        load.ready()?;
        let before = server.cpu()?;
        let (took, account) = server.stop(how)?;
        let spent = server.cpu()?.since(before);
        // The server's own report, if it has one: how many connections it had, and how many of those have ended.
        if !account.is_empty() && account != format!("{connections} {connections}") {
            return Err(format!("{connections} connections, but the server reports `{account}`"));
        }
        load.go_on()?;
        let mut measured = all_of(connections, load.finish()?)?;
        measured.set_cpu(spent);
        (measured.wall_ns, measured.p50_ns, measured.p99_ns) = (took, took, took);
        measured.peak_bytes = server.memory("VmHWM")?;
        Ok(measured)
    }
}

/// Checks that every operation was accounted for.
fn all_of(expected: usize, measured: Measured) -> Result<Measured, String> {
    if measured.closed == expected as u64 {
        return Ok(measured);
    }
    Err(format!("{} of {expected} are accounted for", measured.closed))
}
