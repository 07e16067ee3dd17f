//! The group that everything stands on: children that cannot outlive it.

mod children;
#[cfg(all(test, ebbtide_loom))]
mod models;
mod slot;
mod waits;

use children::Children;
pub(crate) use children::Name;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::sync::{Arc, Weak};

/// Tasks that live no longer than their group.
///
/// Children run in parallel on async-std's executor. Dropping the group cancels and joins them **synchronously**: when
/// the drop returns, every child's future has been destroyed. It needs no executor for that, because the group owns the
/// futures; so it holds with a single executor thread, inside `block_on`, on any thread, and while unwinding from a panic.
///
/// This is the nursery of [trio] and the scope of [`std::thread::scope`], with one difference from both: since a future
/// can be dropped at any moment, leaving the scope early *is* supported, and means cancellation.
///
/// A child's result is not kept: it hands over what it finds through a channel or a lock. To keep results in a
/// structure that one task polls, see `FutureGroup` of the futures-concurrency crate.
///
/// # Drop
///
/// A child that another thread is polling is waited for until that one poll returns; a child that blocks its thread
/// delays the drop, which says so once a second at warn. Three cases cannot wait without waiting for themselves: a child
/// that drops its own group, children that drop each other's groups at the same moment, and circles of more such drops.
/// There the child is marked instead, and is destroyed as soon as its poll returns.
///
/// The drop never panics: a destructor that panics is caught and logged, and the other children still get theirs; the
/// panic of a child that nobody has joined is logged. Out of reach are `mem::forget`, `exit`, and dropping a group
/// while holding a lock that a child's poll or destructor takes.
///
/// # Examples
///
/// ```
/// use async_std::task;
/// use ebbtide::TaskGroup;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// # task::block_on(async {
/// let sum = Arc::new(AtomicUsize::new(0));
/// let group = TaskGroup::new();
/// for n in 1..=10 {
///     let sum = Arc::clone(&sum);
///     group.spawn(async move {
///         task::yield_now().await;
///         sum.fetch_add(n, Ordering::Relaxed);
///     });
/// }
/// group.join().await;
/// assert_eq!(sum.load(Ordering::Relaxed), 55);
/// # })
/// ```
///
/// [trio]: https://trio.readthedocs.io/en/stable/reference-core.html#nurseries-and-spawning
#[must_use = "dropping a group cancels its children; `join` waits for them"]
pub struct TaskGroup {
    children: Arc<Children>,
}

impl TaskGroup {
    /// Makes an empty group.
    pub fn new() -> Self {
        Self { children: Arc::default() }
    }

    /// Starts a child. Says whether it was started: `false` after [`cancel`](Self::cancel), and then `future` has been
    /// dropped without being polled.
    ///
    /// A child that panics ends alone; its siblings are not touched. See [`join`](Self::join).
    pub fn spawn<F>(&self, future: F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        start(&self.children, None, future)
    }

    /// A handle for children that spawn siblings. It keeps nothing alive.
    pub fn spawner(&self) -> Spawner {
        Spawner { children: Arc::downgrade(&self.children) }
    }

    /// How many children have not ended.
    pub fn len(&self) -> usize {
        self.children.len()
    }

    /// Whether every child has ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until no child is left, counting those that are spawned meanwhile.
    ///
    /// A child must not join its own group: it would wait for itself.
    ///
    /// # Panics
    ///
    /// With the panic of the first child that panicked since the last join, once no child is left, as
    /// [`std::thread::scope`] does. Further panics have been logged.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the children run on, and a panic waits for the next join.
    pub async fn join(&self) {
        let mut joiner = Joiner { children: &self.children, key: None };
        let panic = poll_fn(|cx| joiner.children.poll_empty(cx, &mut joiner.key)).await;
        drop(joiner);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Waits like [`join`](Self::join), for those who must get to the end themselves: a panic is logged, not raised.
    pub(crate) async fn settled(&self) {
        let mut joiner = Joiner { children: &self.children, key: None };
        let panic = poll_fn(|cx| joiner.children.poll_empty(cx, &mut joiner.key)).await;
        if let Some(payload) = panic {
            children::log_unjoined(payload);
        }
    }

    /// Refuses new children from now on. Those that there are go on.
    pub(crate) fn close(&self) {
        self.children.close();
    }

    /// Asks for the end of every child, and refuses new ones from now on. Returns at once.
    ///
    /// The executor's threads destroy the children; [`join`](Self::join) waits for that, and dropping the group lends a
    /// hand. A child that is being polled ends when that poll returns.
    pub fn cancel(&self) {
        self.children.cancel();
    }
}

impl Default for TaskGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TaskGroup {
    fn drop(&mut self) {
        self.children.cancel_and_destroy();
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup").field("len", &self.len()).field("cancelled", &self.children.is_cancelled()).finish()
    }
}

/// Spawns into a [`TaskGroup`] without keeping it, or anything in it, alive.
///
/// Made by [`TaskGroup::spawner`], for children that start siblings.
#[derive(Clone)]
pub struct Spawner {
    children: Weak<Children>,
}

impl Spawner {
    /// Starts a child of the group. `false`: the group was cancelled or is gone, and `future` has been dropped without
    /// being polled.
    pub fn spawn<F>(&self, future: F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start(None, future)
    }

    /// The same, with a name for the log line of a drop that has to wait for the child.
    pub(crate) fn spawn_named<F>(&self, name: Name, future: F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start(Some(name), future)
    }

    /// Whether a child would be admitted at this moment.
    pub(crate) fn admits(&self) -> bool {
        self.children.upgrade().is_some_and(|children| !children.is_cancelled())
    }

    /// What dropping the group does, for somebody who must be sure of it while another is about to drop it.
    pub(crate) fn cancel_and_join(&self) {
        if let Some(children) = self.children.upgrade() {
            children.cancel_and_destroy();
        }
    }

    fn start<F>(&self, name: Option<Name>, future: F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.children.upgrade() {
            Some(children) => start(&children, name, future),
            None => false,
        }
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("group_is_alive", &(self.children.strong_count() > 0)).finish()
    }
}

/// A place among those who wait for the group to be empty; given up when dropped.
struct Joiner<'a> {
    children: &'a Children,
    key: Option<usize>,
}

impl Drop for Joiner<'_> {
    fn drop(&mut self) {
        self.children.forget_joiner(self.key.take());
    }
}

fn start<F>(children: &Arc<Children>, name: Option<Name>, future: F) -> bool
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(shell) = children.enter(name, future) else {
        return false;
    };
    // NOTE: the only spawn of the crate. The executor gets a shell that borrows the future for each poll; the handle is
    // let go, which detaches the shell and nothing else: the group can destroy the child without it.
    drop(async_std::task::spawn(poll_fn(move |cx| shell.poll(cx))));
    true
}
