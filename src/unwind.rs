//! What we do with panics that are not ours.

use crate::say::say;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs `work` and catches its panic.
///
/// Asserting unwind safety is right wherever this is used: what has panicked is never used again, only destroyed.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Payload> {
    catch_unwind(AssertUnwindSafe(work))
}

/// Makes a future with `make` and drives it; a panic of either is its result.
///
/// A destructor that panics after the future has ended is logged, and changes nothing about the result.
pub(crate) async fn catch_future<F: Future>(make: impl FnOnce() -> F) -> Result<F::Output, Payload> {
    let future = catch(make)?;
    let mut future = pin!(Some(future));
    let result = std::future::poll_fn(|cx| {
        let Some(future) = future.as_mut().as_pin_mut() else {
            return Poll::Pending; // never polled again once it has ended
        };
        match catch(|| future.poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    })
    .await;
    if let Err(payload) = catch(|| future.set(None)) {
        say!(error, "a destructor panicked: {}", message(&payload));
        discard(payload);
    }
    result
}

/// The text of a panic, as the default panic hook would print it.
pub(crate) fn message(payload: &Payload) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a value that is not text"
    }
}

/// Drops a payload. Its destructor is user code too, and may panic in its turn; that second payload is leaked.
pub(crate) fn discard(payload: Payload) {
    if let Err(again) = catch(|| drop(payload)) {
        std::mem::forget(again);
    }
}
