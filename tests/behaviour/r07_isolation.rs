//! R7: a handler that fails ends its own connection and nothing else. The failure is logged once, with the peer, and
//! counted.

use crate::support::logs;
use crate::support::scripted::{Script, ScriptedStream, Step};
use crate::support::*;
use async_std::prelude::*;
use async_std::task;
use ebbtide::{Address, Connection, ConnectionState, ErrorKind, Handle, OnFailure, Server};
use log::Level;
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::task::Poll;

/// Serves ten clients. The third one makes its handler do `what`; the other nine finish.
fn one_of_ten(what: u8, expected: Level, text: &'static str) {
    test_alone(async move {
        let logs = logs::remember();
        let handlers = Handlers::new();
        let server = bind().await;
        let address = server.local_addr().clone();
        let mut clients: Vec<_> = (0..10).map(|n| order(&address, if n == 2 { what } else { POLITE })).collect();
        let peer = clients[2].local_addr().unwrap();
        let body = async |server: ebbtide::Handle| {
            handlers.started(10).await;
            let mut failing = clients[2].try_clone().unwrap();
            assert_eq!(task::spawn_blocking(move || rest(&mut failing)).await, "");
            while server.connection_count() > 9 {
                task::yield_now().await;
            }
            assert_eq!(handlers.live.count(), 9, "the other handlers must still be alive");
            // The server goes on accepting.
            let mut late = order(server.local_addr(), REPLIES);
            handlers.started(1).await;
            assert_eq!(task::spawn_blocking(move || rest(&mut late)).await, "whole reply");
        };
        let (_, report) = server.scope(handlers.handler(), body).await.unwrap();
        assert_eq!((report.accepted(), report.completed(), report.failed() + report.panicked()), (11, 10, 1));
        clients.remove(2);
        for client in &mut clients {
            assert_eq!(rest(client), "bye");
        }
        let mut lines = logs.lines_with(&format!("`{peer}`"));
        lines.retain(|(_, line)| !line.contains(": opened connection "));
        assert_eq!(lines.len(), 1, "the failure is logged once: {lines:?}");
        assert_eq!(lines[0].0, expected);
        assert!(lines[0].1.contains(text) && lines[0].1.contains(&format!("peer={peer}")), "{lines:?}");
    });
}

#[test]
fn r07_one_of_ten_handlers_fails_and_the_nine_finish() {
    one_of_ten(FAILS, Level::Warn, "failed: as ordered");
}

#[test]
fn r07_one_of_ten_handlers_panics_and_the_nine_finish() {
    one_of_ten(PANICS, Level::Error, "panicked: as ordered");
}

#[test]
fn r07_a_panic_before_the_first_await_counts_as_the_handlers() {
    test(async {
        let server = bind().await;
        let mut clients = [connect(server.local_addr()), connect(server.local_addr())];
        let handler = |conn: Connection| {
            assert_ne!(conn.id().as_u64(), 0, "the first handler panics on purpose");
            async {}
        };
        let (_, report) = server.scope(handler, async |_| ()).await.unwrap();
        assert_eq!((report.panicked(), report.completed()), (1, 1), "{report}");
        for client in &mut clients {
            assert_eq!(rest(client), "");
        }
    });
}

#[test]
fn r07_under_on_failure_shutdown_the_first_failure_drains_the_others_and_later_ones_are_only_counted() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.on_failure(OnFailure::Shutdown);
        let address = server.local_addr().clone();
        let mut polite = order(&address, POLITE);
        let serving = {
            let (ask, asked) = async_std::channel::bounded::<()>(1);
            drop(ask); // the end of a shutdown stream requests nothing
            task::spawn(server.shutdown_on(asked).serve(handlers.handler()))
        };
        handlers.started(1).await;
        // All connect before the first one fails, because the port refuses afterwards.
        let mut failing: Vec<_> = (0..5).map(|_| connect(&address)).collect();
        for client in &mut failing {
            client.write_all(&[FAILS]).unwrap();
        }
        let error = serving.await.unwrap_err();
        assert!(error.to_string().starts_with("the handler of the connection from `127."), "{error}");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "as ordered");
        let report = error.report();
        assert!(report.failed() >= 1 && report.completed() == 1, "{report}");
        assert_eq!(report.accepted(), report.completed() + report.failed() + report.panicked() + report.cancelled());
        assert_eq!(rest(&mut polite), "bye");
        for client in &mut failing {
            let _ = client.read(&mut [0]); // served, or reset between the last accept and the close of the socket
        }
    });
}

#[test]
fn r07_a_task_of_the_server_that_panics_ends_nothing_else() {
    let logs = logs::remember();
    test(async move {
        let handlers = Handlers::new();
        let server = bind().await;
        let mut client = order(server.local_addr(), POLITE);
        let body = async |server: ebbtide::Handle| {
            handlers.started(1).await;
            server.spawn(async { panic!("a server task's own") });
            while logs.lines_with("a server task's own").is_empty() {
                task::yield_now().await;
            }
            assert!(server.is_serving() && server.connection_count() == 1);
        };
        let (_, report) = server.scope(handlers.handler(), body).await.unwrap();
        assert_eq!(report.completed(), 1);
        assert_eq!(rest(&mut client), "bye");
        assert_eq!(logs.lines_with("a server task's own").len(), 1);
    });
}

#[test]
fn r07_a_failure_is_logged_before_its_connection_lingers() {
    let logs = logs::remember();
    test(async move {
        let server = bind().await;
        let client = connect(server.local_addr());
        let handler = async |_: Connection| Err::<(), _>(io::Error::other("before the linger"));
        let body = async |server: Handle| {
            let is_lingering = |it: &ebbtide::ConnectionInfo| it.state() == ConnectionState::Lingering;
            until(|| server.connections().first().is_some_and(is_lingering)).await;
            Ok(logs.lines_with("failed: before the linger").len())
        };
        let (lines, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((lines, report.failed()), (1, 1), "{report}");
        assert_eq!(logs.lines_with("failed: before the linger").len(), 1, "the failure is logged once");
        drop(client);
    });
}

#[test]
fn r07_under_on_failure_shutdown_the_drain_begins_before_the_failed_connection_is_closed() {
    test(async {
        let stream = Live::default();
        let alive = stream.clone();
        let (listener, script) = Script::listener();
        let (send, receive) = async_std::channel::unbounded();
        let handler = move |conn: Connection| {
            let (send, alive) = (send.clone(), alive.clone());
            async move {
                if conn.peer_addr() == &Address::named("client 2") {
                    return Err(io::Error::other("as ordered"));
                }
                send.send(0).await.unwrap();
                conn.until_draining(pending::<()>()).await;
                send.send(alive.count()).await.unwrap();
                Ok(())
            }
        };
        let server = Server::new(listener).on_failure(OnFailure::Shutdown).grace(FOR_EVER);
        let handle = server.handle();
        let serving = task::spawn(server.serve(handler));
        let _polite = script.client();
        receive.recv().await.unwrap();
        // The close of this stream never completes.
        let guard = stream.guard();
        script.tell(Step::Client(Box::pin(ScriptedStream::new().close(|_| Poll::Pending).drop(move || drop(guard)))));
        assert_eq!(
            receive.recv().await,
            Ok(1),
            "the drain must begin while the failed connection's stream is still alive"
        );
        drop(handle.cancel());
        let error = serving.await.unwrap_err();
        assert_eq!((error.kind(), error.report().failed()), (ErrorKind::Handler, 1), "{error:?}");
    });
}

/// An error whose `Display` panics.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("in an error's Display, on purpose")
    }
}

impl std::error::Error for Unspeakable {}

#[test]
fn r07_an_error_whose_text_panics_is_a_failure_like_any_other() {
    let logs = logs::remember();
    test(async move {
        let server = bind().await.name("unspeakable").on_failure(OnFailure::Shutdown);
        let mut client = connect(server.local_addr());
        let handler = async |mut conn: Connection| {
            let _ = conn.write_all(b"reply").await;
            Err::<(), _>(Unspeakable)
        };
        let reading = task::spawn_blocking(move || rest(&mut client));
        let error = server.scope(handler, async |_| std::future::pending::<()>().await).await.unwrap_err();
        assert_eq!((error.kind(), error.report().failed()), (ebbtide::ErrorKind::Handler, 1));
        assert_eq!(reading.await, "reply");
        let lines = logs.lines_with("unspeakable: the handler of connection 0 from `");
        assert!(lines.len() == 1 && lines[0].1.contains("its `Display` panicked"), "{lines:?}");
        drop(error.into_report()); // the test does not format the error: that would panic
    });
}
