//! User code that panics, blocks or never stops in unexpected places: an error's conversion, a destructor, a shutdown
//! stream, a task. The server goes on, its counts add up, and every way out ends closed.

use crate::support::*;
use async_std::{prelude::*, task};
use ebbtide::{Connection, Handle, Listener, OnFailure, Phase, Server};
use std::future::{Future, pending};
use std::io::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// Error whose conversion into a `BoxError` panics.
struct NoError;

impl From<NoError> for ebbtide::BoxError {
    fn from(_: NoError) -> Self {
        panic!("in a conversion");
    }
}

/// Serves a client whose handler misbehaves, and then one whose handler waits for the drain. Asserts that the server
/// goes on after the first and drains the second. Returns `(completed, failed, panicked, cancelled)`.
fn one_misbehaves<F, Fut, T>(misbehave: F) -> (u64, u64, u64, u64)
where
    F: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), T>> + Send + 'static,
    T: Into<ebbtide::BoxError> + 'static,
{
    test(async move {
        let server = bind().await;
        let mut bad = connect(server.local_addr());
        type Boxed<T> = Pin<Box<dyn Future<Output = Result<(), T>> + Send>>;
        let handler = move |conn: Connection| -> Boxed<T> {
            if conn.id().as_u64() == 0 {
                return Box::pin(misbehave(conn));
            }
            Box::pin(async move {
                conn.until_draining(pending::<()>()).await;
                let _ = (&conn).write_all(b"bye").await;
                Ok(())
            })
        };
        let body = async |server: Handle| {
            task::spawn_blocking(move || assert_eq!(rest(&mut bad), "")).await;
            while server.connection_count() > 0 {
                task::yield_now().await;
            }
            assert!(server.is_serving());
            let mut good = connect(server.local_addr());
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
            drop(server.shutdown());
            task::spawn_blocking(move || assert_eq!(rest(&mut good), "bye")).await;
        };
        let (_, report) = server.scope(handler, body).await.expect("a handler's panic does not end the server");
        (report.completed(), report.failed(), report.panicked(), report.cancelled())
    })
}

#[test]
fn a_handlers_error_whose_destructor_panics_counts_as_failed() {
    assert_eq!(one_misbehaves(|_| async { Err(Bomb("in a destructor")) }), (1, 1, 0, 0));
}

#[test]
fn a_handlers_error_whose_conversion_panics_counts_as_panicked() {
    assert_eq!(one_misbehaves(|_| async { Err(NoError) }), (1, 0, 1, 0));
}

#[test]
fn a_panic_of_a_task_and_then_of_its_handlers_destructor_count_as_one() {
    let counts = one_misbehaves(|conn: Connection| async move {
        conn.spawn(async { panic!("a task of a connection") });
        let _bomb = Bomb("in a destructor");
        pending::<Result<(), std::io::Error>>().await
    });
    assert_eq!(counts, (1, 0, 1, 0));
}

#[test]
fn a_handler_closure_whose_destructor_panics_does_not_change_the_scopes_result() {
    for clients in [0, 3] {
        test(async move {
            let server = bind().await;
            let mut clients: Vec<_> = (0..clients).map(|_| connect(server.local_addr())).collect();
            let bomb = Bomb("in a destructor");
            let handler = move |conn: Connection| {
                let _ = &bomb;
                async move { conn.until_draining(pending::<()>()).await.unwrap_or_default() }
            };
            let (value, report) = server.scope(handler, async |_| Ok("value")).await.unwrap();
            assert_eq!((value, report.completed()), ("value", clients.len() as u64), "{report}");
            for client in &mut clients {
                assert_eq!(rest(client), "");
            }
        });
    }
}

#[test]
fn a_shutdown_stream_that_is_always_ready_cancels_the_server_and_does_not_hang() {
    test(async {
        let server = bind().await.shutdown_on(async_std::stream::repeat(()));
        let report = server.serve(|_: Connection| pending::<()>()).await.unwrap();
        assert_eq!(report.cause(), ebbtide::Cause::Stream);
    });
}

#[test]
fn a_drop_of_an_unserved_server_waits_for_another_thread_that_closes_it() {
    test_alone(async {
        struct Slow(mpsc::Sender<()>);
        impl Drop for Slow {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        let server = bind().await;
        let (handle, live) = (server.handle(), Live::default());
        let (destroying, is_destroying) = mpsc::channel();
        let (alive, slow) = (live.guard(), Slow(destroying));
        handle.spawn(async move {
            let _alive = alive; // dropped after `_slow`, which is declared later
            let _slow = slow;
            pending::<()>().await
        });
        task::sleep(Duration::from_millis(20)).await; // so that the task has begun
        let closing = {
            let handle = handle.clone();
            std::thread::spawn(move || drop(handle.shutdown()))
        };
        is_destroying.recv_timeout(NET).unwrap();
        drop(server);
        assert_eq!((live.count(), handle.phase()), (0, Phase::Closed));
        closing.join().unwrap();
    });
}

#[test]
fn a_closed_server_refuses_a_task_at_once() {
    test(async {
        let server = bind().await;
        let handle = server.handle();
        let serving = task::spawn(server.serve(|_: Connection| async {}));
        handle.cancel().await;
        serving.await.unwrap();
        assert!(handle.spawn(async {}).await.unwrap_err().is_cancelled());
        assert_eq!(handle.phase(), Phase::Closed);
    });
}

#[test]
fn a_task_that_another_thread_spawns_during_the_drop_of_a_server_does_not_outlive_the_drop() {
    const ROUNDS: usize = 500;
    on_thread(|| {
        let end = Instant::now() + NET / 4; // a busy machine has no time for all rounds
        for round in (0..ROUNDS).take_while(|round| *round < 16 || Instant::now() < end) {
            let (listener, _clients) = Listener::memory();
            let server = Server::new(listener);
            let handle = server.handle();
            let mut serving = Box::pin(server.serve(|_: Connection| async {}));
            assert!(serving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let (spawned, over) = (AtomicUsize::new(0), AtomicBool::new(false));
            let phase = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(SeqCst) {
                        let large = [0_u8; 64 * 1024]; // so that the move into the group takes a moment
                        handle.spawn(async move {
                            pending::<()>().await;
                            std::hint::black_box(&large);
                        });
                        spawned.fetch_add(1, SeqCst);
                    }
                });
                while spawned.load(SeqCst) <= round % 8 {
                    std::thread::yield_now();
                }
                drop(serving);
                let phase = handle.phase();
                over.store(true, SeqCst);
                phase
            });
            assert_eq!(phase, Phase::Closed, "round {round}");
        }
    });
}

#[test]
fn a_cancel_blocks_no_executor_thread_while_it_waits_for_a_task_that_blocks_its_own() {
    test_alone(async {
        let server = bind().await;
        let handle = server.handle();
        let mut client = connect(server.local_addr());
        let (blocked, is_blocked) = async_std::channel::bounded(1);
        let (unblock, unblocked) = mpsc::channel::<()>();
        let gate = std::sync::Arc::new(std::sync::Mutex::new(Some(unblocked)));
        let handler = move |conn: Connection| {
            let (gate, blocked) = (gate.clone(), blocked.clone());
            async move {
                conn.spawn(async move {
                    let unblocked = gate.lock().unwrap().take().unwrap();
                    blocked.send(()).await.unwrap();
                    // Blocks its thread until a task has run on another thread. Tasks must not do that.
                    let _ = unblocked.recv_timeout(NET);
                });
                pending::<()>().await
            }
        };
        let serving = task::spawn(server.serve(handler));
        is_blocked.recv().await.unwrap();
        drop(handle.cancel());
        if crate::support::chosen::threads() == 1 {
            unblock.send(()).unwrap(); // there is no other thread
        } else {
            // The handler has been dropped and its client has seen EOF, although the connection waits for the task.
            // Other tasks still run.
            task::spawn_blocking(move || assert_eq!(rest(&mut client), "")).await;
            task::spawn(async move { unblock.send(()).unwrap() }).await;
        }
        assert_eq!(serving.await.unwrap().cancelled(), 1);
    });
}

#[test]
fn a_connection_whose_task_was_cut_still_lingers() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        client.write_all(b"x").unwrap();
        let handler = |mut conn: Connection| async move {
            conn.spawn(pending::<()>());
            conn.read_exact(&mut [0]).await?;
            conn.write_all(b"reply").await
        };
        let body = async |_| {
            let sending = task::spawn_blocking(move || {
                client.write_all(&vec![0; 4 << 20])?;
                let mut reply = String::new();
                std::io::Read::read_to_string(&mut client, &mut reply).map(|_| reply)
            });
            assert_eq!(sending.await.expect("no reset"), "reply");
        };
        server.scope(handler, body).await.unwrap();
    });
}

#[test]
fn after_a_cancel_the_deadline_of_a_connection_has_passed() {
    test(async {
        let server = bind().await.grace(FOR_EVER);
        let _client = connect(server.local_addr());
        let (send, receive) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                send.send(conn).await.unwrap();
                pending::<()>().await
            }
        };
        let handle = server.handle();
        let serving = task::spawn(server.serve(handler));
        let conn = receive.recv().await.unwrap();
        handle.cancel().await;
        assert!(conn.deadline().unwrap() <= std::time::Instant::now());
        serving.await.unwrap();
    });
}

#[test]
fn serve_returns_the_first_failure_although_the_destructors_of_others_panic() {
    test(async {
        let server = bind().await.on_failure(OnFailure::Shutdown);
        let _clients = [connect(server.local_addr()), connect(server.local_addr())];
        let error = server.serve(|_: Connection| async { Err::<(), _>(Bomb("in a destructor")) }).await.unwrap_err();
        assert_eq!(error.report().accepted(), error.report().failed() + error.report().cancelled());
        std::mem::forget(error); // its destructor panics too, and this one is the caller's
    });
}
