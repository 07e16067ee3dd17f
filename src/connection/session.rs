//! One connection's life: its handler, and what has to be true when that ends.

use super::idle::Idle;
use super::{Connection, close, opening};
use crate::control::Control;
use crate::control::failure::Failure;
use crate::control::inside::{catch_future, inside};
use crate::control::member::{ConnectionState, Member, Verdict};
use crate::control::report::{Bucket, Cause};
use crate::control::token::Token;
use crate::error::{Chain, OnFailure};
use crate::handler::{HandlerOutput, Outcome, call, level_of};
use crate::kept::Kept;
use crate::limit::Permit;
use crate::listener::{Accepted, Layers};
use crate::say::say;
use crate::unwind;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// What a server wants of its connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) on_failure: OnFailure,
    pub(crate) opening: opening::Limits,
    pub(crate) idle_timeout: Option<Duration>,
}

/// The guard of one connection. Made when it is accepted; its drop, which every way out of the handler passes, closes the
/// connection and enters its end into the books.
pub(crate) struct Session {
    connection: Connection,
    /// Its place in the registry.
    key: usize,
    policy: Policy,
    /// What comes before the handler.
    layers: Layers,
    /// How the handler ended by itself; `None`: it did not, and is counted as cancelled.
    outcome: Option<Outcome>,
    /// It ended by itself after the drain had begun.
    drained: bool,
    /// Held while it lingers too.
    permit: Permit,
    /// The last to go: a field's drop comes after the drop of the struct.
    _token: Token,
}

impl Session {
    pub(crate) fn open(control: &Arc<Control>, mut accepted: Accepted, permit: Permit, policy: Policy) -> Self {
        let layers = std::mem::take(&mut accepted.layers);
        let (key, member) = control.registry.enter(accepted, policy.idle_timeout.is_some());
        control.counters.accepted();
        say!(debug, connection = member.id, peer:% = member.peer(); "opened");
        Self {
            connection: Connection::new(member, Arc::clone(control)),
            key,
            policy,
            layers,
            outcome: None,
            drained: false,
            permit,
            _token: control.token(),
        }
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.connection.member
    }

    /// Opens the connection, sees the handler to its end, and closes. The child's whole future.
    pub(crate) fn run<H, Fut>(handler: Arc<Kept<H>>, session: Self) -> impl Future<Output = ()>
    where
        H: Fn(Connection) -> Fut,
        Fut: Future<Output: HandlerOutput>,
    {
        // Not the parameters of an async function, which would keep them twice.
        let mut whole = Whole { handler, session };
        async move { whole.run().await }
    }

    /// Until the handler has ended, or was ended by others; then `outcome` says which.
    async fn serve<H, Fut>(&mut self, handler: &Kept<H>)
    where
        H: Fn(Connection) -> Fut,
        Fut: Future<Output: HandlerOutput>,
    {
        let member = Arc::clone(self.member());
        let mut idle = self.policy.idle_timeout.map(Idle::new);
        let (limits, connection) = (self.policy.opening, self.connection.clone());
        let layers = std::mem::take(&mut self.layers);
        let mut serving = pin!(Some(open_and_handle(limits, layers, &mut self.permit, connection, handler)));
        let outcome = poll_fn(|cx| {
            member.move_in(cx.waker());
            // First, so that no poll of the handler begins once somebody wants its end.
            if member.condemned.is_given() {
                return Poll::Ready(match member.verdict() {
                    Some(Verdict::Broken(message)) => Some(Outcome::Broken(message.clone())),
                    Some(Verdict::Cancelled) | None => None,
                });
            }
            let Some(serving) = serving.as_mut().as_pin_mut() else {
                return Poll::Pending; // never polled again once it has ended
            };
            if let Poll::Ready(outcome) = serving.poll(cx) {
                return Poll::Ready(Some(outcome));
            }
            match idle.as_mut().map(|idle| idle.poll(&member, cx)) {
                Some(Poll::Ready(limit)) => Poll::Ready(Some(Outcome::Idle(limit))),
                _ => Poll::Pending,
            }
        })
        .await;
        // From here on the end is the handler's own, whatever else may come: also a destructor of it that panics.
        self.drained = outcome.is_some() && self.connection.is_draining();
        self.outcome = outcome;
        if let Err(payload) = unwind::catch(|| serving.set(None)) {
            say!(error, connection = member.id, peer:% = member.peer();
                "a destructor of the handler panicked: {}", unwind::message(&payload)
            );
            unwind::discard(payload);
        }
    }

    /// Says how the handler ended, and stops the server where that was asked for.
    fn settle(&mut self) {
        let member = Arc::clone(self.member());
        let (id, peer) = (member.id, member.peer());
        let failure = match self.outcome.take() {
            None => {
                say!(debug, connection = id, peer:% = peer; "cancelled");
                return;
            }
            Some(Outcome::Completed) => {
                say!(debug, connection = id, peer:% = peer; "closed");
                return;
            }
            Some(Outcome::Failed(source)) => {
                say!(level_of(&source), connection = id, peer:% = peer;
                    "the handler of the connection from `{peer}` failed: {}", Chain(source.as_ref())
                );
                Failure::Handler { peer: peer.clone(), source }
            }
            Some(Outcome::Panicked(message)) => {
                say!(error, connection = id, peer:% = peer;
                    "the handler of the connection from `{peer}` panicked: {message}"
                );
                Failure::HandlerPanicked { peer: peer.clone(), message }
            }
            // A peer's doing, which never stops the server.
            Some(Outcome::Unopened(why)) => {
                say!(why.level(), connection = id, peer:% = peer; "closed the connection from `{peer}`: {why}");
                return;
            }
            Some(Outcome::Idle(limit)) => {
                say!(debug, connection = id, peer:% = peer; "closed the connection: no byte went either way for {limit:.1?}");
                return;
            }
            Some(Outcome::Broken(message)) => Failure::HandlerPanicked { peer: peer.clone(), message },
        };
        match self.policy.on_failure {
            OnFailure::Shutdown => self.connection.control.fail(Cause::HandlerFailed, failure),
            OnFailure::Isolate => drop(Kept::new(failure)), // the error's destructor is the user's
        }
    }
}

/// What a connection's child consists of, in the order in which it is dropped: the session's token must outlive the handler.
struct Whole<H> {
    handler: Arc<Kept<H>>,
    session: Session,
}

impl<H, Fut> Whole<H>
where
    H: Fn(Connection) -> Fut,
    Fut: Future<Output: HandlerOutput>,
{
    async fn run(&mut self) {
        let session = &mut self.session;
        session.serve(&self.handler).await;
        let member = session.member();
        match &session.outcome {
            None => close::abruptly(member), // closed by somebody else
            // Silent for too long: nobody is waited for.
            Some(Outcome::Idle(_)) => close::without_waiting(member).await,
            Some(Outcome::Unopened(why)) if !why.is_told() => close::without_waiting(member).await,
            Some(_) => close::half(member).await,
        }
        if let Some(tasks) = member.tasks.close() {
            tasks.cancel();
            tasks.settled().await;
        }
        close::linger(member).await;
    }
}

/// What a connection does before its end.
async fn open_and_handle<H, Fut>(
    limits: opening::Limits,
    layers: Layers,
    permit: &mut Permit,
    connection: Connection,
    handler: &Kept<H>,
) -> Outcome
where
    H: Fn(Connection) -> Fut,
    Fut: Future<Output: HandlerOutput>,
{
    if opening::is_needed(&layers, limits) {
        // On the heap, and gone before the handler begins: it would make the future of every connection larger.
        let opening = Box::pin(opening::open(&connection.member, &layers, limits, permit));
        match catch_future(|| opening).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Outcome::Unopened(why),
            Err(payload) => return Outcome::of(Err(payload)),
        }
    }
    connection.member.set_state(ConnectionState::Serving);
    let control = Arc::clone(&connection.control);
    Outcome::of(inside(&control, || catch_future(|| call(handler, connection))).await)
}

impl Drop for Session {
    fn drop(&mut self) {
        close::abruptly(self.member());
        drop(self.member().tasks.close()); // cancels and joins them
        self.member().tell();
        self.member().condemned.move_out();
        let control = &self.connection.control;
        let bucket = match &self.outcome {
            Some(outcome) => outcome.bucket(),
            None => {
                if control.requested.is_given() {
                    control.counters.cut(self.member()); // by the exit, and not by somebody who closed this one
                }
                Bucket::Cancelled
            }
        };
        control.counters.ended(bucket, self.drained);
        control.registry.leave(self.key);
        self.settle();
    }
}
