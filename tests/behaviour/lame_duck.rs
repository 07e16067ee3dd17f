//! The lame duck: after the request the server is not ready any more but still accepts. The lame duck and the grace
//! have one deadline together.

use crate::support::*;
use async_std::task;
use ebbtide::{Cause, Connection, Handle, Phase, Server};
use std::future::pending;
use std::time::{Duration, Instant};

/// Waits for the phase. Panics if the server has already passed it.
async fn reach(server: &Handle, phase: Phase) {
    let reached = async {
        loop {
            let now = server.phase();
            assert!(now <= phase, "the server is {now}, after {phase}");
            if now == phase {
                return;
            }
            task::yield_now().await;
        }
    };
    async_std::future::timeout(NET, reached).await.expect("the server never reached the phase");
}

#[test]
fn a_lame_duck_is_not_ready_and_still_accepts() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.lame_duck(Duration::from_millis(300));
        let address = server.local_addr().clone();
        let mut before = order(&address, POLITE);
        let start = Instant::now();
        let body = async |server: Handle| {
            handlers.started(1).await;
            assert!(server.is_ready() && server.is_serving());
            drop(server.shutdown());
            assert!(!server.is_ready(), "still ready after the request");
            reach(&server, Phase::LameDuck).await;
            assert!(server.is_serving());
            let mut during = order(&address, REPLIES);
            handlers.started(1).await;
            assert_eq!(task::spawn_blocking(move || rest(&mut during)).await, "whole reply");
            assert_eq!(server.phase(), Phase::LameDuck, "the drain begins only after the lame duck");
            server.until_draining(pending::<()>()).await;
            assert!(refuses(&address));
        };
        let (_, report) = server.scope(handlers.handler(), body).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(300));
        assert_eq!((report.cause(), report.completed()), (Cause::Shutdown, 2), "{report}");
        assert_eq!(rest(&mut before), "bye");
    });
}

#[test]
fn a_second_request_skips_the_lame_duck() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.lame_duck(FOR_EVER);
        let handle = server.handle();
        let mut client = order(server.local_addr(), POLITE);
        let serving = task::spawn(server.serve(handlers.handler()));
        handlers.started(1).await;
        drop(handle.shutdown());
        reach(&handle, Phase::LameDuck).await;
        assert_eq!(handle.shutdown().await.completed(), 1);
        assert_eq!(rest(&mut client), "bye");
        serving.await.unwrap();
    });
}

#[test]
fn a_body_that_returns_and_a_handler_that_fails_during_the_lame_duck_do_not_shorten_it() {
    test(async {
        let lame_duck = Duration::from_millis(200);
        let handlers = Handlers::new();
        let server = bind().await.lame_duck(lame_duck).on_failure(ebbtide::OnFailure::Shutdown);
        let address = server.local_addr().clone();
        let body = async |server: Handle| {
            drop(server.shutdown());
            reach(&server, Phase::LameDuck).await;
            let mut failing = order(&address, FAILS);
            handlers.started(1).await;
            task::spawn_blocking(move || assert_eq!(rest(&mut failing), "")).await;
        };
        let (_, report) = server.scope(handlers.handler(), body).await.unwrap();
        assert!(report.elapsed() >= lame_duck, "{report}");
        assert_eq!((report.cause(), report.failed()), (Cause::Shutdown, 1));
    });
}

#[test]
fn the_second_item_of_a_shutdown_stream_cancels_during_the_lame_duck() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.lame_duck(FOR_EVER);
        let handle = server.handle();
        let mut client = order(server.local_addr(), STUBBORN);
        let (ask, asked) = async_std::channel::unbounded();
        let serving = task::spawn(server.shutdown_on(asked).serve(handlers.handler()));
        handlers.started(1).await;
        ask.send(()).await.unwrap();
        reach(&handle, Phase::LameDuck).await;
        ask.send(()).await.unwrap(); // the second item cancels
        let report = serving.await.unwrap();
        assert_eq!((report.cause(), report.cancelled()), (Cause::Stream, 1));
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn the_deadline_is_lame_duck_plus_grace_from_the_request_and_the_drain_does_not_move_it() {
    test(async {
        let (lame_duck, grace) = (Duration::from_millis(100), Duration::from_secs(1));
        let server = bind().await.lame_duck(lame_duck).grace(grace).newcomer_time(Duration::ZERO);
        let mut client = connect(server.local_addr());
        let (send, deadline) = async_std::channel::unbounded();
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let before = Instant::now();
                drop(conn.server().shutdown());
                let (first, after) = (conn.deadline().unwrap(), Instant::now());
                assert!(first >= before + lame_duck + grace && first <= after + lame_duck + grace);
                conn.until_draining(pending::<()>()).await;
                assert_eq!(conn.deadline(), Some(first), "the drain moved the deadline");
                send.send(first).await.unwrap();
                pending::<()>().await
            }
        };
        let report = server.serve(handler).await.unwrap();
        assert!(Instant::now() >= deadline.recv().await.unwrap());
        assert!(report.elapsed() >= lame_duck + grace, "{report}");
        assert_eq!(report.cancelled(), 1, "{report}");
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn the_lame_duck_ends_when_the_last_listener_fails() {
    test(async {
        let socket = std::net::TcpListener::bind(loopback()).unwrap();
        let server = Server::new(ebbtide::Listener::try_from(socket.try_clone().unwrap()).unwrap()).lame_duck(FOR_EVER);
        let handle = server.handle();
        let serving = task::spawn(server.serve(|_: Connection| async {}));
        reach(&handle, Phase::Serving).await;
        drop(handle.shutdown());
        reach(&handle, Phase::LameDuck).await;
        socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Both).unwrap();
        let report = serving.await.unwrap();
        assert_eq!(report.cause(), Cause::Shutdown, "the first cause wins");
    });
}
