//! [`Connection`]: one client's connection, as its handler sees it.

mod blame;
#[cfg(unix)]
mod credentials;
mod delivery;
mod drain;
mod last_words;
mod linger;
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
/// It implements futures-io's [`AsyncRead`](futures_io::AsyncRead) and [`AsyncWrite`](futures_io::AsyncWrite), which
/// async-std calls `Read` and `Write`, by value and by reference: one task can read while another writes. Clones share
/// the connection. When the handler has ended, however it ends, the connection is closed: a clone that lives on in a
/// detached task reads EOF (`Ok(0)`), its writes fail with `BrokenPipe`, both at once, and the peer sees EOF. Only the
/// tasks of a handler that has returned may go on writing for a moment: see [`spawn`](Self::spawn).
///
/// # Examples
///
/// An echo that stops between two messages when the server drains:
///
/// ```
/// use async_std::{io, prelude::*};
/// use ebbtide::Connection;
///
/// async fn echo(mut conn: Connection) -> io::Result<()> {
///     let mut buf = vec![0; 1024];
///     while conn.more().await? {
///         let n = conn.read(&mut buf).await?;
///         conn.write_all(&buf[..n]).await?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Connection {
    record: Arc<ConnectionRecord>,
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
    pub fn id(&self) -> ConnectionId {
        self.record.id
    }

    /// Returns the client's address: the socket's peer, or, behind a proxy that tells it (`ProxyProtocol`, feature
    /// `proxy-protocol`), the peer of the proxy.
    pub fn peer_addr(&self) -> &Address {
        self.record.peer()
    }

    /// Returns the address that the client connected to. For a server that listens on all addresses it is the
    /// particular one.
    pub fn local_addr(&self) -> &Address {
        self.record.local().unwrap_or_else(|| self.run().name.addresses.first())
    }

    /// Returns a handle of the server that this connection belongs to.
    pub fn server(&self) -> &Handle {
        &self.server
    }

    /// Half-closes the connection: the peer reads EOF after what has been written, and can still send. What it sends
    /// can be read until the handler ends, which closes the rest. Closing again does nothing. (`shutdown(Write)` of
    /// other streams.)
    ///
    /// # Errors
    ///
    /// What the system reports. A peer that is gone already is not an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the stream open, or half-closed; calling again goes on.
    #[doc(alias = "shutdown")]
    pub async fn close_write(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_half_close(cx)).await
    }

    /// Waits until the peer has closed its end, or is gone: so that a handler can abandon work that no client waits
    /// for.
    ///
    /// It takes no bytes. Unread bytes hide the EOF that comes after them; then it looks again every quarter of a
    /// second. (On Linux the EOF of a socket is found all the same; elsewhere once the bytes have been read.) A peer
    /// that only half-closes, as some clients do after their request, cannot be told from one that has closed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future.
    ///
    /// # Examples
    ///
    /// ```
    /// # use ebbtide::Connection;
    /// use futures_concurrency::prelude::*; // the crate `futures-concurrency`, for `race`
    ///
    /// /// The answer, unless the client leaves before it is there.
    /// async fn unless_gone<T>(conn: &Connection, answer: impl Future<Output = T>) -> Option<T> {
    ///     let answer = async { Some(answer.await) };
    ///     let gone = async {
    ///         conn.peer_closed().await;
    ///         None
    ///     };
    ///     (answer, gone).race().await
    /// }
    /// ```
    pub async fn peer_closed(&self) {
        /// How long until the next look where unread bytes hide the end.
        const LOOK_AGAIN: Duration = Duration::from_millis(250);

        let record = &self.record;
        let closed = async {
            while !record.saw_eof() {
                match record.transport.peeked().await {
                    Ok(0) | Err(_) => return,
                    Ok(_) if record.transport.is_hung_up() => return,
                    Ok(_) => drop(Timer::after(LOOK_AGAIN).await),
                }
            }
        };
        let (mut closed, mut returned) = (pin!(closed), pin!(record.returned()));
        poll_fn(|cx| {
            // First: a stream that is being thrown away must not be read any more.
            if record.has_returned() || returned.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            closed.as_mut().poll(cx)
        })
        .await;
    }

    /// Returns the TCP socket, to look at it and to set its options; `None` if the connection is not TCP. Reading from
    /// it or writing to it directly bypasses everything that this crate promises.
    pub fn tcp_stream(&self) -> Option<&TcpStream> {
        self.record.lend_tcp()
    }

    /// Returns what its TLS handshake has agreed on: the name that the client asked for, the protocol, the client's
    /// certificate (feature `tls`). `None` if the listener has no [`Tls`](crate::Tls).
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&crate::transport::TlsInfo> {
        self.record.transport.tls_info()
    }

    /// Returns what the proxy's header says (feature `proxy-protocol`); `None` if the proxy has sent none, or need not.
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_header(&self) -> Option<&ProxyHeader> {
        self.record.proxied()
    }

    /// Returns the peer of the socket (feature `proxy-protocol`): the proxy, if one has named its client; otherwise the
    /// same as [`peer_addr`](Self::peer_addr).
    #[cfg(feature = "proxy-protocol")]
    pub fn socket_peer_addr(&self) -> &Address {
        self.record.socket_peer()
    }

    /// Returns the address of our end of the socket (feature `proxy-protocol`): the one that the proxy has connected
    /// to, if there is one; otherwise the same as [`local_addr`](Self::local_addr).
    #[cfg(feature = "proxy-protocol")]
    pub fn socket_local_addr(&self) -> &Address {
        self.record.socket_local().unwrap_or_else(|| self.run().name.addresses.first())
    }

    /// Returns the user, group and process that opened the connection, if the system tells: for Unix sockets on Linux.
    ///
    /// It is the process that called `connect`, as it was then; by now it may be gone, or have handed its socket on.
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
