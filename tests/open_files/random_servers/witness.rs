//! What was seen while a case ran: events, handlers, clients, and violations that were found on the way.

use super::case::Case;
use super::environment::check_defaults;
use crate::support::dice::lock;
use crate::support::{Live, LiveGuard};
use async_std::channel::{Receiver, Sender, unbounded};
use ebbtide::{Connection, EndReason, EventKind, Phase, Server};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;

/// How a handler's future ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    /// It has not.
    Not,
    Ok,
    /// With an error of its own.
    Failed,
    /// With an error of its stream.
    StreamFailed,
    Panicked,
    /// It was dropped.
    Cut,
}

/// Copy of an event.
#[derive(Debug)]
pub enum Seen {
    Accepted(u64),
    Ended(u64, EndReason),
    Refused,
    Phase(Phase),
}

/// What is known of a handler.
#[derive(Debug)]
pub struct Handled {
    /// Which client it has, once it has read the request.
    pub client: Option<usize>,
    pub ended: Ended,
}

/// How a client's connection ended for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    NotConnected,
    Eof,
    /// A reset or another error.
    Error(std::io::ErrorKind),
    /// The client had what it wanted, or had enough, and left.
    Left,
}

/// What a client saw.
#[derive(Clone, Debug)]
pub struct Met {
    /// It was connected, handshake included, before the server was asked to stop.
    pub connected_in_time: bool,
    /// Its whole request was sent before the server was asked to stop.
    pub sent_in_time: bool,
    pub got: Vec<u8>,
    pub end: End,
}

pub struct Witness {
    /// Guards of handlers, tasks and bodies.
    pub live: Live,
    handlers: Live,
    /// The highest limit on connections so far.
    limit: AtomicUsize,
    /// A fault of a handler is a request to stop.
    pub fault_stops: bool,
    /// The server was asked to stop, or will be in a moment.
    stopping: AtomicBool,
    pub events: Mutex<Vec<Seen>>,
    pub handled: Mutex<BTreeMap<u64, Handled>>,
    pub violations: Mutex<Vec<String>>,
    /// Clones of connections that handlers gave away.
    pub escaped: Mutex<Vec<Connection>>,
    /// Held by detached tasks; all are gone when the receiver is closed.
    pub detached: Mutex<Option<Sender<()>>>,
    pub detached_ended: Receiver<()>,
    begun: Sender<()>,
    /// Gets a message from each handler that begins.
    pub has_begun: Receiver<()>,
    /// Closed when the server was left.
    pub left: (Mutex<Option<Sender<()>>>, Receiver<()>),
}

impl Witness {
    pub fn new(case: &Case) -> Arc<Self> {
        let (detached, detached_ended) = unbounded();
        let (begun, has_begun) = unbounded();
        let (leave, left) = unbounded();
        Arc::new(Self {
            live: Live::default(),
            handlers: Live::default(),
            limit: AtomicUsize::new(case.settings.max_connections),
            fault_stops: case.settings.stops_on_failure,
            stopping: AtomicBool::new(false),
            events: Mutex::default(),
            handled: Mutex::default(),
            violations: Mutex::default(),
            escaped: Mutex::default(),
            detached: Mutex::new(Some(detached)),
            detached_ended,
            begun,
            has_begun,
            left: (Mutex::new(Some(leave)), left),
        })
    }

    /// Keeps a copy of each event.
    pub fn watch(self: &Arc<Self>, server: Server) -> Server {
        let this = Arc::clone(self);
        server.on_event(move |event| {
            let id = || event.id().expect("an event of a connection has its id").as_u64();
            let seen = match event.kind() {
                EventKind::Accepted => Seen::Accepted(id()),
                EventKind::Ended => Seen::Ended(id(), event.reason().expect("an end has a reason")),
                EventKind::Refused => Seen::Refused,
                EventKind::Phase => Seen::Phase(event.phase().expect("an event of a phase has it")),
                other => panic!("an unknown kind of event: {other:?}"),
            };
            lock(&this.events).push(seen);
        })
    }

    pub fn violation(&self, text: String) {
        lock(&self.violations).push(text);
    }

    /// Called before each request to stop.
    pub fn stop(&self) {
        self.stopping.store(true, SeqCst);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Called before the limit on connections is changed.
    pub fn allow(&self, limit: usize) {
        self.limit.fetch_max(limit, SeqCst);
    }

    /// Notes that the server was left.
    pub fn leave(&self) {
        drop(lock(&self.left.0).take());
        drop(lock(&self.detached).take());
    }

    /// Notes that a handler begins. The probe is a part of the handler's future.
    pub fn begin(self: &Arc<Self>, conn: &Connection) -> Probe {
        let (id, guards) = (conn.id().as_u64(), [self.live.guard(), self.handlers.guard()]);
        let (alive, limit) = (self.handlers.count(), self.limit.load(SeqCst));
        if alive > limit {
            self.violation(format!("{alive} handlers run, the limit is {limit}"));
        }
        check_defaults(conn, self);
        let phase = conn.server().phase();
        if matches!(phase, Phase::Bound | Phase::Closed) {
            self.violation(format!("a handler begins while the server is {phase:?}"));
        }
        if lock(&self.handled).insert(id, Handled { client: None, ended: Ended::Not }).is_some() {
            self.violation(format!("the handler of connection {id} was called twice"));
        }
        let _ = self.begun.try_send(());
        Probe { id, ended: Ended::Cut, is_polled: false, witness: Arc::clone(self), _guards: guards }
    }

    /// Notes which client a connection has.
    pub fn serves(&self, conn: &Connection, client: usize) {
        if let Some(handled) = lock(&self.handled).get_mut(&conn.id().as_u64()) {
            handled.client = Some(client);
        }
    }
}

/// Notes how a handler's future ends.
pub struct Probe {
    id: u64,
    ended: Ended,
    /// A poll of the handler is running, or has panicked.
    is_polled: bool,
    witness: Arc<Witness>,
    _guards: [LiveGuard; 2],
}

impl Probe {
    /// Polls the handler. A panic passes, and is noted.
    pub fn poll<T>(&mut self, poll: impl FnOnce() -> Poll<T>, how: impl FnOnce(&T) -> Ended) -> Poll<T> {
        self.is_polled = true;
        let poll = poll();
        self.is_polled = false;
        if let Poll::Ready(result) = &poll {
            self.ended = how(result);
        }
        poll
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let ended = if self.is_polled { Ended::Panicked } else { self.ended };
        if let Some(handled) = lock(&self.witness.handled).get_mut(&self.id) {
            handled.ended = ended;
        }
    }
}
