//! The whole benchmark: runs the chosen workloads one after the other, and prints one table.

use crate::args::Args;
use crate::peers::{self, Peer};
use crate::rounds::{self, Effort, Results};
use crate::workloads::{self, Kind, Workload};
use crate::{growth, kernel, machine, plot, process, table};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Instant;

pub(crate) const OPTIONS: &[&str] = &["only", "peers", "rounds", "threads", "time"];
pub(crate) const FLAGS: &[&str] = &["short", "list", "write"];

/// How many descriptors of a process are reserved for other things than connections.
const OTHER_FILES: u64 = 200;

struct Suite {
    peers: Vec<Peer>,
    workloads: Vec<Workload>,
    threads: Option<Vec<usize>>,
    effort: Effort,
    short: bool,
    write: bool,
    /// That of the last minute, before anything was measured.
    load_average: f64,
}

pub(crate) fn run(args: &Args) -> Result<(), String> {
    let mut suite = Suite::choose(args)?;
    if args.flag("list") {
        suite.workloads.iter().for_each(|workload| println!("{}", workload.name));
        return Ok(());
    }
    let counted = suite.workloads.iter().any(|workload| matches!(workload.kind, Kind::Memory { .. }));
    peers::build(&suite.peers, counted).map_err(|error| format!("cannot build the peers: {error}"))?;
    suite.load_average = if suite.write { machine::quiet()? } else { machine::load_average()? };
    let started = Instant::now();
    let results = suite.measure(started);
    let report = suite.report(&results, started);
    println!("{report}");
    if suite.write {
        write(&report, &results)?;
    }
    let failed: usize = results.iter().map(|results| results.failed).sum();
    if failed == 0 { Ok(()) } else { Err(format!("{failed} runs failed; the notes have the reasons")) }
}

impl Suite {
    fn choose(args: &Args) -> Result<Self, String> {
        args.no_words_after(0)?;
        let short = args.flag("short");
        let most = kernel::raise_open_files().saturating_sub(OTHER_FILES);
        let effort = Effort {
            rounds: args.value_or("rounds", if short { 1 } else { 11 })?,
            time_ms: args.value_or("time", if short { 40 } else { 400 })?,
            warm_up_ms: if short { 5 } else { 80 },
            divide: if short { 50 } else { 1 },
            most: usize::try_from(most).unwrap_or(usize::MAX).min(if short { 500 } else { usize::MAX }),
        };
        let by_default = |peer: &Peer| !(short && peer.is_slow_to_build());
        let wanted = args.list("peers")?.unwrap_or_else(|| Peer::ALL.into_iter().filter(by_default).collect());
        let only: Option<Vec<String>> = args.list("only")?;
        let known = workloads::all();
        if let Some(name) = only.iter().flatten().find(|name| !known.iter().any(|workload| workload.name == **name)) {
            return Err(format!("there is no workload `{name}`; `--list` names them"));
        }
        let chosen = |workload: &Workload| only.as_ref().is_none_or(|only| only.contains(&workload.name));
        let workloads: Vec<Workload> = known.into_iter().filter(chosen).collect();
        // Not those of other workloads: some are built first.
        let takes_part = |peer: &Peer| workloads.iter().any(|workload| workload.peers.contains(peer));
        Ok(Self {
            peers: wanted.into_iter().filter(|peer| peer.is_here() && takes_part(peer)).collect(),
            workloads,
            threads: args.list("threads")?,
            effort,
            short,
            write: args.flag("write"),
            load_average: 0.0,
        })
    }

    fn measure(&self, started: Instant) -> Vec<Results> {
        let mut all = Vec::new();
        for workload in &self.workloads {
            for &threads in workload.threads {
                let takes_part = |peer: &Peer| workload.peers.contains(peer) && peer.has_threads(threads);
                let peers: Vec<Peer> = self.peers.iter().copied().filter(takes_part).collect();
                if self.threads.as_ref().is_some_and(|wanted| !wanted.contains(&threads)) || peers.is_empty() {
                    continue;
                }
                eprint!("{} with {threads} ", workload.name);
                all.push(rounds::run(workload, threads, &peers, self.effort));
                eprintln!(" {:.0} s", started.elapsed().as_secs_f64());
            }
        }
        all
    }

    /// Returns the table, with the notes under it.
    fn report(&self, results: &[Results], started: Instant) -> String {
        let mut text = table::HEAD.to_owned();
        results.iter().for_each(|results| text.push_str(&results.lines()));
        text.push_str(&growth::lines(results));
        let _ = writeln!(
            text,
            "\n{} rounds; {:.0} minutes in all.{}\n",
            self.effort.rounds,
            started.elapsed().as_secs_f64() / 60.0,
            if self.short { " The short form: it shows only that the benchmark works." } else { "" }
        );
        text.push_str(&machine::describe());
        let _ = writeln!(
            text,
            "- Load average of the minute before: {:.2}{}",
            self.load_average,
            if self.load_average > machine::QUIET {
                ": the machine was not quiet. Do not compare these figures."
            } else {
                ""
            }
        );
        for threads in [1, 2].into_iter().filter(|&threads| process::Places::here(threads).shared()) {
            let _ = writeln!(
                text,
                "- With {threads} threads the server and the load generator share cores: there are too few. Latency and \
                 time are shown there, and not judged."
            );
        }
        if self.effort.most < 10_000 {
            let _ = writeln!(text, "- No more than {} connections at a time.", self.effort.most);
        }
        let alone = |results: &&Results| !process::Places::here(results.threads).shared();
        let (disturbed, runs) = results
            .iter()
            .filter(alone)
            .map(Results::disturbed)
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if disturbed > 0 {
            let _ = writeln!(
                text,
                "- The machine was not quiet: in {disturbed} of {runs} runs something else had the load generator's \
                 core for more than a twentieth of the time."
            );
        }
        for results in results {
            for warning in results.warnings() {
                let _ = writeln!(text, "- {}, {} threads: {warning}.", results.workload.name, results.threads);
            }
        }
        text
    }
}

fn write(report: &str, results: &[Results]) -> Result<(), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = |name: &str, text: String| {
        fs::write(folder.join(name), text).map_err(|error| format!("cannot write {name}: {error}"))
    };
    let title = "Echo of 64 bytes, one worker thread";
    file("cost.svg", plot::svg(title, &cost_of_echo(results)))?;
    let intro = "# Results\n\nHow this was measured, and what the columns mean: [README.md](README.md).\n\n\
                 ![Cost against the number of connections](cost.svg)\n\n";
    file("RESULTS.md", format!("{intro}{report}"))
}

/// Returns the points of the plot: processor time of a message against connections, for each peer.
fn cost_of_echo(results: &[Results]) -> Vec<plot::Line> {
    let mut lines = Vec::new();
    for peer in Peer::ALL {
        let mut points = Vec::new();
        for results in results.iter().filter(|results| results.threads == 1) {
            let number = results.workload.name.strip_prefix("echo64x").and_then(|number| number.parse().ok());
            let cost = results.median(peer, |measured| measured.cpu_us_per_op());
            points.extend(number.zip(cost));
        }
        if !points.is_empty() {
            lines.push((peer, points));
        }
    }
    // A peer with one point has no line, if others have several.
    let most = lines.iter().map(|(_, points)| points.len()).max();
    lines.retain(|(_, points)| points.len() > 1 || most == Some(1));
    lines
}
