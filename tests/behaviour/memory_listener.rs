//! `Listener::memory` behaves like a socket: clients connect, wait in a backlog, are refused once the listener is
//! closed, and see EOF when their handler has ended.

use crate::support;
use crate::support::ways::rest;
use crate::support::*;
use async_std::prelude::*;
use async_std::task;
use ebbtide::{Address, Connection, Connector, Handle, Listener, MemoryStream, Server};
use std::future::pending;
use std::io::ErrorKind;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Connects a client that sends the request and half-closes, and returns what it reads until EOF.
async fn ask(connector: &Connector, request: &[u8]) -> String {
    let mut client = connector.connect().await.unwrap();
    client.write_all(request).await.unwrap();
    client.close().await.unwrap();
    rest(&mut client).await
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_client_that_has_half_closed_still_gets_the_reply() {
    test(async {
        let (listener, connector) = Listener::memory();
        let body = async |_| Ok(ask(&connector, b"hello").await);
        let (reply, report) = Server::new(listener).scope(echo_at_eof, body).await.unwrap();
        assert_eq!(reply, "hello");
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
    });
}

#[test]
fn a_message_that_is_larger_than_the_buffer_passes_in_both_directions() {
    test(async {
        let (listener, connector) = Listener::memory();
        let text = "0123456789abcdef".repeat(64 * 1024); // 1 MiB; the buffer holds 64 KiB
        let body = async |_| Ok(ask(&connector, text.as_bytes()).await);
        let (reply, _) = Server::new(listener).scope(echo_at_eof, body).await.unwrap();
        assert!(reply == text);
    });
}

#[test]
fn the_addresses_are_the_listeners_name_and_the_clients_number() {
    test(async {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener);
        assert_eq!(server.to_string(), "Server listening on memory");
        let name = async |conn: Connection| {
            let text = format!("{} at {}", conn.peer_addr(), conn.local_addr());
            (&conn).write_all(text.as_bytes()).await
        };
        let body = async |_| Ok((ask(&connector, b"").await, ask(&connector.clone(), b"").await));
        let (names, _) = server.scope(name, body).await.unwrap();
        assert_eq!(names, ("memory:0 at memory".to_owned(), "memory:1 at memory".to_owned()));
    });
}

#[test]
fn a_connection_in_memory_has_no_socket_and_no_peer_credentials() {
    test(async {
        let (listener, connector) = Listener::memory();
        let look = async |conn: Connection| {
            assert!(conn.tcp_stream().is_none());
            #[cfg(unix)]
            assert!(conn.peer_credentials().is_none());
            assert_eq!(conn.peer_addr(), &Address::named("memory:0"));
        };
        let (_, report) = Server::new(listener).scope(look, async |_| Ok(ask(&connector, b"").await)).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn a_client_that_connects_before_the_server_serves_is_served_later() {
    test(async {
        let (listener, connector) = Listener::memory();
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"early").await.unwrap();
        client.close().await.unwrap();
        let (reply, _) = Server::new(listener).scope(echo_at_eof, async |_| Ok(rest(&mut client).await)).await.unwrap();
        assert_eq!(reply, "early");
    });
}

#[test]
fn r04_clients_in_the_backlog_at_the_shutdown_are_served_in_the_drain() {
    test_alone(async {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener);
        let mut clients = Vec::new();
        for _ in 0..100 {
            let mut client = connector.connect().await.unwrap();
            client.write_all(b"queued").await.unwrap();
            client.close().await.unwrap();
            clients.push(client);
        }
        let mut held = Some(hold_executor());
        let body = async |server: Handle| {
            drop(server.shutdown());
            assert_eq!(server.connection_count(), 0);
            held.take();
        };
        let (_, report) = server.scope(echo_at_eof, body).await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (100, 100), "{report}");
        for client in &mut clients {
            assert_eq!(rest(client).await, "queued");
        }
    });
}

#[test]
fn from_the_drain_on_clients_are_refused_with_the_reason() {
    test(async {
        let (listener, connector) = Listener::memory();
        let body = async |server: Handle| {
            drop(server.shutdown());
            server.until_draining(pending::<()>()).await;
            assert!(!server.is_serving());
            Ok(connector.connect().await.unwrap_err()) // during the drain
        };
        let (error, _) = Server::new(listener).scope(echo_at_eof, body).await.unwrap();
        for error in [error, connector.connect().await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            assert!(error.to_string().contains("closed"), "{error}");
        }
        assert!(format!("{connector:?}").contains("closed: true"), "{connector:?}");
    });
}

#[test]
fn clients_in_the_backlog_of_a_dropped_server_see_eof() {
    test(async {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener);
        let mut waiting = connector.connect().await.unwrap();
        drop(server); // never served; the connector is still alive
        assert_eq!(rest(&mut waiting).await, "");
        assert_eq!(waiting.write_all(b"?").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(connector.connect().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn with_a_full_backlog_a_client_waits_in_connect_until_there_is_room() {
    test(async {
        let (listener, connector) = Listener::memory();
        let mut clients = fill(&connector);
        let mut last = Box::pin(ask(&connector, b"last"));
        assert!(poll_once(last.as_mut()).is_pending());
        let body = async |_| {
            for client in &mut clients {
                client.close().await.unwrap();
            }
            Ok(last.await)
        };
        let (reply, report) = Server::new(listener).scope(echo_at_eof, body).await.unwrap();
        assert_eq!(reply, "last");
        assert_eq!(report.completed(), clients.len() as u64 + 1, "{report}");
    });
}

#[test]
fn a_client_waiting_in_connect_is_refused_at_the_close_and_a_dropped_connect_has_no_effect() {
    test(async {
        let (listener, connector) = Listener::memory();
        let mut clients = fill(&connector);
        let mut gave_up = Box::pin(connector.connect());
        let mut waits = Box::pin(connector.connect());
        assert!(poll_once(gave_up.as_mut()).is_pending() && poll_once(waits.as_mut()).is_pending());
        drop(gave_up);
        drop(listener);
        assert_eq!(waits.await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        for client in &mut clients {
            assert_eq!(rest(client).await, "");
        }
    });
}

/// Fills the backlog, and returns its clients.
fn fill(connector: &Connector) -> Vec<MemoryStream> {
    let clients: Vec<_> = std::iter::from_fn(|| match poll_once(connector.connect()) {
        Poll::Ready(client) => Some(client.unwrap()),
        Poll::Pending => None,
    })
    .collect();
    assert_eq!(clients.len(), 128, "the size of the backlog in the documentation");
    clients
}

#[test]
fn a_server_whose_last_connector_is_dropped_goes_on_with_its_other_listeners() {
    test(async {
        let (listener, connector) = Listener::memory();
        let server = bind().await.add_listener(listener);
        let handlers = Handlers::new();
        let body = async |server: Handle| {
            drop(connector);
            let mut client = order(server.local_addr(), REPLIES);
            assert_eq!(task::spawn_blocking(move || support::rest(&mut client)).await, "whole reply");
            assert!(server.is_serving());
        };
        let (_, report) = server.scope(handlers.handler(), body).await.unwrap();
        assert_eq!((report.completed(), report.accept_errors()), (1, 0), "{report}");
    });
}

#[test]
fn r05_bytes_that_have_arrived_are_read_in_a_drain_by_any_number_of_reads() {
    test(async {
        const ROUNDS: usize = 2_000;
        let (listener, connector) = Listener::memory();
        let (go, wait) = async_std::channel::bounded::<()>(1);
        // Reads byte by byte once the drain has begun: each read must find the next byte in its first poll.
        let handler = move |conn: Connection| {
            let wait = wait.clone();
            async move {
                conn.until_draining(pending::<()>()).await;
                let _ = wait.recv().await; // the client has sent everything
                let mut read = 0;
                while let Some(n) = conn.until_draining((&conn).read(&mut [0])).await.transpose()? {
                    read += n;
                }
                assert_eq!(read, ROUNDS);
                (&conn).write_all(&vec![0; ROUNDS]).await
            }
        };
        let mut client = connector.connect().await.unwrap();
        let body = async |server: Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
            drop(server.shutdown());
            client.write_all(&vec![b'x'; ROUNDS]).await.unwrap();
            drop(go);
            assert_eq!(rest(&mut client).await.len(), ROUNDS);
        };
        let (_, report) = Server::new(listener).scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), report.panicked()), (1, 0), "{report}");
    });
}

#[test]
fn a_stream_in_memory_is_pending_only_if_it_really_has_to_wait() {
    let (mut here, mut there) = MemoryStream::pair();
    for _ in 0..2_000 {
        assert!(matches!(poll_once(here.write(b"ab")), Poll::Ready(Ok(2))));
        assert!(matches!(poll_once(there.read(&mut [0; 4])), Poll::Ready(Ok(2))));
    }
    assert!(poll_once(there.read(&mut [0; 4])).is_pending());
    assert!(matches!(poll_once(there.read(&mut [])), Poll::Ready(Ok(0))));
    assert!(matches!(poll_once(there.write(&[])), Poll::Ready(Ok(0))));
}

#[test]
fn closing_a_stream_in_memory_is_a_half_close_and_dropping_it_closes_both_directions() {
    test(async {
        let (mut here, mut there) = MemoryStream::pair();
        here.write_all(b"first").await.unwrap();
        here.close().await.unwrap();
        here.close().await.unwrap();
        assert_eq!(here.write(b"?").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(rest(&mut there).await, "first");
        there.write_all(b"then").await.unwrap();
        drop(there);
        assert_eq!(rest(&mut here).await, "then");

        let (mut here, there) = MemoryStream::pair();
        let full = task::spawn(async move { (here.write_all(&vec![0; 1 << 20]).await, here) });
        let mut there = there;
        there.read_exact(&mut [0; 100]).await.unwrap(); // the other end is writing, and its buffer fills up
        drop(there);
        let (written, mut here) = full.await;
        assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(rest(&mut here).await, "");
    });
}
