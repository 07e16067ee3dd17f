//! Locks, thread identities, and the identity of wakers.
//!
//! The names of locks, threads and atomics mean the standard library's types. In a model (`--cfg ebbtide_loom`, see
//! CONTRIBUTING.md) they mean loom's, which try every interleaving of the threads. Below:
//!
//! - [`event`]: a one-time event with any number of waiters;
//! - [`waker_set`]: the wakers of tasks that wait for one thing; [`broadcast`]: one waker that wakes many tasks;
//! - [`coop`]: the cooperative budget;
//! - [`time`]: the clock, and a timer of the reactor.

pub(crate) mod broadcast;
pub(crate) mod coop;
pub(crate) mod event;
pub(crate) mod time;
pub(crate) mod waker_set;

#[cfg(all(test, ebbtide_loom))]
pub(crate) mod model;

use std::sync::PoisonError;
use std::task::Waker;

#[cfg(not(all(test, ebbtide_loom)))]
mod names {
    use std::num::NonZeroU64;
    use std::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    use std::time::Duration;

    /// Identity of a thread, unique in the process.
    ///
    /// Not `std::thread::ThreadId`: to get one, every poll would change the reference count of a thread handle. Not
    /// zero, so that a slot can store it in the place of the future.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct ThreadId(NonZeroU64);

    /// Returns the identity of the calling thread.
    pub(crate) fn this_thread() -> ThreadId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // It has no destructor, so it can still be read while the other locals of the thread are destroyed.
        thread_local!(static ID: ThreadId =
            ThreadId(NonZeroU64::MIN.saturating_add(NEXT.fetch_add(1, Ordering::Relaxed))));
        ID.with(|id| *id)
    }

    /// Waits until notified, for at most `limit`. Returns the guard, and whether the limit was reached.
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

    /// Waits until notified. A model's clock ends no such wait, so the limit is never reached.
    pub(crate) fn wait<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _limit: std::time::Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        (condvar.wait(guard).unwrap(), false)
    }
}

pub(crate) use names::*;

/// The atomics of the states that are modelled. All others are the standard library's.
pub(crate) mod atomic {
    #[cfg(all(test, ebbtide_loom))]
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, fence};
    pub(crate) use std::sync::atomic::Ordering;
    #[cfg(not(all(test, ebbtide_loom)))]
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, fence};
}

/// Locks a mutex and ignores poisoning: no user code runs under our locks, so no panic can leave a change half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a number that identifies the task of a waker, made of the addresses in the waker. Never 0.
///
/// It is unique only while a waker of that task is kept, because that keeps the addresses in use.
#[inline]
pub(crate) fn identity(waker: &Waker) -> usize {
    (waker.data().addr() ^ std::ptr::from_ref(waker.vtable()).addr().rotate_left(32)).max(1)
}

#[cfg(all(test, not(ebbtide_loom)))]
mod tests {
    use super::identity;
    use super::waker_set::counting::Count;
    use std::collections::HashSet;
    use std::sync::Arc;

    #[test]
    fn wakers_of_different_tasks_have_different_identities_and_clones_have_the_same() {
        let wakers: Vec<_> = (0..1000).map(|_| Arc::new(Count::default()).waker()).collect();
        assert!(wakers.iter().all(|waker| identity(waker) != 0 && identity(waker) == identity(&waker.clone())));
        assert_eq!(wakers.iter().map(identity).collect::<HashSet<_>>().len(), wakers.len());
    }
}
