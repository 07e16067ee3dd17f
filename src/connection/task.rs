//! One connection's task, from its first poll to its end: what comes before the handler, the handler, and what comes
//! after.
//!
//! ```text
//!                 opened                    returned, failed, panicked, idle, aborted        closed
//!   Start ─▶ Opening ─▶ (Start) ─▶ Handling ──────────────────────────────────────▶ Ending ─▶ dropped
//!      └─────────────────────────────▲  └─────── nothing to wait for ───────────────────────────▲
//! ```
//!
//! [`ConnectionTask`] is the child's whole future, and has the stages. [`ConnectionGuard`] is a part of it: its drop,
//! which every way out passes, closes the connection and counts its end, once. What clones of the connection and the
//! rest of the run know of it is in its record ([`ConnectionRecord`]).
//!
//! The future is written by hand: an async function keeps each of its parameters twice, and each future that it awaits
//! in a place of its own. With thousands of connections that is memory, and each message finds less of it in the
//! processor's cache.

use super::Connection;
use super::blame;
use super::last_words::last_words;
use super::linger::{self, End, Ending, How};
use super::open::{self, Opening};
use super::timeouts::{Passed, Timeouts, cut_text};
use crate::error::OnFailure;
use crate::handler::{HandlerOutput, Outcome, TimedOut};
use crate::limits::{Counted, Permit};
use crate::listener::{Accepted, Protocols};
use crate::panic::{self, Chain, Kept};
use crate::run::Run;
use crate::run::completion::{CompletionGuard, inside};
use crate::run::end_reason::EndReason;
use crate::run::event::What;
use crate::run::name::run_line;
use crate::run::record::{AbortReason, ConnectionRecord, Named, Watch};
use crate::run::report::{Cause, Failure};
use crate::run::state::ConnectionState;
use log::Level;
use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// What all connections of a server have in common.
pub(crate) struct Service<H> {
    pub(crate) handler: Kept<H>,
    pub(crate) policy: Policy,
}

/// The settings that concern each connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) on_failure: OnFailure,
    pub(crate) opening: open::Limits,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) ack_timeout: Option<Duration>,
    /// How old a connection may be before it is drained.
    pub(crate) max_age: Option<Duration>,
    /// How long a drain of one connection may last.
    pub(crate) own_grace: Duration,
    pub(crate) newcomer_time: Duration,
    /// How long tasks may go on when their handler has returned.
    pub(crate) task_grace: Duration,
    pub(crate) watch: Watch,
}

pin_project! {
    /// Opens the connection, runs the handler to its end, and closes.
    ///
    /// The fields are dropped in this order: the guard must outlive the handler.
    pub(crate) struct ConnectionTask<H, Fut> {
        #[pin]
        stage: Stage<Fut>,
        timeouts: Option<Box<Timeouts>>,
        service: Arc<Service<H>>,
        guard: ConnectionGuard,
    }
}

pin_project! {
    #[project = StageProjected]
    enum Stage<Fut> {
        // Nothing has begun, or the last stage is over and the next has not begun.
        Start,
        // What comes before the handler.
        Opening { opening: Opening },
        Handling { #[pin] handler: Fut },
        // What comes after it.
        Ending { ending: Ending },
    }
}

impl<H, Fut> ConnectionTask<H, Fut>
where
    H: Fn(Connection) -> Fut,
    Fut: Future<Output: HandlerOutput>,
{
    pub(crate) fn new(service: Arc<Service<H>>, guard: ConnectionGuard) -> Self {
        let timeouts = Timeouts::new(&service.policy, guard.record());
        Self { stage: Stage::Start, timeouts, service, guard }
    }

    /// Polls until the handler has ended by itself, or must end (the error: it is cut, and why).
    fn poll_outcome(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Outcome, EndReason>> {
        // First, so that no poll of the handler begins once it is to be aborted.
        if self.guard.record().is_aborted() {
            if let Some(end) = self.as_mut().aborted() {
                return Poll::Ready(end);
            }
        }
        if let Poll::Ready(outcome) = self.as_mut().poll_handler(cx) {
            return Poll::Ready(Ok(outcome));
        }
        let this = self.project();
        match this.timeouts.as_mut().map(|it| it.poll(this.guard.record(), &this.service.policy, cx)) {
            Some(Poll::Ready(Passed::TimedOut(passed))) => Poll::Ready(Ok(Outcome::TimedOut(passed))),
            Some(Poll::Ready(Passed::Cut(reason))) => Poll::Ready(Err(reason)),
            _ => Poll::Pending,
        }
    }

    /// Others have asked for the end of this connection, or (`None`) for its drain.
    fn aborted(self: Pin<&mut Self>) -> Option<Result<Outcome, EndReason>> {
        let this = self.project();
        let (record, policy) = (this.guard.record(), &this.service.policy);
        if record.take_look() {
            this.timeouts.get_or_insert_with(Timeouts::none).begin_drain(record, policy);
        }
        Some(match record.abort_reason()? {
            AbortReason::TaskPanicked(message) => Ok(Outcome::TaskPanicked(message)),
            AbortReason::Vanished => Ok(Outcome::TimedOut(TimedOut::Ack(policy.ack_timeout.unwrap_or_default()))),
            AbortReason::CancelledById => Err(EndReason::CancelledById),
            AbortReason::Exit => Err(EndReason::Shutdown),
        })
    }

    fn poll_handler(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut this = self.project();
        if let StageProjected::Start = this.stage.as_mut().project() {
            if let Some(opening) = this.guard.begin_to_open(this.service.policy.opening) {
                this.stage.set(Stage::Opening { opening });
            }
        }
        if let StageProjected::Opening { opening } = this.stage.as_mut().project() {
            let opened = ready!(opening.as_mut().poll(cx));
            this.guard.count(opened.counted);
            match opened.result {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return Poll::Ready(Outcome::Rejected(why.into_rejection())),
                Err(payload) => return Poll::Ready(Outcome::panicked(payload)),
            }
            this.stage.set(Stage::Start); // dropped before the handler begins
            this.guard.record().note_opened();
        }
        inside(this.guard.run(), || {
            if let StageProjected::Start = this.stage.as_mut().project() {
                // Where handlers block the threads, the supervisor may come to its turn later than the deadline.
                if this.guard.run().is_out_of_time() {
                    this.guard.record().abort(AbortReason::Exit); // which wakes this task
                    return Poll::Pending;
                }
                this.guard.begin_to_serve();
                if let Some(timeouts) = this.timeouts {
                    timeouts.be_newcomer(this.guard.record(), Instant::now(), &this.service.policy);
                }
                let connection = this.guard.connection().clone();
                match panic::catch(|| (this.service.handler.get())(connection)) {
                    Ok(handler) => this.stage.set(Stage::Handling { handler }),
                    Err(payload) => return Poll::Ready(Outcome::panicked(payload)),
                }
            }
            match this.stage.as_mut().project() {
                StageProjected::Handling { handler } => Outcome::poll(handler, cx),
                _ => Poll::Pending, // not reached
            }
        })
    }
}

impl<H, Fut> Future for ConnectionTask<H, Fut>
where
    H: Fn(Connection) -> Fut,
    Fut: Future<Output: HandlerOutput>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Before anything is looked at that this task may be woken for.
        self.guard.record().draining.set_primary(cx.waker());
        if let StageProjected::Ending { ending } = self.as_mut().project().stage.project() {
            return ending.as_mut().poll(cx);
        }
        let outcome = ready!(self.as_mut().poll_outcome(cx));
        let mut this = self.project();
        this.guard.set_outcome(outcome);
        if let Err(payload) = panic::catch(|| this.stage.set(Stage::Start)) {
            let record = this.guard.record();
            let (id, peer, message) = (record.id.as_u64(), record.peer(), panic::message(&payload));
            run_line!(
                error,
                this.guard.run(),
                [connection = id, peer:% = peer],
                "a destructor of the handler panicked: {message}"
            );
            panic::discard(payload);
        }
        let (how, task_grace) = this.guard.how_to_close(this.service.policy.task_grace);
        // It is counted before the client can see the end, and closed before a logger can block; both before it
        // lingers.
        let line = this.guard.count_outcome();
        let ending = this.guard.begin_to_close(how, task_grace, cx);
        this.guard.log_outcome(line);
        let Some(mut ending) = ending else {
            return Poll::Ready(());
        };
        let poll = ending.as_mut().poll(cx);
        this.stage.set(Stage::Ending { ending });
        poll
    }
}

/// What has to be true when a connection ends: made when it is accepted; its drop, which every way out of the handler
/// passes, closes the connection and counts its end.
pub(crate) struct ConnectionGuard {
    /// `None` only in its drop.
    connection: Option<Connection>,
    /// Its place in the registry.
    key: usize,
    on_failure: OnFailure,
    /// Why it was cut, or in the end, why it has ended.
    end: Option<EndReason>,
    /// It ended by itself after the drain had begun.
    drained: bool,
    /// Its end was counted and logged.
    reported: bool,
    /// The error in it is the user's: its destructor may block or panic, and runs when the connection is closed.
    failure: Option<Box<Kept<Failure>>>,
    /// Nothing is unread or on its way: to close the descriptor is enough, if no other owner of the socket is left.
    quiet: bool,
    /// What comes before the handler.
    protocols: Protocols,
    /// How the handler ended by itself; `None`: it did not, and is counted as cancelled.
    outcome: Option<Outcome>,
    /// The client's place among the connections of its address, if that is limited.
    counted: Option<Box<Counted>>,
    /// Held while it lingers too.
    _permit: Permit,
    /// Dropped last: a field's drop comes after the drop of the struct.
    _completion: CompletionGuard,
}

impl ConnectionGuard {
    pub(crate) fn new(
        run: &Arc<Run>,
        mut accepted: Accepted,
        (permit, counted): (Permit, Option<Box<Counted>>),
        policy: &Policy,
        completion: CompletionGuard,
    ) -> Self {
        let protocols = std::mem::take(&mut accepted.protocols);
        let (key, record) = run.registry.enter(accepted, policy.watch);
        run.counters.accepted();
        run_line!(debug, run, [connection = record.id.as_u64(), peer:% = record.peer()], "opened {}", Named(&record));
        run.observer.tell(run, What::Accepted(&record));
        Self {
            connection: Some(Connection::new(record, Arc::clone(run))),
            key,
            on_failure: policy.on_failure,
            end: None,
            drained: false,
            reported: false,
            failure: None,
            quiet: false,
            protocols,
            outcome: None,
            counted,
            _permit: permit,
            _completion: completion,
        }
    }

    #[inline]
    fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("it is there until the drop")
    }

    #[inline]
    pub(crate) fn record(&self) -> &Arc<ConnectionRecord> {
        &self.connection().record
    }

    #[inline]
    fn run(&self) -> &Arc<Run> {
        self.connection().run()
    }

    /// What comes before the handler, if anything does.
    fn begin_to_open(&mut self, limits: open::Limits) -> Option<Opening> {
        let protocols = std::mem::take(&mut self.protocols);
        if limits.first_byte.is_none() && protocols.is_empty() {
            return None;
        }
        Some(open::open(Arc::clone(self.run()), Arc::clone(self.record()), protocols, limits))
    }

    /// The handler is about to be called.
    fn begin_to_serve(&self) {
        let record = self.record();
        record.set_state(ConnectionState::Serving);
        if record.is_spared() && self.run().draining.is_signalled() {
            self.run().newcomers.enter(record, Instant::now());
        }
    }

    fn count(&mut self, counted: Option<Box<Counted>>) {
        if counted.is_some() {
            self.counted = counted;
        }
    }

    /// From here on this is how the handler ended, whatever else may come: also if a destructor of it panics.
    fn set_outcome(&mut self, outcome: Result<Outcome, EndReason>) {
        self.drained = outcome.is_ok() && self.run().draining.is_signalled();
        self.record().end_newcomer_time();
        match outcome {
            Ok(outcome) => self.outcome = Some(outcome),
            Err(reason) => self.end = Some(reason),
        }
    }

    /// And how long the tasks may go on: `task_grace` after an orderly end.
    fn how_to_close(&self, task_grace: Duration) -> (How, Option<Duration>) {
        let how = match &self.outcome {
            None => How::Abruptly,                             // aborted
            Some(Outcome::TimedOut(_)) => How::WithoutWaiting, // silent for too long
            Some(Outcome::Rejected(why)) if !why.lingers => How::WithoutWaiting,
            Some(_) => How::WithCare,
        };
        match self.outcome {
            Some(Outcome::Completed | Outcome::Failed(_)) => (how, Some(task_grace)),
            _ => (how, None),
        }
    }

    /// Closes the connection, as far as that is possible at once. The rest takes time.
    fn begin_to_close(&mut self, how: How, task_grace: Option<Duration>, cx: &mut Context<'_>) -> Option<Ending> {
        let tasks = match (self.record().tasks.close(), task_grace) {
            (Some(tasks), Some(grace)) if !tasks.awaited.is_empty() => {
                let (run, record) = (Arc::clone(self.run()), Arc::clone(self.record()));
                return Some(last_words(run, record, tasks, grace));
            }
            (tasks, _) => tasks,
        };
        match linger::begin(self.run(), self.record(), how, tasks, cx) {
            End::Quiet => self.quiet = true,
            End::ShutDown => {}
            End::Waits(ending) => return Some(ending),
        }
        None
    }

    /// Counts how the handler ended, and stops the server if a failure has to. Once. Returns what is to be logged.
    fn count_outcome(&mut self) -> Option<EndLine> {
        if std::mem::replace(&mut self.reported, true) {
            return None;
        }
        let (record, run) = (Arc::clone(self.record()), Arc::clone(self.run()));
        let reason = match &self.outcome {
            Some(Outcome::Failed(error)) => blame::reason_of(error, &record),
            Some(outcome) => outcome.reason(),
            None => self.end.unwrap_or(EndReason::Shutdown),
        };
        self.end = Some(reason);
        if reason == EndReason::Shutdown {
            run.counters.cut(&record);
        }
        run.counters.ended(reason, self.drained);
        let peer = || record.peer().clone();
        let name = Named(&record);
        let (failure, line) = match self.outcome.take() {
            None if matches!(reason, EndReason::Age | EndReason::DrainedById) => {
                return EndLine::new(Level::Warn, format!("cut {name}: {}", cut_text(reason)));
            }
            None if reason == EndReason::CancelledById => {
                return EndLine::new(Level::Info, format!("cancelled {name} on request"));
            }
            None => return EndLine::new(Level::Debug, "cancelled"),
            Some(Outcome::Completed) => return EndLine::new(Level::Debug, "closed"),
            // The peer's fault, which never stops the server.
            Some(Outcome::Rejected(why)) => {
                return EndLine::new(why.level, format!("closed {name}: {}", why.reason));
            }
            Some(Outcome::TimedOut(limit)) => return EndLine::new(Level::Debug, format!("closed {name}: {limit}")),
            Some(Outcome::Failed(source)) => {
                let why = panic::text(|| Chain(source.as_ref()).to_string());
                let (level, text) = match reason {
                    EndReason::Failed => (Level::Warn, format!("the handler of {name} failed: {why}")),
                    _ => (Level::Debug, format!("closed {name}: {why}")),
                };
                (Failure::Handler { peer: peer(), source }, EndLine::new(level, text))
            }
            Some(Outcome::Panicked(message)) => {
                let text = format!("the handler of {name} panicked: {message}");
                (Failure::HandlerPanicked { peer: peer(), message }, EndLine::new(Level::Error, text))
            }
            // It is logged.
            Some(Outcome::TaskPanicked(message)) => (Failure::HandlerPanicked { peer: peer(), message }, None),
        };
        match self.on_failure {
            OnFailure::Shutdown if reason.is_a_fault() => run.fail(Cause::HandlerFailed, failure),
            _ => self.failure = Some(Box::new(Kept::new(failure))),
        }
        line
    }

    fn log_outcome(&self, line: Option<EndLine>) {
        if let Some(line) = line {
            let record = self.record();
            let (id, peer) = (record.id.as_u64(), record.peer());
            match line.text {
                Cow::Borrowed(what) => {
                    run_line!(line.level, self.run(), [connection = id, peer:% = peer], "{what} {}", Named(record));
                }
                Cow::Owned(text) => run_line!(line.level, self.run(), [connection = id, peer:% = peer], "{text}"),
            }
        }
    }
}

/// How a connection has ended, for the log.
struct EndLine {
    level: Level,
    /// All of it; or, borrowed, what comes before the connection's name.
    text: Cow<'static, str>,
}

impl EndLine {
    fn new(level: Level, text: impl Into<Cow<'static, str>>) -> Option<Self> {
        Some(Self { level, text: text.into() })
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if !self.quiet {
            let record = self.record();
            record.end(linger::has_clones(record));
            record.shut_down();
            drop(record.tasks.close()); // cancels and joins them
        }
        let line = self.count_outcome(); // unless its last poll has done so
        self.log_outcome(line);
        let Some(Connection { record, server }) = self.connection.take() else {
            return; // not reached: it is there until now
        };
        // Before it is out of the registry: a client that sees it gone may come again at once.
        self.counted = None;
        server.run().registry.leave(self.key);
        server.run().observer.tell(server.run(), What::Ended(&record, self.end.unwrap_or(EndReason::Shutdown)));
        // If the error's destructor blocks its thread, the log line of a waiting drop can name the connection.
        let _named = self.failure.is_some().then(|| Arc::clone(&record));
        // Nearly always there is no clone: then the descriptor is closed here, and no task has to be woken.
        match Arc::try_unwrap(record) {
            Ok(record) if record.is_lent() => record.shut_down(), // there may be another descriptor
            Ok(_) => {}
            Err(record) => {
                record.shut_down();
                record.notify_of_drain();
            }
        }
        self.failure = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Pending, pending};

    fn child_of<H, Fut>(_: &H) -> usize
    where
        H: Fn(Connection) -> Fut,
    {
        size_of::<ConnectionTask<H, Fut>>()
    }

    /// Every connection has one, and with thousands of them each byte counts.
    #[test]
    fn a_connections_future_is_little_more_than_its_handlers() {
        let more = child_of(&|_: Connection| -> Pending<()> { pending() });
        assert!(more <= 200, "{more} bytes");
    }
}
