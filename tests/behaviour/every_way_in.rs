//! The guarantees hold for every kind of listener alike: each way out of R1, by one table, and those of the other rules that
//! depend on what connections are made of.

use crate::support::ways::{Client, Kind, Place, close, rest};
use crate::support::{
    FAILS, FOR_EVER, Handlers, NET, POLITE, STUBBORN, alone, gate::side_by_side, hold_executor, on_thread,
};
use async_std::prelude::*;
use async_std::{future, task};
use ebbtide::{Cause, Connection, Error, Handle, OnFailure, Phase, Report, Server};
use futures_concurrency::prelude::*;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Long enough that a polite handler has said goodbye before, on a loaded machine too.
const GRACE: Duration = Duration::from_millis(500);

/// The ways out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    BodyOk,
    BodyErr,
    BodyPanic,
    Shutdown,
    ShutdownStream,
    ShutdownFuture,
    HandlerFails,
    Cancel,
    StreamTwice,
    Timeout,
    LostRace,
    TaskCancelled,
    /// A panic around a scope that is inside another one.
    NestedUnwind,
    DropInADrain,
}

impl Ending {
    const ALL: [Self; 14] = [
        Self::BodyOk,
        Self::BodyErr,
        Self::BodyPanic,
        Self::Shutdown,
        Self::ShutdownStream,
        Self::ShutdownFuture,
        Self::HandlerFails,
        Self::Cancel,
        Self::StreamTwice,
        Self::Timeout,
        Self::LostRace,
        Self::TaskCancelled,
        Self::NestedUnwind,
        Self::DropInADrain,
    ];

    /// The first cause, and whether the handlers were told and had their time.
    fn expected(self) -> (Cause, bool) {
        match self {
            Self::BodyOk | Self::BodyErr => (Cause::BodyReturned, true),
            Self::BodyPanic => (Cause::BodyPanicked, true),
            Self::Shutdown | Self::DropInADrain => (Cause::Shutdown, true),
            Self::ShutdownStream | Self::ShutdownFuture | Self::StreamTwice => (Cause::ShutdownStream, true),
            Self::HandlerFails => (Cause::HandlerFailed, true),
            Self::Cancel => (Cause::Cancel, false),
            Self::Timeout | Self::LostRace | Self::TaskCancelled | Self::NestedUnwind => (Cause::Dropped, false),
        }
    }

    fn panics(self) -> bool {
        matches!(self, Self::BodyPanic | Self::NestedUnwind)
    }

    /// Serves until both handlers run, and leaves.
    async fn leave(self, server: Server, handlers: &Handlers, place: &Place) {
        let (handle, handler) = (server.handle(), handlers.handler());
        let started = handlers.started(2);
        match self {
            Self::BodyOk => drop(server.scope(handler, async |_| started.await).await.unwrap()),
            Self::BodyErr => {
                let body = async |_| {
                    started.await;
                    Err::<(), _>("the body's own")
                };
                assert_eq!(server.scope(handler, body).await.unwrap().0, Some(Err("the body's own")));
            }
            Self::BodyPanic => {
                let body = async |_| {
                    started.await;
                    panic!("as ordered");
                };
                server.scope(handler, body).await.map(drop).unwrap();
            }
            Self::Shutdown => {
                let stop = async {
                    started.await;
                    handle.shutdown().await
                };
                let (report, told) = (server.serve(handler), stop).join().await;
                assert_eq!(report.unwrap(), told);
            }
            Self::ShutdownStream | Self::StreamTwice => {
                let (ask, asked) = async_std::channel::unbounded();
                let server = server.grace(if self == Self::StreamTwice { FOR_EVER } else { GRACE }).shutdown_on(asked);
                let stop = async {
                    started.await;
                    ask.send(()).await.unwrap();
                    if self == Self::StreamTwice {
                        while handle.connection_count() > 1 {
                            task::sleep(Duration::from_millis(1)).await; // until the polite one has said goodbye
                        }
                        ask.send(()).await.unwrap();
                    }
                };
                (server.serve(handler), stop).join().await.0.unwrap();
            }
            Self::ShutdownFuture => {
                let handlers = handlers.clone();
                server.shutdown_when(async move { handlers.started(2).await }).serve(handler).await.unwrap();
            }
            Self::HandlerFails => {
                let fail = async {
                    started.await;
                    rest(&mut place.say(&[FAILS]).await).await
                };
                let (result, told) = (server.on_failure(OnFailure::Shutdown).serve(handler), fail).join().await;
                assert!(matches!(result, Err(Error::Handler { .. })), "{result:?}");
                assert_eq!(told, "");
            }
            Self::Cancel => {
                let stop = async {
                    started.await;
                    handle.cancel().await
                };
                (server.serve(handler), stop).join().await.0.unwrap();
            }
            Self::Timeout => {
                let mut serving = Box::pin(server.serve(handler));
                while handlers.live.count() < 2 {
                    let _ = future::timeout(Duration::from_millis(5), &mut serving).await;
                }
                started.await;
                future::timeout(Duration::from_millis(5), serving).await.unwrap_err();
            }
            Self::LostRace => {
                let serving = async { server.serve(handler).await.map(drop) };
                let winner = async {
                    started.await;
                    Ok(())
                };
                (serving, winner).race().await.unwrap();
            }
            Self::TaskCancelled => {
                let serving = task::spawn(server.serve(handler));
                started.await;
                assert!(serving.cancel().await.is_none());
            }
            Self::NestedUnwind => {
                let (listener, _outer) = place.kind.open();
                let body = async |_| {
                    let inner = async { server.serve(handler).await.map(drop) };
                    let panics = async {
                        started.await;
                        panic!("as ordered");
                    };
                    (inner, panics).race().await
                };
                Server::new(listener).scope(|_: Connection| async {}, body).await.map(drop).unwrap();
            }
            Self::DropInADrain => {
                let serving = task::spawn(server.grace(FOR_EVER).serve(handler));
                started.await;
                drop(handle.shutdown());
                while handle.connection_count() > 1 {
                    task::sleep(Duration::from_millis(1)).await;
                }
                assert!(serving.cancel().await.is_none());
            }
        }
    }
}

fn adds_up(report: &Report) {
    let ends = report.completed() + report.failed() + report.panicked() + report.cancelled();
    assert_eq!(report.accepted(), ends, "{report}");
}

fn r01(kind: Kind, ending: Ending) {
    let (listener, place) = kind.open();
    let server = Server::new(listener).grace(GRACE);
    let (handle, handlers) = (server.handle(), Handlers::new());
    let (mut polite, mut stubborn) =
        task::block_on(async { (place.say(&[POLITE]).await, place.say(&[STUBBORN]).await) });
    let panicked = catch_unwind(AssertUnwindSafe(|| task::block_on(ending.leave(server, &handlers, &place)))).is_err();

    // Control is back.
    assert_eq!(panicked, ending.panics());
    assert_eq!(handlers.live.count(), 0, "a handler lives");
    assert_eq!((handle.is_serving(), handle.phase()), (false, Phase::Closed));
    // After a panic inside of it async-std's `block_on` is not the same on this thread.
    let closed = async move {
        let (cause, told) = ending.expected();
        assert_eq!(rest(&mut polite).await, if told { "bye" } else { "" });
        assert_eq!(rest(&mut stubborn).await, "");
        let report = handle.closed().await;
        adds_up(&report);
        let failed = u64::from(ending == Ending::HandlerFails);
        assert_eq!((report.cause(), report.accepted()), (cause, 2 + failed), "{report}");
        assert_eq!((report.completed(), report.failed()), (u64::from(told), failed), "{report}");
        assert_eq!(place.left_behind().await, None);
    };
    on_thread(|| task::block_on(closed));
}

#[test]
fn r01_every_way_out_of_every_way_in_ends_closed() {
    side_by_side(Kind::ALL, |kind| {
        for ending in Ending::ALL {
            println!("{kind:?}, {ending:?}");
            on_thread(move || r01(kind, ending));
        }
    });
}

/// One test for each kind, side by side.
fn for_every_kind(test: impl AsyncFn(Server, Place) + Copy + Send + Sync + 'static) {
    side_by_side(Kind::ALL, |kind| {
        println!("{kind:?}");
        let (listener, place) = kind.open();
        on_thread(move || task::block_on(test(Server::new(listener), place)));
    });
}

/// Sends back what it reads until the end.
async fn echo(conn: Connection) -> io::Result<()> {
    let mut text = Vec::new();
    (&conn).read_to_end(&mut text).await?;
    (&conn).write_all(&text).await
}

/// The reply to one message.
async fn reply(mut conn: Connection) -> io::Result<()> {
    conn.read_exact(&mut [0; 5]).await?;
    conn.write_all(b"reply").await
}

#[test]
fn a_client_that_ends_its_own_direction_still_gets_its_reply() {
    for_every_kind(async |server, place| {
        let body = async |_| {
            let mut client = place.say(b"hello").await;
            close(&mut client).await;
            rest(&mut client).await
        };
        let (reply, report) = server.scope(echo, body).await.unwrap();
        assert_eq!((reply.as_deref(), report.completed()), (Some("hello"), 1), "{report}");
    });
}

#[test]
fn r03_no_clone_outlives_its_handler() {
    for_every_kind(async |server, place| {
        let (send, receive) = async_std::channel::bounded(2);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let mut clone = conn.clone();
                let detached = task::spawn(async move {
                    let waited = clone.read(&mut [0; 8]).await;
                    let written = clone.write_all(b"from beyond").await;
                    (waited.unwrap(), written.unwrap_err().kind())
                });
                send.send((detached, conn.clone())).await.unwrap();
                (&conn).write_all(b"last").await
            }
        };
        let body = async |server: Handle| {
            let mut client = place.connect().await.unwrap();
            assert_eq!(rest(&mut client).await, "last");
            let (detached, clone) = receive.recv().await.unwrap();
            assert_eq!(detached.await, (0, ErrorKind::BrokenPipe));
            assert!(server.is_serving());
            clone
        };
        let (clone, _) = server.scope(handler, body).await.unwrap();
        assert_eq!(clone.unwrap().read(&mut [0; 8]).await.unwrap(), 0);
    });
}

#[test]
fn r03_a_clone_that_lives_on_keeps_nothing_open_after_a_cancel_or_a_drop() {
    let escapes = async |server: Server, place: Place, by_cancel: bool| {
        let (send, receive) = async_std::channel::bounded(2);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                send.send(conn).await.unwrap();
                pending::<()>().await
            }
        };
        let handle = server.handle();
        let serving = task::spawn(server.serve(handler));
        let mut client = place.connect().await.unwrap();
        let clone = receive.recv().await.unwrap();
        match by_cancel {
            true => drop(handle.cancel().await),
            false => drop(serving.cancel().await),
        }
        assert_eq!(rest(&mut client).await, "");
        assert_eq!((&clone).read(&mut [0]).await.unwrap(), 0);
        assert_eq!((&clone).write(b"!").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    };
    for_every_kind(async move |server, place| escapes(server, place, true).await);
    for_every_kind(async move |server, place| escapes(server, place, false).await);
}

#[test]
fn r04_clients_in_the_queue_are_served_in_the_drain() {
    alone(|| {
        for_every_kind(async |server, place| {
            let mut clients: Vec<Client> = Vec::new();
            for _ in 0..50 {
                clients.push(place.say(b"hello").await);
            }
            let mut held = Some(hold_executor());
            let body = async |server: Handle| {
                drop(server.shutdown());
                assert_eq!(server.connection_count(), 0);
                held.take();
            };
            let (_, report) = server.scope(reply, body).await.unwrap();
            assert_eq!((report.accepted(), report.completed()), (50, 50), "{report}");
            for client in &mut clients {
                assert_eq!(rest(client).await, "reply");
            }
        })
    });
}

#[test]
fn r05_a_request_that_has_arrived_is_read_and_then_the_drain_is_heard() {
    for_every_kind(async |server, place| {
        // What is encrypted is sent after the handshake, and so may be on its way still; but all of it comes at once.
        let waited_for = usize::from(place.kind.is_encrypted());
        let handler = move |conn: Connection| async move {
            let mut text = [0; 5];
            (&conn).read_exact(&mut text[..waited_for]).await?;
            conn.until_draining(pending::<()>()).await;
            for byte in &mut text[waited_for..] {
                let read = conn.until_draining((&conn).read(std::slice::from_mut(byte))).await;
                assert_eq!(read.expect("it has arrived")?, 1);
            }
            assert!(conn.until_draining((&conn).read(&mut [0])).await.is_none(), "nothing more has");
            (&conn).write_all(&text).await
        };
        let mut client = place.say(b"hello").await;
        let body = async |server: Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), report.drained()), (1, 1), "{report}");
        assert_eq!(rest(&mut client).await, "hello");
    });
}

#[test]
fn r09_the_books_add_up_after_raced_shutdowns_and_no_client_hangs() {
    for &kind in Kind::ALL {
        on_thread(move || task::block_on(raced_shutdowns(kind)));
    }
}

async fn raced_shutdowns(kind: Kind) {
    let (mut served, mut ended, mut refused) = (0, 0, 0);
    for round in 0..300 {
        let (listener, place) = kind.open();
        let server = Server::new(listener);
        let handle = server.handle();
        let place = std::sync::Arc::new(place);
        let clients: Vec<_> = (0..4).map(|_| task::spawn(one_client(std::sync::Arc::clone(&place)))).collect();
        let serving = task::spawn(server.serve(reply));
        task::sleep(Duration::from_micros(round % 10 * 50)).await; // here and there in their course
        drop(if round % 2 == 0 { handle.shutdown() } else { handle.cancel() });
        let report = serving.await.unwrap();
        adds_up(&report);
        let mut served_now = 0;
        for client in clients {
            match future::timeout(NET, client).await.expect("a client hangs") {
                Some(true) => served_now += 1,
                Some(false) => ended += 1,
                None => refused += 1,
            }
        }
        assert!(report.accepted() >= served_now, "{report}");
        served += served_now;
        assert_eq!(place.left_behind().await, None);
    }
    println!("{kind:?}: {served} served, {ended} ended, {refused} refused");
}

/// Whether it had its reply; `None`: it was refused.
async fn one_client(place: std::sync::Arc<Place>) -> Option<bool> {
    let mut client = place.connect().await.ok()?;
    if client.write_all(b"hello").await.is_err() {
        return Some(false);
    }
    let mut text = String::new();
    Some(client.read_to_string(&mut text).await.is_ok() && text == "reply")
}

#[test]
fn r10_a_client_that_is_still_sending_gets_the_whole_reply() {
    for_every_kind(async |server, place| {
        let body = async |_| {
            let mut client = place.say(b"hello").await;
            for _ in 0..64 {
                client.write_all(&[0; 64 * 1024]).await.expect("it is read, and thrown away");
            }
            close(&mut client).await;
            rest(&mut client).await
        };
        let (reply, report) = server.scope(reply, body).await.unwrap();
        assert_eq!((reply.as_deref(), report.completed()), (Some("reply"), 1), "{report}");
    });
}

#[test]
fn r10_a_large_reply_arrives_whole_though_the_drain_begins_meanwhile() {
    for_every_kind(async |server, place| {
        let handler = async |mut conn: Connection| {
            conn.read_exact(&mut [0; 5]).await?;
            conn.write_all("x".repeat(4 << 20).as_bytes()).await
        };
        let mut client = place.say(b"hello").await;
        let (begun, has_begun) = async_std::channel::bounded(1);
        let reading = task::spawn(async move {
            client.read_exact(&mut [0]).await.unwrap();
            begun.send(()).await.unwrap();
            rest(&mut client).await.len()
        });
        let (_, report) = server.scope(handler, async |_| has_begun.recv().await).await.unwrap();
        assert_eq!((reading.await, report.completed()), ((4 << 20) - 1, 1), "{report}");
    });
}
