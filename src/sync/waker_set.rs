//! [`WakerSet`]: the tasks that wait for one thing; and how wakers, which are user code, are told apart and woken.

use crate::panic::log_line;
use slab::Slab;
use std::task::Waker;

/// A set of wakers with O(1) registration and removal. Kept under its owner's lock.
///
/// Wakers are user code (their clone, wake and drop), so nothing here runs one: what is displaced or taken is handed
/// out, to be woken or dropped once the owner's lock is released.
#[derive(Debug, Default)]
pub(crate) struct WakerSet {
    /// One entry for each waiter; `None` once its waker was taken. The waiter removes its entry itself.
    entries: Slab<Option<Waker>>,
}

impl WakerSet {
    /// Remembers `waker` under the waiter's key, or makes a key for it. Gives back the waker that was there.
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

    /// Forgets a waiter. Gives back its waker if it is still there.
    #[must_use = "drop the waker after the lock is released"]
    pub(crate) fn remove(&mut self, key: usize) -> Option<Waker> {
        self.entries.try_remove(key).flatten()
    }

    /// Takes every waker; the waiters' keys stay valid.
    #[must_use = "wake them after the lock is released"]
    pub(crate) fn take(&mut self) -> Vec<Waker> {
        self.entries.iter_mut().filter_map(|(_, entry)| entry.take()).collect()
    }
}

/// Wakes each of them; a waker that panics does not keep the others from being woken.
pub(crate) fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(wake);
}

/// Wakes one; a panic of it is logged.
pub(crate) fn wake(waker: Waker) {
    if let Err(payload) = crate::panic::catch(|| waker.wake()) {
        log_line!(error, "a waker panicked: {}", crate::panic::message(&payload));
        crate::panic::discard(payload);
    }
}

/// The same for one that is kept.
pub(crate) fn wake_by_ref(waker: &Waker) {
    if let Err(payload) = crate::panic::catch(|| waker.wake_by_ref()) {
        log_line!(error, "a waker panicked: {}", crate::panic::message(&payload));
        crate::panic::discard(payload);
    }
}

/// What stands for a task in the tests of modules that wake tasks.
#[cfg(test)]
pub(crate) mod counting {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    /// Counts how often it is woken. What keeps one of its wakers keeps it too, which its strong count tells.
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
