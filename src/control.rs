//! One run's shared state: what the server, its handles and its connections know of each other.
//!
//! Who does what: handles, shutdown streams, the body and failures *request*; the supervisor (`server/supervise.rs`)
//! carries out; the last [`Token`] to go *closes*.
//!
//! Invariants:
//!
//! 1. The first request wins: its cause, its time and its deadline are never replaced.
//! 2. Everything of a run that must be gone before it counts as closed holds a token, and drops it last: each accept loop,
//!    each connection, each task, the supervisor; before serving, `Idle`. So whoever ends last closes the run, whichever
//!    way it ended, and there is no path on which `Closed` stays unresolved.
//! 3. No lock is held while user code runs, and none while anything is logged.

pub(crate) mod addresses;
pub(crate) mod failure;
pub(crate) mod handle;
pub(crate) mod inside;
pub(crate) mod member;
pub(crate) mod notice;
pub(crate) mod phase;
pub(crate) mod registry;
pub(crate) mod report;
mod tasks;

use crate::group::{Spawner, TaskGroup};
use crate::limit::Limit;
use crate::listener::Listener;
use crate::say::say;
use crate::sync::{Mutex, lock};
use addresses::Addresses;
use failure::Failure;
use notice::Notice;
use phase::Phase;
use registry::Registry;
use report::{Cause, Counters, Report};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The state that everybody shares.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) addresses: Addresses,
    pub(crate) registry: Registry,
    pub(crate) counters: Counters,
    pub(crate) limit: Arc<Limit>,
    /// Starts children of the server: connections, and what users spawn.
    pub(crate) spawner: Spawner,
    /// Somebody has asked for the end.
    pub(crate) requested: Notice,
    /// Somebody has asked again, gracefully. It skips the lame duck.
    pub(crate) again: Notice,
    /// Somebody has asked for it now, without grace.
    pub(crate) cancelled: Notice,
    /// The drain has begun. For handles; each connection has a notice of its own.
    pub(crate) draining: Notice,
    /// The run is closed, and the report is there.
    pub(crate) closed: Notice,
    /// The same, given after `closed`: by then everybody who waits in a body for `closed` has been woken, so that the one
    /// more poll that a body gets finds them ready.
    pub(crate) over: Notice,
    /// Serving has begun. With `listening`: whether a client can still get in.
    started: AtomicBool,
    /// How many listening sockets are open.
    listening: AtomicUsize,
    /// How many tokens there are.
    tokens: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    request: Option<Request>,
    /// How long an exit may last: lame duck and grace. Known from the start of serving on.
    allowance: Duration,
    /// The failure that stopped the server, until `serve` returns it.
    failure: Option<Failure>,
    report: Option<Report>,
    /// What a server that does not serve yet is made of.
    idle: Option<Idle>,
}

#[derive(Debug)]
struct Request {
    cause: Cause,
    at: Instant,
    /// When what is left of a drain is cancelled; `None`: never.
    deadline: Option<Instant>,
}

/// What a server owns until somebody serves it or closes it. Dropping it closes.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) listeners: Vec<OpenListener>,
    /// The children; before serving these can only be what users have spawned through the handle.
    pub(crate) children: TaskGroup,
    pub(crate) token: Token,
}

impl Control {
    /// A run that listens on nothing yet.
    pub(crate) fn new(first: Listener) -> Arc<Self> {
        let children = TaskGroup::new();
        let control = Arc::new(Self {
            addresses: Addresses::new(first.address().clone()),
            registry: Registry::default(),
            counters: Counters::default(),
            limit: Limit::new(),
            spawner: children.spawner(),
            requested: Notice::default(),
            again: Notice::default(),
            cancelled: Notice::default(),
            draining: Notice::default(),
            closed: Notice::default(),
            over: Notice::default(),
            started: AtomicBool::new(false),
            listening: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            state: Mutex::new(State {
                phase: Phase::Bound,
                request: None,
                allowance: Duration::ZERO,
                failure: None,
                report: None,
                idle: None,
            }),
        });
        let idle = Idle { listeners: vec![control.open(first)], children, token: control.token() };
        lock(&control.state).idle = Some(idle);
        control
    }

    /// One more listener for a server that does not serve yet. One that is closed already closes it.
    pub(crate) fn add_listener(self: &Arc<Self>, listener: Listener) {
        self.addresses.push(listener.address().clone());
        let open = self.open(listener);
        let refused = match &mut lock(&self.state).idle {
            Some(idle) => {
                idle.listeners.push(open);
                None
            }
            None => Some(open),
        };
        drop(refused);
    }

    fn open(self: &Arc<Self>, listener: Listener) -> OpenListener {
        self.listening.fetch_add(1, Ordering::AcqRel);
        OpenListener { socket: Some(listener), control: Arc::clone(self) }
    }

    /// See invariant 2.
    pub(crate) fn token(self: &Arc<Self>) -> Token {
        self.tokens.fetch_add(1, Ordering::AcqRel);
        Token(Arc::clone(self))
    }

    /// Begins to serve. `None`: the server was closed before.
    pub(crate) fn start(&self, grace: Duration, lame_duck: Duration) -> Option<Idle> {
        let mut state = lock(&self.state);
        let idle = state.idle.take()?;
        state.phase = Phase::Serving;
        state.allowance = grace.saturating_add(lame_duck);
        drop(state);
        self.started.store(true, Ordering::Release);
        Some(idle)
    }

    /// Asks for a graceful end.
    pub(crate) fn request(&self, cause: Cause) {
        self.ask(cause, None);
    }

    /// Asks for the end now.
    pub(crate) fn cancel(&self, cause: Cause) {
        let (_, idle) = self.enter_request(cause, None);
        self.cancelled.give();
        self.requested.give();
        drop(idle);
    }

    /// Asks for a graceful end because of a failure, which `serve` returns if it was the first cause. What fails later
    /// is logged.
    pub(crate) fn fail(&self, cause: Cause, failure: Failure) {
        self.ask(cause, Some(failure));
    }

    fn ask(&self, cause: Cause, failure: Option<Failure>) {
        let (first, idle) = self.enter_request(cause, failure);
        if !first {
            self.again.give();
        }
        self.requested.give();
        drop(idle); // a server that was never served is closed by this
    }

    fn enter_request(&self, cause: Cause, failure: Option<Failure>) -> (bool, Option<Idle>) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let first = state.request.is_none();
        if first {
            let deadline = now.checked_add(state.allowance);
            state.request = Some(Request { cause, at: now, deadline });
            state.failure = failure;
        }
        (first, state.idle.take())
    }

    /// Moves on to a later phase. Says whether it did.
    pub(crate) fn advance(&self, phase: Phase) -> bool {
        let mut state = lock(&self.state);
        let moves = state.phase.may_become(phase);
        if moves {
            state.phase = phase;
        }
        moves
    }

    pub(crate) fn phase(&self) -> Phase {
        lock(&self.state).phase
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.started.load(Ordering::Acquire) && self.listening.load(Ordering::Acquire) > 0
    }

    /// Whether a load balancer should send clients: they are accepted, and nothing stands against that.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_serving() && !self.requested.is_given() && !self.limit.is_paused()
    }

    /// When a drain ends, if one was asked for and it has an end.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        lock(&self.state).request.as_ref()?.deadline
    }

    /// Begins the drain: tells everybody. Comes after the last socket was closed, so nobody can come in untold.
    pub(crate) fn begin_drain(&self) {
        self.advance(Phase::Draining);
        for member in self.registry.all() {
            member.draining.give();
        }
        self.draining.give();
    }

    pub(crate) fn report(&self) -> Option<Report> {
        lock(&self.state).report.clone()
    }

    pub(crate) fn take_failure(&self) -> Option<Failure> {
        lock(&self.state).failure.take()
    }

    /// The last token is gone: nothing is left of the run.
    fn close(&self) {
        let mut state = lock(&self.state);
        if state.report.is_some() {
            return;
        }
        state.phase = Phase::Closed;
        let (cause, at) = match &state.request {
            Some(request) => (request.cause, request.at),
            None => (Cause::Dropped, Instant::now()), // not reached: every way out is a request
        };
        let report = Report::new(cause, self.counters.read(), self.counters.take_cut(), at.elapsed());
        state.report = Some(report.clone());
        drop(state);
        say!(info, phase:% = Phase::Closed, accepted = report.accepted(); "{report}");
        self.draining.give(); // a server that was cancelled has not drained; who waits for that waits no more
        self.closed.give();
        self.over.give();
    }
}

/// Something that must be gone before the run is closed. Dropped last by whatever holds it.
#[derive(Debug)]
pub(crate) struct Token(Arc<Control>);

impl Token {
    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.0
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.0.tokens.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.close();
        }
    }
}

/// A listening socket that the run counts until it is closed.
#[derive(Debug)]
pub(crate) struct OpenListener {
    /// `None` only while it is dropped.
    socket: Option<Listener>,
    control: Arc<Control>,
}

impl OpenListener {
    pub(crate) fn get(&self) -> &Listener {
        self.socket.as_ref().expect("a listener is there until its drop")
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        drop(self.socket.take()); // first the port refuses, then `is_serving` is false
        self.control.listening.fetch_sub(1, Ordering::AcqRel);
    }
}
