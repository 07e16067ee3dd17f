//! [`ConnectionRecord`]: the shared state of one connection, and the meaning of each of its flags.
//!
//! The clones of its [`Connection`](crate::Connection), its task (`connection/task.rs`) and the registry share it. Each
//! flag has one meaning and few writers:
//!
//! | flag | written by | means |
//! |---|---|---|
//! | `state` | the connection's task alone | what the connection is doing: opening, serving, finishing, lingering. For lists and logs; the drain only looks whether it is opening |
//! | `abort_reason` | any thread; a cancel overrides a panic | the task must drop the handler before the handler's next poll, or (`LOOK`) must look at `alone`. The writer wakes the task |
//! | `alone` | a drain of this connection alone, by id or by age | the handler was notified or will be, and has until this deadline |
//! | `end` | the task, when the handler has ended | what clones may still do ([`EndState`]). Set before the socket is shut down; never goes back |
//! | `dialogue` | the handler's reads and writes; the drain; the end of the newcomer time, and of the handler | whether the handler is notified of the drain later, and whether an answer is due ([`Dialogue`]) |
//! | `saw_eof` | a read that found EOF or a reset | the peer sends nothing more, so closing needs no linger |
//! | `shut_down` | the first thread that shuts the socket down | the socket is shut down both ways |
//! | `uses`: `LENT` | `Connection::tcp_stream` | the user may have duplicated the socket: closing our descriptor may not close the connection |
//! | `uses`: `UNDELIVERED` | the end of its task grace, and of its linger | something has not reached the peer. The counter counts each connection once |
//! | `uses`: `GAVE_EOF` | a read that returned EOF because of a drain | an `UnexpectedEof` is then not the handler's fault |
//! | `uses`: `FRAMED` | a reader of lines or frames; cleared by its drop | this reader has read ahead, so there must be no second one |
//! | `watch` | `new` | for which timeouts, and whether for byte counts, reads and writes are noted ([`Watch`]) |
//! | `draining` | the drain; and the end of the connection, for clones that wait | an event, see [`Event`] |
//!
//! The order of a life:
//!
//! 1. `state` opening, then serving.
//! 2. The handler returns, or `abort_reason` is set.
//! 3. If the handler returned and left tasks: `end` returned, `state` finishing.
//! 4. `end` ended; half-close; `state` lingering if the peer still sends.
//! 5. `shut_down`.
//! 6. The record leaves the registry.
//!
//! `draining` may be signalled at any time.

mod abort;
#[cfg(all(test, not(ebbtide_loom)))]
mod tests;

use super::dialogue::Dialogue;
use super::end_reason::EndReason;
use super::registry::ConnectionId;
use super::state::ConnectionState;
use super::tasks::Tasks;
use crate::address::Address;
use crate::group::ChildName;
use crate::listener::Accepted;
use crate::panic::log_line;
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyHeader;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use crate::sync::broadcast::BroadcastWaker;
use crate::sync::event::Event;
use crate::sync::time;
use crate::sync::{Mutex, lock};
use crate::transport::Transport;
pub(crate) use abort::{AbortReason, DrainAlone};
use once_cell::race::OnceBox;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Shared state of one connection. See the module.
///
/// The fields that each message touches are first, in as few cache lines as possible: with thousands of connections
/// nothing of a connection is in the cache when its next message arrives.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ConnectionRecord {
    /// An [`EndState`].
    end: AtomicU8,
    saw_eof: AtomicBool,
    /// A [`ConnectionState`].
    state: AtomicU8,
    shut_down: AtomicBool,
    /// Bits of [`Use`].
    uses: AtomicU8,
    watch: Watch,
    /// An [`AbortReason`], `NONE` or `LOOK`.
    abort_reason: AtomicU8,
    dialogue: Dialogue,
    pub(crate) transport: Transport,
    /// Signalled when the drain has begun. Each connection has an event of its own, so that waits of different
    /// connections do not contend for a lock. Its primary task is the connection's own task, which an abort wakes too.
    pub(crate) draining: Event,
    pub(crate) id: ConnectionId,
    /// The peer of the socket; behind a proxy that is the proxy.
    peer: Address,
    /// When the connection was accepted.
    pub(crate) since: Instant,
    pub(crate) tasks: Tasks,
    /// Made on first use.
    rare: OnceBox<Rare>,
}

/// State that most connections never need, so that they pay one word for it.
#[derive(Debug, Default)]
struct Rare {
    /// The address that the client connected to. Given at the accept if it is the same for all clients of a listener;
    /// otherwise the system is asked once, on demand.
    local: OnceLock<Option<Address>>,
    /// The PROXY header, once it was read.
    #[cfg(feature = "proxy-protocol")]
    proxied: OnceLock<Box<ProxyHeader>>,
    /// When the opening ended, if the connection had one.
    opened_at: OnceLock<Instant>,
    /// Tasks with reads that return EOF in a drain as soon as the handler has answered what it read.
    awaiting_answer: BroadcastWaker,
    /// Signalled when the handler has returned. For waits that outlast a read; made by the first of them.
    returned: OnceLock<Event>,
    /// When the last byte passed either way, in nanoseconds after `since`. Kept with [`Watch::IDLE`] only.
    last_byte: AtomicU64,
    /// Since when a write waits, in nanoseconds after `since`; 0: none waits. Kept with [`Watch::WRITES`] only.
    write_waits: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// What the connection is doing, in the handler's words.
    label: Mutex<Option<Cow<'static, str>>>,
    /// Message of the first task whose panic ends the connection.
    task_panic: OnceLock<Box<str>>,
    /// Kinds of the errors that reads and writes have returned, and the end reason of a handler that returns one.
    given: Mutex<Vec<(io::ErrorKind, EndReason)>>,
    /// An error that a wait has found, and that the next read returns.
    unread_error: Mutex<Option<io::Error>>,
    /// The drain of this connection alone.
    alone: OnceLock<DrainAlone>,
}

/// What the reads and writes of a server's connections note for timeouts and counts. Bits, so that a connection needs
/// one byte for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch(u8);

impl Watch {
    /// The server has an idle timeout, so `last_byte` is kept.
    pub(crate) const IDLE: u8 = 1;
    /// The server has a write timeout, so `write_waits` is kept.
    pub(crate) const WRITES: u8 = 2;
    /// Bytes are counted.
    pub(crate) const BYTES: u8 = 4;

    pub(crate) fn set(&mut self, what: u8, is_set: bool) {
        self.0 = if is_set { self.0 | what } else { self.0 & !what };
    }

    #[inline]
    fn has(self, what: u8) -> bool {
        self.0 & what != 0
    }
}

/// Bits of `uses`: see the module.
struct Use;

impl Use {
    const LENT: u8 = 1;
    const FRAMED: u8 = 2;
    const UNDELIVERED: u8 = 4;
    const GAVE_EOF: u8 = 8;
}

/// Values of `end`: what clones may still do.
struct EndState;

impl EndState {
    /// The handler runs, or will run.
    const OPEN: u8 = 0;
    /// The handler has returned and left tasks, which may still write.
    const RETURNED: u8 = 1;
    /// Nothing may read or write.
    const ENDED: u8 = 2;
}

impl ConnectionRecord {
    pub(crate) fn new(id: ConnectionId, accepted: Accepted, watch: Watch) -> Self {
        let Accepted { transport, peer, local, protocols: _ } = accepted;
        let rare = local.map(|local| Box::new(Rare { local: OnceLock::from(Some(local)), ..Rare::default() }));
        Self {
            id,
            peer,
            since: time::now(),
            transport,
            rare: rare.map_or_else(OnceBox::new, OnceBox::with_value),
            draining: Event::default(),
            abort_reason: AtomicU8::new(AbortReason::NONE),
            dialogue: Dialogue::default(),
            state: AtomicU8::new(ConnectionState::Opening as u8),
            shut_down: AtomicBool::new(false),
            uses: AtomicU8::new(0),
            end: AtomicU8::new(EndState::OPEN),
            saw_eof: AtomicBool::new(false),
            watch,
            tasks: Tasks::default(),
        }
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    /// Returns the client's address: the one in the PROXY header if there is a header, otherwise the socket's peer.
    pub(crate) fn peer(&self) -> &Address {
        #[cfg(feature = "proxy-protocol")]
        if let Some(source) = self.proxied().and_then(ProxyHeader::source) {
            return source;
        }
        &self.peer
    }

    /// Returns the address that the client connected to: the one in the PROXY header if there is a header, otherwise
    /// the socket's, if the system still reports it.
    pub(crate) fn local(&self) -> Option<&Address> {
        #[cfg(feature = "proxy-protocol")]
        if let Some(destination) = self.proxied().and_then(ProxyHeader::destination) {
            return Some(destination);
        }
        self.socket_local()
    }

    /// Returns the peer of the socket.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn socket_peer(&self) -> &Address {
        &self.peer
    }

    /// Returns the address of our end of the socket, if the system still reports it.
    pub(crate) fn socket_local(&self) -> Option<&Address> {
        self.rare().local.get_or_init(|| self.transport.local_address()).as_ref()
    }

    /// Returns the PROXY header, if one was read.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn proxied(&self) -> Option<&ProxyHeader> {
        self.rare.get()?.proxied.get().map(Box::as_ref)
    }

    /// Sets the PROXY header. From now on its source is the client's address.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn set_proxied(&self, header: ProxyHeader) {
        let _ = self.rare().proxied.set(Box::new(header)); // a connection has at most one header
    }

    pub(crate) fn set_label(&self, label: Cow<'static, str>) {
        let before = lock(&self.rare().label).replace(label);
        drop(before);
    }

    pub(crate) fn label(&self) -> Option<Cow<'static, str>> {
        lock(&self.rare.get()?.label).clone()
    }

    /// Returns the label as it follows the connection's name in a text. Empty if there is no label.
    pub(crate) fn shown_label(&self) -> String {
        self.label().map_or_else(String::new, |label| format!(" (`{}`)", Label(&label)))
    }

    /// Returns for how long no byte has passed either way, if that is known.
    pub(crate) fn silence(&self) -> Option<Duration> {
        match self.watch.has(Watch::IDLE) {
            true => Some(self.last_byte().elapsed()),
            false => self.transport.silence(),
        }
    }

    pub(crate) fn state(&self) -> ConnectionState {
        ConnectionState::of(self.state.load(Ordering::SeqCst))
    }

    pub(crate) fn set_state(&self, state: ConnectionState) {
        self.state.store(state as u8, Ordering::SeqCst);
    }

    /// Notes that the opening has ended: PROXY header, handshake, first byte.
    pub(crate) fn note_opened(&self) {
        let _ = self.rare().opened_at.set(time::now()); // a connection has one opening
    }

    /// Returns when the client could first send to the handler: the end of the opening, or the accept.
    pub(crate) fn opened_at(&self) -> Instant {
        self.rare.get().and_then(|rare| rare.opened_at.get()).copied().unwrap_or(self.since)
    }

    /// Spares the connection when the drain begins: if its handler has read no byte, it is notified later. Returns
    /// whether it is spared.
    ///
    /// The drain spares first and then looks at `state`. The task sets `state` first and then looks whether it is
    /// spared. So at least one of the two sees the other's change.
    pub(crate) fn spare(&self) -> bool {
        self.dialogue.spare()
    }

    pub(crate) fn is_spared(&self) -> bool {
        self.dialogue.is_spared()
    }

    /// Ends the newcomer time: it is over, or the handler has ended. Notifies the handler if the drain spared it.
    pub(crate) fn end_newcomer_time(&self) {
        // A handler that has read was notified by its read, and an answer may be due: neither changes here.
        if self.dialogue.end_newcomer_time() {
            self.notify_of_drain();
        }
    }

    /// Ready if no byte was read since the last write. Otherwise the handler may be in the middle of a message, and the
    /// next write wakes the task. Call it in a drain only: outside of one a write wakes no task.
    pub(crate) fn poll_answered(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.dialogue.is_answer_due() {
            self.rare().awaiting_answer.add(cx.waker());
            if self.dialogue.is_answer_due() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Signals `draining`: the drain has begun; or the connection has ended, and clones must stop waiting for a drain.
    pub(crate) fn notify_of_drain(&self) {
        self.transport.be_eager(); // first: a task that is notified reads again, and must find what has arrived
        self.draining.signal();
    }

    /// Returns whether the connection has ended: no clone may read or write.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.load(Ordering::Acquire) == EndState::ENDED
    }

    /// Returns whether the handler has returned: no clone may read, but a task may still write.
    pub(crate) fn has_returned(&self) -> bool {
        self.end.load(Ordering::Acquire) != EndState::OPEN
    }

    /// Ends all reads: from now on they return EOF. The handler has returned, and its tasks may finish what they write.
    pub(crate) fn end_reads(&self) {
        self.end.store(EndState::RETURNED, Ordering::SeqCst);
        self.signal_returned();
        self.transport.wake_readers();
        self.notify_of_drain(); // a wait for the drain has no purpose after the handler
    }

    /// Ends the connection for its clones: from now on none reads, writes or waits. Wakes those that do.
    ///
    /// `has_clones`: false if the caller knows that there is no clone, so that there is nothing to wake.
    pub(crate) fn end(&self, has_clones: bool) {
        self.end.store(EndState::ENDED, Ordering::SeqCst);
        self.signal_returned();
        if has_clones {
            self.transport.wake();
            self.notify_of_drain();
        }
    }

    fn signal_returned(&self) {
        fence(Ordering::SeqCst); // pairs with `returned`: either its event is seen here, or it sees `end`
        if let Some(returned) = self.rare.get().and_then(|rare| rare.returned.get()) {
            returned.signal();
        }
    }

    /// Waits until the handler has returned.
    pub(crate) async fn returned(&self) {
        let returned = self.rare().returned.get_or_init(Event::default);
        fence(Ordering::SeqCst); // pairs with `signal_returned`
        if !self.has_returned() {
            returned.wait().await;
        }
    }

    /// Lends the socket to the user.
    pub(crate) fn lend_tcp(&self) -> Option<&TcpStream> {
        self.uses.fetch_or(Use::LENT, Ordering::Relaxed);
        self.transport.as_tcp()
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.uses.load(Ordering::Relaxed) & Use::LENT != 0
    }

    /// Claims the connection for a reader that reads ahead. Returns false if another reader has it.
    pub(crate) fn claim_framing(&self) -> bool {
        self.uses.fetch_or(Use::FRAMED, Ordering::AcqRel) & Use::FRAMED == 0
    }

    /// Notes that bytes, written or still to be written, have not reached the peer. Returns whether that is new.
    pub(crate) fn note_undelivered(&self) -> bool {
        self.uses.fetch_or(Use::UNDELIVERED, Ordering::AcqRel) & Use::UNDELIVERED == 0
    }

    pub(crate) fn release_framing(&self) {
        self.uses.fetch_and(!Use::FRAMED, Ordering::AcqRel);
    }

    /// Notes that a read has found EOF or a reset.
    pub(crate) fn note_eof(&self) {
        self.saw_eof.store(true, Ordering::Relaxed);
    }

    pub(crate) fn saw_eof(&self) -> bool {
        self.saw_eof.load(Ordering::Relaxed)
    }

    /// Notes that a read returns EOF because of a drain.
    pub(crate) fn note_given_eof(&self) {
        self.uses.fetch_or(Use::GAVE_EOF, Ordering::Relaxed);
    }

    /// Notes that a read or a write returns an error of this kind, so that it is recognised if the handler returns it.
    #[cold]
    pub(crate) fn note_given(&self, kind: io::ErrorKind, reason: EndReason) {
        let mut given = lock(&self.rare().given);
        if !given.iter().any(|(known, _)| *known == kind) {
            given.push((kind, reason));
        }
    }

    /// Keeps an error that a wait for bytes, not a read, has found. A system reports an error of a socket once, and EOF
    /// from then on. So the handler would take a reset for an orderly end.
    #[cold]
    pub(crate) fn keep_error(&self, error: io::Error) {
        *lock(&self.rare().unread_error) = Some(error);
    }

    /// Returns the error that was kept, once. To be called by a read that has found EOF.
    pub(crate) fn take_kept_error(&self) -> Option<io::Error> {
        lock(&self.rare.get()?.unread_error).take()
    }

    /// Returns the end reason of a handler that returns an error of this kind, if its own stream gave it one.
    pub(crate) fn given(&self, kind: io::ErrorKind) -> Option<EndReason> {
        // `read_exact` and similar methods turn EOF into this.
        let ended = self.saw_eof() || self.uses.load(Ordering::Relaxed) & Use::GAVE_EOF != 0;
        if kind == io::ErrorKind::UnexpectedEof && ended {
            return Some(EndReason::Disconnected);
        }
        let given = lock(&self.rare.get()?.given);
        given.iter().find(|(known, _)| *known == kind).map(|(_, reason)| *reason)
    }

    /// Notes that the handler has read bytes.
    #[inline]
    pub(crate) fn note_read(&self, bytes: usize) {
        if self.dialogue.ask() {
            self.notify_of_drain();
        }
        if self.watch.has(Watch::BYTES) {
            self.rare().bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        self.note_bytes();
    }

    /// Notes that the handler, or a task, has written bytes.
    #[inline]
    pub(crate) fn note_written(&self, bytes: usize) {
        if self.watch.has(Watch::BYTES) {
            self.rare().bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        if self.dialogue.answer() && self.draining.is_signalled() {
            if let Some(rare) = self.rare.get() {
                rare.awaiting_answer.wake_all();
            }
        }
        self.note_write_done();
        self.note_bytes();
    }

    /// Notes that a write has to wait.
    pub(crate) fn note_write_waits(&self) {
        if self.watch.has(Watch::WRITES) {
            let now = self.elapsed().max(1);
            let _ = self.rare().write_waits.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Notes that no write waits.
    #[inline]
    pub(crate) fn note_write_done(&self) {
        if self.watch.has(Watch::WRITES) {
            self.rare().write_waits.store(0, Ordering::Relaxed);
        }
    }

    /// Returns since when a write has waited, if one waits.
    pub(crate) fn write_waits_since(&self) -> Option<Instant> {
        match self.rare.get()?.write_waits.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(self.since + Duration::from_nanos(nanos)),
        }
    }

    /// Returns the nanoseconds since the accept.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes that bytes have passed, for the idle timeout.
    pub(crate) fn note_bytes(&self) {
        if self.watch.has(Watch::IDLE) {
            self.rare().last_byte.store(self.elapsed(), Ordering::Relaxed);
        }
    }

    /// Returns how many bytes were read and written, if they are counted.
    pub(crate) fn bytes(&self) -> Option<(u64, u64)> {
        if !self.watch.has(Watch::BYTES) {
            return None;
        }
        let read = |rare: &Rare| (rare.bytes_read.load(Ordering::Relaxed), rare.bytes_written.load(Ordering::Relaxed));
        Some(self.rare.get().map_or((0, 0), read))
    }

    /// Returns when the last byte passed either way, or when the connection was accepted if none has.
    pub(crate) fn last_byte(&self) -> Instant {
        let after = self.rare.get().map_or(0, |rare| rare.last_byte.load(Ordering::Relaxed));
        self.since + Duration::from_nanos(after)
    }

    /// Half-closes: the peer reads EOF after what was written.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.transport.poll_close(cx).map(|result| self.note_closing(result))
    }

    /// Shuts the socket down both ways, once.
    pub(crate) fn shut_down(&self) {
        if !self.shut_down.swap(true, Ordering::AcqRel) {
            self.note_closing(self.transport.shut_down());
        }
    }

    fn note_closing(&self, result: io::Result<()>) {
        if let Err(error) = result {
            let (id, peer) = (self.id.as_u64(), self.peer());
            log_line!(debug, connection = id, peer:% = peer; "cannot shut the connection down: {error}");
        }
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::Acquire)
    }
}

impl fmt::Display for ConnectionRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} from {}{}", self.id, self.peer(), self.shown_label())
    }
}

impl ChildName for ConnectionRecord {}

/// Shows a connection as log lines name it.
pub(crate) struct Named<'a>(pub(crate) &'a ConnectionRecord);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} from `{}`{}", self.0.id, self.0.peer(), self.0.shown_label())
    }
}

/// Shows a label: escaped and shortened, since it may contain untrusted text.
pub(crate) struct Label<'a>(pub(crate) &'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How many characters are shown.
        const LONGEST: usize = 100;

        let mut rest = self.0.chars();
        for shown in rest.by_ref().take(LONGEST) {
            write!(f, "{}", shown.escape_debug())?;
        }
        if rest.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}
