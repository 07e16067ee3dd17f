//! [`ConnectionTask`]: the future of one connection, from its first poll to its end: opening, handler, and close.
//!
//! ```text
//!                 opened                    returned, failed, panicked, idle, aborted        closed
//!   Start ─▶ Opening ─▶ (Start) ─▶ Handling ──────────────────────────────────────▶ Ending ─▶ dropped
//!      └─────────────────────────────▲  └─────── nothing to wait for ───────────────────────────▲
//! ```
//!
//! The task is the whole future of a child in the run's task group, and has the stages. [`ConnectionGuard`] is a part
//! of it: a drop guard that closes the connection and counts its end, once, on every way out. What clones of the
//! connection and the rest of the run need is in the record ([`ConnectionRecord`]).
//!
//! The future is written by hand. An async function stores each of its parameters twice, and each awaited future in its
//! own place. With thousands of connections that costs memory, and each message finds less of it in the processor's
//! cache.

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
use crate::sync::time;
use log::Level;
use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// The handler and the settings, shared by all connections of a server.
pub(crate) struct Service<H> {
    /// The user's handler. Its destructor may panic, so it is `Kept`.
    pub(crate) handler: Kept<H>,
    pub(crate) policy: Policy,
}

/// The settings that each connection needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) on_failure: OnFailure,
    pub(crate) opening: open::Limits,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) ack_timeout: Option<Duration>,
    /// How old a connection may be before it is drained.
    pub(crate) max_age: Option<Duration>,
    /// How long a drain of one connection alone may last.
    pub(crate) own_grace: Duration,
    pub(crate) newcomer_time: Duration,
    /// How long tasks may write after their handler has returned.
    pub(crate) task_grace: Duration,
    /// What is noted of the connections' reads and writes.
    pub(crate) watch: Watch,
}

pin_project! {
    /// Future that opens the connection, runs the handler to its end, and closes the connection.
    ///
    /// The order of the fields is the order of their drops: the guard must outlive the handler.
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
        // Between two stages: the last has ended, and the next has not begun.
        Start,
        // PROXY header, handshake, first byte.
        Opening { opening: Opening },
        Handling { #[pin] handler: Fut },
        // Task grace and linger.
        Ending { ending: Ending },
    }
}

impl<H, Fut> ConnectionTask<H, Fut>
where
    H: Fn(Connection) -> Fut,
    Fut: Future<Output: HandlerOutput>,
{
    pub(crate) fn new(service: Arc<Service<H>>, guard: ConnectionGuard) -> Self {
        let timeouts = Timeouts::new(&service.policy, guard.record(), guard.run());
        Self { stage: Stage::Start, timeouts, service, guard }
    }

    /// Ready when the handler has ended by itself, or is cut; then the error is the reason.
    fn poll_outcome(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Outcome, EndReason>> {
        // Checked first: once an abort is requested, no poll of the handler begins.
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

    /// Handles a request of others: to end this connection, or (`None`) to drain it alone.
    fn aborted(self: Pin<&mut Self>) -> Option<Result<Outcome, EndReason>> {
        let this = self.project();
        let (record, policy) = (this.guard.record(), &this.service.policy);
        if record.take_look() {
            let run = this.guard.run();
            this.timeouts.get_or_insert_with(|| Box::new(Timeouts::none(run))).begin_drain(record, policy);
        }
        Some(match record.abort_reason()? {
            AbortReason::TaskPanicked(message) => Ok(Outcome::TaskPanicked(message)),
            AbortReason::Vanished => Ok(Outcome::TimedOut(TimedOut::Ack(policy.ack_timeout.unwrap_or_default()))),
            AbortReason::CancelledById => Err(EndReason::CancelledById),
            AbortReason::Exit => Err(EndReason::Shutdown),
        })
    }

    /// Opens the connection, calls the handler, and polls its future.
    fn poll_handler(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut this = self.project();
        if let StageProjected::Start = this.stage.as_mut().project() {
            if let Some(opening) = this.guard.begin_to_open(this.service.policy.opening) {
                this.stage.set(Stage::Opening { opening });
            }
        }
        if let StageProjected::Opening { opening } = this.stage.as_mut().project() {
            let opened = ready!(opening.as_mut().poll(cx));
            this.guard.keep_counted(opened.counted);
            match opened.result {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return Poll::Ready(Outcome::Rejected(why.into_rejection())),
                Err(payload) => return Poll::Ready(Outcome::panicked(payload)),
            }
            this.stage.set(Stage::Start); // drops the opening before the handler begins
            this.guard.record().note_opened();
        }
        inside(this.guard.run(), || {
            if let StageProjected::Start = this.stage.as_mut().project() {
                // No handler is started after the deadline. The supervisor cannot ensure this alone: if handlers block
                // all threads, it runs too late.
                if this.guard.run().is_out_of_time() {
                    this.guard.record().abort(AbortReason::Exit); // which wakes this task
                    return Poll::Pending;
                }
                this.guard.begin_to_serve();
                if let Some(timeouts) = this.timeouts {
                    timeouts.be_newcomer(this.guard.record(), time::now(), &this.service.policy);
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
        // Registers first, and only then checks the reasons for which this task is woken: so no wake-up is lost.
        self.guard.record().draining.set_primary(cx.waker());
        if let StageProjected::Ending { ending } = self.as_mut().project().stage.project() {
            return ending.as_mut().poll(cx);
        }
        let outcome = ready!(self.as_mut().poll_outcome(cx));
        let mut this = self.project();
        let outcome = this.guard.set_outcome(outcome);
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
        let (how, task_grace) = how_to_close(outcome.as_ref(), this.service.policy.task_grace);
        // The order matters: it is counted before the client can see EOF, and closed before the logger is called, which
        // may block. Both come before the linger.
        let line = this.guard.count_outcome(outcome);
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

/// Drop guard of an accepted connection. Every way out of the handler drops it; then it closes the connection and
/// counts its end.
pub(crate) struct ConnectionGuard {
    /// `None` only while the guard is dropped.
    connection: Option<Connection>,
    /// The connection's key in the registry.
    key: usize,
    on_failure: OnFailure,
    /// The reason for which the handler was cut; once the end is counted, its reason in any case.
    end: Option<EndReason>,
    /// The handler ended by itself after the drain had begun.
    drained: bool,
    /// The end was counted.
    reported: bool,
    /// How the handler failed. The user's error in it has a destructor that may block or panic, so it is dropped after
    /// the connection is closed.
    failure: Option<Box<Kept<Failure>>>,
    /// Nothing is unread or on its way: closing the descriptor is enough, if the socket has no other owner.
    quiet: bool,
    /// TLS and PROXY settings of the listener. Taken when the opening begins.
    protocols: Protocols,
    /// The client's entry among the connections of its address, if these are limited.
    counted: Option<Box<Counted>>,
    /// One of `max_connections`. It is held during the linger too.
    _permit: Permit,
    /// Keeps the run from being closed. Dropped last: fields are dropped after the struct's own drop.
    _completion: CompletionGuard,
}

impl ConnectionGuard {
    /// Enters an accepted connection in the registry, and counts and logs it.
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
            counted,
            _permit: permit,
            _completion: completion,
        }
    }

    #[inline]
    fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("the connection is there until the drop")
    }

    #[inline]
    pub(crate) fn record(&self) -> &Arc<ConnectionRecord> {
        &self.connection().record
    }

    #[inline]
    fn run(&self) -> &Arc<Run> {
        self.connection().run()
    }

    /// Returns the future that opens the connection; `None` if there is nothing to do.
    fn begin_to_open(&mut self, limits: open::Limits) -> Option<Opening> {
        let protocols = std::mem::take(&mut self.protocols);
        if limits.first_byte.is_none() && protocols.is_empty() {
            return None;
        }
        Some(open::open(Arc::clone(self.run()), Arc::clone(self.record()), protocols, limits))
    }

    /// Notes that the handler is about to be called. If the drain has begun, the connection is a newcomer from here.
    fn begin_to_serve(&self) {
        let record = self.record();
        record.set_state(ConnectionState::Serving);
        if record.is_spared() && self.run().draining.is_signalled() {
            self.run().newcomers.enter(record, time::now());
        }
    }

    /// Keeps the client's entry, if the opening has made one.
    fn keep_counted(&mut self, counted: Option<Box<Counted>>) {
        if counted.is_some() {
            self.counted = counted;
        }
    }

    /// Fixes how the handler ended. Nothing later changes that, for example a destructor that panics. Returns how it
    /// ended by itself; `None`: it was cut.
    fn set_outcome(&mut self, outcome: Result<Outcome, EndReason>) -> Option<Outcome> {
        self.drained = outcome.is_ok() && self.run().draining.is_signalled();
        self.record().end_newcomer_time();
        outcome.map_err(|reason| self.end = Some(reason)).ok()
    }

    /// Closes the connection as far as that needs no wait. Returns the rest, if there is any.
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

    /// Counts how the handler ended, once, and returns the log line. `None`: it did not end by itself. Under
    /// `OnFailure::Shutdown` a failure stops the server.
    fn count_outcome(&mut self, outcome: Option<Outcome>) -> Option<EndLine> {
        if std::mem::replace(&mut self.reported, true) {
            return None;
        }
        let (record, run) = (Arc::clone(self.record()), Arc::clone(self.run()));
        let reason = match &outcome {
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
        let (failure, line) = match outcome {
            None if matches!(reason, EndReason::Age | EndReason::DrainedById) => {
                // Before its handler begins, it is the peer that is slow.
                let was_opening = record.state() == ConnectionState::Opening;
                let level = if was_opening { Level::Debug } else { Level::Warn };
                return EndLine::new(level, format!("cut {name}: {}", cut_text(reason, was_opening)));
            }
            None if reason == EndReason::CancelledById => {
                return EndLine::new(Level::Info, format!("cancelled {name} on request"));
            }
            None => return EndLine::new(Level::Debug, "cancelled"),
            Some(Outcome::Completed) => return EndLine::new(Level::Debug, "closed"),
            // The peer's fault: it never stops the server.
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
            // Without a line: the panic has been logged.
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

/// Returns how to close after this outcome (`None`: the handler was cut), and how long the tasks may write: for
/// `task_grace` after an orderly end.
fn how_to_close(outcome: Option<&Outcome>, task_grace: Duration) -> (How, Option<Duration>) {
    let how = match outcome {
        None => How::Abruptly,
        Some(Outcome::TimedOut(_)) => How::WithoutWaiting, // the peer makes no progress
        Some(Outcome::Rejected(why)) if !why.lingers => How::WithoutWaiting,
        Some(_) => How::WithCare,
    };
    match outcome {
        Some(Outcome::Completed | Outcome::Failed(_)) => (how, Some(task_grace)),
        _ => (how, None),
    }
}

/// Log line of a connection's end.
struct EndLine {
    level: Level,
    /// Owned: the whole text. Borrowed: the text in front of the connection's name.
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
        let line = self.count_outcome(None); // unless its last poll has done so
        self.log_outcome(line);
        let Some(Connection { record, server }) = self.connection.take() else {
            return; // not reached: only this line takes it
        };
        // First, so that a client which sees its connection gone from the registry can connect again at once.
        self.counted = None;
        server.run().registry.leave(self.key);
        server.run().observer.tell(server.run(), What::Ended(&record, self.end.unwrap_or(EndReason::Shutdown)));
        // Keeps the record while the error's destructor runs. If that blocks its thread, the log line of a drop that
        // waits for it can name the connection.
        let _named = self.failure.is_some().then(|| Arc::clone(&record));
        // Usually there is no clone: then the descriptor is closed here, and no task has to be woken.
        match Arc::try_unwrap(record) {
            Ok(record) if record.is_lent() => record.shut_down(), // the user may have duplicated the descriptor
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

    #[test]
    fn who_closes_with_care_waits_for_the_peer_and_only_an_orderly_end_has_a_task_grace() {
        use crate::handler::Rejection;
        let grace = Duration::from_secs(9);
        let rejected = |lingers| {
            let reason = Box::new("rejected, on purpose");
            Outcome::Rejected(Rejection { end: EndReason::Handshake, reason, level: Level::Debug, lingers })
        };
        let limit = Duration::from_secs(1);
        for (outcome, how, tasks) in [
            (None, How::Abruptly, None),
            (Some(Outcome::Completed), How::WithCare, Some(grace)),
            (Some(Outcome::Failed("failed, on purpose".into())), How::WithCare, Some(grace)),
            (Some(Outcome::Panicked(String::new())), How::WithCare, None),
            (Some(Outcome::TaskPanicked(String::new())), How::WithCare, None),
            (Some(rejected(true)), How::WithCare, None),
            (Some(rejected(false)), How::WithoutWaiting, None),
            (Some(Outcome::TimedOut(TimedOut::Idle(limit))), How::WithoutWaiting, None),
            (Some(Outcome::TimedOut(TimedOut::Write(limit))), How::WithoutWaiting, None),
            (Some(Outcome::TimedOut(TimedOut::Ack(limit))), How::WithoutWaiting, None),
        ] {
            assert_eq!(how_to_close(outcome.as_ref(), grace), (how, tasks), "{outcome:?}");
        }
    }

    fn child_of<H, Fut>(_: &H) -> usize
    where
        H: Fn(Connection) -> Fut,
    {
        size_of::<ConnectionTask<H, Fut>>()
    }

    /// Each connection has this future. With thousands of connections each byte counts.
    #[test]
    fn a_connections_future_is_little_more_than_its_handlers() {
        let more = child_of(&|_: Connection| -> Pending<()> { pending() });
        assert!(more <= 120, "{more} bytes");
    }
}
