//! TLS over another stream, and [`TlsInfo`], the result of a handshake.
//!
//! A connection of a listener with TLS begins as a plain stream ([`Secured::plain`]). The handshake sets the encrypted
//! stream over it, and from then on reads and writes use that one. So the transport is the same object before, during
//! and after the handshake, and a shutdown, a cancel or a timeout can end it at any of these moments.

use super::{Boxed, Transport};
use crate::sync::coop;
use futures_io::{AsyncRead, AsyncWrite};
use futures_rustls::TlsAcceptor;
use futures_rustls::pki_types::CertificateDer;
use futures_rustls::rustls::{ProtocolVersion, ServerConnection, SupportedCipherSuite};
use futures_rustls::server::TlsStream;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::iter;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

/// Stream that is encrypted once its handshake is done.
pub(super) struct Secured {
    /// The stream that carries the encrypted bytes. The encrypted stream shares it.
    pub(super) plain: Arc<Transport>,
    /// The encrypted stream. Set when the handshake is done.
    over: OnceLock<Over>,
}

/// The encrypted stream, and what its handshake has negotiated.
struct Over {
    stream: Boxed,
    info: TlsInfo,
}

impl Secured {
    pub(super) fn new(plain: Transport) -> Self {
        Self { plain: Arc::new(plain), over: OnceLock::new() }
    }

    /// Returns the encrypted stream, once the handshake is done.
    pub(super) fn over(&self) -> Option<&Boxed> {
        self.over.get().map(|over| &over.stream)
    }

    pub(super) fn info(&self) -> Option<&TlsInfo> {
        self.over.get().map(|over| &over.info)
    }

    /// Performs the server's side of the handshake, and sets the encrypted stream.
    pub(super) async fn handshake(&self, acceptor: TlsAcceptor) -> io::Result<()> {
        let plain =
            PlainStream { plain: Arc::clone(&self.plain), held: Vec::new(), handshaking: true, owes_ack: false };
        let mut stream = match acceptor.accept(plain).into_fallible().await {
            Ok(stream) => stream,
            Err((error, mut plain)) => {
                // One attempt to send the alert: a peer that failed the handshake is not waited for.
                let _ = poll_fn(|cx| Poll::Ready(plain.poll_send(cx))).await;
                return Err(error);
            }
        };
        let tickets = stream.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let plain = stream.get_mut().0;
        plain.handshaking = false;
        plain.owes_ack = tickets || plain.held.is_empty();
        if !tickets {
            poll_fn(|cx| plain.poll_send(cx)).await?; // the last flight of the handshake: the client waits for it
        }
        let info = TlsInfo::of(stream.get_ref().1);
        let stream = Boxed::new(Box::pin(Encrypted(stream)));
        let _ = self.over.set(Over { stream, info }); // there is one handshake
        Ok(())
    }
}

/// The plain stream, as rustls uses it. It holds back the session tickets of TLS 1.3 until the handler first writes.
///
/// rustls sends the tickets at the end of the handshake. A client that only writes, and closes without reading, would
/// leave them unread in its receive buffer. Its kernel would then reset the connection, and the bytes that the server
/// has not read yet would be lost.
///
/// During the handshake every flight is held until rustls reads again, as it does after each flight except the last. In
/// TLS 1.3 the last flight is the tickets. In older versions it belongs to the handshake, and is sent.
struct PlainStream {
    plain: Arc<Transport>,
    /// Bytes that are sent before any others.
    held: Vec<u8>,
    /// The handshake is under way: written bytes are held.
    handshaking: bool,
    /// The held tickets would have carried the acknowledgement of the client's last flight. A client with Nagle's
    /// algorithm sends its first message only after that, and by itself the kernel may take 40 ms to acknowledge. So
    /// the first wait for the client does it, unless a write has carried it by then. Often the first message has
    /// arrived already, and then it costs no system call.
    owes_ack: bool,
}

impl PlainStream {
    /// Sends the held bytes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_after_held(cx, &[]))?;
        self.plain.poll_flush(cx)
    }

    /// Writes the held bytes, and with them as much of `bufs` as the stream takes: one system call, usually one packet.
    /// Returns how many bytes of `bufs` were written.
    fn poll_write_after_held(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let slices: Vec<_> = iter::once(IoSlice::new(&self.held)).chain(bufs.iter().copied()).collect();
            let written = ready!(self.plain.poll_write_vectored(cx, &slices))?;
            let (held, more) = (written.min(self.held.len()), written.saturating_sub(self.held.len()));
            if held == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.held.drain(..held);
            if more > 0 {
                return Poll::Ready(Ok(more));
            }
        }
        self.held = Vec::new(); // frees the memory
        match bufs {
            [] => Poll::Ready(Ok(0)),
            [buf] => self.plain.poll_write(cx, buf),
            _ => self.plain.poll_write_vectored(cx, bufs),
        }
    }
}

impl AsyncRead for PlainStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.handshaking {
            ready!(self.poll_send(cx))?;
        }
        let yields = coop::yields();
        let poll = self.plain.poll_read(cx, buf);
        if self.owes_ack && poll.is_pending() && coop::yields() == yields {
            self.owes_ack = false;
            self.plain.acknowledge();
        }
        poll
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.handshaking {
            let before = self.held.len();
            bufs.iter().for_each(|buf| self.held.extend_from_slice(buf));
            return Poll::Ready(Ok(self.held.len() - before));
        }
        let written = ready!(self.poll_write_after_held(cx, bufs))?;
        self.owes_ack = false;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.handshaking { Poll::Ready(Ok(())) } else { self.plain.poll_flush(cx) }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.plain.poll_close(cx)
    }
}

/// The encrypted stream. A read also sends what rustls could not send yet. Otherwise a handler that only reads could
/// wait without end, for a peer that still waits for the rest of a message.
struct Encrypted(TlsStream<PlainStream>);

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.0.get_ref().1.wants_write() {
            // If it fails, the read or the next write returns the error.
            let _ = Pin::new(&mut self.0).poll_flush(cx);
        }
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

/// Text of an example whose handler runs these lines with the client's `tls: &TlsInfo`. Its set-up is hidden: a
/// certificate, a server in memory, and a client that trusts it.
macro_rules! tls_example {
    ($($line:literal)*) => {
        concat!(
            r#"# Examples

```
# async_std::task::block_on(async {
# use async_std::io::ReadExt;
# use ebbtide::rustls::pki_types::PrivatePkcs8KeyDer;
# use ebbtide::rustls::{ClientConfig, ProtocolVersion, RootCertStore, ServerConfig};
# use ebbtide::{Connection, Listener, Server, Tls};
# use futures_rustls::TlsConnector;
# use std::sync::Arc;
# let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
# let (certificate, key) = (made.cert.der().clone(), PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
# let builder = ServerConfig::builder().with_no_client_auth();
# let mut config = builder.with_single_cert(vec![certificate.clone()], key.into()).unwrap();
# let mut trusted = RootCertStore::empty();
# trusted.add(certificate).unwrap();
# let mut client = ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth();
# config.alpn_protocols = vec![b"echo".to_vec()];
# client.alpn_protocols = vec![b"echo".to_vec()];
# let (listener, memory) = Listener::memory();
# let server = Server::new(listener.tls(&Tls::from_config(Arc::new(config))));
let handler = async |conn: Connection| {
    let tls = conn.tls().expect("the listener has TLS");
"#,
            $("    ", $line, "\n",)*
            r#"};
# let (_, report) = server.scope(handler, async |_| {
#     let name = "localhost".try_into().unwrap();
#     let mut stream = TlsConnector::from(Arc::new(client)).connect(name, memory.connect().await?).await?;
#     Ok(stream.read_to_end(&mut Vec::new()).await?)
# }).await.unwrap();
# assert_eq!((report.completed(), report.panicked()), (1, 0));
# });
```"#,
        )
    };
}

/// Result of a TLS handshake: the negotiated protocol, the names and the certificates (feature `tls`).
///
/// [`Connection::tls`](crate::Connection::tls) returns it.
///
#[doc = tls_example!(
    "assert_eq!(tls.server_name(), Some(\"localhost\"));"
    "assert_eq!(tls.alpn_protocol(), Some(b\"echo\".as_slice()));"
    "assert_eq!(tls.protocol_version(), Some(ProtocolVersion::TLSv1_3));"
    "assert!(tls.peer_certificates().is_empty()); // this server asks for none"
)]
#[derive(Clone)]
pub struct TlsInfo {
    server_name: Option<String>,
    alpn: Option<Vec<u8>>,
    peer_certificates: Vec<CertificateDer<'static>>,
    version: Option<ProtocolVersion>,
    cipher_suite: Option<SupportedCipherSuite>,
}

impl TlsInfo {
    fn of(session: &ServerConnection) -> Self {
        Self {
            server_name: session.server_name().map(str::to_owned),
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            peer_certificates: session.peer_certificates().unwrap_or_default().to_vec(),
            version: session.protocol_version(),
            cipher_suite: session.negotiated_cipher_suite(),
        }
    }

    /// Returns the name of the server that the client asked for (SNI); `None` if it sent none.
    ///
    /// The client chooses it freely, so it proves nothing.
    ///
    #[doc = tls_example!("assert_eq!(tls.server_name(), Some(\"localhost\"));")]
    #[doc(alias = "SNI")]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Returns the negotiated protocol (ALPN); `None` if there is none.
    ///
    #[doc = tls_example!("assert_eq!(tls.alpn_protocol(), Some(b\"echo\".as_slice()));")]
    #[doc(alias = "NegotiatedProtocol")]
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// Returns the client's certificate, followed by those of the authorities that the client has sent, each in DER.
    ///
    /// They were verified before the handler began. Empty if the client has none, or was not asked for one.
    ///
    #[doc = tls_example!("assert!(tls.peer_certificates().is_empty()); // this server asks for none")]
    #[doc(alias = "client_certificate")]
    #[doc(alias = "mTLS")]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.peer_certificates
    }

    /// Returns the negotiated version of TLS.
    ///
    #[doc = tls_example!("assert_eq!(tls.protocol_version(), Some(ProtocolVersion::TLSv1_3));")]
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Returns the negotiated cipher suite.
    ///
    #[doc = tls_example!("assert!(tls.cipher_suite().is_some_and(|suite| suite.tls13().is_some()));")]
    pub fn cipher_suite(&self) -> Option<SupportedCipherSuite> {
        self.cipher_suite
    }
}

impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsInfo")
            .field("server_name", &self.server_name)
            .field("alpn_protocol", &self.alpn.as_deref().map(<[u8]>::escape_ascii).map(|alpn| alpn.to_string()))
            .field("peer_certificates", &self.peer_certificates.len())
            .field("protocol_version", &self.version)
            .field("cipher_suite", &self.cipher_suite.map(|suite| suite.suite()))
            .finish()
    }
}
