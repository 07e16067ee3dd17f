//! Requests to stop a server: from inside and outside, in every order, and by shutdown streams.

use crate::support::*;
use async_std::{future, prelude::*, task};
use ebbtide::signal::Signal;
use ebbtide::{Cause, Connection, Handle};
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn the_exit_waits_for_the_code_after_a_handlers_last_io() {
    test(async {
        let done = Arc::new(AtomicBool::new(false));
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = {
            let done = Arc::clone(&done);
            move |mut conn: Connection| {
                let done = Arc::clone(&done);
                async move {
                    conn.write_all(b"last").await.unwrap();
                    task::sleep(Duration::from_millis(100)).await;
                    done.store(true, Ordering::SeqCst);
                }
            }
        };
        server.scope(handler, async |_| ()).await.unwrap();
        assert!(done.load(Ordering::SeqCst));
        assert_eq!(rest(&mut client), "last");
    });
}

#[test]
fn shutdown_closed_and_cancel_resolve_in_every_order_and_for_every_waiter() {
    test(async {
        type Ask = fn(&Handle) -> ebbtide::Closed;
        let calls: [Ask; 3] = [Handle::shutdown, Handle::closed, Handle::cancel];
        for order in 0..27 {
            let server = bind().await;
            let handle = server.handle();
            let serving = task::spawn(server.serve(|_: Connection| async {}));
            let asked: Vec<_> =
                [order % 3, order / 3 % 3, order / 9].iter().map(|&call| task::spawn(calls[call](&handle))).collect();
            let again: Vec<_> = (0..5).map(|_| task::spawn(handle.closed())).collect();
            drop(handle.closed()); // dropping one waiter changes nothing for the others
            let report = handle.shutdown().await;
            for waiter in asked.into_iter().chain(again) {
                assert_eq!(waiter.await, report);
            }
            assert_eq!(serving.await.unwrap(), report);
            assert_eq!(handle.closed().await, report, "`closed` resolves after the server has closed, too");
        }
    });
}

#[test]
fn a_handler_that_requests_a_shutdown_can_still_reply() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = |mut conn: Connection| async move {
            drop(conn.server().shutdown());
            task::sleep(Duration::from_millis(20)).await;
            conn.write_all(b"as you wish").await
        };
        let report = server.serve(handler).await.unwrap();
        assert_eq!((report.cause(), report.completed()), (Cause::Shutdown, 1));
        assert_eq!(rest(&mut client), "as you wish");
    });
}

#[test]
fn a_handler_that_awaits_the_end_of_its_own_server_is_cancelled_after_the_grace_with_a_warning() {
    test_alone(async {
        let logs = logs::remember();
        let server = bind().await.grace(Duration::from_millis(100));
        let mut client = connect(server.local_addr());
        let handler = |conn: Connection| async move {
            conn.server().shutdown().await;
        };
        let report = server.serve(handler).await.unwrap();
        assert_eq!(report.cancelled(), 1, "{report}");
        assert_eq!(rest(&mut client), "");
        let lines = logs.lines_with("awaits the end of its own server");
        assert!(lines.len() == 1 && lines[0].0 == log::Level::Warn, "{lines:?}");
    });
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A slot from which a handler, or a task of its connection, takes the `serve` future of its own server.
type Shelf = Arc<Mutex<Option<Serving>>>;

async fn taken(shelf: &Shelf) -> Serving {
    loop {
        let serving = shelf.lock().unwrap().take();
        match serving {
            Some(serving) => return serving,
            None => task::yield_now().await,
        }
    }
}

/// Polls the future once, which starts the server, and puts it where the handlers find it.
fn start_and_shelve(shelf: &Shelf, mut serving: Serving) {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(serving.as_mut().poll(&mut cx).is_pending());
    *shelf.lock().unwrap() = Some(serving);
}

#[test]
fn a_handler_that_drops_its_own_serve_future_ends_at_its_next_yield() {
    test(async {
        let server = bind().await;
        let handle = server.handle();
        let mut client = connect(server.local_addr());
        let shelf = Shelf::default();
        let continued = Arc::new(AtomicBool::new(false));
        let handler = {
            let (shelf, continued) = (Arc::clone(&shelf), Arc::clone(&continued));
            move |_: Connection| {
                let (shelf, continued) = (Arc::clone(&shelf), Arc::clone(&continued));
                async move {
                    let serving = taken(&shelf).await;
                    drop(serving);
                    continued.store(true, Ordering::SeqCst); // the rest of this poll still runs
                    pending::<()>().await
                }
            }
        };
        start_and_shelve(&shelf, Box::pin(async move { drop(server.serve(handler).await) }));
        let report = future::timeout(NET, handle.closed()).await.expect("no deadlock");
        assert!(continued.load(Ordering::SeqCst));
        assert_eq!((report.cause(), report.cancelled()), (Cause::Dropped, 1));
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn a_task_may_drop_its_own_serve_future_while_the_handler_is_being_polled() {
    test(async {
        for _ in 0..50 {
            let server = bind().await;
            let handle = server.handle();
            let mut client = connect(server.local_addr());
            let shelf = Shelf::default();
            let live = Live::default();
            let handler = {
                let (shelf, live) = (Arc::clone(&shelf), live.clone());
                move |conn: Connection| {
                    let (shelf, live) = (Arc::clone(&shelf), live.clone());
                    async move {
                        let _live = live.guard();
                        let guard = live.guard();
                        conn.spawn(async move {
                            let _guard = guard;
                            drop(taken(&shelf).await);
                            pending::<()>().await
                        });
                        // Most of the time the handler is in the middle of a poll.
                        while !conn.is_draining() {
                            std::hint::black_box((0..1000).sum::<u64>());
                            task::yield_now().await;
                        }
                    }
                }
            };
            start_and_shelve(&shelf, Box::pin(async move { drop(server.serve(handler).await) }));
            let report = future::timeout(NET, handle.closed()).await.expect("no deadlock");
            assert_eq!((report.accepted(), report.cancelled(), live.count()), (1, 1, 0), "{report}");
            assert_eq!(rest(&mut client), "");
        }
    });
}

#[test]
fn a_scope_inside_a_handler_drains_before_the_outer_server() {
    test(async {
        let ends = Arc::new(Mutex::new(Vec::new()));
        let outer = bind().await;
        let mut client = connect(outer.local_addr());
        let (inner_address, has_inner) = async_std::channel::bounded(1);
        let handler = {
            let ends = Arc::clone(&ends);
            move |conn: Connection| {
                let (ends, inner_address) = (Arc::clone(&ends), inner_address.clone());
                async move {
                    let inner = bind().await;
                    inner_address.send(inner.local_addr().clone()).await.unwrap();
                    let inner_handler = {
                        let ends = Arc::clone(&ends);
                        move |mut conn: Connection| {
                            let ends = Arc::clone(&ends);
                            async move {
                                conn.until_draining(pending::<()>()).await;
                                conn.write_all(b"inner bye").await.unwrap();
                                ends.lock().unwrap().push("inner");
                            }
                        }
                    };
                    let body = async |inner: Handle| {
                        while inner.connection_count() == 0 {
                            task::yield_now().await;
                        }
                        conn.until_draining(pending::<()>()).await;
                    };
                    let (_, report) = inner.scope(inner_handler, body).await.unwrap();
                    assert_eq!(report.completed(), 1, "{report}");
                    ends.lock().unwrap().push("outer handler");
                }
            }
        };
        let mut inner_client = None;
        let body = async |outer: Handle| {
            let address = has_inner.recv().await.unwrap();
            inner_client = Some(connect(&address));
            while outer.connection_count() == 0 {
                task::yield_now().await;
            }
            task::sleep(Duration::from_millis(20)).await; // until the inner client is accepted, not only in the backlog
        };
        let (_, report) = outer.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
        assert_eq!(*ends.lock().unwrap(), ["inner", "outer handler"]);
        assert_eq!(rest(&mut client), "");
        assert_eq!(rest(&mut inner_client.unwrap()), "inner bye");
    });
}

#[test]
fn a_server_inside_a_handler_is_closed_when_the_drop_of_the_outer_one_returns() {
    test(async {
        let live = Live::default();
        let outer = bind().await;
        let mut client = connect(outer.local_addr());
        let (address, has_address) = async_std::channel::bounded(1);
        let handler = {
            let live = live.clone();
            move |_: Connection| {
                let (live, address) = (live.clone(), address.clone());
                async move {
                    let inner = bind().await;
                    address.send(inner.local_addr().clone()).await.unwrap();
                    let stubborn = move |_: Connection| {
                        let guard = live.guard();
                        async move {
                            let _guard = guard;
                            pending::<()>().await
                        }
                    };
                    inner.serve(stubborn).await.map(drop)
                }
            }
        };
        let serving = task::spawn(outer.serve(handler));
        let inner = has_address.recv().await.unwrap();
        let mut inner_client = connect(&inner);
        while live.count() == 0 {
            task::yield_now().await;
        }
        serving.cancel().await;
        assert_eq!(live.count(), 0);
        assert!(refuses(&inner));
        assert_eq!((rest(&mut client), rest(&mut inner_client)), (String::new(), String::new()));
    });
}

#[test]
fn a_shutdown_stream_that_panics_shuts_the_server_down() {
    let logs = logs::remember();
    test(async move {
        let handlers = Handlers::new();
        let server = bind().await;
        let mut client = order(server.local_addr(), POLITE);
        let inner = handlers.clone();
        let server = server.shutdown_when(async move {
            inner.started(1).await;
            panic!("in a shutdown future");
        });
        let report = server.serve(handlers.handler()).await.unwrap();
        assert_eq!((report.cause(), report.completed()), (Cause::Stream, 1));
        assert_eq!(rest(&mut client), "bye");
        assert_eq!(logs.lines_with("in a shutdown future").len(), 1);
    });
}

#[test]
fn a_server_that_a_future_stops_logs_nothing_about_signals() {
    let logs = logs::remember();
    test(async move {
        let handlers = Handlers::new();
        let server = bind().await.name("stopped by a future").grace(Duration::from_millis(50));
        let mut client = order(server.local_addr(), STUBBORN);
        let inner = handlers.clone();
        let server = server.shutdown_when(async move { inner.started(1).await });
        let report = server.serve(handlers.handler()).await.unwrap();
        assert_eq!((report.cause(), report.cancelled()), (Cause::Stream, 1));
        assert_eq!(rest(&mut client), "");
        let lines = logs.lines_with("stopped by a future");
        assert!(lines.iter().any(|(_, line)| line.contains("asked to shut down")), "{lines:?}");
        assert!(lines.iter().any(|(_, line)| line.contains("draining 1 connection")), "{lines:?}");
        for (_, line) in lines {
            assert!(["signal", "SIG", "Ctrl"].iter().all(|word| !line.contains(word)), "{line}");
        }
    });
}

/// Both compile without a type annotation.
#[test]
fn streams_of_units_and_of_signals_are_shutdown_streams() {
    test(async {
        let (ask, asked) = async_std::channel::bounded(1);
        let server = bind().await.shutdown_on(asked);
        ask.send(()).await.unwrap();
        assert_eq!(server.serve(async |_: ebbtide::Connection| {}).await.unwrap().cause(), Cause::Stream);

        let signals = async_std::stream::once(Signal::Terminate);
        let report = bind().await.shutdown_on(signals).serve(async |_: ebbtide::Connection| {}).await.unwrap();
        assert_eq!(report.cause(), Cause::Signal(Signal::Terminate));
        assert!(report.to_string().contains(" because SIGTERM was received: 0 accepted"), "{report}");
    });
}

#[test]
fn the_items_of_each_shutdown_stream_are_counted_separately() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.grace(FOR_EVER);
        let handle = server.handle();
        let mut client = order(server.local_addr(), STUBBORN);
        let (one, first) = async_std::channel::unbounded();
        let (two, second) = async_std::channel::unbounded();
        let serving = task::spawn(server.shutdown_on(first).shutdown_on(second).serve(handlers.handler()));
        handlers.started(1).await;
        one.send(()).await.unwrap();
        two.send(()).await.unwrap();
        handle.until_draining(pending::<()>()).await;
        while !(one.is_empty() && two.is_empty()) {
            task::yield_now().await;
        }
        task::sleep(Duration::from_millis(20)).await;
        assert_eq!(handlers.live.count(), 1, "the first item of two streams is not a second item of one");
        two.send(()).await.unwrap();
        assert_eq!(serving.await.unwrap().cancelled(), 1);
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn a_drain_logs_at_once_how_many_connections_are_open_and_its_limit() {
    let logs = logs::remember();
    test(async move {
        let handlers = Handlers::new();
        let (ask, asked) = async_std::channel::unbounded(); // a stream, as that of Ctrl-C is one
        let server = bind().await.grace(Duration::from_millis(2500)).shutdown_on(asked);
        let mut clients: Vec<_> = (0..7).map(|_| order(server.local_addr(), STUBBORN)).collect();
        let peer = clients[0].local_addr().unwrap();
        let body = async |server: Handle| {
            handlers.started(7).await;
            ask.send(()).await.unwrap();
            server.until_draining(pending::<()>()).await;
            pending::<()>().await
        };
        server.scope(handlers.handler(), body).await.unwrap();
        let lines = logs.lines_with("draining 7 connections for at most 2.");
        assert!(lines.len() == 1 && lines[0].0 == log::Level::Info, "{lines:?}");
        assert!(lines[0].1.contains("connections=7") && !lines[0].1.contains("a second"), "{lines:?}");
        // Then a line each second, with the oldest connection.
        let lines = logs.lines_with(&format!("draining: 7 connections left, the oldest from `{peer}`"));
        assert!(lines.len() == 2 && lines[0].1.contains(&format!("peer={peer}")), "{lines:?}");
        for client in &mut clients {
            assert_eq!(rest(client), "");
        }
    });
}
