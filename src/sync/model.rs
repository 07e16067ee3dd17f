//! Runs a model with loom, and a task in it. [`clock`]: its time, and its timers.

pub(crate) mod clock;

use std::future::{Future, poll_fn};
use std::task::{Context, Poll, Waker};

/// Checks a model with up to three preemptions. Without a bound the larger models take hours.
pub(crate) fn model(check: impl Fn() + Send + Sync + 'static) {
    bounded(3, check);
}

pub(crate) fn bounded(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

/// Runs a future to its end. If it waits and is never woken, loom reports a deadlock.
pub(crate) fn wait_for<F: Future>(future: F) -> F::Output {
    loom::future::block_on(future)
}

/// The same for a poll function.
pub(crate) fn wait_until<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    wait_for(poll_fn(poll))
}

/// A context whose waker does nothing.
pub(crate) fn no_task() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
