//! The lame duck: not ready at once, still accepting until it is over; one deadline for the whole exit.

use crate::support::*;
use async_std::task;
use ebbtide::{Cause, Connection, Handle, Phase, Server};
use std::future::pending;
use std::time::{Duration, Instant};

async fn phase(server: &Handle, phase: Phase) {
    let reached = async {
        loop {
            let now = server.phase();
            assert!(now <= phase, "{now} is past {phase}");
            if now == phase {
                return;
            }
            task::yield_now().await;
        }
    };
    async_std::future::timeout(NET, reached).await.expect("the phase is never reached");
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
            assert!(!server.is_ready(), "not ready at once");
            phase(&server, Phase::LameDuck).await;
            assert!(server.is_serving());
            let mut during = order(&address, SPEAKS);
            handlers.started(1).await;
            assert_eq!(task::spawn_blocking(move || rest(&mut during)).await, "whole reply");
            assert_eq!(server.phase(), Phase::LameDuck, "the notice of the drain comes after it");
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
        phase(&handle, Phase::LameDuck).await;
        assert_eq!(handle.shutdown().await.completed(), 1);
        assert_eq!(rest(&mut client), "bye");
        serving.await.unwrap();
    });
}

#[test]
fn what_returns_or_fails_during_the_lame_duck_does_not_end_it() {
    test(async {
        let lame_duck = Duration::from_millis(200);
        let handlers = Handlers::new();
        let server = bind().await.lame_duck(lame_duck).on_failure(ebbtide::OnFailure::Shutdown);
        let address = server.local_addr().clone();
        let body = async |server: Handle| {
            drop(server.shutdown());
            phase(&server, Phase::LameDuck).await;
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
fn a_cancel_ends_the_lame_duck_and_everything_else() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.lame_duck(FOR_EVER);
        let handle = server.handle();
        let mut client = order(server.local_addr(), STUBBORN);
        let (ask, asked) = async_std::channel::unbounded();
        let serving = task::spawn(server.shutdown_on(asked).serve(handlers.handler()));
        handlers.started(1).await;
        ask.send(()).await.unwrap();
        phase(&handle, Phase::LameDuck).await;
        ask.send(()).await.unwrap(); // the second item cancels, lame duck or not
        let report = serving.await.unwrap();
        assert_eq!((report.cause(), report.cancelled()), (Cause::Stream, 1));
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn there_is_one_deadline_of_lame_duck_and_grace() {
    test(async {
        let (lame_duck, grace) = (Duration::from_millis(100), Duration::from_millis(200));
        let server = bind().await.lame_duck(lame_duck).grace(grace);
        let mut client = connect(server.local_addr());
        let (told, was_told) = async_std::channel::unbounded();
        let handler = move |conn: Connection| {
            let told = told.clone();
            async move {
                let before = Instant::now();
                drop(conn.server().shutdown());
                let (first, after) = (conn.deadline().unwrap(), Instant::now());
                assert!(first >= before + lame_duck + grace && first <= after + lame_duck + grace);
                conn.until_draining(pending::<()>()).await;
                assert_eq!(conn.deadline(), Some(first), "the drain has not moved it");
                told.send(first).await.unwrap();
                pending::<()>().await
            }
        };
        let report = server.serve(handler).await.unwrap();
        assert!(Instant::now() >= was_told.recv().await.unwrap());
        assert!(report.elapsed() >= lame_duck + grace, "{report}");
        assert_eq!(report.cancelled(), 1, "{report}");
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn a_lame_duck_without_listeners_is_over() {
    test(async {
        let socket = std::net::TcpListener::bind(loopback()).unwrap();
        let server = Server::new(ebbtide::Listener::try_from(socket.try_clone().unwrap()).unwrap()).lame_duck(FOR_EVER);
        let handle = server.handle();
        let serving = task::spawn(server.serve(|_: Connection| async {}));
        phase(&handle, Phase::Serving).await;
        drop(handle.shutdown());
        phase(&handle, Phase::LameDuck).await;
        socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Both).unwrap();
        let report = serving.await.unwrap();
        assert_eq!(report.cause(), Cause::Shutdown, "the first cause wins");
    });
}
