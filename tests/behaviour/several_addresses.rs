//! One server on several addresses. If the kernel chooses the port, all addresses get the same one. All of them are
//! bound or none, and all are closed before the drain begins.

use crate::support;
use crate::support::*;
use async_std::task;
use ebbtide::{Address, Connection, Handle, Listener, Server};
use std::future::pending;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn tcps(server: &Server) -> Vec<SocketAddr> {
    server.local_addrs().map(|address| address.tcp().unwrap()).collect()
}

#[test]
fn ipv4_and_ipv6_get_the_same_port_and_both_are_served() {
    test(async {
        if !has_ipv6() {
            println!("skipped: this machine has no IPv6");
            return;
        }
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        for both in [[loopback(), v6], [v6, loopback()]] {
            let server = Server::bind(&both[..]).await.unwrap();
            let addresses = tcps(&server);
            assert_eq!(addresses.len(), 2);
            assert!(addresses[0].port() != 0 && addresses[0].port() == addresses[1].port(), "{addresses:?}");
            let ips = [addresses[0].ip(), addresses[1].ip()];
            assert_eq!(ips, [both[0].ip(), both[1].ip()], "the order must be the one given to `bind`");
            let mut clients: Vec<_> = addresses.iter().map(|&address| order(&address.into(), REPLIES)).collect();
            let body =
                async |_| Ok(task::spawn_blocking(move || clients.iter_mut().map(rest).collect::<Vec<_>>()).await);
            let (replies, _) = server.scope(speaks, body).await.unwrap();
            assert_eq!(replies, ["whole reply", "whole reply"]);
            assert!(addresses.iter().all(|&address| refuses(&address.into())));
        }
    });
}

#[test]
fn the_unspecified_addresses_of_ipv4_and_ipv6_can_be_bound_together() {
    test(async {
        if !has_ipv6() {
            println!("skipped: this machine has no IPv6");
            return;
        }
        // On most systems `[::]` alone also accepts IPv4. Beside `0.0.0.0` it must not.
        for all in [["0.0.0.0:0", "[::]:0"], ["[::]:0", "0.0.0.0:0"]] {
            let all = all.map(|address| address.parse::<SocketAddr>().unwrap());
            let server = Server::bind(&all[..]).await.unwrap();
            let addresses = tcps(&server);
            assert_eq!((addresses.len(), addresses[0].port()), (2, addresses[1].port()));
        }
    });
}

#[test]
fn a_name_is_bound_at_every_address_that_it_resolves_to() {
    test(async {
        let server = Server::bind("localhost:0").await.unwrap();
        let addresses = tcps(&server);
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == addresses[0].port()));
        println!("localhost: {addresses:?}");
    });
}

#[test]
fn a_name_that_does_not_resolve_is_an_error_with_the_resolvers_reason() {
    test(async {
        // No name in `.invalid` resolves, but without a network a resolver may take long to report that.
        let binding = Server::bind("no.such.host.invalid:1");
        let Ok(bound) = async_std::future::timeout(NET / 2, binding).await else {
            return println!("skipped: the resolver has not answered");
        };
        let shown = bound.unwrap_err().to_string();
        let start = "cannot listen on `no.such.host.invalid:1`: the name `no.such.host.invalid` cannot be resolved (";
        let rest = shown.strip_prefix(start).unwrap_or_else(|| panic!("{shown}"));
        let (reason, remedy) = rest.split_once("); ").unwrap_or_else(|| panic!("{shown}"));
        assert!(!reason.trim().is_empty() && remedy.contains("DNS"), "{shown}");
    });
}

#[test]
fn a_port_is_known_after_the_bind_and_a_client_that_connects_before_the_server_serves_is_served() {
    test(async {
        let server = bind().await;
        let mut early = order(server.local_addr(), REPLIES);
        assert!(!server.handle().is_serving());
        let body = async |_| Ok(task::spawn_blocking(move || rest(&mut early)).await);
        let (reply, _) = server.scope(speaks, body).await.unwrap();
        assert_eq!(reply, "whole reply");
    });
}

#[test]
fn if_one_address_cannot_be_bound_the_others_are_closed_and_the_error_names_it() {
    test(async {
        let taken = TcpListener::bind(loopback()).unwrap();
        let address = taken.local_addr().unwrap();
        let free = SocketAddr::new(loopback().ip(), address.port());
        for order in [[free, address], [address, free]] {
            let error = Server::bind(&order[..]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&format!("`{address}`")), "{error}");
            drop(TcpListener::bind(free).expect("the other address is closed again"));
        }
        assert!(!refuses(&address.into()), "the socket that has the address must not be affected");
    });
}

#[test]
fn an_empty_list_of_addresses_is_an_error() {
    test(async {
        let none: [SocketAddr; 0] = [];
        let error = Server::bind(&none[..]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("the list of addresses is empty"), "{error}");
    });
}

#[cfg(unix)]
#[test]
fn r04_listeners_of_all_kinds_are_closed_before_the_drain_begins() {
    test(async {
        let folder = support::files::Folder::new();
        let path = folder.path("mixed.sock");
        let (memory, connector) = Listener::memory();
        let server = bind().await;
        let server = server.add_listener(Listener::tcp(loopback()).unwrap()).add_listener(memory);
        let server = server.add_listener(Listener::unix(&path).unwrap());
        let addresses: Vec<_> = server.local_addrs().cloned().collect();
        assert_eq!((&addresses[2], addresses[3].path()), (&Address::named("memory"), Some(path.as_path())));
        assert!(addresses.len() == 4 && addresses[3].is_unix());
        let (send, seen) = async_std::channel::unbounded();
        let handler = {
            let (addresses, connector) = (addresses.clone(), connector.clone());
            move |conn: Connection| {
                let (addresses, connector, send) = (addresses.clone(), connector.clone(), send.clone());
                async move {
                    send.send(0).await.unwrap();
                    conn.until_draining(pending::<()>()).await;
                    // Every listener is closed, not only the one of this connection.
                    let open = addresses[..2].iter().filter(|address| !refuses(address)).count()
                        + usize::from(connector.connect().await.is_ok())
                        + usize::from(addresses[3].path().unwrap().exists())
                        + usize::from(conn.server().is_serving());
                    send.send(open).await.unwrap();
                }
            }
        };
        let (_a, _b) = (connect(&addresses[0]), connect(&addresses[1]));
        let (_c, _d) = (connector.connect().await.unwrap(), std::os::unix::net::UnixStream::connect(&path).unwrap());
        let body = async |server: Handle| {
            for _ in 0..4 {
                seen.recv().await.unwrap();
            }
            assert_eq!(
                server.connections().iter().filter(|one| addresses.iter().any(|a| one.local_addr() == Some(a))).count(),
                4
            );
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        let open: Vec<_> = std::iter::from_fn(|| seen.try_recv().ok()).collect();
        assert_eq!((open, report.completed()), (vec![0; 4], 4), "{report}");
    });
}
