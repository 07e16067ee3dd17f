//! The open connections of a run: the registry, and what lists show of each.

use super::record::{ConnectionRecord, Label, Watch};
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
    pub(crate) fn enter(&self, accepted: Accepted, watch: Watch) -> (usize, Arc<ConnectionRecord>) {
        let id = ConnectionId::new(self.next_id.fetch_add(1, Ordering::Relaxed));
        let record = Arc::new(ConnectionRecord::new(id, accepted, watch));
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

    /// How many are in each state.
    pub(crate) fn states(&self) -> [usize; ConnectionState::ALL.len()] {
        let mut states = [0; ConnectionState::ALL.len()];
        for (_, record) in lock(&self.records).iter() {
            states[record.state() as usize] += 1;
        }
        states
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
    bytes: Option<(u64, u64)>,
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
            bytes: record.bytes(),
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

    /// Returns how many bytes the handler has read, if they are [counted](crate::Server::count_bytes).
    pub fn bytes_read(&self) -> Option<u64> {
        self.bytes.map(|(read, _)| read)
    }

    /// Returns how many bytes the handler and its tasks have written, if they are
    /// [counted](crate::Server::count_bytes).
    pub fn bytes_written(&self) -> Option<u64> {
        self.bytes.map(|(_, written)| written)
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
