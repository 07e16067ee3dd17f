//! [`Report`] and [`Cause`]: the summary of a run, and the counters behind it.

use super::member::Member;
use super::registry::ConnectionInfo;
use crate::sync::{Mutex, lock};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Why a server stopped: the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The body of [`Server::scope`](crate::Server::scope) returned.
    BodyReturned,
    /// The body of [`Server::scope`](crate::Server::scope) returned an error.
    BodyFailed,
    /// The body of [`Server::scope`](crate::Server::scope) panicked.
    BodyPanicked,
    /// [`Handle::shutdown`](crate::Handle::shutdown).
    Shutdown,
    /// The first item of a [shutdown stream](crate::Server::shutdown_on), such as Ctrl-C, or the end of a
    /// [shutdown future](crate::Server::shutdown_when).
    Stream,
    /// [`Handle::cancel`](crate::Handle::cancel).
    Cancel,
    /// A listener failed for good.
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
            Self::BodyFailed => "the body failed",
            Self::BodyPanicked => "the body panicked",
            Self::Shutdown => "a shutdown was requested",
            Self::Stream => "a shutdown stream asked for it",
            Self::Cancel => "it was cancelled",
            Self::ListenerFailed => "a listener failed",
            Self::HandlerFailed => "a handler failed",
            Self::Dropped => "it was dropped",
        })
    }
}

/// Summary of a server's run: how many connections, how each ended, why the server stopped, and how long that took.
///
/// Every connection that was accepted is in exactly one of four buckets:
/// `accepted == completed + failed + panicked + cancelled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    cause: Cause,
    counts: Counts,
    cut: Vec<ConnectionInfo>,
    elapsed: Duration,
}

impl Report {
    pub(crate) fn new(cause: Cause, counts: Counts, cut: Vec<ConnectionInfo>, elapsed: Duration) -> Self {
        Self { cause, counts, cut, elapsed }
    }

    /// Returns why the server stopped. The first cause wins; what failed later has been logged.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns how many connections were accepted.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted
    }

    /// Returns how many handlers returned `()` or `Ok(())`.
    pub fn completed(&self) -> u64 {
        self.counts.completed
    }

    /// Returns how many handlers returned an error. A connection that was ended by a timeout of the server's (no first byte, no
    /// byte for too long) counts as failed too.
    pub fn failed(&self) -> u64 {
        self.counts.failed
    }

    /// Returns how many handlers panicked, or were ended because a task of their connection did.
    pub fn panicked(&self) -> u64 {
        self.counts.panicked
    }

    /// Returns how many handlers were dropped before their end, by a cancel, a drop, or the end of the grace period.
    pub fn cancelled(&self) -> u64 {
        self.counts.cancelled
    }

    /// Returns the connections that the exit cut off: at most 32 of them, each as it was at that moment. Those that were cancelled
    /// one by one ([`Handle::cancel_connection`](crate::Handle::cancel_connection)) count as [`cancelled`](Self::cancelled), and are
    /// not here.
    pub fn cancelled_connections(&self) -> &[ConnectionInfo] {
        &self.cut
    }

    /// Returns how many clients a limit turned away before they became a connection. They are not among the accepted.
    pub fn refused(&self) -> u64 {
        self.counts.refused
    }

    /// Returns how many times accepting a client failed, whether the client or a lack of resources was the reason.
    pub fn accept_errors(&self) -> u64 {
        self.counts.accept_errors
    }

    /// Returns how many handlers ended by themselves during the drain, well or badly: they were not cut off.
    pub fn drained(&self) -> u64 {
        self.counts.drained
    }

    /// Returns how long the exit took: from the request, or the drop, until the server was closed.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { accepted, completed, failed, panicked, cancelled, refused, accept_errors, drained } = self.counts;
        write!(
            f,
            "closed in {:.1?} because {}: {accepted} accepted, {completed} completed, {failed} failed, \
             {panicked} panicked, {cancelled} cancelled; {drained} ended during the drain",
            self.elapsed, self.cause
        )?;
        if refused > 0 {
            write!(f, "; {refused} refused")?;
        }
        if accept_errors > 0 {
            write!(f, "; {accept_errors} accept errors")?;
        }
        Ok(())
    }
}

/// How many of those that were cancelled a report names.
const CUT_LISTED: usize = 32;

/// The numbers of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) panicked: u64,
    pub(crate) cancelled: u64,
    pub(crate) refused: u64,
    pub(crate) accept_errors: u64,
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
    refused: AtomicU64,
    accept_errors: AtomicU64,
    drained: AtomicU64,
    /// The first of those that were cancelled.
    cut: Mutex<Vec<ConnectionInfo>>,
}

impl Counters {
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept_failed(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Remembers one that was cancelled, for the report.
    pub(crate) fn cut(&self, member: &Member) {
        if lock(&self.cut).len() < CUT_LISTED {
            let info = ConnectionInfo::of(member); // may ask the system
            let mut cut = lock(&self.cut);
            if cut.len() < CUT_LISTED {
                cut.push(info);
            }
        }
    }

    pub(crate) fn take_cut(&self) -> Vec<ConnectionInfo> {
        std::mem::take(&mut *lock(&self.cut))
    }

    /// A connection has ended; `drained`: by itself, after the drain had begun.
    pub(crate) fn ended(&self, bucket: Bucket, drained: bool) {
        let counter = match bucket {
            Bucket::Completed => &self.completed,
            Bucket::Failed => &self.failed,
            Bucket::Panicked => &self.panicked,
            Bucket::Cancelled => &self.cancelled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if drained {
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
            refused: read(&self.refused),
            accept_errors: read(&self.accept_errors),
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
            counters.ended(bucket, bucket != Bucket::Cancelled);
        }
        counters.accepted();
        counters.ended(Bucket::Completed, false);
        let counts = counters.read();
        assert_eq!(
            counts,
            Counts { accepted: 5, completed: 2, failed: 1, panicked: 1, cancelled: 1, drained: 3, ..Counts::default() }
        );
    }

    #[test]
    fn a_report_is_one_line_for_a_person() {
        let counts = Counts { accepted: 3, completed: 2, cancelled: 1, drained: 1, ..Counts::default() };
        let report = Report::new(Cause::Shutdown, counts, Vec::new(), Duration::from_millis(1250));
        assert_eq!(
            report.to_string(),
            "closed in 1.2s because a shutdown was requested: 3 accepted, 2 completed, 0 failed, 0 panicked, \
             1 cancelled; 1 ended during the drain"
        );
    }
}
