//! The comparison of the peers: ratios within a round, the better of a peer's forms, and the marks.

use crate::measured::Measured;
use crate::peers::Peer;
use crate::rounds::Results;
use crate::stats::Quartiles;
use crate::workloads::{Against, BUFFER, Kind, Measure, Target};
use std::fmt::Write;

impl Measure {
    pub(crate) fn of(self, measured: &Measured) -> f64 {
        match self {
            Self::Cpu => measured.cpu_us_per_op(),
            Self::P50 => measured.p50_ns as f64 / 1000.0,
            Self::P99 => measured.p99_ns as f64 / 1000.0,
            Self::Wall => measured.wall_ns as f64 / 1000.0,
            Self::Heap => measured.heap_bytes as f64,
            Self::HeapApart => measured.heap_bytes.saturating_sub(BUFFER as u64) as f64,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Cpu => "",
            Self::P50 => "p50 ",
            Self::P99 => "p99 ",
            Self::Wall => "time ",
            Self::Heap => "heap ",
            Self::HeapApart => "heap without the buffer ",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Heap | Self::HeapApart => "B",
            _ => "µs",
        }
    }

    /// Returns whether it depends on the scheduler if the server and the load generator share cores.
    fn is_latency(self) -> bool {
        matches!(self, Self::P50 | Self::P99 | Self::Wall)
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
            | Self::Tls { .. }
            | Self::TlsChurn
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

    /// Returns those of the forms that were measured, the one with the lowest median first: the better.
    fn by_median(&self, measure: Measure, forms: &[Peer]) -> Vec<Peer> {
        let median = |peer| self.median(peer, |measured| measure.of(measured)).filter(|&median| median > 0.0);
        let mut medians: Vec<(Peer, f64)> = forms.iter().filter_map(|&peer| Some((peer, median(peer)?))).collect();
        medians.sort_by(|one, other| one.1.total_cmp(&other.1));
        medians.into_iter().map(|(peer, _)| peer).collect()
    }

    /// Returns the cell that compares a peer with the better of these forms. ebbtide's cell compares it with each.
    pub(crate) fn compared(&self, peer: Peer, forms: &[Peer]) -> String {
        let measure = self.workload.kind.measure();
        let forms = self.by_median(measure, forms);
        let ratio = |theirs| {
            let ratio = self.ratio(measure, peer, theirs)?;
            Some(format!("{:.2} [{:.2}–{:.2}]", ratio.median, ratio.lower, ratio.upper))
        };
        let cell = match forms[..] {
            [better, _, ..] if peer == better => Some("the better".to_owned()),
            [better, ..] if peer == better => None,
            [_, _, ..] if peer == Peer::Ebbtide => {
                let each: Option<Vec<_>> =
                    forms.iter().map(|&form| Some(format!("{} {}", ratio(form)?, form.name()))).collect();
                each.map(|each| each.join("<br>"))
            }
            [better, ..] => ratio(better),
            [] => None,
        };
        cell.unwrap_or_else(|| "–".to_owned())
    }

    /// Returns the cells of the marks, which are ebbtide's: what it must reach, and what it should.
    pub(crate) fn verdicts(&self) -> (String, String) {
        let (mut must, mut goal) = (Vec::new(), Vec::new());
        let applies = |target: &&Target| target.threads.is_none_or(|threads| threads == self.threads);
        for target in self.workload.targets.iter().filter(applies) {
            let (against, measured) = self.against(target);
            let verdict = |limit, measured| self.verdict(target, &against, limit, measured);
            must.extend(target.must.map(|limit| verdict(limit, measured.map(|quartiles| quartiles.upper))));
            goal.extend(target.goal.map(|limit| verdict(limit, measured.map(|quartiles| quartiles.median))));
        }
        (must.join("<br>"), goal.join("<br>"))
    }

    /// Returns what a mark compares with, in words, and the measured share or value.
    fn against(&self, target: &Target) -> (String, Option<Quartiles>) {
        match target.against {
            Against::Better(forms) => match self.by_median(target.measure, forms).first() {
                Some(&better) => (format!(" of {}", better.name()), self.ratio(target.measure, Peer::Ebbtide, better)),
                None => (format!(" of {}", forms.first().map_or("", |form| form.name())), None),
            },
            Against::Nothing => {
                let rounds = self.rounds(Peer::Ebbtide).iter().flatten();
                let values: Vec<f64> = rounds.map(|measured| target.measure.of(measured)).collect();
                (format!(" {}", target.measure.unit()), Quartiles::of(&values))
            }
        }
    }

    /// Returns the text of a mark: its limit, the measured value, and whether the limit is kept.
    fn verdict(&self, target: &Target, against: &str, limit: f64, measured: Option<f64>) -> String {
        let digits = if target.against == Against::Nothing { 0 } else { 2 };
        let mut text = format!("{}≤ {limit:.digits$}{against}: ", target.measure.label());
        let _ = match measured {
            None => write!(text, "not measured"),
            Some(value) if self.shared && target.measure.is_latency() => {
                write!(text, "{value:.digits$}, not judged")
            }
            Some(value) => write!(text, "{value:.digits$} {}", if value <= limit { "✓" } else { "✗" }),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::results;

    #[test]
    fn the_upper_quartile_must_and_the_median_should() {
        let (must, goal) =
            results("echo64x1", &[(Peer::Ebbtide, [80, 80, 130]), (Peer::Tokio, [100, 100, 100])]).verdicts();
        assert_eq!(must, "≤ 1.00 of tokio: 1.05 ✗");
        assert_eq!(goal, "≤ 0.90 of tokio: 0.80 ✓");
    }

    #[test]
    fn the_better_form_judges_and_each_is_compared() {
        let results = results(
            "echo64x1",
            &[
                (Peer::Ebbtide, [90, 90, 90]),
                (Peer::Tokio, [100, 100, 100]),
                (Peer::TokioSpawned, [200, 75, 60]),
                (Peer::Epoll, [75, 75, 75]),
            ],
        );
        assert_eq!(results.verdicts().1, "≤ 0.90 of tokio-spawned: 1.20 ✗");
        let compared = |peer| results.compared(peer, Peer::TOKIO);
        assert_eq!(compared(Peer::Ebbtide), "1.20 [0.82–1.35] tokio-spawned<br>0.90 [0.90–0.90] tokio");
        assert_eq!(compared(Peer::TokioSpawned), "the better");
        assert_eq!(compared(Peer::Tokio), "1.33 [0.92–1.50]");
        assert_eq!(compared(Peer::Epoll), "1.00 [0.69–1.12]");
        assert_eq!(results.compared(Peer::Ebbtide, Peer::ASYNC_STD), "–");
    }

    #[test]
    fn latency_on_shared_cores_is_shown_and_not_judged() {
        let peers = [(Peer::Ebbtide, [80, 80, 80]), (Peer::Tokio, [100, 100, 100])];
        let mut results = results("open-loop-30%", &peers);
        results.peers.iter_mut().flat_map(|(_, rounds)| rounds).flatten().for_each(|run| run.p50_ns = run.cpu_ns);
        assert!(results.verdicts().0.contains("p50 ≤ 1.05 of tokio: 0.80 ✓"));
        results.shared = true;
        assert!(results.verdicts().0.starts_with("≤ 1.05 of tokio: 0.80 ✓<br>p50 ≤ 1.05 of tokio: 0.80, not judged"));
    }

    #[test]
    fn a_mark_may_be_for_one_number_of_threads_or_absolute() {
        let peers = [(Peer::Ebbtide, [80, 80, 80]), (Peer::Tokio, [100, 100, 100])];
        let mut results = results("connect-close", &peers);
        assert_eq!(results.verdicts().1, "≤ 0.95 of tokio: 0.80 ✓");
        results.threads = 2;
        assert_eq!(results.verdicts().1, "≤ 0.85 of tokio: 0.80 ✓");
        let mut results = self::results("memory-of-100", &peers);
        results.peers[0].1.iter_mut().flatten().for_each(|measured| measured.heap_bytes = 1024 + 700);
        assert_eq!(results.verdicts().0, "heap without the buffer ≤ 768 B: 700 ✓");
        assert_eq!(results.verdicts().1, "heap without the buffer ≤ 600 B: 700 ✗");
    }
}
