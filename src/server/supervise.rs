//! The supervisor: one child that carries out what is asked of a run, from the first request to the last handler's end.
//!
//! It is a task of its own, so the phases and the deadline go on whether or not the future of `serve` is being polled.

use crate::control::Control;
use crate::control::member::Verdict;
use crate::control::notice::Notice;
use crate::control::phase::Phase;
use crate::control::report::Cause;
use crate::control::token::Token;
use crate::group::TaskGroup;
use crate::say::say;
use async_io::Timer;
use futures_concurrency::prelude::*;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a person is told what a drain still waits for.
const PROGRESS: Duration = Duration::from_secs(1);

/// Everything of a run that lives. Dropped at any moment, it is cancelled and joined: in the order of the fields, so that
/// nobody comes in any more when the handlers go, and the token is the last.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) lame_duck: Duration,
    pub(super) acceptors: TaskGroup,
    pub(super) connections: TaskGroup,
    /// What users have spawned on the server.
    pub(super) tasks: TaskGroup,
    /// The shutdown streams. Alive to the end, so that a second signal can still cancel.
    pub(super) stops: TaskGroup,
    /// Given to stop the acceptors.
    pub(super) stop_accepting: Arc<Notice>,
    pub(super) control: Arc<Control>,
    pub(super) _token: Token,
}

impl Crew {
    /// From serving to closed.
    pub(super) async fn supervise(self) {
        self.control.requested.given().await;
        self.lame_duck().await;
        self.stop_accepting().await;
        if !self.control.cancelled.is_given() {
            self.drain().await;
        }
        if self.is_somebody_left() {
            self.cancel().await;
        }
    }

    fn is_somebody_left(&self) -> bool {
        !self.connections.is_empty() || !self.tasks.is_empty()
    }

    /// Until the last connection and the last task have ended.
    async fn all_ended(&self) {
        // Again, because a handler may have spawned a task after the tasks had all ended.
        while self.is_somebody_left() {
            (self.connections.settled(), self.tasks.settled()).join().await;
        }
    }

    /// Clients are still accepted while the load balancer takes notice; a second request skips that.
    async fn lame_duck(&self) {
        if self.lame_duck.is_zero() || self.control.cancelled.is_given() || self.acceptors.is_empty() {
            return;
        }
        self.control.advance(Phase::LameDuck);
        say!(info, phase:% = Phase::LameDuck, connections = self.control.registry.len();
            "not ready any more; still accepting for {:.1?}", self.lame_duck
        );
        let over = sleep_until(Instant::now().checked_add(self.lame_duck));
        // Without listeners there is nothing left to accept.
        (over, self.control.again.given(), self.control.cancelled.given(), self.acceptors.settled()).race().await;
    }

    /// Ends when the last listening socket is closed. Bounded: an acceptor that is told to stop waits for nothing more.
    async fn stop_accepting(&self) {
        if self.control.cancelled.is_given() {
            self.acceptors.cancel(); // nobody who waits in the kernel's queue would be served
        } else {
            self.stop_accepting.give();
        }
        self.acceptors.settled().await;
    }

    /// Until everybody has ended, the grace period is over, or somebody cancels.
    async fn drain(&self) {
        self.control.begin_drain();
        if !self.is_somebody_left() {
            return;
        }
        let deadline = self.control.deadline();
        self.log_drain(deadline);
        (self.all_ended(), sleep_until(deadline), self.control.cancelled.given(), self.log_progress()).race().await;
    }

    /// Until the last handler's and the last task's future is destroyed.
    async fn cancel(&self) {
        self.control.advance(Phase::Cancelling);
        say!(info, phase:% = Phase::Cancelling, connections = self.control.registry.len();
            "cancelling {}", self.what_is_left()
        );
        // A connection ends itself, so that it waits for its tasks without keeping a thread; a task is destroyed.
        self.connections.close();
        for member in self.control.registry.all() {
            member.condemn(Verdict::Cancelled);
        }
        self.tasks.cancel();
        (self.all_ended(), self.log_progress()).race().await;
    }

    fn log_drain(&self, deadline: Option<Instant>) {
        let limit = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(limit) => format!("for at most {limit:.1?}"),
            None => "without a limit".to_owned(),
        };
        let hint = match self.control.cause() {
            Some(Cause::Stream) => "; a second signal (Ctrl-C) stops now",
            _ => "",
        };
        say!(info, phase:% = Phase::Draining, connections = self.control.registry.len();
            "draining {} {limit}{hint}", self.what_is_left()
        );
    }

    /// Says once a second what is left. Never ends.
    async fn log_progress(&self) {
        loop {
            Timer::after(PROGRESS).await;
            let phase = self.control.phase();
            let open = self.control.registry.len();
            let still = if phase == Phase::Cancelling { "; a handler blocks its thread" } else { "" };
            match self.control.registry.oldest() {
                Some(oldest) => say!(info, phase:% = phase, connections = open, connection = oldest.id.as_u64(),
                    peer:% = oldest.peer();
                    "{phase}: {} left, the oldest from `{}`, {:.1?} old{still}",
                    self.what_is_left(), oldest.peer(), oldest.since.elapsed()
                ),
                None => say!(info, phase:% = phase, connections = open;
                    "{phase}: {} left{still}", self.what_is_left()
                ),
            }
        }
    }

    fn what_is_left(&self) -> String {
        let open = self.control.registry.len();
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
