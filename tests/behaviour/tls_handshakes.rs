//! Only a client that completes the handshake as the server requires it reaches the handler. Other clients delay
//! neither clients nor the exit, and each of them is counted.
#![cfg(feature = "tls")]

use crate::support::certificates::{Authority, secure};
use crate::support::secured::{TlsFixture, bind_tls, rest};
use crate::support::{FOR_EVER, Handlers, NET, REPLIES, assert_adds_up, connect, echo, logs, test, test_alone};
use async_std::{prelude::*, task};
use ebbtide::{Connection, OnFailure, Tls};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn a_client_that_sends_no_handshake_is_closed() {
    test(async {
        let house = TlsFixture::new();
        let server = house.bind().await.handshake_timeout(Duration::from_millis(50)).on_failure(OnFailure::Shutdown);
        let (_, report) = server
            .scope(echo, async |server| {
                let mut silent = connect(server.local_addr());
                assert_eq!(silent.read(&mut [0]).unwrap(), 0, "the silent client must read EOF");
                assert_eq!(server.phase(), ebbtide::Phase::Serving, "a peer's fault must not stop the server");
            })
            .await
            .unwrap();
        assert_eq!((report.completed(), report.rejected()), (0, 1), "{report}");
    });
}

#[test]
fn a_client_that_sends_no_handshake_delays_no_other_client() {
    test(async {
        let house = TlsFixture::new();
        let server = house.bind().await.handshake_timeout(FOR_EVER);
        let (_, report) = server
            .scope(echo, async |server| {
                let silent = connect(server.local_addr());
                let mut client = house.client(server.local_addr());
                client.write_all(b"hello").unwrap();
                client.read_exact(&mut [0; 5]).unwrap();
                drop(server.cancel());
                Ok((silent, client))
            })
            .await
            .unwrap();
        assert_eq!(report.cancelled(), 2, "{report}");
    });
}

#[test]
fn without_a_limit_a_silent_client_waits_until_the_drain_and_then_at_most_a_second() {
    test(async {
        let house = TlsFixture::new();
        let server = house.bind().await.handshake_timeout(None).grace(FOR_EVER);
        let (_, report) = server
            .scope(echo, async |server| {
                let silent = connect(server.local_addr());
                while server.connection_count() == 0 {
                    task::yield_now().await;
                }
                Ok(silent)
            })
            .await
            .unwrap();
        assert_eq!((report.rejected(), report.cancelled()), (1, 0), "{report}");
        assert!(report.elapsed() < NET, "{report}");
        assert_adds_up(&report);
    });
}

#[test]
fn a_client_in_the_backlog_gets_its_handshake_and_its_answer_in_the_drain() {
    test(async {
        let house = TlsFixture::new();
        let handlers = Handlers::new();
        let server = house.bind().await;
        let handle = server.handle();
        let mut client = house.client(handle.local_addr()); // in the backlog: the server does not serve yet
        let serving = task::spawn(server.shutdown_when(std::future::ready(())).serve(handlers.handler()));
        let reply = task::spawn_blocking(move || {
            client.write_all(&[REPLIES]).unwrap();
            rest(&mut client)
        });
        assert_eq!(reply.await.unwrap(), "whole reply");
        let report = serving.await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
    });
}

#[test]
fn a_client_that_is_reset_in_the_middle_of_its_handshake_is_counted() {
    test(async {
        let house = TlsFixture::new();
        let (_, report) = house
            .bind()
            .await
            .scope(echo, async |server| {
                let client = connect(server.local_addr());
                (&client).write_all(&[22, 3, 1, 2, 0, 1]).unwrap(); // the first bytes of a ClientHello
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                drop::<TcpStream>(client);
                while server.connection_count() > 0 || server.phase() != ebbtide::Phase::Serving {
                    task::yield_now().await;
                }
            })
            .await
            .unwrap();
        assert_adds_up(&report);
        assert_eq!(report.completed(), 0, "{report}");
    });
}

#[test]
fn a_client_that_does_not_trust_the_certificate_is_logged_as_such() {
    test_alone(async {
        let logs = logs::remember();
        let house = TlsFixture::new();
        let stranger = Authority::new("an authority of others").client(None);
        let server = house.bind().await;
        let body = async |server: ebbtide::Handle| {
            let mut client = secure(connect(server.local_addr()), stranger);
            let error = client.read(&mut [0]).unwrap_err();
            let _ = client.sock.read_to_end(&mut Vec::new()); // the alert has been read before the server closes
            Ok(error)
        };
        let (error, report) = server.scope(echo, body).await.unwrap();
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
        assert_eq!(report.rejected(), 1, "{report}");
        let lines = logs.lines_with("it does not trust this server's certificate");
        assert!(matches!(&lines[..], [(log::Level::Debug, _)]), "{lines:?}");
    });
}

#[test]
fn a_client_that_does_not_speak_tls_gets_an_alert_and_is_logged() {
    test_alone(async {
        let logs = logs::remember();
        let house = TlsFixture::new();
        let (_, report) = house
            .bind()
            .await
            .scope(echo, async |server| {
                let mut client = connect(server.local_addr());
                client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
                let mut alert = Vec::new();
                client.read_to_end(&mut alert).expect("EOF and no reset");
                assert_eq!(alert.first(), Some(&21), "a TLS alert was expected: {alert:?}");
            })
            .await
            .unwrap();
        assert_eq!(report.rejected(), 1, "{report}");
        assert_adds_up(&report);
        let lines = logs.lines_with("it does not speak TLS");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0].0, log::Level::Debug, "a peer's fault is logged at debug");
        assert!(lines[0].1.contains("its TLS handshake failed: ") && lines[0].1.contains("peer="), "{lines:?}");
    });
}

#[test]
fn a_client_without_the_required_certificate_never_reaches_the_handler() {
    test(async {
        let house = TlsFixture::new();
        let other_authority = Authority::new("another authority");
        let untrusted = other_authority.issue(&house.folder, "untrusted", &["untrusted.example"]);
        let guest = house.authority.issue(&house.folder, "guest", &["guest.example"]);
        let authorities = house.folder.write("authorities.pem", house.authority.pem());
        let files = || Tls::files(&house.server.certificates, &house.server.key);
        // Whether these three clients reach the handler: one without a certificate, one with an untrusted certificate,
        // and one with a trusted certificate.
        let table = [
            (files().client_ca(&authorities), [false, false, true]),
            (files().optional_client_ca(&authorities), [true, false, true]),
            (files(), [true, true, true]),
        ];
        for (files, accepted) in table {
            let tls = files.load().unwrap();
            let (_, report) = bind_tls(&tls)
                .await
                .scope(
                    async |conn: Connection| (&conn).write_all(b"in").await,
                    async |server| {
                        for (shown, is_accepted) in [None, Some(&untrusted), Some(&guest)].into_iter().zip(accepted) {
                            let mut client = secure(connect(server.local_addr()), house.authority.client(shown));
                            let reply = rest(&mut client);
                            assert_eq!(reply.is_ok_and(|reply| reply == "in"), is_accepted, "{tls:?}");
                        }
                    },
                )
                .await
                .unwrap();
            let expected = accepted.iter().filter(|&&is_accepted| is_accepted).count() as u64;
            assert_eq!((report.completed(), report.rejected()), (expected, 3 - expected), "{report}");
        }
    });
}
