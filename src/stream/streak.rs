//! So that nobody has a thread for itself: who never has to wait goes to the end of the executor's queue now and then.

use super::put_off;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

/// So many reads, or writes, in a row that had not to wait are a turn. tokio grants 128, of both together. With 32 a message of
/// 64 KiB, echoed with a buffer of 1 KiB, was stopped in its middle again and again, which cost a tenth.
pub(super) const BUDGET: u8 = 250;

/// How often in a row one had not to wait. Never needed for correctness.
///
/// Each direction has its own. Who writes whenever nothing has come waits for a byte each time, and never stops: a wait in one
/// direction says nothing of the other.
#[derive(Debug, Default)]
pub(super) struct Streak(AtomicU8);

/// The direction of a poll: what is read, or what is written, flushed and closed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    In,
    Out,
}

impl Streak {
    /// Whether it is somebody else's turn.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= BUDGET
    }

    /// Sends the task to the end of the queue.
    pub(super) fn end<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.reset();
        put_off::mark();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn go_on(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
