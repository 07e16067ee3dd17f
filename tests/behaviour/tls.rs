//! TLS: the handler reads and writes plain bytes in both directions, and gets what the handshake has negotiated.
#![cfg(feature = "tls")]

use crate::support;
use crate::support::certificates::{chain, secure};
use crate::support::secured::{TlsFixture, bind_tls, rest};
use crate::support::{bind, connect, echo, test};
use async_std::{io, prelude::*, task};
use ebbtide::rustls::ProtocolVersion;
use ebbtide::{Connection, Handle, Tls};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

#[test]
fn the_handler_reads_and_writes_plain_bytes() {
    test(async {
        let house = TlsFixture::new();
        let (_, report) = house
            .bind()
            .await
            .scope(echo, async |server| {
                let mut client = house.client(server.local_addr());
                for text in [b"hello".as_slice(), &[7; 100_000]] {
                    client.write_all(text).unwrap();
                    let mut echoed = vec![0; text.len()];
                    client.read_exact(&mut echoed).unwrap();
                    assert_eq!(echoed, text);
                }
                client.conn.send_close_notify();
                client.flush().unwrap();
                assert_eq!(rest(&mut client).unwrap(), "");
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn two_tasks_can_read_and_write_at_the_same_time() {
    const LENGTH: usize = 3_000_000;
    test(async {
        let house = TlsFixture::new();
        let handler = async |conn: Connection| {
            let reader = conn.clone();
            let (done, read) = async_std::channel::bounded(1);
            conn.spawn(async move {
                let mut all = Vec::new();
                let result = (&reader).take(LENGTH as u64).read_to_end(&mut all).await.map(|_| all);
                let _ = done.send(result).await;
            });
            (&conn).write_all(&vec![b'd'; LENGTH]).await?;
            (&conn).flush().await?;
            let all = read.recv().await.unwrap()?;
            assert!(all.len() == LENGTH && all.iter().all(|&byte| byte == b'u'));
            io::Result::Ok(())
        };
        let (_, report) = house
            .bind()
            .await
            .scope(handler, async |server| {
                let mut client = house.client(server.local_addr());
                client.sock.set_nonblocking(true).unwrap();
                let (mut sent, mut got, mut buf) = (0, 0, vec![0; 65_536]);
                let up = vec![b'u'; 65_536];
                while sent < LENGTH || got < LENGTH {
                    // Writes and reads in turn without blocking, so that the buffers of neither side decide the order.
                    if sent < LENGTH {
                        match client.write(&up[..up.len().min(LENGTH - sent)]) {
                            Ok(n) => sent += n,
                            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                        }
                    } else {
                        let _ = client.flush();
                    }
                    match client.read(&mut buf) {
                        Ok(n) => {
                            assert!(n > 0 && buf[..n].iter().all(|&byte| byte == b'd'));
                            got += n;
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                    }
                    task::yield_now().await;
                }
                client.sock.set_nonblocking(false).unwrap();
                assert_eq!(rest(&mut client).unwrap(), "");
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn bytes_that_could_not_be_sent_at_once_are_sent_while_the_handler_reads() {
    test(async {
        let house = TlsFixture::new();
        let (wrote, has_written) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let wrote = wrote.clone();
            async move {
                // Writes until the socket's buffers are full, and a part of the last record stays in the server.
                let mut length = 0_u64;
                while let Ok(n) = io::timeout(Duration::from_millis(100), (&conn).write(&[b'd'; 10_000])).await {
                    length += n as u64;
                }
                wrote.send(length).await.unwrap();
                (&conn).read_exact(&mut [0]).await // without a flush
            }
        };
        let (_, report) = house
            .bind()
            .await
            .scope(handler, async |server| {
                let mut client = house.client(server.local_addr());
                client.flush().unwrap();
                let length = has_written.recv().await.unwrap();
                let mut all = (&mut client).take(length);
                assert_eq!(std::io::copy(&mut all, &mut std::io::sink()).unwrap(), length);
                client.write_all(b".").unwrap();
                assert_eq!(rest(&mut client).unwrap(), "");
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn a_connection_returns_what_the_handshake_has_negotiated() {
    test(async {
        let house = TlsFixture::new();
        let guest = house.authority.issue(&house.folder, "guest", &["guest.example"]);
        let authorities = house.folder.write("authorities.pem", house.authority.pem());
        let tls = Tls::files(&house.server.certificates, &house.server.key)
            .alpn(["echo/2", "echo/1"])
            .client_ca(authorities)
            .load()
            .unwrap();
        let certificate = chain(&guest.certificates)[0].clone();
        let handler = move |conn: Connection| {
            let certificate = certificate.clone();
            async move {
                let info = conn.tls().expect("the connection uses TLS").clone();
                assert_eq!(info.server_name(), Some("localhost"));
                assert_eq!(info.alpn_protocol(), Some(b"echo/1".as_slice()));
                assert_eq!(info.protocol_version(), Some(ProtocolVersion::TLSv1_3));
                assert_eq!(info.peer_certificates()[0], certificate);
                assert!(info.cipher_suite().is_some() && format!("{info:?}").contains("echo/1"));
                assert!(conn.tcp_stream().is_some(), "the socket is still accessible");
                (&conn).write_all(b"so it is").await
            }
        };
        let (_, report) = bind_tls(&tls)
            .await
            .scope(handler, async |server| {
                let mut config = house.authority.client(Some(&guest));
                config.alpn_protocols = vec![b"other".to_vec(), b"echo/1".to_vec()];
                let mut client = secure(connect(server.local_addr()), config);
                assert_eq!(rest(&mut client).unwrap(), "so it is");
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn a_connection_without_tls_returns_no_tls_info() {
    test(async {
        let handler = async |conn: Connection| assert!(conn.tls().is_none());
        let server = bind().await;
        let body = async |server: Handle| Ok(support::rest(&mut connect(server.local_addr())));
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}
