//! [`Newcomers`]: the queue of connections whose handlers are notified of the drain later than the others.
//!
//! A client that has just connected is about to send, and EOF is the wrong answer to its first request. So a connection
//! is a *newcomer* if its handler has read no byte, and if its accept or the end of its opening is less than the
//! newcomer time ago. Its handler is notified with its first read, or when the newcomer time is over. The first read
//! notifies by itself; this queue holds the connections whose time is not over.
//!
//! If the drain is spread over some time (`Server::drain_spread`), the other connections have their turns in this queue
//! too. One timer serves all entries, and runs in a drain only.

#[cfg(all(test, not(ebbtide_loom)))]
mod tests;

use super::record::ConnectionRecord;
use super::registry::ConnectionId;
use super::state::ConnectionState;
use crate::sync::time::{self, Timer};
use crate::sync::waker_set::wake;
use crate::sync::{Mutex, lock};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker, ready};
use std::time::{Duration, Instant};

/// Upper limit of a spread and of a newcomer time, longer than any drain.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Queue of the connections that are notified later. Empty before a drain.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// How long a connection is a newcomer. Zero before the drain.
    time: Duration,
    /// End of the drain. `None`: no limit.
    deadline: Option<Instant>,
    /// Entries by the time at which they are notified.
    due: BTreeMap<(Instant, ConnectionId), Entry>,
    /// Waker of the task that waits for the first entry.
    waker: Option<Waker>,
}

impl Queue {
    /// Enters a connection. Returns the waker of the task that waits for the first entry.
    #[must_use = "wake it after the lock is released"]
    fn put(&mut self, at: Instant, record: &Arc<ConnectionRecord>, is_turn: bool) -> Option<Waker> {
        self.due.insert((at, record.id), Entry { record: Arc::downgrade(record), is_turn });
        self.waker.take()
    }
}

#[derive(Debug)]
struct Entry {
    record: Weak<ConnectionRecord>,
    /// The connection is not a newcomer, but waits for its turn in a drain that is spread.
    is_turn: bool,
}

impl Entry {
    fn notify(self) {
        match (self.record.upgrade(), self.is_turn) {
            (Some(record), true) => record.notify_of_drain(),
            (Some(record), false) => record.end_newcomer_time(),
            (None, _) => {}
        }
    }
}

impl Newcomers {
    /// Sets the newcomer time and the deadline of a drain that is about to begin. To be called before anyone can see
    /// that it has begun: from then on connections enter by themselves.
    pub(super) fn prepare(&self, time: Duration, deadline: Option<Instant>) {
        let mut queue = lock(&self.queue);
        (queue.time, queue.deadline) = (time, deadline);
    }

    /// Notifies all connections of the drain that has just begun: newcomers later, the others evenly over `spread`.
    pub(super) fn begin_drain(&self, records: &[Arc<ConnectionRecord>], spread: Duration) {
        let (time, deadline) = {
            let queue = lock(&self.queue);
            (queue.time, queue.deadline)
        };
        let start = time::now();
        let half = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(start) / 2);
        // Each turn is a fraction of this, added to an `Instant`: a huge spread would overflow.
        let spread = spread.min(half).min(LONGEST);
        for (turn, record) in records.iter().enumerate() {
            let is_new = record.state() == ConnectionState::Opening
                || record.opened_at().checked_add(time).is_none_or(|end| end > start);
            if is_new && !time.is_zero() && (record.spare() || record.is_spared()) {
                if record.state() != ConnectionState::Opening {
                    self.enter(record, record.opened_at());
                } // else its own task enters it when its handler begins
            } else if spread.is_zero() || turn == 0 {
                record.notify_of_drain();
            } else {
                let at = start + spread.mul_f64(turn as f64 / records.len() as f64);
                self.put(at, record, true);
            }
        }
    }

    /// Adapts to a nearer deadline: all turns are now, and newcomers keep at most a quarter of the time that is left.
    pub(super) fn hurry(&self, deadline: Instant) {
        let now = time::now();
        let mut queue = lock(&self.queue);
        // Two requests may arrive here in the other order.
        let deadline = queue.deadline.map_or(deadline, |nearest| nearest.min(deadline));
        queue.deadline = Some(deadline);
        let latest = now + deadline.saturating_duration_since(now) / 4;
        let (turns, newcomers): (BTreeMap<_, Entry>, BTreeMap<_, Entry>) =
            std::mem::take(&mut queue.due).into_iter().partition(|(_, entry)| entry.is_turn);
        queue.due = newcomers.into_iter().map(|((end, id), entry)| ((end.min(latest), id), entry)).collect();
        let waker = queue.waker.take();
        drop(queue);
        turns.into_values().for_each(Entry::notify);
        waker.into_iter().for_each(wake);
    }

    fn put(&self, at: Instant, record: &Arc<ConnectionRecord>, is_turn: bool) {
        let waker = lock(&self.queue).put(at, record, is_turn);
        waker.into_iter().for_each(wake);
    }

    /// Enters a connection that was spared. Its newcomer time runs from `start`, and is at most a quarter of the time
    /// that is left of the drain, so that most of that is left to answer in.
    pub(crate) fn enter(&self, record: &Arc<ConnectionRecord>, start: Instant) {
        let now = time::now();
        let mut queue = lock(&self.queue); // until the entry is there, which `hurry` must find or must precede
        let quarter = queue.deadline.map(|deadline| now + deadline.saturating_duration_since(now) / 4);
        // Entered even if its time is longer than any drain: a request may set a deadline later.
        let end = start + queue.time.min(LONGEST);
        let end = quarter.map_or(end, |quarter| end.min(quarter));
        if end <= now {
            drop(queue);
            return record.end_newcomer_time();
        }
        let waker = queue.put(end, record, false);
        drop(queue);
        waker.into_iter().for_each(wake);
    }

    /// Notifies each entry when its time is over. Never returns.
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
                while let Some(entry) = self.pop_due(end) {
                    entry.notify();
                }
            }
        })
        .await
    }

    fn pop_due(&self, now: Instant) -> Option<Entry> {
        let mut queue = lock(&self.queue);
        let first = queue.due.first_entry().filter(|first| first.key().0 <= now);
        first.map(|first| first.remove())
    }
}
