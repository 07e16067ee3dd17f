//! Who is connected.

use super::member::Member;
use crate::address::Address;
use crate::stream::Stream;
use crate::sync::{Mutex, lock};
use slab::Slab;
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
    pub(crate) fn enter(&self, stream: Stream, peer: Address) -> (usize, Arc<Member>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let member = Arc::new(Member::new(id, stream, peer));
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

    pub(crate) fn oldest(&self) -> Option<Arc<Member>> {
        lock(&self.members).iter().map(|(_, member)| member).min_by_key(|member| member.id).cloned()
    }
}

/// One open connection, as [`Handle::connections`](crate::Handle::connections) lists it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    id: u64,
    peer: Address,
    age: Duration,
}

impl ConnectionInfo {
    pub(crate) fn of(member: &Member) -> Self {
        Self { id: member.id, peer: member.peer.clone(), age: member.since.elapsed() }
    }

    /// The connection's number: unique within its server, in the order of acceptance, from 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end.
    pub fn peer_addr(&self) -> &Address {
        &self.peer
    }

    /// How long ago it was accepted.
    pub fn age(&self) -> Duration {
        self.age
    }
}
