//! R4: the last sweep of the backlog. It serves the clients for which there are permits; the others are closed, counted
//! and logged.

use crate::support::scripted::Script;
use crate::support::ways::{Kind, Place};
use crate::support::*;
use async_std::channel::bounded;
use async_std::{prelude::*, task};
use ebbtide::{Accept, Address, Connection, Handle, Listener, MemoryStream, Server};
use futures_concurrency::prelude::*;
use std::future::{pending, poll_fn};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

#[test]
fn r04_clients_in_the_backlog_without_a_permit_are_closed_counted_and_logged() {
    for &kind in Kind::ALL {
        // Alone: all listeners in memory have the same name, so the log lines of two tests would mix.
        test_alone(async move {
            let logs = logs::remember();
            let (listener, place) = kind.open();
            let address = listener.local_addr().to_string();
            let server = Server::new(listener).max_connections(1);
            let (started, has_started) = bounded(1);
            let handler = move |conn: Connection| {
                let started = started.clone();
                async move {
                    started.send(()).await.unwrap();
                    conn.until_draining(pending::<()>()).await;
                }
            };
            let mut clients = Vec::new();
            let body = async |_: Handle| {
                let first = place.say(b"?").await;
                has_started.recv().await?;
                for _ in 0..3 {
                    clients.push(place.connect().await?);
                }
                drop(first);
                Ok(())
            };
            let (_, report) = server.scope(handler, body).await.unwrap();
            assert_eq!((report.accepted(), report.refused()), (1, 3), "{kind:?}: {report}");
            let line =
                format!("closed 3 clients in the backlog of `{address}` unserved: all 1 of `max_connections` are");
            assert_eq!(logs.lines_with(&line).len(), 1, "{kind:?}");
        });
    }
}

#[test]
fn r04_each_client_of_a_paused_custom_listener_is_accepted_or_refused() {
    test(async {
        let (listener, script) = Script::listener();
        for _ in 0..3 {
            drop(script.client());
        }
        script.fail(ErrorKind::ConnectionAborted);
        let body = async |server: Handle| server.pause();
        let (_, report) = Server::new(listener).scope(async |_: Connection| {}, body).await.unwrap();
        assert_eq!(report.accepted() + report.refused(), 3, "{report}");
        assert!(script.is_gone());
    });
}

#[test]
fn r04_a_shutdown_of_a_paused_server_closes_the_client_in_the_backlog_and_logs_why() {
    for &kind in Kind::ALL {
        // Alone: all listeners in memory have the same name, so the log lines of two tests would mix.
        test_alone(async move {
            let logs = logs::remember();
            let (listener, place) = kind.open();
            let address = listener.local_addr().to_string();
            let mut clients = Vec::new();
            let body = async |server: Handle| {
                server.pause();
                place.say(b"?").await; // may still be accepted: the accept loop was already waiting for it
                clients.push(place.connect().await?);
                Ok(())
            };
            let (_, report) = Server::new(listener).scope(async |_: Connection| {}, body).await.unwrap();
            assert_eq!(report.accepted() + report.refused(), 2, "{kind:?}: {report}");
            let who = if report.refused() == 1 { "1 client" } else { "2 clients" };
            let line = format!("closed {who} in the backlog of `{address}` unserved: accepting is paused");
            assert_eq!(logs.lines_with(&line).len(), 1, "{kind:?}");
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn r04_a_sweep_refuses_no_client_while_there_is_a_permit_for_it() {
    test(async {
        let mut refused = 0;
        for round in 0..500 {
            let name = |n: usize| format!("ebbtide-sweep-{}-{round}-{n}", std::process::id()).into_bytes();
            let mut server =
                Server::new(Listener::unix_abstract(name(0)).unwrap()).max_connections(4).newcomer_time(Duration::ZERO);
            for n in 1..5 {
                server = server.add_listener(Listener::unix_abstract(name(n)).unwrap());
            }
            let clients = [round % 5, 1, 3, round % 4].map(|n| connect_unix(&name(n)));
            let handler = async |conn: Connection| {
                conn.until_draining(pending::<()>()).await;
            };
            let (_, report) = server.scope(handler, async |_| ()).await.unwrap();
            assert_eq!(report.accepted() + report.refused(), 4);
            refused += report.refused();
            drop(clients);
        }
        assert_eq!(refused, 0);
    });
}

#[cfg(target_os = "linux")]
fn connect_unix(name: &[u8]) -> std::os::unix::net::UnixStream {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    std::os::unix::net::UnixStream::connect_addr(&address).unwrap()
}

/// How many clients were served, and how many lost.
#[derive(Debug, Default)]
struct Fates {
    served: usize,
    lost: usize,
}

/// Connects, asks, and connects again as soon as it has its reply, until the port refuses.
async fn reconnect(place: &Place) -> Fates {
    let mut fates = Fates::default();
    while let Ok(mut client) = place.connect().await {
        let mut reply = String::new();
        let asked = client.write_all(b"hello").await.is_ok();
        let _reset = client.read_to_string(&mut reply).await;
        match asked && reply == "reply" {
            true => fates.served += 1,
            false => fates.lost += 1,
        }
    }
    fates
}

/// The number of clients that may be lost: those that enter the backlog between the last accept and the close of the
/// socket, which takes a few microseconds.
const MAX_LOST: usize = 5;

#[test]
fn r04_clients_that_reconnect_at_once_are_served_or_refused_and_do_not_prolong_the_sweep() {
    for &kind in Kind::ALL {
        test_alone(async move {
            let (listener, place) = kind.open();
            let replies = Arc::<AtomicUsize>::default();
            let counted = Arc::clone(&replies);
            let reply = move |mut conn: Connection| {
                let replies = Arc::clone(&counted);
                async move {
                    conn.read_exact(&mut [0; 5]).await?;
                    replies.fetch_add(1, Ordering::SeqCst);
                    conn.write_all(b"reply").await
                }
            };
            // On a thread of their own, so that they connect while the server's threads are busy.
            let body = async |server: Handle| {
                let clients = std::thread::spawn(move || {
                    let clients: Vec<_> = (0..200).map(|_| reconnect(&place)).collect();
                    task::block_on(clients.join())
                });
                until(|| replies.load(Ordering::SeqCst) > 300).await;
                drop(server.shutdown());
                Ok(task::spawn_blocking(|| clients.join().unwrap()).await)
            };
            let (fates, report) = Server::new(listener).scope(reply, body).await.unwrap();
            let lost: usize = fates.iter().map(|fates| fates.lost).sum();
            let served: usize = fates.iter().map(|fates| fates.served).sum();
            println!("{kind:?}: {served} served, {lost} lost; {report}");
            // A listener in memory closes its queue before the sweep, so it loses none.
            let max_lost = if kind == Kind::Memory { 0 } else { MAX_LOST };
            assert!(served > 200 && lost <= max_lost, "{kind:?}: {served} served, {lost} lost; {report}");
            assert!(report.elapsed() < Duration::from_secs(5), "{kind:?}: {report}");
        });
    }
}

/// A listener whose clients only the sweep accepts: it never wakes the accept loop that waits for them.
#[derive(Clone, Default)]
struct Unannounced {
    clients: Arc<Mutex<Vec<MemoryStream>>>,
    /// Whether the accept loop waits.
    waits: Arc<AtomicBool>,
}

impl Accept for Unannounced {
    type Io = MemoryStream;

    async fn accept(&mut self) -> io::Result<(MemoryStream, Address)> {
        let client = poll_fn(|_| {
            let next = self.clients.lock().unwrap().pop();
            self.waits.store(next.is_none(), Ordering::SeqCst);
            next.map_or(Poll::Pending, Poll::Ready)
        });
        Ok((client.await, Address::named("a client")))
    }
}

/// More clients than are accepted before the accept loop yields to other tasks.
const QUEUED: usize = 200;

#[test]
fn r04_the_sweep_serves_no_client_before_its_socket_is_closed() {
    test(async {
        let accept = Unannounced::default();
        let listener = Listener::custom(Address::named("unannounced"), accept.clone());
        let started = Arc::<AtomicUsize>::default();
        let early = Arc::clone(&started);
        let handler = move |conn: Connection| {
            early.fetch_add(usize::from(conn.server().is_serving()), Ordering::SeqCst);
            async {}
        };
        let body = async |_: Handle| {
            until(|| accept.waits.load(Ordering::SeqCst)).await;
            accept.clients.lock().unwrap().extend((0..QUEUED).map(|_| MemoryStream::pair().0));
        };
        let (_, report) = Server::new(listener).scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), started.load(Ordering::SeqCst)), (QUEUED as u64, 0), "{report}");
    });
}
