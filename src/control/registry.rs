//! The open connections of a run: the registry, and what its lists show.

use super::connection_id::ConnectionId;
use super::member::{ConnectionState, Member};
use crate::address::Address;
use crate::listener::Accepted;
use crate::sync::{Mutex, lock};
use slab::Slab;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The open connections. Entering and leaving are O(1); looking at all of them is for people, and for the drain.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next_id: AtomicU64,
    members: Mutex<Slab<Arc<Member>>>,
}

impl Registry {
    /// Enters a connection; the key is for [`leave`](Self::leave).
    pub(crate) fn enter(&self, accepted: Accepted, watch_idle: bool) -> (usize, Arc<Member>) {
        let id = ConnectionId::new(self.next_id.fetch_add(1, Ordering::Relaxed));
        let member = Arc::new(Member::new(id, accepted, watch_idle));
        let key = lock(&self.members).insert(Arc::clone(&member));
        (key, member)
    }

    pub(crate) fn leave(&self, key: usize) {
        let member = lock(&self.members).try_remove(key);
        drop(member);
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.members).len()
    }

    /// All of them, in the order of acceptance.
    pub(crate) fn all(&self) -> Vec<Arc<Member>> {
        let mut all: Vec<_> = lock(&self.members).iter().map(|(_, member)| Arc::clone(member)).collect();
        all.sort_unstable_by_key(|member| member.id);
        all
    }

    /// The connection of this number. Looks at all of them: for a person's request.
    pub(crate) fn find(&self, id: ConnectionId) -> Option<Arc<Member>> {
        lock(&self.members).iter().map(|(_, member)| member).find(|member| member.id == id).cloned()
    }

    pub(crate) fn oldest(&self) -> Option<Arc<Member>> {
        lock(&self.members).iter().map(|(_, member)| member).min_by_key(|member| member.id).cloned()
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
}

impl ConnectionInfo {
    pub(crate) fn of(member: &Member) -> Self {
        Self {
            id: member.id,
            peer: member.peer().clone(),
            local: member.local().cloned(),
            age: member.since.elapsed(),
            state: member.state(),
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

    /// Returns what it is doing.
    pub fn state(&self) -> ConnectionState {
        self.state
    }
}

impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} from {}, {}, {:.1?} old", self.id, self.peer, self.state, self.age)
    }
}
