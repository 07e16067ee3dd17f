//! What happens to a server, as it is told: events, phases, counted bytes. Behaviour 73.

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

/// An event, kept.
#[derive(Debug, PartialEq)]
struct Seen {
    kind: EventKind,
    id: Option<ConnectionId>,
    reason: Option<EndReason>,
    phase: Option<Phase>,
    bytes: Option<(u64, u64)>,
    text: String,
}

fn watched(server: Server) -> (Server, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let book = Arc::clone(&seen);
    let server = server.on_event(move |event| {
        assert_eq!(event.connection().map(|connection| connection.id()), event.id());
        assert_eq!(event.age().is_some(), event.id().is_some());
        book.lock().unwrap().push(Seen {
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
fn each_connection_and_each_phase_is_told_once_in_order_with_its_bytes() {
    for &kind in Kind::ALL {
        test(async move {
            let (listener, place) = kind.open();
            let (server, seen) = watched(Server::new(listener).count_bytes(true));
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
            for (n, end) in of(EventKind::Ended).iter().enumerate() {
                assert_eq!((end.id.unwrap().as_u64(), end.bytes), (n as u64, Some((5, 5))), "{kind:?}: {end:?}");
                assert!(matches!(end.reason, Some(EndReason::Completed | EndReason::Disconnected)), "{end:?}");
                assert!(end.text.ends_with("; 5 bytes read, 5 written"), "{end:?}");
            }
            assert_eq!(of(EventKind::Ended).len(), 2, "{seen:?}");
        });
    }
}

#[test]
fn without_the_setting_bytes_are_not_counted_and_refusals_are_told() {
    test(async {
        let (server, seen) = watched(bind().await.max_connections_per_ip(1));
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
fn a_panic_of_the_function_is_logged_once_and_takes_nothing_down() {
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

/// It may use the handle, and even end the server.
#[test]
fn the_function_may_ask_for_the_end() {
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
fn phases_are_waited_for_from_anywhere_the_lame_duck_too() {
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

        // A server that is never served, and one that is cancelled, get to the last phase as well.
        let server = bind().await;
        let (reached, handle) = (server.handle().reached(Phase::Draining), server.handle());
        drop(server);
        reached.await;
        assert_eq!(handle.phase(), Phase::Closed);
    });
}

#[test]
fn a_handler_hears_of_the_request_before_the_drain_and_a_clone_when_its_handler_has_ended() {
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
                    assert!(!conn.is_draining(), "a lame duck comes before");
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
        handle.shutdown().await; // a second request skips the rest of it
        serving.await.unwrap();
    });
}

/// It may keep a handle, which keeps the run: so it is let go when all is told.
#[test]
fn the_function_is_dropped_when_the_server_is_closed() {
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

/// A body gets one more poll when its server was cancelled: what waits for the last phase in it has been woken by then,
/// also where only what was woken is polled.
#[test]
fn a_body_that_waits_for_the_last_phase_sees_it() {
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

/// More than any set of wakers holds, each with a waker of its own for every poll, as some combinators make them.
#[test]
fn many_that_wait_for_a_phase_with_changing_wakers_do_not_wake_each_other() {
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
