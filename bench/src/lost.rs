//! The program `lost_requests`: a shutdown in the middle of busy connections, and how many requests it loses.

use crate::args::Args;
use crate::http::{Answer, Version};
use crate::load::lost::{self, Tally};
use crate::peers::Peer;
use crate::process::Server;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

pub(crate) const OPTIONS: &[&str] = &["connections", "runs", "time"];

/// The servers that can be stopped.
const PEERS: [Peer; 2] = [Peer::TokioSpawned, Peer::Ebbtide];

/// Requests at a time on each connection of HTTP/2.
const STREAMS: usize = 4;

/// Runs `lost_requests`: prints a line for each run, and the sum of each kind.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    args.no_words_after(0)?;
    let connections = args.value_or("connections", 64)?;
    let runs = args.value_or("runs", 10)?;
    let time = Duration::from_millis(args.value_or("time", 300)?);
    println!("{connections} connections; shutdown {} ms after each has had an answer", time.as_millis());
    println!(
        "{:13} {:5} {:9} {:>4} {:>9} {:>6} {:>5}",
        "server", "HTTP", "answers", "run", "answered", "unsent", "lost"
    );
    for (version, streams) in [(Version::Http1, 1), (Version::Http2, STREAMS)] {
        for streaming in [false, true] {
            let mut sums = [Vec::new(), Vec::new()];
            for run in 1..=runs {
                for (peer, sum) in PEERS.into_iter().zip(&mut sums) {
                    let tally = once(peer, version, Answer { streaming }, connections, streams, time)?;
                    let Tally { answered, unsent, lost, .. } = tally;
                    let answers = if streaming { "streaming" } else { "plain" };
                    let version = format!("{version}x{streams}");
                    println!("{:13} {version:5} {answers:9} {run:4} {answered:9} {unsent:6} {lost:5}", peer.name());
                    sum.push(lost);
                }
            }
            for (peer, sum) in PEERS.into_iter().zip(sums) {
                let (least, most) = (sum.iter().min().unwrap_or(&0), sum.iter().max().unwrap_or(&0));
                let total: usize = sum.iter().sum();
                println!("{:13} lost {least} to {most} requests a run, {total} in all", peer.name());
            }
        }
    }
    Ok(())
}

fn once(
    peer: Peer,
    version: Version,
    answer: Answer,
    connections: usize,
    streams: usize,
    time: Duration,
) -> Result<Tally, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let streaming = if answer.streaming { "--streaming" } else { "" };
    let mut server = Server::start(&program, peer, 1, &format!("--http {version} {streaming}"))?;
    let address: SocketAddr = server.address().parse().map_err(|_| "the address is not `IP:PORT`")?;
    std::thread::scope(|scope| {
        let (sender, busy) = mpsc::channel();
        let clients = scope.spawn(move || {
            let is_busy = || sender.send(()).expect("the receiver waits");
            lost::run(address, version, answer, connections, streams, is_busy)
        });
        // An error: the clients have failed, and say why below.
        let _ = busy.recv();
        std::thread::sleep(time);
        let stopped = server.stop("shutdown").map_err(|error| format!("{}: {error}", peer.name()));
        let tally = clients.join().map_err(|_| "the clients panicked")?;
        stopped?;
        tally.map_err(|error| format!("{}: {error}", peer.name()))
    })
}
