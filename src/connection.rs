//! [`Connection`]: one client's connection, as its handler sees it.
//!
//! This file has the type, its addresses, and half-closing. Its other methods are below `connection/`, in `stream`
//! (reading and writing), `drain` and `tasks`, and in `framing` (lines and frames). `task` is the future that runs a
//! handler.

mod blame;
#[cfg(unix)]
mod credentials;
mod delivery;
mod drain;
mod last_words;
mod linger;
#[cfg(all(test, ebbtide_loom))]
mod loom_tests;
pub(crate) mod open;
pub(crate) mod stream;
pub(crate) mod task;
mod tasks;
mod timeouts;

use crate::address::Address;
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyHeader;
use crate::run::Run;
use crate::run::handle::Handle;
use crate::run::record::ConnectionRecord;
use crate::run::registry::ConnectionId;
use async_io::Timer;
#[cfg(unix)]
pub use credentials::PeerCredentials;
pub use drain::Draining;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// One client's connection: a stream of bytes that its handler reads and writes.
///
/// It implements `AsyncRead` and `AsyncWrite` of [futures-io], which async-std calls `Read` and `Write`. It does so by
/// value and by reference: one task can read while another writes, and no `split` is needed. A clone is cheap, and
/// shares the connection.
///
/// [futures-io]: https://docs.rs/futures-io/0.3
///
/// When the handler has ended, for whatever reason, the connection is closed, and the peer reads EOF. A clone that
/// lives on in a detached task reads EOF (`Ok(0)`) at once, and its writes fail at once with `BrokenPipe`. There is one
/// exception: after the handler has returned, its tasks may still write for a short time: see [`spawn`](Self::spawn).
///
/// # Examples
///
/// An echo that stops between two messages when the server drains:
///
/// ```
/// use async_std::{io, prelude::*};
/// use ebbtide::{Connection, Listener, Server};
///
/// async fn echo(mut conn: Connection) -> io::Result<()> {
///     let mut buf = vec![0; 1024];
///     while conn.more().await? {
///         let n = conn.read(&mut buf).await?;
///         conn.write_all(&buf[..n]).await?;
///     }
///     Ok(())
/// }
/// # async_std::task::block_on(async {
/// # let (listener, connector) = Listener::memory();
/// # let mut client = connector.connect().await?;
/// # client.write_all(b"hello").await?;
/// # let (_, report) = Server::new(listener).scope(echo, async |_| {}).await?;
/// # let mut text = String::new();
/// # client.read_to_string(&mut text).await?;
/// # assert_eq!((text.as_str(), report.completed()), ("hello", 1));
/// # io::Result::Ok(()) }).unwrap();
/// ```
///
/// # Sharing state between handlers
///
/// A server calls its handler once for each connection. State that all calls share is in an [`Arc`]. The handler is
/// then a plain closure that clones the `Arc` and calls an async function:
///
/// ```
/// use async_std::{io, prelude::*};
/// use ebbtide::{Connection, Listener, Server};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// async fn greet(mut conn: Connection, visits: Arc<AtomicU64>) -> io::Result<()> {
///     let visit = visits.fetch_add(1, Ordering::Relaxed) + 1;
///     conn.write_all(format!("visit {visit}").as_bytes()).await
/// }
///
/// # async_std::task::block_on(async {
/// # let (listener, connector) = Listener::memory();
/// # let server = Server::new(listener);
/// # let mut client = connector.connect().await?;
/// let visits = Arc::new(AtomicU64::new(0));
/// let state = Arc::clone(&visits);
/// let (_, _report) = server.scope(move |conn| greet(conn, Arc::clone(&state)), async |_| {}).await?;
/// assert_eq!(visits.load(Ordering::Relaxed), 1);
/// # io::Result::Ok(()) }).unwrap();
/// ```
///
/// [`HandlerOutput`](crate::HandlerOutput) lists what a handler may return, and the two forms of a closure that do not
/// compile.
///
/// # Cancel safety
///
/// A `read` whose future is dropped has taken no bytes. A `write_all` whose future is dropped may have written a part.
/// For combinations with a drain see [`until_draining`](Self::until_draining).
#[doc(alias = "TcpStream")]
#[doc(alias = "StreamReader")]
#[doc(alias = "StreamWriter")]
#[doc(alias = "split")]
#[derive(Clone)]
pub struct Connection {
    /// Shared by all clones, the connection's task, and the registry of the run.
    record: Arc<ConnectionRecord>,
    /// Also keeps the run's state, for deadlines and phases.
    server: Handle,
}

impl Connection {
    fn new(record: Arc<ConnectionRecord>, run: Arc<Run>) -> Self {
        Self { record, server: Handle::new(run) }
    }

    fn run(&self) -> &Arc<Run> {
        self.server.run()
    }

    pub(crate) fn record(&self) -> &Arc<ConnectionRecord> {
        &self.record
    }

    /// Returns the connection's number: unique within its server, in the order of acceptance, from 0.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// let _client = connector.connect().await?;
    /// let handler = async |conn: Connection| assert_eq!(conn.id().as_u64(), 0);
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn id(&self) -> ConnectionId {
        self.record.id
    }

    /// Returns the client's address: the peer of the socket.
    ///
    /// Behind a proxy that sends the client's address (`ProxyProtocol`, feature `proxy-protocol`) it is that address.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// let _client = connector.connect().await?;
    /// let handler = async |conn: Connection| assert_eq!(conn.peer_addr().to_string(), "memory:0");
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "RemoteAddr")]
    #[doc(alias = "getpeername")]
    #[doc(alias = "get_extra_info")]
    pub fn peer_addr(&self) -> &Address {
        self.record.peer()
    }

    /// Returns the address that the client connected to.
    ///
    /// A server may listen on all addresses of its machine (`0.0.0.0`): then this is the one that the client chose.
    /// Behind a proxy that sends it, it is the address to which the client of the proxy connected.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::{io, net::TcpStream, prelude::*};
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("0.0.0.0:0").await?;
    /// let port = server.local_addr().port().expect("a TCP address");
    /// let handler = async |mut conn: Connection| {
    ///     let address = conn.local_addr().to_string();
    ///     conn.write_all(address.as_bytes()).await
    /// };
    /// let mut client = TcpStream::connect(("127.0.0.1", port)).await?;
    /// server.scope(handler, async |_| {}).await?;
    /// let mut address = String::new();
    /// client.read_to_string(&mut address).await?;
    /// assert_eq!(address, format!("127.0.0.1:{port}"));
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "LocalAddr")]
    #[doc(alias = "getsockname")]
    pub fn local_addr(&self) -> &Address {
        self.record.local().unwrap_or_else(|| self.run().name.addresses.first())
    }

    /// Returns a handle of the server that this connection belongs to.
    ///
    /// # Examples
    ///
    /// A handler that shuts its own server down:
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Cause, Connection, Listener, Server};
    ///
    /// let (listener, connector) = Listener::memory();
    /// let _client = connector.connect().await?;
    /// let handler = async |conn: Connection| drop(conn.server().shutdown());
    /// let report = Server::new(listener).serve(handler).await?;
    /// assert_eq!(report.cause(), Cause::Shutdown);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn server(&self) -> &Handle {
        &self.server
    }

    /// Half-closes the connection: the peer reads EOF after what has been written, and can still send.
    ///
    /// What the peer sends can be read until the handler ends, which closes the other half too. A second call does
    /// nothing. On other streams this is `shutdown(Write)`; here `AsyncWrite::poll_close` does the same.
    ///
    /// # Errors
    ///
    /// The system's error. If the peer is already gone, that is not an error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stream is still open, or is half-closed. A second call continues.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let server = Server::new(listener);
    /// let handler = async |mut conn: Connection| {
    ///     conn.write_all(b"enough").await?;
    ///     conn.close_write().await?;
    ///     let mut rest = String::new();
    ///     conn.read_to_string(&mut rest).await?;
    ///     assert_eq!(rest, "and thanks");
    ///     io::Result::Ok(())
    /// };
    /// let body = async |_| {
    ///     let mut client = connector.connect().await?;
    ///     let mut text = String::new();
    ///     client.read_to_string(&mut text).await?; // reads EOF, although the handler still runs
    ///     client.write_all(b"and thanks").await?;
    ///     Ok(text)
    /// };
    /// let (text, report) = server.scope(handler, body).await?;
    /// assert_eq!((text.as_str(), report.completed()), ("enough", 1));
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "shutdown")]
    #[doc(alias = "CloseWrite")]
    #[doc(alias = "write_eof")]
    #[doc(alias = "send_eof")]
    pub async fn close_write(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_half_close(cx)).await
    }

    /// Waits until the peer has closed its end, or is gone. A handler can then abandon work that no client waits for.
    ///
    /// It consumes no bytes. It is ready as well once the handler has ended, for the clones that outlive it.
    ///
    /// - Unread bytes hide the EOF that follows them. While there are some, it checks again every 250 ms. On Linux this
    ///   finds a socket's EOF behind the bytes; elsewhere EOF is found once they have been read.
    /// - Some clients half-close after their request. This cannot be distinguished from a close.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::task;
    /// # use ebbtide::{Connection, Listener, Server};
    /// use futures_concurrency::prelude::*; // the crate `futures-concurrency`, for `race`
    /// # use std::time::Duration;
    ///
    /// # let (listener, connector) = Listener::memory();
    /// # let server = Server::new(listener);
    /// let handler = async |conn: Connection| {
    ///     let answer = async {
    ///         task::sleep(Duration::from_secs(60)).await; // the work
    ///         Some("42")
    ///     };
    ///     let gone = async {
    ///         conn.peer_closed().await;
    ///         None
    ///     };
    ///     assert_eq!((answer, gone).race().await, None);
    /// };
    /// drop(connector.connect().await?); // a client that does not wait for the answer
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "CloseNotify")]
    #[doc(alias = "is_connected")]
    pub async fn peer_closed(&self) {
        /// How long until the next check while unread bytes hide EOF.
        const LOOK_AGAIN: Duration = Duration::from_millis(250);

        let record = &self.record;
        let closed = async {
            while !record.saw_eof() {
                match record.transport.peeked().await {
                    Ok(0) => return,
                    Err(error) => return record.keep_error(error),
                    Ok(_) if record.transport.is_hung_up() => return,
                    Ok(_) => drop(Timer::after(LOOK_AGAIN).await),
                }
            }
        };
        let (mut closed, mut returned) = (pin!(closed), pin!(record.returned()));
        poll_fn(|cx| {
            // This check comes first: once the handler has returned, the connection's task reads and discards, and no
            // other may read.
            if record.has_returned() || returned.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            closed.as_mut().poll(cx)
        })
        .await;
    }

    /// Returns the TCP socket, for its state and its options; `None` if the connection is not TCP.
    ///
    /// Do not read from it or write to it: that bypasses everything that this crate promises.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::net::TcpStream;
    /// # use ebbtide::{Connection, Server};
    /// # let server = Server::bind("127.0.0.1:0").await?;
    /// # let _client = TcpStream::connect(server.local_addr().tcp()?).await?;
    /// let handler = async |conn: Connection| {
    ///     let socket = conn.tcp_stream().expect("a TCP connection");
    ///     assert!(socket.nodelay()?); // the default of this crate
    ///     std::io::Result::Ok(())
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "setsockopt")]
    #[doc(alias = "set_nodelay")]
    pub fn tcp_stream(&self) -> Option<&TcpStream> {
        self.record.lend_tcp()
    }

    /// Returns the result of the TLS handshake: the name that the client asked for, the protocol, the client's
    /// certificate (feature `tls`). `None` if the listener has no [`Tls`](crate::Tls).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::io;
    /// # use ebbtide::{Connection, Listener, Server, Tls, rustls};
    /// # use std::sync::Arc;
    /// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    /// # let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    /// # let mut roots = rustls::RootCertStore::empty();
    /// # roots.add(made.cert.der().clone()).unwrap();
    /// # let config = rustls::ServerConfig::builder().with_no_client_auth();
    /// # let tls = Tls::from_config(Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap()));
    /// # let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    /// # let tls_client = futures_rustls::TlsConnector::from(Arc::new(config));
    /// let (listener, connector) = Listener::memory();
    /// let server = Server::new(listener.tls(&tls));
    /// let handler = async |conn: Connection| {
    ///     let tls = conn.tls().expect("the listener has TLS");
    ///     assert_eq!(tls.server_name(), Some("localhost"));
    /// };
    /// let (_, report) = server
    ///     .scope(handler, async |_| {
    ///         let stream = connector.connect().await?;
    ///         Ok(tls_client.connect("localhost".try_into()?, stream).await?)
    ///     })
    ///     .await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "get_extra_info")]
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&crate::transport::TlsInfo> {
        self.record.transport.tls_info()
    }

    /// Returns the header that the proxy has sent (feature `proxy-protocol`); `None` if it has sent none.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, ProxyProtocol, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let server = Server::new(listener.proxy_protocol(ProxyProtocol::required().trust_local()));
    /// let mut proxy = connector.connect().await?;
    /// proxy.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n").await?;
    /// let handler = async |conn: Connection| {
    ///     let header = conn.proxy_header().expect("a header is required here");
    ///     assert_eq!(header.version(), 1);
    ///     assert_eq!(header.source(), Some(conn.peer_addr()));
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_header(&self) -> Option<&ProxyHeader> {
        self.record.proxied()
    }

    /// Returns the peer of the socket (feature `proxy-protocol`): the proxy, if one has named its client; otherwise the
    /// same as [`peer_addr`](Self::peer_addr).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, ProxyProtocol, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let server = Server::new(listener.proxy_protocol(ProxyProtocol::required().trust_local()));
    /// let mut proxy = connector.connect().await?;
    /// proxy.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n").await?;
    /// let handler = async |conn: Connection| {
    ///     assert_eq!(conn.peer_addr().to_string(), "192.0.2.1:56324");
    ///     assert_eq!(conn.socket_peer_addr().to_string(), "memory:0");
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "proxy-protocol")]
    pub fn socket_peer_addr(&self) -> &Address {
        self.record.socket_peer()
    }

    /// Returns the address of the socket's local end (feature `proxy-protocol`): the one that the proxy has connected
    /// to, if there is a proxy; otherwise the same as [`local_addr`](Self::local_addr).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, ProxyProtocol, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let server = Server::new(listener.proxy_protocol(ProxyProtocol::required().trust_local()));
    /// let mut proxy = connector.connect().await?;
    /// proxy.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n").await?;
    /// let handler = async |conn: Connection| {
    ///     assert_eq!(conn.local_addr().to_string(), "198.51.100.1:443");
    ///     assert_eq!(conn.socket_local_addr().to_string(), "memory");
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "proxy-protocol")]
    pub fn socket_local_addr(&self) -> &Address {
        self.record.socket_local().unwrap_or_else(|| self.run().name.addresses.first())
    }

    /// Returns the user, group and process that opened the connection: for Unix sockets on Linux and Android. `None`
    /// for other connections and systems.
    ///
    /// It is the process that called `connect`, as it was then. By now that process may have ended, or may have passed
    /// its socket on.
    ///
    /// # Examples
    ///
    /// A handler that serves only the user that runs the server:
    ///
    /// ```
    /// # if cfg!(target_os = "linux") { async_std::task::block_on(async {
    /// # use async_std::{io, os::unix::net::UnixStream, prelude::*};
    /// # use ebbtide::{Connection, Server};
    /// # let path = std::env::temp_dir().join(format!("ebbtide-peer-{}.sock", std::process::id()));
    /// let server = Server::bind_unix(&path).await?;
    /// let handler = async |mut conn: Connection| {
    ///     let own = nix::unistd::geteuid().as_raw(); // the crate `nix`
    ///     match conn.peer_credentials() {
    ///         Some(peer) if peer.uid() == own => conn.write_all(b"hello").await,
    ///         _ => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
    ///     }
    /// };
    /// let mut client = UnixStream::connect(&path).await?;
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap(); }
    /// ```
    #[doc(alias = "SO_PEERCRED")]
    #[doc(alias = "peer_cred")]
    #[doc(alias = "getpeereid")]
    #[cfg(unix)]
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        PeerCredentials::of(self.record.transport.as_unix()?)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            .field("peer_addr", self.peer_addr())
            .field("ended", &self.record.has_ended())
            .finish()
    }
}
