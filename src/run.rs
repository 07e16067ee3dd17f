//! [`Run`]: the shared state of one server run. Requests, phases, and the books of its connections and tasks.
//!
//! - Handles, shutdown streams, the body and failures *request* the end.
//! - The supervisor (`server/shutdown.rs`) *carries it out*.
//! - The last [`CompletionGuard`] to be dropped *closes* the run.
//!
//! | state | set by | means |
//! |---|---|---|
//! | `phase` | `start`, the supervisor, `close` | how far the run has come; never goes back |
//! | `request` | the first request | the cause, its time, and the deadline; later requests only bring the deadline nearer |
//! | `requested` | every request | the supervisor begins the exit |
//! | `again` | a second graceful request | the lame duck is skipped |
//! | `deadline_moved` | a request that brings the deadline nearer | the supervisor reads the deadline again |
//! | `cancelled` | a cancel, a second shutdown signal, a drop | there is no grace period |
//! | `draining` | the drain; and `close` | waits for the drain are over |
//! | `closed`, `over` | `close` | the report is there |
//! | `started`, `listening` | `start`; each listening socket | `is_serving`: both |
//!
//! Invariants:
//!
//! 1. The first request wins: its cause and its time are never replaced, and its deadline only by a nearer one.
//! 2. Everything that must be gone before the run is closed holds a [`CompletionGuard`]; its module explains why
//!    that is enough.
//! 3. No lock is held while user code runs, and none while anything is logged.

pub(crate) mod completion;
pub(crate) mod counts;
mod dialogue;
pub(crate) mod drain_progress;
pub(crate) mod end_reason;
pub(crate) mod event;
pub(crate) mod handle;
pub(crate) mod limit_warning;
#[cfg(all(test, ebbtide_loom))]
pub(crate) mod loom_tests;
pub(crate) mod name;
pub(crate) mod newcomers;
pub(crate) mod phase;
pub(crate) mod phases;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod report;
pub(crate) mod state;
pub(crate) mod task_tree;
pub(crate) mod tasks;
pub(crate) mod timers;

use crate::address::Addresses;
use crate::group::{Executor, Owner, Spawner, TaskGroup};
use crate::limits::ConnectionLimit;
use crate::listener::Listener;
use crate::panic::{Kept, drop_caught};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::broadcast::BroadcastWaker;
use crate::sync::event::Event;
use crate::sync::time::{self, Timer};
use crate::sync::waker_set::{WakerSet, wake_all};
use crate::sync::{Mutex, lock};
use completion::{ClosingListeners, Completion, CompletionGuard, OpenListener};
use counts::{Counters, Counts};
use drain_progress::{DrainProgress, DrainStart};
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
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use timers::Timers;

/// Shared state of one server run. See the module.
#[derive(Debug)]
pub(crate) struct Run {
    /// Shared with the owners of its tasks, which name the server in log lines.
    pub(crate) name: Arc<ServerName>,
    /// Where everything of the run is spawned. Set once more at most, before it is served.
    executor: Mutex<Executor>,
    pub(crate) registry: Registry,
    pub(crate) counters: Counters,
    pub(crate) limit: Arc<ConnectionLimit>,
    pub(crate) limit_warning: LimitWarning,
    /// Spawns the tasks of connections.
    pub(crate) connections: Spawner,
    /// Spawns the tasks of `Handle::spawn`.
    pub(crate) tasks: Spawner,
    /// Spawns the tasks of `Handle::spawn_background`, which no drain waits for.
    pub(crate) background: Spawner,
    /// A shutdown or a cancel was requested.
    pub(crate) requested: Event,
    /// A graceful shutdown was requested again: the supervisor skips the lame duck.
    pub(crate) again: Event,
    /// Wakes the supervisor, which waits for the deadline, when the deadline was moved.
    deadline_moved: BroadcastWaker,
    /// A cancel was requested.
    pub(crate) cancelled: Event,
    /// The drain has begun. For handles, and for connections that are still opening. Each handler has an event of its
    /// own, in its record.
    pub(crate) draining: Event,
    pub(crate) newcomers: Newcomers,
    /// The time limits of the connections.
    pub(crate) timers: Arc<Timers>,
    /// Wakers of tasks that wait for a phase.
    phase_waiters: Mutex<WakerSet>,
    pub(crate) observer: Observer,
    /// The run is closed, and the report is there.
    pub(crate) closed: Event,
    /// As `closed`, but signalled after it, for the scope. When it is signalled, a body that waits for `closed` was
    /// woken already, so the one more poll that a body gets finds `closed` ready.
    pub(crate) over: Event,
    /// Serving has begun. With `listening` it decides `is_serving`.
    started: AtomicBool,
    /// A client was closed because it is not a trusted proxy. The first such client of a run is logged at a higher
    /// level than the others: it may be a proxy that the operator forgot to trust.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) has_met_untrusted: AtomicBool,
    /// A line of this run was not logged in time. From then on nothing of the run waits for the logger.
    pub(crate) logger_is_stuck: AtomicBool,
    /// Number of listening sockets that are open.
    listening: AtomicUsize,
    /// Makes more completion guards while the run is open. Set once, in `new`.
    completion: OnceLock<Weak<Completion>>,
    /// The listening sockets, until the server is served or closed.
    listeners: Mutex<Vec<OpenListener>>,
    /// Lines of code that spawned a task which was cut at the end of its grace. Each is logged once. Bounded by the
    /// number of such lines in the program.
    cut_lines: Mutex<HashSet<Location<'static>>>,
    state: Mutex<RunState>,
}

#[derive(Debug)]
struct RunState {
    phase: Phase,
    /// The phases that the run has entered, as bits.
    entered: u8,
    /// The first request, if there was one.
    request: Option<Request>,
    /// How long an exit may last, lame duck and grace together. `None`: no limit. Zero before serving starts.
    allowance: Option<Duration>,
    /// How long clients are still accepted within `allowance`.
    lame_duck: Duration,
    /// `allowance` was set by a request, and not by the server's settings.
    is_limited: bool,
    /// How long the drain of one connection alone may last.
    own_grace: Duration,
    /// The failure that stopped the server, until `serve` takes it or is dropped. Its error is the user's, so its drop
    /// is user code.
    failure: Option<Kept<Failure>>,
    /// Set when the drain begins.
    drain: Option<DrainStart>,
    /// Set by `close`.
    report: Option<Report>,
    /// What a server owns before it serves. Taken by `start` or `close_unserved`.
    unserved: Option<Unserved>,
}

impl RunState {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.entered |= 1 << phase as u8;
    }

    /// Limits the lame duck to half of the time that a request allows, so that at least half is left for the drain.
    fn limit_lame_duck(&mut self) {
        let half = self.allowance.map_or(Duration::MAX, |allowance| allowance / 2);
        self.lame_duck = self.lame_duck.min(half);
    }

    /// Limits the exit to the time that is left, if the server's own limit is longer. The lame duck gives first; the
    /// drain keeps its own time, or half of what is left.
    fn shorten(&mut self, left: Duration) {
        if self.allowance.is_some_and(|own| own <= left) {
            return;
        }
        let half = left / 2;
        let drain = self.allowance.map_or(half, |own| own.saturating_sub(self.lame_duck).min(half));
        self.lame_duck = self.lame_duck.min(left - drain);
        (self.allowance, self.is_limited) = (Some(left), true);
    }
}

/// How long the exit may last that a request begins.
#[derive(Clone, Copy, Debug)]
enum Limit {
    /// As long as the server's settings allow.
    Own,
    /// This time, from now, instead of the server's own. `None`: no limit.
    Within(Option<Duration>),
    /// As long as the server's settings allow, and until this time at most. `None`: no further limit.
    By(Option<Instant>),
}

/// Effects of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entered {
    First,
    /// It was not the first, and changed nothing.
    Again,
    /// It was not the first, and moved the deadline to this time.
    Nearer(Instant),
}

#[derive(Debug)]
struct Request {
    cause: Cause,
    /// When it was made.
    at: Instant,
    /// When everything that is left is cancelled. `None`: never.
    deadline: Option<Instant>,
}

/// What a server owns until it is served or closed.
#[derive(Debug)]
pub(crate) struct Unserved {
    /// Dropped first. The tasks have guards of their own: when a thread, this or another, has joined them, the run is
    /// closed.
    pub(crate) completion: CompletionGuard,
    pub(crate) connections: TaskGroup,
    /// With the tasks that users spawn before the server serves.
    pub(crate) tasks: TaskGroup,
    pub(crate) background: TaskGroup,
}

impl Run {
    /// Creates a run in the phase `Bound`, with its first listener.
    pub(crate) fn new(first: Listener) -> Arc<Self> {
        let name = Arc::new(ServerName::new(Addresses::new(first.local_addr().clone())));
        let executor = Executor::current();
        let tasks = || TaskGroup::owned_by(Box::new(TasksOfServer(Arc::clone(&name))), executor.clone());
        let (connections, tasks, background) = (TaskGroup::with_executor(executor.clone()), tasks(), tasks());
        let run = Arc::new(Self {
            name,
            executor: Mutex::new(executor),
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
            timers: Timers::new(),
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
                drain: None,
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

    /// Returns the executor of everything that the run spawns.
    pub(crate) fn executor(&self) -> Executor {
        lock(&self.executor).clone()
    }

    /// Sets the executor of everything that the run spawns from now on. For a server that does not serve yet.
    pub(crate) fn set_executor(&self, executor: Executor) {
        let before = {
            let state = lock(&self.state);
            let Some(unserved) = &state.unserved else {
                // Closed already. If it were kept, a function that holds a handle would never be dropped.
                drop(state);
                drop(executor);
                return;
            };
            for group in [&unserved.connections, &unserved.tasks, &unserved.background] {
                group.set_executor(executor.clone()); // drops nothing: the one before is still held here, too
            }
            std::mem::replace(&mut *lock(&self.executor), executor)
        };
        drop(before); // without a lock: its destructor may be user code
    }

    /// Adds a listener to a server that does not serve yet. If the run is closed already, the listener is closed.
    pub(crate) fn add_listener(self: &Arc<Self>, listener: Listener) {
        self.name.addresses.push(listener.local_addr().clone());
        let open = OpenListener::new(listener, Arc::clone(self));
        let state = lock(&self.state);
        if state.unserved.is_some() {
            lock(&self.listeners).push(open);
        }
    }

    /// Returns one more completion guard, or `None` if the run is closed. See invariant 2.
    pub(crate) fn completion_guard(&self) -> Option<CompletionGuard> {
        CompletionGuard::of(self.completion.get()?)
    }

    /// Returns the failure of a server that this process cannot serve, because it was forked after the bind.
    pub(crate) fn why_not_here(&self) -> Option<Failure> {
        let listeners = lock(&self.listeners);
        let failed = listeners.iter().find_map(|open| Some((open.get().origin().why_not_here()?, open.get())));
        let (why, listener) = failed?;
        Some(Failure::Forked { address: listener.local_addr().clone(), why })
    }

    /// Begins to serve. Returns `None` if the server was closed before.
    pub(crate) fn start(
        &self,
        (grace, own_grace): (Option<Duration>, Duration),
        lame_duck: Duration,
    ) -> Option<(Unserved, Vec<OpenListener>)> {
        let mut state = lock(&self.state);
        let unserved = state.unserved.take()?;
        state.enter(Phase::Serving);
        self.observer.queue(Phase::Serving);
        (state.lame_duck, state.own_grace) = (lame_duck, own_grace);
        match state.is_limited {
            true => state.limit_lame_duck(),
            false => state.allowance = grace.map(|grace| grace.saturating_add(lame_duck)),
        }
        let (allowance, is_limited) = (state.allowance, state.is_limited);
        if let (Some(request), false) = (&mut state.request, is_limited) {
            // A request that was made just before this lock was taken did not know the allowance.
            request.deadline = allowance.and_then(|allowance| request.at.checked_add(allowance));
        }
        drop(state);
        self.started.store(true, Ordering::Release);
        self.wake_phase_waiters();
        self.report_phases();
        Some((unserved, std::mem::take(&mut *lock(&self.listeners))))
    }

    /// Requests a graceful end.
    pub(crate) fn request(&self, cause: Cause) {
        self.request_end(cause, None, Limit::Own);
    }

    /// Requests a graceful end within this time from now.
    pub(crate) fn request_within(&self, limit: Option<Duration>) {
        self.request_end(Cause::Shutdown, None, Limit::Within(limit));
    }

    /// Requests a graceful end within the server's own limit, and by `latest`. If an end was requested before, this
    /// only brings the deadline nearer: it does not end a lame duck.
    pub(crate) fn request_by(&self, cause: Cause, latest: Option<Instant>) {
        self.request_end(cause, None, Limit::By(latest));
    }

    /// Requests the immediate end.
    pub(crate) fn cancel(&self, cause: Cause) {
        self.enter_request(cause, None, Limit::Own);
        if let Some(request) = &mut lock(&self.state).request {
            let now = time::now();
            request.deadline = Some(request.deadline.map_or(now, |deadline| deadline.min(now)));
        }
        self.cancelled.signal();
        self.requested.signal();
        self.close_unserved();
    }

    /// Requests a graceful end because of a failure. `serve` returns the failure if it was the first cause. A later
    /// failure is logged by the caller.
    pub(crate) fn fail(&self, cause: Cause, failure: Failure) {
        self.request_end(cause, Some(failure), Limit::Own);
    }

    fn request_end(&self, cause: Cause, failure: Option<Failure>, limit: Limit) {
        let entered = self.enter_request(cause, failure, limit);
        if let Entered::Nearer(deadline) = entered {
            self.deadline_moved.wake_all();
            if self.draining.is_signalled() {
                self.newcomers.hurry(deadline);
            }
        }
        let is_asked = matches!(cause, Cause::Shutdown | Cause::Signal(_) | Cause::Stream);
        if entered != Entered::First && is_asked && !matches!(limit, Limit::By(_)) {
            self.again.signal(); // a failure, or the return of the body, does not end a lame duck
        }
        self.requested.signal();
        self.close_unserved();
    }

    /// Closes a server that never served: any request closes it. When this returns, the server is closed, even if
    /// another thread began to close it.
    fn close_unserved(&self) {
        if self.started.load(Ordering::Acquire) {
            return;
        }
        let groups = {
            let mut state = lock(&self.state);
            if state.phase != Phase::Bound {
                return; // it has just started, so the supervisor carries the request out; or it is closed
            }
            state.unserved.take().map(|unserved| {
                let listeners = std::mem::take(&mut *lock(&self.listeners));
                // A child of `tasks` drops the listeners, without a lock: the destructor of a custom listener is user
                // code. It has the completion guard too. Every thread that closes the run waits for this child, in
                // `cancel_and_join` below, and so for the close: the child is added under the lock under which the
                // others find that they are not the first. It is not given to the executor, whose function is user
                // code too. (The group was not cancelled yet, so the child is not refused.)
                self.tasks.hold(ClosingListeners::new(listeners, unserved.completion));
                (unserved.connections, unserved.tasks, unserved.background)
            })
        };
        drop(groups);
        self.background.cancel_and_join();
        self.tasks.cancel_and_join(); // another thread may be dropping the groups: this waits for it
    }

    /// Enters a request: the first one with its cause and deadline, a later one only with a nearer deadline.
    fn enter_request(&self, cause: Cause, failure: Option<Failure>, limit: Limit) -> Entered {
        let now = time::now();
        let mut state = lock(&self.state);
        if let Some(request) = &mut state.request {
            let deadline = match limit {
                Limit::Own | Limit::Within(None) => None,
                Limit::Within(Some(limit)) => now.checked_add(limit),
                Limit::By(latest) => latest,
            };
            let nearer = deadline.filter(|deadline| request.deadline.is_none_or(|before| *deadline < before));
            request.deadline = nearer.or(request.deadline);
            drop(state);
            drop_caught(failure); // its error is the user's, so its drop is user code
            return nearer.map_or(Entered::Again, Entered::Nearer);
        }
        match limit {
            Limit::Within(limit) => {
                (state.allowance, state.is_limited) = (limit, true);
                state.limit_lame_duck();
            }
            Limit::By(Some(latest)) => state.shorten(latest.saturating_duration_since(now)),
            Limit::Own | Limit::By(None) => {}
        }
        let deadline = state.allowance.and_then(|allowance| now.checked_add(allowance));
        state.request = Some(Request { cause, at: now, deadline });
        state.failure = failure.map(Kept::new);
        Entered::First
    }

    /// Enters a later phase, and reports it to the functions of `Server::on_event`.
    pub(crate) fn advance(&self, phase: Phase) {
        if self.enter(phase) {
            self.report_phases();
        }
    }

    /// Enters a later phase without reporting it. Returns whether the phase is new; then the caller reports it.
    fn enter(&self, phase: Phase) -> bool {
        self.enter_with(phase, |_| {})
    }

    /// The same. `change`: what changes with the phase, for everyone who sees the phase.
    fn enter_with(&self, phase: Phase, change: impl FnOnce(&mut RunState)) -> bool {
        {
            let mut state = lock(&self.state);
            if !state.phase.may_become(phase) {
                return false;
            }
            state.enter(phase);
            // Under the lock: otherwise a thread that enters the next phase could report its own first.
            self.observer.queue(phase);
            change(&mut state);
        }
        self.wake_phase_waiters();
        true
    }

    fn wake_phase_waiters(&self) {
        let wakers = lock(&self.phase_waiters).take();
        wake_all(wakers);
    }

    /// Reports the phases that were entered to the functions of `Server::on_event`. Several threads may enter phases;
    /// the order is kept, because one thread at a time reports all that are queued.
    fn report_phases(&self) {
        if !self.observer.is_set() || !self.observer.begin_to_report() {
            return;
        }
        while let Some(phase) = self.observer.next_to_report() {
            self.observer.tell(self, What::Phase(phase));
            if phase == Phase::Closed {
                self.observer.end(); // not in `close`: another thread may be reporting an earlier phase then
            }
        }
    }

    /// Returns the phases that the run has entered so far.
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

    /// Returns whether a load balancer should send clients: the run serves, was not asked to stop, and is not paused.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_serving() && !self.requested.is_signalled() && !self.limit.is_paused()
    }

    /// Returns the end of the grace period. `None` if no end was requested, or if the exit has no limit.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        lock(&self.state).request.as_ref()?.deadline
    }

    /// Returns when the end was requested, and the end of the grace period, `None` if the exit has no limit.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    pub(crate) fn request_times(&self) -> Option<(Instant, Option<Instant>)> {
        lock(&self.state).request.as_ref().map(|request| (request.at, request.deadline))
    }

    /// Returns how long clients are still accepted after the request.
    pub(crate) fn lame_duck(&self) -> Duration {
        lock(&self.state).lame_duck
    }

    /// Returns how long the drain of one connection alone may last.
    pub(crate) fn own_grace(&self) -> Duration {
        lock(&self.state).own_grace
    }

    /// Waits until the deadline has passed, even if it is moved during the wait.
    pub(crate) async fn deadline_passed(&self) {
        self.part_of_time_passed(|deadline| deadline).await;
    }

    /// Waits until an earlier time has passed, which `part` computes from the deadline.
    pub(crate) async fn part_of_time_passed(&self, part: impl Fn(Instant) -> Instant) {
        let (mut timer, mut armed) = (Timer::never(), None);
        poll_fn(|cx| {
            self.deadline_moved.add(cx.waker()); // before the deadline is read, so that no move is missed
            let deadline = self.deadline().map(&part);
            if armed != deadline {
                timer = deadline.map_or_else(Timer::never, Timer::at);
                armed = deadline;
            }
            Pin::new(&mut timer).poll(cx).map(drop)
        })
        .await;
    }

    /// Returns whether it is too late to start a handler: the run is cancelled, or past its deadline.
    pub(crate) fn is_out_of_time(&self) -> bool {
        self.cancelled.is_signalled()
            || self.requested.is_signalled() // first: it takes no lock
                && self.deadline().is_some_and(|deadline| deadline <= time::now())
    }

    /// Returns how far the drain has come, if it has begun.
    pub(crate) fn drain_progress(&self) -> Option<DrainProgress> {
        let (start, deadline) = {
            let state = lock(&self.state);
            (state.drain?, state.request.as_ref()?.deadline)
        };
        Some(DrainProgress::new(start, deadline, self.registry.len(), self.tasks.len()))
    }

    /// Returns why the server stops, if an end was requested.
    pub(crate) fn cause(&self) -> Option<Cause> {
        lock(&self.state).request.as_ref().map(|request| request.cause)
    }

    /// Begins the drain: notifies every connection, newcomers later. Returns the number of connections.
    ///
    /// Called after the last listening socket was closed, so there is no later connection to miss.
    pub(crate) fn begin_drain(&self, newcomer_time: Duration, spread: Duration) -> usize {
        let connections = self.registry.len(); // before the first handler is notified
        let start = DrainStart { at: time::now(), connections };
        let is_new = self.enter_with(Phase::Draining, |state| state.drain = Some(start));
        let deadline = self.deadline();
        self.newcomers.prepare(newcomer_time, deadline);
        self.draining.signal();
        let records = self.registry.all();
        self.newcomers.begin_drain(&records, spread);
        match self.deadline() {
            Some(nearer) if deadline != Some(nearer) => self.newcomers.hurry(nearer), // it was just moved
            _ => {}
        }
        if is_new {
            self.report_phases();
        }
        records.len()
    }

    /// Returns whether this is the first cut of a task that this line of code has spawned.
    pub(crate) fn is_first_cut_of(&self, line: &Location<'static>) -> bool {
        lock(&self.cut_lines).insert(*line)
    }

    /// Returns the current numbers. Looks at all connections.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.counters.read();
        counts.open = self.registry.states();
        let listening = self.listening.load(Ordering::Acquire);
        counts.at_limit = if self.limit.admits() { 0 } else { listening };
        counts
    }

    /// Returns the report. The run must be closed.
    pub(crate) fn report(&self) -> Report {
        let report = lock(&self.state).report.clone();
        report.expect("the report is written before `closed` is signalled")
    }

    pub(crate) fn take_failure(&self) -> Option<Kept<Failure>> {
        lock(&self.state).failure.take()
    }

    /// Closes the run: the last completion guard was dropped, so nothing of the run is left.
    fn close(&self) {
        let mut state = lock(&self.state);
        state.enter(Phase::Closed);
        let (cause, at) = match &state.request {
            Some(request) => (request.cause, request.at),
            None => (Cause::Dropped, time::now()), // not reached: every way out is a request
        };
        let report = Report::new(cause, self.counters.read(), self.counters.take_cut(), at.elapsed());
        state.report = Some(report.clone());
        drop(state);
        self.draining.signal(); // a cancelled server never drained: ends the waits for its drain
        self.closed.signal();
        self.wake_phase_waiters();
        self.over.signal();
        self.observer.queue(Phase::Closed); // no phase can follow it, so the lock of the state is not needed
        self.report_phases();
        let executor = std::mem::take(&mut *lock(&self.executor));
        drop(executor); // without the lock: its captures are the user's, and may hold a handle of this run
        if !self.logger_is_stuck.load(Ordering::Relaxed) {
            run_line!(info, self, [phase:% = Phase::Closed, accepted = report.accepted()], "{report}");
        }
    }
}

/// Owner of the server's tasks: a panic of a task whose handle is gone ends nothing else.
struct TasksOfServer(Arc<ServerName>);

impl Owner for TasksOfServer {
    fn child_panicked(&self, _: &str) {}
}

impl fmt::Display for TasksOfServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server `{}`", self.0)
    }
}
