//! The table: a line for each workload, number of threads and peer.

use crate::measured::Measured;
use crate::peers::Peer;
use crate::rounds::Results;
use crate::stats::Quartiles;
use crate::workloads::{Measure, Target};
use std::fmt::Write;

pub(crate) const HEAD: &str = "\
| work | threads | server | CPU µs/op | of tokio | of async-std | ops/s | p50 µs | p99 µs | peak MiB | busy server/load | must reach | goal |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

impl Measure {
    fn of(self, measured: &Measured) -> f64 {
        match self {
            Self::Cpu => measured.cpu_us_per_op(),
            Self::P50 => measured.p50_ns as f64 / 1000.0,
            Self::P99 => measured.p99_ns as f64 / 1000.0,
        }
    }
}

impl Results {
    fn rounds(&self, peer: Peer) -> &[Option<Measured>] {
        self.peers.iter().find(|(one, _)| *one == peer).map_or(&[], |(_, rounds)| rounds)
    }

    fn median(&self, peer: Peer, of: impl Fn(&Measured) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.rounds(peer).iter().flatten().map(of).collect();
        Quartiles::of(&values).map(|quartiles| quartiles.median)
    }

    fn ratio(&self, measure: Measure, ours: Peer, theirs: Peer) -> Option<Quartiles> {
        let values = |peer| -> Vec<Option<f64>> {
            self.rounds(peer).iter().map(|round| round.as_ref().map(|measured| measure.of(measured))).collect()
        };
        Quartiles::of_ratios(&values(ours), &values(theirs))
    }

    pub(crate) fn lines(&self) -> String {
        let mut text = String::new();
        for &(peer, _) in &self.peers {
            let number =
                |value: Option<f64>, digits| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
            let share = |theirs| match self.ratio(Measure::Cpu, peer, theirs) {
                Some(ratio) if peer != theirs => format!("{:.3} [{:.3}–{:.3}]", ratio.median, ratio.lower, ratio.upper),
                _ => "–".to_owned(),
            };
            let busy = |of: fn(&Measured) -> u64| {
                let share = self.median(peer, |measured| of(measured) as f64 / measured.wall_ns as f64);
                number(share.map(|share| share * 100.0), 0)
            };
            let (must, goal) = if peer == Peer::Ebbtide { self.verdicts() } else { (String::new(), String::new()) };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} / {} % | {must} | {goal} |",
                self.workload.name,
                self.threads,
                peer.name(),
                number(self.median(peer, Measured::cpu_us_per_op), 2),
                share(Peer::Tokio),
                share(Peer::AsyncStd),
                number(self.median(peer, Measured::ops_per_second), 0),
                number(self.median(peer, |measured| Measure::P50.of(measured)), 1),
                number(self.median(peer, |measured| Measure::P99.of(measured)), 1),
                number(self.median(peer, |measured| measured.peak_bytes as f64 / f64::from(1 << 20)), 1),
                busy(|measured| measured.cpu_ns),
                busy(|measured| measured.load_ns),
            );
        }
        text
    }

    fn verdicts(&self) -> (String, String) {
        let (mut must, mut goal) = (Vec::new(), Vec::new());
        for target in &self.workload.targets {
            let ratio = self.ratio(target.measure, Peer::Ebbtide, target.against);
            must.extend(target.must.map(|limit| verdict(target, limit, ratio.map(|ratio| ratio.upper))));
            goal.extend(target.goal.map(|limit| verdict(target, limit, ratio.map(|ratio| ratio.median))));
        }
        (must.join("<br>"), goal.join("<br>"))
    }
}

fn verdict(target: &Target, limit: f64, measured: Option<f64>) -> String {
    let what = format!("{}≤ {limit:.2} of {}", target.measure.label(), target.against.name());
    match measured {
        None => format!("{what}: not measured"),
        Some(value) if value <= limit => format!("{what}: {value:.3} ✓"),
        Some(value) => format!("{what}: {value:.3} ✗"),
    }
}

impl Measure {
    fn label(self) -> &'static str {
        match self {
            Self::Cpu => "",
            Self::P50 => "p50 ",
            Self::P99 => "p99 ",
        }
    }
}
