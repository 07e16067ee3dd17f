//! A shutdown, a cancel or a drop while PROXY headers are incomplete; and limits for each IP address, which count the
//! clients that headers name and not their proxy.
#![cfg(feature = "proxy-protocol")]

use crate::support::proxied::*;
use crate::support::*;
use async_std::io::WriteExt as _;
use async_std::task;
use ebbtide::{Connection, ConnectionState, Handle, ProxyProtocol, Server};
use futures_concurrency::prelude::*;
use std::future::pending;
use std::time::{Duration, Instant};

/// Returns settings without a timeout for the header: only the end of the server ends the wait for it.
fn without_timeout() -> ProxyProtocol {
    trusting(ProxyProtocol::required()).timeout(None)
}

/// Connects clients that send nothing or only the beginning of a header, and waits until they are accepted.
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
fn a_drain_waits_a_second_for_headers_and_serves_the_clients_that_complete_theirs() {
    for way in WAYS {
        test(async move {
            let (server, door) = Door::open(*way, without_timeout()).await;
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
fn a_drain_does_not_wait_for_an_optional_header() {
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
fn a_cancel_does_not_wait_for_headers() {
    for way in WAYS {
        test(async move {
            let (server, door) = Door::open(*way, without_timeout()).await;
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
fn the_drop_of_a_server_closes_connections_whose_header_is_incomplete() {
    for way in WAYS {
        test(async move {
            let (server, door) = Door::open(*way, without_timeout()).await;
            let handle = server.handle();
            let serving = server.serve(who);
            let clients = async { Some(unfinished(&door, &handle).await) };
            let serving = async {
                let _ = serving.await;
                None
            };
            let mut clients = (clients, serving).race().await.expect("the server has not stopped by itself");
            let report = handle.closed().await;
            assert_eq!((report.cancelled(), report.accepted()), (4, 4), "{way:?}: {report}");
            clients.iter_mut().for_each(|client| assert_eq!(client.rest(), ""));
        });
    }
}

/// Returns a header that names this client.
fn from(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.2 1 443\r\n").into_bytes()
}

/// Connects a client, and waits until its handler has been called.
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
fn the_limit_per_ip_address_counts_clients_and_not_their_proxy() {
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
                assert_eq!(door.client().ask(&from("192.0.2.1")), "", "a third client from this address is closed");
                assert!(clients.remove(0).ask(b"").starts_with("192.0.2.1:1 to"));
                // There is room again once the connection of the client that has left is closed.
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
fn the_limit_per_ip_address_counts_a_peer_without_a_header_itself() {
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
                assert_eq!(door.client().ask(b"hello"), "", "a second client from this address is closed");
                assert_ne!(first.ask(b""), "");
            },
        );
        assert_eq!((report.completed(), report.rejected(), report.refused()), (1, failed, refused), "{report}");
    }
}

/// Both limits are reached again and again while many clients connect at the same time.
#[test]
fn the_counts_add_up_and_all_permits_return_after_a_flood_of_clients_from_two_addresses() {
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
            assert_ne!(door.client().ask(&from("192.0.2.1")), "", "a permit was lost");
        }
    });
    assert_eq!(report.accepted(), 203, "{report}");
    assert_eq!(report.accepted(), report.completed() + report.rejected(), "{report}");
}
