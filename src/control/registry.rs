//! Who is connected.

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
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
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

    /// Everybody, in the order of acceptance.
    pub(crate) fn all(&self) -> Vec<Arc<Member>> {
        let mut all: Vec<_> = lock(&self.members).iter().map(|(_, member)| Arc::clone(member)).collect();
        all.sort_unstable_by_key(|member| member.id);
        all
    }

    /// The one of this number. Looks at all of them: for a person's request.
    pub(crate) fn find(&self, id: u64) -> Option<Arc<Member>> {
        lock(&self.members).iter().map(|(_, member)| member).find(|member| member.id == id).cloned()
    }

    pub(crate) fn oldest(&self) -> Option<Arc<Member>> {
        lock(&self.members).iter().map(|(_, member)| member).min_by_key(|member| member.id).cloned()
    }
}

/// One connection, as [`Handle::connections`](crate::Handle::connections) and [`Report::cut`](crate::Report::cut) list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    id: u64,
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

    /// The connection's number: unique within its server, in the order of acceptance, from 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end.
    pub fn peer_addr(&self) -> &Address {
        &self.peer
    }

    /// The address that the client connected to, if the system told.
    pub fn local_addr(&self) -> Option<&Address> {
        self.local.as_ref()
    }

    /// How long ago it was accepted.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// What it is doing.
    pub fn state(&self) -> ConnectionState {
        self.state
    }
}

impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} from {}, {}, {:.1?} old", self.id, self.peer, self.state, self.age)
    }
}
