//! [`JoinHandle`]: a future of one child's result; and [`JoinError`], for a child that has none.

use super::children::Child;
use super::future::Panic;
use crate::panic::{self, Payload, drop_caught};
use crate::text::escape;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

/// Future of one child's result.
///
/// Made by [`TaskGroup::spawn`](crate::TaskGroup::spawn), [`Spawner::spawn`](crate::Spawner::spawn),
/// [`Connection::spawn`](crate::Connection::spawn) and [`Handle::spawn`](crate::Handle::spawn).
///
/// The child runs whether or not its handle is awaited. When the handle is ready, the child's future has been dropped,
/// and its group does not count it any more.
///
/// The handle does not own the child: dropping the handle leaves the child in its group, which joins or cancels it. So
/// a handle that is not needed can be ignored.
///
/// # Compared with
///
/// The handles of tokio and async-std have the same name. Dropping theirs detaches the task: nothing waits for it any
/// more. Dropping the `Task` of async-executor cancels the task.
///
/// # Panics of the child
///
/// Awaiting the handle of a child that panicked returns a [`JoinError`]. If the handle is dropped without having
/// returned it, before or after the panic, the panic goes to the child's group, as if there had been no handle:
/// [`TaskGroup::join`](crate::TaskGroup::join) raises it.
///
/// # Cancel safety
///
/// Awaiting a reference (`&mut handle`) and dropping that future loses nothing: the next poll returns the result.
///
/// # Memory
///
/// A handle of a child that has ended holds the result, and at most 128 bytes more. A child that returns its own handle
/// is never freed.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::TaskGroup;
///
/// let group = TaskGroup::new();
/// let answer = group.spawn(async { 6 * 7 });
/// let hopeless = group.spawn(std::future::pending::<()>());
///
/// assert_eq!(answer.await?, 42);
/// hopeless.cancel();
/// assert!(hopeless.await.unwrap_err().is_cancelled());
/// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
/// ```
#[doc(alias = "Task")]
#[doc(alias = "AbortHandle")]
pub struct JoinHandle<T> {
    /// `None` if the child was refused, and after the result was returned. The drop of the handle detaches the child.
    child: Option<Arc<Child>>,
    /// Set when the future was ready. A further poll panics.
    returned: bool,
    /// The line that spawned the child, for errors.
    at: &'static Location<'static>,
    result: PhantomData<fn() -> T>,
}

impl<T> JoinHandle<T> {
    /// Makes the handle of a child; of one that was refused, if `child` is `None`.
    pub(super) fn new(child: Option<Arc<Child>>, at: &'static Location<'static>) -> Self {
        Self { child, returned: false, at, result: PhantomData }
    }

    /// Drops the future of a child that is refused, and makes its handle.
    pub(crate) fn refused(at: &'static Location<'static>, future: impl Future<Output = T>) -> Self {
        drop_caught(future);
        Self::new(None, at)
    }

    /// Requests the end of this child. Returns at once; awaiting the handle waits for the end.
    ///
    /// A child that is being polled ends when that poll returns. If that poll completes the child, its result stands.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let group = ebbtide::TaskGroup::new();
    /// let child = group.spawn(std::future::pending::<()>());
    /// child.cancel();
    /// assert!(child.await.unwrap_err().is_cancelled());
    /// # });
    /// ```
    #[doc(alias = "abort")]
    #[doc(alias = "abort_handle")]
    pub fn cancel(&self) {
        if let Some(child) = &self.child {
            child.cancel();
        }
    }

    /// Returns whether the child has ended, in any way. If it has, its future has been dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let group = ebbtide::TaskGroup::new();
    /// let child = group.spawn(std::future::pending::<()>());
    /// assert!(!child.is_finished());
    /// child.cancel();
    /// group.join().await;
    /// assert!(child.is_finished());
    /// # });
    /// ```
    #[doc(alias = "done")]
    pub fn is_finished(&self) -> bool {
        self.child.as_ref().is_none_or(|child| child.has_ended())
    }
}

impl<T: 'static> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// Ready once the child has ended, with its result.
    ///
    /// # Errors
    ///
    /// A [`JoinError`] if the child was cancelled, was refused, or panicked.
    ///
    /// # Panics
    ///
    /// If it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(!this.returned, "a `JoinHandle` was polled after it was ready");
        let cancelled = JoinError { panic: None, at: this.at };
        let result = match &this.child {
            Some(child) => ready!(child.poll_end(cx)),
            None => None,
        };
        this.child = None;
        this.returned = true;
        let Some(mut holder) = result else {
            return Poll::Ready(Err(cancelled));
        };
        let mut result: Option<Result<T, Box<Panic>>> = None;
        holder.as_mut().take_result(&mut result);
        Poll::Ready(match result {
            Some(Ok(output)) => Ok(output),
            Some(Err(panic)) => Err(JoinError::panicked(panic.payload, this.at)),
            None => Err(cancelled), // not reached: a result is there, of this type
        })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            child.detach();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("spawned_at", &format_args!("{}", self.at))
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Error of a child that has no result: it was cancelled, or it panicked.
///
/// Its text names the line of the child's `spawn`. It converts into [`io::Error`] and, as every error does, into
/// [`BoxError`](crate::BoxError).
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::TaskGroup;
///
/// let group = TaskGroup::new();
/// let error = group.spawn(async { panic!("out of cheese") }).await.unwrap_err();
/// assert!(error.is_panic() && !error.is_cancelled());
/// // the task spawned at src/main.rs:5:19 panicked: out of cheese
/// assert!(error.to_string().ends_with(" panicked: out of cheese"));
/// # });
/// ```
pub struct JoinError {
    /// The panic; `None` if the child was cancelled. Behind a lock, because an error should be `Sync`, and a payload is
    /// not.
    panic: Option<Mutex<Payload>>,
    /// The line that spawned the child.
    at: &'static Location<'static>,
}

impl JoinError {
    pub(super) fn cancelled(at: &'static Location<'static>) -> Self {
        Self { panic: None, at }
    }

    pub(super) fn panicked(payload: Payload, at: &'static Location<'static>) -> Self {
        Self { panic: Some(Mutex::new(payload)), at }
    }

    /// Returns whether the child was cancelled: by its handle, or with its group. A child that its group refused counts
    /// as cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let group = ebbtide::TaskGroup::new();
    /// group.cancel();
    /// let error = group.spawn(async {}).await.unwrap_err(); // refused
    /// assert!(error.is_cancelled());
    /// # });
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.panic.is_none()
    }

    /// Returns whether the child panicked.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let group = ebbtide::TaskGroup::new();
    /// let error = group.spawn(async { panic!("out of cheese") }).await.unwrap_err();
    /// assert!(error.is_panic());
    /// # });
    /// ```
    pub fn is_panic(&self) -> bool {
        self.panic.is_some()
    }

    /// Returns the payload of the child's panic, for [`std::panic::resume_unwind`]; `None` if the child was cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let group = ebbtide::TaskGroup::new();
    /// let error = group.spawn(async { panic!("out of cheese") }).await.unwrap_err();
    /// let payload = error.into_panic().expect("it panicked");
    /// assert_eq!(payload.downcast_ref(), Some(&"out of cheese"));
    /// # });
    /// ```
    pub fn into_panic(self) -> Option<Box<dyn Any + Send + 'static>> {
        self.panic.map(|payload| payload.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.panic {
            None => write!(f, "the task spawned at {} was cancelled", self.at),
            Some(payload) => {
                // A copy: the formatter's writer is user code, and may format this error again.
                let message = panic::message(&payload.lock().unwrap_or_else(PoisonError::into_inner)).to_owned();
                write!(f, "the task spawned at {} panicked: {}", self.at, escape(&message))
            }
        }
    }
}

/// The same text as `Display`, because `main` and `unwrap` print the `Debug` of an error.
impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for JoinError {}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        Self::other(error)
    }
}
