//! The guard of one connection: what has to be true when it ends.

use super::Connection;
use super::close::{self, End, Ending, How};
use super::opening;
use crate::address::Address;
use crate::control::Control;
use crate::control::connection_id::ConnectionId;
use crate::control::failure::Failure;
use crate::control::member::Member;
use crate::control::report::{Bucket, Cause};
use crate::control::token::Token;
use crate::error::{Chain, OnFailure};
use crate::handler::{Outcome, level_of};
use crate::kept::Kept;
use crate::limit::{Counted, Permit};
use crate::listener::{Accepted, Layers};
use crate::say::say;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

/// What a server wants of its connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) on_failure: OnFailure,
    pub(crate) opening: opening::Limits,
    pub(crate) idle_timeout: Option<Duration>,
}

/// Made when a connection is accepted; its drop, which every way out of the handler passes, closes the connection and enters
/// its end into the books.
pub(crate) struct Session {
    /// `None` only in its drop.
    connection: Option<Connection>,
    /// Its place in the registry.
    key: usize,
    on_failure: OnFailure,
    /// It ended by itself after the drain had begun.
    drained: bool,
    /// Nothing is unread or on its way: whoever owns the socket alone needs only close it.
    quiet: bool,
    /// What comes before the handler.
    layers: Layers,
    /// How the handler ended by itself; `None`: it did not, and is counted as cancelled.
    outcome: Option<Outcome>,
    /// The client's place among those from its address, where that is limited.
    counted: Option<Box<Counted>>,
    /// Held while it lingers too.
    _permit: Permit,
    /// The last to go: a field's drop comes after the drop of the struct.
    _token: Token,
}

impl Session {
    pub(crate) fn open(
        control: &Arc<Control>,
        mut accepted: Accepted,
        (permit, counted): (Permit, Option<Box<Counted>>),
        policy: &Policy,
    ) -> Self {
        let layers = std::mem::take(&mut accepted.layers);
        let (key, member) = control.registry.enter(accepted, policy.idle_timeout.is_some());
        control.counters.accepted();
        say!(debug, connection = member.id.as_u64(), peer:% = member.peer(); "opened");
        Self {
            connection: Some(Connection::new(member, Arc::clone(control))),
            key,
            on_failure: policy.on_failure,
            drained: false,
            quiet: false,
            layers,
            outcome: None,
            counted,
            _permit: permit,
            _token: control.token(),
        }
    }

    #[inline]
    pub(super) fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("it is there until the drop")
    }

    #[inline]
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.connection().member
    }

    #[inline]
    pub(super) fn control(&self) -> &Arc<Control> {
        self.connection().control()
    }

    pub(super) fn take_layers(&mut self) -> Layers {
        std::mem::take(&mut self.layers)
    }

    pub(super) fn count(&mut self, counted: Option<Box<Counted>>) {
        if counted.is_some() {
            self.counted = counted;
        }
    }

    /// From here on the end is the handler's own, whatever else may come: also a destructor of it that panics.
    pub(super) fn note(&mut self, outcome: Option<Outcome>) {
        self.drained = outcome.is_some() && self.connection().is_draining();
        self.outcome = outcome;
    }

    /// Closes the connection as its outcome asks for, as far as that is possible at once. The rest takes time.
    pub(super) fn begin_to_close(&mut self, cx: &mut Context<'_>) -> Option<Ending> {
        let how = match &self.outcome {
            None => How::Abruptly,                         // closed by somebody else
            Some(Outcome::Idle(_)) => How::WithoutWaiting, // silent for too long: nobody is waited for
            Some(Outcome::Unopened(why)) if !why.is_told() => How::WithoutWaiting,
            Some(_) => How::WithCare,
        };
        match close::begin(self.member(), how, cx) {
            End::Quiet => self.quiet = true,
            End::ShutDown => {}
            End::Waits(ending) => return Some(ending),
        }
        None
    }

    /// Says how the handler ended, and stops the server where that was asked for.
    fn settle(&mut self, id: ConnectionId, peer: &Address, control: &Arc<Control>) {
        let failure = match self.outcome.take() {
            None => {
                say!(debug, connection = id.as_u64(), peer:% = peer; "cancelled");
                return;
            }
            Some(Outcome::Completed) => {
                say!(debug, connection = id.as_u64(), peer:% = peer; "closed");
                return;
            }
            Some(Outcome::Failed(source)) => {
                say!(level_of(&source), connection = id.as_u64(), peer:% = peer;
                    "the handler of the connection from `{peer}` failed: {}", Chain(source.as_ref())
                );
                Failure::Handler { peer: peer.clone(), source }
            }
            Some(Outcome::Panicked(message)) => {
                say!(error, connection = id.as_u64(), peer:% = peer;
                    "the handler of the connection from `{peer}` panicked: {message}"
                );
                Failure::HandlerPanicked { peer: peer.clone(), message }
            }
            // A peer's doing, which never stops the server.
            Some(Outcome::Unopened(why)) => {
                say!(why.level(), connection = id.as_u64(), peer:% = peer; "closed the connection from `{peer}`: {why}");
                return;
            }
            Some(Outcome::Idle(limit)) => {
                say!(debug, connection = id.as_u64(), peer:% = peer; "closed the connection: no byte went either way for {limit:.1?}");
                return;
            }
            Some(Outcome::Broken(message)) => Failure::HandlerPanicked { peer: peer.clone(), message },
        };
        match self.on_failure {
            OnFailure::Shutdown => control.fail(Cause::HandlerFailed, failure),
            OnFailure::Isolate => drop(Kept::new(failure)), // the error's destructor is the user's
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(Connection { member, server }) = self.connection.take() else {
            return;
        };
        let control = server.control();
        if !self.quiet {
            member.end();
            member.shut_down();
            drop(member.tasks.close()); // cancels and joins them
        }
        let bucket = match &self.outcome {
            Some(outcome) => outcome.bucket(),
            None => {
                if control.requested.is_given() {
                    control.counters.cut(&member); // by the exit, and not by `cancel_connection`
                }
                Bucket::Cancelled
            }
        };
        control.counters.ended(bucket, self.drained);
        self.counted = None; // before it is out of the registry: who sees that it has left may come again at once
        control.registry.leave(self.key);
        let (id, peer) = (member.id, member.peer().clone());
        // The error's destructor is the user's: if it blocks its thread, whoever waits for that says whose it is.
        let _named = matches!(self.outcome, Some(Outcome::Failed(_))).then(|| Arc::clone(&member));
        // Nearly always nobody has a clone: then the descriptor is closed here, and nobody is there to be told.
        match Arc::try_unwrap(member) {
            Ok(member) if member.is_lent() => member.shut_down(), // there may be another descriptor
            Ok(_) => {}
            Err(member) => {
                member.shut_down();
                member.tell();
            }
        }
        self.settle(id, &peer, control);
    }
}
