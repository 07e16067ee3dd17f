//! The list of a group's children, the tasks that wait for it to be empty, the cancellation of all children, and where
//! a child's panic goes.
//!
//! This module uses no runtime. `executor` gives the [`Shell`] of each child to the group's executor, which polls the
//! child through it.

use super::executor::Executor;
use super::future::{self, BoxedFuture, ChildFuture, Guard, Panic, Plain, WithResult};
use super::slot::{Parent, Slot};
use super::spawn_time::SpawnTime;
use crate::panic::{self, Payload, drop_caught, log_line};
use crate::runtime;
use crate::sync::waker_set::{WakerSet, wake};
use crate::sync::{Mutex, lock};
use slab::Slab;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Name of a child for log lines, by its `Display`.
pub(crate) trait ChildName: fmt::Display + Send + Sync {
    /// Returns the name alone, without what it is a name of.
    fn bare(&self) -> String {
        self.to_string()
    }

    /// Returns the line that spawned it, if that is the user's code.
    fn at(&self) -> Option<&'static Location<'static>> {
        None
    }
}

/// A weak reference to a name. The group keeps no name alive: the child's future owns it, so it lasts as long as
/// anything waits for the child.
pub(crate) type Name = Weak<dyn ChildName>;

impl ChildName for &'static str {}

/// Name or origin of a child, for log lines and errors.
#[derive(Clone)]
pub(crate) enum Label {
    /// A child of the crate itself, or one that the user has named.
    Named(Name),
    /// A child of the user without a name: the line that spawned it.
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

/// A child, in a list for people.
#[derive(Clone, Debug)]
pub(crate) struct ListedChild {
    /// The text of its name, if it has one.
    pub(crate) name: Option<String>,
    /// The line that spawned it, if that is the user's code.
    pub(crate) at: Option<&'static Location<'static>>,
    /// How long ago it was spawned, if that was noted.
    pub(crate) age: Option<Duration>,
}

/// Owner of a group's children: a connection or a server. Log lines show its `Display`, and it is notified if one of
/// the children panics without a handle. In a group without an owner such a panic is kept for the next join.
pub(crate) trait Owner: fmt::Display + Send + Sync {
    fn child_panicked(&self, message: &str);
}

/// How many places for children an empty group keeps. If a peak needed more, they are freed.
const SPARE: usize = 1024;

/// The children of a group. Shared by the group, its spawners (weakly), panics that wait for a handle, and the shells.
pub(super) struct Children {
    state: Mutex<GroupState>,
    owner: Option<Box<dyn Owner>>,
}

#[derive(Default)]
struct GroupState {
    /// Runs the children. Under this lock, because every new child takes it anyway.
    executor: Executor,
    /// The list: every child that has not ended. The end of a child removes it, so a finished child leaves nothing
    /// behind.
    present: Slab<Present>,
    /// New children are refused. Never reset.
    cancelled: bool,
    /// The group was dropped: no join will follow, so a panic is logged at once. Set at the end of the drop.
    dropped: bool,
    /// The first panic of a child, until a join raises it or the drop logs it.
    panic: Option<Payload>,
    /// The tasks that wait for `present` to be empty.
    joiners: WakerSet,
    /// The executor has dropped a child before its end, and that was logged.
    was_abandoned: bool,
}

/// A child in the list.
struct Present {
    child: Arc<Child>,
    /// When it was spawned, if its guard asks for that.
    spawned: SpawnTime,
}

/// One child. The list, the shell and the handle share it.
pub(super) struct Child {
    slot: Slot,
    /// Its name or origin for log lines.
    label: Label,
}

/// Content of the executor's task for a child: the child, and its group.
///
/// The reference to the group is here and not in the child, because here it costs nothing: the allocator rounds the
/// size of the executor's task up to as much.
#[derive(Clone)]
pub(super) struct Shell {
    child: Arc<Child>,
    /// Held only until the executor's task ends, which it does once the child is gone.
    children: Arc<Children>,
}

impl Children {
    /// Makes an empty list, for children that may belong to `owner`.
    pub(super) fn new(executor: Executor, owner: Option<Box<dyn Owner>>) -> Self {
        Self { state: Mutex::new(GroupState { executor, ..GroupState::default() }), owner }
    }

    /// Sets the executor of the children that are added from now on.
    pub(super) fn set_executor(&self, executor: Executor) {
        let before = std::mem::replace(&mut lock(&self.state).executor, executor);
        drop(before); // without the lock: its destructor may be user code
    }

    /// Adds a child without a result. Returns `None` if the child is refused because the group was cancelled; the
    /// future has been dropped then.
    ///
    /// # Panics
    ///
    /// If there are 2³² children already.
    pub(super) fn enter<F>(self: &Arc<Self>, label: Label, future: F) -> Option<(Shell, Executor)>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if !self.can_run() {
            drop_caught(future);
            return None;
        }
        self.insert(label, Plain::new(future), false, SpawnTime::UNKNOWN, |_| true)
    }

    /// Adds a child that no executor polls: it waits for its destruction. Returns whether it was added.
    pub(super) fn hold<F>(self: &Arc<Self>, label: Label, future: F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.insert(label, Plain::new(future), false, SpawnTime::UNKNOWN, |_| true).is_some()
    }

    /// Returns whether there is an executor.
    fn can_run(&self) -> bool {
        runtime::HAS_EXECUTOR || lock(&self.state).executor.exists()
    }

    /// Adds a child whose result is kept for its handle, and which holds a guard until its end.
    ///
    /// The guard is armed under the lock, once the child is admitted, so a child that is refused delays nothing.
    /// Returns `None` also if the guard cannot be armed. Everything else is as with [`enter`](Self::enter).
    pub(super) fn enter_with_result<F, G>(
        self: &Arc<Self>,
        label: Label,
        future: F,
        arm: impl FnOnce(&mut G) -> bool,
    ) -> Option<(Shell, Executor)>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
        G: Guard + 'static,
    {
        if !self.can_run() {
            drop_caught(future);
            return None;
        }
        let spawned = if G::IS_TIMED { SpawnTime::now() } else { SpawnTime::UNKNOWN };
        self.insert(label, WithResult::<F, G>::new(future), true, spawned, |child| child.arm(arm))
    }

    fn insert<C: ChildFuture + 'static>(
        self: &Arc<Self>,
        label: Label,
        child: C,
        joinable: bool,
        spawned: SpawnTime,
        arm: impl FnOnce(Pin<&mut C>) -> bool,
    ) -> Option<(Shell, Executor)> {
        let mut future = Box::pin(child); // allocated without the lock, and dropped without it if it is refused
        let mut state = lock(&self.state);
        if state.cancelled || !arm(future.as_mut()) {
            drop(state);
            drop_caught(future);
            return None;
        }
        let entry = state.present.vacant_entry();
        let key = u32::try_from(entry.key()).expect("fewer than 2³² children");
        let child = Arc::new(Child { slot: Slot::new(future, key, joinable), label });
        entry.insert(Present { child: Arc::clone(&child), spawned });
        let executor = state.executor.clone();
        drop(state);
        Some((Shell { child, children: Arc::clone(self) }, executor))
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).present.len()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        lock(&self.state).cancelled
    }

    /// Ready once no child is left, with the first panic since the last call that was ready.
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

    /// Removes a task that waited in [`poll_empty`](Self::poll_empty).
    pub(super) fn forget_joiner(&self, key: Option<usize>) {
        if let Some(key) = key {
            let waker = lock(&self.state).joiners.remove(key);
            drop(waker);
        }
    }

    /// Refuses new children from this call on.
    pub(super) fn close(&self) {
        lock(&self.state).cancelled = true;
    }

    /// Refuses new children from this call on; marks every present child and wakes its shell, so that the executor's
    /// threads destroy them. Returns the children that were present.
    pub(super) fn cancel(&self) -> Vec<Arc<Child>> {
        let present: Vec<_> = {
            let mut state = lock(&self.state);
            state.cancelled = true;
            state.present.iter().map(|(_, present)| Arc::clone(&present.child)).collect()
        };
        for child in &present {
            child.slot.mark().into_iter().for_each(wake);
        }
        present
    }

    /// Cancels, destroys on this thread every child that no other thread is polling or destroying, and waits for the
    /// others.
    ///
    /// When it returns every child is gone, except those that could only be marked, because waiting for them would
    /// close a cycle of waits (see `slot`).
    pub(super) fn cancel_and_destroy(self: &Arc<Self>) {
        let present = self.cancel();
        // The free ones first, so that a child that blocks its thread does not delay the end of its siblings. From the
        // back, because the executor's threads, which were woken in order, begin at the front.
        let busy: Vec<_> =
            present.iter().rev().filter(|child| !child.slot.try_destroy(&self.parent_of(child))).collect();
        for child in busy {
            child.slot.destroy(&self.parent_of(child), || self.log_stalled(&child.label));
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

    fn parent_of<'a>(self: &'a Arc<Self>, child: &'a Child) -> ParentOf<'a> {
        ParentOf { children: self, label: &child.label }
    }

    /// Handles the panic of a child without a handle: the group's owner is notified; without an owner, the first panic
    /// is kept for the next join, and others are logged.
    fn forward_panic(&self, label: &Label, payload: Payload) {
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

    /// Logs that a drop waits for this child.
    fn log_stalled(&self, label: &Label) {
        log_line!(warn, "still waiting for the end of {}: it blocks its thread", self.describe(label));
    }

    /// Returns a child's name for a log line, with its owner and the line that spawned it.
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

    /// Returns at most `most` of the present children: the text for log lines, and the line that spawned each.
    pub(super) fn list(&self, most: usize) -> Vec<(String, Option<&'static Location<'static>>)> {
        let labels = self.labels(most).0;
        labels.iter().map(|(label, _)| (self.describe(label), label.at())).collect()
    }

    /// Returns at most `most` of the present children, for a list, and how many there are.
    pub(super) fn listed(&self, most: usize) -> (Vec<ListedChild>, usize) {
        let (labels, number) = self.labels(most);
        let listed = |(label, spawned): (Label, SpawnTime)| match label {
            Label::At(at) => ListedChild { name: None, at: Some(at), age: spawned.age() },
            Label::Named(name) => {
                let name = name.upgrade();
                let at = name.as_ref().and_then(|name| name.at());
                ListedChild { name: name.map(|name| name.bare()), at, age: spawned.age() }
            }
        };
        (labels.into_iter().map(listed).collect(), number)
    }

    fn labels(&self, most: usize) -> (Vec<(Label, SpawnTime)>, usize) {
        let state = lock(&self.state);
        let present = state.present.iter().take(most);
        (present.map(|(_, present)| (present.child.label.clone(), present.spawned)).collect(), state.present.len())
    }
}

/// Logs a child's panic that no join will raise.
pub(super) fn log_unjoined(payload: Payload) {
    log_line!(error, "a child panicked, and its group was not joined: {}", panic::message(&payload));
    panic::discard(payload);
}

/// The group, as the slot of one child sees it.
struct ParentOf<'a> {
    children: &'a Arc<Children>,
    /// The child's label.
    label: &'a Label,
}

impl Parent for ParentOf<'_> {
    fn remove(&self, key: u32) -> Vec<Waker> {
        let mut state = lock(&self.children.state);
        // The caller has locked the child's slot, so this is not the last reference to the child: no destructor runs.
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
        self.children.forward_panic(self.label, payload);
    }

    fn panic_of_handle(&self, payload: Payload) -> Box<Panic> {
        let (children, label) = (Arc::clone(self.children), self.label.clone());
        Box::new(Panic { payload, unobserved: Box::new(move |payload| children.forward_panic(&label, payload)) })
    }
}

impl Shell {
    /// Polls the child. Ready once the executor's task has nothing left to do.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.child.slot.poll(cx, &self.children.parent_of(&self.child))
    }

    pub(super) fn child(&self) -> &Arc<Child> {
        &self.child
    }

    /// The executor drops the shell before the child's end. No poll can follow, so this destroys the child.
    pub(super) fn abandon(&self) {
        if self.child.slot.has_ended() {
            return;
        }
        let is_first = !std::mem::replace(&mut lock(&self.children.state).was_abandoned, true);
        if is_first {
            let what = self.children.describe(&self.child.label);
            log_line!(
                warn,
                "the executor has dropped {what}, which is cancelled; more tasks of its group are not logged"
            );
        }
        self.child.slot.try_destroy(&self.children.parent_of(&self.child));
    }
}

/// Methods for the child's handle.
impl Child {
    /// Ready once the child has ended, with its result: see [`Slot::poll_end`].
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Option<BoxedFuture>> {
        self.slot.poll_end(cx)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.slot.has_ended()
    }

    /// Cancels this child alone.
    pub(super) fn cancel(&self) {
        self.slot.mark().into_iter().for_each(wake);
    }

    /// Records that the handle is dropped, and drops the result if it is here.
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

#[cfg(all(test, not(ebbtide_loom)))]
mod tests {
    use super::*;
    use std::future::{pending, poll_fn};

    fn children() -> Arc<Children> {
        Arc::new(Children::new(Executor::new(drop), None))
    }

    /// Returns the capacity of the list after that many children have come and gone.
    fn places_after(peak: usize) -> usize {
        let children = children();
        for _ in 0..peak {
            assert!(children.hold(Label::At(Location::caller()), pending()));
        }
        assert_eq!(children.len(), peak);
        children.cancel_and_destroy();
        assert_eq!(children.len(), 0);
        lock(&children.state).present.capacity()
    }

    #[test]
    fn the_places_of_a_peak_are_freed_and_a_few_are_kept() {
        assert_eq!(places_after(SPARE), SPARE); // the capacity is a power of two
        assert_eq!(places_after(100), 128);
        assert_eq!(places_after(SPARE + 1), 0);
        assert_eq!(places_after(10 * SPARE), 0);
    }

    #[test]
    fn the_panic_of_a_child_without_a_handle_is_given_to_the_next_join_once() {
        let (children, mut cx) = (children(), Context::from_waker(Waker::noop()));
        let enter = |future| children.enter(Label::At(Location::caller()), future).expect("admitted").0;
        let join = || children.poll_empty(&mut Context::from_waker(Waker::noop()), &mut None);
        let shell = enter(poll_fn(|_| panic!("on purpose")));
        assert!(join().is_pending() && shell.poll(&mut cx).is_ready());
        let Poll::Ready(Some(payload)) = join() else { panic!("the panic is lost") };
        assert_eq!(panic::message(&payload), "on purpose");
        assert!(matches!(join(), Poll::Ready(None)), "the panic was given twice");
    }

    #[test]
    fn a_group_that_is_closed_refuses_new_children_and_keeps_the_present_ones() {
        let (give, jobs) = std::sync::mpsc::channel();
        let group = crate::group::TaskGroup::on(move |job| drop(give.send(job)));
        let present = group.spawn(pending::<()>());
        group.close();
        assert!(group.spawn(async {}).is_finished(), "not refused");
        assert!(!present.is_finished() && group.len() == 1, "the present child has ended");
        assert_eq!(jobs.try_iter().count(), 1);
    }

    /// One more word would take the allocator's next larger size class, once for each connection and each of its tasks:
    /// an `Arc` of 88 bytes, with the 8 bytes of glibc's header, fills the class of 96. The second word of the shell
    /// fills the size class of the executor's task.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_child_is_small() {
        assert!(size_of::<Child>() <= 72, "{}", size_of::<Child>());
        assert!(size_of::<Shell>() <= 16, "{}", size_of::<Shell>());
        // In the list an entry is a child or the key of the next free entry: as large as with a child alone.
        enum Entry<T> {
            _Vacant(usize),
            _Occupied(T),
        }
        assert_eq!(size_of::<Entry<Present>>(), size_of::<Entry<Arc<Child>>>());
    }
}
