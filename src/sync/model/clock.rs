//! The clock of a model, and its reactor: the same types as in `sync/time.rs`, which the model fires by hand.
//!
//! The clock is one of loom's atomics and the reactor has one of loom's locks, so loom tries every order of the time and
//! of everything else. Times are milliseconds after an arbitrary start.

use crate::sync::{Mutex, lock};
use loom::sync::atomic::{AtomicUsize, Ordering};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

loom::lazy_static! {
    static ref CLOCK: AtomicUsize = AtomicUsize::new(0);
    static ref REACTOR: Mutex<Reactor> = Mutex::new(Reactor::default());
}

#[derive(Default)]
struct Reactor {
    /// The timers that were polled and have not fired, by their times. The number makes each key unique.
    timers: BTreeMap<(Instant, usize), Waker>,
    /// The number of the next one.
    number: usize,
}

/// Returns the time of this many milliseconds.
pub(crate) fn at(millis: usize) -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now) + Duration::from_millis(millis as u64)
}

pub(crate) fn now() -> Instant {
    at(CLOCK.load(Ordering::SeqCst))
}

/// Sets the clock to this many milliseconds, and fires the timers whose times have come, as the reactor's thread does.
/// One thread of a model at a time may call it.
pub(crate) fn advance(millis: usize) {
    let due = {
        let mut reactor = lock(&REACTOR);
        CLOCK.store(millis, Ordering::SeqCst);
        let later = reactor.timers.split_off(&(at(millis), usize::MAX));
        std::mem::replace(&mut reactor.timers, later)
    };
    // The real reactor, too, wakes after it has released its lock. Here loom may run a thread that drops such a timer.
    drop(lock(&REACTOR));
    due.into_values().for_each(Waker::wake);
}

/// A timer of the model's reactor. It has the methods of async-io's that modelled code calls.
///
/// After `set_at` it must be polled: async-io's timer stays registered with its waker.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    /// `None`: never.
    at: Option<Instant>,
    /// Its number in the reactor, if it was polled since it was set.
    number: Option<usize>,
}

impl Timer {
    pub(crate) fn never() -> Self {
        Self::default()
    }

    pub(crate) fn at(at: Instant) -> Self {
        Self { at: Some(at), number: None }
    }

    pub(crate) fn set_at(&mut self, at: Instant) {
        self.leave();
        self.at = Some(at);
    }

    fn leave(&mut self) {
        if let (Some(at), Some(number)) = (self.at, self.number.take()) {
            let waker = lock(&REACTOR).timers.remove(&(at, number));
            drop(waker);
        }
    }
}

impl Future for Timer {
    type Output = Instant;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Instant> {
        let Some(at) = self.at else { return Poll::Pending };
        let waker = cx.waker().clone();
        let mut reactor = lock(&REACTOR);
        if at <= now() {
            drop(reactor);
            self.leave();
            self.at = None;
            return Poll::Ready(at);
        }
        let number = self.number.unwrap_or(reactor.number);
        reactor.number = reactor.number.max(number + 1);
        let displaced = reactor.timers.insert((at, number), waker);
        drop(reactor);
        drop(displaced);
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.leave();
    }
}
