//! Carries out a shutdown: the supervisor (lame duck, drain, cancel), and the shutdown streams that request one.
//!
//! The supervisor is one child that carries out what is requested of a run, from the first request to the last
//! handler's end. It is a task of its own, so the phases and the deadline go on whether or not the future of `serve` is
//! being polled.

use crate::group::TaskGroup;
use crate::panic::{self, Kept, catch_future, log_line};
use crate::run::Run;
use crate::run::completion::CompletionGuard;
use crate::run::phase::Phase;
use crate::run::record::AbortReason;
use crate::run::report::Cause;
use crate::sync::event::Event;
use async_io::Timer;
use async_std::stream::{Stream, StreamExt};
use futures_concurrency::prelude::*;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How often the log says what a drain still waits for.
const PROGRESS: Duration = Duration::from_secs(1);

/// Everything of a run that runs. Dropped at any moment, it is cancelled and joined in the order of the fields: first
/// the accept loops, so that no connection begins when the handlers go; the completion guard last.
#[derive(Debug)]
pub(super) struct RunTasks {
    pub(super) lame_duck: Duration,
    pub(super) newcomer_time: Duration,
    pub(super) accept_loops: TaskGroup,
    pub(super) connections: TaskGroup,
    /// What users have spawned on the server.
    pub(super) tasks: TaskGroup,
    /// The same for those that a drain does not wait for.
    pub(super) background: TaskGroup,
    /// The shutdown streams. Alive to the end, so that a second signal can still cancel.
    pub(super) shutdown_streams: TaskGroup,
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
        (self.background.settled(), self.log_progress()).race().await;
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
        if self.lame_duck.is_zero() || self.run.cancelled.is_signalled() || self.accept_loops.is_empty() {
            return;
        }
        self.run.advance(Phase::LameDuck);
        log_line!(info, phase:% = Phase::LameDuck, connections = self.run.registry.len();
            "not ready any more; still accepting for {:.1?}", self.lame_duck
        );
        let over = sleep_until(Instant::now().checked_add(self.lame_duck));
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
        self.run.begin_drain(self.newcomer_time);
        if !self.is_anything_left() {
            return;
        }
        let deadline = self.run.deadline();
        self.log_drain(deadline);
        let newcomers = self.run.newcomers.notify_when_due();
        (self.all_ended(), sleep_until(deadline), self.run.cancelled.wait(), newcomers, self.log_progress())
            .race()
            .await;
    }

    /// Until the last handler's and the last task's future is destroyed.
    async fn cancel(&self) {
        self.run.advance(Phase::Cancelling);
        log_line!(info, phase:% = Phase::Cancelling, connections = self.run.registry.len();
            "cancelling {}", self.what_is_left()
        );
        // A connection ends itself, so that it waits for its tasks without keeping a thread; a task is destroyed.
        self.connections.close();
        for record in self.run.registry.all() {
            record.abort(AbortReason::Cancelled);
        }
        self.tasks.cancel();
        self.background.cancel();
        (self.all_ended(), self.log_progress()).race().await;
    }

    fn log_drain(&self, deadline: Option<Instant>) {
        let limit = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(limit) => format!("for at most {limit:.1?}"),
            None => "without a limit".to_owned(),
        };
        let hint = match self.run.cause() {
            Some(Cause::Stream) => "; a second signal (Ctrl-C) stops now",
            _ => "",
        };
        log_line!(info, phase:% = Phase::Draining, connections = self.run.registry.len();
            "draining {} {limit}{hint}", self.what_is_left()
        );
    }

    /// Logs once a second what is left. Never ends.
    async fn log_progress(&self) {
        loop {
            Timer::after(PROGRESS).await;
            let phase = self.run.phase();
            let open = self.run.registry.len();
            let still = if phase == Phase::Cancelling { "; a handler blocks its thread" } else { "" };
            match self.run.registry.oldest() {
                Some(oldest) => log_line!(info, phase:% = phase, connections = open, connection = oldest.id.as_u64(),
                    peer:% = oldest.peer();
                    "{phase}: {} left, the oldest from `{}`, {:.1?} old{still}",
                    self.what_is_left(), oldest.peer(), oldest.since.elapsed()
                ),
                None => log_line!(info, phase:% = phase, connections = open;
                    "{phase}: {} left{still}", self.what_is_left()
                ),
            }
        }
    }

    fn what_is_left(&self) -> String {
        let open = self.run.registry.len();
        let tasks = self.tasks.len();
        let plural = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        match (open, tasks) {
            (_, 0) => plural(open, "connection", "connections"),
            (0, _) => plural(tasks, "task", "tasks"),
            _ => format!("{} and {}", plural(open, "connection", "connections"), plural(tasks, "task", "tasks")),
        }
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

/// A stream of requests to stop.
pub(super) type ShutdownStream = Kept<Pin<Box<dyn Stream<Item = ()> + Send>>>;

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

/// The first item of a shutdown stream shuts down, the second cancels. Each acts before it logs: a logger may block, on
/// a terminal that is stopped.
///
/// A stream that panics counts as a request: it is better to stop than to run on without a way to be stopped.
pub(super) async fn follow_shutdown_stream(run: Arc<Run>, mut stream: ShutdownStream) {
    let following = async {
        if stream.get_mut().next().await.is_some() {
            run.request(Cause::Stream);
            log_line!(info, phase:% = run.phase(); "asked to shut down");
            if stream.get_mut().next().await.is_some() {
                run.cancel(Cause::Stream);
                log_line!(info, phase:% = run.phase(); "asked again: stopping now");
            }
        }
    };
    if let Err(payload) = catch_future(|| following).await {
        run.request(Cause::Stream);
        log_line!(error, phase:% = run.phase();
            "a shutdown stream panicked, so the server shuts down: {}", panic::message(&payload)
        );
        panic::discard(payload);
    }
}
