//! Polls that say `Pending` although there may be something: the task goes to the end of the executor's queue, or another one has
//! its turn at the stream.
//!
//! Such a task is woken, so whoever merely waits need not know. But who would draw a conclusion from `Pending`, namely that
//! nothing has arrived and so nothing is lost by leaving, has to look again: see [`times`].

use std::cell::Cell;

thread_local!(static TIMES: Cell<u64> = const { Cell::new(0) });

/// How often a poll on this thread was put off. If a poll has changed it, that poll's `Pending` says nothing.
pub(crate) fn times() -> u64 {
    TIMES.get()
}

/// A poll is put off. Whoever says so has the task woken.
pub(super) fn mark() {
    TIMES.set(TIMES.get().wrapping_add(1));
}
