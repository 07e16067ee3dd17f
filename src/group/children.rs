//! The children of one group: who is there, who waits for them to be gone, and how all of them are cancelled.
//!
//! It names no runtime: the group hands each child to the executor, which polls it through its [`Shell`].

use super::slot::{End, Slot};
use crate::say::say;
use crate::sync::{Mutex, lock};
use crate::unwind::{self, Payload};
use crate::wakers::{Wakers, wake_all};
use slab::Slab;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// What a child is called in a log line. Not kept alive by the group: the child's future has it, for as long as it is waited for.
pub(crate) type Name = Weak<dyn fmt::Display + Send + Sync>;

/// A group's children. Shared by the group, its spawners (weakly) and the children themselves.
#[derive(Default)]
pub(super) struct Children {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every child that is not gone. A child takes itself out, so a finished one leaves nothing behind.
    present: Slab<Arc<Child>>,
    /// Nobody may join any more. Never reset.
    cancelled: bool,
    /// Nobody will join any more, so a panic is logged at once. Set in the end by the drop.
    dropped: bool,
    /// The first panic of a child, until a join raises it or the drop logs it.
    panic: Option<Payload>,
    /// Those who wait for `present` to be empty.
    joiners: Wakers,
}

/// One child.
pub(super) struct Child {
    slot: Slot,
    name: Option<Name>,
}

/// A child as its executor's task has it, with the way back into the group's books.
///
/// The way is here and not in the child, since here it costs nothing: the allocator rounds the task's size up to as much.
#[derive(Clone)]
pub(super) struct Shell {
    child: Arc<Child>,
    /// Holds the books no longer than the task lives, which ends once the child is gone.
    children: Arc<Children>,
}

impl Children {
    /// Enters a child. `None`: refused, because the group was cancelled; the future has been dropped.
    ///
    /// # Panics
    ///
    /// If there are 2³² children already.
    pub(super) fn enter<F>(self: &Arc<Self>, name: Option<Name>, future: F) -> Option<Shell>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let future = Box::pin(future); // outside the lock, and so is its drop where it is refused
        let mut state = lock(&self.state);
        if state.cancelled {
            drop(state);
            return None;
        }
        let entry = state.present.vacant_entry();
        let key = u32::try_from(entry.key()).expect("fewer than 2³² children");
        let child = Arc::new(Child { slot: Slot::new(future, key), name });
        entry.insert(Arc::clone(&child));
        drop(state);
        Some(Shell { child, children: Arc::clone(self) })
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).present.len()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        lock(&self.state).cancelled
    }

    /// Ready once no child is left, with the first panic since the last time.
    pub(super) fn poll_empty(&self, cx: &mut Context<'_>, key: &mut Option<usize>) -> Poll<Option<Payload>> {
        let waker = cx.waker().clone(); // user code, so before the lock
        let mut state = lock(&self.state);
        if state.present.is_empty() {
            return Poll::Ready(state.panic.take());
        }
        let displaced = state.joiners.register(key, waker);
        drop(state);
        drop(displaced);
        Poll::Pending
    }

    /// A joiner gives up, or has been served.
    pub(super) fn forget_joiner(&self, key: Option<usize>) {
        if let Some(key) = key {
            let waker = lock(&self.state).joiners.remove(key);
            drop(waker);
        }
    }

    /// Refuses newcomers from now on.
    pub(super) fn close(&self) {
        lock(&self.state).cancelled = true;
    }

    /// Refuses newcomers from now on, marks every child and wakes it, so that the executor's threads destroy them.
    pub(super) fn cancel(&self) -> Vec<Arc<Child>> {
        let present: Vec<_> = {
            let mut state = lock(&self.state);
            state.cancelled = true;
            state.present.iter().map(|(_, child)| Arc::clone(child)).collect()
        };
        for child in &present {
            if let Some(shell) = child.slot.mark() {
                shell.wake();
            }
        }
        present
    }

    /// Cancels, and destroys on this thread whatever nobody else is at.
    ///
    /// When it returns every child is gone, save those that only could be marked (see `slot`).
    pub(super) fn cancel_and_destroy(&self) {
        let present = self.cancel();
        // First whatever nobody is at, so that a child that blocks its thread does not hold up the end of its siblings.
        // From the back, because the executor's threads, woken in order, come from the front.
        let busy: Vec<_> =
            present.iter().rev().filter(|child| !child.slot.try_destroy(|key, end| self.leave(key, end))).collect();
        for child in busy {
            child.slot.destroy(|key, end| self.leave(key, end), || child.say_stalled());
        }
        let panic = {
            let mut state = lock(&self.state);
            state.dropped = true;
            state.panic.take()
        };
        if let Some(payload) = panic {
            log_unjoined(payload);
        }
    }

    /// A child's future has been destroyed.
    fn leave(&self, key: u32, end: End) {
        if let End::Panicked(payload) = end {
            self.keep(payload); // before any join can know that the child is gone
        }
        let (child, joiners) = {
            let mut state = lock(&self.state);
            let child = state.present.try_remove(key as usize);
            let joiners = if state.present.is_empty() { state.joiners.take() } else { Vec::new() };
            (child, joiners)
        };
        drop(child);
        wake_all(joiners);
    }

    /// Keeps a child's panic for the next join, or logs it.
    fn keep(&self, payload: Payload) {
        let (surplus, what) = {
            let mut state = lock(&self.state);
            if state.dropped {
                (payload, "a child panicked after its group was dropped")
            } else if state.panic.is_some() {
                (payload, "one more child panicked")
            } else {
                state.panic = Some(payload);
                return;
            }
        };
        say!(error, "{what}: {}", unwind::message(&surplus));
        unwind::discard(surplus);
    }
}

/// The end of a child's panic that nobody is there to get.
pub(super) fn log_unjoined(payload: Payload) {
    say!(error, "a child panicked and nobody joined it: {}", unwind::message(&payload));
    unwind::discard(payload);
}

impl Child {
    /// What a drop says that has waited for long.
    fn say_stalled(&self) {
        let name = self.name.as_ref().and_then(Weak::upgrade);
        let name: &dyn fmt::Display = name.as_ref().map_or(&"a child", |name| name);
        say!(warn, "still waiting for the end of {name}: it blocks its thread");
    }
}

impl Shell {
    /// A poll by the executor's task. Ready once that task has nothing left to do.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.child.slot.poll(cx, |key, end| self.children.leave(key, end))
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Children").field("present", &state.present.len()).field("cancelled", &state.cancelled).finish()
    }
}

#[cfg(all(test, not(ebbtide_loom), target_pointer_width = "64"))]
mod tests {
    use super::{Child, Shell};

    /// One word more and the allocator takes its next larger size, once for each connection and each task of one: an
    /// `Arc` of 88 bytes fits glibc's class of 96 to the last. The shell's second word fills up the class of the executor's task.
    #[test]
    fn a_child_is_small() {
        assert!(size_of::<Child>() <= 72, "{}", size_of::<Child>());
        assert!(size_of::<Shell>() <= 16, "{}", size_of::<Shell>());
    }
}
