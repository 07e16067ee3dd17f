//! [`AbortReason`]: why a handler ends before it returns; and [`DrainAlone`]: the drain of one connection.
//!
//! Any thread may set either, and wakes the connection's own task. The task looks at both before it polls the handler.
//! `abort_reason` is one byte, so this look costs one load for each poll.

use super::ConnectionRecord;
use crate::run::end_reason::EndReason;
use crate::sync::atomic::Ordering;
use std::time::Instant;

/// The drain of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainAlone {
    /// When the handler is cut.
    pub(crate) deadline: Instant,
    /// How the connection is counted if its handler is cut at the deadline.
    pub(crate) reason: EndReason,
}

/// Reasons for which a handler is dropped before it returns.
#[derive(Debug)]
pub(crate) enum AbortReason {
    /// A task of the connection panicked with this message.
    TaskPanicked(String),
    /// The peer has acknowledged nothing for too long.
    Vanished,
    /// This connection alone was cancelled.
    CancelledById,
    /// The whole server was cancelled, or its deadline passed.
    Exit,
}

/// The values of `abort_reason`. A larger value overrides a smaller one, except that the first cancel stays.
impl AbortReason {
    pub(super) const NONE: u8 = 0;
    /// There is no abort, but the task must look at `alone`.
    const LOOK: u8 = 1;
    const TASK_PANICKED: u8 = 2;
    const VANISHED: u8 = 3;
    const CANCELLED_BY_ID: u8 = 4;
    const EXIT: u8 = 5;
}

impl ConnectionRecord {
    /// Requests that the task drop the handler before the handler's next poll. A cancel overrides a panic: it also ends
    /// what follows the handler, such as the linger.
    pub(crate) fn abort(&self, reason: AbortReason) {
        let reason = match reason {
            AbortReason::TaskPanicked(message) => {
                let _ = self.rare().task_panic.set(message.into());
                AbortReason::TASK_PANICKED
            }
            AbortReason::Vanished => AbortReason::VANISHED,
            AbortReason::CancelledById => AbortReason::CANCELLED_BY_ID,
            AbortReason::Exit => AbortReason::EXIT,
        };
        let overrides = |before| (before < reason && before < AbortReason::CANCELLED_BY_ID).then_some(reason);
        let _ = self.abort_reason.fetch_update(Ordering::AcqRel, Ordering::Acquire, overrides);
        self.draining.wake_primary();
    }

    /// Drains this connection alone: its task notifies the handler, and cuts it at the deadline. Only the first such
    /// drain of a connection has an effect.
    pub(crate) fn drain_alone(&self, drain: DrainAlone) {
        let _ = self.rare().alone.set(drain);
        let look = AbortReason::LOOK;
        let _ = self.abort_reason.compare_exchange(AbortReason::NONE, look, Ordering::AcqRel, Ordering::Acquire);
        self.draining.wake_primary();
    }

    pub(crate) fn alone(&self) -> Option<DrainAlone> {
        self.rare.get()?.alone.get().copied()
    }

    /// Returns whether the task must look at `alone`, and clears that mark. Only the connection's own task calls it,
    /// before it looks.
    pub(crate) fn take_look(&self) -> bool {
        let look = AbortReason::LOOK;
        self.abort_reason.compare_exchange(look, AbortReason::NONE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Returns whether there is an abort, or a drain of this connection alone to look at. Only the connection's own
    /// task calls it, after it became the primary task of `draining`: so it misses no abort in between.
    #[inline]
    pub(crate) fn is_aborted(&self) -> bool {
        self.abort_reason.load(Ordering::Acquire) != AbortReason::NONE
    }

    /// Returns whether the connection was cancelled. A task's panic is not a cancel: it ends the handler, and nothing
    /// that follows the handler.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.abort_reason.load(Ordering::Acquire) >= AbortReason::CANCELLED_BY_ID
    }

    pub(crate) fn abort_reason(&self) -> Option<AbortReason> {
        match self.abort_reason.load(Ordering::Acquire) {
            AbortReason::NONE | AbortReason::LOOK => None,
            AbortReason::TASK_PANICKED => {
                let message = self.rare.get().and_then(|rare| rare.task_panic.get());
                Some(AbortReason::TaskPanicked(message.cloned().unwrap_or_default().into()))
            }
            AbortReason::VANISHED => Some(AbortReason::Vanished),
            AbortReason::CANCELLED_BY_ID => Some(AbortReason::CancelledById),
            _ => Some(AbortReason::Exit),
        }
    }
}
