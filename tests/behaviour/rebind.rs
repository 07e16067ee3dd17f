//! Binding an address again: it works right after the exit; while the server lives, it is an error that names the
//! address.

use crate::support::*;
use async_std::task;
use ebbtide::{Connection, Keepalive, ListenOptions, Listener, Server};
use std::io::ErrorKind;
use std::time::Duration;

#[test]
fn a_port_can_be_bound_again_right_after_the_exit_with_connections_in_time_wait() {
    test(async {
        let mut address = loopback();
        for _ in 0..20 {
            let handlers = Handlers::new();
            let server = Server::bind(address).await.expect("the port was just closed");
            address = tcp(server.local_addr());
            let mut clients: Vec<_> = (0..5).map(|_| order(server.local_addr(), POLITE)).collect();
            // The server closes first, so the connections stay in TIME_WAIT on its side.
            server.scope(handlers.handler(), async |_| handlers.started(5).await).await.unwrap();
            for client in &mut clients {
                assert_eq!(rest(client), "bye");
            }
        }
    });
}

#[test]
fn a_port_in_use_is_an_error_that_names_it_and_the_remedy() {
    test(async {
        let server = bind().await;
        let address = tcp(server.local_addr());
        let error = Server::bind(address).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.contains(&format!("`{address}`")) && text.contains("choose another port"), "{text}");
        assert_eq!(server.handle().phase(), ebbtide::Phase::Bound, "the first server must not be affected");
        drop(server);
        Server::bind(address).await.map(drop).unwrap();
    });
}

#[test]
fn an_invalid_address_is_an_error_that_names_it() {
    test(async {
        for wrong in ["127.0.0.1:99999", "127.0.0.1", "no such host:80", ""] {
            let error = Server::bind(wrong).await.unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    });
}

#[test]
fn a_socket_that_does_not_listen_is_refused() {
    on_thread(|| {
        #[cfg(target_os = "linux")]
        {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&loopback().into()).unwrap();
            let error = Listener::try_from(std::net::TcpListener::from(socket)).unwrap_err();
            assert!(error.to_string().contains("does not listen"), "{error}");
        }
        let _ = Listener::tcp(loopback()).unwrap();
    });
}

#[test]
fn connections_inherit_the_options_of_their_listener() {
    test(async {
        let seconds = Duration::from_secs;
        let keepalive = Keepalive::after(Duration::ZERO).interval(seconds(7)).retries(0);
        let inherited = || std::net::TcpListener::bind(loopback()).unwrap();
        let with = |options: ListenOptions| Listener::tcp_with(loopback(), &options).unwrap();
        let new = ListenOptions::new;
        let cases = [
            ("the defaults", with(new()), true, Some((60, 15, 4))),
            ("none", with(new().nodelay(false).keepalive(Keepalive::OFF).backlog(1)), false, None),
            ("a duration", with(new().keepalive(seconds(5))), true, Some((5, 15, 4))),
            ("too much", with(new().keepalive(Duration::MAX)), true, Some((32_767, 15, 4))),
            ("each", with(new().keepalive(keepalive)), true, Some((1, 7, 1))),
            // The inherited socket keeps its own options; its connections get the defaults.
            ("inherited", Listener::try_from(inherited()).unwrap(), true, Some((60, 15, 4))),
        ];
        for (name, listener, nodelay, expected) in cases {
            let server = Server::new(listener);
            let _client = connect(server.local_addr());
            let (send, receive) = async_std::channel::bounded(1);
            let handler = move |conn: Connection| {
                let send = send.clone();
                async move { send.send(conn).await.unwrap() }
            };
            let body = async |_| {
                let conn = receive.recv().await.unwrap();
                let tcp = conn.tcp_stream().unwrap();
                let socket = socket2::SockRef::from(tcp);
                assert_eq!(tcp.nodelay().unwrap(), nodelay, "{name}");
                let keepalive = socket.keepalive().unwrap().then(|| {
                    let time = socket.tcp_keepalive_time().unwrap().as_secs();
                    let interval = socket.tcp_keepalive_interval().unwrap().as_secs();
                    (time, interval, socket.tcp_keepalive_retries().unwrap())
                });
                assert_eq!(keepalive, expected, "{name}");
            };
            server.scope(handler, body).await.unwrap();
        }
    });
}

/// Returns how many TIME_WAIT states Linux has dropped at once, because its table was full: other programs may fill it.
fn dropped_time_waits() -> Option<String> {
    let text = std::fs::read_to_string("/proc/net/netstat").ok()?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let (_, value) = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "TCPTimeWaitOverflow")?;
    Some(value.to_owned())
}

#[test]
fn a_listener_without_reuse_address_cannot_bind_during_time_wait() {
    test(async {
        let dropped = dropped_time_waits();
        let options = ListenOptions::new().reuse_address(false);
        let server = Server::bind_with(loopback(), &options).await.unwrap();
        let address = tcp(server.local_addr());
        let handlers = Handlers::new();
        let mut client = order(server.local_addr(), POLITE);
        server.scope(handlers.handler(), async |_| handlers.started(1).await).await.unwrap();
        assert_eq!(rest(&mut client), "bye");
        drop(client);
        if cfg!(target_os = "linux") {
            match Server::bind_with(address, &options).await {
                Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
                Ok(_) => assert_ne!(dropped_time_waits(), dropped, "the address was bound in spite of TIME_WAIT"),
            }
        }
        task::yield_now().await;
    });
}
