//! The table: one row for each workload, number of threads and peer, and warnings about runs that are in doubt.

use crate::measured::Measured;
use crate::peers::Peer;
use crate::rounds::Results;
use crate::workloads::{Kind, Measure};

pub(crate) const HEAD: &str = "\
| work | threads | server | CPU µs/op | in the kernel | of tokio | of async-std | ops/s | p50 µs | p99 µs | peak MiB | heap (resident) B/conn. | busy server / load | queued | must reach | goal |
|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---|
";

impl Results {
    /// Returns the rows of this workload.
    pub(crate) fn lines(&self) -> String {
        self.peers.iter().map(|&(peer, _)| self.line(peer)).collect()
    }

    fn line(&self, peer: Peer) -> String {
        let median = |of: &dyn Fn(&Measured) -> f64, digits| number(self.median(peer, of).filter(|&v| v > 0.0), digits);
        let percent = |part: &dyn Fn(&Measured) -> u64, whole: &dyn Fn(&Measured) -> u64| {
            median(&|measured| 100.0 * part(measured) as f64 / whole(measured).max(1) as f64, 0)
        };
        let (must, goal) = if peer == Peer::Ebbtide { self.verdicts() } else { Default::default() };
        let cells = [
            self.workload.name.clone(),
            self.threads.to_string(),
            peer.name().to_owned(),
            median(&Measured::cpu_us_per_op, 2),
            percent(&|measured| measured.system_ns, &|measured| measured.user_ns + measured.system_ns) + " %",
            self.compared(peer, Peer::TOKIO),
            self.compared(peer, Peer::ASYNC_STD),
            median(&|measured| if measured.wall_ns > 0 { measured.ops_per_second() } else { 0.0 }, 0),
            median(&|measured| Measure::P50.of(measured), 1),
            median(&|measured| Measure::P99.of(measured), 1),
            median(&|measured| measured.peak_bytes as f64 / f64::from(1 << 20), 1),
            self.bytes(peer),
            format!(
                "{} / {} %",
                percent(&|measured| measured.cpu_ns, &|measured| measured.wall_ns),
                percent(&|measured| measured.load_ns, &|measured| measured.wall_ns)
            ),
            percent(&|measured| measured.queued_ns, &|measured| measured.wall_ns) + " %",
            must,
            goal,
        ];
        format!("| {} |\n", cells.join(" | "))
    }

    fn bytes(&self, peer: Peer) -> String {
        if !matches!(self.workload.kind, Kind::Memory { .. }) {
            return "–".to_owned();
        }
        let heap = self.median(peer, |measured| measured.heap_bytes as f64).filter(|&bytes| bytes > 0.0);
        format!("{} ({})", number(heap, 0), number(self.median(peer, |measured| measured.resident_bytes as f64), 0))
    }

    /// Returns the reasons to doubt these results.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let closed_loop = matches!(
            self.workload.kind,
            Kind::Echo { rate: None, .. }
                | Kind::Churn { .. }
                | Kind::Http { .. }
                | Kind::HttpChurn { .. }
                | Kind::Tls { .. }
                | Kind::TlsChurn
        );
        let saturated = |measured: &Measured| {
            closed_loop
                && share(measured.load_ns, measured) > 0.95
                && share(measured.cpu_ns, measured) < 0.9 * self.threads as f64
        };
        let mut warnings = self.notes.clone();
        warnings.extend(self.warning("the load generator was the bottleneck", saturated));
        warnings
            .extend(self.warning("messages were sent more than 0.2 ms late", |measured| measured.late_ns > 200_000));
        warnings.extend(self.queued_too_long());
        warnings.extend(self.warning("only the coarse account of processor time", |measured| measured.doubtful > 0));
        warnings
    }

    fn warning(&self, what: &str, is: impl Fn(&Measured) -> bool) -> Option<String> {
        let count = |(peer, rounds): &(Peer, Vec<Option<Measured>>)| {
            let count = rounds.iter().flatten().filter(|measured| is(measured)).count();
            (count > 0).then(|| format!("{} ({count} of {})", peer.name(), rounds.len()))
        };
        let peers: Vec<String> = self.peers.iter().filter_map(count).collect();
        (!peers.is_empty()).then(|| format!("{what}: {}", peers.join(", ")))
    }

    /// Names the runs in which the server waited for a core much longer than in the peer's other rounds. What is usual
    /// differs between peers: the threads of a server may wait for each other.
    fn queued_too_long(&self) -> Option<String> {
        let mut named = Vec::new();
        for (peer, rounds) in &self.peers {
            let queued = |measured: &Measured| share(measured.queued_ns, measured);
            let Some(usual) = self.median(*peer, queued) else { continue };
            for (index, measured) in rounds.iter().enumerate() {
                if measured.as_ref().is_some_and(|measured| queued(measured) > usual + QUEUED) {
                    named.push(format!("{} (round {})", peer.name(), index + 1));
                }
            }
        }
        let what = "the server waited for a core for a tenth of the time more than usual";
        (!named.is_empty()).then(|| format!("{what}: {}", named.join(", ")))
    }

    /// Returns in how many runs something else used the load generator's core, and how many runs there are. If the load
    /// generator shares cores with the server, this may be the server.
    pub(crate) fn disturbed(&self) -> (usize, usize) {
        let runs = || self.peers.iter().flat_map(|(_, rounds)| rounds.iter().flatten());
        (runs().filter(|measured| share(measured.waited_ns, measured) > 0.05).count(), runs().count())
    }
}

/// A run is named if its server was in the run queue for so much more of the time than in the median.
const QUEUED: f64 = 0.1;

fn share(part: u64, measured: &Measured) -> f64 {
    part as f64 / measured.wall_ns.max(1) as f64
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::workloads;

    /// Results of three rounds in which each message cost these microseconds.
    pub(crate) fn results(name: &str, costs: &[(Peer, [u64; 3])]) -> Results {
        let workload = workloads::all().into_iter().find(|workload| workload.name == name).unwrap();
        let rounds = |costs: [u64; 3]| {
            let measured = |cpu_ns| Measured { ops: 1000, cpu_ns, wall_ns: 1_000_000_000, ..Measured::default() };
            costs.map(|cost| Some(measured(cost * 1_000_000))).to_vec()
        };
        let peers = costs.iter().map(|&(peer, costs)| (peer, rounds(costs))).collect();
        Results { workload, threads: 1, shared: false, peers, notes: Vec::new(), failed: 0 }
    }

    #[test]
    fn every_line_has_as_many_cells_as_the_head() {
        let cells = |line: &str| line.matches('|').count();
        let results = results("echo64x1", &[(Peer::Ebbtide, [80, 80, 130]), (Peer::Tokio, [100, 100, 100])]);
        for line in HEAD.lines().chain(results.lines().lines()) {
            assert_eq!(cells(line), cells(HEAD.lines().next().unwrap()), "{line}");
        }
        assert!(results.lines().contains("| 80.00 |"));
    }

    #[test]
    fn a_saturated_load_generator_is_reported() {
        let mut results = results("echo64x1", &[(Peer::Ebbtide, [80, 80, 80]), (Peer::Tokio, [100, 100, 100])]);
        results.peers[0].1[0].as_mut().unwrap().load_ns = 990_000_000;
        assert_eq!(results.warnings(), ["the load generator was the bottleneck: ebbtide (1 of 3)"]);
    }

    #[test]
    fn a_run_whose_server_waited_for_a_core_is_named() {
        let mut results = results("echo64x1", &[(Peer::Ebbtide, [80, 80, 80]), (Peer::Tokio, [100, 100, 100])]);
        results.peers[1].1[2].as_mut().unwrap().queued_ns = 900_000_000;
        let [warning] = &results.warnings()[..] else { panic!("one warning") };
        assert!(warning.ends_with("tokio (round 3)"), "{warning}");
    }
}
