//! One child's handle: its result, and its end.

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

/// A future of one child's result: made by [`TaskGroup::spawn`](crate::TaskGroup::spawn),
/// [`Connection::spawn`](crate::Connection::spawn) and [`Handle::spawn`](crate::Handle::spawn).
///
/// The child runs whether or not its handle is awaited. The handle does not own it: dropping the handle leaves the
/// child in its group, which joins or cancels it. So a handle that is not needed can be ignored. (tokio's and
/// async-std's handles have the same name; dropping theirs detaches the task from everything.)
///
/// # Panics of the child
///
/// While the handle lives, a panic of the child is the handle's: awaiting it gives a [`JoinError`]. If the handle is
/// dropped before or afterwards, without having been awaited to the end, the panic goes to the child's group, as if
/// there had been no handle.
///
/// # Cancel safety
///
/// Polling a reference (`&mut handle`) and dropping that loses nothing: the result waits for the next poll.
///
/// A handle that is kept holds the result, and at most 128 bytes more. (A child that returns its own handle is never
/// freed.)
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
pub struct JoinHandle<T> {
    /// `None` if the child was refused, and once the result was given.
    child: Option<Arc<Child>>,
    /// The result was given.
    given: bool,
    at: &'static Location<'static>,
    result: PhantomData<fn() -> T>,
}

impl<T> JoinHandle<T> {
    /// `None`: the child was refused.
    pub(super) fn new(child: Option<Arc<Child>>, at: &'static Location<'static>) -> Self {
        Self { child, given: false, at, result: PhantomData }
    }

    /// The handle of a child that is refused: its future is dropped.
    pub(crate) fn refused(at: &'static Location<'static>, future: impl Future<Output = T>) -> Self {
        drop_caught(future);
        Self::new(None, at)
    }

    /// Asks for the end of this child. Returns at once; awaiting the handle waits for the end.
    ///
    /// A child that is being polled ends when that poll returns; if that was its last poll, its result stands.
    #[doc(alias = "abort")]
    pub fn cancel(&self) {
        if let Some(child) = &self.child {
            child.cancel();
        }
    }

    /// Returns whether the child has ended, in whichever way. Its future has been destroyed then.
    pub fn is_finished(&self) -> bool {
        self.child.as_ref().is_none_or(|child| child.has_ended())
    }
}

impl<T: 'static> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// If it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(!this.given, "a `JoinHandle` was polled after it was ready");
        let cancelled = JoinError { panic: None, at: this.at };
        let result = match &this.child {
            Some(child) => ready!(child.poll_end(cx)),
            None => None,
        };
        this.child = None;
        this.given = true;
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
pub struct JoinError {
    /// `None`: cancelled. In a lock, because errors should be `Sync`, and payloads are not.
    panic: Option<Mutex<Payload>>,
    at: &'static Location<'static>,
}

impl JoinError {
    pub(super) fn cancelled(at: &'static Location<'static>) -> Self {
        Self { panic: None, at }
    }

    pub(super) fn panicked(payload: Payload, at: &'static Location<'static>) -> Self {
        Self { panic: Some(Mutex::new(payload)), at }
    }

    /// Returns whether the child was cancelled: by its handle, with its group, or because its group took no more
    /// children.
    pub fn is_cancelled(&self) -> bool {
        self.panic.is_none()
    }

    /// Returns whether the child panicked.
    pub fn is_panic(&self) -> bool {
        self.panic.is_some()
    }

    /// Returns what the child panicked with, for [`std::panic::resume_unwind`]; `None` if it was cancelled.
    pub fn into_panic(self) -> Option<Box<dyn Any + Send + 'static>> {
        self.panic.map(|payload| payload.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.panic {
            None => write!(f, "the task spawned at {} was cancelled", self.at),
            Some(payload) => {
                // A copy: the formatter's writer is user code, and may come back here.
                let message = panic::message(&payload.lock().unwrap_or_else(PoisonError::into_inner)).to_owned();
                write!(f, "the task spawned at {} panicked: {}", self.at, escape(&message))
            }
        }
    }
}

/// The same text as `Display`: for `main`, and for `unwrap`.
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
