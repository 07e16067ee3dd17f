//! R4: what the last sweep of the backlog cannot serve is closed, counted and logged.

use crate::support::scripted::Script;
use crate::support::ways::Kind;
use crate::support::*;
use async_std::channel::bounded;
use ebbtide::{Connection, Handle, Listener, Server};
use std::future::pending;
use std::io::ErrorKind;

#[test]
fn r04_clients_in_the_backlog_without_a_permit_are_closed_counted_and_logged_with_their_number() {
    for &kind in Kind::ALL {
        // Alone, since all listeners in memory have one name.
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
fn r04_a_paused_server_closes_the_client_that_waits_and_says_why() {
    for &kind in Kind::ALL {
        // Alone, since all listeners in memory have one name.
        test_alone(async move {
            let logs = logs::remember();
            let (listener, place) = kind.open();
            let address = listener.local_addr().to_string();
            let mut clients = Vec::new();
            let body = async |server: Handle| {
                server.pause();
                place.say(b"?").await; // may be accepted yet: the loop was waiting for it
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
fn r04_no_client_is_refused_by_a_sweep_while_there_is_a_permit_for_it() {
    test(async {
        let mut refused = 0;
        for round in 0..500 {
            let name = |n: usize| format!("ebbtide-sweep-{}-{round}-{n}", std::process::id()).into_bytes();
            let mut server = Server::new(Listener::unix_abstract(name(0)).unwrap()).max_connections(4);
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
