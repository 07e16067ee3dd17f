//! R1: the body of a scope lives as long as its server, or a little longer, and the first cause of an end wins.

use crate::support::scripted::Script;
use crate::support::*;
use async_std::channel::{Sender, bounded};
use async_std::task;
use ebbtide::{Cause, Connection, ErrorKind, Handle, OnFailure, Phase, Server};
use futures_concurrency::prelude::*;
use log::Level;
use std::future::{pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

async fn idle(_: Connection) {}

/// Runs a scope beside `stop`, which stops its server as soon as the body has sent that it waits.
async fn stopped<T>(stop: impl FnOnce(), scope: impl AsyncFnOnce(Sender<()>) -> T) -> T {
    let (waits, waiting) = bounded(1);
    let stopping = async move {
        waiting.recv().await.unwrap();
        stop();
    };
    (scope(waits), stopping).join().await.0
}

/// Waits without end, wakes no task, and counts its polls after the server has closed.
async fn counts_polls_after_close(server: &Handle, polls: &AtomicUsize) {
    let look = |_: &mut Context<'_>| {
        polls.fetch_add(usize::from(server.phase() == Phase::Closed), SeqCst);
        Poll::Pending
    };
    poll_fn(look).await
}

/// Asserts that there were one or two polls: the one that the server's end caused, and perhaps the one more that a
/// body gets.
fn polled_once_more(polls: &AtomicUsize) {
    let polls = polls.swap(0, SeqCst);
    assert!((1..=2).contains(&polls), "1 or 2 polls were expected after the close, not {polls}");
}

#[test]
fn r01_a_body_that_awaits_the_shutdown_runs_to_its_end() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await;
        let mut client = order(server.local_addr(), POLITE);
        let (value, report) = server
            .scope(handlers.handler(), async |server| {
                handlers.started(1).await;
                let report = server.shutdown().await;
                Ok((report, server.phase()))
            })
            .await
            .unwrap();
        assert_eq!(value, (report.clone(), Phase::Closed));
        assert_eq!(report.cause(), Cause::Shutdown);
        assert_eq!(rest(&mut client), "bye");
    });
}

#[test]
fn r01_a_body_that_awaits_the_shutdown_in_a_race_runs_to_its_end() {
    test(async {
        for _ in 0..200 {
            // A combinator polls only those of its futures that were woken, so the order of the wake-ups matters.
            let body = async |server: Handle| {
                let closed = async { server.shutdown().await.cause() };
                Ok((closed, pending()).race().await)
            };
            let (value, _) = bind().await.scope(Handlers::new().handler(), body).await.unwrap();
            assert_eq!(value, Cause::Shutdown);
        }
    });
}

#[test]
fn r01_a_body_that_waits_for_something_else_is_dropped_when_the_server_has_closed() {
    test(async {
        let live = Live::default();
        let body = async |server: Handle| {
            let _alive = live.guard();
            drop(server.shutdown());
            loop {
                pending::<()>().await
            }
        };
        let ((), report) = bind().await.scope(Handlers::new().handler(), body).await.unwrap();
        assert_eq!((report.cause(), live.count()), (Cause::Shutdown, 0));
    });
}

#[test]
fn r01_a_body_keeps_running_in_the_drain_and_may_borrow_from_its_caller() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.grace(Duration::from_secs(1));
        let mut client = order(server.local_addr(), STUBBORN);
        let mut seen = Vec::new();
        let ((), report) = server
            .scope(handlers.handler(), async |server| {
                handlers.started(1).await;
                drop(server.shutdown());
                server.until_draining(pending::<()>()).await;
                seen.push((server.phase(), server.connection_count(), server.is_serving()));
                pending::<()>().await;
            })
            .await
            .unwrap();
        assert_eq!(seen, [(Phase::Draining, 1, false)]);
        assert_eq!(report.cancelled(), 1);
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r01_a_handler_that_fails_after_the_body_returned_does_not_replace_its_value() {
    test(async {
        let server = bind().await.on_failure(OnFailure::Shutdown);
        let mut client = connect(server.local_addr());
        let (start, started) = bounded(1);
        let handler = move |conn: Connection| {
            let start = start.clone();
            async move {
                start.send(()).await.unwrap();
                conn.until_draining(pending::<()>()).await;
                Err::<(), _>("too late")
            }
        };
        let (value, report) = server
            .scope(handler, async |_| {
                started.recv().await.unwrap();
                Ok("first")
            })
            .await
            .expect("the body was first");
        assert_eq!((value, report.cause(), report.failed()), ("first", Cause::BodyReturned, 1));
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r01_a_body_that_returns_after_a_failure_does_not_hide_it() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.on_failure(OnFailure::Shutdown);
        let mut client = order(server.local_addr(), FAILS);
        let result = server
            .scope(handlers.handler(), async |server| Ok(server.until_draining(pending::<()>()).await.is_none()))
            .await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Handler, "{error:?}");
        assert_eq!(error.report().cause(), Cause::HandlerFailed);
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r01_a_body_that_panicked_is_dropped_before_the_drain() {
    on_thread(|| {
        let handlers = Handlers::new();
        let body_alive = Live::default();
        let scope = async {
            let server = bind().await;
            let seen = body_alive.clone();
            let (start, started) = bounded(1);
            let _client = connect(server.local_addr());
            let handler = move |conn: Connection| {
                let (seen, start) = (seen.clone(), start.clone());
                async move {
                    start.send(()).await.unwrap();
                    conn.until_draining(pending::<()>()).await;
                    assert_eq!(seen.count(), 0, "the body is still alive in the drain");
                }
            };
            let body = async |_| {
                let _alive = body_alive.guard();
                started.recv().await.unwrap();
                panic!("the body's own");
            };
            let _ = handlers;
            server.scope(handler, body).await.map(|((), report)| report)
        };
        let panic = catch_unwind(AssertUnwindSafe(|| task::block_on(scope))).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the body's own"));
    });
}

#[test]
fn r01_a_panic_of_the_body_that_a_drop_swallows_is_logged() {
    let logs = logs::remember();
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.grace(FOR_EVER);
        let client = order(server.local_addr(), STUBBORN);
        let handle = server.handle();
        let inner = handlers.clone();
        let scope = task::spawn(async move {
            let body = async |_| {
                inner.started(1).await;
                panic!("swallowed by the drop");
            };
            server.scope(inner.handler(), body).await.map(|((), report)| report)
        });
        handle.until_draining(pending::<()>()).await;
        assert!(scope.cancel().await.is_none());
        assert_eq!(handlers.live.count(), 0);
        assert_eq!(handle.closed().await.cause(), Cause::BodyPanicked);
        drop(client);
    });
    let lines = logs.lines_with("swallowed by the drop");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].0, Level::Error);
}

#[test]
fn r01_an_error_of_the_body_is_returned_unchanged_by_whichever_cause_the_server_ended() {
    for (by_others, cause) in [(false, Cause::BodyFailed), (true, Cause::Shutdown)] {
        test(async move {
            let handlers = Handlers::new();
            let server = bind().await.grace(FOR_EVER);
            let mut client = order(server.local_addr(), POLITE);
            let body = async |server: Handle| {
                handlers.started(1).await;
                if by_others {
                    drop(server.shutdown());
                    server.until_draining(pending::<()>()).await;
                }
                Err::<(), _>(io::Error::new(io::ErrorKind::NotFound, "no such room"))?;
                Ok(())
            };
            let error = server.scope(handlers.handler(), body).await.unwrap_err();
            assert_eq!((error.kind(), error.report().cause()), (ErrorKind::Body, cause), "{error:?}");
            assert_eq!(error.report().completed(), 1, "{error:?}");
            assert_eq!(rest(&mut client), "bye");
            let error = io::Error::from(error);
            assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::NotFound, "no such room".to_owned()));
        });
    }
}

#[test]
fn r01_an_earlier_failure_is_returned_and_the_bodys_error_is_logged() {
    let logs = logs::remember();
    test(async move {
        let (listener, script) = Script::listener();
        let body = async |server: Handle| {
            script.fail(io::ErrorKind::InvalidInput);
            server.until_draining(pending::<()>()).await;
            Err::<(), _>("of a body, after its listener".into())
        };
        let error = Server::new(listener).scope(idle, body).await.unwrap_err();
        assert_eq!((error.kind(), error.report().cause()), (ErrorKind::Listener, Cause::ListenerFailed), "{error:?}");
        let lines = logs.lines_with("of a body, after its listener");
        assert!(matches!(lines[..], [(Level::Warn, _)]), "{lines:?}");
    });
}

#[test]
fn r01_an_earlier_failure_is_returned_although_the_body_never_ends() {
    test(async {
        let (listener, script) = Script::listener();
        let body = async |_| {
            script.fail(io::ErrorKind::InvalidInput);
            pending::<()>().await;
            Ok(())
        };
        let server = Server::new(listener).grace(Duration::from_millis(50));
        let error = server.scope(idle, body).await.unwrap_err();
        assert_eq!((error.kind(), error.report().cause()), (ErrorKind::Listener, Cause::ListenerFailed), "{error:?}");
    });
}

#[test]
fn r01_an_error_of_the_body_that_a_drop_swallows_is_logged() {
    let logs = logs::remember();
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.grace(FOR_EVER);
        let client = order(server.local_addr(), STUBBORN);
        let handle = server.handle();
        let inner = handlers.clone();
        let scope = task::spawn(async move {
            let body = async |_| {
                inner.started(1).await;
                Err::<(), _>("of a body, before a drop".into())
            };
            server.scope(inner.handler(), body).await.map(drop)
        });
        handle.until_draining(pending::<()>()).await;
        assert!(scope.cancel().await.is_none());
        assert_eq!((handlers.live.count(), handle.closed().await.cause()), (0, Cause::BodyFailed));
        drop(client);
    });
    let lines = logs.lines_with("of a body, before a drop");
    assert!(matches!(lines[..], [(Level::Warn, _)]), "{lines:?}");
}

#[test]
fn r01_a_body_that_never_returns_is_polled_once_more_after_the_close_and_dropped() {
    test(async {
        let polls = AtomicUsize::new(0);
        for cause in [Cause::Shutdown, Cause::Cancel] {
            let server = bind().await.grace(FOR_EVER);
            let handle = server.handle();
            let stop = move || drop(if cause == Cause::Cancel { handle.cancel() } else { handle.shutdown() });
            let scope = async |waits: Sender<()>| {
                let body = async |server: Handle| {
                    waits.send(()).await.unwrap();
                    loop {
                        counts_polls_after_close(&server, &polls).await
                    }
                };
                server.scope(idle, body).await
            };
            let ((), report) = stopped(stop, scope).await.unwrap();
            assert_eq!(report.cause(), cause);
            polled_once_more(&polls);
        }
    });
}

#[test]
fn r01_after_a_cancel_every_body_is_polled_once_more_and_dropped_whatever_the_grace() {
    test(async {
        let polls = AtomicUsize::new(0);
        let server = bind().await.grace(FOR_EVER);
        let handle = server.handle();
        let scope = async |waits: Sender<()>| {
            let body = async |server: Handle| {
                waits.send(()).await.unwrap();
                counts_polls_after_close(&server, &polls).await
            };
            server.scope(idle, body).await
        };
        let ((), report) = stopped(move || drop(handle.cancel()), scope).await.unwrap();
        assert_eq!(report.cause(), Cause::Cancel);
        polled_once_more(&polls);

        let server = bind().await.grace(FOR_EVER);
        let handle = server.handle();
        let scope = async |waits: Sender<()>| {
            let body = async |server: Handle| {
                waits.send(()).await.unwrap();
                counts_polls_after_close(&server, &polls).await;
                Ok(())
            };
            server.scope(idle, body).await
        };
        let error = stopped(move || drop(handle.cancel()), scope).await.unwrap_err();
        assert_eq!((error.kind(), error.report().cause()), (ErrorKind::Stopped, Cause::Cancel), "{error:?}");
        polled_once_more(&polls);
    });
}

#[test]
fn r01_a_body_may_run_a_little_longer_than_its_server() {
    test(async {
        // Another task produces what the body waits for, some time after the server's end.
        let later = |server: &Handle| {
            let closed = server.shutdown();
            task::spawn(async move {
                closed.await;
                for _ in 0..100 {
                    task::yield_now().await;
                }
                7
            })
        };
        let mut end = None;
        let body = async |server: Handle| end = Some((later(&server).await, server.phase()));
        let ((), report) = bind().await.grace(FOR_EVER).scope(idle, body).await.unwrap();
        assert_eq!((end, report.cause()), (Some((7, Phase::Closed)), Cause::Shutdown));

        let body = async |server: Handle| Ok(later(&server).await);
        let (value, report) = bind().await.grace(FOR_EVER).scope(idle, body).await.unwrap();
        assert_eq!((value, report.cause()), (7, Cause::Shutdown));
    });
}

#[test]
fn r01_a_body_that_does_not_end_is_dropped_at_the_end_of_the_grace() {
    const GRACE: Duration = Duration::from_millis(200);
    test(async {
        let live = Live::default();
        let start = Instant::now();
        let body = async |server: Handle| {
            let _alive = live.guard();
            server.shutdown().await;
            pending::<()>().await;
        };
        let ((), report) = bind().await.grace(GRACE).scope(idle, body).await.unwrap();
        assert_eq!((report.cause(), live.count()), (Cause::Shutdown, 0));
        assert!(start.elapsed() >= GRACE);

        let start = Instant::now();
        let body = async |server: Handle| {
            let _alive = live.guard();
            server.shutdown().await;
            pending::<()>().await;
            Ok(7)
        };
        let error = bind().await.grace(GRACE).scope(idle, body).await.unwrap_err();
        assert_eq!((error.kind(), error.report().cause()), (ErrorKind::Stopped, Cause::Shutdown), "{error:?}");
        assert_eq!((error.address(), live.count()), (None, 0));
        let text = "the server was stopped before the body of its scope returned, because a shutdown was requested";
        assert_eq!(error.to_string(), text);
        assert!(start.elapsed() >= GRACE);
    });
}

#[test]
fn r01_closed_does_not_wait_for_the_body_and_a_cancel_drops_the_body_at_once() {
    test(async {
        let live = Live::default();
        let server = bind().await.grace(FOR_EVER);
        let handle = server.handle();
        let body = async |server: Handle| {
            let _alive = live.guard();
            drop(server.shutdown());
            pending::<()>().await
        };
        let others = async {
            let report = handle.closed().await;
            assert_eq!(live.count(), 1);
            assert_eq!(handle.cancel().await, report);
            report
        };
        let (left, report) = (server.scope(idle, body), others).join().await;
        assert_eq!((left.unwrap(), live.count()), (((), report), 0));
    });
}

#[test]
fn r01_a_body_that_still_runs_a_second_after_the_close_is_logged_at_warn() {
    const WARNING: &str = "the server is closed, and the body of its scope still runs: it is dropped in ";
    test_alone(async {
        let logs = logs::remember();
        let start = Instant::now();
        let body = async |server: Handle| {
            drop(server.shutdown());
            pending::<()>().await
        };
        bind().await.grace(Duration::from_millis(1500)).scope(idle, body).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(1500));
        let lines = logs.lines_with(WARNING);
        assert!(matches!(lines[..], [(Level::Warn, _)]), "{lines:?}");

        // Under a grace without a limit, the body has 8 seconds.
        let logs = logs::remember();
        let server = bind().await.grace(None);
        let handle = server.handle();
        let warned = async {
            until(|| !logs.lines_with(WARNING).is_empty()).await;
            handle.cancel().await;
        };
        let (left, ()) = (server.scope(idle, body), warned).join().await;
        left.unwrap();
        let lines = logs.lines_with(WARNING);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let (_, left) = lines[0].1.split_once(WARNING).unwrap();
        let (left, _) = left.split_once('s').unwrap();
        assert!((2.0..=7.0).contains(&left.parse::<f64>().unwrap()), "{lines:?}");
    });
}

#[test]
fn r01_an_io_error_of_a_body_passes_unchanged_through_an_enclosing_scope() {
    test(async {
        let inner = bind().await;
        let body = async |_| {
            let not_found = async |_| Err::<(), _>(io::Error::new(io::ErrorKind::NotFound, "the inner body's").into());
            inner.scope(idle, not_found).await?;
            Ok(())
        };
        let error = bind().await.scope(idle, body).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Body);
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::NotFound, "the inner body's".to_owned()));
    });
}
