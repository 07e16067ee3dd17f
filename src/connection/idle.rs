//! The idle timeout of a connection.

use crate::run::record::ConnectionRecord;
use async_io::Timer;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Ready once no byte has gone either way for a time. Looks when that time may be over, not at every byte.
#[derive(Debug)]
pub(super) struct Idle {
    limit: Duration,
    timer: Timer,
}

impl Idle {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, timer: Timer::after(limit) }
    }

    pub(super) fn poll(&mut self, record: &ConnectionRecord, cx: &mut Context<'_>) -> Poll<Duration> {
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            match record.last_byte().checked_add(self.limit) {
                Some(end) if end <= Instant::now() => return Poll::Ready(self.limit),
                Some(end) => self.timer.set_at(end),
                None => self.timer = Timer::never(),
            }
        }
        Poll::Pending
    }
}
