//! R1 for a server that is bound but never served, and for a `serve` future that is not polled.

use crate::support::*;
use async_std::{future, task};
use ebbtide::{Cause, Listener, Phase, Server};
use std::future::Future;
use std::io::Read;
use std::pin::pin;
use std::sync::{Arc, Barrier};
use std::task::Context;
use std::time::Duration;

#[test]
fn r01_a_server_that_is_never_served_is_closed_by_shutdown() {
    test(async {
        let server = bind().await;
        let (handle, address) = (server.handle(), server.local_addr().clone());
        assert_eq!((handle.phase(), handle.is_serving()), (Phase::Bound, false));
        let report = handle.shutdown().await;
        assert!(refuses(&address));
        assert_eq!((report.cause(), report.accepted(), handle.phase()), (Cause::Shutdown, 0, Phase::Closed));
        // A `serve` after the close returns at once.
        assert_eq!(server.serve(Handlers::new().handler()).await.unwrap(), report);
    });
}

#[test]
fn r01_a_server_that_is_never_served_is_closed_by_cancel() {
    test(async {
        let server = bind().await;
        let address = server.local_addr().clone();
        assert_eq!(server.handle().cancel().await.cause(), Cause::Cancel);
        assert!(refuses(&address));
        // The body of a scope still gets its first poll, and its value is returned.
        let (value, report) = server.scope(Handlers::new().handler(), async |_| Ok(1)).await.unwrap();
        assert_eq!((value, report.cause()), (1, Cause::Cancel));
    });
}

#[test]
fn r01_a_server_that_is_never_served_is_closed_by_its_drop() {
    test(async {
        let server = bind().await;
        let (handle, address) = (server.handle(), server.local_addr().clone());
        let closed = handle.closed();
        let mut queued = connect(&address);
        drop(server);
        assert!(refuses(&address));
        assert_eq!(closed.await.cause(), Cause::Dropped);
        // The client was in the backlog, and is closed: a reset, or EOF.
        assert!(matches!(queued.read(&mut [0]), Ok(0) | Err(_)));
    });
}

#[test]
fn r01_dropping_a_serve_future_that_was_never_polled_closes_the_server() {
    test(async {
        let server = bind().await;
        let (handle, address) = (server.handle(), server.local_addr().clone());
        let serving = server.serve(Handlers::new().handler());
        assert!(!handle.is_serving(), "a server serves from its first poll on, not earlier");
        drop(serving);
        assert!(refuses(&address));
        assert_eq!(handle.closed().await.cause(), Cause::Dropped);
    });
}

#[test]
fn r01_a_shutdown_completes_beside_a_serve_future_that_is_not_polled() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await;
        let (handle, address) = (server.handle(), server.local_addr().clone());
        let mut client = order(&address, POLITE);
        let mut serving = pin!(server.serve(handlers.handler()));
        // The one poll starts the server. After it this task polls only the handle's future.
        assert!(serving.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        assert!(handle.is_serving());
        handlers.started(1).await;
        let report = handle.shutdown().await;
        assert_eq!(handlers.live.count(), 0);
        assert_eq!(rest(&mut client), "bye");
        assert!(refuses(&address));
        assert_eq!(serving.await.unwrap(), report);
    });
}

#[test]
fn r01_the_grace_ends_although_the_serve_future_is_not_polled() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.grace(Duration::from_millis(50));
        let (handle, address) = (server.handle(), server.local_addr().clone());
        let mut client = order(&address, STUBBORN);
        let mut serving = pin!(server.serve(handlers.handler()));
        assert!(serving.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        handlers.started(1).await;
        assert_eq!(handle.shutdown().await.cancelled(), 1);
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r01_clients_that_connect_before_the_server_serves_are_served_later() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await;
        let mut client = order(server.local_addr(), REPLIES);
        let (_, report) = server.scope(handlers.handler(), async |_| handlers.started(1).await).await.unwrap();
        assert_eq!(rest(&mut client), "whole reply");
        assert_eq!(report.completed(), 1);
    });
}

#[test]
fn r01_the_tasks_of_a_server_that_is_never_served_end_with_it() {
    test(async {
        let server = bind().await;
        let (handle, live) = (server.handle(), Live::default());
        let guard = live.guard();
        let task = handle.spawn(async move {
            let _guard = guard;
            task::sleep(FOR_EVER).await;
        });
        assert!(!task.is_finished());
        drop(server);
        assert_eq!(live.count(), 0);
        future::timeout(NET, handle.closed()).await.unwrap();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(handle.spawn(async {}).await.unwrap_err().is_cancelled(), "a closed server takes no tasks");
    });
}

/// The story: the thread that came second found nothing left to close, and returned while the first still had the last
/// guard of the run. A model found it (`run/loom_tests.rs`, of nearly the same name).
#[test]
fn r01_a_shutdown_and_a_drop_of_a_server_that_never_served_both_return_after_its_close() {
    on_thread(|| {
        for _ in 0..2_000 {
            let server = Server::new(Listener::memory().0);
            let handle = server.handle();
            let start = Arc::new(Barrier::new(2));
            let other = std::thread::spawn({
                let (handle, start) = (handle.clone(), Arc::clone(&start));
                move || {
                    start.wait();
                    let _closed = handle.shutdown();
                    handle.phase()
                }
            });
            start.wait();
            drop(server);
            assert_eq!((handle.phase(), other.join().unwrap()), (Phase::Closed, Phase::Closed));
        }
    });
}
