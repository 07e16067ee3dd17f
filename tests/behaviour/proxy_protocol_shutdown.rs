//! The end of a server finds connections in the middle of their PROXY header; and limits that count clients, not
//! proxies.
#![cfg(feature = "proxy-protocol")]

use crate::support::proxied::*;
use crate::support::*;
use async_std::io::WriteExt as _;
use async_std::task;
use ebbtide::{Connection, ConnectionState, Handle, ProxyProtocol, Server};
use futures_concurrency::prelude::*;
use std::future::pending;
use std::time::{Duration, Instant};

/// No limit of its own: only the end of the server is one.
fn patient() -> ProxyProtocol {
    trusting(ProxyProtocol::required()).timeout(None)
}

/// Clients that have said nothing, or a part.
async fn unfinished(door: &Door, handle: &Handle) -> Vec<Client> {
    let clients = [&b""[..], b"PROXY", &V1[..20], &V2[..14]].map(|part| {
        let mut client = door.client();
        client.send(part);
        client
    });
    while handle.connection_count() < clients.len() {
        task::yield_now().await;
    }
    assert!(handle.connections().iter().all(|info| info.state() == ConnectionState::Opening));
    clients.into()
}

#[test]
fn a_drain_waits_a_second_for_headers_and_whoever_is_quick_is_served() {
    for way in WAYS {
        test(async move {
            let (server, door) = Door::open(*way, patient()).await;
            let server = server.grace(FOR_EVER);
            let body = async |handle: Handle| {
                let mut clients = unfinished(&door, &handle).await;
                drop(handle.shutdown());
                handle.until_draining(pending::<()>()).await;
                task::spawn_blocking(move || {
                    let mut quick = clients.remove(2);
                    assert_eq!(quick.ask(&[&V1[20..], b"just in time"].concat()), format!("{ANSWER}just in time"));
                    clients.iter_mut().for_each(|client| assert_eq!(client.rest(), ""));
                })
                .await;
            };
            let start = Instant::now();
            let (_, report) = server.scope(who, body).await.unwrap();
            assert_eq!((report.rejected(), report.completed(), report.cancelled()), (3, 1, 0), "{way:?}: {report}");
            assert!(
                report.elapsed() < Duration::from_secs(10) && start.elapsed() >= Duration::from_secs(1),
                "{report}"
            );
        });
    }
}

#[test]
fn in_a_drain_an_optional_header_is_done_without() {
    test(async {
        let proxy = trusting(ProxyProtocol::optional()).timeout(None);
        let (server, door) = Door::open(Way::Tcp, proxy).await;
        let greet = async |mut conn: Connection| conn.write_all(b"closing soon").await;
        let body = async |handle: Handle| {
            let client = door.client();
            while handle.connection_count() == 0 {
                task::yield_now().await;
            }
            Ok(client)
        };
        let (mut client, report) = server.grace(FOR_EVER).scope(greet, body).await.unwrap();
        assert_eq!((client.rest(), report.completed()), ("closing soon".to_owned(), 1), "{report}");
    });
}

#[test]
fn a_cancel_waits_for_no_header() {
    for way in WAYS {
        test(async move {
            let (server, door) = Door::open(*way, patient()).await;
            let mut clients = Vec::new();
            let body = async |handle: Handle| {
                clients = unfinished(&door, &handle).await;
                handle.cancel().await;
            };
            let (_, report) = server.scope(who, body).await.unwrap();
            assert_eq!((report.cancelled(), report.accepted()), (4, 4), "{way:?}: {report}");
            clients.iter_mut().for_each(|client| assert_eq!(client.rest(), ""));
        });
    }
}

#[test]
fn a_dropped_server_leaves_nobody_in_the_middle_of_a_header() {
    for way in WAYS {
        test(async move {
            let (server, door) = Door::open(*way, patient()).await;
            let handle = server.handle();
            let serving = server.serve(who);
            let clients = async { Some(unfinished(&door, &handle).await) };
            let serving = async {
                let _ = serving.await;
                None
            };
            let mut clients = (clients, serving).race().await.expect("nobody has stopped it");
            let report = handle.closed().await;
            assert_eq!((report.cancelled(), report.accepted()), (4, 4), "{way:?}: {report}");
            clients.iter_mut().for_each(|client| assert_eq!(client.rest(), ""));
        });
    }
}

fn from(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.2 1 443\r\n").into_bytes()
}

/// A client that is being served: its handler has it.
fn served(door: &Door, handle: &Handle, client: &str) -> Client {
    let served =
        |handle: &Handle| handle.connections().iter().filter(|info| info.state() == ConnectionState::Serving).count();
    let before = served(handle);
    let mut stream = door.client();
    stream.send(&from(client));
    while served(handle) == before {
        std::thread::yield_now();
    }
    stream
}

#[test]
fn the_limit_of_one_address_counts_clients_and_not_their_proxy() {
    let logs = logs::remember();
    for way in WAYS {
        let proxy = trusting(ProxyProtocol::required());
        let report = serve(
            *way,
            proxy,
            |server| server.max_connections_per_ip(2),
            |door, handle| {
                let mut clients = vec![];
                for client in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"] {
                    clients.push(served(door, handle, client));
                }
                assert_eq!(door.client().ask(&from("192.0.2.1")), "", "one too many");
                assert!(clients.remove(0).ask(b"").starts_with("192.0.2.1:1 to"));
                // There is room again, as soon as the one that has left is all gone.
                while door.client().ask(&from("192.0.2.1")).is_empty() {}
                clients.iter_mut().for_each(|client| assert_ne!(client.ask(b""), ""));
            },
        );
        assert_eq!((report.completed(), report.refused()), (5, 0), "{way:?}: {report}");
        assert!(report.rejected() >= 1 && report.accepted() == report.completed() + report.rejected(), "{report}");
        assert!(
            !logs
                .lines_with("there are 2 connections already from its client `192.0.2.1` (`max_connections_per_ip`)")
                .is_empty()
        );
    }
}

#[test]
fn the_limit_counts_the_peer_itself_where_no_proxy_speaks_for_another() {
    let trusted = trusting(ProxyProtocol::optional());
    let untrusted = ProxyProtocol::optional();
    for (proxy, failed, refused) in [(trusted, 1, 0), (untrusted, 0, 1)] {
        let report = serve(
            Way::Tcp,
            proxy,
            |server| server.max_connections_per_ip(1),
            |door, handle| {
                let mut first = door.client();
                first.send(b"hello");
                while !handle.connections().iter().any(|info| info.state() == ConnectionState::Serving) {
                    std::thread::yield_now();
                }
                assert_eq!(door.client().ask(b"hello"), "", "one too many");
                assert_ne!(first.ask(b""), "");
            },
        );
        assert_eq!((report.completed(), report.rejected(), report.refused()), (1, failed, refused), "{report}");
    }
}

/// The books are right although both limits are at work and many come at a time.
#[test]
fn nothing_is_lost_under_a_flood_of_clients_of_few_addresses() {
    let set = |server: Server| server.max_connections_per_ip(3).max_connections(8);
    let report = serve(Way::Tcp, trusting(ProxyProtocol::required()), set, |door, handle| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for round in 0..50 {
                        let client = format!("192.0.2.{}", (thread + round) % 2);
                        let answer = door.client().ask(&from(&client));
                        assert!(answer.is_empty() || answer.starts_with(&client), "{answer}");
                    }
                });
            }
        });
        while handle.connection_count() > 0 {
            std::thread::yield_now();
        }
        for _ in 0..3 {
            assert_ne!(door.client().ask(&from("192.0.2.1")), "", "all permits are back");
        }
    });
    assert_eq!(report.accepted(), 203, "{report}");
    assert_eq!(report.accepted(), report.completed() + report.rejected(), "{report}");
}
