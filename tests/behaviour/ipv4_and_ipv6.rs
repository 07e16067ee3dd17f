//! IPv4 and IPv6 on one port. An IPv4 client of a dual-stack socket is shown with its IPv4 address, and each family can
//! have a listener of its own.

use crate::support::{self, *};
use async_std::channel::unbounded;
use async_std::task;
use ebbtide::{Connection, Handle, ListenOptions, Listener, Server};
use std::future::pending;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

/// Returns a dual-stack listener, if this machine has both families.
fn dual_stack() -> Option<Listener> {
    let listener = Listener::tcp_with(SocketAddr::from(([0u16; 8], 0)), &ListenOptions::new().only_v6(false));
    if listener.is_err() {
        println!("skipped: this machine has no IPv6, or no dual-stack sockets");
    }
    listener.ok()
}

#[test]
fn an_ipv4_client_of_a_dual_stack_socket_is_shown_with_its_ipv4_address_everywhere() {
    test(async {
        let Some(listener) = dual_stack() else { return };
        let logs = support::logs::remember();
        let server = Server::new(listener).max_connections_per_ip(1).name("both families");
        let port = tcp(server.local_addr()).port();
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let client = TcpStream::connect(v4).unwrap();
        let from = client.local_addr().unwrap();
        let (send, receive) = unbounded();
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let seen = (conn.peer_addr().clone(), conn.local_addr().clone());
                send.send(seen).await.unwrap();
                conn.until_draining(pending::<()>()).await;
            }
        };
        let body = async |server: Handle| {
            let (peer, local) = receive.recv().await.unwrap();
            assert_eq!((tcp(&peer), tcp(&local)), (from, v4));
            assert_eq!((peer.ip(), peer.to_string()), (Some(from.ip()), from.to_string()));
            let listed = &server.connections()[0];
            assert_eq!((tcp(listed.peer_addr()), listed.local_addr().map(tcp)), (from, Some(v4)));
            assert!(listed.to_string().contains(&format!("from {from}")), "{listed}");
            // Its address has reached its limit, so a second client from it is refused.
            let mut second = TcpStream::connect(v4).unwrap();
            assert_eq!(rest(&mut second), "");
            // An IPv6 client has another address.
            let v6 = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
            let (peer, _) = receive.recv().await.unwrap();
            assert_eq!(tcp(&peer), v6.local_addr().unwrap());
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.accepted(), report.refused()), (2, 1), "{report}");
        let lines = logs.lines_with("both families");
        let with_peer = lines.iter().filter(|(_, line)| line.contains(&format!("peer={from}"))).count();
        assert!(with_peer >= 2, "the lines for opened and closed name the peer: {lines:#?}");
        assert!(lines.iter().all(|(_, line)| !line.contains("::ffff:")), "{lines:#?}");
    });
}

#[test]
fn each_family_can_have_a_listener_with_its_own_options_on_one_port() {
    test(async {
        if dual_stack().is_none() {
            return;
        }
        let only_v6 = ListenOptions::new().only_v6(true).nodelay(false);
        let v4 = Listener::tcp(SocketAddr::from(([0; 4], 0))).unwrap();
        let port = tcp(v4.local_addr()).port();
        let v6 = Listener::tcp_with(SocketAddr::from(([0u16; 8], port)), &only_v6).unwrap();
        let server = Server::new(v4).add_listener(v6);
        let (send, receive) = unbounded();
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move { send.send(conn.tcp_stream().unwrap().nodelay().unwrap()).await.unwrap() }
        };
        let body = async |_| {
            for (ip, nodelay) in [(Ipv4Addr::LOCALHOST.into(), true), (Ipv6Addr::LOCALHOST.into(), false)] {
                let _client = TcpStream::connect(SocketAddr::new(ip, port)).unwrap();
                assert_eq!(receive.recv().await.unwrap(), nodelay, "{ip}");
            }
        };
        server.scope(handler, body).await.unwrap();
    });
}

#[test]
fn a_list_with_both_wildcard_addresses_on_one_port_binds_a_socket_for_each_family() {
    test(async {
        if dual_stack().is_none() {
            return;
        }
        // Uses the port of an earlier server, so that it is a fixed port and not one that the kernel chooses.
        for both in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"]] {
            let first = Server::bind("0.0.0.0:0").await.unwrap();
            let port = tcp(first.local_addr()).port();
            drop(first);
            let texts = both.map(|host| format!("{host}:{port}")).to_vec();
            let server = Server::bind(texts.clone()).await.unwrap();
            assert_eq!(server.local_addrs().map(ToString::to_string).collect::<Vec<_>>(), texts);
        }
    });
}

#[test]
fn a_wildcard_ipv6_address_stays_dual_stack_if_the_list_has_no_ipv4_address_with_its_port() {
    test(async {
        if dual_stack().is_none() || dual_stack().is_some_and(|_| Listener::tcp("[::]:0".parse().unwrap()).is_err()) {
            return;
        }
        let port = tcp(Server::bind("[::]:0").await.unwrap().local_addr()).port();
        let server = Server::bind([SocketAddr::from(([0u16; 8], port)), loopback()]).await.unwrap();
        if !cfg!(target_os = "linux") {
            return;
        }
        let mut client = order(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(), REPLIES);
        let body = async |_| Ok(task::spawn_blocking(move || rest(&mut client)).await);
        let (reply, _) = server.scope(speaks, body).await.unwrap();
        assert_eq!(reply, "whole reply", "`[::]` accepts an IPv4 client");
    });
}

#[test]
fn an_explicit_only_v6_is_never_changed_by_a_list_with_both_families() {
    test(async {
        if dual_stack().is_none() || !cfg!(target_os = "linux") {
            return;
        }
        let port = tcp(Server::bind("[::]:0").await.unwrap().local_addr()).port();
        let both = [SocketAddr::from(([0; 4], port)), SocketAddr::from(([0u16; 8], port))];
        let error = Server::bind_with(both, &ListenOptions::new().only_v6(false)).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
        assert!(error.to_string().contains("only_v6"), "{error}");

        let only = Server::bind_with([both[1]], &ListenOptions::new().only_v6(true)).await.unwrap();
        assert!(refuses(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()));
        drop(only);
    });
}
