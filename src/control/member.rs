//! One connection, as the whole run knows it.

use super::notice::Notice;
use super::tasks::Tasks;
use crate::address::Address;
use crate::stream::Stream;
use std::fmt;
use std::net::Shutdown;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What the clones of a connection, its session and the registry have in common.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) peer: Address,
    /// When it was accepted.
    pub(crate) since: Instant,
    pub(crate) stream: Stream,
    /// Asked of the system once, when somebody wants to know.
    local: OnceLock<Option<Address>>,
    /// The drain has begun. Each connection has its own, so that waiting for it is no meeting place.
    pub(crate) draining: Notice,
    /// The connection must end: one of its tasks has panicked.
    pub(crate) broken: Notice,
    /// What that panic said.
    breakage: OnceLock<String>,
    /// The handler has ended. Set before the socket is shut down; no read or write passes it afterwards.
    ended: AtomicBool,
    pub(crate) tasks: Tasks,
}

impl Member {
    pub(crate) fn new(id: u64, stream: Stream, peer: Address) -> Self {
        Self {
            id,
            peer,
            since: Instant::now(),
            stream,
            local: OnceLock::new(),
            draining: Notice::default(),
            broken: Notice::default(),
            breakage: OnceLock::new(),
            ended: AtomicBool::new(false),
            tasks: Tasks::default(),
        }
    }

    /// The address that the client connected to, if the system still tells.
    pub(crate) fn local(&self) -> Option<&Address> {
        let ask = || self.stream.tcp()?.local_addr().ok().map(Address::from);
        self.local.get_or_init(ask).as_ref()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Closes the connection for every clone, and for the peer.
    pub(crate) fn shut_down(&self) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        // Not left to the close of the descriptor: a clone may keep that open, and where bytes are unread a close resets,
        // while after this the peer reads an end first.
        if let Err(error) = self.stream.shutdown(Shutdown::Both) {
            log::debug!(
                target: "ebbtide", connection = self.id, peer:% = self.peer;
                "cannot shut the connection down: {error}"
            );
        }
    }

    /// Ends the connection, because a task of it has panicked with `message`.
    pub(crate) fn break_off(&self, message: String) {
        let _ = self.breakage.set(message); // the first is the one that counts
        self.broken.give();
    }

    pub(crate) fn breakage(&self) -> String {
        self.breakage.get().cloned().unwrap_or_default()
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} from {}", self.id, self.peer)
    }
}
