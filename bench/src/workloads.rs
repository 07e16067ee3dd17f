//! What is measured, by which peers, and what ebbtide has to reach.

use crate::peers::Peer::{self, AsyncStd, Asyncio, Ebbtide, Epoll, Go, Smol, Tokio};

/// What the server is made to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Messages there and back over connections that stay, closed-loop.
    Echo { connections: usize, active: usize, message: usize, buffer: usize },
}

/// What of a run is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Measure {
    /// Processor time of the server for each operation.
    Cpu,
    P50,
    P99,
}

/// What ebbtide's measure may be at most, as a share of that peer's in the same round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) measure: Measure,
    pub(crate) against: Peer,
    /// For the upper quartile.
    pub(crate) must: Option<f64>,
    /// For the median.
    pub(crate) goal: Option<f64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) peers: &'static [Peer],
    /// With how many worker threads.
    pub(crate) threads: &'static [usize],
    pub(crate) targets: Vec<Target>,
}

/// Those that the targets speak of.
const JUDGED: &[Peer] = &[Ebbtide, Tokio, AsyncStd, Epoll];
const ALL: &[Peer] = &[Ebbtide, Tokio, AsyncStd, Epoll, Smol, Asyncio, Go];

fn cpu(against: Peer, must: Option<f64>, goal: Option<f64>) -> Target {
    Target { measure: Measure::Cpu, against, must, goal }
}

fn echo64(name: &'static str, connections: usize) -> Workload {
    let targets = match connections {
        1 => vec![cpu(Tokio, Some(1.00), Some(0.90))],
        _ => {
            vec![cpu(Tokio, Some(1.00), Some(0.95)), cpu(AsyncStd, Some(0.80), None), cpu(Epoll, None, Some(1.02))]
        }
    };
    Workload {
        name,
        kind: Kind::Echo { connections, active: connections, message: 64, buffer: 1024 },
        peers: if matches!(connections, 64 | 1000 | 10_000) { ALL } else { JUDGED },
        threads: &[1, 2],
        targets,
    }
}

pub(crate) fn all() -> Vec<Workload> {
    vec![
        echo64("echo64x1", 1),
        echo64("echo64x10", 10),
        echo64("echo64x64", 64),
        echo64("echo64x100", 100),
        echo64("echo64x1000", 1000),
        echo64("echo64x10000", 10_000),
    ]
}
