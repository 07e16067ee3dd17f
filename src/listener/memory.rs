//! A listener in memory: [`Connector`] connects clients to it, and [`MemoryStream`] is one end of a connection.
//!
//! The backlog is a bounded channel. Each direction of a stream is a pipe of the crate `piper`.

use super::custom::Accept;
use crate::address::Address;
use crate::text::explained;
use async_channel::{Receiver, Sender, bounded};
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

/// How many clients the backlog holds; more clients wait in [`Connector::connect`].
const BACKLOG: usize = 128;

/// How many bytes each direction holds; a further write waits.
const BUFFER: usize = 64 * 1024;

/// Connects clients to a listener in memory: see [`Listener::memory`](crate::Listener::memory).
///
/// A clone connects to the same listener.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, Listener, Server};
///
/// let (listener, connector) = Listener::memory();
/// let (_clients, report) = Server::new(listener)
///     .scope(async |_: Connection| {}, async |_| {
///         let other = connector.clone();
///         Ok((connector.connect().await?, other.connect().await?))
///     })
///     .await?;
/// assert_eq!(report.accepted(), 2);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Connector {
    /// The backlog.
    clients: Sender<Client>,
    /// The number of the next client: logs show it.
    next: Arc<AtomicU64>,
}

/// The server's end of a connection, and the client's address.
type Client = (MemoryStream, Address);

impl Connector {
    /// Connects a client and returns its end of the stream.
    ///
    /// The client's address is `memory:` and its number, from 0. It does not wait for the accept; but if 128 clients
    /// are in the backlog, it waits for a free place.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if the listener is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready connects no client. Nothing is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Server};
    ///
    /// let (listener, connector) = Listener::memory();
    /// let (peer, _report) = Server::new(listener)
    ///     .scope(async |conn: Connection| conn.peer_closed().await, async |server| {
    ///         let _client = connector.connect().await?;
    ///         while server.connections().is_empty() {
    ///             async_std::task::yield_now().await; // until it is accepted
    ///         }
    ///         Ok(server.connections()[0].peer_addr().to_string())
    ///     })
    ///     .await?;
    /// assert_eq!(peer, "memory:0");
    ///
    /// let error = connector.connect().await.unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused); // the server is closed
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "dial")]
    pub async fn connect(&self) -> io::Result<MemoryStream> {
        let (ours, theirs) = MemoryStream::pair();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match self.clients.send((theirs, Address::named(format!("memory:{number}")))).await {
            Ok(()) => Ok(ours),
            Err(_) => {
                let text = "cannot connect to the listener in memory: it is closed";
                Err(explained(io::ErrorKind::ConnectionRefused, text))
            }
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("waiting", &self.clients.len())
            .field("closed", &self.clients.is_closed())
            .finish()
    }
}

/// The listener's end of the backlog. Its drop closes the queue and the streams of the clients in it.
struct Memory(Receiver<Client>);

/// Returns the listener; a function that closes its backlog, after which the clients in it can still be
/// accepted; and the connector.
pub(super) fn listener() -> (impl Accept, impl FnOnce() + Send + Sync + 'static, Connector) {
    let (clients, incoming) = bounded(BACKLOG);
    let queue = incoming.clone();
    let close_queue = move || _ = queue.close();
    (Memory(incoming), close_queue, Connector { clients, next: Arc::default() })
}

impl Accept for Memory {
    type Io = MemoryStream;

    async fn accept(&mut self) -> io::Result<Client> {
        match self.0.recv().await {
            Ok(client) => Ok(client),
            Err(_) => pending().await, // all connectors were dropped
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {} // queued clients read EOF, even if a connector keeps the channel alive
    }
}

/// One end of a bidirectional stream of bytes in memory. Each direction holds 64 KiB.
///
/// It behaves like a socket:
///
/// - [`close`](Self::close) shuts down its own direction only (half-close). The other end reads what was written, then
///   EOF, and can still send.
/// - A drop closes both directions. The other end reads what was written, then EOF; its writes fail with `BrokenPipe`.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::io::{ReadExt, WriteExt};
/// use ebbtide::MemoryStream;
///
/// let (mut one, mut other) = MemoryStream::pair();
/// one.write_all(b"hello").await?;
/// drop(one);
/// let mut text = String::new();
/// other.read_to_string(&mut text).await?;
/// assert_eq!(text, "hello");
/// assert_eq!(other.write(b"x").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "DuplexStream")]
pub struct MemoryStream {
    /// The direction from the other end.
    reader: piper::Reader,
    /// The direction to the other end. `None` once it is closed.
    writer: Option<piper::Writer>,
}

impl MemoryStream {
    /// Creates two ends that are connected with each other.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::io::{ReadExt, WriteExt};
    /// # use ebbtide::MemoryStream;
    /// let (mut one, mut other) = MemoryStream::pair();
    /// one.write_all(b"ping").await?;
    /// let mut buf = [0; 4];
    /// other.read_exact(&mut buf).await?;
    /// assert_eq!(&buf, b"ping");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "duplex")]
    #[doc(alias = "socketpair")]
    #[doc(alias = "net.Pipe")]
    pub fn pair() -> (Self, Self) {
        let (here, to_there) = (piper::pipe(BUFFER), piper::pipe(BUFFER));
        let (one_reads, other_writes) = here;
        let (other_reads, one_writes) = to_there;
        (Self { reader: one_reads, writer: Some(one_writes) }, Self { reader: other_reads, writer: Some(other_writes) })
    }

    /// Shuts down its own direction (half-close): the other end reads what was written, then EOF, and can still send.
    ///
    /// Closing again has no effect.
    ///
    /// # Errors
    ///
    /// None. It returns a `Result` like the same method of sockets.
    ///
    /// # Cancel safety
    ///
    /// The direction is closed by the first poll. A future that is dropped before it closes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::io::{ReadExt, WriteExt};
    /// # use ebbtide::MemoryStream;
    /// let (mut one, mut other) = MemoryStream::pair();
    /// one.close().await?;
    /// assert_eq!(other.read(&mut [0]).await?, 0); // EOF
    /// other.write_all(b"x").await?; // the other direction is open
    /// assert_eq!(one.read(&mut [0]).await?, 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "shutdown")]
    #[doc(alias = "CloseWrite")]
    pub async fn close(&mut self) -> io::Result<()> {
        self.writer = None;
        Ok(())
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // NOTE: not the pipe's own `poll_drain_bytes`: it yields at random, so it returns `Pending` one time in a
        // hundred although bytes are there. A drain would take that for a client that has sent nothing more.
        match ready!(self.reader.poll(cx)) {
            true => Poll::Ready(Ok(self.reader.try_drain(buf))),
            false => Poll::Ready(Ok(0)),
        }
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gone = |text: &str| Poll::Ready(Err(explained(io::ErrorKind::BrokenPipe, text)));
        let Some(writer) = &mut self.writer else {
            return gone("this end is closed");
        };
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match ready!(writer.poll(cx)) {
            true => match writer.try_fill(buf) {
                0 => gone("the other end is gone"), // dropped after the poll
                n => Poll::Ready(Ok(n)),
            },
            false => gone("the other end is gone"),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closing again has no effect.
    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer = None;
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStream")
            .field("to_be_read", &self.reader.len())
            .field("closed", &self.writer.is_none())
            .finish()
    }
}
