//! [`Reached`] and [`Phases`]: waiting for the phases of a run.

use super::{Run, phase::Phase};
use async_std::stream::Stream;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Future of a server's phase: see [`Handle::reached`](crate::Handle::reached).
///
/// Polled again after it was ready, it is ready again.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Reached {
    run: Arc<Run>,
    phase: Phase,
}

impl Reached {
    pub(super) fn new(run: Arc<Run>, phase: Phase) -> Self {
        Self { run, phase }
    }
}

impl Future for Reached {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.run.phase_changed.add(cx.waker()); // before the look
        if self.run.phase() >= self.phase { Poll::Ready(()) } else { Poll::Pending }
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
    run: Arc<Run>,
    /// The first that may be given, as a number; `None`: the last was given.
    next: Option<u8>,
}

impl Phases {
    pub(super) fn new(run: Arc<Run>) -> Self {
        let next = Some(run.phase() as u8);
        Self { run, next }
    }
}

impl Stream for Phases {
    type Item = Phase;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Phase>> {
        let Some(next) = self.next else {
            return Poll::Ready(None);
        };
        self.run.phase_changed.add(cx.waker()); // before the look
        match self.run.entered().filter(|phase| *phase as u8 >= next).min() {
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
        f.debug_struct("Phases").field("phase", &self.run.phase()).finish_non_exhaustive()
    }
}
