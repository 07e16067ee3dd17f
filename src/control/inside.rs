//! Code that runs as part of a run: handlers, and the tasks that they and the server have.

use super::Control;
use super::token::Token;
use crate::say::say;
use crate::unwind::{self, Payload};
use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
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

/// Whether the caller is a handler or a task of this run: one that waits for the run's end waits for itself.
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

/// Runs a task of the run to its end; a panic ends it alone, is logged, and handed to `on_panic`.
///
/// The future comes in a box, since it would be moved, and so kept, several times. The token goes last. It is the last parameter, because a task that was never polled drops its parameters in order; in
/// one that was, the future lies deeper than the parameters, and is dropped before them.
pub(crate) async fn run_task<F>(
    future: Pin<Box<F>>,
    name: Arc<dyn fmt::Display + Send + Sync>,
    on_panic: impl FnOnce(String),
    token: Token,
) where
    F: Future<Output = ()>,
{
    let mut future = pin!(catch_future(|| future));
    if let Err(payload) = poll_fn(|cx| inside(token.control(), || future.as_mut().poll(cx))).await {
        let message = unwind::message(&payload).to_owned();
        unwind::discard(payload);
        say!(error, "{name} panicked: {message}");
        on_panic(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::Listener;
    use std::task::{Context, Waker};

    /// Asks, in its destructor, whether the run counts as closed already.
    struct Late(Arc<Control>, Arc<std::sync::atomic::AtomicBool>);

    impl Future for Late {
        type Output = ();

        fn poll(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> std::task::Poll<()> {
            std::task::Poll::Pending
        }
    }

    impl Drop for Late {
        fn drop(&mut self) {
            self.1.store(self.0.closed.is_given(), std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn a_tasks_future_is_destroyed_before_the_run_counts_as_closed() {
        for polled in [false, true] {
            let control = Control::new(Listener::tcp(([127, 0, 0, 1], 0).into()).unwrap());
            let late = Arc::default();
            let future = Late(Arc::clone(&control), Arc::clone(&late));
            let mut task = Box::pin(run_task(Box::pin(future), Arc::new("a test"), |_| (), control.token()));
            control.cancel(crate::control::report::Cause::Cancel);
            if polled {
                assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            assert!(!control.closed.is_given(), "a task is left");
            drop(task);
            assert!(control.closed.is_given());
            assert!(!late.load(std::sync::atomic::Ordering::SeqCst), "polled: {polled}");
        }
    }
}
