//! The books of one group: its children, the tasks that wait for them to be gone, how all are cancelled, and where a
//! child's panic goes.
//!
//! It names no runtime: the group hands each child to the executor, which polls it through its [`Shell`].

use super::future::{self, BoxedFuture, ChildFuture, Guard, Panic, Plain, WithResult};
use super::slot::{Books, Slot};
use crate::panic::{self, Payload, drop_caught, log_line};
use crate::sync::waker_set::WakerSet;
use crate::sync::{Mutex, lock};
use slab::Slab;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

/// What a child is called in a log line.
pub(crate) trait ChildName: fmt::Display + Send + Sync {
    /// Where the user spawned it, if it is the user's.
    fn at(&self) -> Option<&'static Location<'static>> {
        None
    }
}

/// A name is not kept alive by the group: the child's future has it, for as long as it is waited for.
pub(crate) type Name = Weak<dyn ChildName>;

impl ChildName for &'static str {}

/// What is known of a child, for log lines and errors.
#[derive(Clone)]
pub(crate) enum Label {
    /// A child of the crate's own, or one that its user has named.
    Named(Name),
    /// Where the user spawned it.
    At(&'static Location<'static>),
}

impl Label {
    fn at(&self) -> Option<&'static Location<'static>> {
        match self {
            Self::At(at) => Some(at),
            Self::Named(name) => name.upgrade()?.at(),
        }
    }
}

/// What the children of a group belong to: shown in log lines as its `Display`, and told when one of them panics
/// without a handle. In a group without an owner such a panic waits for the next join.
pub(crate) trait Owner: fmt::Display + Send + Sync {
    fn child_panicked(&self, message: &str);
}

/// How many places an empty group keeps for children to come; more were for a peak, and are given back.
const SPARE: usize = 1024;

/// A group's children. Shared by the group, its spawners (weakly), the children's handles, and the children themselves.
#[derive(Default)]
pub(super) struct Children {
    state: Mutex<GroupState>,
    owner: Option<Box<dyn Owner>>,
}

#[derive(Default)]
struct GroupState {
    /// Every child that is not gone. A child takes itself out, so a finished one leaves nothing behind.
    present: Slab<Arc<Child>>,
    /// No child may be entered any more. Never reset.
    cancelled: bool,
    /// No join will come any more, so a panic is logged at once. Set in the end by the drop.
    dropped: bool,
    /// The first panic of a child, until a join raises it or the drop logs it.
    panic: Option<Payload>,
    /// The tasks that wait for `present` to be empty.
    joiners: WakerSet,
}

/// One child.
pub(super) struct Child {
    slot: Slot,
    label: Label,
}

/// A child as its executor's task has it, with the way back into the group's books.
///
/// The way is here and not in the child, since here it costs nothing: the allocator rounds the task's size up to as
/// much.
#[derive(Clone)]
pub(super) struct Shell {
    child: Arc<Child>,
    /// Holds the books no longer than the task lives, which ends once the child is gone.
    children: Arc<Children>,
}

impl Children {
    /// An empty group whose children belong to `owner`.
    pub(super) fn owned_by(owner: Box<dyn Owner>) -> Self {
        Self { owner: Some(owner), ..Self::default() }
    }

    /// Enters a child without a result. `None`: refused, because the group was cancelled; the future has been dropped.
    ///
    /// # Panics
    ///
    /// If there are 2³² children already.
    pub(super) fn enter<F>(self: &Arc<Self>, label: Label, future: F) -> Option<Shell>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.insert(label, Plain::new(future), false, |_| true)
    }

    /// Enters a child whose result is kept for its handle, and which holds a guard until its end. The guard is armed
    /// under the lock, once the child is admitted: a child that is refused holds nothing up. `None`, and panics: as for
    /// [`enter`](Self::enter), and if the guard cannot be armed.
    pub(super) fn enter_with_result<F, G>(
        self: &Arc<Self>,
        label: Label,
        future: F,
        arm: impl FnOnce(&mut G) -> bool,
    ) -> Option<Shell>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
        G: Guard + 'static,
    {
        self.insert(label, WithResult::<F, G>::new(future), true, |child| child.arm(arm))
    }

    fn insert<C: ChildFuture + 'static>(
        self: &Arc<Self>,
        label: Label,
        child: C,
        joinable: bool,
        arm: impl FnOnce(Pin<&mut C>) -> bool,
    ) -> Option<Shell> {
        let mut future = Box::pin(child); // without the lock, and so is its drop if it is refused
        let mut state = lock(&self.state);
        if state.cancelled || !arm(future.as_mut()) {
            drop(state);
            drop_caught(future);
            return None;
        }
        let entry = state.present.vacant_entry();
        let key = u32::try_from(entry.key()).expect("fewer than 2³² children");
        let child = Arc::new(Child { slot: Slot::new(future, key, joinable), label });
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

    /// Cancels, and destroys on this thread every child that no other thread is polling or destroying.
    ///
    /// When it returns every child is gone, save those that only could be marked (see `slot`).
    pub(super) fn cancel_and_destroy(self: &Arc<Self>) {
        let present = self.cancel();
        // First those that are free, so that a child that blocks its thread does not hold up the end of its siblings.
        // From the back, because the executor's threads, woken in order, come from the front.
        let busy: Vec<_> =
            present.iter().rev().filter(|child| !child.slot.try_destroy(&self.books_of(child))).collect();
        for child in busy {
            child.slot.destroy(&self.books_of(child), || self.log_stalled(&child.label));
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

    fn books_of<'a>(self: &'a Arc<Self>, child: &'a Child) -> BooksOf<'a> {
        BooksOf { children: self, label: &child.label }
    }

    /// Hands the panic of a child without a handle to the group's owner, or keeps it for the next join, or logs it.
    fn hand_on_panic(&self, label: &Label, payload: Payload) {
        if let Some(owner) = &self.owner {
            let message = panic::message(&payload).to_owned();
            panic::discard(payload);
            log_line!(error, "{} panicked: {message}", self.describe(label));
            return owner.child_panicked(&message);
        }
        let (surplus, what) = {
            let mut state = lock(&self.state);
            if state.dropped {
                (payload, "after its group was dropped")
            } else if state.panic.is_some() {
                (payload, "and was not the first of its group")
            } else {
                state.panic = Some(payload);
                return;
            }
        };
        log_line!(error, "{} panicked {what}: {}", self.describe(label), panic::message(&surplus));
        panic::discard(surplus);
    }

    /// The log line of a drop that has waited for long.
    fn log_stalled(&self, label: &Label) {
        log_line!(warn, "still waiting for the end of {}: it blocks its thread", self.describe(label));
    }

    fn describe(&self, label: &Label) -> String {
        let (what, at) = match label {
            Label::At(at) => ("a task".to_owned(), Some(*at)),
            Label::Named(name) => match name.upgrade() {
                Some(name) => (name.to_string(), name.at()),
                None => ("a child".to_owned(), None),
            },
        };
        match (at, &self.owner) {
            (None, _) => what,
            (Some(at), Some(owner)) => format!("{what} of {owner} (spawned at {at})"),
            (Some(at), None) => format!("{what} (spawned at {at})"),
        }
    }

    /// The children that are present, at most so many: how each is called in a log line, and where it was spawned.
    pub(super) fn list(&self, most: usize) -> Vec<(String, Option<&'static Location<'static>>)> {
        let labels: Vec<_> = {
            let state = lock(&self.state);
            state.present.iter().take(most).map(|(_, child)| child.label.clone()).collect()
        };
        labels.iter().map(|label| (self.describe(label), label.at())).collect()
    }
}

/// Logs a child's panic that no join will raise.
pub(super) fn log_unjoined(payload: Payload) {
    log_line!(error, "a child panicked, and its group was not joined: {}", panic::message(&payload));
    panic::discard(payload);
}

/// The books, for the end of one child.
struct BooksOf<'a> {
    children: &'a Arc<Children>,
    label: &'a Label,
}

impl Books for BooksOf<'_> {
    fn remove(&self, key: u32) -> Vec<Waker> {
        let mut state = lock(&self.children.state);
        // Its slot is locked, so this is not the last reference to the child, and runs no destructor.
        state.present.try_remove(key as usize);
        if !state.present.is_empty() {
            return Vec::new();
        }
        if state.present.capacity() > SPARE {
            state.present = Slab::new();
        }
        state.joiners.take()
    }

    fn panicked(&self, payload: Payload) {
        self.children.hand_on_panic(self.label, payload);
    }

    fn panic_of_handle(&self, payload: Payload) -> Box<Panic> {
        let (children, label) = (Arc::clone(self.children), self.label.clone());
        Box::new(Panic { payload, unobserved: Box::new(move |payload| children.hand_on_panic(&label, payload)) })
    }
}

impl Shell {
    /// A poll by the executor's task. Ready once that task has nothing left to do.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.child.slot.poll(cx, &self.children.books_of(&self.child))
    }

    pub(super) fn child(&self) -> &Arc<Child> {
        &self.child
    }
}

/// For the child's handle.
impl Child {
    /// Ready once the child has ended: see [`Slot::poll_end`].
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Option<BoxedFuture>> {
        self.slot.poll_end(cx)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.slot.has_ended()
    }

    /// Asks for the end of this child alone.
    pub(super) fn cancel(&self) {
        if let Some(shell) = self.slot.mark() {
            shell.wake();
        }
    }

    /// The handle is dropped: the result is not wanted any more.
    pub(super) fn detach(&self) {
        self.slot.detach().into_iter().for_each(future::dispose);
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
    /// `Arc` of 88 bytes fits glibc's class of 96 to the last. The shell's second word fills up the class of the
    /// executor's task.
    #[test]
    fn a_child_is_small() {
        assert!(size_of::<Child>() <= 72, "{}", size_of::<Child>());
        assert!(size_of::<Shell>() <= 16, "{}", size_of::<Shell>());
    }
}
