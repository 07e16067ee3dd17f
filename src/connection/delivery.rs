//! [`Progress`]: whether the peer acknowledges the written bytes. The kernel has no event for an acknowledgement, so a
//! lingering connection asks again and again, 1 to 64 ms apart.

use crate::run::record::ConnectionRecord;
use crate::sync::time;
use crate::transport::Delivery;
use std::time::{Duration, Instant};

/// How long a peer may acknowledge nothing, if the system reports acknowledgements.
const STALL: Duration = Duration::from_secs(10);

/// How long to wait in a drain, and if the system does not report acknowledgements.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// The first pause between two checks, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(64)];

/// Progress of the delivery of a connection's last bytes.
pub(super) struct Progress<'a> {
    record: &'a ConnectionRecord,
    /// What the last check found; `None` if the system does not report it.
    last: Option<Delivery>,
    /// The time of the last progress.
    at: Instant,
    /// The pause until the next check. It doubles, and starts again with progress.
    pause: Duration,
}

impl<'a> Progress<'a> {
    /// Makes the first check of a connection that has been lingering since `start`.
    pub(super) fn since(start: Instant, record: &'a ConnectionRecord) -> Self {
        let (last, now) = (record.transport.delivery(), time::now());
        // If the system does not report it, no progress can be seen: the linger is not prolonged.
        let heard = last.map_or(start, |last| now.checked_sub(last.last_heard).unwrap_or(now));
        Self { record, last, at: heard.max(start), pause: PAUSES[0] }
    }

    /// Checks again.
    pub(super) fn check(&mut self) {
        let now = self.record.transport.delivery();
        if now.map(Delivery::mark) != self.last.map(Delivery::mark) {
            (self.at, self.pause) = (time::now(), PAUSES[0]);
        }
        self.last = now;
    }

    /// Returns whether all bytes have been acknowledged, or the system does not report it.
    pub(super) fn is_done(&self) -> bool {
        self.last.is_none_or(|last| last.is_done)
    }

    /// Returns the time of the last progress.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Returns when to give up without further progress. In a drain the wait is shorter, and begins with the drain at
    /// the earliest.
    pub(super) fn end(&self, drain: Option<Instant>) -> Instant {
        match drain {
            None if self.last.is_some() => self.at + STALL,
            None => self.at + LINGER,
            Some(drain) => self.at.max(drain) + LINGER,
        }
    }

    /// Returns the time of the next check.
    pub(super) fn next_check(&mut self) -> Instant {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES[1]);
        time::now() + pause
    }

    /// Returns how many bytes have not been sent yet.
    pub(super) fn unsent(&self) -> Option<u32> {
        self.last.map(|last| last.unsent)
    }
}

#[cfg(all(test, not(ebbtide_loom)))]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::listener::{Accepted, Protocols};
    use crate::run::record::Watch;
    use crate::run::registry::ConnectionId;
    use crate::transport::Transport;

    /// The first check may come late in a linger. It is no progress: the time since the beginning counts.
    #[test]
    fn without_a_report_of_the_system_there_is_no_progress_since_the_linger_began() {
        let transport = Transport::boxed(Box::pin(futures_lite::io::Cursor::new(Vec::new())));
        let peer = Address::named("a peer");
        let accepted = Accepted { transport, peer, local: None, protocols: Protocols::default() };
        let record = ConnectionRecord::new(ConnectionId::new(0), accepted, Watch::default());
        let start = time::now();
        while time::now() == start {}
        let mut progress = Progress::since(start, &record);
        progress.check();
        assert!(progress.is_done() && progress.at() == start && progress.end(None) == start + LINGER);
    }
}
