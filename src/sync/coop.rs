//! Cooperative scheduling: a stream that never blocks yields after a budget of operations.
//!
//! A poll that yields returns `Pending` although bytes may be there, and wakes its own task. A task that only waits
//! sees no difference. But `until_draining` concludes from `Pending` that nothing has arrived, so that leaving loses
//! nothing. It must know whether a poll has yielded. The futures between it and the stream are the user's, so no type
//! can carry that. Instead the thread counts its yields ([`yields`]), and the caller compares the count before and
//! after its poll.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

/// How many reads, or writes, in a row may complete without waiting. tokio grants 128, for both together. With 32, an
/// echo of 64 KiB messages through a 1 KiB buffer yields in the middle of each message, which costs 10 %.
pub(crate) const BUDGET: u8 = 250;

/// Count of operations in a row that completed without waiting. A hint: correctness never depends on it.
///
/// Each direction has its own. A task that writes whenever no byte has arrived waits in its reads, and its writes never
/// stop: a wait in one direction implies nothing for the other.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicU8);

/// The direction of a poll: reading; or writing, flushing and closing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Budget {
    /// Returns whether the next operation must yield.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= BUDGET
    }

    /// Yields: wakes the task, so that the executor polls it after the others, and grants a new budget.
    pub(crate) fn yield_now<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.reset();
        mark_yield();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts an operation that completed without waiting.
    pub(crate) fn spend(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.saturating_add(1), Ordering::Relaxed);
    }

    /// Grants a new budget, because an operation had to wait.
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

thread_local!(static YIELDS: Cell<u64> = const { Cell::new(0) });

/// Returns how many polls on this thread have yielded. If the count has changed in a poll, the poll's `Pending` does
/// not mean that nothing has arrived.
pub(crate) fn yields() -> u64 {
    YIELDS.get()
}

thread_local!(static REFUSALS: Cell<u64> = const { Cell::new(0) });

/// Returns how many of the yields were refusals: another task had its turn at the stream (`transport/boxed.rs`), and
/// wakes the refused one when the turn ends.
pub(crate) fn refusals() -> u64 {
    REFUSALS.get()
}

/// Counts a poll that yields because another task has its turn. That task wakes this one.
pub(crate) fn mark_refusal() {
    REFUSALS.set(REFUSALS.get().wrapping_add(1));
    mark_yield();
}

/// Counts a poll that yields. The caller must have its task woken.
pub(crate) fn mark_yield() {
    YIELDS.set(YIELDS.get().wrapping_add(1));
}
