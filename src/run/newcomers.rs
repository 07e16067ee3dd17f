//! Newcomers: connections whose handlers are notified of the drain later than the others.
//!
//! A client that has just connected is about to send, and an end of input is the wrong answer to its first request. So
//! a connection that was accepted, or opened, less than the newcomer time ago, and of which the handler has read no
//! byte, is notified with its first read, or when that time is over. The first read notifies by itself; here is the
//! queue of those whose time is still to come, with one timer for all, which runs only in a drain.

use super::record::ConnectionRecord;
use super::registry::ConnectionId;
use super::state::ConnectionState;
use crate::sync::{Mutex, lock};
use async_io::Timer;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker, ready};
use std::time::{Duration, Instant};

/// See the module. Empty before a drain.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// How long a connection is a newcomer. Zero before the drain.
    time: Duration,
    /// When the drain must be over.
    deadline: Option<Instant>,
    /// By their times.
    due: BTreeMap<(Instant, ConnectionId), Weak<ConnectionRecord>>,
    /// Of the task that waits for the first of them.
    waker: Option<Waker>,
}

impl Newcomers {
    /// Notifies a connection of the drain that has just begun, or lets it wait if it is a newcomer.
    pub(super) fn notify_or_spare(&self, records: &[Arc<ConnectionRecord>], time: Duration, deadline: Option<Instant>) {
        {
            let mut queue = lock(&self.queue);
            (queue.time, queue.deadline) = (time, deadline);
        }
        for record in records {
            if time.is_zero() || !record.spare() {
                record.notify_of_drain();
            } else if record.state() != ConnectionState::Opening {
                self.enter(record, record.opened_at());
            } // else its own task enters it, when its handler begins
        }
    }

    /// The handler of a connection that was spared has its time from `start` on: at most a quarter of what is left of
    /// the grace, so that most of it is left to answer in.
    pub(crate) fn enter(&self, record: &Arc<ConnectionRecord>, start: Instant) {
        let now = Instant::now();
        let mut queue = lock(&self.queue);
        let quarter = queue.deadline.map(|deadline| now + deadline.saturating_duration_since(now) / 4);
        let end = match (start.checked_add(queue.time), quarter) {
            (Some(end), Some(quarter)) => end.min(quarter),
            (Some(end), None) | (None, Some(end)) => end,
            (None, None) => return, // for ever, as was asked for
        };
        if end <= now {
            drop(queue);
            return record.end_newcomer_time();
        }
        queue.due.insert((end, record.id), Arc::downgrade(record));
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Notifies each when its time is over. Never ends.
    pub(crate) async fn notify_when_due(&self) {
        let mut timer = Timer::never();
        let mut armed = None;
        poll_fn(|cx| {
            loop {
                let waker = cx.waker().clone(); // user code, so before the lock
                let (next, displaced) = {
                    let mut queue = lock(&self.queue);
                    let displaced = queue.waker.replace(waker);
                    (queue.due.first_key_value().map(|((end, _), _)| *end), displaced)
                };
                drop(displaced);
                let Some(end) = next else {
                    return Poll::Pending;
                };
                if armed != Some(end) {
                    timer.set_at(end);
                    armed = Some(end);
                }
                ready!(Pin::new(&mut timer).poll(cx));
                armed = None;
                while let Some(record) = self.pop_due(end) {
                    if let Some(record) = record.upgrade() {
                        record.end_newcomer_time();
                    }
                }
            }
        })
        .await
    }

    fn pop_due(&self, now: Instant) -> Option<Weak<ConnectionRecord>> {
        let mut queue = lock(&self.queue);
        let first = queue.due.first_entry().filter(|first| first.key().0 <= now);
        first.map(|first| first.remove())
    }
}
