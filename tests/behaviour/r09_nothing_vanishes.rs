//! R9: every accepted connection falls into exactly one of the six counts, whatever else happens at the same moment.

use crate::support::*;
use async_std::{prelude::*, task};
use ebbtide::{Cause, Connection};
use std::future::pending;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

/// Echoes one message, until the drain.
async fn echo(conn: Connection) -> std::io::Result<()> {
    let mut buf = [0; 8];
    match conn.until_draining((&conn).read(&mut buf)).await {
        Some(n) => (&conn).write_all(&buf[..n?]).await,
        None => Ok(()),
    }
}

/// Clients that connect and send at the moment of the shutdown are served, refused, or reset (between the last accept
/// and the close of the socket). None hangs, no descriptor leaks, and the counts add up.
#[test]
fn r09_the_counts_add_up_after_ten_thousand_raced_shutdowns() {
    const ROUNDS: usize = 10_000;
    alone(|| {
        let descriptors = open_descriptors();
        let (address, next) = std::sync::mpsc::sync_channel(0);
        let start = Arc::new(Barrier::new(2));
        let client = {
            let start = Arc::clone(&start);
            std::thread::spawn(move || {
                // How many clients were served, ended without a reply, refused, reset: by a shutdown, and by a drop.
                let mut ends = [[0; 4]; 2];
                for (address, dropped) in next {
                    start.wait();
                    let end = match speak(address) {
                        Ok(5) => 0,
                        Ok(_) => 1,
                        Err(error) => match error.kind() {
                            ErrorKind::ConnectionRefused => 2,
                            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => 3,
                            _ => panic!("neither served, refused nor reset: {error:?}"),
                        },
                    };
                    ends[usize::from(dropped)][end] += 1;
                    start.wait();
                }
                for (how, [served, ended, refused, reset]) in ["shutdown", "drop"].into_iter().zip(ends) {
                    println!("{how}: {served} served, {ended} ended without a reply, {refused} refused, {reset} reset");
                }
            })
        };
        let mut accepted = 0;
        for round in 0..ROUNDS {
            task::block_on(async {
                let server = bind().await;
                let handle = server.handle();
                let serving = task::spawn(server.serve(echo));
                while !handle.is_serving() {
                    task::yield_now().await;
                }
                let dropped = round % 5 == 4;
                address.send((tcp(handle.local_addr()), dropped)).unwrap();
                start.wait();
                // Waits between no time and about as long as a connect takes.
                for _ in 0..round % 50 {
                    std::hint::spin_loop();
                    task::yield_now().await;
                }
                let report = if dropped {
                    serving.cancel().await;
                    handle.closed().await
                } else {
                    handle.shutdown().await
                };
                assert_eq!(handle.connection_count(), 0);
                assert_adds_up(&report);
                accepted += report.accepted();
            });
            start.wait();
        }
        drop(address);
        client.join().unwrap();
        println!("accepted {accepted} of {ROUNDS}");
        settles(open_descriptors, descriptors);
    });
}

fn speak(address: std::net::SocketAddr) -> std::io::Result<usize> {
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(NET))?;
    client.write_all(b"hello")?;
    let mut buf = Vec::new();
    client.read_to_end(&mut buf)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Waits until the number of descriptors is what it was: the executor frees the last shells of its tasks a little
/// later.
fn settles(now: impl Fn() -> usize, before: usize) {
    let end = std::time::Instant::now() + NET;
    while now() > before + 5 {
        assert!(std::time::Instant::now() < end, "{} descriptors are open, {before} were at first", now());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn r09_a_client_that_closes_at_the_moment_of_the_shutdown_is_counted_as_completed() {
    test(async {
        for _ in 0..500 {
            let handlers = Handlers::new();
            let server = bind().await;
            let handle = server.handle();
            let client = connect(server.local_addr());
            let serving = task::spawn(server.serve(echo));
            while handle.connection_count() == 0 {
                task::yield_now().await;
            }
            let leaving = task::spawn_blocking(move || drop(client));
            let report = handle.shutdown().await;
            leaving.await;
            assert_adds_up(&report);
            assert_eq!(report.completed(), 1, "{report}");
            serving.await.unwrap();
            drop(handlers);
        }
    });
}

#[test]
fn r09_handlers_that_were_never_polled_are_counted() {
    test(async {
        let server = bind().await;
        let _clients: Vec<_> = (0..10).map(|_| connect(server.local_addr())).collect();
        let handle = server.handle();
        let mut serving = Box::pin(server.serve(|_: Connection| async {}));
        let _ = async_std::future::timeout(std::time::Duration::ZERO, &mut serving).await;
        drop(serving);
        let report = handle.closed().await;
        assert_adds_up(&report);
        assert_eq!(report.cause(), Cause::Dropped);
    });
}

#[test]
fn r09_a_handler_that_returned_counts_as_completed_although_a_cancel_was_requested() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = |conn: Connection| async move {
            drop(conn.server().cancel()); // marks this same handler, which is in its last poll
        };
        let report = server.serve(handler).await.unwrap();
        assert_eq!((report.completed(), report.cancelled(), report.cause()), (1, 0, Cause::Cancel), "{report}");
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r09_a_handler_that_failed_counts_as_failed_although_a_cancel_was_requested() {
    test(async {
        let server = bind().await;
        let _client = connect(server.local_addr());
        let handler = |conn: Connection| async move {
            drop(conn.server().cancel());
            Err::<(), _>("its own")
        };
        let report = server.serve(handler).await.unwrap();
        assert_eq!((report.failed(), report.cancelled()), (1, 0), "{report}");
    });
}

#[test]
fn r09_a_destructor_that_panics_changes_no_count_and_delays_no_exit() {
    test(async {
        let live = Live::default();
        let server = bind().await;
        let mut clients: Vec<_> = (0..10).map(|_| connect(server.local_addr())).collect();
        let handle = server.handle();
        let handler = {
            let live = live.clone();
            move |conn: Connection| {
                let guard = live.guard();
                async move {
                    let _guard = guard;
                    let _bomb = (conn.id().as_u64() == 4).then(|| Bomb("in a destructor"));
                    pending::<()>().await
                }
            }
        };
        let serving = task::spawn(server.serve(handler));
        while live.count() < 10 {
            task::yield_now().await;
        }
        serving.cancel().await;
        assert_eq!(live.count(), 0);
        let report = handle.closed().await;
        assert_eq!((report.accepted(), report.cancelled(), report.panicked()), (10, 10, 0), "{report}");
        for client in &mut clients {
            assert_eq!(rest(client), "");
        }
    });
}

#[test]
fn r09_the_counts_add_up_when_handlers_return_fail_panic_and_hang_at_once() {
    test(async {
        for round in 0..100 {
            let handlers = Handlers::new();
            let server = bind().await;
            let orders = [POLITE, STUBBORN, FAILS, PANICS, REPLIES];
            let _clients: Vec<_> = (0..25).map(|n| order(server.local_addr(), orders[n % 5])).collect();
            let handle = server.handle();
            let done = Arc::new(AtomicBool::new(false));
            let serving = task::spawn(server.grace(std::time::Duration::from_millis(5)).serve(handlers.handler()));
            handlers.started(round % 25).await;
            match round % 3 {
                0 => drop(handle.shutdown()),
                1 => drop(handle.cancel()),
                _ => drop(serving.cancel().await),
            }
            let report = handle.closed().await;
            done.store(true, Ordering::SeqCst);
            assert_adds_up(&report);
            assert_eq!(handlers.live.count(), 0);
        }
    });
}
