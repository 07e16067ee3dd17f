//! [`Transport`]: the byte stream of one connection, which is a socket, a boxed stream, or TLS over either.
//!
//! It reads, writes and closes through a shared reference, for any number of tasks at once. Below:
//!
//! - `read`: when to read a socket, and when to wait for it first; `readiness`: waiting for one direction of a socket;
//!   `spurious`: pauses after spurious wake-ups;
//! - `boxed`: a stream that is not a socket; `tls`: encryption over another stream;
//! - `pushback`: bytes that were read too early; `peek`: waiting for bytes without taking them; `scratch`: a buffer;
//! - `extra_time`: a little more time for a peer whose bytes have arrived when its time limit has passed;
//! - `tcp_info`: what Linux reports about a TCP connection.

mod boxed;
mod extra_time;
mod peek;
mod pushback;
mod read;
mod readiness;
mod scratch;
mod spurious;
#[cfg(target_os = "linux")]
mod tcp_info;
#[cfg(feature = "tls")]
mod tls;

use crate::address::Address;
use crate::sync::coop::{Budget, Direction};
use async_io::Async;
use boxed::Boxed;
pub(crate) use boxed::BoxedStream;
use read::ReadPolicy;
use readiness::Readiness;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

pub(crate) use extra_time::ExtraTime;
use pushback::Pushback;
use scratch::LENGTH as SCRATCH_LENGTH;
pub(crate) use scratch::with_scratch;
use spurious::SpuriousCount;
#[cfg(feature = "tls")]
pub use tls::TlsInfo;

/// Byte stream of one connection.
#[repr(C)] // the fields that every message reads come first
pub(crate) struct Transport {
    kind: TransportKind,
    /// Bytes that were read too early. The next reads return them.
    pushback: Pushback,
    /// The last read has returned as many bytes as a scratch buffer holds, or more.
    reads_much: AtomicBool,
    /// When to read, and when to wait first. Only sockets use it, and the fields below.
    read_policy: ReadPolicy,
    /// The cooperative budget of writes.
    write_budget: Budget,
    /// Counts the writes that found no room.
    spurious_writes: SpuriousCount,
    /// The socket was half-closed: the peer reads EOF after what was written.
    is_half_closed: AtomicBool,
    /// A read has found EOF: the peer has half-closed.
    saw_eof: AtomicBool,
    /// The tasks that wait to read.
    readers: Readiness,
    /// The tasks that wait to write.
    writers: Readiness,
}

/// Kinds of streams.
///
/// The sockets are not async-std's own types: those panic if a socket cannot be registered with the reactor, and hide
/// whether it is ready. The rarer kinds are boxed, so that the size of a `Transport` is that of a socket's.
enum TransportKind {
    Tcp(Async<TcpStream>),
    #[cfg(unix)]
    Unix(Async<UnixStream>),
    Boxed(Box<Boxed>),
    #[cfg(feature = "tls")]
    Secured(Box<tls::Secured>),
}

/// How much of the written bytes the peer's kernel has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// All bytes, and our FIN if there is one, were acknowledged; or the connection is gone.
    pub(crate) is_done: bool,
    /// The number of acknowledged bytes, as two words. Only its changes are used.
    pub(crate) acknowledged: [u32; 2],
    /// How many bytes our kernel has not sent yet.
    pub(crate) unsent: u32,
    /// How long ago the last acknowledgement arrived.
    pub(crate) last_heard: Duration,
}

impl Delivery {
    /// Returns a value that changes with every progress.
    pub(crate) fn mark(self) -> (bool, [u32; 2]) {
        (self.is_done, self.acknowledged)
    }
}

/// The stream that reads and writes use: under TLS, the plain one until the handshake is done.
enum Active<'a> {
    Tcp(&'a Async<TcpStream>),
    #[cfg(unix)]
    Unix(&'a Async<UnixStream>),
    Boxed(&'a Boxed),
}

/// Evaluates one expression for a socket of any kind, and another one for a boxed stream.
macro_rules! each {
    ($stream:expr, $socket:ident => $with_socket:expr, $boxed:ident => $with_boxed:expr) => {
        match $stream.active() {
            Active::Tcp($socket) => $with_socket,
            #[cfg(unix)]
            Active::Unix($socket) => $with_socket,
            Active::Boxed($boxed) => $with_boxed,
        }
    };
}
use each; // so that the modules below can name it

impl Transport {
    /// Registers an accepted TCP socket, which is non-blocking already, with the reactor. That can fail: the system may
    /// be out of memory or of epoll watches.
    pub(crate) fn nonblocking_tcp(socket: TcpStream) -> io::Result<Self> {
        Ok(Self::of(TransportKind::Tcp(Async::new_nonblocking(socket)?)))
    }

    /// Makes an accepted Unix socket non-blocking, and registers it with the reactor.
    #[cfg(unix)]
    pub(crate) fn unix(socket: UnixStream) -> io::Result<Self> {
        Ok(Self::of(TransportKind::Unix(Async::new(socket)?)))
    }

    /// Wraps the stream of a custom or in-memory listener.
    pub(crate) fn boxed(stream: BoxedStream) -> Self {
        Self::of(TransportKind::Boxed(Box::new(Boxed::new(stream))))
    }

    fn of(kind: TransportKind) -> Self {
        Self {
            kind,
            pushback: Pushback::default(),
            reads_much: AtomicBool::new(false),
            read_policy: ReadPolicy::default(),
            write_budget: Budget::default(),
            spurious_writes: SpuriousCount::default(),
            is_half_closed: AtomicBool::new(false),
            saw_eof: AtomicBool::new(false),
            readers: Readiness::default(),
            writers: Readiness::default(),
        }
    }

    /// Returns this stream prepared for TLS: it is plain until its [`handshake`](Self::handshake) is done.
    #[cfg(feature = "tls")]
    pub(crate) fn awaiting_tls(self) -> Self {
        Self::of(TransportKind::Secured(Box::new(tls::Secured::new(self))))
    }

    /// Performs the server's side of the handshake. After it, reads and writes use the encrypted stream.
    #[cfg(feature = "tls")]
    pub(crate) async fn handshake(&self, acceptor: futures_rustls::TlsAcceptor) -> io::Result<()> {
        match &self.kind {
            TransportKind::Secured(secured) => secured.handshake(acceptor).await,
            // Not reached: the listener with TLS has called `awaiting_tls`.
            _ => Err(crate::text::explained(io::ErrorKind::Other, "the connection was made without TLS")),
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls_info(&self) -> Option<&TlsInfo> {
        match &self.kind {
            TransportKind::Secured(secured) => secured.info(),
            _ => None,
        }
    }

    fn active(&self) -> Active<'_> {
        match &self.kind {
            TransportKind::Tcp(socket) => Active::Tcp(socket),
            #[cfg(unix)]
            TransportKind::Unix(socket) => Active::Unix(socket),
            TransportKind::Boxed(shared) => Active::Boxed(shared),
            #[cfg(feature = "tls")]
            TransportKind::Secured(secured) => match secured.over() {
                Some(shared) => Active::Boxed(shared),
                None => secured.plain.active(),
            },
        }
    }

    /// Returns the stream under the encryption, or this one if it is not encrypted.
    fn plain(&self) -> &Self {
        match &self.kind {
            #[cfg(feature = "tls")]
            TransportKind::Secured(secured) => secured.plain.plain(),
            _ => self,
        }
    }

    /// Returns the bytes that were read too early from the active layer.
    fn pushback(&self) -> &Pushback {
        match &self.kind {
            #[cfg(feature = "tls")]
            TransportKind::Secured(secured) if secured.over().is_none() => secured.plain.pushback(),
            _ => &self.pushback,
        }
    }

    pub(crate) fn as_tcp(&self) -> Option<&TcpStream> {
        match &self.plain().kind {
            TransportKind::Tcp(socket) => Some(socket.get_ref()),
            _ => None,
        }
    }

    #[cfg(unix)]
    pub(crate) fn as_unix(&self) -> Option<&UnixStream> {
        match &self.plain().kind {
            TransportKind::Unix(socket) => Some(socket.get_ref()),
            _ => None,
        }
    }

    /// Returns the local address, for TCP: there each connection has its own.
    pub(crate) fn local_address(&self) -> Option<Address> {
        self.as_tcp()?.local_addr().ok().map(Address::from)
    }

    /// Returns for how long no byte has been sent or received. `None` except for TCP on Linux.
    pub(crate) fn silence(&self) -> Option<Duration> {
        #[cfg(target_os = "linux")]
        return tcp_info::silence(self.as_tcp()?);
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Returns how much of the written bytes was acknowledged, also under TLS. `None` except for TCP on Linux.
    pub(crate) fn delivery(&self) -> Option<Delivery> {
        #[cfg(target_os = "linux")]
        return tcp_info::delivery(self.as_tcp()?);
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Acknowledges the received bytes without delay, instead of with the next bytes that are sent. Does nothing on
    /// other systems than Linux.
    #[cfg(feature = "tls")]
    fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        if let Some(socket) = self.as_tcp() {
            let _ = rustix::net::sockopt::set_tcp_quickack(socket, true); // on failure the kernel acknowledges later
        }
    }

    /// Returns whether [`poll_close`](Self::poll_close) is ready at once, as it is for sockets.
    pub(crate) fn closes_at_once(&self) -> bool {
        each!(self, _socket => true, _shared => false)
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        each!(self,
        socket => {
            let n = match self.take_pushback(buf) {
                Some(n) => n,
                None => ready!(self.poll_socket(cx, socket, buf.len(), || socket.get_ref().read(buf)))?,
            };
            self.note_read(n);
            Poll::Ready(Ok(n))
        },
        // During its turn, so that a byte which another task has just pushed back is returned in order.
        shared => shared.poll(Direction::Read, cx, |stream, cx| match self.take_pushback(buf) {
            Some(n) => Poll::Ready(Ok(n)),
            None => stream.poll_read(cx, buf),
        }))
    }

    pub(crate) fn poll_read_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self,
        socket => {
            let n = match self.take_pushback_vectored(bufs) {
                Some(n) => n,
                None => {
                    let len = bufs.iter().map(|buf| buf.len()).sum();
                    ready!(self.poll_socket(cx, socket, len, || socket.get_ref().read_vectored(bufs)))?
                }
            };
            self.note_read(n);
            Poll::Ready(Ok(n))
        },
        shared => shared.poll(Direction::Read, cx, |stream, cx| match self.take_pushback_vectored(bufs) {
            Some(n) => Poll::Ready(Ok(n)),
            None => stream.poll_read_vectored(cx, bufs),
        }))
    }

    /// Notes how many bytes a read has returned, for the next [`poll_arrived`](Self::poll_arrived).
    fn note_read(&self, n: usize) {
        let much = n >= SCRATCH_LENGTH;
        if self.reads_much.load(Ordering::Relaxed) != much {
            self.reads_much.store(much, Ordering::Relaxed);
        }
    }

    fn poll_socket<S>(
        &self,
        cx: &mut Context<'_>,
        socket: &Async<S>,
        len: usize,
        read: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let wait =
            |cx: &mut Context<'_>| self.readers.poll(cx, self.read_policy.spurious(), |cx| socket.poll_readable(cx));
        let poll = self.read_policy.poll(cx, len, read, wait);
        if len > 0 && poll.is_ready() {
            self.readers.forget();
            if matches!(poll, Poll::Ready(Ok(0))) {
                self.saw_eof.store(true, Ordering::Relaxed);
            }
        }
        poll
    }

    /// Makes later reads return `Pending` only if nothing has arrived. Called when a drain begins.
    pub(crate) fn be_eager(&self) {
        self.plain().read_policy.be_eager();
    }

    fn take_pushback_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> Option<usize> {
        self.pushback().take(bufs.iter_mut().find(|buf| !buf.is_empty())?)
    }

    /// Takes pushed-back bytes. Returns their number, or `None` if there are none.
    fn take_pushback(&self, buf: &mut [u8]) -> Option<usize> {
        self.pushback().take(buf)
    }

    /// Pushes back bytes that were read too early, in front of those that were pushed back already. The next read
    /// returns them.
    pub(crate) fn push_back(&self, bytes: &[u8]) {
        self.pushback().push_back(bytes);
    }

    /// Pushes back bytes that were read after those that were pushed back already.
    fn append_pushback(&self, bytes: &[u8]) {
        self.pushback().append(bytes);
    }

    /// Returns how many pushed-back bytes there are; `None` for none.
    fn pushed_back(&self) -> Option<usize> {
        self.pushback().len()
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self,
            socket => self.poll_socket_write(cx, socket, || socket.get_ref().write(buf)),
            shared => shared.poll(Direction::Write, cx, |stream, cx| stream.poll_write(cx, buf)))
    }

    pub(crate) fn poll_write_vectored(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        each!(self,
            socket => self.poll_socket_write(cx, socket, || socket.get_ref().write_vectored(bufs)),
            shared => shared.poll(Direction::Write, cx, |stream, cx| stream.poll_write_vectored(cx, bufs)))
    }

    fn poll_socket_write<S>(
        &self,
        cx: &mut Context<'_>,
        socket: &Async<S>,
        mut write: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.write_budget.is_spent() {
            return self.write_budget.yield_now(cx);
        }
        loop {
            if let Some(result) = read::attempt(&mut write) {
                self.write_budget.spend();
                self.spurious_writes.reset();
                return Poll::Ready(result);
            }
            self.write_budget.reset();
            self.spurious_writes.note();
            ready!(self.writers.poll(cx, &self.spurious_writes, |cx| socket.poll_writable(cx)))?;
        }
    }

    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self,
            _socket => Poll::Ready(Ok(())), // a socket buffers nothing in this process
            shared => shared.poll(Direction::Write, cx, |stream, cx| stream.poll_flush(cx)))
    }

    /// Half-closes: the peer reads EOF after all that was written. If the peer is gone already, that is not an error.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self,
            socket => Poll::Ready(self.half_close(socket.get_ref())),
            shared => shared.poll(Direction::Write, cx, |stream, cx| stream.poll_close(cx)))
    }

    /// Half-closes the socket, once: each further call of the system would do nothing.
    fn half_close(&self, socket: &impl Socket) -> io::Result<()> {
        if !self.is_half_closed.load(Ordering::Relaxed) {
            shut_down(socket, Shutdown::Write)?;
            self.is_half_closed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Shuts down both directions at once. Bytes that were written and not sent yet may be lost.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let TransportKind::Secured(secured) = &self.kind {
            if let Some(over) = secured.over() {
                over.destroy();
            }
            return secured.plain.shut_down();
        }
        each!(self,
        socket => match self.is_half_closed.load(Ordering::Relaxed) && self.saw_eof.load(Ordering::Relaxed) {
            true => Ok(()), // both sides have half-closed: nothing is left to shut down
            false => shut_down(socket.get_ref(), Shutdown::Both),
        },
        shared => {
            shared.destroy();
            Ok(())
        })
    }

    /// Wakes every task that waits to read. A task that alone waits for a socket has its waker in the reactor. So this
    /// registers another waker there: the reactor wakes the one that it displaces.
    pub(crate) fn wake_readers(&self) {
        let mut noop = Context::from_waker(Waker::noop());
        each!(self.plain(), socket => drop(socket.poll_readable(&mut noop)), _shared => {});
        self.plain().readers.wake_paused();
        each!(self, _socket => {}, shared => shared.wake());
    }

    /// Wakes every task that waits for this stream, in either direction.
    pub(crate) fn wake(&self) {
        self.wake_readers();
        let mut noop = Context::from_waker(Waker::noop());
        each!(self.plain(), socket => drop(socket.poll_writable(&mut noop)), _shared => {});
        self.plain().writers.wake_paused();
    }
}

/// A socket that can be shut down.
#[cfg(unix)]
trait Socket: std::os::fd::AsFd {}
#[cfg(unix)]
impl<S: std::os::fd::AsFd> Socket for S {}
#[cfg(windows)]
trait Socket: std::os::windows::io::AsSocket {}
#[cfg(windows)]
impl<S: std::os::windows::io::AsSocket> Socket for S {}

fn shut_down(socket: &impl Socket, how: Shutdown) -> io::Result<()> {
    ignore_not_connected(socket2::SockRef::from(socket).shutdown(how))
}

/// Makes it a success that the peer is gone already.
fn ignore_not_connected(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        each!(self, socket => socket.get_ref().fmt(f), shared => shared.fmt(f))
    }
}
