//! The workloads: what each does, which peers take part, and the marks that ebbtide must reach.

mod list;

use crate::http::Version;
use crate::peers::Peer;
pub(crate) use list::all;

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
    /// Echo of 64 bytes over open connections with TLS, closed-loop.
    Tls { connections: usize },
    /// Short connections with a TLS handshake and one byte each way.
    TlsChurn,
    /// Memory of idle connections.
    Memory { connections: usize },
    /// Stop of a server with so many connections: from the request until it is closed. They have been idle since they
    /// were opened, or all have `just_spoken`.
    Stop { how: &'static str, clients_close: bool, connections: usize, just_spoken: bool },
    /// Stop of a server without connections, many times.
    StopIdle,
    /// Children of a group, spawned by a child or by the main thread, and joined.
    Children { from_main: bool },
}

impl Kind {
    /// Returns whether a load generator works while this is measured.
    pub(crate) fn has_load(self) -> bool {
        !matches!(self, Self::StopIdle | Self::Children { .. })
    }
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
    /// The same without the handler's buffer.
    HeapApart,
}

/// What a mark compares with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Against {
    /// The better of these forms of a peer: the one with the lowest median of the measure, of those that took part.
    Better(&'static [Peer]),
    /// Nothing: the limit is absolute.
    Nothing,
}

/// A mark: the most that ebbtide's measure may be, as a share of a peer's in the same round, or in the measure's unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) measure: Measure,
    pub(crate) against: Against,
    /// The limit of the upper quartile.
    pub(crate) must: Option<f64>,
    /// The limit of the median.
    pub(crate) goal: Option<f64>,
    /// The only number of worker threads for which it is a mark; `None`: each.
    pub(crate) threads: Option<usize>,
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

/// The length of a handler's buffer, except in the workload with a large one.
pub(crate) const BUFFER: usize = 1024;

/// The numbers of connections in the rows that show how costs grow.
pub(crate) const GROWTH: [usize; 4] = [10, 100, 1000, 10_000];
