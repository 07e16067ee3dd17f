//! Shutdown streams: requests to stop that come from outside.

use crate::control::Control;
use crate::control::inside::catch_future;
use crate::control::report::Cause;
use crate::say::say;
use crate::unwind;
use async_std::stream::{Stream, StreamExt};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A stream of requests to stop.
pub(super) type Stop = Pin<Box<dyn Stream<Item = ()> + Send>>;

/// A future as a stream of one item.
pub(super) struct Once<F> {
    /// `None` once it is done.
    future: Option<Pin<Box<F>>>,
}

impl<F> Once<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future: Some(Box::pin(future)) }
    }
}

impl<F: Future<Output = ()>> Stream for Once<F> {
    type Item = ();

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        let Some(future) = &mut self.future else {
            return Poll::Ready(None);
        };
        ready!(future.as_mut().poll(cx));
        self.future = None;
        Poll::Ready(Some(()))
    }
}

/// The first item of a shutdown stream shuts down, the second cancels. Each acts before it logs: a logger may block, on a
/// terminal that is stopped.
///
/// A stream that panics counts as a request: better to stop than to run on where nobody can stop it.
pub(super) async fn obey(control: Arc<Control>, mut stop: Stop) {
    let following = async {
        if stop.next().await.is_some() {
            control.request(Cause::Stream);
            say!(info, phase:% = control.phase(); "asked to shut down");
            if stop.next().await.is_some() {
                control.cancel(Cause::Stream);
                say!(info, phase:% = control.phase(); "asked again: stopping now");
            }
        }
    };
    if let Err(payload) = catch_future(|| following).await {
        control.request(Cause::Stream);
        say!(error, phase:% = control.phase();
            "a shutdown stream panicked, so the server shuts down: {}", unwind::message(&payload)
        );
        unwind::discard(payload);
    }
}
