//! How far what was written has come, looked at again and again: the kernel has no event for it.

use crate::run::record::ConnectionRecord;
use crate::transport::Delivery;
use std::time::{Duration, Instant};

/// How long a peer may take nothing of what was written to it, where the system can tell.
const STALL: Duration = Duration::from_secs(10);

/// The same in a drain, and where the system cannot tell.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// The first pause between two looks, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(64)];

/// See the module.
pub(super) struct Progress<'a> {
    record: &'a ConnectionRecord,
    /// `None` where the system cannot tell.
    last: Option<Delivery>,
    /// When it was last seen to get on.
    at: Instant,
    pause: Duration,
}

impl<'a> Progress<'a> {
    /// The first look, at a connection that has been lingering since `start`.
    pub(super) fn since(start: Instant, record: &'a ConnectionRecord) -> Self {
        let (last, now) = (record.transport.delivery(), Instant::now());
        let heard = last.and_then(|last| now.checked_sub(last.last_heard)).unwrap_or(now);
        Self { record, last, at: heard.max(start), pause: PAUSES[0] }
    }

    pub(super) fn look(&mut self) {
        let now = self.record.transport.delivery();
        if now.map(Delivery::mark) != self.last.map(Delivery::mark) {
            (self.at, self.pause) = (Instant::now(), PAUSES[0]);
        }
        self.last = now;
    }

    /// Whether nothing is on its way any more, as far as can be told.
    pub(super) fn is_done(&self) -> bool {
        self.last.is_none_or(|last| last.is_done)
    }

    /// When it was last seen to get on.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// When it is given up, if it does not get on. In a drain the time is shorter, and does not begin before that.
    pub(super) fn end(&self, drain: Option<Instant>) -> Instant {
        match drain {
            None if self.last.is_some() => self.at + STALL,
            None => self.at + LINGER,
            Some(drain) => self.at.max(drain) + LINGER,
        }
    }

    /// When to look again.
    pub(super) fn next_look(&mut self) -> Instant {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES[1]);
        Instant::now() + pause
    }

    /// How many bytes have not even left.
    pub(super) fn unsent(&self) -> Option<u32> {
        self.last.map(|last| last.unsent)
    }
}
