//! The idle timeout of a connection, and the limit on a write that does not get on.

use crate::handler::TimedOut;
use crate::run::record::ConnectionRecord;
use async_io::Timer;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Ready once a limit is passed. Looks when that may be, not at every byte.
#[derive(Debug)]
pub(super) struct Idle {
    idle: Option<Duration>,
    write: Option<Duration>,
    timer: Timer,
}

impl Idle {
    /// `None`: there is no limit.
    pub(super) fn new(idle: Option<Duration>, write: Option<Duration>) -> Option<Box<Self>> {
        let first = [idle, write].into_iter().flatten().min()?;
        Some(Box::new(Self { idle, write, timer: Timer::after(first) }))
    }

    pub(super) fn poll(&mut self, record: &ConnectionRecord, cx: &mut Context<'_>) -> Poll<TimedOut> {
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let now = Instant::now();
            // A write that begins to wait sets no timer: it is found within twice the limit.
            let ends = [
                self.idle.map(|limit| (record.last_byte(), limit, TimedOut::Idle(limit))),
                self.write.map(|limit| (record.write_waits_since().unwrap_or(now), limit, TimedOut::Write(limit))),
            ];
            let mut next: Option<Instant> = None;
            for (start, limit, passed) in ends.into_iter().flatten() {
                match start.checked_add(limit) {
                    Some(end) if end <= now => return Poll::Ready(passed),
                    Some(end) => next = Some(next.map_or(end, |next| next.min(end))),
                    None => {}
                }
            }
            match next {
                Some(next) => self.timer.set_at(next),
                None => self.timer = Timer::never(),
            }
        }
        Poll::Pending
    }
}
