//! Starts and stops servers without a connection, one after the other: measures the time from the request to closed.

use super::Account;
use crate::measured::{Measured, short_nanos};
use crate::peers::{self, Peer};
use async_std::task;
use ebbtide::{Connection, Server};
use std::io;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Long enough for a server's threads to have gone to sleep.
const SETTLE: Duration = Duration::from_millis(1);

pub(super) fn run(peer: Peer, threads: usize, count: usize) -> Result<Measured, String> {
    let mut latencies = Vec::with_capacity(count);
    let account = Account::begin();
    let done: io::Result<()> = match peer {
        Peer::Ebbtide => task::block_on(async {
            for _ in 0..count {
                latencies.push(ebbtide().await?);
            }
            Ok(())
        }),
        Peer::Tokio => on_tokio(threads, count, &mut latencies),
        _ => return Err(format!("{} cannot be stopped", peer.name())),
    };
    done.map_err(|error| format!("{}: {error}", peer.name()))?;
    let mut measured = account.done(count).measure();
    measured.set_latencies(&mut latencies);
    Ok(measured)
}

async fn ebbtide() -> io::Result<u32> {
    let server = Server::bind("127.0.0.1:0").await?;
    let handle = server.handle();
    let serving = task::spawn(server.serve(async |_conn: Connection| {}));
    while !handle.is_serving() {
        task::sleep(SETTLE).await;
    }
    task::sleep(SETTLE).await;
    let since = Instant::now();
    handle.shutdown().await;
    let took = short_nanos(since.elapsed());
    serving.await?;
    Ok(took)
}

fn on_tokio(threads: usize, count: usize, latencies: &mut Vec<u32>) -> io::Result<()> {
    let runtime = ::tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        for _ in 0..count {
            latencies.push(tokio_server().await?);
        }
        Ok(())
    })
}

async fn tokio_server() -> io::Result<u32> {
    let listener = TcpListener::from_std(peers::listener()?)?;
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let serving = tokio::spawn({
        let (tracker, token) = (tracker.clone(), token.clone());
        async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => drop(tracker.spawn(async move { drop(accepted) })),
                    () = token.cancelled() => return,
                }
            }
        }
    });
    tokio::time::sleep(SETTLE).await;
    let since = Instant::now();
    token.cancel();
    tracker.close();
    tracker.wait().await;
    serving.await?;
    Ok(short_nanos(since.elapsed()))
}
