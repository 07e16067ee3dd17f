//! Carries out a shutdown: the supervisor (lame duck, drain, cancel), and the shutdown streams that request one.
//!
//! The supervisor is one task for each run ([`RunTasks::supervise`]). It waits for the first request and then takes the
//! run through its phases, until the last handler has ended. Because it is a task of its own, phases and deadlines work
//! whether or not the future of `serve` is being polled.

use super::progress::Progress;
use crate::group::TaskGroup;
use crate::panic::{self, Kept, catch_future};
use crate::run::Run;
use crate::run::completion::CompletionGuard;
use crate::run::phase::Phase;
use crate::run::record::AbortReason;
use crate::run::report::Cause;
use crate::run::task_tree::ConnectionNode;
use crate::signal::sealed::Trigger as _;
use crate::signal::{Signal, Signals, Trigger};
use crate::span::Span;
use crate::sync::event::Event;
use crate::text::plural;
use async_io::Timer;
use futures_concurrency::prelude::*;
use futures_lite::{Stream, StreamExt};
use log::Level;
use std::any::Any;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How often a shutdown logs what it still waits for.
const PROGRESS: Duration = Duration::from_secs(1);

/// How many connections and tasks a log line names.
const NAMED: usize = 10;

/// How many tasks of each kind a log line names of one connection.
const NAMED_TASKS: usize = 2;

/// All tasks of a run. A drop, at any moment, cancels and joins them in the order of the fields: first the accept
/// loops, so that no connection begins while the handlers are cancelled; the completion guard last.
#[derive(Debug)]
pub(super) struct RunTasks {
    /// How long a drain may spare a newcomer.
    pub(super) newcomer_time: Duration,
    /// Over how long a drain notifies the handlers.
    pub(super) drain_spread: Duration,
    /// One task for each listener.
    pub(super) accept_loops: TaskGroup,
    /// One task for each connection.
    pub(super) connections: TaskGroup,
    /// Tasks that users have spawned on the server.
    pub(super) tasks: TaskGroup,
    /// The same, but a drain does not wait for them.
    pub(super) background: TaskGroup,
    /// The tasks that run until the end: the shutdown streams, so that a second signal can still cancel, and the search
    /// for vanished peers.
    pub(super) to_the_end: TaskGroup,
    /// Queue of log lines.
    pub(super) progress: Progress,
    /// Signalled to stop the accept loops.
    pub(super) stop_accepting: Arc<Event>,
    pub(super) run: Arc<Run>,
    /// Keeps the run from being closed.
    pub(super) completion: CompletionGuard,
}

impl RunTasks {
    /// Takes the run from the first request through its phases, until all tasks have ended.
    pub(super) async fn supervise(self) {
        self.run.requested.wait().await;
        self.lame_duck().await;
        self.stop_accepting().await;
        if !self.run.cancelled.is_signalled() {
            self.drain().await;
        }
        if self.is_anything_left() {
            self.cancel().await;
        }
        self.background.cancel();
        (self.background.settled(), self.warn_of_blocked()).race().await;
        self.to_the_end.cancel();
        self.to_the_end.settled().await;
        self.progress.finish().await;
    }

    fn is_anything_left(&self) -> bool {
        !self.connections.is_empty() || !self.tasks.is_empty()
    }

    /// Waits until the last connection and the last task have ended.
    async fn all_ended(&self) {
        // A loop, because a handler may spawn a task after all tasks had ended.
        while self.is_anything_left() {
            (self.connections.settled(), self.tasks.settled()).join().await;
        }
    }

    /// Waits while clients are still accepted, so that the load balancer can notice. A second request ends it.
    async fn lame_duck(&self) {
        let lame_duck = self.run.lame_duck();
        if lame_duck.is_zero() || self.run.cancelled.is_signalled() || self.accept_loops.is_empty() {
            return;
        }
        self.run.advance(Phase::LameDuck);
        let time = Span(lame_duck);
        self.log(Level::Info, Phase::LameDuck, format!("not ready any more; still accepting for {time}"));
        let over = sleep_until(Instant::now().checked_add(lame_duck));
        // If all listeners have failed, no client can be accepted.
        (over, self.run.again.wait(), self.run.cancelled.wait(), self.accept_loops.settled()).race().await;
    }

    /// Stops the accept loops, and waits until the last listening socket is closed. That is bounded: a loop that is
    /// stopped waits for nothing else.
    async fn stop_accepting(&self) {
        if self.run.cancelled.is_signalled() {
            self.accept_loops.cancel(); // no sweep: no client in the backlog would be served
        } else {
            self.stop_accepting.signal();
        }
        self.accept_loops.settled().await;
    }

    /// Notifies the handlers. Waits until the last connection and task have ended, the deadline has passed, or a cancel
    /// is requested.
    async fn drain(&self) {
        let connections = self.run.begin_drain(self.newcomer_time, self.drain_spread);
        let deadline = self.run.deadline();
        if connections > 0 || self.is_anything_left() {
            self.log_drain(connections, deadline); // even if all of them have ended by now
        }
        if !self.is_anything_left() {
            return;
        }
        let newcomers = self.run.newcomers.notify_when_due();
        let log = (self.log_progress(), self.warn_at_half()).race();
        (self.all_ended(), self.run.deadline_passed(), self.run.cancelled.wait(), newcomers, log).race().await;
    }

    /// Cancels what is left. Waits until the future of the last handler and of the last task is destroyed.
    async fn cancel(&self) {
        self.run.advance(Phase::Cancelling);
        let (left, names) = (self.what_is_left(), self.what_is_left_by_name()); // before the first of them ends
        // A connection is asked to end itself, so that it can wait for its tasks without blocking a thread. A task's
        // future is destroyed.
        self.connections.close();
        for record in self.run.registry.all() {
            record.abort(AbortReason::Exit);
        }
        self.tasks.cancel();
        self.background.cancel();
        let (level, why) = match self.run.cancelled.is_signalled() {
            true => (Level::Info, ""), // it was requested
            false => (Level::Warn, " at the end of the grace period"),
        };
        self.log(level, Phase::Cancelling, format!("cancelling {left}{why}: {names}"));
        (self.all_ended(), self.warn_of_blocked()).race().await;
    }

    fn log(&self, level: Level, phase: Phase, text: String) {
        self.progress.log(level, phase, self.run.registry.len(), text);
    }

    fn log_drain(&self, connections: usize, deadline: Option<Instant>) {
        let limit = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(limit) => format!("for at most {}", Span::nearest(limit)),
            None => "without a limit".to_owned(),
        };
        let hint = match self.run.cause() {
            Some(Cause::Signal(_)) => "; a second signal stops now",
            _ => "",
        };
        let what = count(connections, self.tasks.len());
        self.progress.log(Level::Info, Phase::Draining, connections, format!("draining {what} {limit}{hint}"));
    }

    /// Logs once a second how much is left. Never ends.
    async fn log_progress(&self) {
        loop {
            Timer::after(PROGRESS).await;
            let (left, phase) = (self.what_is_left(), Phase::Draining);
            match self.run.registry.oldest() {
                None => self.log(Level::Info, phase, format!("draining: {left} left")),
                Some(oldest) => {
                    let (peer, age) = (oldest.peer(), Span(oldest.since.elapsed()));
                    let text = format!("draining: {left} left, the oldest from `{peer}`, {age} old");
                    self.progress.log_about(&oldest, phase, self.run.registry.len(), text);
                }
            }
        }
    }

    /// Warns when half of the time is over, and names what is left: that is why the exit takes so long. Never ends.
    async fn warn_at_half(&self) {
        let start = Instant::now();
        self.run.part_of_time_passed(|deadline| start + deadline.saturating_duration_since(start) / 2).await;
        let (left, names) = (self.what_is_left(), self.what_is_left_by_name());
        self.log(Level::Warn, Phase::Draining, format!("draining: {left} left after half of the time: {names}"));
        pending().await
    }

    /// Warns once a second of the connections and tasks that cannot be destroyed because a thread is polling them.
    /// Never ends.
    async fn warn_of_blocked(&self) {
        loop {
            Timer::after(PROGRESS).await;
            let (phase, groups) = (self.run.phase(), [&self.connections, &self.tasks, &self.background]);
            let number: usize = groups.iter().map(|group| group.len()).sum();
            let names = groups.into_iter().flat_map(|group| group.list(NAMED)).map(|(name, _)| name).collect();
            let (left, names) =
                (count(self.connections.len(), number - self.connections.len()), first_of(names, number));
            let why = "which block their threads (work that blocks is for `spawn_blocking`)";
            self.log(Level::Warn, phase, format!("{phase}: still waiting for {left}, {why}: {names}"));
        }
    }

    /// Returns how many connections and tasks are left, as text.
    fn what_is_left(&self) -> String {
        count(self.run.registry.len(), self.tasks.len())
    }

    /// Returns the names of the first connections and tasks that are left, and how many more there are.
    fn what_is_left_by_name(&self) -> String {
        let (records, tasks) = (self.run.registry.all(), self.tasks.len());
        let mut names: Vec<_> =
            records.iter().take(NAMED).map(|record| ConnectionNode::of(record, NAMED_TASKS).to_string()).collect();
        names.extend(self.tasks.list(NAMED - names.len()).into_iter().map(|(task, _)| task));
        first_of(names, records.len() + tasks)
    }
}

/// Returns up to [`NAMED`] names, and how many more there are.
fn first_of(mut names: Vec<String>, number: usize) -> String {
    names.truncate(NAMED);
    match number.saturating_sub(names.len()) {
        0 => names.join("; "),
        more => format!("{}; and {more} more", names.join("; ")),
    }
}

/// Returns the numbers as text: `2 connections and 1 task`.
fn count(connections: usize, tasks: usize) -> String {
    match (connections, tasks) {
        (_, 0) => plural(connections, "connection"),
        (0, _) => plural(tasks, "task"),
        _ => format!("{} and {}", plural(connections, "connection"), plural(tasks, "task")),
    }
}

/// Sleeps until the deadline; without end if that is `None`.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => {
            Timer::at(deadline).await;
        }
        None => pending().await,
    }
}

/// A stream of requests to stop. An item has the signal, or `None` for a request by something else.
pub(crate) type ShutdownStream = Kept<Pin<Box<dyn Stream<Item = Option<Signal>> + Send>>>;

/// Makes a shutdown stream of a stream of the user's.
pub(crate) fn shutdown_stream<S>(stream: S) -> ShutdownStream
where
    S: Stream<Item: Trigger> + Send + 'static,
{
    if let Some(signals) = (&stream as &dyn Any).downcast_ref::<Signals>() {
        signals.ask_to_stop();
    }
    Kept::new(Box::pin(stream.map(|item| item.signal())) as Pin<Box<_>>)
}

/// Stream of one item, which is there when a future is ready.
pub(crate) struct Once<F> {
    /// `None` once it was ready.
    future: Option<Pin<Box<F>>>,
}

impl<F> Once<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { future: Some(Box::pin(future)) }
    }
}

impl<F: Future<Output = ()>> Stream for Once<F> {
    type Item = ();

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        let Some(future) = &mut self.future else {
            return Poll::Ready(None);
        };
        ready!(future.as_mut().poll(cx));
        self.future = None;
        Poll::Ready(Some(()))
    }
}

/// Polls a shutdown stream: its first item shuts down, the second cancels. Each takes effect before it is logged, and
/// waits for no logger.
///
/// A panic of the stream counts as a request: it is better to stop than to run on without a way to be stopped.
pub(super) async fn follow_shutdown_stream(run: Arc<Run>, progress: Progress, mut stream: ShutdownStream) {
    let log = |level, text| progress.log(level, run.phase(), run.registry.len(), text);
    let cause = |by: Option<Signal>| by.map_or(Cause::Stream, Cause::Signal);
    let following = async {
        if let Some(first) = stream.get_mut().next().await {
            run.request(cause(first));
            log(
                Level::Info,
                first.map_or("asked to shut down".to_owned(), |signal| format!("received {signal}: shutting down")),
            );
            if let Some(second) = stream.get_mut().next().await {
                run.cancel(cause(second));
                let again = |signal| format!("received {signal}, the second signal: stopping now");
                log(Level::Info, second.map_or("asked again: stopping now".to_owned(), again));
            }
        }
    };
    if let Err(payload) = catch_future(|| following).await {
        run.request(Cause::Stream);
        let message = panic::message(&payload);
        log(Level::Error, format!("a shutdown stream panicked, so the server shuts down: {message}"));
        panic::discard(payload);
    }
}
