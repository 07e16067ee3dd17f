//! The table: one row for each workload, number of threads and peer, and warnings about runs that are in doubt.

use crate::measured::Measured;
use crate::peers::Peer;
use crate::rounds::Results;
use crate::stats::Quartiles;
use crate::workloads::{Kind, Measure, Target};
use std::fmt::Write;

pub(crate) const HEAD: &str = "\
| work | threads | server | CPU µs/op | in the kernel | of tokio | of async-std | ops/s | p50 µs | p99 µs | peak MiB | heap (resident) B/conn. | busy server / load | must reach | goal |
|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---|
";

impl Measure {
    pub(crate) fn of(self, measured: &Measured) -> f64 {
        match self {
            Self::Cpu => measured.cpu_us_per_op(),
            Self::P50 => measured.p50_ns as f64 / 1000.0,
            Self::P99 => measured.p99_ns as f64 / 1000.0,
            Self::Wall => measured.wall_ns as f64 / 1000.0,
            Self::Heap => measured.heap_bytes as f64,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Cpu => "",
            Self::P50 => "p50 ",
            Self::P99 => "p99 ",
            Self::Wall => "time ",
            Self::Heap => "heap ",
        }
    }
}

impl Kind {
    /// Returns the measure that the columns with ratios compare.
    pub(crate) fn measure(self) -> Measure {
        match self {
            Self::Echo { .. }
            | Self::Churn { .. }
            | Self::Http { .. }
            | Self::HttpChurn { .. }
            | Self::Children { .. } => Measure::Cpu,
            Self::Memory { .. } => Measure::Heap,
            Self::Stop { .. } => Measure::Wall,
            Self::StopIdle => Measure::P99,
        }
    }
}

impl Results {
    fn rounds(&self, peer: Peer) -> &[Option<Measured>] {
        self.peers.iter().find(|(one, _)| *one == peer).map_or(&[], |(_, rounds)| rounds)
    }

    pub(crate) fn median(&self, peer: Peer, of: impl Fn(&Measured) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.rounds(peer).iter().flatten().map(of).collect();
        Quartiles::of(&values).map(|quartiles| quartiles.median)
    }

    fn ratio(&self, measure: Measure, ours: Peer, theirs: Peer) -> Option<Quartiles> {
        let values = |peer| -> Vec<Option<f64>> {
            self.rounds(peer).iter().map(|round| round.as_ref().map(|measured| measure.of(measured))).collect()
        };
        // A measure that a peer does not have is 0, and gives no ratio.
        Quartiles::of_ratios(&values(ours), &values(theirs)).filter(|ratio| ratio.median > 0.0)
    }

    /// Returns the rows of this workload.
    pub(crate) fn lines(&self) -> String {
        self.peers.iter().map(|&(peer, _)| self.line(peer)).collect()
    }

    fn line(&self, peer: Peer) -> String {
        let median = |of: &dyn Fn(&Measured) -> f64, digits| number(self.median(peer, of).filter(|&v| v > 0.0), digits);
        let measure = self.workload.kind.measure();
        let share = |theirs| match self.ratio(measure, peer, theirs) {
            Some(ratio) if peer != theirs => format!("{:.2} [{:.2}–{:.2}]", ratio.median, ratio.lower, ratio.upper),
            _ => "–".to_owned(),
        };
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
            share(Peer::Tokio),
            share(Peer::AsyncStd),
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

    fn verdicts(&self) -> (String, String) {
        let (mut must, mut goal) = (Vec::new(), Vec::new());
        for target in &self.workload.targets {
            let measured = match target.against {
                Some(peer) => self.ratio(target.measure, Peer::Ebbtide, peer),
                None => {
                    let rounds = self.rounds(Peer::Ebbtide).iter().flatten();
                    Quartiles::of(&rounds.map(|measured| target.measure.of(measured)).collect::<Vec<_>>())
                }
            };
            must.extend(target.must.map(|limit| verdict(target, limit, measured.map(|quartiles| quartiles.upper))));
            goal.extend(target.goal.map(|limit| verdict(target, limit, measured.map(|quartiles| quartiles.median))));
        }
        (must.join("<br>"), goal.join("<br>"))
    }

    /// Returns the reasons to doubt these results.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let closed_loop = matches!(
            self.workload.kind,
            Kind::Echo { rate: None, .. } | Kind::Churn { .. } | Kind::Http { .. } | Kind::HttpChurn { .. }
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

    /// Returns in how many runs something else used the load generator's core, and how many runs there are. If the load
    /// generator shares cores with the server, this may be the server.
    pub(crate) fn disturbed(&self) -> (usize, usize) {
        let runs = || self.peers.iter().flat_map(|(_, rounds)| rounds.iter().flatten());
        (runs().filter(|measured| share(measured.waited_ns, measured) > 0.05).count(), runs().count())
    }
}

fn share(part: u64, measured: &Measured) -> f64 {
    part as f64 / measured.wall_ns.max(1) as f64
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

/// Returns the text of a mark: its limit, the measured value, and whether the limit is kept.
fn verdict(target: &Target, limit: f64, measured: Option<f64>) -> String {
    let mut text = match target.against {
        Some(peer) => format!("{}≤ {limit:.2} of {}: ", target.measure.label(), peer.name()),
        None => format!("{}≤ {limit:.0} µs: ", target.measure.label()),
    };
    let _ = match measured {
        None => write!(text, "not measured"),
        Some(value) => write!(text, "{value:.2} {}", if value <= limit { "✓" } else { "✗" }),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads;

    fn results(ebbtide: [u64; 3], tokio: [u64; 3]) -> Results {
        let workload = workloads::all().into_iter().find(|workload| workload.name == "echo64x1").unwrap();
        let rounds = |costs: [u64; 3]| {
            let measured = |cpu_ns| Measured { ops: 1000, cpu_ns, wall_ns: 1_000_000_000, ..Measured::default() };
            costs.map(|cost| Some(measured(cost * 1_000_000))).to_vec()
        };
        let peers = vec![(Peer::Ebbtide, rounds(ebbtide)), (Peer::Tokio, rounds(tokio))];
        Results { workload, threads: 1, peers, notes: Vec::new(), failed: 0 }
    }

    #[test]
    fn the_upper_quartile_must_and_the_median_should() {
        let (must, goal) = results([80, 80, 130], [100, 100, 100]).verdicts();
        assert_eq!(must, "≤ 1.00 of tokio: 1.05 ✗");
        assert_eq!(goal, "≤ 0.90 of tokio: 0.80 ✓");
    }

    #[test]
    fn every_line_has_as_many_cells_as_the_head() {
        let cells = |line: &str| line.matches('|').count();
        let results = results([80, 80, 130], [100, 100, 100]);
        for line in HEAD.lines().chain(results.lines().lines()) {
            assert_eq!(cells(line), cells(HEAD.lines().next().unwrap()), "{line}");
        }
        assert!(results.lines().contains("| 80.00 |"));
    }

    #[test]
    fn a_saturated_load_generator_is_reported() {
        let mut results = results([80, 80, 80], [100, 100, 100]);
        results.peers[0].1[0].as_mut().unwrap().load_ns = 990_000_000;
        assert_eq!(results.warnings(), ["the load generator was the bottleneck: ebbtide (1 of 3)"]);
    }
}
