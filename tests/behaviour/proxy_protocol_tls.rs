//! A PROXY header before the TLS handshake, as proxies send it that pass TLS through.
#![cfg(all(feature = "proxy-protocol", feature = "tls"))]

use crate::support;
use crate::support::certificates::Authority;
use crate::support::files::Folder;
use crate::support::proxied::*;
use crate::support::*;
use async_std::task;
use ebbtide::rustls::{ClientConnection, StreamOwned};
use ebbtide::{Handle, ListenOptions, ProxyProtocol, Server, Tls};
use std::io::{Read as _, Write as _};

/// The header arrives in one piece with the first bytes of the handshake, which are then read too early, or byte by
/// byte.
#[test]
fn the_header_gives_the_clients_address_and_the_handshake_gets_every_byte_after_it() {
    test(async {
        let (folder, authority) = (Folder::new(), Authority::new("a test's own"));
        let identity = authority.issue(&folder, "server", &["localhost"]);
        let tls = Tls::from_pem_files(&identity.certificates, &identity.key).unwrap();
        let proxy = trusting(ProxyProtocol::required());
        let options = ListenOptions::new().proxy_protocol(proxy).tls(&tls);
        let server = Server::bind_with(loopback(), &options).await.unwrap();
        let body = async |handle: Handle| {
            task::spawn_blocking(move || {
                for (header, pieces) in [(V1, false), (V1, true), (V2, false), (V2, true)] {
                    let mut socket = connect(handle.local_addr());
                    socket.set_nodelay(true).unwrap();
                    let name = "localhost".try_into().unwrap();
                    let mut session = ClientConnection::new(authority.client(None).into(), name).unwrap();
                    let mut first = header.to_vec();
                    session.write_tls(&mut first).unwrap();
                    let size = if pieces { 1 } else { first.len() };
                    first.chunks(size).for_each(|piece| socket.write_all(piece).unwrap());
                    let mut client = StreamOwned::new(session, socket);
                    client.write_all(b"hello").unwrap();
                    client.conn.send_close_notify();
                    client.flush().unwrap();
                    let mut answer = String::new();
                    client.read_to_string(&mut answer).unwrap();
                    assert_eq!(answer, format!("{ANSWER}hello"));
                }
                // A header without a handshake after it, and a handshake without a header before it.
                let mut plain = connect(handle.local_addr());
                plain.write_all(&[V1, b"GET / HTTP/1.1\r\n\r\n"].concat()).unwrap();
                let _ = plain.read_to_end(&mut Vec::new());
                let mut direct = support::certificates::secure(connect(handle.local_addr()), authority.client(None));
                assert!(direct.write_all(b"hello").and_then(|()| direct.read_to_end(&mut Vec::new())).is_err());
            })
            .await;
        };
        let (_, report) = server.scope(who, body).await.unwrap();
        assert_eq!((report.accepted(), report.completed(), report.rejected()), (6, 4, 2), "{report}");
    });
}

/// A client whose handshake fails gets a TLS alert, and then its connection lingers. Until the linger ends, the client
/// counts for the limit of its address.
#[test]
fn a_client_whose_handshake_has_failed_counts_for_its_address_until_its_connection_is_closed() {
    test(async {
        let (folder, authority) = (Folder::new(), Authority::new("a test's own"));
        let identity = authority.issue(&folder, "server", &["localhost"]);
        let tls = Tls::from_pem_files(&identity.certificates, &identity.key).unwrap();
        let proxy = trusting(ProxyProtocol::required());
        let options = ListenOptions::new().proxy_protocol(proxy).tls(&tls);
        let server = Server::bind_with(loopback(), &options).await.unwrap().max_connections_per_ip(1);
        let body = async |handle: Handle| {
            task::spawn_blocking(move || {
                let plain = || {
                    let mut client = connect(handle.local_addr());
                    client.write_all(&[V1, b"GET / HTTP/1.1\r\n\r\n"].concat()).unwrap();
                    let mut alert = Vec::new();
                    let _ = client.read_to_end(&mut alert);
                    (client, alert)
                };
                loop {
                    let (first, alert) = plain();
                    let Some(lingering) = handle.connections().first().map(ebbtide::ConnectionInfo::id) else {
                        continue;
                    };
                    let (_, refused) = plain();
                    // The linger is short: on a busy machine it may have ended before the second client connected.
                    if !alert.is_empty() && handle.connections().iter().any(|info| info.id() == lingering) {
                        assert_eq!(refused, b"", "a second client from this address was accepted");
                        return;
                    }
                    drop(first);
                    while handle.connection_count() > 0 {
                        std::thread::yield_now();
                    }
                }
            })
            .await;
        };
        server.scope(who, body).await.unwrap();
    });
}
