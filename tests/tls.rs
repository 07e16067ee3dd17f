//! TLS: the handler reads and writes plain bytes, and every promise of a connection is kept.
#![cfg(feature = "tls")]

mod support;

use async_std::{io, prelude::*, task};
use ebbtide::rustls::ProtocolVersion;
use ebbtide::{Connection, ListenOptions, OnFailure, Report, Server, Tls};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use support::certificates::{Authority, Client, Folder, Identity, secure};
use support::{FAILS, FOR_EVER, Handlers, NET, PANICS, POLITE, SPEAKS, STUBBORN, connect, loopback, test};

/// What every test begins with: an authority, and a server's certificate by it.
struct House {
    folder: Folder,
    authority: Authority,
    server: Identity,
}

impl House {
    fn new() -> Self {
        let (folder, authority) = (Folder::new(), Authority::new("a test's own"));
        let server = authority.issue(&folder, "server", &["localhost"]);
        Self { folder, authority, server }
    }

    fn tls(&self) -> Tls {
        Tls::from_pem_files(&self.server.certificates, &self.server.key).unwrap()
    }

    async fn bind(&self) -> Server {
        bind(&self.tls()).await
    }

    fn client(&self, server: &ebbtide::Address) -> Client {
        secure(connect(server), self.authority.client(None))
    }
}

async fn bind(tls: &Tls) -> Server {
    Server::bind_with(loopback(), &ListenOptions::new().tls(tls)).await.unwrap()
}

async fn echo(conn: Connection) -> io::Result<()> {
    let mut buf = vec![0; 64 * 1024];
    while let Some(n) = conn.until_draining((&conn).read(&mut buf)).await.transpose()? {
        if n == 0 {
            break;
        }
        (&conn).write_all(&buf[..n]).await?;
    }
    Ok(())
}

/// All that comes, if `close_notify` comes after it; its absence is an error.
fn rest(client: &mut Client) -> std::io::Result<String> {
    let mut rest = String::new();
    client.read_to_string(&mut rest).map(|_| rest)
}

fn balance(report: &Report) {
    let ends = report.completed() + report.failed() + report.panicked() + report.cancelled();
    assert_eq!(report.accepted(), ends, "{report}");
}

#[test]
fn the_handler_reads_and_writes_what_the_client_means() {
    test(async {
        let house = House::new();
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
fn a_connection_tells_what_was_agreed_on() {
    test(async {
        let house = House::new();
        let guest = house.authority.issue(&house.folder, "guest", &["guest.example"]);
        let authorities = house.folder.write("authorities.pem", house.authority.pem());
        let tls = Tls::files(&house.server.certificates, &house.server.key)
            .alpn(["echo/2", "echo/1"])
            .client_ca(authorities)
            .load()
            .unwrap();
        let certificate = support::certificates::chain(&guest.certificates)[0].clone();
        let handler = move |conn: Connection| {
            let certificate = certificate.clone();
            async move {
                let info = conn.tls().expect("it came by TLS").clone();
                assert_eq!(info.server_name(), Some("localhost"));
                assert_eq!(info.alpn_protocol(), Some(b"echo/1".as_slice()));
                assert_eq!(info.protocol_version(), Some(ProtocolVersion::TLSv1_3));
                assert_eq!(info.peer_certificates()[0], certificate);
                assert!(info.cipher_suite().is_some() && format!("{info:?}").contains("echo/1"));
                assert!(conn.as_tcp().is_some(), "the socket is still to be had");
                (&conn).write_all(b"so it is").await
            }
        };
        let (_, report) = bind(&tls)
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
fn without_tls_there_is_nothing_to_tell() {
    test(async {
        let handler = async |conn: Connection| assert!(conn.tls().is_none());
        let server = Server::bind(loopback()).await.unwrap();
        let (_, report) =
            server.scope(handler, async |server| support::rest(&mut connect(server.local_addr()))).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn every_orderly_end_says_so() {
    test(async {
        let house = House::new();
        let handlers = Handlers::new();
        let (_, report) = house
            .bind()
            .await
            .scope(handlers.handler(), async |server| {
                for (order, reply) in [(SPEAKS, "whole reply"), (FAILS, ""), (PANICS, "")] {
                    let mut client = house.client(server.local_addr());
                    client.write_all(&[order]).unwrap();
                    assert_eq!(rest(&mut client).expect("close_notify"), reply, "{:?}", order as char);
                }
                let mut client = house.client(server.local_addr());
                client.write_all(&[POLITE]).unwrap();
                handlers.started(4).await;
                drop(server.shutdown());
                assert_eq!(rest(&mut client).expect("close_notify"), "bye");
            })
            .await
            .unwrap();
        assert_eq!((report.completed(), report.failed(), report.panicked()), (2, 1, 1), "{report}");
        assert_eq!(handlers.live.count(), 0);
    });
}

#[test]
fn after_a_cancel_and_a_drop_the_client_knows_that_it_was_cut_off() {
    test(async {
        let house = House::new();
        for dropped in [false, true] {
            let handlers = Handlers::new();
            let server = house.bind().await;
            let handle = server.handle();
            let mut serving = Box::pin(server.serve(handlers.handler()));
            let mut client = house.client(handle.local_addr());
            let ordering = async {
                let ready = handlers.started(1);
                let order = task::spawn_blocking(move || {
                    client.write_all(&[STUBBORN]).unwrap();
                    client
                });
                ready.await;
                order.await
            };
            let mut client = futures_concurrency::future::Race::race((async { Some(ordering.await) }, async {
                let _ = serving.as_mut().await;
                None
            }))
            .await
            .expect("nobody stops it");
            if dropped {
                drop(serving);
            } else {
                handle.cancel().await;
            }
            assert_eq!(handlers.live.count(), 0);
            assert_eq!(rest(&mut client).unwrap_err().kind(), ErrorKind::UnexpectedEof, "dropped: {dropped}");
            let report = handle.closed().await;
            assert_eq!(report.cancelled(), 1, "{report}");
        }
    });
}

#[test]
fn a_client_that_cuts_the_line_is_no_end_of_input() {
    test(async {
        let house = House::new();
        let handler = async |conn: Connection| {
            let error = (&conn).read_to_end(&mut Vec::new()).await.expect_err("the line was cut");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            Err::<(), _>(error)
        };
        let (_, report) = house
            .bind()
            .await
            .scope(handler, async |server| {
                let mut client = house.client(server.local_addr());
                client.write_all(b"half a mess").unwrap();
                client.sock.shutdown(Shutdown::Write).unwrap();
                let _ = rest(&mut client);
            })
            .await
            .unwrap();
        assert_eq!(report.failed(), 1, "{report}");
    });
}

#[test]
fn a_client_that_still_sends_gets_the_whole_reply() {
    test(async {
        let house = House::new();
        let handler = async |conn: Connection| {
            (&conn).read_exact(&mut [0; 10]).await?;
            (&conn).write_all(&[b'r'; 300_000]).await
        };
        let (_, report) = house
            .bind()
            .await
            .scope(handler, async |server| {
                let mut client = house.client(server.local_addr());
                // More than the handler reads, so unread bytes lie there when it ends.
                client.write_all(&[b'q'; 200_000]).unwrap();
                assert_eq!(rest(&mut client).unwrap().len(), 300_000);
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn both_directions_at_once_by_two_tasks() {
    const LENGTH: usize = 3_000_000;
    test(async {
        let house = House::new();
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
                    // One after the other without waiting, so that neither side's buffers decide the order.
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
fn what_could_not_be_sent_at_once_goes_out_while_the_handler_reads() {
    test(async {
        let house = House::new();
        let (wrote, has_written) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let wrote = wrote.clone();
            async move {
                // Until the socket's buffers are full, and a part of the last record stays with us.
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
fn a_client_that_shakes_no_hands_is_closed() {
    test(async {
        let house = House::new();
        let server = house.bind().await.handshake_timeout(Duration::from_millis(50)).on_failure(OnFailure::Shutdown);
        let (_, report) = server
            .scope(echo, async |server| {
                let mut silent = connect(server.local_addr());
                assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it is closed");
                assert_eq!(server.phase(), ebbtide::Phase::Serving, "a peer's fault stops no server");
            })
            .await
            .unwrap();
        assert_eq!((report.completed(), report.failed()), (0, 1), "{report}");
    });
}

#[test]
fn a_client_that_shakes_no_hands_holds_up_nobody() {
    test(async {
        let house = House::new();
        let server = house.bind().await.handshake_timeout(FOR_EVER);
        let (_, report) = server
            .scope(echo, async |server| {
                let silent = connect(server.local_addr());
                let mut client = house.client(server.local_addr());
                client.write_all(b"hello").unwrap();
                client.read_exact(&mut [0; 5]).unwrap();
                drop(server.cancel());
                (silent, client)
            })
            .await
            .unwrap();
        assert_eq!(report.cancelled(), 2, "{report}");
    });
}

#[test]
fn without_a_limit_a_silent_client_waits_until_the_drain_and_then_at_most_a_second() {
    test(async {
        let house = House::new();
        let server = house.bind().await.handshake_timeout(Duration::ZERO).grace(FOR_EVER);
        let (_, report) = server
            .scope(echo, async |server| {
                let silent = connect(server.local_addr());
                while server.connection_count() == 0 {
                    task::yield_now().await;
                }
                silent
            })
            .await
            .unwrap();
        assert_eq!((report.failed(), report.cancelled()), (1, 0), "{report}");
        assert!(report.elapsed() < NET, "{report}");
        balance(&report);
    });
}

#[test]
fn a_client_from_the_queue_gets_its_handshake_and_its_answer_in_the_drain() {
    test(async {
        let house = House::new();
        let handlers = Handlers::new();
        let server = house.bind().await;
        let handle = server.handle();
        let mut client = house.client(handle.local_addr()); // queued: nobody serves yet
        let serving = task::spawn(server.shutdown_when(std::future::ready(())).serve(handlers.handler()));
        let reply = task::spawn_blocking(move || {
            client.write_all(&[SPEAKS]).unwrap();
            rest(&mut client)
        });
        assert_eq!(reply.await.unwrap(), "whole reply");
        let report = serving.await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
    });
}

#[test]
fn who_does_not_speak_tls_is_told_and_logged() {
    support::logs::remember();
    test(async {
        let house = House::new();
        let (_, report) = house
            .bind()
            .await
            .scope(echo, async |server| {
                let mut client = connect(server.local_addr());
                client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
                let mut alert = Vec::new();
                client.read_to_end(&mut alert).expect("an orderly end");
                assert_eq!(alert.first(), Some(&21), "an alert, as TLS knows it: {alert:?}");
            })
            .await
            .unwrap();
        assert_eq!(report.failed(), 1, "{report}");
        balance(&report);
    });
    let lines = support::logs::lines_with("it does not speak TLS");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].0, log::Level::Debug, "a peer's fault is no news");
    assert!(lines[0].1.contains("its TLS handshake failed: ") && lines[0].1.contains("peer="), "{lines:?}");
}

#[test]
fn a_client_without_the_certificate_that_it_must_have_never_reaches_the_handler() {
    test(async {
        let house = House::new();
        let strangers = Authority::new("somebody else");
        let stranger = strangers.issue(&house.folder, "stranger", &["stranger.example"]);
        let guest = house.authority.issue(&house.folder, "guest", &["guest.example"]);
        let authorities = house.folder.write("authorities.pem", house.authority.pem());
        let files = || Tls::files(&house.server.certificates, &house.server.key);
        // Who shows nothing, a stranger's certificate, and a good one; and who of them is let in.
        let table = [
            (files().client_ca(&authorities), [false, false, true]),
            (files().optional_client_ca(&authorities), [true, false, true]),
            (files(), [true, true, true]),
        ];
        for (files, let_in) in table {
            let tls = files.load().unwrap();
            let (_, report) = bind(&tls)
                .await
                .scope(
                    async |conn: Connection| (&conn).write_all(b"in").await,
                    async |server| {
                        for (shown, is_in) in [None, Some(&stranger), Some(&guest)].into_iter().zip(let_in) {
                            let mut client = secure(connect(server.local_addr()), house.authority.client(shown));
                            let reply = rest(&mut client);
                            assert_eq!(reply.is_ok_and(|reply| reply == "in"), is_in, "{tls:?}");
                        }
                    },
                )
                .await
                .unwrap();
            let expected = let_in.iter().filter(|&&is_in| is_in).count() as u64;
            assert_eq!((report.completed(), report.failed()), (expected, 3 - expected), "{report}");
        }
    });
}

#[test]
fn a_certificate_is_changed_while_serving() {
    test(async {
        let house = House::new();
        let tls = house.tls();
        let (_, report) = bind(&tls)
            .await
            .scope(echo, async |server| {
                let mut old = house.client(server.local_addr());
                let ping = |client: &mut Client| {
                    client.write_all(b"ping").unwrap();
                    client.read_exact(&mut [0; 4]).unwrap();
                    client.conn.peer_certificates().unwrap()[0].clone()
                };
                let first = ping(&mut old);
                assert_eq!(ping(&mut house.client(server.local_addr())), first);

                std::fs::write(&house.server.key, "nonsense").unwrap();
                let error = tls.reload().unwrap_err();
                assert!(error.to_string().contains(house.server.key.to_str().unwrap()), "{error}");
                assert_eq!(ping(&mut house.client(server.local_addr())), first, "a failed reload changes nothing");

                house.authority.issue(&house.folder, "server", &["localhost"]);
                tls.clone().reload().unwrap();
                assert_ne!(ping(&mut house.client(server.local_addr())), first);
                ping(&mut old); // goes on
            })
            .await
            .unwrap();
        assert_eq!(report.accepted(), 4, "{report}");
    });
}

#[test]
fn a_configuration_of_ones_own_is_replaced_and_not_reloaded() {
    let house = House::new();
    let config = ebbtide::rustls::ServerConfig::builder_with_provider(Arc::new(
        ebbtide::rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_cert_resolver(Arc::new(ebbtide::rustls::server::ResolvesServerCertUsingSni::new()));
    let tls = Tls::from_config(Arc::new(config));
    assert!(tls.reload().unwrap_err().to_string().contains("Tls::replace"));
    drop(house);
}

#[test]
fn an_error_names_the_file_and_the_reason() {
    let house = House::new();
    let (folder, server) = (&house.folder, &house.server);
    let other = house.authority.issue(folder, "other", &["localhost"]);
    let nowhere = folder.path("nowhere.pem");
    let empty = folder.write("empty.pem", "");
    let garbage = folder.write("garbage.pem", "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n");
    let no_certificate = folder.write("no.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let encrypted = folder
        .write("encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let table = [
        ((&nowhere, &server.key), &nowhere, "No such file"),
        ((&server.certificates, &nowhere), &nowhere, "No such file"),
        ((&empty, &server.key), &empty, "no `BEGIN CERTIFICATE`"),
        ((&server.key, &server.key), &server.key, "no `BEGIN CERTIFICATE`"),
        ((&garbage, &server.key), &garbage, "base64"),
        ((&no_certificate, &server.key), &no_certificate, "cannot use the certificate"),
        ((&server.certificates, &empty), &empty, "no `BEGIN PRIVATE KEY`"),
        ((&server.certificates, &encrypted), &encrypted, "it is encrypted"),
        ((&server.certificates, &other.key), &other.key, "is not the one of the first certificate"),
    ];
    for ((certificates, key), named, reason) in table {
        let error = Tls::from_pem_files(certificates, key).unwrap_err().to_string();
        assert!(error.contains(&format!("`{}`", named.display())) && error.contains(reason), "{error}");
    }
    let error = Tls::files(&server.certificates, &server.key).client_ca(&empty).load().unwrap_err().to_string();
    assert!(error.contains("empty.pem"), "{error}");
}

#[test]
fn a_client_that_is_reset_in_the_middle_of_its_handshake_is_counted() {
    test(async {
        let house = House::new();
        let (_, report) = house
            .bind()
            .await
            .scope(echo, async |server| {
                let client = connect(server.local_addr());
                (&client).write_all(&[22, 3, 1, 2, 0, 1]).unwrap(); // the beginning of a hello
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                drop::<TcpStream>(client);
                while server.connection_count() > 0 || server.phase() != ebbtide::Phase::Serving {
                    task::yield_now().await;
                }
            })
            .await
            .unwrap();
        balance(&report);
        assert_eq!(report.completed(), 0, "{report}");
    });
}
