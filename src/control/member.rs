//! One connection, as the whole run knows it.

use super::connection_id::ConnectionId;
use super::notice::Notice;
use super::tasks::Tasks;
use crate::address::Address;
use crate::group::Owner;
use crate::listener::Accepted;
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyHeader;
use crate::say::say;
use crate::stream::Stream;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// What the clones of a connection, its session and the registry have in common.
///
/// What is looked at with every message comes first, in as few cache lines as may be: with thousands of connections nothing of
/// one is in the cache any more when its next message comes.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Member {
    /// The handler has ended. Set before the socket is shut down; no read or write passes it afterwards.
    ended: AtomicBool,
    /// A read has found the end of the peer's bytes.
    saw_end: AtomicBool,
    /// What it is doing; see `ConnectionState`. Moved by its session alone.
    state: AtomicU8,
    /// The socket is shut down both ways.
    shut_down: AtomicBool,
    /// Somebody has had the socket itself, and may have duplicated it.
    lent: AtomicBool,
    /// Somebody wants to know when the last byte went.
    watch_idle: bool,
    /// Why the handler must end; see [`Verdict`].
    verdict: AtomicU8,
    pub(crate) stream: Stream,
    /// The drain has begun. Each connection has its own, so that waiting for it is no meeting place. Its resident is the
    /// connection's own task, which is woken for a verdict too.
    pub(crate) draining: Notice,
    pub(crate) id: ConnectionId,
    /// Who is at the other end of the stream.
    peer: Address,
    /// When it was accepted.
    pub(crate) since: Instant,
    /// When the last byte went either way, in nanoseconds since `since`.
    last_byte: AtomicU64,
    pub(crate) tasks: Tasks,
    rare: OnceLock<Box<Rare>>,
}

/// What most connections never have, so that they need no room for it.
#[derive(Debug, Default)]
struct Rare {
    /// Where the client connected to. Where each connection has its own: asked of the system once, when somebody wants to know.
    local: OnceLock<Option<Address>>,
    /// What a proxy has said about its client, once that was read.
    #[cfg(feature = "proxy-protocol")]
    proxied: OnceLock<Box<ProxyHeader>>,
    /// What the task said whose panic ends the connection.
    broken: OnceLock<Box<str>>,
}

/// Why a handler is ended by others.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// A task of the connection has panicked, with this message.
    Broken(String),
    /// Somebody wants this connection closed, or the whole server.
    Cancelled,
}

/// What stands for a verdict in the connection's one byte.
impl Verdict {
    const NONE: u8 = 0;
    const BROKEN: u8 = 1;
    const CANCELLED: u8 = 2;
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The handler has not been called yet: what comes before it is waited for, such as the first byte.
    Opening,
    /// The handler runs.
    Serving,
    /// The handler has ended, and the peer may still be sending: its bytes are read and thrown away, so that the reply
    /// reaches it.
    Lingering,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Opening => "opening",
            Self::Serving => "serving",
            Self::Lingering => "lingering",
        })
    }
}

impl Member {
    pub(crate) fn new(id: ConnectionId, accepted: Accepted, watch_idle: bool) -> Self {
        let Accepted { stream, peer, local, layers: _ } = accepted;
        let rare = local.map(|local| Box::new(Rare { local: OnceLock::from(Some(local)), ..Rare::default() }));
        Self {
            id,
            peer,
            since: Instant::now(),
            stream,
            rare: rare.map_or_else(OnceLock::new, OnceLock::from),
            draining: Notice::default(),
            verdict: AtomicU8::new(Verdict::NONE),
            state: AtomicU8::new(ConnectionState::Opening as u8),
            shut_down: AtomicBool::new(false),
            lent: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            saw_end: AtomicBool::new(false),
            watch_idle,
            last_byte: AtomicU64::new(0),
            tasks: Tasks::default(),
        }
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    /// Who the client is: by the proxy's word, once there is one, or else who is at the other end.
    pub(crate) fn peer(&self) -> &Address {
        #[cfg(feature = "proxy-protocol")]
        if let Some(source) = self.proxied().and_then(ProxyHeader::source) {
            return source;
        }
        &self.peer
    }

    /// The address that the client connected to: by the proxy's word, or as the system tells, if it still does.
    pub(crate) fn local(&self) -> Option<&Address> {
        #[cfg(feature = "proxy-protocol")]
        if let Some(destination) = self.proxied().and_then(ProxyHeader::destination) {
            return Some(destination);
        }
        self.socket_local()
    }

    /// Who is at the other end of the stream.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn socket_peer(&self) -> &Address {
        &self.peer
    }

    /// Where the other end of the stream has connected to, if the system still tells.
    pub(crate) fn socket_local(&self) -> Option<&Address> {
        self.rare().local.get_or_init(|| self.stream.local_address()).as_ref()
    }

    /// What a proxy has said, once that was read.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn proxied(&self) -> Option<&ProxyHeader> {
        self.rare.get()?.proxied.get().map(Box::as_ref)
    }

    /// From now on the client is who the header says.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn set_proxied(&self, header: ProxyHeader) {
        let _ = self.rare().proxied.set(Box::new(header)); // there is one header
    }

    pub(crate) fn state(&self) -> ConnectionState {
        const SERVING: u8 = ConnectionState::Serving as u8;
        const LINGERING: u8 = ConnectionState::Lingering as u8;
        match self.state.load(Ordering::Relaxed) {
            SERVING => ConnectionState::Serving,
            LINGERING => ConnectionState::Lingering,
            _ => ConnectionState::Opening,
        }
    }

    pub(crate) fn set_state(&self, state: ConnectionState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// The drain has begun; or the connection has ended, and a clone must not wait for a drain that it will not hear of.
    pub(crate) fn tell(&self) {
        self.stream.be_eager(); // first, so that who hears of it, and looks again, finds what has arrived
        self.draining.give();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// From now on no clone reads or writes.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.stream.wake();
    }

    /// The socket itself, for others than us. From then on it takes more than to close our descriptor.
    pub(crate) fn lend_tcp(&self) -> Option<&TcpStream> {
        self.lent.store(true, Ordering::Relaxed);
        self.stream.as_tcp()
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.lent.load(Ordering::Relaxed)
    }

    /// A read has found the peer's end.
    pub(crate) fn note_end(&self) {
        self.saw_end.store(true, Ordering::Relaxed);
    }

    pub(crate) fn saw_end(&self) -> bool {
        self.saw_end.load(Ordering::Relaxed)
    }

    /// Bytes went over the connection.
    pub(crate) fn note_bytes(&self) {
        if self.watch_idle {
            let now = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.last_byte.store(now, Ordering::Relaxed);
        }
    }

    /// When the last byte went either way; at first, when the connection was accepted.
    pub(crate) fn last_byte(&self) -> Instant {
        self.since + Duration::from_nanos(self.last_byte.load(Ordering::Relaxed))
    }

    /// Closes our direction, after what was written.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_close(cx).map(|result| self.note_closing(result))
    }

    /// Shuts the stream down, both ways.
    pub(crate) fn shut_down(&self) {
        if !self.shut_down.swap(true, Ordering::AcqRel) {
            self.note_closing(self.stream.shut_down());
        }
    }

    fn note_closing(&self, result: io::Result<()>) {
        if let Err(error) = result {
            say!(debug, connection = self.id.as_u64(), peer:% = self.peer(); "cannot shut the connection down: {error}");
        }
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::Acquire)
    }

    /// Ends the handler. The first verdict is the one that counts.
    pub(crate) fn condemn(&self, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Broken(message) => {
                let _ = self.rare().broken.set(message.into());
                Verdict::BROKEN
            }
            Verdict::Cancelled => Verdict::CANCELLED,
        };
        let _ = self.verdict.compare_exchange(Verdict::NONE, verdict, Ordering::AcqRel, Ordering::Relaxed);
        self.draining.rouse();
    }

    /// To be asked by the connection's own task, once it is resident.
    #[inline]
    pub(crate) fn is_condemned(&self) -> bool {
        self.verdict.load(Ordering::Acquire) != Verdict::NONE
    }

    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self.verdict.load(Ordering::Acquire) {
            Verdict::NONE => None,
            Verdict::BROKEN => {
                let message = self.rare.get().and_then(|rare| rare.broken.get());
                Some(Verdict::Broken(message.cloned().unwrap_or_default().into()))
            }
            _ => Some(Verdict::Cancelled),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} from {}", self.id, self.peer())
    }
}

/// The owner of a connection's tasks. One that panics while its handle is gone ends the connection.
pub(crate) struct TasksOf(pub(crate) Weak<Member>);

impl Owner for TasksOf {
    fn child_panicked(&self, message: &str) {
        if let Some(member) = self.0.upgrade() {
            member.condemn(Verdict::Broken(message.to_owned()));
        }
    }
}

impl fmt::Display for TasksOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.upgrade() {
            Some(member) => member.fmt(f),
            None => f.write_str("a connection that is closed"),
        }
    }
}
