//! Carries out a shutdown: the supervisor (lame duck, drain, cancel), and the shutdown streams that request one.
//!
//! The supervisor is one child that carries out what is requested of a run, from the first request to the last
//! handler's end. It is a task of its own, so the phases and the deadline go on whether or not the future of `serve` is
//! being polled.

use super::progress::Progress;
use crate::group::TaskGroup;
use crate::panic::{self, Kept, catch_future};
use crate::run::Run;
use crate::run::completion::CompletionGuard;
use crate::run::phase::Phase;
use crate::run::record::AbortReason;
use crate::run::registry::ConnectionInfo;
use crate::run::report::Cause;
use crate::signal::Signal;
use crate::span::Span;
use crate::sync::event::Event;
use async_io::Timer;
use async_std::stream::{Stream, StreamExt};
use futures_concurrency::prelude::*;
use log::Level;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How often the log says what a shutdown still waits for.
const PROGRESS: Duration = Duration::from_secs(1);

/// How many connections and tasks are named when the log says what is left.
const NAMED: usize = 10;

/// Everything of a run that runs. Dropped at any moment, it is cancelled and joined in the order of the fields: first
/// the accept loops, so that no connection begins when the handlers go; the completion guard last.
#[derive(Debug)]
pub(super) struct RunTasks {
    pub(super) newcomer_time: Duration,
    pub(super) drain_spread: Duration,
    pub(super) accept_loops: TaskGroup,
    pub(super) connections: TaskGroup,
    /// What users have spawned on the server.
    pub(super) tasks: TaskGroup,
    /// The same for those that a drain does not wait for.
    pub(super) background: TaskGroup,
    /// The shutdown streams, so that a second signal can still cancel, and the watch for vanished peers.
    pub(super) to_the_end: TaskGroup,
    /// What the log is told.
    pub(super) progress: Progress,
    /// Signalled to stop the accept loops.
    pub(super) stop_accepting: Arc<Event>,
    pub(super) run: Arc<Run>,
    pub(super) completion: CompletionGuard,
}

impl RunTasks {
    /// From serving to closed.
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

    /// Until the last connection and the last task have ended.
    async fn all_ended(&self) {
        // Again, because a handler may have spawned a task after the tasks had all ended.
        while self.is_anything_left() {
            (self.connections.settled(), self.tasks.settled()).join().await;
        }
    }

    /// Clients are still accepted while the load balancer notices; a second request skips that.
    async fn lame_duck(&self) {
        let lame_duck = self.run.lame_duck();
        if lame_duck.is_zero() || self.run.cancelled.is_signalled() || self.accept_loops.is_empty() {
            return;
        }
        self.run.advance(Phase::LameDuck);
        let time = Span(lame_duck);
        self.say(Level::Info, Phase::LameDuck, format!("not ready any more; still accepting for {time}"));
        let over = sleep_until(Instant::now().checked_add(lame_duck));
        // Without listeners there is nothing left to accept.
        (over, self.run.again.wait(), self.run.cancelled.wait(), self.accept_loops.settled()).race().await;
    }

    /// Ends when the last listening socket is closed. Bounded: an acceptor that is told to stop waits for nothing more.
    async fn stop_accepting(&self) {
        if self.run.cancelled.is_signalled() {
            self.accept_loops.cancel(); // no client in the backlog would be served
        } else {
            self.stop_accepting.signal();
        }
        self.accept_loops.settled().await;
    }

    /// Until the last connection and task have ended, the deadline is over, or a cancel is requested.
    async fn drain(&self) {
        let connections = self.run.begin_drain(self.newcomer_time, self.drain_spread);
        let deadline = self.run.deadline();
        if connections > 0 || self.is_anything_left() {
            self.say_drain(connections, deadline); // also if they have all gone by now
        }
        if !self.is_anything_left() {
            return;
        }
        let newcomers = self.run.newcomers.notify_when_due();
        let log = (self.say_progress(), self.warn_at_half()).race();
        (self.all_ended(), self.run.deadline_passed(), self.run.cancelled.wait(), newcomers, log).race().await;
    }

    /// Until the last handler's and the last task's future is destroyed.
    async fn cancel(&self) {
        self.run.advance(Phase::Cancelling);
        let (left, names) = (self.what_is_left(), self.what_is_left_by_name()); // before they begin to go
        // A connection ends itself, so that it waits for its tasks without keeping a thread; a task is destroyed.
        self.connections.close();
        for record in self.run.registry.all() {
            record.abort(AbortReason::Exit);
        }
        self.tasks.cancel();
        self.background.cancel();
        let (level, why) = match self.run.cancelled.is_signalled() {
            true => (Level::Info, ""), // as was asked for
            false => (Level::Warn, " at the end of the grace period"),
        };
        self.say(level, Phase::Cancelling, format!("cancelling {left}{why}: {names}"));
        (self.all_ended(), self.warn_of_blocked()).race().await;
    }

    fn say(&self, level: Level, phase: Phase, text: String) {
        self.progress.say(level, phase, self.run.registry.len(), text);
    }

    fn say_drain(&self, connections: usize, deadline: Option<Instant>) {
        let limit = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(limit) => format!("for at most {}", Span(limit)),
            None => "without a limit".to_owned(),
        };
        let hint = match self.run.cause() {
            Some(Cause::Signal(_)) => "; a second signal stops now",
            _ => "",
        };
        let what = count(connections, self.tasks.len());
        self.progress.say(Level::Info, Phase::Draining, connections, format!("draining {what} {limit}{hint}"));
    }

    /// Says once a second how much is left. Never ends.
    async fn say_progress(&self) {
        loop {
            Timer::after(PROGRESS).await;
            let (left, phase) = (self.what_is_left(), Phase::Draining);
            match self.run.registry.oldest() {
                None => self.say(Level::Info, phase, format!("draining: {left} left")),
                Some(oldest) => {
                    let (peer, age) = (oldest.peer(), Span(oldest.since.elapsed()));
                    let text = format!("draining: {left} left, the oldest from `{peer}`, {age} old");
                    self.progress.say_of(&oldest, phase, self.run.registry.len(), text);
                }
            }
        }
    }

    /// Says what is left when half of the time is over: the reason why an exit takes so long. Never ends.
    async fn warn_at_half(&self) {
        let start = Instant::now();
        self.run.part_of_time_passed(|deadline| start + deadline.saturating_duration_since(start) / 2).await;
        let (left, names) = (self.what_is_left(), self.what_is_left_by_name());
        self.say(Level::Warn, Phase::Draining, format!("draining: {left} left after half of the time: {names}"));
        pending().await
    }

    /// Warns once a second of what cannot be destroyed, since it is being polled. Never ends.
    async fn warn_of_blocked(&self) {
        loop {
            Timer::after(PROGRESS).await;
            let (phase, groups) = (self.run.phase(), [&self.connections, &self.tasks, &self.background]);
            let number: usize = groups.iter().map(|group| group.len()).sum();
            let names = groups.into_iter().flat_map(|group| group.list(NAMED)).map(|(name, _)| name).collect();
            let (left, names) =
                (count(self.connections.len(), number - self.connections.len()), first_of(names, number));
            let why = "which block their threads (work that blocks is for `spawn_blocking`)";
            self.say(Level::Warn, phase, format!("{phase}: still waiting for {left}, {why}: {names}"));
        }
    }

    fn what_is_left(&self) -> String {
        count(self.run.registry.len(), self.tasks.len())
    }

    /// The first of them, and how many more there are.
    fn what_is_left_by_name(&self) -> String {
        let (records, tasks) = (self.run.registry.all(), self.tasks.len());
        let mut names: Vec<_> =
            records.iter().take(NAMED).map(|record| ConnectionInfo::of(record).to_string()).collect();
        names.extend(self.tasks.list(NAMED - names.len()).into_iter().map(|(task, _)| task));
        first_of(names, records.len() + tasks)
    }
}

/// Up to [`NAMED`] of them by name, and how many more there are.
fn first_of(mut names: Vec<String>, number: usize) -> String {
    names.truncate(NAMED);
    match number.saturating_sub(names.len()) {
        0 => names.join("; "),
        more => format!("{}; and {more} more", names.join("; ")),
    }
}

fn count(connections: usize, tasks: usize) -> String {
    let plural = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    match (connections, tasks) {
        (_, 0) => plural(connections, "connection"),
        (0, _) => plural(tasks, "task"),
        _ => format!("{} and {}", plural(connections, "connection"), plural(tasks, "task")),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => {
            Timer::at(deadline).await;
        }
        None => pending().await,
    }
}

/// A stream of requests to stop: by a signal, or by something else.
pub(super) type ShutdownStream = Kept<Pin<Box<dyn Stream<Item = Option<Signal>> + Send>>>;

/// A future as a stream of one item.
pub(super) struct Once<F> {
    /// `None` once it is done.
    future: Option<Pin<Box<F>>>,
}

impl<F> Once<F> {
    pub(super) fn new(future: F) -> Self {
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

/// The first item of a shutdown stream shuts down, the second cancels. Each acts before it logs, and waits for no
/// logger.
///
/// A stream that panics counts as a request: it is better to stop than to run on without a way to be stopped.
pub(super) async fn follow_shutdown_stream(run: Arc<Run>, progress: Progress, mut stream: ShutdownStream) {
    let say = |level, text| progress.say(level, run.phase(), run.registry.len(), text);
    let cause = |by: Option<Signal>| by.map_or(Cause::Stream, Cause::Signal);
    let following = async {
        if let Some(first) = stream.get_mut().next().await {
            run.request(cause(first));
            say(
                Level::Info,
                first.map_or("asked to shut down".to_owned(), |signal| format!("{signal} came: shutting down")),
            );
            if let Some(second) = stream.get_mut().next().await {
                run.cancel(cause(second));
                let again = |signal| format!("{signal} came, the second signal: stopping now");
                say(Level::Info, second.map_or("asked again: stopping now".to_owned(), again));
            }
        }
    };
    if let Err(payload) = catch_future(|| following).await {
        run.request(Cause::Stream);
        let message = panic::message(&payload);
        say(Level::Error, format!("a shutdown stream panicked, so the server shuts down: {message}"));
        panic::discard(payload);
    }
}
