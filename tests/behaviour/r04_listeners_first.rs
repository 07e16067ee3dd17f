//! R4: a shutdown closes the listeners first. A client that is in the backlog by then is served; a later one is
//! refused.

use crate::support::*;
use async_std::{prelude::*, task};
use ebbtide::{Connection, Phase};
use std::future::pending;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Replies to one message.
async fn reply(mut conn: Connection) -> std::io::Result<()> {
    let mut buf = [0; 5];
    conn.read_exact(&mut buf).await?;
    conn.write_all(&buf).await
}

#[test]
fn r04_clients_in_the_backlog_at_the_shutdown_are_served_in_the_drain() {
    test_alone(async {
        let server = bind().await;
        let mut clients: Vec<_> = (0..100).map(|_| connect(server.local_addr())).collect();
        for client in &mut clients {
            client.write_all(b"hello").unwrap();
        }
        // No other code of the server runs before the body has returned.
        let mut held = Some(hold_executor());
        let body = async |server: ebbtide::Handle| {
            drop(server.shutdown());
            assert_eq!(server.connection_count(), 0);
            held.take();
        };
        let (_, report) = server.scope(reply, body).await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (100, 100), "{report}");
        for client in &mut clients {
            assert_eq!(rest(client), "hello");
        }
    });
}

#[test]
fn r04_a_connect_after_the_drain_began_is_refused_at_once() {
    test(async {
        let handlers = Handlers::new();
        let server = bind().await;
        let mut client = order(server.local_addr(), POLITE);
        let body = async |server: ebbtide::Handle| {
            handlers.started(1).await;
            drop(server.shutdown());
            server.until_draining(pending::<()>()).await;
            assert!(!server.is_serving());
            assert!(refuses(server.local_addr()));
        };
        server.scope(handlers.handler(), body).await.unwrap();
        assert_eq!(rest(&mut client), "bye");
    });
}

#[test]
fn r04_once_is_serving_is_false_the_port_refuses() {
    test(async {
        for _ in 0..200 {
            let server = bind().await;
            let handle = server.handle();
            let serving = task::spawn(server.serve(reply));
            while !handle.is_serving() {
                task::yield_now().await;
            }
            drop(handle.shutdown());
            while handle.is_serving() {
                task::yield_now().await;
            }
            assert!(refuses(handle.local_addr()));
            serving.await.unwrap();
        }
    });
}

#[test]
fn r04_handlers_are_notified_after_the_listening_sockets_are_closed() {
    test(async {
        let server = bind().await;
        let mut client = order(server.local_addr(), b'x');
        let notified_while_open = Arc::new(AtomicBool::new(false));
        let handler = {
            let notified_while_open = Arc::clone(&notified_while_open);
            move |conn: Connection| {
                let notified_while_open = Arc::clone(&notified_while_open);
                async move {
                    conn.until_draining(pending::<()>()).await;
                    let server = conn.server();
                    if server.is_serving() || !refuses(server.local_addr()) || server.phase() != Phase::Draining {
                        notified_while_open.store(true, Ordering::SeqCst);
                    }
                }
            }
        };
        let body = async |server: ebbtide::Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
        };
        server.scope(handler, body).await.unwrap();
        assert!(!notified_while_open.load(Ordering::SeqCst), "a handler was notified before the socket was closed");
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r04_all_listeners_are_closed_before_the_drain_begins() {
    test(async {
        let more = ebbtide::Listener::tcp(loopback()).unwrap();
        let server = bind().await.add_listener(more);
        let addresses: Vec<_> = server.local_addrs().cloned().collect();
        assert_eq!(server.to_string(), format!("Server listening on {}, {}", addresses[0], addresses[1]));
        let handlers = Handlers::new();
        let mut clients: Vec<_> = addresses.iter().map(|address| order(address, POLITE)).collect();
        let body = async |server: ebbtide::Handle| {
            handlers.started(2).await;
            drop(server.shutdown());
            server.until_draining(pending::<()>()).await;
            assert!(addresses.iter().all(refuses));
        };
        server.scope(handlers.handler(), body).await.unwrap();
        for client in &mut clients {
            assert_eq!(rest(client), "bye");
        }
    });
}

#[test]
fn r04_no_handler_starts_after_the_close() {
    test(async {
        for _ in 0..50 {
            let closed = Arc::new(AtomicBool::new(false));
            let late = Arc::new(AtomicBool::new(false));
            let handler = {
                let (closed, late) = (Arc::clone(&closed), Arc::clone(&late));
                move |_: Connection| {
                    late.fetch_or(closed.load(Ordering::SeqCst), Ordering::SeqCst);
                    async {}
                }
            };
            let server = bind().await;
            let _queued: Vec<_> = (0..20).map(|_| connect(server.local_addr())).collect();
            let handle = server.handle();
            let serving = task::spawn(server.serve(handler));
            handle.cancel().await;
            closed.store(true, Ordering::SeqCst);
            serving.await.unwrap();
            assert!(!late.load(Ordering::SeqCst), "a handler started after the server was closed");
        }
    });
}

#[test]
fn r04_a_listener_that_fails_drains_the_clients_of_all_listeners() {
    test(async {
        let socket = std::net::TcpListener::bind(loopback()).unwrap();
        let failing = ebbtide::Listener::try_from(socket.try_clone().unwrap()).unwrap();
        let name = failing.local_addr().clone();
        let server = bind().await.add_listener(failing);
        let mut clients = [order(server.local_addr(), POLITE), order(&name, POLITE)];
        let handlers = Handlers::new();
        let serving = task::spawn(server.serve(handlers.handler()));
        handlers.started(2).await;
        socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Both).unwrap();
        let error = serving.await.unwrap_err();
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        assert_eq!(error.report().completed(), 2);
        for client in &mut clients {
            assert_eq!(rest(client), "bye");
        }
    });
}
