//! `shutdown_within`, a shutdown with a limit of its own; and `drain_spread`, a drain that spreads its notifications
//! over a time.

use crate::support::*;
use async_std::task;
use ebbtide::{Cause, Connection, Handle, Phase, Report, Server};
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_millis(200);

/// Serves a client whose handler never ends, requests the end by `ask`, and returns the report.
async fn stuck(server: Server, ask: impl FnOnce(&Handle)) -> Report {
    let handle = server.handle();
    let _client = connect(server.local_addr());
    let serving = task::spawn(server.serve(|_: Connection| pending::<()>()));
    until(|| handle.connection_count() == 1).await;
    ask(&handle);
    serving.await.unwrap()
}

/// Checks that the run took this time, and not much more.
fn took(report: &Report, time: Duration) {
    assert!(report.elapsed() >= time && report.elapsed() < time + Duration::from_secs(4), "{report}");
    assert_eq!((report.cause(), report.cancelled()), (Cause::Shutdown, 1), "{report}");
}

#[test]
fn a_shutdown_may_have_a_shorter_or_longer_limit_than_the_servers_grace() {
    test(async {
        for grace in [Some(FOR_EVER), None, Some(Duration::ZERO)] {
            let report = stuck(bind().await.grace(grace), |server| drop(server.shutdown_within(LIMIT))).await;
            took(&report, LIMIT);
        }
        let server = bind().await.grace(Duration::ZERO);
        let report = stuck(server, |server| {
            drop(server.shutdown_within(None)); // no limit, so only the second request ends the drain
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(server.connection_count(), 1);
            drop(server.shutdown_within(LIMIT));
        });
        took(&report.await, LIMIT);
        let report = stuck(bind().await, |server| drop(server.shutdown_within(Duration::ZERO))).await;
        took(&report, Duration::ZERO);
    });
}

#[test]
fn a_later_request_only_brings_the_deadline_nearer() {
    test(async {
        for first in [None, Some(FOR_EVER)] {
            let report = stuck(bind().await.grace(first), |server| {
                drop(server.shutdown());
                while server.phase() < Phase::Draining {
                    std::thread::yield_now();
                }
                drop(server.shutdown_within(LIMIT));
            });
            took(&report.await, LIMIT);
        }
        let report = stuck(bind().await.grace(LIMIT), |server| {
            drop(server.shutdown());
            drop(server.shutdown_within(FOR_EVER));
            drop(server.shutdown_within(None));
        });
        took(&report.await, LIMIT);
    });
}

#[test]
fn a_lame_duck_has_at_most_half_of_the_limit_and_a_second_request_ends_it() {
    test(async {
        let server = bind().await.lame_duck(FOR_EVER);
        let handle = server.handle();
        let mut client = connect(server.local_addr());
        let serving = task::spawn(server.serve(echo));
        until(|| handle.connection_count() == 1).await;
        let start = Instant::now();
        let closed = handle.shutdown_within(4 * LIMIT);
        until(|| handle.phase() == Phase::LameDuck).await;
        let mut late = connect(handle.local_addr());
        late.write_all(b"served")?;
        late.read_exact(&mut [0; 6])?;
        assert_eq!(rest(&mut client), "", "a handler is notified when the lame duck is over");
        assert!(start.elapsed() >= 2 * LIMIT);
        assert_eq!(closed.await.completed(), 2);
        serving.await?;

        let server = bind().await.lame_duck(FOR_EVER);
        let report = stuck(server, |server| {
            drop(server.shutdown());
            drop(server.shutdown_within(LIMIT));
        });
        took(&report.await, LIMIT);
        io::Result::Ok(())
    })
    .unwrap();
}

#[test]
fn shutdown_within_closes_a_server_that_was_never_served() {
    test(async {
        let server = bind().await;
        let handle = server.handle();
        let report = handle.shutdown_within(LIMIT).await;
        assert!(report.elapsed() < Duration::from_secs(2) && refuses(server.local_addr()), "{report}");
    });
}

/// Serves silent clients, requests the end by `ask`, and returns the times at which they read EOF, sorted.
async fn ends(server: Server, clients: usize, ask: impl Fn(&Handle)) -> (Vec<Duration>, Report) {
    let server = server.newcomer_time(Duration::ZERO);
    let handle = server.handle();
    let clients: Vec<_> = (0..clients).map(|_| connect(server.local_addr())).collect();
    let serving = task::spawn(server.serve(echo));
    until(|| handle.connection_count() == clients.len()).await;
    let start = Instant::now();
    ask(&handle);
    let ends = clients.into_iter().map(|mut client| {
        std::thread::spawn(move || {
            assert_eq!(rest(&mut client), "");
            start.elapsed()
        })
    });
    let ends: Vec<_> = ends.collect();
    let ends = task::spawn_blocking(move || ends.into_iter().map(|end| end.join().unwrap()).collect::<Vec<_>>());
    let mut ends = ends.await;
    ends.sort_unstable();
    (ends, serving.await.unwrap())
}

#[test]
fn a_spread_drain_notifies_evenly_and_closes_the_listeners_at_once() {
    test(async {
        let spread = Duration::from_millis(800);
        let server = bind().await.drain_spread(spread);
        let address = server.local_addr().clone();
        let (ends, report) = ends(server, 16, |server| {
            drop(server.shutdown());
            while server.is_serving() {
                std::thread::yield_now();
            }
            assert!(refuses(&address));
        })
        .await;
        assert_eq!((report.completed(), report.drained()), (16, 16), "{report}");
        for (turn, end) in ends.iter().enumerate() {
            assert!(*end >= spread / 16 * turn as u32, "{ends:?}"); // no client is notified before its turn
        }
        assert!(ends[15] < spread + Duration::from_secs(4), "{ends:?}");
    });
}

#[test]
fn a_spread_is_at_most_half_of_the_grace_and_a_nearer_deadline_ends_it() {
    test(async {
        let server = bind().await.grace(Duration::from_secs(1)).drain_spread(FOR_EVER);
        let (ends_at_half, report) = ends(server, 8, |server| drop(server.shutdown())).await;
        assert_eq!((report.completed(), report.cancelled()), (8, 0), "{report}: {ends_at_half:?}");

        let server = bind().await.grace(FOR_EVER).drain_spread(FOR_EVER);
        let (_, report) = ends(server, 8, |server| {
            drop(server.shutdown());
            while server.phase() < Phase::Draining {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(50)); // until each connection has its turn
            drop(server.shutdown_within(Duration::from_secs(4)));
        })
        .await;
        assert_eq!((report.completed(), report.cancelled()), (8, 0), "{report}");
        assert!(report.elapsed() < Duration::from_secs(3), "{report}");
    });
}

/// A silent newcomer has a part of the time up to the nearer deadline, not of the first one. With a newcomer time that
/// the clock cannot hold, and no first deadline, it was in no queue: it was cut at the deadline, and never notified.
#[test]
fn a_nearer_deadline_also_holds_for_newcomers() {
    for (grace, newcomer_time) in [(Some(FOR_EVER), FOR_EVER), (None, Duration::MAX)] {
        test(async move {
            let server = bind().await.grace(grace).newcomer_time(newcomer_time);
            let handle = server.handle();
            let mut client = connect(server.local_addr());
            let serving = task::spawn(server.serve(echo));
            until(|| handle.connection_count() == 1).await;
            drop(handle.shutdown());
            handle.reached(Phase::Draining).await;
            drop(handle.shutdown_within(Duration::from_secs(4)));
            assert_eq!(rest(&mut client), "");
            let report = serving.await.unwrap();
            assert_eq!((report.completed(), report.cancelled()), (1, 0), "{report}");
            assert!(report.elapsed() < Duration::from_secs(4), "{report}");
        });
    }
}
