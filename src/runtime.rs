//! The async runtime. No other module names one.
//!
//! Sockets and timers come from async-io, which works beside every executor. What is chosen here is the executor that
//! a [`TaskGroup`](crate::TaskGroup) uses unless it was given another one.

pub(crate) use blocking::unblock;
pub(crate) use futures_lite::future::yield_now;
use std::future::Future;

/// Whether [`spawn`] has an executor: one of the features `async-std` and `smol` is on.
pub(crate) const HAS_EXECUTOR: bool = cfg!(any(feature = "async-std", feature = "smol"));

/// Starts a task on the executor that the features choose, and detaches it.
///
/// With async-std this is its own `spawn`, so its task-locals work.
#[cfg(feature = "async-std")]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(async_std::task::spawn(task));
}

#[cfg(all(feature = "smol", not(feature = "async-std")))]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    smol::spawn(task).detach();
}

/// Not reached: without an executor every child is refused.
#[cfg(not(any(feature = "async-std", feature = "smol")))]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(task);
}
