//! Locks, thread identities and the identity of wakers: the standard library's, or loom's in a model.
//!
//! In a model (`--cfg ebbtide_loom`, see CONTRIBUTING.md) the names mean loom's types, which try every interleaving of
//! the threads; everywhere else they mean the standard library's.

pub(crate) mod broadcast;
pub(crate) mod coop;
pub(crate) mod event;
pub(crate) mod waker_set;

use std::sync::PoisonError;
use std::task::Waker;

#[cfg(not(all(test, ebbtide_loom)))]
mod names {
    use std::num::NonZeroU64;
    use std::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    use std::time::Duration;

    /// A thread's name for as long as the process lives.
    ///
    /// Not `std::thread::ThreadId`: that one comes from a handle whose reference count every poll would touch. Not
    /// zero, so that a slot has room for it where the future was.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct ThreadId(NonZeroU64);

    /// The thread that calls.
    pub(crate) fn this_thread() -> ThreadId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // It has no destructor, so it can still be read while a thread's other locals are being destroyed.
        thread_local!(static ID: ThreadId =
            ThreadId(NonZeroU64::MIN.saturating_add(NEXT.fetch_add(1, Ordering::Relaxed))));
        ID.with(|id| *id)
    }

    /// Waits until notified, at most for `limit`; says whether the time was up.
    pub(crate) fn wait<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        let (guard, result) = condvar.wait_timeout(guard, limit).unwrap_or_else(std::sync::PoisonError::into_inner);
        (guard, result.timed_out())
    }
}

#[cfg(all(test, ebbtide_loom))]
mod names {
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread::ThreadId;

    pub(crate) fn this_thread() -> ThreadId {
        loom::thread::current().id()
    }

    /// A model has no clock: time is never up.
    pub(crate) fn wait<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _limit: std::time::Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        (condvar.wait(guard).unwrap(), false)
    }
}

pub(crate) use names::*;

/// Locks without regard to poisoning: no user code runs under our locks, so no panic can leave half a change behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What tells a task's waker from others', as long as one of its wakers is kept: its address. Never 0.
#[inline]
pub(crate) fn identity(waker: &Waker) -> usize {
    (waker.data().addr() ^ std::ptr::from_ref(waker.vtable()).addr().rotate_left(32)).max(1)
}
