//! One connection's record: all that the rest of the run knows of it, and the one place for its states.
//!
//! Shared by the clones of its [`Connection`](crate::Connection), its task (`connection/task.rs`) and the registry.
//! Each flag has one meaning and few writers:
//!
//! | flag | set by | means |
//! |---|---|---|
//! | `state` | the task alone | what the connection is doing: opening, serving, finishing, lingering. For lists and logs; decides nothing |
//! | `abort_reason` | anyone; a cancel counts more than a panic | the handler is to be dropped before its next poll, or the task is to look at `alone`; it is woken |
//! | `alone` | a drain of this connection alone | it has been notified, or will be, and until when it may last |
//! | `end` | the task, when the handler has ended | what clones may still do ([`EndState`]). Set before the socket is shut down; never goes back |
//! | `dialogue` | the handler's reads and writes; the drain; the end of the newcomer time, and of the handler | whether the drain is told later, and whether an answer is due ([`Dialogue`]) |
//! | `saw_eof` | a read that found EOF or a reset | nothing more comes from the peer, so closing needs no linger |
//! | `shut_down` | the first thread to do it | the socket is shut down both ways |
//! | `uses`: `LENT` | `Connection::tcp_stream` | the user may have duplicated the socket: closing our descriptor may not close it |
//! | `uses`: `UNDELIVERED` | the end of its task grace, and of its linger | something has not reached the peer. For the count, which has each connection once |
//! | `watch` | `new` | for which limits, and whether for counts, reads and writes are noted ([`Watch`]) |
//! | `uses`: `GAVE_EOF` | a read that gave EOF for a drain | an unexpected end is no fault of the handler's |
//! | `uses`: `FRAMED` | a reader of lines or frames; reset by its drop | it has read ahead, and no other may |
//! | `draining` | the drain; and the end of the connection, for clones that wait | an event, see [`Event`] |
//!
//! The order of a life: `state` opening → serving; then either the handler returns or `abort_reason` is set; then, if
//! it returned and left tasks, `end` returned and `state` finishing; then `end` ended, half-close, `state` lingering if
//! the peer still sends; then `shut_down`; then the record leaves the registry. `draining` may come at any time.

mod abort;

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
use crate::sync::broadcast::BroadcastWaker;
use crate::sync::event::Event;
use crate::sync::{Mutex, lock};
use crate::transport::Transport;
pub(crate) use abort::{AbortReason, DrainAlone};
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// See the module.
///
/// What is looked at with every message comes first, in as few cache lines as may be: with thousands of connections
/// nothing of one is in the cache any more when its next message comes.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ConnectionRecord {
    /// An [`EndState`].
    end: AtomicU8,
    saw_eof: AtomicBool,
    /// A [`ConnectionState`].
    state: AtomicU8,
    shut_down: AtomicBool,
    /// Bits, of [`Use`].
    uses: AtomicU8,
    watch: Watch,
    /// An [`AbortReason`], or `NONE`.
    abort_reason: AtomicU8,
    dialogue: Dialogue,
    pub(crate) transport: Transport,
    /// The drain has begun. Each connection has its own, so that waiting for it is no meeting place. Its primary task
    /// is the connection's own, which is woken for an abort too.
    pub(crate) draining: Event,
    pub(crate) id: ConnectionId,
    /// The peer of the socket.
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
    /// Where the client connected to. If each connection has its own, the system is asked once, on demand.
    local: OnceLock<Option<Address>>,
    /// The proxy's header, once that was read.
    #[cfg(feature = "proxy-protocol")]
    proxied: OnceLock<Box<ProxyHeader>>,
    /// When its opening ended, if there was something to wait for.
    opened_at: OnceLock<Instant>,
    /// The tasks whose reads end, in a drain, once what was read is answered.
    awaiting_answer: BroadcastWaker,
    /// The handler has returned. For those that wait for more than a read; made by the first.
    returned: OnceLock<Event>,
    /// Since when a write has waited, in nanoseconds since `since`; 0: none waits.
    write_waits: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// What it is doing, in its handler's words.
    label: Mutex<Option<Cow<'static, str>>>,
    /// The message of the task whose panic ends the connection.
    task_panic: OnceLock<Box<str>>,
    /// What kinds of errors its reads and writes have given, and how an end by one of them is counted.
    given: Mutex<Vec<(io::ErrorKind, EndReason)>>,
    /// It is drained, and not the whole server.
    alone: OnceLock<DrainAlone>,
}

/// What is noted of the reads and writes of a server's connections, beside what they need: bits, to fit into one byte
/// of each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch(u8);

impl Watch {
    /// There is an idle timeout, so `last_byte` is kept.
    pub(crate) const IDLE: u8 = 1;
    /// There is a write timeout, so `write_waits` is kept.
    pub(crate) const WRITES: u8 = 2;
    /// The bytes are counted.
    pub(crate) const BYTES: u8 = 4;

    pub(crate) fn set(&mut self, what: u8, is_set: bool) {
        self.0 = if is_set { self.0 | what } else { self.0 & !what };
    }

    #[inline]
    fn has(self, what: u8) -> bool {
        self.0 & what != 0
    }
}

/// What has been made of a connection, as bits: see the module.
struct Use;

impl Use {
    const LENT: u8 = 1;
    const FRAMED: u8 = 2;
    const UNDELIVERED: u8 = 4;
    const GAVE_EOF: u8 = 8;
}

/// What clones may still do, in one byte.
struct EndState;

impl EndState {
    /// The handler runs, or is to run.
    const OPEN: u8 = 0;
    /// It has returned, and left tasks: they may write.
    const RETURNED: u8 = 1;
    const ENDED: u8 = 2;
}

impl ConnectionRecord {
    pub(crate) fn new(id: ConnectionId, accepted: Accepted, watch: Watch) -> Self {
        let Accepted { transport, peer, local, protocols: _ } = accepted;
        let rare = local.map(|local| Box::new(Rare { local: OnceLock::from(Some(local)), ..Rare::default() }));
        Self {
            id,
            peer,
            since: Instant::now(),
            transport,
            rare: rare.map_or_else(OnceLock::new, OnceLock::from),
            draining: Event::default(),
            abort_reason: AtomicU8::new(AbortReason::NONE),
            dialogue: Dialogue::default(),
            state: AtomicU8::new(ConnectionState::Opening as u8),
            shut_down: AtomicBool::new(false),
            uses: AtomicU8::new(0),
            end: AtomicU8::new(EndState::OPEN),
            saw_eof: AtomicBool::new(false),
            watch,
            last_byte: AtomicU64::new(0),
            tasks: Tasks::default(),
        }
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    /// The client's address: the one in the proxy's header, once that was read, otherwise the socket's peer.
    pub(crate) fn peer(&self) -> &Address {
        #[cfg(feature = "proxy-protocol")]
        if let Some(source) = self.proxied().and_then(ProxyHeader::source) {
            return source;
        }
        &self.peer
    }

    /// The address that the client connected to: the one in the proxy's header, or the socket's, if the system still
    /// tells it.
    pub(crate) fn local(&self) -> Option<&Address> {
        #[cfg(feature = "proxy-protocol")]
        if let Some(destination) = self.proxied().and_then(ProxyHeader::destination) {
            return Some(destination);
        }
        self.socket_local()
    }

    /// The peer of the socket.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn socket_peer(&self) -> &Address {
        &self.peer
    }

    /// The address of our end of the socket, if the system still tells it.
    pub(crate) fn socket_local(&self) -> Option<&Address> {
        self.rare().local.get_or_init(|| self.transport.local_address()).as_ref()
    }

    /// The proxy's header, once that was read.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn proxied(&self) -> Option<&ProxyHeader> {
        self.rare.get()?.proxied.get().map(Box::as_ref)
    }

    /// From now on the client is the one that the header names.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn set_proxied(&self, header: ProxyHeader) {
        let _ = self.rare().proxied.set(Box::new(header)); // there is one header
    }

    pub(crate) fn set_label(&self, label: Cow<'static, str>) {
        let before = lock(&self.rare().label).replace(label);
        drop(before);
    }

    pub(crate) fn label(&self) -> Option<Cow<'static, str>> {
        lock(&self.rare.get()?.label).clone()
    }

    /// The label as it follows the connection's name in a text; nothing if there is none.
    pub(crate) fn shown_label(&self) -> String {
        self.label().map_or_else(String::new, |label| format!(" (`{}`)", Label(&label)))
    }

    /// For how long no byte has gone either way, as far as that is known.
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

    /// What came before the handler is over.
    pub(crate) fn note_opened(&self) {
        let _ = self.rare().opened_at.set(Instant::now()); // there is one opening
    }

    /// From when on the client could speak to the handler.
    pub(crate) fn opened_at(&self) -> Instant {
        self.rare.get().and_then(|rare| rare.opened_at.get()).copied().unwrap_or(self.since)
    }

    /// The drain has begun: a connection of which the handler has read no byte is notified later. Returns whether it is
    /// one. The drain looks at `state` after that, and the task, which sets `state`, looks after that whether it is
    /// spared: so that one of the two finds the other's change.
    pub(crate) fn spare(&self) -> bool {
        self.dialogue.spare()
    }

    pub(crate) fn is_spared(&self) -> bool {
        self.dialogue.is_spared()
    }

    /// Its newcomer time is over, or its handler has ended. Notifies it of a drain that has begun meanwhile.
    pub(crate) fn end_newcomer_time(&self) {
        // If its handler has read, it has been notified, and an answer may be due: that stays so.
        if self.dialogue.end_newcomer_time() {
            self.notify_of_drain();
        }
    }

    /// Ready if no byte was read since the last write. Else the handler may be in the middle of a message; then the
    /// task is woken by the next write. To be asked in a drain only.
    pub(crate) fn poll_answered(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.dialogue.is_answer_due() {
            self.rare().awaiting_answer.add(cx.waker());
            if self.dialogue.is_answer_due() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// The drain has begun; or the connection has ended, and clones must not wait for a drain any more.
    pub(crate) fn notify_of_drain(&self) {
        self.transport.be_eager(); // first, so that a task which is notified, and looks again, finds what has arrived
        self.draining.signal();
    }

    /// No clone reads or writes any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.load(Ordering::Acquire) == EndState::ENDED
    }

    /// No clone reads any more; a task may still write.
    pub(crate) fn has_returned(&self) -> bool {
        self.end.load(Ordering::Acquire) != EndState::OPEN
    }

    /// The handler has returned, and its tasks may finish what they write. From now on reads find EOF.
    pub(crate) fn end_reads(&self) {
        self.end.store(EndState::RETURNED, Ordering::SeqCst);
        self.signal_returned();
        self.transport.wake_readers();
        self.notify_of_drain(); // what waits for it has no reason to any more
    }

    /// From now on no clone reads or writes, or waits for anything. Those that do are woken: if there are clones, which
    /// the caller may know not to be.
    pub(crate) fn end(&self, has_clones: bool) {
        self.end.store(EndState::ENDED, Ordering::SeqCst);
        self.signal_returned();
        if has_clones {
            self.transport.wake();
            self.notify_of_drain();
        }
    }

    fn signal_returned(&self) {
        fence(Ordering::SeqCst); // with `returned`: one of the two sees the other
        if let Some(returned) = self.rare.get().and_then(|rare| rare.returned.get()) {
            returned.signal();
        }
    }

    /// Waits until the handler has returned.
    pub(crate) async fn returned(&self) {
        let returned = self.rare().returned.get_or_init(Event::default);
        fence(Ordering::SeqCst);
        if !self.has_returned() {
            returned.wait().await;
        }
    }

    /// The socket itself, for the user.
    pub(crate) fn lend_tcp(&self) -> Option<&TcpStream> {
        self.uses.fetch_or(Use::LENT, Ordering::Relaxed);
        self.transport.as_tcp()
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.uses.load(Ordering::Relaxed) & Use::LENT != 0
    }

    /// Claims the reading for a reader that reads ahead. False: another has it.
    pub(crate) fn claim_framing(&self) -> bool {
        self.uses.fetch_or(Use::FRAMED, Ordering::AcqRel) & Use::FRAMED == 0
    }

    /// Something that was written, or was still to be, has not reached the peer. Returns whether that is new.
    pub(crate) fn note_undelivered(&self) -> bool {
        self.uses.fetch_or(Use::UNDELIVERED, Ordering::AcqRel) & Use::UNDELIVERED == 0
    }

    pub(crate) fn release_framing(&self) {
        self.uses.fetch_and(!Use::FRAMED, Ordering::AcqRel);
    }

    /// A read has found EOF, or a reset.
    pub(crate) fn note_eof(&self) {
        self.saw_eof.store(true, Ordering::Relaxed);
    }

    pub(crate) fn saw_eof(&self) -> bool {
        self.saw_eof.load(Ordering::Relaxed)
    }

    /// A read gives EOF because of a drain.
    pub(crate) fn note_given_eof(&self) {
        self.uses.fetch_or(Use::GAVE_EOF, Ordering::Relaxed);
    }

    /// A read or a write gives an error of this kind: so that it is known again in what the handler returns.
    #[cold]
    pub(crate) fn note_given(&self, kind: io::ErrorKind, reason: EndReason) {
        let mut given = lock(&self.rare().given);
        if !given.iter().any(|(known, _)| *known == kind) {
            given.push((kind, reason));
        }
    }

    /// Whether its stream has given an error of this kind, and how an end by it is counted.
    pub(crate) fn given(&self, kind: io::ErrorKind) -> Option<EndReason> {
        // What reads a whole message makes this of an end of input.
        let ended = self.saw_eof() || self.uses.load(Ordering::Relaxed) & Use::GAVE_EOF != 0;
        if kind == io::ErrorKind::UnexpectedEof && ended {
            return Some(EndReason::Disconnected);
        }
        let given = lock(&self.rare.get()?.given);
        given.iter().find(|(known, _)| *known == kind).map(|(_, reason)| *reason)
    }

    /// The handler has read bytes.
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

    /// The handler has written bytes.
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

    /// A write has to wait.
    pub(crate) fn note_write_waits(&self) {
        if self.watch.has(Watch::WRITES) {
            let now = self.elapsed().max(1);
            let _ = self.rare().write_waits.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// No write waits.
    #[inline]
    pub(crate) fn note_write_done(&self) {
        if self.watch.has(Watch::WRITES) {
            self.rare().write_waits.store(0, Ordering::Relaxed);
        }
    }

    /// Since when a write has waited, if one does.
    pub(crate) fn write_waits_since(&self) -> Option<Instant> {
        match self.rare.get()?.write_waits.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(self.since + Duration::from_nanos(nanos)),
        }
    }

    /// In nanoseconds since it was accepted.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Bytes went over the connection.
    pub(crate) fn note_bytes(&self) {
        if self.watch.has(Watch::IDLE) {
            self.last_byte.store(self.elapsed(), Ordering::Relaxed);
        }
    }

    /// How many the handler has read, and written, if that is counted.
    pub(crate) fn bytes(&self) -> Option<(u64, u64)> {
        if !self.watch.has(Watch::BYTES) {
            return None;
        }
        let read = |rare: &Rare| (rare.bytes_read.load(Ordering::Relaxed), rare.bytes_written.load(Ordering::Relaxed));
        Some(self.rare.get().map_or((0, 0), |rare| read(rare)))
    }

    /// When the last byte went either way; at first, when the connection was accepted.
    pub(crate) fn last_byte(&self) -> Instant {
        self.since + Duration::from_nanos(self.last_byte.load(Ordering::Relaxed))
    }

    /// Closes our direction, after what was written.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.transport.poll_close(cx).map(|result| self.note_closing(result))
    }

    /// Shuts the stream down, both ways.
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

/// A connection as log lines name it.
pub(crate) struct Named<'a>(pub(crate) &'a ConnectionRecord);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} from `{}`{}", self.0.id, self.0.peer(), self.0.shown_label())
    }
}

/// A label as it is shown: it may have a stranger's text in it.
pub(super) struct Label<'a>(pub(super) &'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// In characters.
        const LONGEST: usize = 100;

        let mut rest = self.0.chars();
        for shown in rest.by_ref().take(LONGEST) {
            write!(f, "{}", shown.escape_debug())?;
        }
        if rest.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}
