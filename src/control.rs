//! One run's shared state: what the server, its handles and its connections know of each other.
//!
//! Who does what: handles, shutdown streams, the body and failures *request*; the supervisor (`server/supervise.rs`)
//! carries out; the last [`Token`] to go *closes*.
//!
//! Invariants:
//!
//! 1. The first request wins: its cause and its time are never replaced, and its deadline only by a cancel.
//! 2. Everything of a run that must be gone before it counts as closed holds a token, and drops it last: each accept loop,
//!    each connection, each task, the supervisor; before serving, `Idle`. So whoever ends last closes the run, whichever
//!    way it ended, and there is no path on which `Closed` stays unresolved.
//! 3. No lock is held while user code runs, and none while anything is logged.

pub(crate) mod addresses;
pub(crate) mod connection_id;
pub(crate) mod failure;
pub(crate) mod handle;
pub(crate) mod inside;
pub(crate) mod member;
pub(crate) mod notice;
pub(crate) mod phase;
pub(crate) mod registry;
pub(crate) mod report;
mod tasks;
pub(crate) mod token;

use crate::group::{Owner, Spawner, TaskGroup};
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
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use token::{OpenListener, Token, Unserved};

/// The state that everybody shares.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) addresses: Addresses,
    pub(crate) registry: Registry,
    pub(crate) counters: Counters,
    pub(crate) limit: Arc<Limit>,
    /// Starts connections.
    pub(crate) connections: Spawner,
    /// Starts tasks of the server, which users spawn.
    pub(crate) tasks: Spawner,
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
    /// The listening sockets, until somebody serves or closes the server.
    unserved: Mutex<Vec<OpenListener>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    request: Option<Request>,
    /// How long an exit may last: lame duck and grace; `None`: no limit. Known from the start of serving on.
    allowance: Option<Duration>,
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

/// What a server owns until somebody serves it or closes it.
#[derive(Debug)]
pub(crate) struct Idle {
    /// Dropped first: the tasks have tokens of their own, so whoever joins them, this thread or another, finds the run closed.
    pub(crate) token: Token,
    pub(crate) connections: TaskGroup,
    /// Users may spawn tasks before the server serves.
    pub(crate) tasks: TaskGroup,
}

impl Control {
    /// A run that listens on nothing yet.
    pub(crate) fn new(first: Listener) -> Arc<Self> {
        let (connections, tasks) = (TaskGroup::new(), TaskGroup::owned_by(Box::new(TasksOfServer)));
        let control = Arc::new(Self {
            addresses: Addresses::new(first.local_addr().clone()),
            registry: Registry::default(),
            counters: Counters::default(),
            limit: Limit::new(),
            connections: connections.spawner(),
            tasks: tasks.spawner(),
            requested: Notice::default(),
            again: Notice::default(),
            cancelled: Notice::default(),
            draining: Notice::default(),
            closed: Notice::default(),
            over: Notice::default(),
            started: AtomicBool::new(false),
            listening: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            unserved: Mutex::new(Vec::new()),
            state: Mutex::new(State {
                phase: Phase::Bound,
                request: None,
                allowance: Some(Duration::ZERO),
                failure: None,
                report: None,
                idle: None,
            }),
        });
        let idle = Idle { token: control.token(), connections, tasks };
        lock(&control.state).idle = Some(idle);
        let first = control.open(first);
        lock(&control.unserved).push(first);
        control
    }

    /// One more listener for a server that does not serve yet. One that is closed already closes it.
    pub(crate) fn add_listener(self: &Arc<Self>, listener: Listener) {
        self.addresses.push(listener.local_addr().clone());
        let open = self.open(listener);
        let state = lock(&self.state);
        if state.idle.is_some() {
            lock(&self.unserved).push(open);
        }
    }

    fn open(self: &Arc<Self>, listener: Listener) -> OpenListener {
        self.listening.fetch_add(1, Ordering::AcqRel);
        OpenListener::new(listener, Arc::clone(self))
    }

    /// See invariant 2.
    pub(crate) fn token(self: &Arc<Self>) -> Token {
        self.tokens.fetch_add(1, Ordering::AcqRel);
        Token::new(Arc::clone(self))
    }

    /// Begins to serve. `None`: the server was closed before.
    pub(crate) fn start(&self, grace: Option<Duration>, lame_duck: Duration) -> Option<(Idle, Vec<OpenListener>)> {
        let mut state = lock(&self.state);
        let idle = state.idle.take()?;
        state.phase = Phase::Serving;
        state.allowance = grace.map(|grace| grace.saturating_add(lame_duck));
        let allowance = state.allowance;
        if let Some(request) = &mut state.request {
            request.deadline = allowance.and_then(|allowance| request.at.checked_add(allowance)); // it came at this very moment, and did not know
        }
        drop(state);
        self.started.store(true, Ordering::Release);
        Some((idle, std::mem::take(&mut *lock(&self.unserved))))
    }

    /// Asks for a graceful end.
    pub(crate) fn request(self: &Arc<Self>, cause: Cause) {
        self.ask(cause, None);
    }

    /// Asks for the end now.
    pub(crate) fn cancel(self: &Arc<Self>, cause: Cause) {
        self.enter_request(cause, None);
        if let Some(request) = &mut lock(&self.state).request {
            let now = Instant::now();
            request.deadline = Some(request.deadline.map_or(now, |deadline| deadline.min(now)));
        }
        self.cancelled.give();
        self.requested.give();
        self.close_unserved();
    }

    /// Asks for a graceful end because of a failure, which `serve` returns if it was the first cause. What fails later
    /// is logged.
    pub(crate) fn fail(self: &Arc<Self>, cause: Cause, failure: Failure) {
        self.ask(cause, Some(failure));
    }

    fn ask(self: &Arc<Self>, cause: Cause, failure: Option<Failure>) {
        if !self.enter_request(cause, failure) && matches!(cause, Cause::Shutdown | Cause::Stream) {
            self.again.give(); // a person, or the one who orders; what fails, or returns, in a lame duck does not end it
        }
        self.requested.give();
        self.close_unserved();
    }

    /// A server that was never served is closed by any request. When this returns it is, whoever else is at it.
    fn close_unserved(self: &Arc<Self>) {
        if self.started.load(Ordering::Acquire) {
            return;
        }
        let idle = {
            let mut state = lock(&self.state);
            if state.phase != Phase::Bound {
                return; // just started, and so the supervisor's business; or closed
            }
            state.idle.take()
        };
        let mut unserved = lock(&self.unserved);
        let listeners = std::mem::take(&mut *unserved);
        if !listeners.is_empty() {
            // A child, so that it is waited for by all who close, and without a lock: a custom listener's destructor is
            // user code. Under this lock, so that nobody who finds no listeners cancels the group before they are in it.
            self.tasks.spawn(Unserved::new(listeners, self.token()));
        }
        drop(unserved);
        drop(idle);
        self.tasks.cancel_and_join(); // where another has the group and is dropping it: wait for it
    }

    /// Says whether it is the first.
    fn enter_request(&self, cause: Cause, failure: Option<Failure>) -> bool {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let first = state.request.is_none();
        if first {
            let deadline = state.allowance.and_then(|allowance| now.checked_add(allowance));
            state.request = Some(Request { cause, at: now, deadline });
            state.failure = failure;
        }
        first
    }

    /// Moves on to a later phase.
    pub(crate) fn advance(&self, phase: Phase) {
        let mut state = lock(&self.state);
        if state.phase.may_become(phase) {
            state.phase = phase;
        }
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

    /// Whether nothing may be begun any more: cancelled, or past the deadline.
    pub(crate) fn is_out_of_time(&self) -> bool {
        self.cancelled.is_given() || self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Why the server stops, if anybody has asked for it.
    pub(crate) fn cause(&self) -> Option<Cause> {
        lock(&self.state).request.as_ref().map(|request| request.cause)
    }

    /// Begins the drain: tells everybody. Comes after the last socket was closed, so nobody can come in untold.
    pub(crate) fn begin_drain(&self) {
        self.advance(Phase::Draining);
        for member in self.registry.all() {
            member.tell();
        }
        self.draining.give();
    }

    /// What came of the run, once it is closed.
    pub(crate) fn report(&self) -> Report {
        let report = lock(&self.state).report.clone();
        report.expect("the report is written before anybody is told that the run is closed")
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

/// The owner of the server's tasks. One that panics while its handle is gone ends nothing else.
struct TasksOfServer;

impl Owner for TasksOfServer {
    fn child_panicked(&self, _: &str) {}
}

impl fmt::Display for TasksOfServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server")
    }
}
