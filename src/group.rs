//! [`TaskGroup`] and [`Spawner`]: child tasks that cannot outlive their group.
//!
//! This file has the public handles. The logic is below:
//!
//! - `children`: the list of a group's children, and where a panic goes;
//! - `slot`: one child's future, and the protocol by which any thread can destroy it; `wait_graph` keeps it free of
//!   deadlock;
//! - `executor`: where the children run, and the one line of the crate that spawns a task;
//! - `future`, `join_handle`, `task_set`: results;
//! - `large`, `named`: futures that are boxed early, and children with names.

mod children;
mod executor;
mod future;
mod join_handle;
mod large;
#[cfg(all(test, ebbtide_loom))]
mod loom_tests;
mod named;
mod slot;
mod spawn_time;
mod task_set;
mod wait_graph;

use crate::panic::drop_caught;
use children::Children;
pub(crate) use children::{ChildName, Label, ListedChild, Name, Owner};
pub(crate) use executor::Executor;
pub use executor::Job;
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

/// A group of tasks that cannot outlive it.
///
/// The children run in parallel on the executor. Dropping the group cancels and joins them **synchronously**:
/// when the drop returns, every child's future has been dropped. The drop needs no executor, because the group owns the
/// futures. So it works with a single executor thread, inside `block_on`, on any thread, and while unwinding from a
/// panic.
///
/// Each child has a [`JoinHandle`], a future of its result, which may be ignored. [`TaskSet`] returns many results in
/// the order in which the children end.
///
/// # Compared with
///
/// | | there | here |
/// |---|---|---|
/// | tokio's `JoinSet` | the drop requests an abort and returns; tasks may run on after it | the drop returns when every child is gone |
/// | tokio-util's `TaskTracker`, Go's `WaitGroup` | they wait for tasks, and cannot cancel them | [`join`](Self::join) waits, [`cancel`](Self::cancel) and the drop cancel |
/// | asyncio's `TaskGroup`, [trio]'s nursery, Go's `errgroup` with a context | the first failure cancels the siblings | a child that fails or panics ends alone; [`TaskSet`] has an example that cancels the siblings |
/// | [`std::thread::scope`] | children may borrow; the scope always waits | futures are `'static`; leaving early is supported, and cancels |
/// | futures-concurrency's `FutureGroup`, `FuturesUnordered` | one task polls all the futures, which may borrow | every child is a task of its own, on any thread of the executor |
///
/// # Drop
///
/// If another thread is polling a child, the drop waits until that one poll returns. So a child that blocks its thread
/// delays the drop; a line at warn reports that once a second.
///
/// The drop does not wait if it would wait for itself:
///
/// - a child drops its own group;
/// - children drop each other's groups at the same moment;
/// - longer cycles of such drops.
///
/// In these cases the child is marked instead, and is destroyed when its poll returns.
///
/// The drop never panics. A destructor that panics is caught and logged, and the other children are still destroyed.
/// The panic of a child that was not joined is logged.
///
/// Out of reach are `mem::forget`, `exit`, and dropping the group while holding a lock that a child's poll or
/// destructor takes.
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
/// When the drop returns, a child holds nothing any more:
///
/// ```
/// use ebbtide::TaskGroup;
/// use std::sync::Arc;
///
/// let resource = Arc::new(());
/// let held = Arc::clone(&resource);
/// let group = TaskGroup::new();
/// group.spawn(async move {
///     let _held = held;
///     std::future::pending::<()>().await;
/// });
/// drop(group);
/// assert_eq!(Arc::strong_count(&resource), 1);
/// ```
///
/// [trio]: https://trio.readthedocs.io/en/stable/reference-core.html#nurseries-and-spawning
#[doc(alias = "nursery")]
#[doc(alias = "TaskTracker")]
#[doc(alias = "WaitGroup")]
#[doc(alias = "errgroup")]
#[doc(alias = "scope")]
#[doc(alias = "structured concurrency")]
#[must_use = "dropping a group cancels its children; `join` waits for them"]
pub struct TaskGroup {
    /// The list of the children. The executor's tasks share it, so the drop of this reference destroys no child: the
    /// group's own `Drop` does.
    children: Arc<Children>,
}

impl TaskGroup {
    /// Makes an empty group. Its children run on the default executor: async-std's, or smol's if only the feature
    /// `smol` is on. A group that is made by a child of a group with an [executor of its own](Self::on) runs on that
    /// one.
    ///
    /// With neither feature this function does not exist.
    ///
    /// # Examples
    ///
    /// ```
    /// let group = ebbtide::TaskGroup::new();
    /// assert!(group.is_empty());
    /// ```
    #[cfg(any(feature = "async-std", feature = "smol"))]
    pub fn new() -> Self {
        Self::with_executor(Executor::current())
    }

    /// Makes an empty group that runs its children on an executor of yours: a tokio runtime, an `async_executor`, a
    /// pool of threads. `executor` is called with each [`Job`], and hands it to something that polls it to its end, not
    /// inside the call.
    ///
    /// The group still owns its children: dropping it destroys them even if the executor does not run. See
    /// [`Server::executor`](crate::Server::executor).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// let executor = Arc::new(async_executor::Executor::new());
    /// let spawner = Arc::clone(&executor);
    /// let group = ebbtide::TaskGroup::on(move |job| spawner.spawn(job).detach());
    /// let sum = group.spawn(async { 1 + 1 });
    /// assert_eq!(async_io::block_on(executor.run(sum)).unwrap(), 2);
    /// ```
    #[doc(alias = "spawn_on")]
    pub fn on(executor: impl Fn(Job) + Send + Sync + 'static) -> Self {
        Self::with_executor(Executor::new(executor))
    }

    pub(crate) fn with_executor(executor: Executor) -> Self {
        Self { children: Arc::new(Children::new(executor, None)) }
    }

    /// Makes a group for the children of `owner`: see [`Owner`].
    pub(crate) fn owned_by(owner: Box<dyn Owner>, executor: Executor) -> Self {
        Self { children: Arc::new(Children::new(executor, Some(owner))) }
    }

    /// Sets the executor of the children that are spawned from now on.
    pub(crate) fn set_executor(&self, executor: Executor) {
        self.children.set_executor(executor);
    }

    /// Starts a child, and returns a handle to its result, which may be ignored.
    ///
    /// After [`cancel`](Self::cancel) the child is refused: `future` is dropped without a poll, and awaiting the handle
    /// returns a [cancelled](JoinError::is_cancelled) error.
    ///
    /// A child that panics ends alone; its siblings run on. If its handle was dropped, [`join`](Self::join) raises the
    /// panic.
    ///
    /// # Large futures
    ///
    /// A future of more than 16 KiB is moved to the heap before anything else. "Large handlers" at
    /// [`Server::serve`](crate::Server::serve) describes how large a future may be.
    ///
    /// # Panics
    ///
    /// If the group has 2³² children already.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskGroup;
    ///
    /// let group = TaskGroup::new();
    /// let answer = group.spawn(async { 6 * 7 });
    /// assert_eq!(answer.await?, 42);
    /// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
    /// ```
    #[doc(alias = "create_task")]
    #[doc(alias = "start_soon")]
    #[doc(alias = "Go")]
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => start_with_result(&self.children, Label::At(at), at, future, |(): &mut ()| true))
    }

    /// Starts a child with a name, which log lines show beside the line of this call.
    ///
    /// Everything else is as with [`spawn`](Self::spawn).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskGroup;
    ///
    /// let group = TaskGroup::new();
    /// // If it blocked its thread, a drop of the group would log: still waiting for the end of
    /// // the task `cleaner` (spawned at src/main.rs:7:21): it blocks its thread
    /// let cleaned = group.spawn_named("cleaner", async { 3 });
    /// assert_eq!(cleaned.await?, 3);
    /// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
    /// ```
    #[doc(alias = "Builder")]
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

    /// Returns a handle by which children can spawn siblings. It keeps nothing alive.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskGroup;
    ///
    /// let group = TaskGroup::new();
    /// let spawner = group.spawner();
    /// group.spawn(async move {
    ///     spawner.spawn(async { /* a sibling */ });
    /// });
    /// group.join().await; // waits for both
    /// assert!(group.is_empty());
    /// # });
    /// ```
    pub fn spawner(&self) -> Spawner {
        Spawner { children: Arc::downgrade(&self.children) }
    }

    /// Returns how many children have not ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskGroup;
    ///
    /// let group = TaskGroup::new();
    /// let child = group.spawn(std::future::pending::<()>());
    /// assert_eq!(group.len(), 1);
    /// child.cancel();
    /// let _ = child.await;
    /// assert_eq!(group.len(), 0);
    /// # });
    /// ```
    pub fn len(&self) -> usize {
        self.children.len()
    }

    /// Returns whether every child has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let group = ebbtide::TaskGroup::new();
    /// group.spawn(async {}).await?;
    /// assert!(group.is_empty());
    /// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until no child is left, including those that are spawned during the wait.
    ///
    /// Any number of tasks may join a group. A child must not join its own group: it would wait for itself.
    ///
    /// # Panics
    ///
    /// Once no child is left, the join raises the panic of the first child that panicked since the last join, as
    /// [`std::thread::scope`] does. Further panics are logged. A panic that a [`JoinHandle`] has returned is not
    /// raised.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the children run on, and the next join raises a panic.
    ///
    /// # Examples
    ///
    /// ```
    /// use async_std::task;
    /// use ebbtide::TaskGroup;
    /// use std::panic::{AssertUnwindSafe, catch_unwind};
    ///
    /// let group = TaskGroup::new();
    /// group.spawn(async {});
    /// task::block_on(group.join());
    /// assert!(group.is_empty());
    ///
    /// group.spawn(async { panic!("out of cheese") }); // its handle is dropped here
    /// let raised = catch_unwind(AssertUnwindSafe(|| task::block_on(group.join())));
    /// assert_eq!(raised.unwrap_err().downcast_ref(), Some(&"out of cheese"));
    /// ```
    #[doc(alias = "wait")]
    #[doc(alias = "join_all")]
    pub async fn join(&self) {
        let mut joiner = Joiner { children: &self.children, key: None };
        let panic = poll_fn(|cx| joiner.children.poll_empty(cx, &mut joiner.key)).await;
        drop(joiner);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Waits like [`join`](Self::join), but logs a panic instead of raising it: for a caller that must reach its own
    /// end.
    pub(crate) async fn settled(&self) {
        settled(&self.children).await;
    }

    /// Returns at most `most` of the present children: the text for log lines, and the line that spawned each.
    pub(crate) fn list(&self, most: usize) -> Vec<(String, Option<&'static Location<'static>>)> {
        self.children.list(most)
    }

    /// Refuses new children from this call on. The present ones run on.
    pub(crate) fn close(&self) {
        self.children.close();
    }

    /// Requests the end of every child, and refuses new ones from this call on. Returns at once.
    ///
    /// The executor's threads destroy the children. A child that is being polled ends when that poll returns.
    /// [`join`](Self::join) waits until all are gone; dropping the group destroys them on this thread as well.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskGroup;
    ///
    /// let group = TaskGroup::new();
    /// let child = group.spawn(std::future::pending::<()>());
    /// group.cancel();
    /// group.join().await; // until the child is gone
    /// assert!(child.await.unwrap_err().is_cancelled());
    ///
    /// let refused = group.spawn(async {});
    /// assert!(refused.await.unwrap_err().is_cancelled());
    /// # });
    /// ```
    #[doc(alias = "abort_all")]
    #[doc(alias = "cancel_scope")]
    #[doc(alias = "shutdown")]
    pub fn cancel(&self) {
        self.children.cancel();
    }
}

#[cfg(any(feature = "async-std", feature = "smol"))]
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

/// Handle that spawns into a [`TaskGroup`] and keeps neither the group nor anything in it alive.
///
/// [`TaskGroup::spawner`] makes it, for children that start siblings. It is cheap to clone.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::TaskGroup;
///
/// let group = TaskGroup::new();
/// let spawner = group.spawner();
/// let child = group.spawn(async move {
///     let sibling = spawner.spawn(async { 6 * 7 });
///     sibling.await
/// });
/// assert_eq!(child.await??, 42);
/// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Spawner {
    children: Weak<Children>,
}

impl Spawner {
    /// Starts a child of the group, as [`TaskGroup::spawn`] does.
    ///
    /// If the group was cancelled or dropped, the child is refused: `future` is dropped without a poll, and awaiting
    /// the handle returns a [cancelled](JoinError::is_cancelled) error.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskGroup;
    ///
    /// let group = TaskGroup::new();
    /// let spawner = group.spawner();
    /// assert_eq!(spawner.spawn(async { 7 }).await?, 7);
    ///
    /// drop(group);
    /// let refused = spawner.spawn(async { 7 });
    /// assert!(refused.await.unwrap_err().is_cancelled());
    /// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
    /// ```
    #[doc(alias = "create_task")]
    #[doc(alias = "start_soon")]
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_guarded(Label::At(at), at, future, |(): &mut ()| true))
    }

    /// Starts a child with a name, which log lines show: see [`TaskGroup::spawn_named`].
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let group = ebbtide::TaskGroup::new();
    /// let cleaned = group.spawner().spawn_named("cleaner", async { 3 });
    /// assert_eq!(cleaned.await?, 3);
    /// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
    /// ```
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

    /// Starts a child that holds a guard until its end. The guard is armed when the child is admitted. If it cannot be
    /// armed, the child is refused.
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

    /// Starts a child that belongs to the crate itself and has no result. Returns whether it was started.
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

    /// Adds a child that no executor polls. It is destroyed with the group, or at once if the group is gone.
    #[track_caller]
    pub(crate) fn hold<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.children.upgrade() {
            Some(children) => {
                children.hold(Label::At(Location::caller()), future);
            }
            None => drop_caught(future),
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

    /// Waits until the group is empty or was dropped.
    pub(crate) async fn settled(&self) {
        if let Some(children) = self.children.upgrade() {
            settled(&children).await;
        }
    }

    /// Returns how many children the group has. 0 if it was dropped.
    pub(crate) fn len(&self) -> usize {
        self.children.upgrade().map_or(0, |children| children.len())
    }

    /// Returns at most `most` of the present children, for a list, and how many there are.
    pub(crate) fn listed(&self, most: usize) -> (Vec<ListedChild>, usize) {
        self.children.upgrade().map_or((Vec::new(), 0), |children| children.listed(most))
    }

    /// Does what dropping the group does: for a caller that needs it done although another thread may be about to drop
    /// the group.
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

/// A task that waits for the group to be empty. Dropping it removes its waker.
struct Joiner<'a> {
    children: &'a Children,
    /// The key of its waker; `None` before it first waits.
    key: Option<usize>,
}

impl Drop for Joiner<'_> {
    fn drop(&mut self) {
        self.children.forget_joiner(self.key.take());
    }
}

/// Waits until no child is left, and logs the panic that a join would raise.
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
    let entered = children.enter(label, future);
    entered.map(|(shell, executor)| executor.start(shell)).is_some()
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
    let entered = children.enter_with_result(label, future, arm);
    let handle = JoinHandle::new(entered.as_ref().map(|(shell, _)| Arc::clone(shell.child())), at);
    if let Some((shell, executor)) = entered {
        executor.start(shell);
    }
    handle
}
