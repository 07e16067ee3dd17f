//! How a connection with TLS ends: an orderly end sends `close_notify`; a connection that is cut ends without it, so
//! that the client sees the difference.
#![cfg(feature = "tls")]

use crate::support::secured::{TlsFixture, rest};
use crate::support::{FAILS, Handlers, NET, PANICS, POLITE, REPLIES, STUBBORN, test};
use async_std::{io, prelude::*, task};
use ebbtide::rustls::{ClientConnection, StreamOwned};
use ebbtide::{Connection, Listener, MemoryStream, Server};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn every_orderly_end_sends_close_notify() {
    test(async {
        let house = TlsFixture::new();
        let handlers = Handlers::new();
        let (_, report) = house
            .bind()
            .await
            .scope(handlers.handler(), async |server| {
                for (order, reply) in [(REPLIES, "whole reply"), (FAILS, ""), (PANICS, "")] {
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
fn a_cancel_or_a_drop_sends_no_close_notify() {
    test(async {
        let house = TlsFixture::new();
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
            .expect("the server is not stopped before that");
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
fn eof_without_close_notify_is_an_error_for_the_handler() {
    test(async {
        let house = TlsFixture::new();
        let handler = async |conn: Connection| {
            let error = (&conn).read_to_end(&mut Vec::new()).await.expect_err("EOF without `close_notify` is an error");
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
        assert_eq!(report.disconnected(), 1, "{report}");
    });
}

#[test]
fn a_tls_client_that_still_sends_gets_the_whole_reply() {
    test(async {
        let house = TlsFixture::new();
        let handler = async |conn: Connection| {
            (&conn).read_exact(&mut [0; 10]).await?;
            (&conn).write_all(&[b'r'; 300_000]).await
        };
        let (_, report) = house
            .bind()
            .await
            .scope(handler, async |server| {
                let mut client = house.client(server.local_addr());
                // More than the handler reads, so unread bytes are left when it ends.
                client.write_all(&[b'q'; 200_000]).unwrap();
                assert_eq!(rest(&mut client).unwrap().len(), 300_000);
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

/// A memory stream for a client with blocking reads and writes.
struct Blocking(MemoryStream);

impl Read for Blocking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        task::block_on(io::timeout(NET, self.0.read(buf)))
    }
}

impl Write for Blocking {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        task::block_on(io::timeout(NET, self.0.write(buf)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The client reads nothing before it has sent everything, so the end of the reply is still in the server's buffer when
/// the handler returns. The server once did not read and discard the client's bytes at that point. Both sides then
/// waited for each other, and the end of the reply was lost.
#[test]
fn r10_a_client_that_sends_all_before_it_reads_gets_the_whole_reply() {
    // The stream buffers 64 KiB, and TLS as many.
    const REPLY: usize = 100_000;
    const REQUEST: usize = 1_000_000;
    test(async {
        let house = TlsFixture::new();
        let (tls, config) = (house.tls(), house.authority.client(None));
        let (listener, connector) = Listener::memory();
        let handler = async |conn: Connection| {
            (&conn).read_exact(&mut [0; 10]).await?;
            (&conn).write_all(&[b'r'; REPLY]).await
        };
        let serving = task::spawn(Server::new(listener.tls(&tls)).serve(handler));
        let stream = connector.connect().await.unwrap();
        let reply = task::spawn_blocking(move || {
            let session = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
            let mut client = StreamOwned::new(session, Blocking(stream));
            client.write_all(&vec![b'q'; REQUEST])?;
            let mut reply = Vec::new();
            client.read_to_end(&mut reply)?; // an error if `close_notify` is missing
            io::Result::Ok(reply)
        });
        assert_eq!(reply.await.unwrap().len(), REPLY);
        drop(serving);
    });
}

#[test]
fn a_client_that_a_timeout_closes_gets_close_notify() {
    // The handshake has to fit into it.
    const LIMIT: Duration = Duration::from_secs(1);
    for first_byte in [false, true] {
        test(async move {
            let house = TlsFixture::new();
            let server = house.bind().await;
            let server = match first_byte {
                true => server.first_byte_timeout(LIMIT),
                false => server.idle_timeout(LIMIT),
            };
            let handler = async |conn: Connection| (&conn).read_exact(&mut [0]).await;
            let (_, report) = server
                .scope(handler, async |server| {
                    let mut client = house.client(server.local_addr());
                    client.flush().unwrap();
                    assert_eq!(client.read(&mut [0]).expect("`close_notify`"), 0);
                })
                .await
                .unwrap();
            let ends = (report.rejected(), report.disconnected());
            assert_eq!(ends, if first_byte { (1, 0) } else { (0, 1) }, "{report}");
        });
    }
}
