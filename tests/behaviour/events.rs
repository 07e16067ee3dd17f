//! Observing a server: `Server::on_event`, phases (`Handle::phases`, `Handle::reached`), and counted bytes.

use crate::support::logs;
use crate::support::ways::Kind;
use crate::support::*;
use async_std::prelude::*;
use async_std::task;
use ebbtide::{Connection, ConnectionId, ConnectionInfo, EndReason, EventKind, Handle, Phase, Phases, Server};
use futures_concurrency::prelude::*;
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// Copy of an event.
#[derive(Debug, PartialEq)]
struct Seen {
    kind: EventKind,
    id: Option<ConnectionId>,
    reason: Option<EndReason>,
    phase: Option<Phase>,
    bytes: Option<(u64, u64)>,
    text: String,
}

/// Keeps a copy of each event of the server.
fn with_events(server: Server) -> (Server, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let server = server.name("observed").on_event(move |event| {
        assert_eq!(event.server_name(), "observed");
        let peer = event.peer_addr().map(ToString::to_string);
        match event.connection() {
            Some(connection) => assert_eq!(peer, Some(connection.peer_addr().to_string())),
            None => assert_eq!(peer.is_some(), event.kind() == EventKind::Refused, "{peer:?}"),
        }
        assert_eq!(event.connection().map(|connection| connection.id()), event.id());
        assert_eq!(event.age().is_some(), event.id().is_some());
        kept.lock().unwrap().push(Seen {
            kind: event.kind(),
            id: event.id(),
            reason: event.reason(),
            phase: event.phase(),
            bytes: event.bytes_read().zip(event.bytes_written()),
            text: event.to_string(),
        });
    });
    (server, seen)
}

#[test]
fn each_connection_and_each_phase_has_its_events_once_and_in_order_with_counted_bytes() {
    for &kind in Kind::ALL {
        test(async move {
            let (listener, place) = kind.open();
            let (server, seen) = with_events(Server::new(listener).count_bytes(true));
            let body = async |server: Handle| {
                for _ in 0..2 {
                    let mut client = place.connect().await?;
                    client.write_all(b"hello").await?;
                    client.read_exact(&mut [0; 5]).await?;
                    until(|| {
                        let bytes = |c: &ConnectionInfo| c.bytes_read().zip(c.bytes_written());
                        server.connections().iter().any(|connection| bytes(connection) == Some((5, 5)))
                    })
                    .await;
                    drop(client);
                    until(|| server.connection_count() == 0).await;
                }
                Ok(())
            };
            server.scope(echo, body).await.unwrap();
            let seen = seen.lock().unwrap();
            let of = |kind| seen.iter().filter(|event| event.kind == kind).collect::<Vec<_>>();
            let phases: Vec<_> = of(EventKind::Phase).iter().map(|event| event.phase.unwrap()).collect();
            assert_eq!(phases, [Phase::Serving, Phase::Draining, Phase::Closed], "{kind:?}");
            assert_eq!(of(EventKind::Accepted).len(), 2, "{seen:?}");
            // Two connections are not ordered: the first is off the list a moment before its event.
            let mut ends = of(EventKind::Ended);
            ends.sort_by_key(|end| end.id.unwrap());
            for (n, end) in ends.iter().enumerate() {
                assert_eq!((end.id.unwrap().as_u64(), end.bytes), (n as u64, Some((5, 5))), "{kind:?}: {end:?}");
                assert!(matches!(end.reason, Some(EndReason::Completed | EndReason::Disconnected)), "{end:?}");
                assert!(end.text.ends_with("; 5 bytes read, 5 written"), "{end:?}");
            }
            assert_eq!(ends.len(), 2, "{seen:?}");
        });
    }
}

#[test]
fn a_refused_client_has_an_event_and_bytes_are_not_counted_by_default() {
    test(async {
        let (server, seen) = with_events(bind().await.max_connections_per_ip(1));
        let mut client = connect(server.local_addr());
        let body = async |server: Handle| {
            until(|| server.connection_count() == 1).await;
            let mut refused = connect(server.local_addr());
            task::spawn_blocking(move || assert_eq!(rest(&mut refused), "")).await;
            Ok(())
        };
        server.scope(echo, body).await.unwrap();
        client.read_to_end(&mut Vec::new())?;
        let seen = seen.lock().unwrap();
        assert_eq!(seen.iter().filter(|event| event.kind == EventKind::Refused).count(), 1, "{seen:?}");
        assert!(seen.iter().all(|event| event.bytes.is_none()), "{seen:?}");
        io::Result::Ok(())
    })
    .unwrap();
}

#[test]
fn a_panic_of_the_event_function_is_logged_once_and_the_server_goes_on() {
    test_alone(async {
        let logs = logs::remember();
        let calls = Arc::new(AtomicUsize::new(0));
        let server = bind().await.on_event({
            let calls = Arc::clone(&calls);
            move |_| {
                calls.fetch_add(1, Ordering::SeqCst);
                panic!("it never works")
            }
        });
        let mut client = connect(server.local_addr());
        let body = async |_: Handle| {
            client.write_all(b"x")?;
            client.read_exact(&mut [0])?;
            Ok(())
        };
        let ((), report) = server.scope(echo, body).await.unwrap();
        assert_eq!((report.completed(), calls.load(Ordering::SeqCst)), (1, 5), "{report}");
        let lines = logs.lines_with("the function of `Server::on_event` panicked");
        assert!(lines.len() == 1 && lines[0].1.contains("it never works"), "{lines:?}");
    });
}

#[test]
fn the_event_function_may_use_the_handle_and_request_a_shutdown_or_a_cancel() {
    test(async {
        for cancel in [false, true] {
            let handle: Arc<Mutex<Option<Handle>>> = Arc::default();
            let server = bind().await.on_event({
                let handle = Arc::clone(&handle);
                move |event| {
                    let handle = handle.lock().unwrap().clone().unwrap();
                    let _ = (handle.counts(), handle.connections());
                    if event.kind() == EventKind::Accepted {
                        drop(if cancel { handle.cancel() } else { handle.shutdown() });
                    }
                }
            });
            *handle.lock().unwrap() = Some(server.handle());
            let mut client = connect(server.local_addr());
            let report = server.newcomer_time(Duration::ZERO).serve(echo).await.unwrap();
            assert_eq!((report.accepted(), rest(&mut client)), (1, String::new()), "{report}");
            drop(handle.lock().unwrap().take());
        }
    });
}

async fn all(mut phases: Phases) -> Vec<Phase> {
    let mut all = Vec::new();
    while let Some(phase) = phases.next().await {
        all.push(phase);
    }
    all
}

#[test]
fn any_task_can_wait_for_any_phase_the_lame_duck_included() {
    test(async {
        let server = bind().await.lame_duck(Duration::from_millis(50));
        let handle = server.handle();
        let phases = handle.phases();
        let waiting: Vec<_> = [Phase::Bound, Phase::Serving, Phase::LameDuck, Phase::Draining, Phase::Closed]
            .map(|phase| (phase, handle.reached(phase)))
            .into_iter()
            .map(|(phase, reached)| {
                let handle = handle.clone();
                task::spawn(async move {
                    reached.await;
                    assert!(handle.phase() >= phase);
                })
            })
            .collect();
        let serving = task::spawn(server.serve(echo));
        handle.reached(Phase::Serving).await;
        let stopping = task::spawn({
            let handle = handle.clone();
            async move { handle.until_shutdown(pending::<()>()).await }
        });
        assert_eq!(handle.until_shutdown(async { 1 }).await, Some(1));
        handle.shutdown().await;
        assert_eq!(stopping.await, None);
        assert_eq!(handle.until_shutdown(pending::<()>()).await, None);
        for waiting in waiting {
            waiting.await;
        }
        assert_eq!(all(phases).await, [Phase::Bound, Phase::Serving, Phase::LameDuck, Phase::Draining, Phase::Closed]);
        assert_eq!(all(handle.phases()).await, [Phase::Closed]);
        serving.await.unwrap();

        // A server that is dropped without being served skips to the last phase, so an earlier one counts as reached.
        let server = bind().await;
        let (reached, handle) = (server.handle().reached(Phase::Draining), server.handle());
        drop(server);
        reached.await;
        assert_eq!(handle.phase(), Phase::Closed);
    });
}

#[test]
fn until_shutdown_ends_at_the_request_before_the_drain_and_on_a_clone_at_its_handlers_end() {
    test(async {
        let server = bind().await.lame_duck(FOR_EVER);
        let handle = server.handle();
        let mut client = connect(server.local_addr());
        let (ended, has_ended) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let ended = ended.clone();
            async move {
                assert_eq!(conn.until_shutdown(async { 7 }).await, Some(7));
                if conn.id().as_u64() == 0 {
                    assert_eq!(conn.until_shutdown(pending::<()>()).await, None);
                    assert!(!conn.is_draining(), "the drain begins only after the lame duck");
                    (&conn).write_all(b"soon").await?;
                } else {
                    task::spawn(async move {
                        assert_eq!(conn.until_shutdown(pending::<()>()).await, None);
                        ended.send(()).await.unwrap();
                    });
                }
                io::Result::Ok(())
            }
        };
        let serving = task::spawn(server.serve(handler));
        until(|| handle.connection_count() == 1).await;
        let _second = connect(handle.local_addr());
        has_ended.recv().await.unwrap();
        drop(handle.shutdown());
        assert_eq!(rest(&mut client), "soon");
        handle.shutdown().await; // a second request skips the rest of the lame duck
        serving.await.unwrap();
    });
}

/// The function may own a handle, which keeps the run's state alive: without this drop the two would keep each other.
#[test]
fn the_event_function_is_dropped_when_the_server_is_closed() {
    test(async {
        let server = bind().await;
        let (handle, kept) = (server.handle(), Arc::new(()));
        let server = server.on_event({
            let (handle, kept) = (handle.clone(), Arc::clone(&kept));
            move |_| _ = (handle.phase(), &kept)
        });
        server.shutdown_when(async {}).serve(echo).await.unwrap();
        assert_eq!((Arc::strong_count(&kept), handle.phase()), (1, Phase::Closed));
    });
}

/// After a cancel a body is polled once more. A `join` in the body polls only those of its futures that were woken, so
/// the futures that wait for the last phase must have been woken before that poll.
#[test]
fn a_body_that_waits_for_the_last_phase_sees_it_after_a_cancel() {
    test(async {
        for _ in 0..100 {
            let body = async |server: Handle| {
                drop(server.cancel());
                (server.reached(Phase::Closed), all(server.phases())).join().await;
                Ok(())
            };
            bind().await.scope(echo, body).await.unwrap();
        }
    });
}

/// More tasks than a set of wakers holds, each with a new waker for every poll, as some combinators make them.
#[test]
fn many_tasks_that_wait_for_a_phase_with_changing_wakers_do_not_wake_each_other() {
    test(async {
        let server = bind().await;
        let handle = server.handle();
        let polls = Arc::new(AtomicUsize::new(0));
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let (mut reached, polls) = (handle.reached(Phase::Closed), Arc::clone(&polls));
                task::spawn(std::future::poll_fn(move |cx| {
                    polls.fetch_add(1, Ordering::SeqCst);
                    let fresh = Waker::from(Arc::new(Forward(cx.waker().clone())));
                    Pin::new(&mut reached).poll(&mut Context::from_waker(&fresh))
                }))
            })
            .collect();
        until(|| polls.load(Ordering::SeqCst) >= 100).await;
        task::sleep(Duration::from_millis(50)).await;
        assert_eq!(polls.load(Ordering::SeqCst), 100);
        drop(server);
        for waiting in waiting {
            waiting.await;
        }
    });
}

struct Forward(Waker);

impl Wake for Forward {
    fn wake(self: Arc<Self>) {
        self.0.wake_by_ref();
    }
}

/// A random server reported `Cancelling` before `Draining`: its supervisor had entered the drain, and before it had
/// reported that, another thread dropped the server, and entered and reported the next phase.
///
/// Here the waker of a task that waits for the drain keeps the supervisor at that point until the drop has got so far.
#[test]
fn phases_are_reported_in_their_order_although_a_drop_comes_while_the_drain_begins() {
    struct Meets {
        handle: Handle,
        has_entered: std::sync::mpsc::Sender<()>,
    }
    impl Wake for Meets {
        fn wake(self: Arc<Self>) {
            let _ = self.has_entered.send(());
            let end = std::time::Instant::now() + NET;
            while self.handle.phase() < Phase::Cancelling && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
        }
    }
    test(async {
        let (server, seen) = with_events(bind().await);
        let handle = server.handle();
        let mut serving = Box::pin(server.serve(echo));
        assert!(futures_lite::future::poll_once(serving.as_mut()).await.is_none());
        let (has_entered, entered) = std::sync::mpsc::channel();
        let waker = Waker::from(Arc::new(Meets { handle: handle.clone(), has_entered }));
        let mut draining = handle.reached(Phase::Draining);
        assert!(Pin::new(&mut draining).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(handle.shutdown());
        entered.recv_timeout(NET).expect("the drain begins");
        drop(serving);
        let phases: Vec<_> = seen.lock().unwrap().iter().filter_map(|event| event.phase).collect();
        assert_eq!(phases, [Phase::Serving, Phase::Draining, Phase::Cancelling, Phase::Closed]);
    });
}

/// A random server never reported `Closed`: while the thread of a drop still reported `Cancelling`, another thread
/// closed the run, left the report of `Closed` to the first one, and dropped the function.
///
/// Here the function itself runs the server's executor until the run is closed.
#[test]
fn the_phase_closed_is_reported_although_an_earlier_phase_is_still_being_reported() {
    test(async {
        let executor = Arc::new(async_executor::Executor::new());
        let (spawner, runner) = (Arc::clone(&executor), Arc::clone(&executor));
        let server = bind().await.executor(move |job| spawner.spawn(job).detach());
        let handle = server.handle();
        let (server, seen) = with_events(server.on_event(move |event| {
            while event.phase() == Some(Phase::Cancelling) && handle.phase() < Phase::Closed && runner.try_tick() {}
        }));
        let mut serving = Box::pin(server.serve(echo));
        assert!(futures_lite::future::poll_once(serving.as_mut()).await.is_none());
        drop(serving);
        let phases: Vec<_> = seen.lock().unwrap().iter().filter_map(|event| event.phase).collect();
        assert_eq!(phases, [Phase::Serving, Phase::Cancelling, Phase::Closed]);
    });
}
