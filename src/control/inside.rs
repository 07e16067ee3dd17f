//! Code that runs as part of a run: handlers, and the tasks that they and the server have.

use super::{Control, Token};
use crate::group::Name;
use crate::unwind::{self, catch_future};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

thread_local! {
    /// The run whose code this thread is running (its control's address), or 0. Only ever compared.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Runs a future as code of this run, so that [`is_inside`] can tell.
pub(crate) async fn inside<F: Future>(control: &Arc<Control>, future: F) -> F::Output {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }

    let here = Arc::as_ptr(control) as usize;
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _restore = Restore(INSIDE.replace(here));
        future.as_mut().poll(cx)
    })
    .await
}

/// Whether the caller is a handler or a task of this run: one that waits for the run's end waits for itself.
pub(crate) fn is_inside(control: &Arc<Control>) -> bool {
    INSIDE.get() == Arc::as_ptr(control) as usize
}

/// Runs a task of the run to its end; a panic ends it alone, is logged, and handed to `on_panic`.
///
/// The token is the last parameter but for what has no destructor of the user's: whether or not the task was ever polled,
/// its future is destroyed before the token is.
pub(crate) async fn run_task<F>(future: F, name: Name, on_panic: impl FnOnce(String), token: Token)
where
    F: Future<Output = ()>,
{
    if let Err(payload) = inside(token.control(), catch_future(|| future)).await {
        let message = unwind::message(&payload).to_owned();
        unwind::discard(payload);
        log::error!(target: "ebbtide", "a task of {name} panicked: {message}");
        on_panic(message);
    }
}
