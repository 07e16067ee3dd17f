//! [`WakerSet`]: the wakers of the tasks that wait for one thing; and how wakers are woken.
//!
//! Wakers are user code: their clone, wake and drop may do anything, a panic included.

use crate::panic::log_line;
use slab::Slab;
use std::task::Waker;

/// Set of wakers with O(1) registration and removal, for use under its owner's lock.
///
/// No method runs a waker's code. A waker that is displaced or taken is returned, and the owner wakes or drops it after
/// it has released its lock.
#[derive(Debug, Default)]
pub(crate) struct WakerSet {
    /// One entry for each waiter; `None` once its waker was taken. The waiter removes its entry by [`Self::remove`].
    entries: Slab<Option<Waker>>,
}

impl WakerSet {
    /// Stores `waker` under the waiter's key, or makes a key. Returns the waker that was there before.
    #[must_use = "drop the displaced waker after the lock is released"]
    pub(crate) fn register(&mut self, key: &mut Option<usize>, waker: Waker) -> Option<Waker> {
        match *key {
            Some(key) => self.entries[key].replace(waker),
            None => {
                *key = Some(self.entries.insert(Some(waker)));
                None
            }
        }
    }

    /// Removes a waiter. Returns its waker if it is still there.
    #[must_use = "drop the waker after the lock is released"]
    pub(crate) fn remove(&mut self, key: usize) -> Option<Waker> {
        self.entries.try_remove(key).flatten()
    }

    /// Takes every waker. The waiters' keys stay valid.
    #[must_use = "wake them after the lock is released"]
    pub(crate) fn take(&mut self) -> Vec<Waker> {
        self.entries.iter_mut().filter_map(|(_, entry)| entry.take()).collect()
    }
}

/// Wakes each of them. If one panics, the others are still woken.
pub(crate) fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(wake);
}

/// Wakes one. Its panic is caught and logged.
pub(crate) fn wake(waker: Waker) {
    if let Err(payload) = crate::panic::catch(|| waker.wake()) {
        log_line!(error, "a waker panicked: {}", crate::panic::message(&payload));
        crate::panic::discard(payload);
    }
}

/// Wakes one and keeps it. Its panic is caught and logged.
pub(crate) fn wake_by_ref(waker: &Waker) {
    if let Err(payload) = crate::panic::catch(|| waker.wake_by_ref()) {
        log_line!(error, "a waker panicked: {}", crate::panic::message(&payload));
        crate::panic::discard(payload);
    }
}

/// Stand-in for a task, for the tests of modules that wake tasks.
#[cfg(test)]
pub(crate) mod counting {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    /// Counts how often it is woken. Its strong count shows how many of its wakers are kept.
    #[derive(Default)]
    pub(crate) struct Count(AtomicUsize);

    impl Count {
        pub(crate) fn waker(self: &Arc<Self>) -> Waker {
            Waker::from(Arc::clone(self))
        }

        pub(crate) fn woken(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}
