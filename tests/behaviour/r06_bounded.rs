//! R6: a drain ends with the last handler, or at the deadline. *Closed* wins over the deadline: the server waits for a
//! handler that blocks its thread, and logs that it waits.

use crate::support::*;
use async_std::{prelude::*, task};
use ebbtide::Connection;
use std::io::Read as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[test]
fn r06_a_drain_ends_with_the_last_handler() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.grace(FOR_EVER);
        let mut clients: Vec<_> = (0..10).map(|_| order(server.local_addr(), POLITE)).collect();
        let (_, report) = server.scope(handlers.handler(), async |_| handlers.started(10).await).await.unwrap();
        assert_eq!((report.completed(), report.drained()), (10, 10));
        for client in &mut clients {
            assert_eq!(rest(client), "bye");
        }
    });
}

#[test]
fn r06_a_handler_that_outlives_the_grace_is_cancelled_once_at_the_deadline_and_counted() {
    test(async {
        let grace = Duration::from_millis(200);
        let live = Live::default();
        let drops = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        struct Count(std::sync::Arc<std::sync::atomic::AtomicUsize>);
        impl Drop for Count {
            fn drop(&mut self) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let server = bind().await.grace(grace);
        let mut client = connect(server.local_addr());
        let handler = {
            let (live, drops) = (live.clone(), drops.clone());
            move |conn: Connection| {
                let guards = (live.guard(), Count(drops.clone()));
                async move {
                    let _guards = guards;
                    let _conn = conn;
                    task::sleep(FOR_EVER).await;
                }
            }
        };
        let (_, report) = server.scope(handler, async |_| ()).await.unwrap();
        assert!(report.elapsed() >= grace, "{report}");
        assert_eq!((report.accepted(), report.cancelled(), report.drained()), (1, 1, 0), "{report}");
        assert_eq!((live.count(), drops.load(std::sync::atomic::Ordering::SeqCst)), (0, 1));
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r06_a_second_request_does_not_move_the_deadline() {
    test(async {
        let server = bind().await.grace(FOR_EVER);
        let mut client = connect(server.local_addr());
        let (send, receive) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move { send.send(conn).await.unwrap() }
        };
        let body = async |server: ebbtide::Handle| {
            let conn = receive.recv().await.unwrap();
            drop(server.shutdown());
            let first = conn.deadline();
            drop(server.shutdown());
            assert!(first.is_some());
            assert_eq!(conn.deadline(), first);
        };
        server.scope(handler, body).await.unwrap();
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r06_a_grace_of_zero_cancels_at_once_and_a_grace_without_a_limit_has_no_deadline() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.grace(Duration::ZERO);
        let mut client = order(server.local_addr(), STUBBORN);
        let (_, report) = server.scope(handlers.handler(), async |_| handlers.started(1).await).await.unwrap();
        assert_eq!(report.cancelled(), 1);
        assert_eq!(rest(&mut client), "");

        let server = bind().await.grace(None);
        let mut client = connect(server.local_addr());
        let handler = |conn: Connection| async move {
            conn.until_draining(std::future::pending::<()>()).await;
            assert_eq!(conn.deadline(), None);
        };
        let (_, report) = server.scope(handler, async |_| ()).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r06_a_peer_that_never_reads_does_not_delay_the_exit() {
    test(async {
        let server = bind().await.grace(Duration::from_millis(200));
        let mut client = connect(server.local_addr());
        let (full, is_full) = async_std::channel::bounded(1);
        let handler = move |mut conn: Connection| {
            let full = full.clone();
            async move {
                let chunk = vec![0; 1 << 20];
                loop {
                    if async_std::future::timeout(Duration::from_millis(50), conn.write_all(&chunk)).await.is_err() {
                        let _ = full.send(()).await;
                        conn.write_all(&chunk).await?;
                    }
                }
                #[allow(unreachable_code)]
                std::io::Result::Ok(())
            }
        };
        let (_, report) = server.scope(handler, async |_| is_full.recv().await.unwrap()).await.unwrap();
        assert_eq!(report.cancelled(), 1, "{report}");
        // The bytes that the kernel has taken arrive, and then EOF.
        assert!(std::io::copy(&mut client, &mut std::io::sink()).unwrap() > 0);
    });
}

#[test]
fn r06_a_drop_waits_for_a_handler_that_blocks_its_thread_and_logs_its_name_every_second() {
    test_alone(async {
        let logs = logs::remember();
        let live = Live::default();
        let server = bind().await;
        let handle = server.handle();
        let client = connect(server.local_addr());
        let peer = client.local_addr().unwrap();
        let (blocked, is_blocked) = mpsc::channel();
        let (unblock, unblocked) = mpsc::channel::<()>();
        let gates = std::sync::Arc::new(std::sync::Mutex::new(Some((blocked, unblocked))));
        let handler = {
            let live = live.clone();
            move |_: Connection| {
                let gates = gates.lock().unwrap().take().unwrap();
                let guard = live.guard();
                async move {
                    let _guard = guard;
                    gates.0.send(()).unwrap();
                    let _ = gates.1.recv_timeout(NET); // blocks the thread, as no handler should
                    std::future::pending::<()>().await
                }
            }
        };
        // Drops the server on a thread of its own, since all of the executor's may be blocked.
        let (dropped, is_dropped) = mpsc::channel();
        let server = std::thread::spawn(move || {
            let mut serving = Box::pin(server.serve(handler));
            task::block_on(async {
                assert!(async_std::future::timeout(Duration::from_millis(10), &mut serving).await.is_err());
            });
            is_blocked.recv().unwrap();
            drop(serving);
            dropped.send(()).unwrap();
        });
        let line = format!("still waiting for the end of connection 0 from {peer}");
        while logs.lines_with(&line).len() < 2 {
            assert_eq!(is_dropped.try_recv(), Err(mpsc::TryRecvError::Empty), "dropped while the handler blocks");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(live.count(), 1);
        unblock.send(()).unwrap();
        is_dropped.recv_timeout(NET).unwrap();
        assert_eq!(live.count(), 0);
        server.join().unwrap();
        assert_eq!(handle.closed().await.cancelled(), 1);
        assert_eq!((&client).read(&mut [0]).unwrap(), 0);
    });
}

/// An error whose destructor blocks its thread until the test unblocks it.
#[derive(Debug)]
struct Blocking(mpsc::Sender<()>, std::sync::Mutex<mpsc::Receiver<()>>);

impl std::fmt::Display for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an error whose destructor blocks")
    }
}

impl std::error::Error for Blocking {}

impl Drop for Blocking {
    fn drop(&mut self) {
        self.0.send(()).unwrap();
        let _ = self.1.lock().unwrap().recv_timeout(NET); // blocks the thread, as no destructor should
    }
}

/// The connection is closed by then and its record is gone, but the log line still names it.
#[test]
fn r06_a_drop_waits_for_a_handlers_error_that_blocks_its_thread_and_logs_the_connection() {
    test_alone(async {
        let logs = logs::remember();
        let server = bind().await;
        let handle = server.handle();
        let mut client = connect(server.local_addr());
        let peer = client.local_addr().unwrap();
        let (blocked, is_blocked) = mpsc::channel();
        let (unblock, unblocked) = mpsc::channel::<()>();
        let error = std::sync::Mutex::new(Some(Blocking(blocked, unblocked.into())));
        let handler = move |mut conn: Connection| {
            let error = error.lock().unwrap().take().unwrap();
            async move {
                let _ = conn.read_to_end(&mut Vec::new()).await; // after EOF there is no linger
                Err::<(), _>(error)
            }
        };
        // Drops the server on a thread of its own, since all of the executor's may be blocked.
        let server = std::thread::spawn(move || {
            let mut serving = Box::pin(server.serve(handler));
            task::block_on(async {
                assert!(async_std::future::timeout(Duration::from_millis(10), &mut serving).await.is_err());
            });
            is_blocked.recv().unwrap();
            drop(serving);
        });
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        let line = format!("still waiting for the end of connection 0 from {peer}");
        while logs.lines_with(&line).is_empty() {
            assert!(!server.is_finished(), "dropped while the destructor blocks");
            let nameless = logs.lines_with("still waiting for the end of a child");
            assert!(nameless.is_empty(), "the line must name the connection: {nameless:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        unblock.send(()).unwrap();
        server.join().unwrap();
        assert_eq!(handle.closed().await.failed(), 1);
    });
}

#[test]
fn r06_an_idle_server_stops_without_a_wait() {
    test(async {
        // A polling sleep anywhere in the exit would make 300 rounds run into the net's timeout.
        for _ in 0..300 {
            let (_, report) = bind().await.scope(|_: Connection| async {}, async |_| ()).await.unwrap();
            assert_eq!(report.accepted(), 0);
        }
    });
}

#[test]
fn r06_no_handler_starts_after_the_deadline_although_the_threads_were_blocked_until_then() {
    const LATE: Duration = Duration::from_millis(500);
    test_alone(async {
        let server = bind().await.grace(Duration::from_millis(50));
        let clients: Vec<_> = (0..40).map(|_| connect(server.local_addr())).collect();
        let handle = server.handle();
        let (starts, started) = mpsc::channel();
        let handler = move |conn: Connection| {
            let _ = starts.send(conn.deadline().map(|deadline| Instant::now().saturating_duration_since(deadline)));
            let deadline = loop {
                match conn.deadline() {
                    Some(deadline) => break deadline,
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            std::thread::sleep((deadline + LATE).saturating_duration_since(Instant::now()));
            async {}
        };
        let serving = task::spawn(server.serve(handler));
        let first = started.recv().unwrap();
        let closing = handle.shutdown();
        let report = serving.await.unwrap();
        closing.await;
        for late in std::iter::once(first).chain(started).flatten() {
            assert!(late < LATE, "a handler was started {late:?} after the deadline: {report}");
        }
        assert_eq!(report.accepted(), report.completed() + report.cancelled(), "{report}");
        assert!(report.cancelled() > 0, "{report}");
        drop(clients);
    });
}
