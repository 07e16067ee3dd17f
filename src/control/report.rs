//! What came of a run, and the counters behind it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Why a server stopped: the first thing that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The body of [`Server::scope`](crate::Server::scope) returned.
    BodyReturned,
    /// The body of [`Server::scope`](crate::Server::scope) panicked.
    BodyPanicked,
    /// [`Handle::shutdown`](crate::Handle::shutdown).
    Shutdown,
    /// The first item of a [shutdown stream](crate::Server::shutdown_on), such as Ctrl-C, or the end of a
    /// [shutdown future](crate::Server::shutdown_when).
    ShutdownStream,
    /// [`Handle::cancel`](crate::Handle::cancel).
    Cancel,
    /// A listener failed in a way that trying again cannot mend.
    ListenerFailed,
    /// A handler failed or panicked under [`OnFailure::Shutdown`](crate::OnFailure::Shutdown).
    HandlerFailed,
    /// The future of `serve` or `scope`, or the server before it was served, was dropped.
    Dropped,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::BodyReturned => "the body returned",
            Self::BodyPanicked => "the body panicked",
            Self::Shutdown => "a shutdown was requested",
            Self::ShutdownStream => "a shutdown signal arrived",
            Self::Cancel => "it was cancelled",
            Self::ListenerFailed => "a listener failed",
            Self::HandlerFailed => "a handler failed",
            Self::Dropped => "it was dropped",
        })
    }
}

/// What came of a server: how many connections, how each ended, why it stopped, and how long that took.
///
/// Every connection that was accepted is in exactly one of four buckets:
/// `accepted == completed + failed + panicked + cancelled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    cause: Cause,
    counts: Counts,
    elapsed: Duration,
}

impl Report {
    pub(crate) fn new(cause: Cause, counts: Counts, elapsed: Duration) -> Self {
        Self { cause, counts, elapsed }
    }

    /// Why the server stopped. The first cause wins; what failed later has been logged.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// How many connections were accepted.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted
    }

    /// How many handlers returned `()` or `Ok(())`.
    pub fn completed(&self) -> u64 {
        self.counts.completed
    }

    /// How many handlers returned an error.
    pub fn failed(&self) -> u64 {
        self.counts.failed
    }

    /// How many handlers panicked, or were ended because a task of their connection did.
    pub fn panicked(&self) -> u64 {
        self.counts.panicked
    }

    /// How many handlers were destroyed before their end, by a cancel, a drop, or the end of the grace period.
    pub fn cancelled(&self) -> u64 {
        self.counts.cancelled
    }

    /// How many handlers ended during the drain by themselves, well or badly: these were not cut off.
    pub fn drained(&self) -> u64 {
        self.counts.drained
    }

    /// How long the exit took: from the request, or the drop, until the server was closed.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { accepted, completed, failed, panicked, cancelled, drained } = self.counts;
        write!(
            f,
            "closed in {:.1?} because {}: {accepted} accepted, {completed} completed, {failed} failed, \
             {panicked} panicked, {cancelled} cancelled; {drained} ended during the drain",
            self.elapsed, self.cause
        )
    }
}

/// The numbers of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) panicked: u64,
    pub(crate) cancelled: u64,
    pub(crate) drained: u64,
}

/// Where a connection's end is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bucket {
    Completed,
    Failed,
    Panicked,
    Cancelled,
}

/// The numbers while they still move.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    panicked: AtomicU64,
    cancelled: AtomicU64,
    drained: AtomicU64,
}

impl Counters {
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection has ended; `draining`: after the drain had begun.
    pub(crate) fn ended(&self, bucket: Bucket, draining: bool) {
        let counter = match bucket {
            Bucket::Completed => &self.completed,
            Bucket::Failed => &self.failed,
            Bucket::Panicked => &self.panicked,
            Bucket::Cancelled => &self.cancelled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if draining && bucket != Bucket::Cancelled {
            self.drained.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Exact once every connection has ended: what ended them also ordered these counts before the reader.
    pub(crate) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            accepted: read(&self.accepted),
            completed: read(&self.completed),
            failed: read(&self.failed),
            panicked: read(&self.panicked),
            cancelled: read(&self.cancelled),
            drained: read(&self.drained),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_counted_in_one_bucket_and_only_survivors_of_a_drain_as_drained() {
        let counters = Counters::default();
        for bucket in [Bucket::Completed, Bucket::Failed, Bucket::Panicked, Bucket::Cancelled] {
            counters.accepted();
            counters.ended(bucket, true);
        }
        counters.accepted();
        counters.ended(Bucket::Completed, false);
        let counts = counters.read();
        assert_eq!(counts, Counts { accepted: 5, completed: 2, failed: 1, panicked: 1, cancelled: 1, drained: 3 });
    }

    #[test]
    fn a_report_is_one_line_for_a_person() {
        let counts = Counts { accepted: 3, completed: 2, cancelled: 1, drained: 1, ..Counts::default() };
        let report = Report::new(Cause::Shutdown, counts, Duration::from_millis(1250));
        assert_eq!(
            report.to_string(),
            "closed in 1.2s because a shutdown was requested: 3 accepted, 2 completed, 0 failed, 0 panicked, \
             1 cancelled; 1 ended during the drain"
        );
    }
}
