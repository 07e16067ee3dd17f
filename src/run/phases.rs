//! [`Reached`] and [`Phases`]: waiting for the phases of a run.

use super::{Run, phase::Phase};
use crate::sync::lock;
use async_std::stream::Stream;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A task's place among those that wait for a phase; given up when dropped.
struct Place {
    run: Arc<Run>,
    key: Option<usize>,
}

impl Place {
    fn new(run: Arc<Run>) -> Self {
        Self { run, key: None }
    }

    /// To be called before the look.
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

/// Future of a server's phase: see [`Handle::reached`](crate::Handle::reached).
///
/// Polled again after it was ready, it is ready again.
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

/// Stream of a server's phases: see [`Handle::phases`](crate::Handle::phases).
#[must_use = "a stream does nothing unless it is polled"]
pub struct Phases {
    place: Place,
    /// The first that may be given, as a number; `None`: the last was given.
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
