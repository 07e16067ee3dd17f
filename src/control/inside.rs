//! User code that runs as part of a run: handlers, and the tasks of connections and of the server.

use super::Control;
use crate::say::say;
use crate::unwind::{self, Payload};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

thread_local! {
    /// The run whose code this thread is running (its control's address), or 0. Only ever compared.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Does `work` as code of this run, so that [`is_inside`] can tell.
pub(crate) fn inside<T>(control: &Arc<Control>, work: impl FnOnce() -> T) -> T {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }

    let _restore = Restore(INSIDE.replace(Arc::as_ptr(control) as usize));
    work()
}

/// Whether the caller is a handler or a task of this run: if it waits for the run's end, it waits for itself.
pub(crate) fn is_inside(control: &Arc<Control>) -> bool {
    INSIDE.get() == Arc::as_ptr(control) as usize
}

/// Makes a future with `make` and drives it; a panic of either is its result.
///
/// A destructor that panics after the future has ended is logged, and changes nothing about the result.
pub(crate) async fn catch_future<F: Future>(make: impl FnOnce() -> F) -> Result<F::Output, Payload> {
    let future = unwind::catch(make)?;
    let mut future = pin!(Some(future));
    let result = poll_fn(|cx| {
        let Some(future) = future.as_mut().as_pin_mut() else {
            return Poll::Pending; // never polled again once it has ended
        };
        match unwind::catch(|| future.poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    })
    .await;
    if let Err(payload) = unwind::catch(|| future.set(None)) {
        say!(error, "a destructor panicked: {}", unwind::message(&payload));
        unwind::discard(payload);
    }
    result
}
