//! A listener in memory, and its clients.

use super::custom::Accept;
use crate::address::Address;
use crate::text::explained;
use async_std::channel::{Receiver, Sender, bounded};
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

/// How many clients wait at most; one more waits in [`Connector::connect`].
const BACKLOG: usize = 128;

/// How many bytes are on their way at most, in each direction; more wait in the writer.
const BUFFER: usize = 64 * 1024;

/// Connects to a listener in memory: see [`Listener::memory`](crate::Listener::memory).
#[derive(Clone)]
pub struct Connector {
    clients: Sender<Client>,
    /// Clients are numbered, so that logs can tell them apart.
    next: Arc<AtomicU64>,
}

type Client = (MemoryStream, Address);

impl Connector {
    /// Connects; the client's address is `memory:` and its number, from 0. Where 128 clients wait already it waits with
    /// them.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if the listener is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future connects no client.
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

/// Dropped, it closes the channel, and so the clients that wait.
struct Memory(Receiver<Client>);

/// With what keeps clients from queueing: those that are queued can still be accepted.
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
            Err(_) => pending().await, // every connector is gone
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {} // clients that wait read EOF, though a connector may live on
    }
}

/// One end of a stream of bytes in memory, both ways; each direction holds 64 KiB.
///
/// It behaves as a socket does: closing ends our direction only, and the other end reads what was written before it
/// reads the end; dropping ends both, and the other end's writes fail with `BrokenPipe`.
pub struct MemoryStream {
    reader: piper::Reader,
    /// `None` once it is closed.
    writer: Option<piper::Writer>,
}

impl MemoryStream {
    /// Two ends that are connected with each other.
    #[doc(alias = "duplex")]
    pub fn pair() -> (Self, Self) {
        let (here, to_there) = (piper::pipe(BUFFER), piper::pipe(BUFFER));
        let (one_reads, other_writes) = here;
        let (other_reads, one_writes) = to_there;
        (Self { reader: one_reads, writer: Some(one_writes) }, Self { reader: other_reads, writer: Some(other_writes) })
    }

    /// Ends our direction: the other end reads what was written, and then the end, and can still send. Closing again
    /// does nothing.
    ///
    /// # Errors
    ///
    /// None: the `Result` is what the sockets' own closing has.
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
        // NOTE: not the pipe's own poll for bytes, which says `Pending` one time in a hundred although bytes are there:
        // a drain would take that for a client that has nothing more to say.
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
            return gone("this end was closed before");
        };
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match ready!(writer.poll(cx)) {
            true => match writer.try_fill(buf) {
                0 => gone("the other end is gone"), // since then
                n => Poll::Ready(Ok(n)),
            },
            false => gone("the other end is gone"),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closing again does nothing.
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
