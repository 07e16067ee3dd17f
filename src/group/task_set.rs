//! Children with results, in the order in which they end.

use super::join_handle::JoinError;
use super::large::boxed_if_large;
use super::{Spawner, TaskGroup};
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

/// Tasks whose results are collected, in the order in which they end.
///
/// A [`TaskGroup`] whose children all return a `T`: [`next`](Self::next) gives one result after the other. Like the
/// group, it cancels and joins its children synchronously when it is dropped. It is what tokio calls a `JoinSet` and
/// Go's `errgroup` with [`limit`](Self::limit) is near to.
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
/// The first success of several attempts; leaving the block cancels the others:
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
#[must_use = "dropping a set cancels its children; `next` waits for their results"]
pub struct TaskSet<T> {
    shared: Arc<SharedSet<T>>,
    /// Its drop, which comes after that of the set itself, cancels and joins the children.
    group: TaskGroup,
}

/// What the set and its children share. Children that were not started yet are part of it and refer to it:
/// [`TaskSet::cancel`], and so the set's drop, breaks that circle.
struct SharedSet<T> {
    state: Mutex<SetState<T>>,
    spawner: Spawner,
}

struct SetState<T> {
    /// Results that were not given yet, in the order in which the children ended.
    results: VecDeque<Result<T, JoinError>>,
    /// Children that were not started yet, because as many run as may. In the order of their spawn.
    waiting: VecDeque<Waiting>,
    /// Children that have no result yet: those that run, and those that wait.
    left: usize,
    /// How many may run at a time.
    limit: usize,
    /// No child is started any more.
    cancelled: bool,
    /// The task that awaits `next`.
    waker: Option<Waker>,
}

struct Waiting {
    at: &'static Location<'static>,
    child: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<T: Send + 'static> TaskSet<T> {
    /// Makes an empty set, whose children all run at once.
    pub fn new() -> Self {
        let group = TaskGroup::new();
        let state = SetState {
            results: VecDeque::new(),
            waiting: VecDeque::new(),
            left: 0,
            limit: usize::MAX,
            cancelled: false,
            waker: None,
        };
        Self { shared: Arc::new(SharedSet { state: Mutex::new(state), spawner: group.spawner() }), group }
    }

    /// Sets how many children run at a time, at least 1. Further children wait, and are started in the order of their
    /// spawn. Default: no limit.
    pub fn limit(self, children: usize) -> Self {
        lock(&self.shared.state).limit = children.max(1);
        while self.shared.start_next() {}
        self
    }

    /// Starts a child, or lets it wait for the [limit](Self::limit). After [`cancel`](Self::cancel) the child is
    /// refused, and counts as cancelled.
    ///
    /// A child that panics ends alone: its result is a [`JoinError`] with the panic in it.
    ///
    /// # Large futures
    ///
    /// As for a handler: see "Large handlers" at [`Server::serve`](crate::Server::serve).
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
        // Behind those that wait, also while a child ends and the next was not started yet.
        if (has_room && state.waiting.is_empty()) || state.cancelled {
            drop(state);
            self.group.spawn_at(at, child);
        } else {
            state.waiting.push_back(Waiting { at, child: Box::pin(child) });
        }
    }

    /// Waits for the next result; `None` once every child's result was given.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the result waits for the next call.
    #[doc(alias = "join_next")]
    pub async fn next(&mut self) -> Option<Result<T, JoinError>> {
        poll_fn(|cx| self.shared.poll_next(cx)).await
    }

    /// Asks for the end of every child, and refuses new ones from now on. Returns at once; [`next`](Self::next) gives
    /// what comes of each: a result where the child has ended by itself, otherwise a
    /// [cancelled](JoinError::is_cancelled) error.
    #[doc(alias = "abort_all")]
    pub fn cancel(&self) {
        self.shared.refuse();
        self.group.cancel();
    }

    /// Returns how many results are still to be given: of children that run, that wait, and that have ended.
    pub fn len(&self) -> usize {
        let state = lock(&self.shared.state);
        state.left + state.results.len()
    }

    /// Returns whether [`next`](Self::next) would give `None`.
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

    /// Starts the child that has waited longest, if there is room for it.
    fn start_next(&self) -> bool {
        let mut state = lock(&self.state);
        if state.cancelled || !state.has_room() {
            return false;
        }
        let Some(Waiting { at, child }) = state.waiting.pop_front() else {
            return false;
        };
        drop(state);
        self.spawner.spawn_at(at, child);
        true
    }

    /// Starts no child any more, and drops those that wait, which notes that they were cancelled.
    fn refuse(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            state.cancelled = true;
            // From here on they count as running, which does not matter any more.
            std::mem::take(&mut state.waiting)
        };
        for Waiting { child, .. } in waiting {
            drop_caught(child);
        }
    }
}

/// The last owner goes: results that were not taken are dropped one by one, since a destructor of the user's may panic.
impl<T> Drop for SharedSet<T> {
    fn drop(&mut self) {
        let results = std::mem::take(&mut lock(&self.state).results);
        results.into_iter().for_each(drop_caught);
    }
}

impl<T> Drop for TaskSet<T> {
    fn drop(&mut self) {
        self.shared.refuse();
        // Now the group is dropped, which cancels and joins those that run.
    }
}

impl<T: Send + 'static> Default for TaskSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for TaskSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Copies: the formatter's writer is user code, and may come back here.
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

/// A child's way to put its result into the set. Its drop does that.
struct ChildEnd<T> {
    /// `None`: the child was cancelled.
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
        self.shared.start_next();
    }
}
