//! The open connections of a run and the counts of those that ended: the registry, the counters, and what lists show.

use super::record::{ConnectionRecord, Label};
use super::report::Counts;
use super::state::ConnectionState;
use crate::address::Address;
use crate::listener::Accepted;
use crate::span::Span;
use crate::sync::{Mutex, lock};
use slab::Slab;
use std::borrow::Cow;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The open connections. Entering and leaving are O(1); looking at all of them is for people, and for the drain.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next_id: AtomicU64,
    records: Mutex<Slab<Arc<ConnectionRecord>>>,
}

impl Registry {
    /// Enters a connection; the key is for [`leave`](Self::leave).
    pub(crate) fn enter(
        &self,
        accepted: Accepted,
        watch_idle: bool,
        watch_writes: bool,
    ) -> (usize, Arc<ConnectionRecord>) {
        let id = ConnectionId::new(self.next_id.fetch_add(1, Ordering::Relaxed));
        let record = Arc::new(ConnectionRecord::new(id, accepted, watch_idle, watch_writes));
        let key = lock(&self.records).insert(Arc::clone(&record));
        (key, record)
    }

    pub(crate) fn leave(&self, key: usize) {
        let record = lock(&self.records).try_remove(key);
        drop(record);
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.records).len()
    }

    /// All of them, in the order of acceptance.
    pub(crate) fn all(&self) -> Vec<Arc<ConnectionRecord>> {
        let mut all: Vec<_> = lock(&self.records).iter().map(|(_, record)| Arc::clone(record)).collect();
        all.sort_unstable_by_key(|record| record.id);
        all
    }

    /// The connection of this number. Looks at all of them: for a person's request.
    pub(crate) fn find(&self, id: ConnectionId) -> Option<Arc<ConnectionRecord>> {
        lock(&self.records).iter().map(|(_, record)| record).find(|record| record.id == id).cloned()
    }

    pub(crate) fn oldest(&self) -> Option<Arc<ConnectionRecord>> {
        lock(&self.records).iter().map(|(_, record)| record).min_by_key(|record| record.id).cloned()
    }
}

/// One connection in the lists of [`Handle::connections`](crate::Handle::connections) and
/// [`Report::cancelled_connections`](crate::Report::cancelled_connections).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    id: ConnectionId,
    peer: Address,
    local: Option<Address>,
    age: Duration,
    state: ConnectionState,
    label: Option<Cow<'static, str>>,
    silence: Option<Duration>,
}

impl ConnectionInfo {
    pub(crate) fn of(record: &ConnectionRecord) -> Self {
        Self {
            id: record.id,
            peer: record.peer().clone(),
            local: record.local().cloned(),
            age: record.since.elapsed(),
            state: record.state(),
            label: record.label(),
            silence: record.silence(),
        }
    }

    /// Returns the connection's number.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Returns the client's address.
    pub fn peer_addr(&self) -> &Address {
        &self.peer
    }

    /// Returns the address that the client connected to, if the system told.
    pub fn local_addr(&self) -> Option<&Address> {
        self.local.as_ref()
    }

    /// Returns how long ago it was accepted.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// Returns its [label](crate::Connection::label), as its handler has set it.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Returns for how long no byte has gone either way: for TCP on Linux, and wherever there is an
    /// [`idle_timeout`](crate::Server::idle_timeout). `None` elsewhere.
    pub fn silent_for(&self) -> Option<Duration> {
        self.silence
    }

    /// Returns what it is doing.
    pub fn state(&self) -> ConnectionState {
        self.state
    }
}

impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} from {}", self.id, self.peer)?;
        if let Some(label) = &self.label {
            write!(f, " (`{}`)", Label(label))?;
        }
        write!(f, ", {}, {} old", self.state, Span(self.age))?;
        match self.silence {
            Some(silence) => write!(f, ", silent for {}", Span(silence)),
            None => Ok(()),
        }
    }
}

/// Number of a connection: unique within its server, in the order of acceptance, from 0.
///
/// Its text is the number, and can be parsed: an operator takes it from a log line and gives it to
/// [`Handle::cancel_connection`](crate::Handle::cancel_connection).
///
/// # Examples
///
/// ```
/// use ebbtide::ConnectionId;
///
/// let id: ConnectionId = "17".parse()?;
/// assert_eq!(id.to_string(), "17");
/// assert_eq!(id.as_u64(), 17);
/// # Ok::<_, std::num::ParseIntError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ConnectionId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// How many of those that were cancelled a report names.
const CUT_LISTED: usize = 32;

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
    undelivered: AtomicU64,
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
            undelivered: read(&self.undelivered),
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
}
