//! [`Reached`] and [`Phases`]: a future and a stream that wait for the phases of a run.

use super::{Run, phase::Phase};
use crate::sync::lock;
use futures_core::Stream;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A waiter's place in `Run::phase_waiters`. Its drop removes the waker.
struct Place {
    run: Arc<Run>,
    /// Key in the waker set. `None`: never registered.
    key: Option<usize>,
}

impl Place {
    fn new(run: Arc<Run>) -> Self {
        Self { run, key: None }
    }

    /// Registers the waker. Call it before you look at the phase, so that no change is missed in between.
    fn wait(&mut self, cx: &Context<'_>) {
        let waker = cx.waker().clone(); // user code, and so without the lock
        let displaced = lock(&self.run.phase_waiters).register(&mut self.key, waker);
        drop(displaced);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = lock(&self.run.phase_waiters).remove(key);
            drop(waker);
        }
    }
}

/// Future that is ready once a server is in a phase or in a later one. See
/// [`Handle::reached`](crate::Handle::reached).
///
/// If it is polled again after it was ready, it is ready again.
///
/// # Cancel safety
///
/// Nothing is lost by dropping it, or by polling a reference to it.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, Listener, Phase, Reached, Server};
///
/// let server = Server::new(Listener::memory().0);
/// let mut closed: Reached = server.handle().reached(Phase::Closed);
/// server.scope(async |_: Connection| {}, async |_| ()).await?;
/// (&mut closed).await;
/// closed.await;
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[must_use = "a future does nothing unless it is awaited"]
pub struct Reached {
    place: Place,
    phase: Phase,
}

impl Reached {
    pub(super) fn new(run: Arc<Run>, phase: Phase) -> Self {
        Self { place: Place::new(run), phase }
    }
}

impl Future for Reached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.place.wait(cx);
        if self.place.run.phase() >= self.phase { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl fmt::Debug for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reached").field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// Stream of a server's phases: the current one, then each that the server enters, up to
/// [`Closed`](Phase::Closed). See [`Handle::phases`](crate::Handle::phases).
///
/// # Cancel safety
///
/// Nothing is lost by dropping the future of `next`.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::prelude::*;
/// use ebbtide::{Listener, Phase, Phases, Server};
///
/// let server = Server::new(Listener::memory().0);
/// let mut phases: Phases = server.handle().phases();
/// drop(server);
/// while let Some(phase) = phases.next().await {
///     assert!([Phase::Bound, Phase::Cancelling, Phase::Closed].contains(&phase), "{phase}");
/// }
/// # });
/// ```
#[must_use = "a stream does nothing unless it is polled"]
pub struct Phases {
    place: Place,
    /// Number of the earliest phase that was not returned yet. `None`: `Closed` was returned, so the stream is over.
    next: Option<u8>,
}

impl Phases {
    pub(super) fn new(run: Arc<Run>) -> Self {
        let next = Some(run.phase() as u8);
        Self { place: Place::new(run), next }
    }
}

impl Stream for Phases {
    type Item = Phase;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Phase>> {
        let Some(next) = self.next else {
            return Poll::Ready(None);
        };
        self.place.wait(cx);
        match self.place.run.entered().filter(|phase| *phase as u8 >= next).min() {
            None => Poll::Pending,
            Some(phase) => {
                self.next = (phase < Phase::Closed).then_some(phase as u8 + 1);
                Poll::Ready(Some(phase))
            }
        }
    }
}

impl fmt::Debug for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phases").field("phase", &self.place.run.phase()).finish_non_exhaustive()
    }
}
