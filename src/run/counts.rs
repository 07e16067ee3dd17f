//! [`Counts`]: the numbers of a run, while they move and when they are final.

use super::end_reason::{Bucket, EndReason};
use super::record::ConnectionRecord;
use super::registry::ConnectionInfo;
use super::state::ConnectionState;
use crate::sync::{Mutex, lock};
use std::array;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many of those that were cancelled a report names.
const CUT_LISTED: usize = 32;

/// The numbers of a server: of [`Handle::counts`](crate::Handle::counts) while it runs, and of
/// [`Report::counts`](crate::Report::counts) when it is closed.
///
/// Every connection that was accepted and has ended is in exactly one of six numbers. Once none is open
/// `accepted == completed + failed + panicked + disconnected + rejected + cancelled`; while the server runs the
/// difference is the connections whose handlers have not ended yet, as far as numbers that move can be read together.
///
/// # Examples
///
/// ```
/// use ebbtide::{Connection, EndReason, Server};
///
/// # async_std::task::block_on(async {
/// let (counts, _) = Server::bind("127.0.0.1:0")
///     .await?
///     .scope(async |_: Connection| {}, async |server| Ok(server.counts()))
///     .await?;
/// assert_eq!((counts.accepted(), counts.open()), (0, 0));
/// for (reason, connections) in counts.by_reason() {
///     println!("ended{{reason=\"{reason}\"}} {connections}");
/// }
/// assert_eq!(counts.ended(EndReason::IdleTimeout), 0);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub(super) accepted: u64,
    pub(super) ended: [u64; EndReason::ALL.len()],
    pub(super) refused: u64,
    pub(super) refused_by_address: u64,
    pub(super) accept_errors: u64,
    pub(super) drained: u64,
    pub(super) undelivered: u64,
    /// How many connections are in each state.
    pub(super) open: [usize; ConnectionState::ALL.len()],
    pub(super) at_limit: usize,
    pub(super) resting: usize,
}

impl Counts {
    /// Returns how many connections were accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Returns how many connections have ended for this reason.
    pub fn ended(&self, reason: EndReason) -> u64 {
        self.ended[reason as usize]
    }

    /// Returns each reason for which a connection may end, and how many have ended for it: for metrics.
    pub fn by_reason(&self) -> impl Iterator<Item = (EndReason, u64)> + '_ {
        EndReason::ALL.into_iter().map(|reason| (reason, self.ended(reason)))
    }

    fn sum(&self, bucket: Bucket) -> u64 {
        self.by_reason().filter(|(reason, _)| reason.bucket() == bucket).map(|(_, number)| number).sum()
    }

    /// Returns how many handlers returned `()` or `Ok(())`.
    pub fn completed(&self) -> u64 {
        self.sum(Bucket::Completed)
    }

    /// Returns how many handlers returned an error that was not their own connection's: the program's fault, or that of
    /// what it depends on.
    pub fn failed(&self) -> u64 {
        self.sum(Bucket::Failed)
    }

    /// Returns how many handlers panicked, or were ended because a task of their connection did.
    pub fn panicked(&self) -> u64 {
        self.sum(Bucket::Panicked)
    }

    /// Returns how many connections the peer has ended, or a limit on a peer that does nothing: an error that the
    /// handler's own stream gave it, the idle timeout, and the like.
    pub fn disconnected(&self) -> u64 {
        self.sum(Bucket::Disconnected)
    }

    /// Returns how many connections ended before their handlers were called: the peer said nothing in time, its
    /// handshake or PROXY header was wrong, or there were too many from its address.
    pub fn rejected(&self) -> u64 {
        self.sum(Bucket::Rejected)
    }

    /// Returns how many handlers were dropped before their end: by a cancel, a drop, or the end of the grace period.
    pub fn cancelled(&self) -> u64 {
        self.sum(Bucket::Cancelled)
    }

    /// Returns how many clients a limit turned away before they became a connection: one too many from its address, or
    /// still queued, without room for it, when the listeners were closed. They are not among the accepted.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns how many of the [`refused`](Self::refused) were one too many from their address
    /// ([`Server::max_connections_per_ip`](crate::Server::max_connections_per_ip)). The others were queued when the
    /// listeners were closed.
    pub fn refused_by_address_limit(&self) -> u64 {
        self.refused_by_address
    }

    /// Returns how many times accepting a client failed, whether the client or a lack of resources was the reason.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors
    }

    /// Returns how many handlers ended by themselves during the drain, well or badly: they were not cut off.
    pub fn drained(&self) -> u64 {
        self.drained
    }

    /// Returns how many connections were closed before their peers had all that they should: because the peer took
    /// nothing of it for too long, or the grace period was over (seen on Linux, for TCP and TLS over it), or because
    /// tasks of a handler that had returned by itself were cut, at the end of the
    /// [task grace](crate::Server::task_grace) or by the exit. What a peer did not take is named in a warning, and so
    /// is each line of code whose tasks outlived their grace. The connections are counted by what their handlers
    /// returned as well.
    pub fn undelivered(&self) -> u64 {
        self.undelivered
    }

    /// Returns how many connections are open. 0 in a report.
    pub fn open(&self) -> usize {
        self.open.iter().sum()
    }

    /// Returns how many of the open connections are in this state.
    pub fn in_state(&self, state: ConnectionState) -> usize {
        self.open[state as usize]
    }

    /// Returns each state that a connection may be in, and how many are: for metrics.
    pub fn by_state(&self) -> impl Iterator<Item = (ConnectionState, usize)> + '_ {
        ConnectionState::ALL.into_iter().map(|state| (state, self.in_state(state)))
    }

    /// Returns how many listeners accept no client because all of
    /// [`max_connections`](crate::Server::max_connections) are in use, or accepting is
    /// [paused](crate::Handle::pause).
    pub fn listeners_at_limit(&self) -> usize {
        self.at_limit
    }

    /// Returns how many listeners pause after an error of accept, such as the limit on open files.
    pub fn listeners_resting(&self) -> usize {
        self.resting
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, self.drained > 0)
    }
}

impl Counts {
    /// As a line for a person; `has_drained`: with how many ended during the drain, be it none.
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>, has_drained: bool) -> fmt::Result {
        let ends = (self.completed(), self.failed(), self.panicked(), self.cancelled());
        let (completed, failed, panicked, cancelled) = ends;
        write!(
            f,
            "{} accepted, {completed} completed, {failed} failed, {panicked} panicked, {cancelled} cancelled",
            self.accepted
        )?;
        let others = [
            (self.disconnected(), ", ", "disconnected", false),
            (self.rejected(), ", ", "rejected", false),
            (self.drained, "; ", "ended during the drain", has_drained),
            (self.undelivered, "; ", "undelivered", false),
            (self.refused, "; ", "refused", false),
            (self.accept_errors, "; ", "accept errors", false),
            (self.open() as u64, "; ", "open", false),
        ];
        for (number, before, what, always) in others {
            if number > 0 || always {
                write!(f, "{before}{number} {what}")?;
            }
        }
        Ok(())
    }
}

/// The numbers while they still move.
#[derive(Debug)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    ended: [AtomicU64; EndReason::ALL.len()],
    refused: AtomicU64,
    refused_by_address: AtomicU64,
    accept_errors: AtomicU64,
    drained: AtomicU64,
    undelivered: AtomicU64,
    resting: AtomicUsize,
    /// The first of those that the exit has cut.
    cut: Mutex<Vec<ConnectionInfo>>,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            accepted: zero(),
            ended: array::from_fn(|_| zero()),
            refused: zero(),
            refused_by_address: zero(),
            accept_errors: zero(),
            drained: zero(),
            undelivered: zero(),
            resting: AtomicUsize::default(),
            cut: Mutex::default(),
        }
    }
}

impl Counters {
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused_by_address(&self) {
        self.refused_by_address.fetch_add(1, Ordering::Relaxed);
        self.refused();
    }

    /// A connection was closed before its peer had all that it should.
    pub(crate) fn undelivered(&self) {
        self.undelivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept_failed(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// A listener pauses until what this returns is dropped.
    pub(crate) fn rest(&self) -> Resting<'_> {
        self.resting.fetch_add(1, Ordering::Relaxed);
        Resting(&self.resting)
    }

    /// Remembers one that was cancelled, for the report.
    pub(crate) fn cut(&self, record: &ConnectionRecord) {
        if lock(&self.cut).len() < CUT_LISTED {
            let info = ConnectionInfo::of(record); // may ask the system
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
    pub(crate) fn ended(&self, reason: EndReason, drained: bool) {
        self.ended[reason as usize].fetch_add(1, Ordering::Release); // see `read`
        if drained {
            self.drained.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Exact once every connection has ended: what ended them also ordered these counts before the reader.
    pub(crate) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            // Before what was accepted: of numbers that move, the sum of the ends is then never the greater.
            ended: array::from_fn(|reason| self.ended[reason].load(Ordering::Acquire)),
            accepted: read(&self.accepted),
            refused: read(&self.refused),
            refused_by_address: read(&self.refused_by_address),
            accept_errors: read(&self.accept_errors),
            drained: read(&self.drained),
            undelivered: read(&self.undelivered),
            resting: self.resting.load(Ordering::Relaxed),
            ..Counts::default()
        }
    }
}

/// See [`Counters::rest`].
pub(crate) struct Resting<'a>(&'a AtomicUsize);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_counted_in_one_bucket_and_only_survivors_of_a_drain_as_drained() {
        let counters = Counters::default();
        for (n, reason) in EndReason::ALL.into_iter().enumerate() {
            for _ in 0..=n {
                counters.accepted();
                counters.ended(reason, reason == EndReason::Completed);
            }
        }
        let counts = counters.read();
        assert!(counts.by_reason().enumerate().all(|(n, (_, number))| number == n as u64 + 1));
        let buckets = [counts.completed(), counts.failed(), counts.panicked(), counts.disconnected()];
        let sum = buckets.iter().sum::<u64>() + counts.rejected() + counts.cancelled();
        assert_eq!((sum, counts.drained()), (counts.accepted(), 1));
        assert_eq!(buckets[..3], [1, 2, 3 + 4]);
    }

    #[test]
    fn a_persons_line_names_what_there_is() {
        let counters = Counters::default();
        counters.accepted();
        counters.ended(EndReason::IdleTimeout, false);
        assert_eq!(
            counters.read().to_string(),
            "1 accepted, 0 completed, 0 failed, 0 panicked, 0 cancelled, 1 disconnected"
        );
    }
}
