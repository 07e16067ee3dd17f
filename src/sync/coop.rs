//! Cooperative scheduling: a stream that never blocks yields after a budget of operations.
//!
//! A poll that yields returns `Pending` although there may be something, and wakes its own task. For a task that merely
//! waits that is no difference. But a caller that draws a conclusion from `Pending`, namely that nothing has arrived
//! and so nothing is lost by leaving (`until_draining`), has to know. The futures in between are the user's, so no type
//! can carry it: the thread counts the yields, and the caller compares the count before and after its poll. See
//! [`yields`].

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

/// So many reads, or writes, in a row that did not have to wait. tokio grants 128, of both together. With 32 a message
/// of 64 KiB, echoed with a buffer of 1 KiB, was stopped in its middle again and again, which cost a tenth.
pub(crate) const BUDGET: u8 = 250;

/// How many operations in a row did not have to wait. A hint: never needed for correctness.
///
/// Each direction has its own. A task that writes whenever nothing has come waits for a byte each time, and never
/// stops: a wait in one direction says nothing of the other.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicU8);

/// The direction of a poll: reading; or writing, flushing and closing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Budget {
    pub(crate) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= BUDGET
    }

    /// Yields: the task goes to the end of the executor's queue.
    pub(crate) fn yield_now<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.reset();
        mark_yield();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// An operation did not have to wait.
    pub(crate) fn spend(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.saturating_add(1), Ordering::Relaxed);
    }

    /// An operation had to wait.
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

thread_local!(static YIELDS: Cell<u64> = const { Cell::new(0) });

/// How many polls on this thread have yielded. If a poll has changed it, that poll's `Pending` says nothing.
pub(crate) fn yields() -> u64 {
    YIELDS.get()
}

thread_local!(static REFUSALS: Cell<u64> = const { Cell::new(0) });

/// How many of the yields were refusals: another task had the turn, and wakes this one at its end.
pub(crate) fn refusals() -> u64 {
    REFUSALS.get()
}

/// A poll yields since another task has the turn, which will wake this one.
pub(crate) fn mark_refusal() {
    REFUSALS.set(REFUSALS.get().wrapping_add(1));
    mark_yield();
}

/// A poll yields. The task must be woken.
pub(crate) fn mark_yield() {
    YIELDS.set(YIELDS.get().wrapping_add(1));
}
