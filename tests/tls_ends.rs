//! How a connection with TLS ends where one side does not do as the other would like.
#![cfg(feature = "tls")]

mod support;

use async_std::{io, prelude::*, task};
use ebbtide::rustls::{ClientConfig, ClientConnection, StreamOwned};
use ebbtide::{Connection, ListenOptions, Listener, MemoryStream, Server, Tls};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;
use support::certificates::{Authority, Folder, secure};
use support::{NET, connect, loopback, test};

/// A certificate for the server, and what its clients want.
fn certificate() -> (Tls, ClientConfig) {
    let (folder, authority) = (Folder::new(), Authority::new("a test's own"));
    let identity = authority.issue(&folder, "server", &["localhost"]);
    (Tls::from_pem_files(&identity.certificates, &identity.key).unwrap(), authority.client(None))
}

/// A stream in memory, for a client that blocks.
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

/// The end of the reply is still with us when the handler returns, since the client reads nothing before it has sent all. As long
/// as nobody read what it sends, and threw it away, both sides waited for each other; and then the end of the reply was lost.
#[test]
fn r10_a_client_that_sends_all_before_it_reads_gets_the_whole_reply() {
    // The stream takes 64 KiB, and TLS as many.
    const REPLY: usize = 100_000;
    const REQUEST: usize = 1_000_000;
    test(async {
        let (tls, config) = certificate();
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
            client.read_to_end(&mut reply)?; // an error where `close_notify` is missing
            io::Result::Ok(reply)
        });
        assert_eq!(reply.await.unwrap().len(), REPLY);
        drop(serving);
    });
}

#[test]
fn a_client_that_is_closed_for_its_silence_is_told_so() {
    // The handshake falls into it.
    const LIMIT: Duration = Duration::from_secs(1);
    for first_byte in [false, true] {
        test(async move {
            let (tls, config) = certificate();
            let server = Server::bind_with(loopback(), &ListenOptions::new().tls(&tls)).await.unwrap();
            let server = match first_byte {
                true => server.first_byte_timeout(LIMIT),
                false => server.idle_timeout(LIMIT),
            };
            let handler = async |conn: Connection| (&conn).read_exact(&mut [0]).await;
            let (_, report) = server
                .scope(handler, async |server| {
                    let mut client = secure(connect(server.local_addr()), config);
                    client.flush().unwrap();
                    assert_eq!(client.read(&mut [0]).expect("`close_notify`"), 0);
                })
                .await
                .unwrap();
            assert_eq!(report.failed(), 1, "{report}");
        });
    }
}
