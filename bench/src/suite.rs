//! The benchmark as a whole: what was asked for, in turn, into one table.

use crate::args::Args;
use crate::peers::{self, Peer};
use crate::rounds::{self, Effort};
use crate::table;
use crate::workloads;
use std::time::Instant;

pub(crate) const OPTIONS: &[&str] = &["only", "peers", "rounds", "threads", "time"];
pub(crate) const FLAGS: &[&str] = &["short"];

pub(crate) fn run(args: &Args) -> Result<(), String> {
    args.no_words_after(0)?;
    let short = args.flag("short");
    let effort = Effort {
        rounds: args.value_or("rounds", if short { 1 } else { 11 })?,
        time_ms: args.value_or("time", if short { 50 } else { 500 })?,
        warm_up_ms: if short { 10 } else { 100 },
    };
    let wanted: Option<Vec<Peer>> = args.list("peers")?;
    let only: Option<Vec<String>> = args.list("only")?;
    let threads: Option<Vec<usize>> = args.list("threads")?;
    let here: Vec<Peer> =
        wanted.unwrap_or_else(|| Peer::ALL.to_vec()).into_iter().filter(|peer| peer.is_here()).collect();
    peers::build(&here).map_err(|error| format!("cannot build the peers: {error}"))?;

    let started = Instant::now();
    let mut text = table::HEAD.to_owned();
    let mut notes = Vec::new();
    for workload in workloads::all() {
        if only.as_ref().is_some_and(|only| !only.iter().any(|name| name == workload.name)) {
            continue;
        }
        for &threads in workload.threads.iter().filter(|one| threads.as_ref().is_none_or(|some| some.contains(one))) {
            let peers: Vec<Peer> = here
                .iter()
                .copied()
                .filter(|peer| workload.peers.contains(peer) && peer.has_threads(threads))
                .collect();
            eprint!("{} with {threads} ", workload.name);
            let results = rounds::run(&workload, threads, &peers, effort);
            eprintln!(" {:.0} s", started.elapsed().as_secs_f64());
            text.push_str(&results.lines());
            notes.extend(results.notes.iter().map(|note| format!("{}: {note}", workload.name)));
        }
    }
    println!("{text}");
    for note in &notes {
        println!("- {note}");
    }
    println!("\n{} rounds, {:.0} s in all.", effort.rounds, started.elapsed().as_secs_f64());
    Ok(())
}
