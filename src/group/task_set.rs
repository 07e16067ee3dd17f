//! [`TaskSet`]: a group of children whose results are collected in the order in which they end.
//!
//! A set is a [`TaskGroup`], a queue of results, and a queue of children that wait for the limit. Each child puts its
//! result into the queue from the destructor of its [`ChildEnd`], so every child has exactly one result however it
//! ends.

use super::join_handle::JoinError;
use super::large::boxed_if_large;
use super::{Job, Spawner, TaskGroup};
use crate::panic::{self, drop_caught};
use crate::sync::waker_set::wake;
use crate::sync::{Mutex, lock};
use pin_project_lite::pin_project;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

/// A group of tasks whose results are collected in the order in which they end.
///
/// It is a [`TaskGroup`] whose children all return a `T`: [`next`](Self::next) returns one result after the other.
/// [`limit`](Self::limit) sets how many children run at a time. Like the group, the set cancels and joins its children
/// synchronously when it is dropped; "Drop" at [`TaskGroup`](TaskGroup#drop) describes the exceptions.
///
/// # Compared with
///
/// - tokio's `JoinSet` has no limit. Dropping it requests an abort and returns, while tasks may still run.
/// - Go's `errgroup` has a limit, and keeps only the first error.
/// - futures-concurrency's `FutureGroup` and `FuturesUnordered` poll their futures in one task; they may borrow. Here
///   each child is a task of its own, on any thread of the executor.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::TaskSet;
///
/// let mut squares = TaskSet::new().limit(4); // at most four run at a time
/// for n in 1..=10_u64 {
///     squares.spawn(async move { n * n });
/// }
/// let mut sum = 0;
/// while let Some(square) = squares.next().await {
///     sum += square?;
/// }
/// assert_eq!(sum, 385);
/// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
/// ```
///
/// The first error ends all, as with asyncio's `TaskGroup` or Go's `errgroup`: `?` drops the set, which cancels and
/// joins the others.
///
/// ```
/// use ebbtide::TaskSet;
/// use std::io;
///
/// async fn all() -> io::Result<()> {
///     let mut steps = TaskSet::<io::Result<()>>::new();
///     steps.spawn(async { Err(io::ErrorKind::ConnectionRefused.into()) });
///     steps.spawn(std::future::pending());
///     while let Some(result) = steps.next().await {
///         result??; // the first `?`: it panicked; the second: it returned an error
///     }
///     Ok(())
/// }
///
/// let error = async_std::task::block_on(all()).unwrap_err();
/// assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
/// ```
///
/// The first success of several attempts. Dropping the set cancels the others:
///
/// ```
/// # async_std::task::block_on(async {
/// # async fn attempt(n: u32) -> std::io::Result<u32> {
/// #     if n == 2 { Ok(n) } else { Err(std::io::ErrorKind::ConnectionRefused.into()) }
/// # }
/// use ebbtide::TaskSet;
///
/// let mut attempts = TaskSet::new();
/// for n in 1..=3 {
///     attempts.spawn(attempt(n));
/// }
/// let first = loop {
///     match attempts.next().await {
///         Some(Ok(Ok(success))) => break Some(success),
///         Some(_) => continue, // failed, or panicked
///         None => break None,
///     }
/// };
/// assert_eq!(first, Some(2));
/// # });
/// ```
#[doc(alias = "JoinSet")]
#[doc(alias = "FuturesUnordered")]
#[doc(alias = "FutureGroup")]
#[doc(alias = "as_completed")]
#[doc(alias = "errgroup")]
#[must_use = "dropping a set cancels its children; `next` waits for their results"]
pub struct TaskSet<T> {
    shared: Arc<SharedSet<T>>,
    /// The children that run. Dropped after the set's own `Drop`; that cancels and joins them.
    group: TaskGroup,
}

/// State that the set and its children share.
///
/// A child that waits for the limit lies in it and refers to it. [`SharedSet::refuse`] breaks that reference cycle; the
/// set's cancel and drop call it.
struct SharedSet<T> {
    state: Mutex<SetState<T>>,
    /// Starts the next child when one has ended.
    spawner: Spawner,
}

struct SetState<T> {
    /// The results that `next` has not returned, in the order in which the children ended.
    results: VecDeque<Result<T, JoinError>>,
    /// The children that wait for the limit, in the order of their spawn.
    waiting: VecDeque<Waiting>,
    /// How many children have no result yet: those that run and those that wait.
    left: usize,
    /// How many may run at a time.
    limit: usize,
    /// A call of `start_waiting` is starting a child. It looks again afterwards.
    is_starting: bool,
    /// No child is started any more. Never reset.
    cancelled: bool,
    /// The task that awaits `next`.
    waker: Option<Waker>,
}

/// A child that waits for the limit.
struct Waiting {
    /// The line that spawned it.
    at: &'static Location<'static>,
    child: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<T: Send + 'static> TaskSet<T> {
    /// Makes an empty set. All its children run at once, unless there is a [`limit`](Self::limit). They run on the
    /// executor of [`TaskGroup::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let mut set = ebbtide::TaskSet::new();
    /// set.spawn(async { 7 });
    /// assert_eq!(set.next().await.unwrap()?, 7);
    /// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
    /// ```
    #[cfg(any(feature = "async-std", feature = "smol"))]
    pub fn new() -> Self {
        Self::of(TaskGroup::new())
    }

    /// Makes an empty set, whose children run wherever `executor` runs the [`Job`] that it is given: see
    /// [`TaskGroup::on`].
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskSet;
    ///
    /// let mut set = TaskSet::on(|job| {
    ///     std::thread::spawn(|| async_io::block_on(job));
    /// });
    /// set.spawn(async { 1 + 1 });
    /// assert_eq!(set.next().await.unwrap()?, 2);
    /// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
    /// ```
    pub fn on(executor: impl Fn(Job) + Send + Sync + 'static) -> Self {
        Self::of(TaskGroup::on(executor))
    }

    fn of(group: TaskGroup) -> Self {
        let state = SetState {
            results: VecDeque::new(),
            waiting: VecDeque::new(),
            left: 0,
            limit: usize::MAX,
            is_starting: false,
            cancelled: false,
            waker: None,
        };
        Self { shared: Arc::new(SharedSet { state: Mutex::new(state), spawner: group.spawner() }), group }
    }

    /// Sets how many children run at a time. Default: no limit.
    ///
    /// Further children wait, and are started in the order of their spawn. A limit of 0 counts as 1. A higher limit
    /// starts children that wait; a lower one ends none of those that run.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskSet;
    ///
    /// let mut set = TaskSet::new().limit(1); // one after the other
    /// for n in 1..=3 {
    ///     set.spawn(async move { n });
    /// }
    /// let mut order = Vec::new();
    /// while let Some(n) = set.next().await {
    ///     order.push(n?);
    /// }
    /// assert_eq!(order, [1, 2, 3]);
    /// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
    /// ```
    #[doc(alias = "SetLimit")]
    #[doc(alias = "buffer_unordered")]
    #[doc(alias = "concurrency")]
    pub fn limit(self, children: usize) -> Self {
        lock(&self.shared.state).limit = children.max(1);
        self.shared.start_waiting();
        self
    }

    /// Starts a child, or lets it wait for the [limit](Self::limit).
    ///
    /// A child that panics ends alone: its result is a [`JoinError`] with the panic in it. After
    /// [`cancel`](Self::cancel) the child is refused: `future` is dropped without a poll, and its result is a
    /// [cancelled](JoinError::is_cancelled) error.
    ///
    /// # Large futures
    ///
    /// A future of more than 16 KiB is moved to the heap before anything else. "Large handlers" at
    /// [`Server::serve`](crate::Server::serve) describes how large a future may be.
    ///
    /// # Panics
    ///
    /// If 2³² children run already.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskSet;
    ///
    /// let mut set = TaskSet::new();
    /// set.spawn(async { 6 * 7 });
    /// set.spawn(async { panic!("out of cheese") });
    /// let (mut values, mut panics) = (0, 0);
    /// while let Some(result) = set.next().await {
    ///     match result {
    ///         Ok(_) => values += 1,
    ///         Err(error) => panics += usize::from(error.is_panic()),
    ///     }
    /// }
    /// assert_eq!((values, panics), (1, 1));
    /// # });
    /// ```
    #[doc(alias = "create_task")]
    #[doc(alias = "start_soon")]
    #[doc(alias = "push")]
    #[doc(alias = "insert")]
    #[track_caller]
    pub fn spawn<F>(&mut self, future: F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_child(at, future));
    }

    fn spawn_child<F>(&self, at: &'static Location<'static>, future: F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let ending = ChildEnd { result: None, shared: Arc::clone(&self.shared), at };
        let child = SetChild { future, ending };
        let mut state = lock(&self.shared.state);
        let has_room = state.has_room();
        state.left += 1;
        // Behind the children that wait, even if there is room: one may just have ended, and the next not started yet.
        if (has_room && state.waiting.is_empty()) || state.cancelled {
            drop(state);
            self.group.spawn_at(at, child);
        } else {
            state.waiting.push_back(Waiting { at, child: Box::pin(child) });
        }
    }

    /// Waits for the next result. Returns `None` once the result of every child was returned.
    ///
    /// After a `None` the set can be used again. When a result is returned, its child's future has been dropped.
    ///
    /// # Errors
    ///
    /// The result is a [`JoinError`] if the child was cancelled or panicked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call returns the result.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskSet;
    ///
    /// let mut set = TaskSet::new();
    /// assert!(set.next().await.is_none());
    /// set.spawn(async { 6 * 7 });
    /// assert_eq!(set.next().await.unwrap()?, 42);
    /// assert!(set.next().await.is_none());
    /// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
    /// ```
    #[doc(alias = "join_next")]
    #[doc(alias = "join_all")]
    pub async fn next(&mut self) -> Option<Result<T, JoinError>> {
        poll_fn(|cx| self.shared.poll_next(cx)).await
    }

    /// Requests the end of every child, and refuses new ones from this call on. Returns at once.
    ///
    /// [`next`](Self::next) then returns one result for each child: its value or panic if it has ended by itself,
    /// otherwise a [cancelled](JoinError::is_cancelled) error.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::TaskSet;
    ///
    /// let mut set = TaskSet::new();
    /// set.spawn(std::future::pending::<()>());
    /// set.cancel();
    /// assert!(set.next().await.unwrap().unwrap_err().is_cancelled());
    /// assert!(set.next().await.is_none());
    /// # });
    /// ```
    #[doc(alias = "abort_all")]
    #[doc(alias = "shutdown")]
    pub fn cancel(&self) {
        self.shared.refuse();
        self.group.cancel();
    }

    /// Returns how many results [`next`](Self::next) will still return: of the children that run, that wait for the
    /// limit, and that have ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let mut set = ebbtide::TaskSet::new().limit(1);
    /// set.spawn(async {});
    /// set.spawn(async {});
    /// assert_eq!(set.len(), 2);
    /// set.next().await;
    /// assert_eq!(set.len(), 1);
    /// # });
    /// ```
    pub fn len(&self) -> usize {
        let state = lock(&self.shared.state);
        state.left + state.results.len()
    }

    /// Returns whether [`next`](Self::next) would return `None`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let mut set = ebbtide::TaskSet::new();
    /// set.spawn(async {});
    /// assert!(!set.is_empty()); // also when the child has ended: its result is there
    /// set.next().await;
    /// assert!(set.is_empty());
    /// # });
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> SetState<T> {
    fn has_room(&self) -> bool {
        self.left - self.waiting.len() < self.limit
    }
}

impl<T> SharedSet<T> {
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<T, JoinError>>> {
        let waker = cx.waker().clone(); // user code, so before the lock
        let mut state = lock(&self.state);
        if let Some(result) = state.results.pop_front() {
            return Poll::Ready(Some(result));
        }
        if state.left == 0 {
            return Poll::Ready(None);
        }
        let displaced = state.waker.replace(waker);
        drop(state);
        drop(displaced);
        Poll::Pending
    }

    /// Starts children that wait, in the order of their spawn, as far as the limit allows it.
    ///
    /// One caller at a time does so, in a loop. An executor may end a child inside of the call that starts it, and the
    /// end of that child calls this function again; if each such call started the next child, the stack would grow with
    /// the number of children.
    fn start_waiting(&self) {
        loop {
            let mut state = lock(&self.state);
            if state.is_starting || state.cancelled || !state.has_room() {
                return;
            }
            let Some(Waiting { at, child }) = state.waiting.pop_front() else {
                return;
            };
            state.is_starting = true;
            drop(state);
            self.spawner.spawn_at(at, child);
            lock(&self.state).is_starting = false;
        }
    }

    /// Starts no child any more, and drops those that wait. Their destructors record that they were cancelled.
    fn refuse(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            state.cancelled = true;
            // Without them in the queue, `left` counts them as running. That is harmless: no child is started any more.
            std::mem::take(&mut state.waiting)
        };
        for Waiting { child, .. } in waiting {
            drop_caught(child);
        }
    }
}

/// Drops the results that were not taken, one by one: the destructor of each is user code and may panic.
impl<T> Drop for SharedSet<T> {
    fn drop(&mut self) {
        let results = std::mem::take(&mut lock(&self.state).results);
        results.into_iter().for_each(drop_caught);
    }
}

impl<T> Drop for TaskSet<T> {
    fn drop(&mut self) {
        self.shared.refuse();
        // The field `group` is dropped next, which cancels and joins those that run.
    }
}

#[cfg(any(feature = "async-std", feature = "smol"))]
impl<T: Send + 'static> Default for TaskSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for TaskSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Copies: the formatter's writer is user code, and may use this set.
        let (left, waiting, results, cancelled) = {
            let state = lock(&self.shared.state);
            (state.left, state.waiting.len(), state.results.len(), state.cancelled)
        };
        f.debug_struct("TaskSet")
            .field("running", &(left - waiting))
            .field("waiting", &waiting)
            .field("results", &results)
            .field("cancelled", &cancelled)
            .finish()
    }
}

pin_project! {
    /// One child of a set.
    struct SetChild<F, T> {
        #[pin]
        future: F,
        // Dropped after the future, on every way out.
        ending: ChildEnd<T>,
    }
}

impl<F: Future<Output = T>, T> Future for SetChild<F, T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let result = match panic::catch(|| this.future.poll(cx)) {
            Ok(poll) => Ok(ready!(poll)),
            Err(payload) => Err(JoinError::panicked(payload, this.ending.at)),
        };
        this.ending.result = Some(result);
        Poll::Ready(())
    }
}

/// Completion guard of one child: its drop puts the child's result into the set.
struct ChildEnd<T> {
    /// Set by the last poll. `None` in the drop: the child was cancelled.
    result: Option<Result<T, JoinError>>,
    shared: Arc<SharedSet<T>>,
    at: &'static Location<'static>,
}

impl<T> Drop for ChildEnd<T> {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(JoinError::cancelled(self.at)));
        let waker = {
            let mut state = lock(&self.shared.state);
            state.results.push_back(result);
            state.left -= 1;
            state.waker.take()
        };
        waker.into_iter().for_each(wake);
        self.shared.start_waiting();
    }
}
