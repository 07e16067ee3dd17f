//! [`Registry`]: the open connections of a run. [`ConnectionInfo`]: a snapshot of one, for lists. [`ConnectionId`].

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

/// The open connections of a run. Entering and leaving are O(1). Only the drain and requests of operators look at all.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next_id: AtomicU64,
    /// A record is dropped after the lock is released: it may own the last reference to a stream of user code.
    records: Mutex<Slab<Arc<ConnectionRecord>>>,
}

impl Registry {
    /// Numbers a connection, and enters it. The returned key is for [`leave`](Self::leave).
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

    /// Returns all open connections, in the order of acceptance.
    pub(crate) fn all(&self) -> Vec<Arc<ConnectionRecord>> {
        let mut all: Vec<_> = lock(&self.records).iter().map(|(_, record)| Arc::clone(record)).collect();
        all.sort_unstable_by_key(|record| record.id);
        all
    }

    /// Returns the oldest connections, at most `most`, in the order of acceptance, and how many there are. O(n): for
    /// requests of operators.
    pub(crate) fn first(&self, most: usize) -> (Vec<Arc<ConnectionRecord>>, usize) {
        let records = lock(&self.records);
        if most == 0 {
            return (Vec::new(), records.len()); // for `/ready`, which is asked often
        }
        let mut all: Vec<_> = records.iter().map(|(key, record)| (record.id, key)).collect();
        let number = all.len();
        if most < number {
            all.select_nth_unstable(most);
            all.truncate(most);
        }
        all.sort_unstable();
        (all.into_iter().map(|(_, key)| Arc::clone(&records[key])).collect(), number)
    }

    /// Returns the connection of this number. O(n): for requests of operators.
    pub(crate) fn find(&self, id: ConnectionId) -> Option<Arc<ConnectionRecord>> {
        lock(&self.records).iter().map(|(_, record)| record).find(|record| record.id == id).cloned()
    }

    /// Returns how many connections are in each state, indexed by `ConnectionState as usize`.
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

/// Snapshot of one connection, in the lists of [`Handle::connections`](crate::Handle::connections) and
/// [`Report::cancelled_connections`](crate::Report::cancelled_connections).
///
/// It does not change after it was taken. `Display` is one line for a person.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, ConnectionState, Listener, Server};
/// # use std::time::Duration;
///
/// let (listener, connector) = Listener::memory();
/// let client = connector.connect().await?;
/// let handler = async |conn: Connection| {
///     conn.label("upload");
///     conn.draining().await;
/// };
/// let server = Server::new(listener);
/// # let server = server.newcomer_time(Duration::ZERO);
/// let (all, _) = server
///     .scope(handler, async |server| {
///         # while server.counts().in_state(ConnectionState::Serving) == 0 {
///         #     async_std::task::sleep(Duration::from_millis(1)).await;
///         # }
///         Ok(server.connections())
///     })
///     .await?;
/// assert_eq!(all[0].id().as_u64(), 0);
/// assert_eq!(all[0].peer_addr().to_string(), "memory:0");
/// assert_eq!(all[0].state(), ConnectionState::Serving);
/// println!("{}", all[0]); // connection 0 from memory:0 (`upload`), serving, 1ms old
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    id: ConnectionId,
    peer: Address,
    local: Option<Address>,
    age: Duration,
    state: ConnectionState,
    label: Option<Cow<'static, str>>,
    /// How long no byte has passed. `None`: unknown.
    silence: Option<Duration>,
    /// Bytes read and written. `None`: not counted.
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

    /// Returns the number of the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// # let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let (all, _) = server
    ///     .scope(handler, async |server| {
    ///         # while server.counts().in_state(ebbtide::ConnectionState::Serving) == 0 {
    ///         #     async_std::task::yield_now().await;
    ///         # }
    ///         Ok(server.connections())
    ///     })
    ///     .await?;
    /// assert_eq!(all[0].id().as_u64(), 0); // the first connection
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Returns the client's address.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// # let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let (all, _) = server
    ///     .scope(handler, async |server| {
    ///         # while server.counts().in_state(ebbtide::ConnectionState::Serving) == 0 {
    ///         #     async_std::task::yield_now().await;
    ///         # }
    ///         Ok(server.connections())
    ///     })
    ///     .await?;
    /// assert_eq!(all[0].peer_addr().to_string(), "memory:0");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn peer_addr(&self) -> &Address {
        &self.peer
    }

    /// Returns the address that the client connected to, if the system reports it.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// # let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let (all, _) = server
    ///     .scope(handler, async |server| {
    ///         # while server.counts().in_state(ebbtide::ConnectionState::Serving) == 0 {
    ///         #     async_std::task::yield_now().await;
    ///         # }
    ///         Ok(server.connections())
    ///     })
    ///     .await?;
    /// assert_eq!(all[0].local_addr().unwrap().to_string(), "memory");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn local_addr(&self) -> Option<&Address> {
        self.local.as_ref()
    }

    /// Returns how long ago the connection was accepted.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// # let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let (all, _) = server
    ///     .scope(handler, async |server| {
    ///         # while server.counts().in_state(ebbtide::ConnectionState::Serving) == 0 {
    ///         #     async_std::task::yield_now().await;
    ///         # }
    ///         Ok(server.connections())
    ///     })
    ///     .await?;
    /// assert!(all[0].age() < std::time::Duration::from_secs(10));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn age(&self) -> Duration {
        self.age
    }

    /// Returns the [label](crate::Connection::label) that the handler gave the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// # let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let (all, _) = server
    ///     .scope(handler, async |server| {
    ///         # while server.counts().in_state(ebbtide::ConnectionState::Serving) == 0 {
    ///         #     async_std::task::yield_now().await;
    ///         # }
    ///         Ok(server.connections())
    ///     })
    ///     .await?;
    /// assert_eq!(all[0].label(), None); // the handler set none
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Returns for how long no byte has passed either way.
    ///
    /// It is known for TCP on Linux, and for every connection of a server with an
    /// [`idle_timeout`](crate::Server::idle_timeout). Otherwise it is `None`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// # let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let server = server.idle_timeout(std::time::Duration::from_secs(60));
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let (all, _) = server
    ///     .scope(handler, async |server| {
    ///         # while server.counts().in_state(ebbtide::ConnectionState::Serving) == 0 {
    ///         #     async_std::task::yield_now().await;
    ///         # }
    ///         Ok(server.connections())
    ///     })
    ///     .await?;
    /// assert!(all[0].silent_for().is_some());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn silent_for(&self) -> Option<Duration> {
        self.silence
    }

    /// Returns how many bytes the handler has read, if they are [counted](crate::Server::count_bytes).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// # let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let server = server.count_bytes(true);
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let (all, _) = server
    ///     .scope(handler, async |server| {
    ///         # while server.counts().in_state(ebbtide::ConnectionState::Serving) == 0 {
    ///         #     async_std::task::yield_now().await;
    ///         # }
    ///         Ok(server.connections())
    ///     })
    ///     .await?;
    /// assert_eq!(all[0].bytes_read(), Some(0));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn bytes_read(&self) -> Option<u64> {
        self.bytes.map(|(read, _)| read)
    }

    /// Returns how many bytes the handler and its tasks have written, if they are
    /// [counted](crate::Server::count_bytes).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// # let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let server = server.count_bytes(true);
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let (all, _) = server
    ///     .scope(handler, async |server| {
    ///         # while server.counts().in_state(ebbtide::ConnectionState::Serving) == 0 {
    ///         #     async_std::task::yield_now().await;
    ///         # }
    ///         Ok(server.connections())
    ///     })
    ///     .await?;
    /// assert_eq!(all[0].bytes_written(), Some(0));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn bytes_written(&self) -> Option<u64> {
        self.bytes.map(|(_, written)| written)
    }

    /// Returns what the connection is doing.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, ConnectionState, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// # let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let (all, _) = server
    ///     .scope(handler, async |server| {
    ///         # while server.counts().in_state(ebbtide::ConnectionState::Serving) == 0 {
    ///         #     async_std::task::yield_now().await;
    ///         # }
    ///         Ok(server.connections())
    ///     })
    ///     .await?;
    /// assert_eq!(all[0].state(), ConnectionState::Serving);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
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
/// `Display` is the number, and `FromStr` parses it. So an operator can take it from a log line and pass it to
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
    ///
    /// # Examples
    ///
    /// ```
    /// let id: ebbtide::ConnectionId = "17".parse().unwrap();
    /// assert_eq!(id.as_u64(), 17);
    /// ```
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parses the number of a connection, as log lines show it.
impl FromStr for ConnectionId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}
