//! R1: every way out of `serve` and `scope` ends closed. One test for each row of its table, named for it.
//!
//! Each has two clients: a polite one, whose handler says goodbye when the drain begins, and a stubborn one, whose handler
//! has to be cancelled. Whichever way the scope was left, when control is back no handler lives, both clients see an
//! orderly end, and the port refuses.

use crate::support::*;
use async_std::{future, task};
use ebbtide::{Address, Cause, Error, Listener, OnFailure, Phase, Report, Server};
use futures_concurrency::prelude::*;
use std::future::pending;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

/// Long enough that a polite handler has said goodbye before, on a loaded machine too.
const GRACE: Duration = Duration::from_secs(1);

struct Beach {
    address: Address,
    handlers: Handlers,
    polite: TcpStream,
    stubborn: TcpStream,
}

/// A server with two clients in its queue, which are served as soon as it is.
async fn beach() -> (Server, Beach) {
    let server = Server::bind(loopback()).await.unwrap().grace(GRACE);
    let address = server.local_addr().clone();
    let beach = Beach {
        handlers: Handlers::new(),
        polite: order(&address, POLITE),
        stubborn: order(&address, STUBBORN),
        address,
    };
    (server, beach)
}

impl Beach {
    async fn started(&self) {
        self.handlers.started(2).await;
        assert_eq!(self.handlers.live.count(), 2);
    }

    /// Control is back. `told`: the handlers had their grace.
    fn must_be_closed(mut self, told: bool) {
        assert_eq!(self.handlers.live.count(), 0, "a handler lives");
        assert!(refuses(&self.address), "the port does not refuse");
        assert_eq!(rest(&mut self.polite), if told { "bye" } else { "" });
        assert_eq!(rest(&mut self.stubborn), "");
    }
}

fn drained_then_cancelled(report: &Report, cause: Cause) {
    assert_eq!(report.cause(), cause, "{report}");
    assert_eq!((report.accepted(), report.completed(), report.cancelled()), (2, 1, 1), "{report}");
    assert_eq!(report.drained(), 1, "{report}");
    assert!(report.elapsed() >= GRACE, "{report}");
}

fn cancelled(report: &Report, cause: Cause) {
    assert_eq!(report.cause(), cause, "{report}");
    assert_eq!((report.accepted(), report.cancelled()), (2, 2), "{report}");
    assert!(report.elapsed() < GRACE, "a cancel waits for nothing: {report}");
}

#[test]
fn r01_the_body_returned() {
    test(async {
        let (server, beach) = beach().await;
        let (value, report) = server
            .scope(beach.handlers.handler(), async |server| {
                beach.started().await;
                assert!(server.is_serving());
                42
            })
            .await
            .unwrap();
        assert_eq!(value, Some(42));
        drained_then_cancelled(&report, Cause::BodyReturned);
        beach.must_be_closed(true);
    });
}

#[test]
fn r01_the_body_returned_an_error() {
    test(async {
        let (server, beach) = beach().await;
        let (value, report) = server
            .scope(beach.handlers.handler(), async |_| {
                beach.started().await;
                Err::<(), _>("the body's own")
            })
            .await
            .unwrap();
        assert_eq!(value, Some(Err("the body's own")));
        drained_then_cancelled(&report, Cause::BodyReturned);
        beach.must_be_closed(true);
    });
}

#[test]
fn r01_the_handle_asked_for_a_shutdown() {
    test(async {
        let (server, beach) = beach().await;
        let handle = server.handle();
        let serving = task::spawn(server.serve(beach.handlers.handler()));
        beach.started().await;
        let report = handle.shutdown().await;
        assert!(!handle.is_serving());
        assert_eq!(handle.phase(), Phase::Closed);
        drained_then_cancelled(&report, Cause::Shutdown);
        beach.must_be_closed(true);
        assert_eq!(serving.await.unwrap(), report);
    });
}

#[test]
fn r01_the_first_item_of_a_shutdown_stream() {
    test(async {
        let (server, beach) = beach().await;
        let (ask, asked) = async_std::channel::unbounded();
        let server = server.shutdown_on(asked);
        let serving = task::spawn(server.serve(beach.handlers.handler()));
        beach.started().await;
        ask.send(()).await.unwrap();
        drained_then_cancelled(&serving.await.unwrap(), Cause::ShutdownStream);
        beach.must_be_closed(true);
    });
}

#[test]
fn r01_a_shutdown_future_is_done() {
    test(async {
        let (server, beach) = beach().await;
        let handlers = beach.handlers.clone();
        let server = server.shutdown_when(async move { handlers.started(2).await });
        drained_then_cancelled(&server.serve(beach.handlers.handler()).await.unwrap(), Cause::ShutdownStream);
        beach.must_be_closed(true);
    });
}

#[test]
fn r01_the_body_panicked() {
    on_thread(|| {
        let (server, beach) = task::block_on(beach());
        let scope = async {
            let body = async |_| {
                beach.started().await;
                panic!("the body's own");
            };
            server.scope(beach.handlers.handler(), body).await.map(drop)
        };
        let panic = catch_unwind(AssertUnwindSafe(|| task::block_on(scope))).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the body's own"));
        beach.must_be_closed(true);
    });
}

#[test]
fn r01_a_listener_failed_for_good() {
    test(async {
        let socket = std::net::TcpListener::bind(loopback()).unwrap();
        let listener = Listener::try_from(socket.try_clone().unwrap()).unwrap();
        let address = listener.address().clone();
        let server = Server::new(listener).grace(GRACE);
        let beach = Beach {
            handlers: Handlers::new(),
            polite: order(&address, POLITE),
            stubborn: order(&address, STUBBORN),
            address: address.clone(),
        };
        let handle = server.handle();
        let serving = task::spawn(server.serve(beach.handlers.handler()));
        beach.started().await;
        // Accepting from a socket that does not listen any more: EINVAL.
        socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Both).unwrap();
        drop(socket);
        let error = serving.await.unwrap_err();
        assert!(matches!(&error, Error::Listener { address: at, .. } if *at == address), "{error:?}");
        drained_then_cancelled(error.report(), Cause::ListenerFailed);
        assert_eq!(*error.report(), handle.closed().await);
        let io = std::io::Error::from(error);
        assert_eq!(io.kind(), std::io::ErrorKind::InvalidInput, "the listener's kind is kept");
        assert!(io.to_string().contains(&format!("`{address}`")), "{io}");
        beach.must_be_closed(true);
    });
}

#[test]
fn r01_a_handler_failed_under_on_failure_shutdown() {
    test(async {
        let (server, beach) = beach().await;
        let serving = task::spawn(server.on_failure(OnFailure::Shutdown).serve(beach.handlers.handler()));
        beach.started().await;
        let mut failing = order(&beach.address, FAILS);
        let error = serving.await.unwrap_err();
        let peer = failing.local_addr().unwrap().into();
        assert!(matches!(&error, Error::Handler { peer: at, .. } if *at == peer), "{error:?}");
        assert_eq!(error.report().cause(), Cause::HandlerFailed);
        assert_eq!((error.report().failed(), error.report().completed(), error.report().cancelled()), (1, 1, 1));
        assert_eq!(rest(&mut failing), "");
        beach.must_be_closed(true);
    });
}

#[test]
fn r01_a_handler_panicked_under_on_failure_shutdown() {
    test(async {
        let (server, beach) = beach().await;
        let serving = task::spawn(server.on_failure(OnFailure::Shutdown).serve(beach.handlers.handler()));
        beach.started().await;
        let mut failing = order(&beach.address, PANICS);
        let error = serving.await.unwrap_err();
        let peer = failing.local_addr().unwrap().into();
        assert!(
            matches!(&error, Error::HandlerPanicked { peer: at, message, .. } if *at == peer && message == "as ordered"),
            "{error:?}"
        );
        assert_eq!((error.report().panicked(), error.report().completed(), error.report().cancelled()), (1, 1, 1));
        assert_eq!(rest(&mut failing), "");
        beach.must_be_closed(true);
    });
}

#[test]
fn r01_the_handle_cancelled() {
    test(async {
        let (server, beach) = beach().await;
        let handle = server.handle();
        let serving = task::spawn(server.serve(beach.handlers.handler()));
        beach.started().await;
        let report = handle.cancel().await;
        assert!(!handle.is_serving());
        cancelled(&report, Cause::Cancel);
        beach.must_be_closed(false);
        assert_eq!(serving.await.unwrap(), report);
    });
}

#[test]
fn r01_the_second_item_of_a_shutdown_stream() {
    test(async {
        let (server, mut beach) = beach().await;
        let (ask, asked) = async_std::channel::unbounded();
        let server = server.grace(FOR_EVER).shutdown_on(asked);
        let handle = server.handle();
        let serving = task::spawn(server.serve(beach.handlers.handler()));
        beach.started().await;
        ask.send(()).await.unwrap();
        assert_eq!(rest(&mut beach.polite), "bye"); // the drain has begun, and the stubborn one holds it up
        assert_eq!(handle.phase(), Phase::Draining);
        ask.send(()).await.unwrap();
        let report = serving.await.unwrap();
        assert_eq!(report.cause(), Cause::ShutdownStream, "the first cause wins: {report}");
        assert_eq!((report.completed(), report.cancelled()), (1, 1), "{report}");
        assert_eq!(beach.handlers.live.count(), 0);
        assert_eq!(rest(&mut beach.stubborn), "");
        assert!(refuses(&beach.address));
    });
}

#[test]
fn r01_the_future_was_dropped_by_a_timeout() {
    test(async {
        let (server, beach) = beach().await;
        let handle = server.handle();
        let mut serving = Box::pin(server.serve(beach.handlers.handler()));
        // As often as it takes until both handlers run; the timeout that counts is the last one.
        while beach.handlers.live.count() < 2 {
            let _ = future::timeout(Duration::from_millis(10), &mut serving).await;
        }
        future::timeout(Duration::from_millis(10), serving).await.unwrap_err();
        beach.must_be_closed(false);
        cancelled(&handle.closed().await, Cause::Dropped);
    });
}

#[test]
fn r01_the_future_lost_a_race() {
    test(async {
        let (server, beach) = beach().await;
        let handle = server.handle();
        let serving = async { server.serve(beach.handlers.handler()).await.map(drop) };
        let winner = async {
            beach.started().await;
            Ok(())
        };
        (serving, winner).race().await.unwrap();
        beach.must_be_closed(false);
        cancelled(&handle.closed().await, Cause::Dropped);
    });
}

#[test]
fn r01_the_scope_lost_a_race() {
    test(async {
        let (server, beach) = beach().await;
        let handle = server.handle();
        let body = Live::default();
        let scope = async {
            let body = async |_| {
                let _alive = body.guard();
                pending::<()>().await
            };
            server.scope(beach.handlers.handler(), body).await.map(drop)
        };
        let winner = async {
            beach.started().await;
            assert_eq!(body.count(), 1);
            Ok(())
        };
        (scope, winner).race().await.unwrap();
        assert_eq!(body.count(), 0);
        beach.must_be_closed(false);
        cancelled(&handle.closed().await, Cause::Dropped);
    });
}

#[test]
fn r01_the_task_was_cancelled() {
    test(async {
        let (server, beach) = beach().await;
        let handle = server.handle();
        let serving = task::spawn(server.serve(beach.handlers.handler()));
        beach.started().await;
        assert!(serving.cancel().await.is_none());
        beach.must_be_closed(false);
        cancelled(&handle.closed().await, Cause::Dropped);
    });
}

#[test]
fn r01_an_enclosing_panic() {
    on_thread(|| {
        let (server, beach) = task::block_on(beach());
        let handle = server.handle();
        let enclosing = async {
            let mut serving = pin!(server.serve(beach.handlers.handler()));
            while beach.handlers.live.count() < 2 {
                let _ = future::timeout(Duration::from_millis(10), serving.as_mut()).await;
            }
            panic!("around the server");
        };
        let panic = catch_unwind(AssertUnwindSafe(|| task::block_on(enclosing))).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"around the server"));
        beach.must_be_closed(false);
        let report = on_thread(move || task::block_on(handle.closed()));
        cancelled(&report, Cause::Dropped);
    });
}

#[test]
fn r01_the_future_was_dropped_during_its_drain() {
    test(async {
        let (server, mut beach) = beach().await;
        let server = server.grace(FOR_EVER);
        let handle = server.handle();
        let serving = task::spawn(server.serve(beach.handlers.handler()));
        beach.started().await;
        let closed = handle.shutdown();
        assert_eq!(rest(&mut beach.polite), "bye");
        assert!(serving.cancel().await.is_none());
        assert_eq!(beach.handlers.live.count(), 0);
        assert!(refuses(&beach.address));
        assert_eq!(rest(&mut beach.stubborn), "");
        let report = closed.await;
        assert_eq!(report.cause(), Cause::Shutdown, "the first cause wins: {report}");
        assert_eq!((report.completed(), report.cancelled(), report.drained()), (1, 1, 1), "{report}");
    });
}
