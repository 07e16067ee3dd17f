//! R2 and R12 with many connections: a shutdown, a cancel and a drop of a server with 10,000 connections, or as many as
//! the limit on open files allows.

use crate::support::*;
use async_std::task;
use ebbtide::{Connection, Report};
use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Returns how many connections fit: both ends are in this process, and 100 descriptors are left for the rest.
fn as_many_as_possible() -> usize {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(1 << 20), hard);
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((soft, hard));
        10_000.min((soft as usize).saturating_sub(100) / 2)
    }
    #[cfg(not(unix))]
    1000
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Exit {
    Shutdown,
    Cancel,
    Drop,
}

/// Asserts that no connection is left after this way out. Runs alone, because it uses all open files.
fn assert_all_closed(exit: Exit) {
    alone(move || close_all(exit));
}

fn close_all(exit: Exit) {
    let count = as_many_as_possible();
    let (mut clients, live, report, took) = test(async move {
        let live = Live::default();
        let server = bind().await.grace(FOR_EVER);
        let (address, handle) = (server.local_addr().clone(), server.handle());
        let handler = {
            let live = live.clone();
            move |conn: Connection| {
                let guard = live.guard();
                async move {
                    let _guard = guard;
                    // Each handler has a timer, which the reactor holds too.
                    let wait = task::sleep(FOR_EVER);
                    conn.until_draining(wait).await;
                }
            }
        };
        let serving = task::spawn(server.serve(handler));
        let clients = task::spawn_blocking(move || (0..count).map(|_| connect(&address)).collect::<Vec<_>>()).await;
        while live.count() < count {
            task::sleep(Duration::from_millis(1)).await;
        }
        let start = Instant::now();
        match exit {
            Exit::Shutdown => _ = handle.shutdown().await,
            Exit::Cancel => _ = handle.cancel().await,
            Exit::Drop => _ = serving.cancel().await,
        }
        let took = start.elapsed();
        assert_eq!(live.count(), 0, "{exit:?}: handlers are still alive");
        assert!(refuses(handle.local_addr()));
        (clients, live, handle.closed().await, took)
    });
    println!("{exit:?}: {count} connections closed in {took:.1?}");
    assert_counts(&report, exit, count as u64);
    assert_eq!(live.count(), 0);
    for client in &mut clients {
        assert_eof(client);
    }
}

fn assert_counts(report: &Report, exit: Exit, count: u64) {
    let ended = if exit == Exit::Shutdown { report.completed() } else { report.cancelled() };
    assert_eq!((report.accepted(), ended), (count, count), "{report}");
}

fn assert_eof(client: &mut TcpStream) {
    assert_eq!(client.read(&mut [0]).expect("the connection ends with EOF"), 0);
}

#[test]
fn r12_ten_thousand_connections_are_closed_after_a_shutdown() {
    assert_all_closed(Exit::Shutdown);
}

#[test]
fn r12_ten_thousand_connections_are_closed_after_a_cancel() {
    assert_all_closed(Exit::Cancel);
}

#[test]
fn r02_ten_thousand_connections_are_closed_when_the_drop_returns() {
    assert_all_closed(Exit::Drop);
}
