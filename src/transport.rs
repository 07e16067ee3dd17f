//! The bytes of one connection: a socket, a boxed stream, or TLS over either.

mod boxed;
mod peek;
mod pushback;
mod read;
mod readiness;
mod scratch;
#[cfg(target_os = "linux")]
mod tcp_info;
#[cfg(feature = "tls")]
mod tls;
mod vain;

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
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pushback::Pushback;
pub(crate) use scratch::with_scratch;
#[cfg(feature = "tls")]
pub use tls::TlsInfo;
use vain::InVain;

/// The bytes of one connection.
#[repr(C)] // what is looked at with every message comes first
pub(crate) struct Transport {
    kind: TransportKind,
    /// Bytes that were read before it was the handler's turn, and belong to it.
    pushback: OnceLock<Box<Pushback>>,
    /// For sockets.
    read_policy: ReadPolicy,
    /// Of writes, for sockets.
    write_budget: Budget,
    /// Of writes, for sockets.
    writes_in_vain: InVain,
    readers: Readiness,
    writers: Readiness,
}

/// Sockets are not async-std's own type, which panics where registering a socket fails and hides whether it is ready.
/// What few connections are is in a box, so that all the others are small.
enum TransportKind {
    Tcp(Async<TcpStream>),
    #[cfg(unix)]
    Unix(Async<UnixStream>),
    Boxed(Box<Boxed>),
    #[cfg(feature = "tls")]
    Secured(Box<tls::Secured>),
}

/// How far what was written has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux tells"))]
pub(crate) struct Delivery {
    /// The peer's system has it all, or is gone.
    pub(crate) is_done: bool,
    /// Changes with every byte that arrives there.
    pub(crate) acknowledged: [u32; 2],
    /// How many bytes have not even left.
    pub(crate) unsent: u32,
    /// How long ago the peer's system last acknowledged something.
    pub(crate) last_heard: Duration,
}

impl Delivery {
    /// Changes whenever it gets on.
    pub(crate) fn mark(self) -> (bool, [u32; 2]) {
        (self.is_done, self.acknowledged)
    }
}

/// What is read and written at this moment.
enum Active<'a> {
    Tcp(&'a Async<TcpStream>),
    #[cfg(unix)]
    Unix(&'a Async<UnixStream>),
    Boxed(&'a Boxed),
}

/// Does the same with whichever socket it is, and something else with what is none.
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
use each; // so that the rooms below can name it

impl Transport {
    /// Registers an accepted socket with the reactor, which can fail (out of memory, of watches).
    pub(crate) fn nonblocking_tcp(socket: TcpStream) -> io::Result<Self> {
        Ok(Self::of(TransportKind::Tcp(Async::new_nonblocking(socket)?)))
    }

    /// The same for a Unix socket, which is made non-blocking first.
    #[cfg(unix)]
    pub(crate) fn unix(socket: UnixStream) -> io::Result<Self> {
        Ok(Self::of(TransportKind::Unix(Async::new(socket)?)))
    }

    /// What a custom listener has given.
    pub(crate) fn boxed(stream: BoxedStream) -> Self {
        Self::of(TransportKind::Boxed(Box::new(Boxed::new(stream))))
    }

    fn of(kind: TransportKind) -> Self {
        Self {
            kind,
            pushback: OnceLock::new(),
            read_policy: ReadPolicy::default(),
            write_budget: Budget::default(),
            writes_in_vain: InVain::default(),
            readers: Readiness::default(),
            writers: Readiness::default(),
        }
    }

    /// The same stream, to be encrypted: plain until its [`handshake`](Self::handshake) is done.
    #[cfg(feature = "tls")]
    pub(crate) fn awaiting_tls(self) -> Self {
        Self::of(TransportKind::Secured(Box::new(tls::Secured::new(self))))
    }

    /// Lets the client shake hands. From then on the stream is that which is encrypted.
    #[cfg(feature = "tls")]
    pub(crate) async fn handshake(&self, acceptor: futures_rustls::TlsAcceptor) -> io::Result<()> {
        match &self.kind {
            TransportKind::Secured(secured) => secured.handshake(acceptor).await,
            // Not reached: its listener has seen to it.
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

    /// The stream under the encryption; itself where there is none.
    fn plain(&self) -> &Self {
        match &self.kind {
            #[cfg(feature = "tls")]
            TransportKind::Secured(secured) => secured.plain.plain(),
            _ => self,
        }
    }

    /// What was read too early of this layer.
    fn pushback(&self) -> &OnceLock<Box<Pushback>> {
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

    /// The address at our end, where each connection has its own.
    pub(crate) fn local_address(&self) -> Option<Address> {
        self.as_tcp()?.local_addr().ok().map(Address::from)
    }

    /// For how long no byte has gone either way, if the system tells.
    pub(crate) fn silence(&self) -> Option<Duration> {
        #[cfg(target_os = "linux")]
        return tcp_info::silence(self.as_tcp()?);
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// How far what was written has come, also under TLS. `None` where the system does not tell: for what is no TCP
    /// socket, and on other systems than Linux.
    pub(crate) fn delivery(&self) -> Option<Delivery> {
        #[cfg(target_os = "linux")]
        return tcp_info::delivery(self.as_tcp()?);
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Acknowledges what has come without waiting for something to send along. Nothing on other systems than Linux.
    #[cfg(feature = "tls")]
    fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        if let Some(socket) = self.as_tcp() {
            let _ = rustix::net::sockopt::set_tcp_quickack(socket, true); // it would go later
        }
    }

    /// Whether ending a direction is a matter of a moment.
    pub(crate) fn closes_at_once(&self) -> bool {
        each!(self, _socket => true, _shared => false)
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        each!(self,
        socket => match self.take_pushback(buf) {
            Some(n) => Poll::Ready(Ok(n)),
            None => self.poll_socket(cx, socket, buf.len(), || socket.get_ref().read(buf)),
        },
        // In its turn, so that a byte which another task peeks at comes in its order.
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
        socket => match self.take_pushback_vectored(bufs) {
            Some(n) => Poll::Ready(Ok(n)),
            None => {
                let len = bufs.iter().map(|buf| buf.len()).sum();
                self.poll_socket(cx, socket, len, || socket.get_ref().read_vectored(bufs))
            }
        },
        shared => shared.poll(Direction::Read, cx, |stream, cx| match self.take_pushback_vectored(bufs) {
            Some(n) => Poll::Ready(Ok(n)),
            None => stream.poll_read_vectored(cx, bufs),
        }))
    }

    fn poll_socket<S>(
        &self,
        cx: &mut Context<'_>,
        socket: &Async<S>,
        len: usize,
        read: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let wait =
            |cx: &mut Context<'_>| self.readers.poll(cx, self.read_policy.in_vain(), |cx| socket.poll_readable(cx));
        let poll = self.read_policy.poll(cx, len, read, wait);
        if len > 0 && poll.is_ready() {
            self.readers.forget();
        }
        poll
    }

    /// From the beginning of a drain: a read says `Pending` only where nothing has arrived.
    pub(crate) fn be_eager(&self) {
        self.plain().read_policy.be_eager();
    }

    fn take_pushback_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> Option<usize> {
        let pushback = self.pushback().get()?;
        pushback.take(bufs.iter_mut().find(|buf| !buf.is_empty())?)
    }

    /// `None` where there is nothing, or nothing any more.
    fn take_pushback(&self, buf: &mut [u8]) -> Option<usize> {
        self.pushback().get()?.take(buf)
    }

    /// Gives back bytes that were read too early: the next read finds them.
    pub(crate) fn push_back(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.pushback().get_or_init(Box::default).push_back(bytes);
    }

    /// The same for bytes that were read after those that lie there.
    fn append_pushback(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.pushback().get_or_init(Box::default).append(bytes);
        }
    }

    /// How many bytes were given back and not read again; `None`: none.
    fn pushed_back(&self) -> Option<usize> {
        self.pushback().get()?.len()
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
                self.writes_in_vain.end();
                return Poll::Ready(result);
            }
            self.write_budget.reset();
            self.writes_in_vain.note();
            ready!(self.writers.poll(cx, &self.writes_in_vain, |cx| socket.poll_writable(cx)))?;
        }
    }

    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self,
            _socket => Poll::Ready(Ok(())), // it keeps nothing back
            shared => shared.poll(Direction::Write, cx, |stream, cx| stream.poll_flush(cx)))
    }

    /// Ends our direction: the peer reads the end after all that was written. A peer that is gone already is fine.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self,
            socket => Poll::Ready(shut_down(socket.get_ref(), Shutdown::Write)),
            shared => shared.poll(Direction::Write, cx, |stream, cx| stream.poll_close(cx)))
    }

    /// Ends both directions, at once: what was written and has not left yet may be lost.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let TransportKind::Secured(secured) = &self.kind {
            if let Some(over) = secured.over() {
                over.destroy();
            }
            return secured.plain.shut_down();
        }
        each!(self,
        socket => shut_down(socket.get_ref(), Shutdown::Both),
        shared => {
            shared.destroy();
            Ok(())
        })
    }

    /// Has every task that waits to read look again, also one that alone waits for a socket: the reactor wakes the
    /// waker that another displaces.
    pub(crate) fn wake_readers(&self) {
        let mut nothing = Context::from_waker(Waker::noop());
        each!(self.plain(), socket => drop(socket.poll_readable(&mut nothing)), _shared => {});
        self.plain().readers.wake_resting();
        each!(self, _socket => {}, shared => shared.wake());
    }

    /// The same for tasks that wait for it in either direction.
    pub(crate) fn wake(&self) {
        self.wake_readers();
        let mut nothing = Context::from_waker(Waker::noop());
        each!(self.plain(), socket => drop(socket.poll_writable(&mut nothing)), _shared => {});
        self.plain().writers.wake_resting();
    }
}

#[cfg(unix)]
fn shut_down(socket: &impl std::os::fd::AsFd, how: Shutdown) -> io::Result<()> {
    gone_is_fine(socket2::SockRef::from(socket).shutdown(how))
}

#[cfg(windows)]
fn shut_down(socket: &impl std::os::windows::io::AsSocket, how: Shutdown) -> io::Result<()> {
    gone_is_fine(socket2::SockRef::from(socket).shutdown(how))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
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
