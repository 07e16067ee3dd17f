//! The workloads: what each does, which peers take part, and the marks that ebbtide must reach.

use crate::http::Version;
use crate::peers::Peer::{
    self, AsyncIo, AsyncStd, Asyncio, Ebbtide, EbbtideOnSmol, EbbtideOnTokio, EbbtideUntil, Epoll, Go, JoinSet, Smol,
    Tide, Tokio,
};

/// Work of a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Echo of messages over open connections; closed-loop if there is no rate.
    Echo { connections: usize, active: usize, message: usize, buffer: usize, rate: Option<Rate> },
    /// Short connections with one byte each way, `beside` others that are idle.
    Churn { reset: bool, beside: usize },
    /// HTTP requests over open connections; each stream sends the next when the last is answered.
    Http { version: Version, connections: usize, streams: usize },
    /// Connections with one HTTP request each.
    HttpChurn { version: Version },
    /// Memory of idle connections.
    Memory { connections: usize },
    /// Stop of a server with so many idle connections: from the request until it is closed.
    Stop { how: &'static str, clients_close: bool, connections: usize },
    /// Stop of a server without connections, many times.
    StopIdle,
    /// Children of a group, spawned by a child or by the main thread, and joined.
    Children { from_main: bool },
}

/// Rate of an open loop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rate {
    /// Messages a second.
    Fixed(f64),
    /// Share of the messages that tokio does closed-loop with as many connections.
    OfCapacity(f64),
}

/// Quantity of a run that is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Measure {
    /// Processor time of the server for each operation.
    Cpu,
    P50,
    P99,
    /// Time from beginning to end.
    Wall,
    /// Live bytes of heap for each connection.
    Heap,
}

/// A mark: the most that ebbtide's measure may be, as a share of a peer's in the same round, or in microseconds if
/// there is no peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) measure: Measure,
    pub(crate) against: Option<Peer>,
    /// The limit of the upper quartile.
    pub(crate) must: Option<f64>,
    /// The limit of the median.
    pub(crate) goal: Option<f64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) peers: &'static [Peer],
    /// The numbers of worker threads.
    pub(crate) threads: &'static [usize],
    pub(crate) targets: Vec<Target>,
}

/// All servers.
const SERVERS: &[Peer] = &[Ebbtide, EbbtideUntil, Tokio, AsyncStd, Epoll, Smol, Asyncio, Go];
/// The same, and ebbtide on other executors.
const EXECUTORS: &[Peer] =
    &[Ebbtide, EbbtideUntil, EbbtideOnTokio, EbbtideOnSmol, Tokio, AsyncStd, Epoll, Smol, Asyncio, Go];
/// The servers that the marks compare.
const JUDGED: &[Peer] = &[Ebbtide, EbbtideUntil, Tokio, AsyncStd, Epoll];
/// The same and the platform's floor: for workloads in which every message is waited for.
const WAITING: &[Peer] = &[Ebbtide, EbbtideUntil, Tokio, AsyncStd, AsyncIo, Epoll];
/// The servers of HTTP/2, and those of HTTP/1.
const HTTP2: &[Peer] = &[Ebbtide, Tokio, AsyncStd];
const HTTP1: &[Peer] = &[Ebbtide, Tokio, AsyncStd, Tide];
/// The servers that can be stopped.
const STOPPED: &[Peer] = &[Ebbtide, Tokio];
/// The task groups.
const GROUPS: &[Peer] = &[Ebbtide, EbbtideOnTokio, EbbtideOnSmol, Tokio, JoinSet, AsyncStd];

const ONE: &[usize] = &[1];
const BOTH: &[usize] = &[1, 2];

/// The numbers of connections in the rows that show how costs grow.
pub(crate) const GROWTH: [usize; 4] = [10, 100, 1000, 10_000];

fn target(measure: Measure, against: Peer, must: impl Into<Option<f64>>, goal: impl Into<Option<f64>>) -> Target {
    Target { measure, against: Some(against), must: must.into(), goal: goal.into() }
}

pub(crate) fn all() -> Vec<Workload> {
    let mut all = Vec::new();
    all.extend([1, 10, 64, 100, 1000, 10_000].map(echo64));
    all.extend([0.3, 0.6].map(open_loop));
    all.extend([transfer("64KiBx16", 16, 65_536, 1024), transfer("1MiBx4", 4, 1 << 20, 1024)]);
    all.push(transfer("1MiBx4-large-buffer", 4, 1 << 20, 65_536));
    all.extend(
        [("connect-close", false), ("connect-reset", true)].map(|(name, reset)| churn(name.to_owned(), reset, 0)),
    );
    all.extend(GROWTH.map(|beside| churn(format!("connect-close-beside-{beside}"), false, beside)));
    all.extend([100, 1000, 10_000].map(memory));
    for how in ["shutdown", "cancel", "drop"] {
        all.extend([true, false].map(|clients_close| stop(how, clients_close, 10_000)));
    }
    all.extend([10, 100, 1000].map(|connections| stop("shutdown", true, connections)));
    all.push(stop_idle());
    all.extend([false, true].map(children));
    all.extend(sparse());
    all.extend(http());
    all
}

fn echo(connections: usize, active: usize, message: usize, buffer: usize, rate: Option<Rate>) -> Kind {
    Kind::Echo { connections, active, message, buffer, rate }
}

fn echo64(connections: usize) -> Workload {
    let targets = match connections {
        1 => vec![target(Measure::Cpu, Tokio, 1.00, 0.90)],
        _ => vec![
            target(Measure::Cpu, Tokio, 1.00, 0.95),
            target(Measure::Cpu, AsyncStd, 0.80, None),
            target(Measure::Cpu, Epoll, None, 1.02),
        ],
    };
    Workload {
        name: format!("echo64x{connections}"),
        kind: echo(connections, connections, 64, 1024, None),
        peers: match connections {
            1 => WAITING,
            64 => EXECUTORS,
            1000 | 10_000 => SERVERS,
            _ => JUDGED,
        },
        threads: if matches!(connections, 1 | 64 | 1000) { BOTH } else { ONE },
        targets,
    }
}

fn open_loop(share: f64) -> Workload {
    Workload {
        name: format!("open-loop-{:.0}%", share * 100.0),
        kind: echo(64, 64, 64, 1024, Some(Rate::OfCapacity(share))),
        peers: WAITING,
        threads: BOTH,
        targets: [Measure::Cpu, Measure::P50, Measure::P99].map(|one| target(one, Tokio, 1.05, 1.00)).into(),
    }
}

fn transfer(name: &str, connections: usize, message: usize, buffer: usize) -> Workload {
    Workload {
        name: name.to_owned(),
        kind: echo(connections, connections, message, buffer, None),
        peers: JUDGED,
        threads: ONE,
        targets: [Tokio, AsyncStd].map(|peer| target(Measure::Cpu, peer, 1.00, None)).into(),
    }
}

fn churn(name: String, reset: bool, beside: usize) -> Workload {
    Workload {
        name,
        kind: Kind::Churn { reset, beside },
        peers: match (beside, reset) {
            (0, false) => EXECUTORS,
            (0, true) => SERVERS,
            _ => JUDGED,
        },
        threads: if beside == 0 { BOTH } else { ONE },
        targets: vec![target(Measure::Cpu, Tokio, 1.00, 0.90)],
    }
}

fn memory(connections: usize) -> Workload {
    let targets = vec![target(Measure::Heap, Tokio, 0.65, None), target(Measure::Heap, AsyncStd, None, 1.00)];
    Workload {
        name: format!("memory-of-{connections}"),
        kind: Kind::Memory { connections },
        peers: if connections == 10_000 { SERVERS } else { JUDGED },
        threads: ONE,
        targets,
    }
}

fn stop(how: &'static str, clients_close: bool, connections: usize) -> Workload {
    let clients = if clients_close { "close" } else { "stay" };
    Workload {
        name: format!("{how}-of-{connections}-clients-{clients}"),
        kind: Kind::Stop { how, clients_close, connections },
        peers: STOPPED,
        threads: if connections == 10_000 { BOTH } else { ONE },
        targets: vec![target(Measure::Wall, Tokio, 1.5, 1.00)],
    }
}

fn stop_idle() -> Workload {
    let limit = Target { measure: Measure::P99, against: None, must: Some(1000.0), goal: None };
    Workload {
        name: "stop-of-idle".to_owned(),
        kind: Kind::StopIdle,
        peers: STOPPED,
        threads: BOTH,
        targets: vec![limit],
    }
}

fn children(from_main: bool) -> Workload {
    Workload {
        name: format!("children-of-{}", if from_main { "main" } else { "a-task" }),
        kind: Kind::Children { from_main },
        peers: GROUPS,
        threads: if from_main { ONE } else { BOTH },
        targets: vec![target(Measure::Cpu, AsyncStd, 1.3, None), target(Measure::Cpu, JoinSet, None, 1.00)],
    }
}

fn sparse() -> [Workload; 3] {
    let one = |name: &str, kind, peers| Workload {
        name: name.to_owned(),
        kind,
        peers,
        threads: ONE,
        targets: vec![target(Measure::Cpu, Tokio, 1.05, 1.00)],
    };
    [
        one("1%-of-10000-active", echo(10_000, 100, 64, 1024, None), JUDGED),
        one("10000-once-a-second", echo(10_000, 10_000, 64, 1024, Some(Rate::Fixed(10_000.0))), WAITING),
        one("one-busy-beside-999", echo(1000, 1, 64, 1024, None), WAITING),
    ]
}

fn http() -> [Workload; 4] {
    let one = |name: &str, kind, peers| Workload {
        name: name.to_owned(),
        kind,
        peers,
        threads: ONE,
        targets: vec![target(Measure::Cpu, AsyncStd, 1.00, None)],
    };
    let (http1, http2) = (Version::Http1, Version::Http2);
    [
        one("http1x64", Kind::Http { version: http1, connections: 64, streams: 1 }, HTTP1),
        one("http1-close", Kind::HttpChurn { version: http1 }, HTTP1),
        one("http2x8x16", Kind::Http { version: http2, connections: 8, streams: 16 }, HTTP2),
        one("http2-close", Kind::HttpChurn { version: http2 }, HTTP2),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_the_command_line() {
        let mut names: Vec<String> = all().into_iter().map(|workload| workload.name).collect();
        assert!(names.iter().all(|name| !name.contains([',', ' ', '|'])));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_peer_of_every_mark_is_measured() {
        for workload in all() {
            assert!(workload.peers.contains(&Ebbtide));
            for target in &workload.targets {
                assert!(target.against.is_none_or(|peer| workload.peers.contains(&peer)), "{}", workload.name);
            }
        }
    }
}
