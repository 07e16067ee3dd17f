//! [`TaskGroup`] and [`Spawner`]: child tasks that cannot outlive their group.

mod children;
mod future;
mod join_handle;
mod large;
#[cfg(all(test, ebbtide_loom))]
mod loom_tests;
mod named;
mod slot;
mod task_set;
mod wait_graph;

use crate::panic::drop_caught;
pub(crate) use children::{ChildName, Label, Name, Owner};
use children::{Children, Shell};
pub(crate) use future::Guard;
pub use join_handle::{JoinError, JoinHandle};
pub(crate) use large::{LargeFuture, boxed_if_large, is_large};
pub(crate) use named::named;
use std::borrow::Cow;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{Location, resume_unwind};
use std::sync::{Arc, Weak};
pub use task_set::TaskSet;

/// Tasks that live no longer than their group.
///
/// Children run in parallel on async-std's executor. Dropping the group cancels and joins them **synchronously**: when
/// the drop returns, every child's future has been destroyed. It needs no executor for that, because the group owns the
/// futures; so it holds with a single executor thread, inside `block_on`, on any thread, and while unwinding from a
/// panic.
///
/// This is the nursery of [trio] and the scope of [`std::thread::scope`], with one difference from both: since a future
/// can be dropped at any moment, leaving the scope early *is* supported, and means cancellation.
///
/// Each child has a [`JoinHandle`], a future of its result, which may be ignored. For many results, in the order in
/// which they come, see [`TaskSet`]; for futures that one task polls without spawning them, `FutureGroup` of the
/// futures-concurrency crate.
///
/// # Drop
///
/// A child that another thread is polling is waited for until that one poll returns; a child that blocks its thread
/// delays the drop, which says so once a second at warn. Three cases cannot wait without waiting for themselves: a
/// child that drops its own group, children that drop each other's groups at the same moment, and circles of more such
/// drops. There the child is marked instead, and is destroyed as soon as its poll returns.
///
/// The drop never panics: a destructor that panics is caught and logged, and the other children still get theirs; the
/// panic of a child that was not joined is logged. Out of reach are `mem::forget`, `exit`, and dropping a group
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
/// let product = group.spawn(async { (1..=10).product::<usize>() });
/// group.join().await;
/// assert_eq!(sum.load(Ordering::Relaxed), 55);
/// assert_eq!(product.await?, 3_628_800);
/// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
/// ```
///
/// [trio]: https://trio.readthedocs.io/en/stable/reference-core.html#nurseries-and-spawning
#[doc(alias = "nursery")]
#[doc(alias = "TaskTracker")]
#[must_use = "dropping a group cancels its children; `join` waits for them"]
pub struct TaskGroup {
    children: Arc<Children>,
}

impl TaskGroup {
    /// Makes an empty group.
    pub fn new() -> Self {
        Self { children: Arc::default() }
    }

    /// A group whose children belong to `owner`: see [`Owner`].
    pub(crate) fn owned_by(owner: Box<dyn Owner>) -> Self {
        Self { children: Arc::new(Children::owned_by(owner)) }
    }

    /// Starts a child, and returns a handle to its result, which may be ignored.
    ///
    /// After [`cancel`](Self::cancel) the child is refused: `future` has been dropped without being polled, and the
    /// handle gives a [cancelled](JoinError::is_cancelled) error.
    ///
    /// A child that panics ends alone; its siblings are not touched. If its handle is gone, the panic waits for
    /// [`join`](Self::join).
    ///
    /// # Large futures
    ///
    /// A future of more than 16 KiB is moved to the heap before anything else. How large it may be: see
    /// "Large handlers" at [`Server::serve`](crate::Server::serve).
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => start_with_result(&self.children, Label::At(at), at, future, |(): &mut ()| true))
    }

    /// The same with a name, which log lines show beside the line of this call.
    #[track_caller]
    pub fn spawn_named<F>(&self, name: impl Into<Cow<'static, str>>, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => {
            let (label, future) = named(name.into(), at, future);
            start_with_result(&self.children, label, at, future, |(): &mut ()| true)
        })
    }

    /// Starts a child without a handle.
    fn spawn_at<F>(&self, at: &'static Location<'static>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        start(&self.children, Label::At(at), future);
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

    /// Waits like [`join`](Self::join), where a panic must not keep the caller from its own end: it is logged, not
    /// raised.
    pub(crate) async fn settled(&self) {
        settled(&self.children).await;
    }

    /// The children that are present, at most so many: how each is called in a log line, and where it was spawned.
    pub(crate) fn list(&self, most: usize) -> Vec<(String, Option<&'static Location<'static>>)> {
        self.children.list(most)
    }

    /// Refuses new children from now on. The present ones go on.
    pub(crate) fn close(&self) {
        self.children.close();
    }

    /// Asks for the end of every child, and refuses new ones from now on. Returns at once.
    ///
    /// The executor's threads destroy the children; [`join`](Self::join) waits for that, and dropping the group helps
    /// them. A child that is being polled ends when that poll returns.
    #[doc(alias = "abort_all")]
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
    /// Starts a child of the group, as [`TaskGroup::spawn`] does. If the group was cancelled or is gone, the child is
    /// refused.
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_guarded(Label::At(at), at, future, |(): &mut ()| true))
    }

    /// The same with a name: see [`TaskGroup::spawn_named`].
    #[track_caller]
    pub fn spawn_named<F>(&self, name: impl Into<Cow<'static, str>>, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => {
            let (label, future) = named(name.into(), at, future);
            self.spawn_guarded(label, at, future, |(): &mut ()| true)
        })
    }

    /// The same for a child that holds a guard until its end. The guard is armed when the child is admitted; if it
    /// cannot be armed, the child is refused.
    pub(crate) fn spawn_guarded<F, G>(
        &self,
        label: Label,
        at: &'static Location<'static>,
        future: F,
        arm: impl FnOnce(&mut G) -> bool,
    ) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
        G: Guard + 'static,
    {
        match self.children.upgrade() {
            Some(children) => start_with_result(&children, label, at, future, arm),
            None => JoinHandle::refused(at, future),
        }
    }

    /// Starts a child of the crate's own, without a result. Returns whether it was started.
    pub(crate) fn spawn_own<F>(&self, name: Name, future: F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.children.upgrade() {
            Some(children) => start(&children, Label::Named(name), future),
            None => {
                drop_caught(future);
                false
            }
        }
    }

    /// Starts a child without a handle.
    fn spawn_at<F>(&self, at: &'static Location<'static>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.children.upgrade() {
            Some(children) => {
                start(&children, Label::At(at), future);
            }
            None => drop_caught(future),
        }
    }

    /// Waits until the group is empty, or gone.
    pub(crate) async fn settled(&self) {
        if let Some(children) = self.children.upgrade() {
            settled(&children).await;
        }
    }

    /// Does what dropping the group does, for a caller that must be sure of it while another thread is about to drop
    /// it.
    pub(crate) fn cancel_and_join(&self) {
        if let Some(children) = self.children.upgrade() {
            children.cancel_and_destroy();
        }
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("group_is_alive", &(self.children.strong_count() > 0)).finish()
    }
}

/// A place among the tasks that wait for the group to be empty; given up when dropped.
struct Joiner<'a> {
    children: &'a Children,
    key: Option<usize>,
}

impl Drop for Joiner<'_> {
    fn drop(&mut self) {
        self.children.forget_joiner(self.key.take());
    }
}

/// Waits for the end of all; a panic that a join would raise is logged.
async fn settled(children: &Children) {
    let mut joiner = Joiner { children, key: None };
    let panic = poll_fn(|cx| joiner.children.poll_empty(cx, &mut joiner.key)).await;
    if let Some(payload) = panic {
        children::log_unjoined(payload);
    }
}

fn start<F>(children: &Arc<Children>, label: Label, future: F) -> bool
where
    F: Future<Output = ()> + Send + 'static,
{
    children.enter(label, future).map(run).is_some()
}

fn start_with_result<F, G>(
    children: &Arc<Children>,
    label: Label,
    at: &'static Location<'static>,
    future: F,
    arm: impl FnOnce(&mut G) -> bool,
) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
    G: Guard + 'static,
{
    let shell = children.enter_with_result(label, future, arm);
    let handle = JoinHandle::new(shell.as_ref().map(|shell| Arc::clone(shell.child())), at);
    shell.into_iter().for_each(run);
    handle
}

/// Hands a child to the executor.
///
/// NOTE: the only spawn of the crate. The executor gets a shell that borrows the future for each poll; the handle is
/// dropped, which detaches the shell and nothing else: the group can destroy the child without it.
fn run(shell: Shell) {
    drop(async_std::task::spawn(poll_fn(move |cx| shell.poll(cx))));
}
