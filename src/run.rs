//! One run's shared state: requests, phases, and what the server, its handles and its connections know of each other.
//!
//! Handles, shutdown streams, the body and failures *request*; the supervisor (`server/shutdown.rs`) *carries out*; the
//! last [`CompletionGuard`] to be dropped *closes*.
//!
//! | state | set by | means |
//! |---|---|---|
//! | `phase` | `start`, the supervisor, `close` | how far the run has come; never goes back |
//! | `request` | the first request | the cause, its time, and the deadline; later requests only bring the deadline nearer |
//! | `requested` | every request | the supervisor begins the exit |
//! | `again` | a second graceful request | skips the lame duck |
//! | `deadline_moved` | a request that brings the deadline nearer | the supervisor looks at it again |
//! | `cancelled` | a cancel, a second shutdown signal, a drop | no grace |
//! | `draining` | the drain; and `close` | handles that wait for it are woken |
//! | `closed`, `over` | `close` | the report is there |
//! | `started`, `listening` | `start`; each listening socket | `is_serving`: both |
//!
//! Invariants:
//!
//! 1. The first request wins: its cause and its time are never replaced, and its deadline only by a nearer one.
//! 2. Everything that must be gone before the run is closed holds a [`CompletionGuard`]; its module says why that
//!    suffices.
//! 3. No lock is held while user code runs, and none while anything is logged.

pub(crate) mod completion;
pub(crate) mod counts;
mod dialogue;
pub(crate) mod end_reason;
pub(crate) mod event;
pub(crate) mod handle;
pub(crate) mod limit_warning;
pub(crate) mod name;
pub(crate) mod newcomers;
pub(crate) mod phase;
pub(crate) mod phases;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod report;
pub(crate) mod state;
pub(crate) mod tasks;

use crate::address::Addresses;
use crate::group::{Owner, Spawner, TaskGroup};
use crate::limits::ConnectionLimit;
use crate::listener::Listener;
use crate::panic::{Kept, drop_caught};
use crate::sync::broadcast::BroadcastWaker;
use crate::sync::event::Event;
use crate::sync::waker_set::{WakerSet, wake_all};
use crate::sync::{Mutex, lock};
use async_io::Timer;
use completion::{ClosingListeners, Completion, CompletionGuard, OpenListener};
use counts::{Counters, Counts};
use event::{Observer, What};
use limit_warning::LimitWarning;
use name::{ServerName, run_line};
use newcomers::Newcomers;
use phase::Phase;
use registry::Registry;
use report::{Cause, Failure, Report};
use std::collections::HashSet;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(crate) struct Run {
    /// Shared with the owners of its tasks.
    pub(crate) name: Arc<ServerName>,
    pub(crate) registry: Registry,
    pub(crate) counters: Counters,
    pub(crate) limit: Arc<ConnectionLimit>,
    pub(crate) limit_warning: LimitWarning,
    /// Starts connections.
    pub(crate) connections: Spawner,
    /// Starts tasks of the server, which users spawn.
    pub(crate) tasks: Spawner,
    /// The same for those that a drain does not wait for.
    pub(crate) background: Spawner,
    /// A shutdown was requested.
    pub(crate) requested: Event,
    /// It was requested again, gracefully. Skips the lame duck.
    pub(crate) again: Event,
    /// The supervisor, while it waits for the deadline.
    deadline_moved: BroadcastWaker,
    /// A cancel was requested.
    pub(crate) cancelled: Event,
    /// The drain has begun. For handles, and for connections that are still opening; each handler has an event of its
    /// own.
    pub(crate) draining: Event,
    pub(crate) newcomers: Newcomers,
    /// Those that wait for a phase.
    phase_waiters: Mutex<WakerSet>,
    pub(crate) observer: Observer,
    /// The run is closed, and the report is there.
    pub(crate) closed: Event,
    /// The same, signalled after `closed`: by then a task that waits in a body for `closed` has been woken, so that the
    /// one more poll that a body gets finds it ready.
    pub(crate) over: Event,
    /// Serving has begun. With `listening`: whether a client can still get in.
    started: AtomicBool,
    /// A client was closed because it is no trusted proxy. The first may be one, and is logged louder.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) has_met_untrusted: AtomicBool,
    /// A line of this run was not logged in time: nothing waits for the logger any more.
    pub(crate) logger_is_stuck: AtomicBool,
    /// How many listening sockets are open.
    listening: AtomicUsize,
    /// The way to more completion guards.
    completion: OnceLock<Weak<Completion>>,
    /// The listening sockets, until the server is served or closed.
    listeners: Mutex<Vec<OpenListener>>,
    /// Where tasks were spawned that were cut: each line is logged once. As many as the program has such lines.
    cut_lines: Mutex<HashSet<Location<'static>>>,
    state: Mutex<RunState>,
}

#[derive(Debug)]
struct RunState {
    phase: Phase,
    /// Those that it has entered, as bits.
    entered: u8,
    request: Option<Request>,
    /// How long an exit may last: lame duck and grace; `None`: no limit. Known from the start of serving on.
    allowance: Option<Duration>,
    /// How long of that clients are still accepted.
    lame_duck: Duration,
    /// The allowance is that of a request, and not the server's.
    is_limited: bool,
    /// How long the drain of one connection may last.
    own_grace: Duration,
    /// The failure that stopped the server, until `serve` returns it, or is dropped. The error in it is the user's.
    failure: Option<Kept<Failure>>,
    report: Option<Report>,
    /// What a server that does not serve yet owns.
    unserved: Option<Unserved>,
}

impl RunState {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.entered |= 1 << phase as u8;
    }

    /// Of a limit that a request has set, half at least is left to the drain.
    fn limit_lame_duck(&mut self) {
        let half = self.allowance.map_or(Duration::MAX, |allowance| allowance / 2);
        self.lame_duck = self.lame_duck.min(half);
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entered {
    First,
    /// There was one before.
    Again,
    /// The same, and this is the deadline now.
    Nearer(Instant),
}

#[derive(Debug)]
struct Request {
    cause: Cause,
    at: Instant,
    /// When what is left of a drain is cancelled; `None`: never.
    deadline: Option<Instant>,
}

/// What a server owns until it is served or closed.
#[derive(Debug)]
pub(crate) struct Unserved {
    /// Dropped first: the tasks have guards of their own, so a thread that joins them, this one or another, finds the
    /// run closed.
    pub(crate) completion: CompletionGuard,
    pub(crate) connections: TaskGroup,
    /// Users may spawn tasks before the server serves.
    pub(crate) tasks: TaskGroup,
    pub(crate) background: TaskGroup,
}

impl Run {
    /// A run that listens on nothing yet.
    pub(crate) fn new(first: Listener) -> Arc<Self> {
        let name = Arc::new(ServerName::new(Addresses::new(first.local_addr().clone())));
        let tasks = || TaskGroup::owned_by(Box::new(TasksOfServer(Arc::clone(&name))));
        let (connections, tasks, background) = (TaskGroup::new(), tasks(), tasks());
        let run = Arc::new(Self {
            name,
            registry: Registry::default(),
            counters: Counters::default(),
            limit: ConnectionLimit::new(),
            limit_warning: LimitWarning::default(),
            connections: connections.spawner(),
            tasks: tasks.spawner(),
            background: background.spawner(),
            requested: Event::default(),
            again: Event::default(),
            deadline_moved: BroadcastWaker::default(),
            cancelled: Event::default(),
            draining: Event::default(),
            newcomers: Newcomers::default(),
            phase_waiters: Mutex::default(),
            observer: Observer::default(),
            closed: Event::default(),
            over: Event::default(),
            started: AtomicBool::new(false),
            #[cfg(feature = "proxy-protocol")]
            has_met_untrusted: AtomicBool::new(false),
            logger_is_stuck: AtomicBool::new(false),
            listening: AtomicUsize::new(0),
            completion: OnceLock::new(),
            listeners: Mutex::new(Vec::new()),
            cut_lines: Mutex::default(),
            state: Mutex::new(RunState {
                phase: Phase::Bound,
                entered: 1 << Phase::Bound as u8,
                request: None,
                allowance: Some(Duration::ZERO),
                lame_duck: Duration::ZERO,
                is_limited: false,
                own_grace: Duration::ZERO,
                failure: None,
                report: None,
                unserved: None,
            }),
        });
        let (completion, more) = CompletionGuard::first(&run);
        let _ = run.completion.set(more); // set once, here
        lock(&run.state).unserved = Some(Unserved { completion, connections, tasks, background });
        let first = OpenListener::new(first, Arc::clone(&run));
        lock(&run.listeners).push(first);
        run
    }

    /// One more listener for a server that does not serve yet. One that is closed already closes it.
    pub(crate) fn add_listener(self: &Arc<Self>, listener: Listener) {
        self.name.addresses.push(listener.local_addr().clone());
        let open = OpenListener::new(listener, Arc::clone(self));
        let state = lock(&self.state);
        if state.unserved.is_some() {
            lock(&self.listeners).push(open);
        }
    }

    /// See invariant 2. `None`: the run is closed.
    pub(crate) fn completion_guard(&self) -> Option<CompletionGuard> {
        CompletionGuard::of(self.completion.get()?)
    }

    /// The failure of a server that this process cannot serve, since it was forked after the bind.
    pub(crate) fn why_not_here(&self) -> Option<Failure> {
        let listeners = lock(&self.listeners);
        let failed = listeners.iter().find_map(|open| Some((open.get().origin().why_not_here()?, open.get())));
        let (why, listener) = failed?;
        Some(Failure::Forked { address: listener.local_addr().clone(), why })
    }

    /// Begins to serve. `None`: the server was closed before.
    pub(crate) fn start(
        &self,
        (grace, own_grace): (Option<Duration>, Duration),
        lame_duck: Duration,
    ) -> Option<(Unserved, Vec<OpenListener>)> {
        let mut state = lock(&self.state);
        let unserved = state.unserved.take()?;
        state.enter(Phase::Serving);
        (state.lame_duck, state.own_grace) = (lame_duck, own_grace);
        match state.is_limited {
            true => state.limit_lame_duck(),
            false => state.allowance = grace.map(|grace| grace.saturating_add(lame_duck)),
        }
        let (allowance, is_limited) = (state.allowance, state.is_limited);
        if let (Some(request), false) = (&mut state.request, is_limited) {
            // It came at this very moment, and did not know.
            request.deadline = allowance.and_then(|allowance| request.at.checked_add(allowance));
        }
        drop(state);
        self.started.store(true, Ordering::Release);
        self.wake_phase_waiters();
        self.tell_phase(Phase::Serving);
        Some((unserved, std::mem::take(&mut *lock(&self.listeners))))
    }

    /// Requests a graceful end.
    pub(crate) fn request(&self, cause: Cause) {
        self.request_end(cause, None, None);
    }

    /// Requests a graceful end within this time from now.
    pub(crate) fn request_within(&self, limit: Option<Duration>) {
        self.request_end(Cause::Shutdown, None, Some(limit));
    }

    /// Requests the end now.
    pub(crate) fn cancel(&self, cause: Cause) {
        self.enter_request(cause, None, None);
        if let Some(request) = &mut lock(&self.state).request {
            let now = Instant::now();
            request.deadline = Some(request.deadline.map_or(now, |deadline| deadline.min(now)));
        }
        self.cancelled.signal();
        self.requested.signal();
        self.close_unserved();
    }

    /// Requests a graceful end because of a failure, which `serve` returns if it was the first cause. What fails later
    /// is logged.
    pub(crate) fn fail(&self, cause: Cause, failure: Failure) {
        self.request_end(cause, Some(failure), None);
    }

    /// The limit, if there is one: `None` in it means that there is no limit.
    fn request_end(&self, cause: Cause, failure: Option<Failure>, limit: Option<Option<Duration>>) {
        let entered = self.enter_request(cause, failure, limit);
        if let Entered::Nearer(deadline) = entered {
            self.deadline_moved.wake_all();
            if self.draining.is_signalled() {
                self.newcomers.hurry(deadline);
            }
        }
        if entered != Entered::First && matches!(cause, Cause::Shutdown | Cause::Signal(_) | Cause::Stream) {
            self.again.signal(); // what fails, or returns, in a lame duck does not end it
        }
        self.requested.signal();
        self.close_unserved();
    }

    /// A server that was never served is closed by any request. When this returns it is closed, even if another thread
    /// is closing it.
    fn close_unserved(&self) {
        if self.started.load(Ordering::Acquire) {
            return;
        }
        let unserved = {
            let mut state = lock(&self.state);
            if state.phase != Phase::Bound {
                return; // just started, and so the supervisor's task; or closed
            }
            state.unserved.take()
        };
        let mut open = lock(&self.listeners);
        let listeners = std::mem::take(&mut *open);
        // There is a guard: as long as there are listeners here, `unserved` is not dropped.
        if let (false, Some(completion)) = (listeners.is_empty(), self.completion_guard()) {
            // A child, so that every thread that closes waits for it, and without a lock: a custom listener's
            // destructor is user code. Spawned under this lock, so that no thread that finds no listeners cancels the
            // group before it is in it.
            self.tasks.spawn(ClosingListeners::new(listeners, completion));
        }
        drop(open);
        drop(unserved);
        self.background.cancel_and_join();
        self.tasks.cancel_and_join(); // if another thread has the group and is dropping it: wait for that
    }

    fn enter_request(&self, cause: Cause, failure: Option<Failure>, limit: Option<Option<Duration>>) -> Entered {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if let Some(request) = &mut state.request {
            let deadline = limit.flatten().and_then(|limit| now.checked_add(limit));
            let nearer = deadline.filter(|deadline| request.deadline.is_none_or(|before| *deadline < before));
            request.deadline = nearer.or(request.deadline);
            drop(state);
            drop_caught(failure); // the error in it is the user's
            return nearer.map_or(Entered::Again, Entered::Nearer);
        }
        if let Some(limit) = limit {
            (state.allowance, state.is_limited) = (limit, true);
            state.limit_lame_duck();
        }
        let deadline = state.allowance.and_then(|allowance| now.checked_add(allowance));
        state.request = Some(Request { cause, at: now, deadline });
        state.failure = failure.map(Kept::new);
        Entered::First
    }

    /// Moves on to a later phase.
    pub(crate) fn advance(&self, phase: Phase) {
        if self.enter(phase) {
            self.tell_phase(phase);
        }
    }

    /// The same, and the user's function is told later. Returns whether it is new.
    fn enter(&self, phase: Phase) -> bool {
        {
            let mut state = lock(&self.state);
            if !state.phase.may_become(phase) {
                return false;
            }
            state.enter(phase);
        }
        self.wake_phase_waiters();
        true
    }

    fn wake_phase_waiters(&self) {
        let wakers = lock(&self.phase_waiters).take();
        wake_all(wakers);
    }

    /// Tells the user's function. In the order of the phases, whichever threads enter them: one thread tells them all.
    fn tell_phase(&self, phase: Phase) {
        if !self.observer.is_set() || !self.observer.begin_to_tell(phase) {
            return;
        }
        while let Some(phase) = self.observer.next_to_tell() {
            self.observer.tell(self, What::Phase(phase));
        }
    }

    /// The phases that it has entered so far.
    fn entered(&self) -> impl Iterator<Item = Phase> {
        let entered = lock(&self.state).entered;
        Phase::ALL.into_iter().filter(move |phase| entered & 1 << *phase as u8 != 0)
    }

    pub(crate) fn phase(&self) -> Phase {
        lock(&self.state).phase
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.started.load(Ordering::Acquire) && self.listening.load(Ordering::Acquire) > 0
    }

    /// Whether a load balancer should send clients: they are accepted, and nothing stands against that.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_serving() && !self.requested.is_signalled() && !self.limit.is_paused()
    }

    /// When the exit is over at the latest; `None` if none was requested, or if it has no limit.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        lock(&self.state).request.as_ref()?.deadline
    }

    /// How long clients are still accepted after the request.
    pub(crate) fn lame_duck(&self) -> Duration {
        lock(&self.state).lame_duck
    }

    /// How long the drain of one connection may last.
    pub(crate) fn own_grace(&self) -> Duration {
        lock(&self.state).own_grace
    }

    /// Waits until the deadline is over, wherever it is moved meanwhile.
    pub(crate) async fn deadline_passed(&self) {
        self.part_of_time_passed(|deadline| deadline).await;
    }

    /// The same for an earlier time, by the deadline.
    pub(crate) async fn part_of_time_passed(&self, part: impl Fn(Instant) -> Instant) {
        let (mut timer, mut armed) = (Timer::never(), None);
        poll_fn(|cx| {
            self.deadline_moved.add(cx.waker()); // before the look
            let deadline = self.deadline().map(&part);
            if armed != deadline {
                timer = deadline.map_or_else(Timer::never, Timer::at);
                armed = deadline;
            }
            Pin::new(&mut timer).poll(cx).map(drop)
        })
        .await;
    }

    /// Whether no handler may be started any more: cancelled, or past the deadline.
    pub(crate) fn is_out_of_time(&self) -> bool {
        self.cancelled.is_signalled()
            || self.requested.is_signalled() // before any lock
                && self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Why the server stops, if an end was requested.
    pub(crate) fn cause(&self) -> Option<Cause> {
        lock(&self.state).request.as_ref().map(|request| request.cause)
    }

    /// Begins the drain: notifies every connection, newcomers a little later. Comes after the last socket was closed,
    /// so no later connection is missed. Returns how many there were.
    pub(crate) fn begin_drain(&self, newcomer_time: Duration, spread: Duration) -> usize {
        let is_new = self.enter(Phase::Draining);
        self.draining.signal();
        let (records, deadline) = (self.registry.all(), self.deadline());
        self.newcomers.begin_drain(&records, newcomer_time, spread, deadline);
        match self.deadline() {
            Some(nearer) if deadline != Some(nearer) => self.newcomers.hurry(nearer), // it has just been moved
            _ => {}
        }
        if is_new {
            self.tell_phase(Phase::Draining);
        }
        records.len()
    }

    /// Whether no task that this line has spawned was cut before.
    pub(crate) fn is_first_cut_of(&self, line: &Location<'static>) -> bool {
        lock(&self.cut_lines).insert(*line)
    }

    /// The numbers of now. Looks at all connections.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.counters.read();
        counts.open = self.registry.states();
        let listening = self.listening.load(Ordering::Acquire);
        counts.at_limit = if self.limit.admits() { 0 } else { listening };
        counts
    }

    /// The report, once the run is closed.
    pub(crate) fn report(&self) -> Report {
        let report = lock(&self.state).report.clone();
        report.expect("the report is written before `closed` is signalled")
    }

    pub(crate) fn take_failure(&self) -> Option<Kept<Failure>> {
        lock(&self.state).failure.take()
    }

    /// The last completion guard is gone: nothing is left of the run.
    fn close(&self) {
        let mut state = lock(&self.state);
        state.enter(Phase::Closed);
        let (cause, at) = match &state.request {
            Some(request) => (request.cause, request.at),
            None => (Cause::Dropped, Instant::now()), // not reached: every way out is a request
        };
        let report = Report::new(cause, self.counters.read(), self.counters.take_cut(), at.elapsed());
        state.report = Some(report.clone());
        drop(state);
        self.draining.signal(); // a server that was cancelled has not drained, and a wait for that is over, too
        self.closed.signal();
        self.wake_phase_waiters();
        self.over.signal();
        self.tell_phase(Phase::Closed);
        self.observer.end();
        if !self.logger_is_stuck.load(Ordering::Relaxed) {
            run_line!(info, self, [phase:% = Phase::Closed, accepted = report.accepted()], "{report}");
        }
    }
}

/// The owner of the server's tasks. One that panics while its handle is gone ends nothing else.
struct TasksOfServer(Arc<ServerName>);

impl Owner for TasksOfServer {
    fn child_panicked(&self, _: &str) {}
}

impl fmt::Display for TasksOfServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server `{}`", self.0)
    }
}
