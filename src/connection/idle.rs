//! The idle timeout of a connection, and the limit on a write that does not get on.

use crate::handler::TimedOut;
use crate::run::record::ConnectionRecord;
use async_io::Timer;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// With a limit of zero, how far two looks are apart.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);

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

    /// A write that has waited and was dropped says nothing if the socket has room again.
    fn write_waits_since(&self, record: &ConnectionRecord, now: Instant) -> Option<Instant> {
        let since = record.write_waits_since()?;
        let is_passed = self.write.is_some_and(|limit| since.checked_add(limit).is_some_and(|end| end <= now));
        if is_passed && record.transport.is_writable() {
            record.note_write_done();
            return None;
        }
        Some(since)
    }

    pub(super) fn poll(&mut self, record: &ConnectionRecord, cx: &mut Context<'_>) -> Poll<TimedOut> {
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let now = Instant::now();
            // A write that begins to wait sets no timer: it is found within twice the limit.
            let ends = [
                self.idle.map(|limit| (Some(record.last_byte()), limit, TimedOut::Idle(limit))),
                self.write.map(|limit| (self.write_waits_since(record, now), limit, TimedOut::Write(limit))),
            ];
            let mut next: Option<Instant> = None;
            for (start, limit, passed) in ends.into_iter().flatten() {
                match start.unwrap_or(now).checked_add(limit) {
                    Some(end) if end <= now && start.is_some() => return Poll::Ready(passed),
                    Some(end) if end <= now => next = Some(now + SHORTEST_LOOK),
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
