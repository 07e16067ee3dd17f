//! The rounds of one workload: every peer once in each, in an order that rotates.

use crate::measured::Measured;
use crate::peers::Peer;
use crate::process::{self, Load, Server};
use crate::workloads::{Kind, Workload};

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) time_ms: u64,
    pub(crate) warm_up_ms: u64,
}

/// One workload with one number of threads: for each peer what each round gave.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    pub(crate) workload: Workload,
    pub(crate) threads: usize,
    pub(crate) peers: Vec<(Peer, Vec<Option<Measured>>)>,
    /// What a reader has to know of it.
    pub(crate) notes: Vec<String>,
}

pub(crate) fn run(workload: &Workload, threads: usize, peers: &[Peer], effort: Effort) -> Results {
    let mut results = Results {
        workload: workload.clone(),
        threads,
        peers: peers.iter().map(|&peer| (peer, vec![None; effort.rounds])).collect(),
        notes: Vec::new(),
    };
    for round in 0..effort.rounds {
        for turn in 0..peers.len() {
            let (peer, rounds) = &mut results.peers[(round + turn) % peers.len()];
            match once(workload, threads, *peer, effort) {
                Ok(measured) => rounds[round] = Some(measured),
                Err(error) => results.notes.push(format!("{} in round {}: {error}", peer.name(), round + 1)),
            }
        }
        eprint!(".");
    }
    results
}

fn once(workload: &Workload, threads: usize, peer: Peer, effort: Effort) -> Result<Measured, String> {
    match workload.kind {
        Kind::Echo { connections, active, message, buffer } => {
            let server = Server::start(&process::own_program()?, peer, threads, buffer)?;
            let what = format!(
                "echo --connections {connections} --active {active} --message {message} --time {} --warm-up {}",
                effort.time_ms, effort.warm_up_ms
            );
            let measured = Load::start(&server, threads, &what)?.finish()?;
            if measured.closed != connections as u64 {
                return Err(format!("{} of {connections} connections are accounted for", measured.closed));
            }
            Ok(measured)
        }
    }
}
