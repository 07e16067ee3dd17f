//! Why a handler ends before it returns: the abort reason of a record, and the drain of its connection alone.
//!
//! Anyone may set either, from any thread. The connection's own task finds them before its next poll of the handler.

use super::ConnectionRecord;
use crate::run::end_reason::EndReason;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The drain of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainAlone {
    pub(crate) deadline: Instant,
    /// How it is counted if it is cut then.
    pub(crate) reason: EndReason,
}

/// Why a handler is dropped before its end.
#[derive(Debug)]
pub(crate) enum AbortReason {
    /// A task of the connection has panicked, with this message.
    TaskPanicked(String),
    /// The peer has acknowledged nothing for too long.
    Vanished,
    /// This connection alone was cancelled.
    CancelledById,
    /// The whole server was.
    Exit,
}

/// An abort reason in one byte. What counts more is larger; of the cancels the first counts.
impl AbortReason {
    pub(super) const NONE: u8 = 0;
    /// None, but the task is to look at `alone`.
    const LOOK: u8 = 1;
    const TASK_PANICKED: u8 = 2;
    const VANISHED: u8 = 3;
    const CANCELLED_BY_ID: u8 = 4;
    const EXIT: u8 = 5;
}

impl ConnectionRecord {
    /// Has the handler dropped before its next poll. A cancel counts more than a panic: it also ends what comes after
    /// the handler.
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
        let counts_more = |before| (before < reason && before < AbortReason::CANCELLED_BY_ID).then_some(reason);
        let _ = self.abort_reason.fetch_update(Ordering::AcqRel, Ordering::Acquire, counts_more);
        self.draining.wake_primary();
    }

    /// Drains this connection alone: its task notifies the handler, and cuts it at the deadline. The first such drain
    /// counts.
    pub(crate) fn drain_alone(&self, drain: DrainAlone) {
        let _ = self.rare().alone.set(drain);
        let look = AbortReason::LOOK;
        let _ = self.abort_reason.compare_exchange(AbortReason::NONE, look, Ordering::AcqRel, Ordering::Acquire);
        self.draining.wake_primary();
    }

    pub(crate) fn alone(&self) -> Option<DrainAlone> {
        self.rare.get()?.alone.get().copied()
    }

    /// To be asked by the connection's own task, before it looks at `alone`.
    pub(crate) fn take_look(&self) -> bool {
        let look = AbortReason::LOOK;
        self.abort_reason.compare_exchange(look, AbortReason::NONE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether its task has something to do about it, or about `alone`. To be asked by the connection's own task, once
    /// it is the event's primary task.
    #[inline]
    pub(crate) fn is_aborted(&self) -> bool {
        self.abort_reason.load(Ordering::Acquire) != AbortReason::NONE
    }

    /// The same for a cancel alone: a task's panic ends the handler, and nothing that comes after it.
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
