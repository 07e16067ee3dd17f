//! [`Stopping`]: tells a task of a [`ServiceGroup`](super::ServiceGroup) that its turn to stop has come.

use crate::sync::event::{Event, EventPlace};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Future that is ready once a task of a [`ServiceGroup`](crate::ServiceGroup) should stop.
///
/// [`ServiceGroup::task`](crate::ServiceGroup::task) gives it to the task. It is ready when every service that was
/// added after the task has ended, so the task can still serve those until then. It is ready too once the task itself
/// has ended. It may be polled again after it was ready, and is then ready again. A clone is one more waiter.
///
/// # Cancel safety
///
/// Nothing is lost if it is dropped.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{ServiceGroup, Stopping};
///
/// let group = ServiceGroup::new();
/// let handle = group.handle();
/// let reports = group
///     .task("cleaner", async |stopping: Stopping| {
///         let also = stopping.clone();
///         stopping.await;
///         also.await;
///     })
///     .task("first to stop", async move |stopping: Stopping| {
///         handle.shutdown();
///         stopping.await;
///     })
///     .run()
///     .await?;
/// assert_eq!(reports.tasks().count(), 2);
/// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
/// ```
#[doc(alias = "CancellationToken")]
#[doc(alias = "WaitForCancellationFuture")]
#[must_use = "a future does nothing unless it is awaited; `is_stopping` asks without waiting"]
pub struct Stopping {
    /// Signalled when the turn of the task has come, and when the task has ended.
    event: Arc<Event>,
    /// This future's place among the event's waiters.
    place: EventPlace,
}

impl Stopping {
    pub(super) fn new(event: Arc<Event>) -> Self {
        Self { event, place: EventPlace::default() }
    }

    /// Returns whether the task should stop.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping};
    ///
    /// let group = ServiceGroup::new().task("busy", async |stopping: Stopping| {
    ///     while !stopping.is_stopping() {
    ///         // … one more piece of work
    /// #       break;
    ///     }
    /// });
    /// group.run().await?;
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    #[doc(alias = "is_cancelled")]
    pub fn is_stopping(&self) -> bool {
        self.event.is_signalled()
    }

    /// Runs `future` until the task should stop. Returns `None` if `future` is pending then.
    ///
    /// The future is polled first, so a result that is ready is never discarded.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `future`, which is dropped when the task should stop.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::task::sleep;
    /// use ebbtide::{ServiceGroup, Stopping};
    /// use std::time::Duration;
    ///
    /// let group = ServiceGroup::new();
    /// let handle = group.handle();
    /// let group = group.task("cleaner", async |stopping: Stopping| {
    ///     while stopping.until(sleep(Duration::from_secs(60))).await.is_some() {
    ///         // remove what is old
    ///     }
    /// });
    /// handle.shutdown();
    /// group.run().await?;
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    #[doc(alias = "run_until_cancelled")]
    pub fn until<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        self.event.until(future)
    }
}

impl Future for Stopping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.place.poll(&this.event, cx)
    }
}

impl Clone for Stopping {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.event))
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        self.place.give_up(&self.event);
    }
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopping").field("is_stopping", &self.is_stopping()).finish()
    }
}
