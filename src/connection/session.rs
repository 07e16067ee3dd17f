//! One connection's life: its handler, and what has to be true when that ends.

use super::Connection;
use crate::address::Address;
use crate::control::member::Member;
use crate::control::report::{Bucket, Cause};
use crate::control::{Control, Token, inside};
use crate::error::{Chain, Failure, OnFailure};
use crate::handler::{HandlerOutput, Outcome, level_of};
use crate::stream::Stream;
use crate::unwind::catch_future;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// The guard of one connection. Made when it is accepted; its drop, which every way out of the handler passes, closes the
/// connection and enters its end into the books.
pub(crate) struct Session {
    connection: Connection,
    /// Its place in the registry.
    key: usize,
    /// How the handler ended by itself; `None`: it did not, and is counted as cancelled.
    outcome: Option<Outcome>,
    on_failure: OnFailure,
    /// The last to go: a field's drop comes after the drop of the struct.
    _token: Token,
}

impl Session {
    pub(crate) fn open(control: &Arc<Control>, stream: Stream, peer: Address, on_failure: OnFailure) -> Self {
        let (key, member) = control.registry.enter(stream, peer);
        control.counters.accepted();
        log::debug!(target: "ebbtide", connection = member.id, peer:% = member.peer; "opened");
        Self {
            connection: Connection::new(member, Arc::clone(control)),
            key,
            outcome: None,
            on_failure,
            _token: control.token(),
        }
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.connection.member
    }

    /// Calls the handler and sees it to its end. The child's whole future.
    pub(crate) async fn run<H, Fut>(mut self, handler: Arc<H>)
    where
        H: Fn(Connection) -> Fut,
        Fut: Future<Output: HandlerOutput>,
    {
        let connection = self.connection.clone();
        let outcome = {
            let handling = inside(&self.connection.control, catch_future(|| handler(connection)));
            let mut handling = pin!(handling);
            let mut broken = self.member().broken.watch();
            poll_fn(|cx| match handling.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Outcome::of(result)),
                Poll::Pending => broken.poll(cx).map(|()| Outcome::Broken(self.member().breakage())),
            })
            .await
        };
        // From here on the end is the handler's own, whatever else may come.
        self.outcome = Some(outcome);
        self.member().shut_down();
        if let Some(tasks) = self.member().tasks.close() {
            tasks.cancel();
            tasks.join().await;
        }
    }

    /// Says how the handler ended, and stops the server where that was asked for.
    fn settle(&mut self) {
        let member = Arc::clone(self.member());
        let (id, peer) = (member.id, &member.peer);
        let failure = match self.outcome.take() {
            None => {
                log::debug!(target: "ebbtide", connection = id, peer:% = peer; "cancelled");
                return;
            }
            Some(Outcome::Completed) => {
                log::debug!(target: "ebbtide", connection = id, peer:% = peer; "closed");
                return;
            }
            Some(Outcome::Failed(source)) => {
                log::log!(
                    target: "ebbtide", level_of(&source), connection = id, peer:% = peer;
                    "the handler of the connection from `{peer}` failed: {}", Chain(source.as_ref())
                );
                Failure::Handler { peer: peer.clone(), source }
            }
            Some(Outcome::Panicked(message)) => {
                log::error!(
                    target: "ebbtide", connection = id, peer:% = peer;
                    "the handler of the connection from `{peer}` panicked: {message}"
                );
                Failure::HandlerPanicked { peer: peer.clone(), message }
            }
            Some(Outcome::Broken(message)) => Failure::HandlerPanicked { peer: peer.clone(), message },
        };
        if let OnFailure::Shutdown = self.on_failure {
            self.connection.control.fail(Cause::HandlerFailed, failure);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.member().shut_down();
        drop(self.member().tasks.close()); // cancels and joins them
        let bucket = self.outcome.as_ref().map_or(Bucket::Cancelled, Outcome::bucket);
        let control = &self.connection.control;
        control.counters.ended(bucket, self.connection.is_draining());
        control.registry.leave(self.key);
        self.settle();
    }
}
