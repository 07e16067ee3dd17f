//! The PROXY protocol with a real HAProxy: the handler's peer is the client, and not HAProxy. Skipped, with a note, if
//! HAProxy is not installed.
#![cfg(all(feature = "proxy-protocol", unix))]

use crate::support::process::Process;
use crate::support::proxied::*;
use crate::support::*;
use async_std::task;
use ebbtide::{Handle, ProxyProtocol};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

/// A HAProxy in front of a server. Its drop kills it.
struct HaProxy {
    /// The address on which it accepts clients.
    frontend: SocketAddr,
    _process: Process,
    _folder: files::Folder,
}

impl HaProxy {
    /// Starts HAProxy. It inherits its listening socket as standard input, so no port is fixed or guessed.
    fn start(server: &str) -> Self {
        let socket = TcpListener::bind(loopback()).unwrap();
        let frontend = socket.local_addr().unwrap();
        let folder = files::Folder::new();
        let text = format!(
            "global\n  maxconn 50\n\
             defaults\n  mode tcp\n  timeout connect 30s\n  timeout client 60s\n  timeout server 60s\n\
             frontend in\n  bind fd@0\n  default_backend out\nbackend out\n  server one {server}\n"
        );
        let config = folder.write("haproxy.cfg", &text);
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&config);
        let process = Process::start_with(&mut command, OwnedFd::from(socket));
        Self { frontend, _process: process, _folder: folder }
    }

    fn is_installed() -> bool {
        let found = Command::new("haproxy").arg("-v").output().is_ok_and(|output| output.status.success());
        if !found {
            println!("skipped: there is no haproxy");
        }
        found
    }

    /// Sends a text by a client. Returns the client's own address, and the answer.
    fn ask(&self, text: &str) -> (SocketAddr, String) {
        let mut client = TcpStream::connect(self.frontend).unwrap();
        client.set_read_timeout(Some(NET)).unwrap();
        client.write_all(text.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        (client.local_addr().unwrap(), answer)
    }
}

/// Asserts that the server knows each client by its own address: ten clients, one after the other, send short and long
/// texts. (No text is empty: HAProxy drops a client that has sent nothing and half-closes before the connection to the
/// server exists.)
fn knows_its_clients(options: &'static str) {
    if !HaProxy::is_installed() {
        return;
    }
    test(async move {
        let proxy = ProxyProtocol::required().trust("127.0.0.0/8").unwrap();
        let (server, _door) = Door::open(Way::Tcp, proxy).await;
        let body = async |handle: Handle| {
            task::spawn_blocking(move || {
                let haproxy = HaProxy::start(&format!("{} {options}", handle.local_addr()));
                let long = "0123456789abcdef".repeat(4096);
                for n in 0..10 {
                    let text = ["!", "hello", &long][n % 3];
                    let (client, answer) = haproxy.ask(text);
                    assert_eq!(answer, format!("{client} to {}: {text}", haproxy.frontend));
                }
            })
            .await;
        };
        let (_, report) = server.scope(who, body).await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (10, 10), "{report}");
    });
}

#[test]
fn a_haproxy_header_of_version_1_names_the_client() {
    knows_its_clients("send-proxy");
}

#[test]
fn a_haproxy_header_of_version_2_names_the_client() {
    knows_its_clients("send-proxy-v2");
}

/// The header has fields and a checksum, which the server verifies.
#[test]
fn a_haproxy_header_with_all_options_names_the_client() {
    knows_its_clients("send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl,cert-cn,ssl-cipher");
}

/// A health check is a connection of its own: its header names no client.
#[test]
fn haproxys_health_checks_are_not_taken_for_clients() {
    if !HaProxy::is_installed() {
        return;
    }
    test(async {
        let proxy = ProxyProtocol::required().trust("127.0.0.0/8").unwrap();
        let (server, _door) = Door::open(Way::Tcp, proxy).await;
        let (checked, has_checked) = async_std::channel::unbounded();
        let handler = move |conn: ebbtide::Connection| {
            let checked = checked.clone();
            async move {
                if conn.proxy_header().is_some_and(|header| header.source().is_none()) {
                    assert_eq!(conn.peer_addr(), conn.socket_peer_addr());
                    checked.send(()).await.unwrap();
                }
                who(conn).await
            }
        };
        let body = async |handle: Handle| {
            let haproxy = HaProxy::start(&format!("{} send-proxy-v2 check inter 50ms", handle.local_addr()));
            for _ in 0..3 {
                has_checked.recv().await.unwrap();
            }
            task::spawn_blocking(move || {
                let (client, answer) = haproxy.ask("hello");
                assert_eq!(answer, format!("{client} to {}: hello", haproxy.frontend));
            })
            .await;
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.panicked(), report.cancelled()), (0, 0), "{report}");
    });
}

/// A setup without `send-proxy-v2`, as an operator may forget it.
#[test]
fn without_haproxys_header_no_client_is_served_and_the_log_has_the_remedy() {
    if !HaProxy::is_installed() {
        return;
    }
    let logs = logs::remember();
    test(async {
        let proxy = ProxyProtocol::required().trust("127.0.0.0/8").unwrap();
        let (server, _door) = Door::open(Way::Tcp, proxy).await;
        let body = async |handle: Handle| {
            task::spawn_blocking(move || {
                let haproxy = HaProxy::start(&handle.local_addr().to_string());
                assert_eq!(haproxy.ask("hello, is there anybody?").1, "");
            })
            .await;
        };
        let (_, report) = server.scope(who, body).await.unwrap();
        assert_eq!((report.accepted(), report.rejected()), (1, 1), "{report}");
    });
    let lines = logs.lines_with("it sent no PROXY header, but `hello, is there `; let the proxy send one");
    assert!(lines.len() == 1 && lines[0].0 == log::Level::Warn, "{lines:?}");
}
