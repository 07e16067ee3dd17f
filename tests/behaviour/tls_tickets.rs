//! Session tickets of TLS 1.3: a client that never reads loses no bytes because of them, and a client that reads can
//! resume its session.
//!
//! The server once sent tickets at the end of the handshake. A client that only wrote and closed left them unread, so
//! its kernel reset the connection. The bytes that the server had not read yet were lost.
#![cfg(feature = "tls")]

use crate::support::certificates::secure;
use crate::support::secured::{TlsFixture, bind_tls, rest};
use crate::support::{connect, echo, test};
use async_std::channel::bounded;
use async_std::{io, prelude::*, task};
use ebbtide::rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use ebbtide::rustls::client::{Tls12ClientSessionValue, Tls13ClientSessionValue};
use ebbtide::rustls::crypto::ring;
use ebbtide::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use ebbtide::rustls::version::TLS12;
use ebbtide::rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore};
use ebbtide::{Connection, Tls};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
#[cfg(target_os = "linux")]
use std::time::{Duration, Instant};

/// The numbers of tickets: the default, none, and three.
const SETTINGS: [Option<usize>; 3] = [None, Some(0), Some(3)];

fn tls(house: &TlsFixture, tickets: Option<usize>) -> Tls {
    let files = Tls::files(&house.server.certificates, &house.server.key);
    match tickets {
        Some(number) => files.session_tickets(number).load().unwrap(),
        None => files.load().unwrap(),
    }
}

#[test]
fn all_bytes_of_clients_that_only_write_and_close_arrive() {
    const CLIENTS: usize = 40;
    const LENGTH: usize = 64 * 1024;
    for tickets in SETTINGS {
        test(async move {
            let house = TlsFixture::new();
            let (started, has_started) = bounded(CLIENTS);
            let (gone, is_gone) = bounded::<()>(CLIENTS);
            let (count, counts) = bounded(CLIENTS);
            let handler = move |conn: Connection| {
                let (started, is_gone, count) = (started.clone(), is_gone.clone(), count.clone());
                async move {
                    started.send(()).await.unwrap();
                    is_gone.recv().await.unwrap();
                    let mut all = Vec::new();
                    let result = (&conn).read_to_end(&mut all).await;
                    count.send(all.len()).await.unwrap();
                    result.map(drop)
                }
            };
            let (_, report) = bind_tls(&tls(&house, tickets))
                .await
                .scope(handler, async |server| {
                    let mut arrived = Vec::new();
                    for _ in 0..CLIENTS {
                        let mut client = house.client(server.local_addr());
                        let client = task::spawn_blocking(move || {
                            client.write_all(&[b'd'; LENGTH]).unwrap();
                            client.conn.send_close_notify();
                            client.flush().unwrap();
                            client
                        });
                        let client = client.await;
                        assert_eq!(client.conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
                        has_started.recv().await.unwrap();
                        drop(client); // with the bytes that are unread in its socket
                        gone.send(()).await.unwrap();
                        arrived.push(counts.recv().await.unwrap());
                    }
                    assert_eq!(arrived, [LENGTH; CLIENTS], "tickets: {tickets:?}");
                })
                .await
                .unwrap();
            assert_eq!(report.completed(), CLIENTS as u64, "tickets: {tickets:?}: {report}");
        });
    }
}

/// A client's configuration for TLS 1.2. It keeps sessions, so a second handshake resumes the first one's.
fn tls12(house: &TlsFixture) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(house.authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS12]).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// If no ticket follows the handshake, and in a resumed one of TLS 1.2, no packet carries the acknowledgement of its last
/// message, and Nagle's algorithm holds back the client's next bytes until the acknowledgement arrives. The test takes
/// the fastest of many answers, since any of them may be slow on a busy machine.
#[cfg(target_os = "linux")]
#[test]
fn a_client_with_nagles_algorithm_does_not_wait_after_its_handshake() {
    const CLIENTS: usize = 20;
    /// The kernel's delay of an acknowledgement.
    const DELAYED: Duration = Duration::from_millis(40);
    test(async {
        let house = TlsFixture::new();
        let (_, report) = house
            .bind()
            .await
            .scope(echo, async |server| {
                let old = tls12(&house);
                let (mut fastest, mut fastest_resumed) = (Duration::MAX, Duration::MAX);
                for _ in 0..CLIENTS {
                    let address = server.local_addr();
                    for mut client in [house.client(address), secure(connect(address), Arc::clone(&old))] {
                        client.sock.set_nodelay(false).unwrap();
                        while client.conn.is_handshaking() {
                            client.conn.complete_io(&mut client.sock).unwrap();
                        }
                        let start = Instant::now();
                        client.write_all(b"ping").unwrap();
                        client.read_exact(&mut [0; 4]).unwrap();
                        let took = start.elapsed();
                        match (client.conn.protocol_version(), client.conn.handshake_kind()) {
                            (Some(ProtocolVersion::TLSv1_3), _) => fastest = fastest.min(took),
                            (_, Some(HandshakeKind::Resumed)) => fastest_resumed = fastest_resumed.min(took),
                            _ => {} // the first one of TLS 1.2, in which the server has the last word
                        }
                        client.conn.send_close_notify();
                        assert_eq!(rest(&mut client).unwrap(), "");
                    }
                }
                assert!(fastest < DELAYED / 2, "the fastest answer took {fastest:?}");
                assert!(fastest_resumed < DELAYED / 2, "after a resumed handshake {fastest_resumed:?}");
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 2 * CLIENTS as u64, "{report}");
    });
}

/// A store that counts the tickets that arrive.
#[derive(Debug)]
struct Counting {
    tickets: AtomicUsize,
    cache: ClientSessionMemoryCache,
}

impl ClientSessionStore for Counting {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.cache.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.cache.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.cache.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.cache.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.cache.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.fetch_add(1, SeqCst);
        self.cache.insert_tls13_ticket(server, value);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.cache.take_tls13_ticket(server)
    }
}

#[test]
fn tickets_arrive_with_the_first_bytes_or_at_the_end_and_let_a_client_resume() {
    for tickets in SETTINGS {
        for silent in [false, true] {
            test(async move {
                let house = TlsFixture::new();
                let handler = move |conn: Connection| async move {
                    let mut ping = [0; 4];
                    (&conn).read_exact(&mut ping).await?;
                    if !silent {
                        (&conn).write_all(&ping).await?;
                    }
                    io::Result::Ok(())
                };
                let (_, report) = bind_tls(&tls(&house, tickets))
                    .await
                    .scope(handler, async |server| {
                        let store = Counting { tickets: AtomicUsize::new(0), cache: ClientSessionMemoryCache::new(8) };
                        let store = Arc::new(store);
                        let mut config = house.authority.client(None);
                        config.resumption = Resumption::store(Arc::<Counting>::clone(&store));
                        let config = Arc::new(config);
                        let expected = tickets.unwrap_or(2);
                        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                            let mut client = secure(connect(server.local_addr()), Arc::clone(&config));
                            client.write_all(b"ping").unwrap();
                            if !silent {
                                client.read_exact(&mut [0; 4]).unwrap();
                                assert_eq!(
                                    store.tickets.swap(0, SeqCst),
                                    expected,
                                    "the tickets arrive with the reply"
                                );
                            }
                            assert_eq!(rest(&mut client).expect("`close_notify`"), "");
                            assert_eq!(store.tickets.swap(0, SeqCst), if silent { expected } else { 0 });
                            let kind = if expected == 0 { HandshakeKind::Full } else { kind };
                            assert_eq!(client.conn.handshake_kind(), Some(kind), "{tickets:?}");
                        }
                    })
                    .await
                    .unwrap();
                assert_eq!(report.completed(), 2, "{report}");
            });
        }
    }
}

#[test]
fn a_tls_1_2_client_completes_its_handshake_before_the_handler_writes() {
    test(async {
        let house = TlsFixture::new();
        let (_, report) = house
            .bind()
            .await
            .scope(echo, async |server| {
                let config = tls12(&house);
                for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                    let mut client = secure(connect(server.local_addr()), Arc::clone(&config));
                    while client.conn.is_handshaking() {
                        client.conn.complete_io(&mut client.sock).unwrap();
                    }
                    assert_eq!(client.conn.handshake_kind(), Some(kind));
                    client.write_all(b"ping").unwrap();
                    client.read_exact(&mut [0; 4]).unwrap();
                    client.conn.send_close_notify();
                    assert_eq!(rest(&mut client).unwrap(), "");
                }
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 2, "{report}");
    });
}
