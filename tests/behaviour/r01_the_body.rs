//! R1: the body lives as long as the server, and the first cause wins.

use crate::support::*;
use async_std::task;
use ebbtide::{Cause, Error, OnFailure, Phase};
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

#[test]
fn r01_a_body_that_awaits_the_shutdown_finishes_what_follows() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await;
        let mut client = order(server.local_addr(), POLITE);
        let (value, report) = server
            .scope(handlers.handler(), async |server| {
                handlers.started(1).await;
                let report = server.shutdown().await;
                (report, server.phase())
            })
            .await
            .unwrap();
        assert_eq!(value, Some((report.clone(), Phase::Closed)));
        assert_eq!(report.cause(), Cause::Shutdown);
        assert_eq!(rest(&mut client), "bye");
    });
}

#[test]
fn r01_a_body_that_awaits_the_shutdown_in_a_race_finishes_too() {
    use futures_concurrency::prelude::*;
    test(async {
        for _ in 0..200 {
            // Combinators poll only those of their futures that were woken, so the order of the wakes matters.
            let body = async |server: ebbtide::Handle| {
                let closed = async { server.shutdown().await.cause() };
                (closed, pending()).race().await
            };
            let (value, _) = bind().await.scope(Handlers::new().handler(), body).await.unwrap();
            assert_eq!(value, Some(Cause::Shutdown));
        }
    });
}

#[test]
fn r01_a_body_that_waits_for_something_else_is_dropped_when_the_server_has_closed() {
    test(async {
        let live = Live::default();
        let body = async |server: ebbtide::Handle| {
            let _alive = live.guard();
            drop(server.shutdown());
            pending::<()>().await
        };
        let (value, report) = bind().await.scope(Handlers::new().handler(), body).await.unwrap();
        assert_eq!((value, report.cause(), live.count()), (None, Cause::Shutdown, 0));
    });
}

#[test]
fn r01_a_body_runs_on_during_the_drain_and_may_borrow_from_its_caller() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.grace(Duration::from_secs(1));
        let mut client = order(server.local_addr(), STUBBORN);
        let mut seen = Vec::new();
        let (value, report) = server
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
        assert_eq!((value, report.cancelled()), (None, 1));
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r01_a_handler_that_fails_after_the_body_returned_takes_nothing_from_it() {
    test(async {
        let server = bind().await.on_failure(OnFailure::Shutdown);
        let mut client = connect(server.local_addr());
        let (start, started) = async_std::channel::bounded(1);
        let handler = move |conn: ebbtide::Connection| {
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
                "first"
            })
            .await
            .expect("the body was first");
        assert_eq!((value, report.cause(), report.failed()), (Some("first"), Cause::BodyReturned, 1));
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
            .scope(handlers.handler(), async |server| server.until_draining(pending::<()>()).await.is_none())
            .await;
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Handler { .. }), "{error:?}");
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
            let (start, started) = async_std::channel::bounded(1);
            let _client = connect(server.local_addr());
            let handler = move |conn: ebbtide::Connection| {
                let (seen, start) = (seen.clone(), start.clone());
                async move {
                    start.send(()).await.unwrap();
                    conn.until_draining(pending::<()>()).await;
                    assert_eq!(seen.count(), 0, "the body is still there in the drain");
                }
            };
            let body = async |_| {
                let _alive = body_alive.guard();
                started.recv().await.unwrap();
                panic!("the body's own");
            };
            let _ = handlers;
            server.scope(handler, body).await.map(|(_, report): (Option<()>, _)| report)
        };
        let panic = catch_unwind(AssertUnwindSafe(|| task::block_on(scope))).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the body's own"));
    });
}

#[test]
fn r01_a_panic_that_a_drop_swallows_is_logged() {
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
            server.scope(inner.handler(), body).await.map(|(_, report): (Option<()>, _)| report)
        });
        handle.until_draining(pending::<()>()).await;
        assert!(scope.cancel().await.is_none());
        assert_eq!(handlers.live.count(), 0);
        assert_eq!(handle.closed().await.cause(), Cause::BodyPanicked);
        drop(client);
    });
    let lines = logs.lines_with("swallowed by the drop");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].0, log::Level::Error);
}
