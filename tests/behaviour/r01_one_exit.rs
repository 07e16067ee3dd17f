//! R1: every way out of `serve` and `scope` ends closed, for every kind of listener. Each way out has one test, which
//! is named after it.
//!
//! Each test has two clients. The handler of the polite one writes a goodbye when the drain begins; the handler of the
//! stubborn one has to be cancelled. When the scope has been left, by whichever way, no handler lives, both clients
//! read EOF, and no socket listens.

use crate::support::gate::side_by_side;
use crate::support::ways::{Client, Kind, Place, rest};
use crate::support::*;
use async_std::channel::unbounded;
use async_std::{future, task};
use ebbtide::{Cause, Connection, ErrorKind, Handle, Listener, OnFailure, Phase, Report, Server};
use futures_concurrency::prelude::*;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

/// Long enough that a polite handler writes its goodbye within it, on a loaded machine too.
const GRACE: Duration = Duration::from_secs(1);

/// The ways out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Exit {
    BodyOk,
    BodyErr,
    BodyPanic,
    Shutdown,
    ShutdownStream,
    ShutdownFuture,
    HandlerFails,
    HandlerPanics,
    Cancel,
    StreamTwice,
    Timeout,
    LostRace,
    ScopeLostRace,
    TaskCancelled,
    EnclosingPanic,
    /// The body of an outer server panics while it serves an inner one.
    NestedUnwind,
    DropInADrain,
}

/// What a test expects of one way out.
struct Expected {
    /// The first cause: it wins.
    cause: Cause,
    /// Whether there was a drain, in which the polite handler wrote its goodbye.
    drained: bool,
    /// Whether the stubborn handler had the whole grace period.
    graced: bool,
    /// The panic's text, if control returns by a panic.
    panic: Option<&'static str>,
}

impl Exit {
    fn expected(self) -> Expected {
        let drain = |cause| Expected { cause, drained: true, graced: true, panic: None };
        let drop = Expected { cause: Cause::Dropped, drained: false, graced: false, panic: None };
        match self {
            Self::BodyOk => drain(Cause::BodyReturned),
            Self::BodyErr => drain(Cause::BodyFailed),
            Self::BodyPanic => Expected { panic: Some("the body's own"), ..drain(Cause::BodyPanicked) },
            Self::Shutdown => drain(Cause::Shutdown),
            Self::ShutdownStream | Self::ShutdownFuture => drain(Cause::Stream),
            Self::HandlerFails | Self::HandlerPanics => drain(Cause::HandlerFailed),
            Self::Cancel => Expected { cause: Cause::Cancel, ..drop },
            Self::StreamTwice => Expected { graced: false, ..drain(Cause::Stream) },
            Self::DropInADrain => Expected { graced: false, ..drain(Cause::Shutdown) },
            Self::Timeout | Self::LostRace | Self::ScopeLostRace | Self::TaskCancelled => drop,
            Self::EnclosingPanic | Self::NestedUnwind => Expected { panic: Some("around the server"), ..drop },
        }
    }
}

/// A server's two clients, which wait in the backlog until it serves.
struct Fixture {
    place: Place,
    handle: Handle,
    handlers: Handlers,
    polite: Client,
    stubborn: Client,
    /// What the polite client has read, if the way out has read it already.
    goodbye: Option<String>,
}

impl Fixture {
    async fn new(server: &Server, place: Place) -> Self {
        let (polite, stubborn) = (place.say(&[POLITE]).await, place.say(&[STUBBORN]).await);
        Self { place, handle: server.handle(), handlers: Handlers::new(), polite, stubborn, goodbye: None }
    }

    async fn started(&self) {
        self.handlers.started(2).await;
        assert_eq!(self.handlers.live.count(), 2);
    }

    /// Waits until the drain has begun. The stubborn handler keeps it from ending.
    async fn goodbye(&mut self) {
        self.goodbye = Some(rest(&mut self.polite).await);
        assert_eq!(self.handle.phase(), Phase::Draining);
    }

    /// Asserts that the server is closed, since control has returned.
    fn is_closed(&self) {
        assert_eq!(self.handlers.live.count(), 0, "handlers are still alive");
        assert_eq!((self.handle.is_serving(), self.handle.phase()), (false, Phase::Closed));
    }

    async fn has_seen(mut self, expected: &Expected) {
        assert_eq!(self.place.left_behind().await, None);
        let goodbye = match self.goodbye {
            Some(goodbye) => goodbye,
            None => rest(&mut self.polite).await,
        };
        assert_eq!(goodbye, if expected.drained { "bye" } else { "" });
        assert_eq!(rest(&mut self.stubborn).await, "");
    }
}

/// Checks the report. `failed` and `panicked` count the handler of a third client.
fn reports(report: &Report, expected: &Expected, failed: u64, panicked: u64) {
    assert_adds_up(report);
    assert_eq!(report.cause(), expected.cause, "{report}");
    assert_eq!(report.accepted(), 2 + failed + panicked, "{report}");
    assert_eq!((report.failed(), report.panicked()), (failed, panicked), "{report}");
    let drained = u64::from(expected.drained);
    assert_eq!((report.completed(), report.cancelled()), (drained, 2 - drained), "{report}");
    assert_eq!(report.drained(), drained, "{report}");
    assert!(report.elapsed() >= GRACE || !expected.graced, "{report}");
    assert!(report.elapsed() < GRACE || expected.drained, "a cancel waits for nothing: {report}");
}

/// Serves until both handlers run, then leaves by `exit`. Returns the report, if this way out gives one.
async fn leave(exit: Exit, server: Server, fixture: &mut Fixture) -> Option<Report> {
    let (handle, handler) = (server.handle(), fixture.handlers.handler());
    match exit {
        Exit::BodyOk => {
            let body = async |server: Handle| {
                fixture.started().await;
                assert!(server.is_serving());
                Ok(42)
            };
            let (value, report) = server.scope(handler, body).await.unwrap();
            assert_eq!(value, 42);
            Some(report)
        }
        Exit::BodyErr => {
            let body = async |_| {
                fixture.started().await;
                Err::<(), _>("the body's own".into())
            };
            let error = server.scope(handler, body).await.unwrap_err();
            assert_eq!((error.kind(), error.address()), (ErrorKind::Body, None), "{error:?}");
            assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the body's own");
            Some(error.into_report())
        }
        Exit::BodyPanic => {
            let body = async |_| {
                fixture.started().await;
                panic!("the body's own");
            };
            server.scope(handler, body).await.map(drop).unwrap();
            None
        }
        Exit::Shutdown | Exit::Cancel => {
            let serving = task::spawn(server.serve(handler));
            fixture.started().await;
            let report = if exit == Exit::Shutdown { handle.shutdown().await } else { handle.cancel().await };
            fixture.is_closed();
            assert_eq!(serving.await.unwrap(), report);
            Some(report)
        }
        Exit::ShutdownStream | Exit::StreamTwice => {
            let (ask, asked) = unbounded();
            let server = if exit == Exit::StreamTwice { server.grace(FOR_EVER) } else { server };
            let serving = task::spawn(server.shutdown_on(asked).serve(handler));
            fixture.started().await;
            ask.send(()).await.unwrap();
            if exit == Exit::StreamTwice {
                fixture.goodbye().await;
                ask.send(()).await.unwrap();
            }
            Some(serving.await.unwrap())
        }
        Exit::ShutdownFuture => {
            let handlers = fixture.handlers.clone();
            Some(server.shutdown_when(async move { handlers.started(2).await }).serve(handler).await.unwrap())
        }
        Exit::HandlerFails | Exit::HandlerPanics => {
            let serving = task::spawn(server.on_failure(OnFailure::Shutdown).serve(handler));
            fixture.started().await;
            let order = if exit == Exit::HandlerFails { FAILS } else { PANICS };
            let (address, mut failing) = fixture.place.say_from(&[order]).await;
            let error = serving.await.unwrap_err();
            let (kind, text) = match exit {
                Exit::HandlerFails => (ErrorKind::Handler, "failed"),
                _ => (ErrorKind::HandlerPanicked, "panicked: as ordered"),
            };
            assert_eq!(error.kind(), kind, "{error:?}");
            let peer = error.address().expect("the peer's");
            assert_eq!(error.to_string(), format!("the handler of the connection from `{peer}` {text}"));
            assert!(address.is_none_or(|address| *peer == address.into()), "{error:?}");
            assert_eq!(rest(&mut failing).await, "");
            Some(error.report().clone())
        }
        Exit::Timeout => {
            let mut serving = Box::pin(server.serve(handler));
            // Polls until both handlers run. The timeout under test is the last one.
            while fixture.handlers.live.count() < 2 {
                let _ = future::timeout(Duration::from_millis(10), &mut serving).await;
            }
            fixture.started().await;
            future::timeout(Duration::from_millis(10), serving).await.unwrap_err();
            None
        }
        Exit::LostRace => {
            let serving = async { server.serve(handler).await.map(drop) };
            let winner = async {
                fixture.started().await;
                Ok(())
            };
            (serving, winner).race().await.unwrap();
            None
        }
        Exit::ScopeLostRace => {
            let alive = Live::default();
            let body = async |_| {
                let _alive = alive.guard();
                pending::<()>().await
            };
            let scope = async { server.scope(handler, body).await.map(drop) };
            let winner = async {
                fixture.started().await;
                assert_eq!(alive.count(), 1);
                Ok(())
            };
            (scope, winner).race().await.unwrap();
            assert_eq!(alive.count(), 0);
            None
        }
        Exit::TaskCancelled => {
            let serving = task::spawn(server.serve(handler));
            fixture.started().await;
            assert!(serving.cancel().await.is_none());
            None
        }
        Exit::EnclosingPanic => {
            let mut serving = pin!(server.serve(handler));
            while fixture.handlers.live.count() < 2 {
                let _ = future::timeout(Duration::from_millis(10), serving.as_mut()).await;
            }
            panic!("around the server");
        }
        Exit::NestedUnwind => {
            let (listener, _outer) = fixture.place.kind.open();
            let body = async |_| {
                let inner = async { server.serve(handler).await.map(drop) };
                let panics = async {
                    fixture.started().await;
                    panic!("around the server");
                };
                Ok((inner, panics).race().await?)
            };
            Server::new(listener).scope(|_: Connection| async {}, body).await.map(drop).unwrap();
            None
        }
        Exit::DropInADrain => {
            let serving = task::spawn(server.grace(FOR_EVER).serve(handler));
            fixture.started().await;
            let closed = handle.shutdown();
            fixture.goodbye().await;
            assert!(serving.cancel().await.is_none());
            fixture.is_closed();
            Some(closed.await)
        }
    }
}

fn leave_by(exit: Exit, kind: Kind) {
    let (listener, place) = kind.open();
    let server = Server::new(listener).grace(GRACE);
    let mut fixture = task::block_on(Fixture::new(&server, place));
    let handle = server.handle();
    let left = catch_unwind(AssertUnwindSafe(|| task::block_on(leave(exit, server, &mut fixture))));

    // Control has returned.
    fixture.is_closed();
    let expected = exit.expected();
    let (left, panic) = match left {
        Ok(report) => (report, None),
        Err(panic) => (None, Some(*panic.downcast::<&'static str>().expect("a panic of the test's own"))),
    };
    assert_eq!(panic, expected.panic);
    // After a panic inside async-std's `block_on`, `block_on` does not work as usual on this thread.
    on_thread(move || {
        task::block_on(async {
            let report = handle.closed().await;
            assert!(left.is_none_or(|left| left == report), "{report}");
            let third = |it: Exit| u64::from(exit == it);
            reports(&report, &expected, third(Exit::HandlerFails), third(Exit::HandlerPanics));
            fixture.has_seen(&expected).await;
        });
    });
}

/// Leaves a server by `exit`, for each kind of listener.
fn r01(exit: Exit) {
    side_by_side(Kind::ALL, |kind| {
        println!("{kind:?}");
        on_thread(move || leave_by(exit, kind));
    });
}

#[test]
fn r01_the_body_returned() {
    r01(Exit::BodyOk);
}

#[test]
fn r01_the_body_returned_an_error() {
    r01(Exit::BodyErr);
}

#[test]
fn r01_the_body_panicked() {
    r01(Exit::BodyPanic);
}

#[test]
fn r01_the_handle_asked_for_a_shutdown() {
    r01(Exit::Shutdown);
}

#[test]
fn r01_a_shutdown_stream_gave_its_first_item() {
    r01(Exit::ShutdownStream);
}

#[test]
fn r01_a_shutdown_future_finished() {
    r01(Exit::ShutdownFuture);
}

#[test]
fn r01_a_handler_failed_under_on_failure_shutdown() {
    r01(Exit::HandlerFails);
}

#[test]
fn r01_a_handler_panicked_under_on_failure_shutdown() {
    r01(Exit::HandlerPanics);
}

#[test]
fn r01_the_handle_cancelled() {
    r01(Exit::Cancel);
}

#[test]
fn r01_a_shutdown_stream_gave_its_second_item() {
    r01(Exit::StreamTwice);
}

#[test]
fn r01_the_future_was_dropped_by_a_timeout() {
    r01(Exit::Timeout);
}

#[test]
fn r01_the_future_lost_a_race() {
    r01(Exit::LostRace);
}

#[test]
fn r01_the_scope_lost_a_race() {
    r01(Exit::ScopeLostRace);
}

#[test]
fn r01_the_task_was_cancelled() {
    r01(Exit::TaskCancelled);
}

#[test]
fn r01_the_code_around_the_server_panicked() {
    r01(Exit::EnclosingPanic);
}

#[test]
fn r01_the_body_of_an_enclosing_server_panicked() {
    r01(Exit::NestedUnwind);
}

#[test]
fn r01_the_future_was_dropped_during_its_drain() {
    r01(Exit::DropInADrain);
}

/// Only another holder of the socket can make it fail.
#[test]
fn r01_a_listener_failed_for_good() {
    let leave = async || {
        let socket = std::net::TcpListener::bind(loopback()).unwrap();
        let listener = Listener::try_from(socket.try_clone().unwrap()).unwrap();
        let address = listener.local_addr().clone();
        let server = Server::new(listener).grace(GRACE);
        let fixture = Fixture::new(&server, Place::over_tcp(tcp(&address))).await;
        let serving = task::spawn(server.serve(fixture.handlers.handler()));
        fixture.started().await;
        // Accepting from a socket that was shut down gives EINVAL.
        socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Both).unwrap();
        drop(socket);
        let error = serving.await.unwrap_err();
        fixture.is_closed();
        assert_eq!((error.kind(), error.address()), (ErrorKind::Listener, Some(&address)), "{error:?}");
        let expected = Expected { cause: Cause::ListenerFailed, ..Exit::Shutdown.expected() };
        reports(error.report(), &expected, 0, 0);
        assert_eq!(*error.report(), fixture.handle.closed().await);
        let io = std::io::Error::from(error);
        assert_eq!(io.kind(), std::io::ErrorKind::InvalidInput, "the listener's kind is kept");
        assert!(io.to_string().contains(&format!("`{address}`")), "{io}");
        fixture.has_seen(&expected).await;
    };
    on_thread(move || task::block_on(leave()));
}
