//! One connection's life: what comes before its handler, the handler, and what comes after. The child's whole future.
//!
//! Written by hand: an async function keeps each of its parameters twice, and each future that it awaits in a place of its own.
//! With thousands of connections that is memory, and each message finds less of it in the processor's cache.

use super::Connection;
use super::close::Ending;
use super::idle::Idle;
use super::opening::{self, Opening};
use super::session::{Policy, Session};
use crate::control::inside::inside;
use crate::control::member::{ConnectionState, Verdict};
use crate::handler::{HandlerOutput, Outcome};
use crate::kept::Kept;
use crate::say::say;
use crate::unwind;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// What all connections of a server have in common.
pub(crate) struct Service<H> {
    pub(crate) handler: Kept<H>,
    pub(crate) policy: Policy,
}

pin_project! {
    /// Opens the connection, sees the handler to its end, and closes.
    ///
    /// Its parts are dropped in this order: the session's token must outlive the handler.
    pub(crate) struct Life<H, Fut> {
        #[pin]
        stage: Stage<Fut>,
        idle: Option<Box<Idle>>,
        service: Arc<Service<H>>,
        session: Session,
    }
}

pin_project! {
    #[project = StageProjected]
    enum Stage<Fut> {
        /// Nothing has been begun, or nothing is under way.
        Still,
        /// What comes before the handler.
        Opening { opening: Opening },
        Handling { #[pin] handler: Fut },
        /// What comes after it.
        Ending { ending: Ending },
    }
}

impl<H, Fut> Life<H, Fut>
where
    H: Fn(Connection) -> Fut,
    Fut: Future<Output: HandlerOutput>,
{
    pub(crate) fn new(service: Arc<Service<H>>, session: Session) -> Self {
        let idle = service.policy.idle_timeout.map(|limit| Box::new(Idle::new(limit)));
        Self { stage: Stage::Still, idle, service, session }
    }

    /// Until the handler has ended by itself, or was ended by others (`None`).
    fn poll_outcome(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        let member = self.session.member();
        // First, so that no poll of the handler begins once somebody wants its end.
        if member.is_condemned() {
            return Poll::Ready(match member.verdict() {
                Some(Verdict::Broken(message)) => Some(Outcome::Broken(message)),
                Some(Verdict::Cancelled) | None => None,
            });
        }
        if let Poll::Ready(outcome) = self.as_mut().poll_handler(cx) {
            return Poll::Ready(Some(outcome));
        }
        let this = self.project();
        match this.idle.as_mut().map(|idle| idle.poll(this.session.member(), cx)) {
            Some(Poll::Ready(limit)) => Poll::Ready(Some(Outcome::Idle(limit))),
            _ => Poll::Pending,
        }
    }

    fn poll_handler(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut this = self.project();
        if let StageProjected::Still = this.stage.as_mut().project() {
            let limits = this.service.policy.opening;
            let layers = this.session.take_layers();
            if opening::is_needed(&layers, limits) {
                let limit = Arc::clone(&this.session.control().limit);
                let opening = opening::open(Arc::clone(this.session.member()), layers, limits, limit);
                this.stage.set(Stage::Opening { opening });
            }
        }
        if let StageProjected::Opening { opening } = this.stage.as_mut().project() {
            let opened = ready!(opening.as_mut().poll(cx));
            this.session.count(opened.counted);
            match opened.result {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return Poll::Ready(Outcome::Unopened(why)),
                Err(payload) => return Poll::Ready(Outcome::panicked(payload)),
            }
            this.stage.set(Stage::Still); // it is gone before the handler begins
        }
        inside(this.session.control(), || {
            if let StageProjected::Still = this.stage.as_mut().project() {
                this.session.member().set_state(ConnectionState::Serving);
                let connection = this.session.connection().clone();
                match unwind::catch(|| (this.service.handler.get())(connection)) {
                    Ok(handler) => this.stage.set(Stage::Handling { handler }),
                    Err(payload) => return Poll::Ready(Outcome::panicked(payload)),
                }
            }
            match this.stage.as_mut().project() {
                StageProjected::Handling { handler } => Outcome::poll(handler, cx),
                _ => Poll::Pending, // not reached
            }
        })
    }
}

impl<H, Fut> Future for Life<H, Fut>
where
    H: Fn(Connection) -> Fut,
    Fut: Future<Output: HandlerOutput>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.session.member().draining.move_in(cx.waker()); // before anything is looked at that it may be roused for
        if let StageProjected::Ending { ending } = self.as_mut().project().stage.project() {
            return ending.as_mut().poll(cx);
        }
        let outcome = ready!(self.as_mut().poll_outcome(cx));
        let mut this = self.project();
        this.session.note(outcome);
        if let Err(payload) = unwind::catch(|| this.stage.set(Stage::Still)) {
            let member = this.session.member();
            say!(error, connection = member.id.as_u64(), peer:% = member.peer();
                "a destructor of the handler panicked: {}", unwind::message(&payload)
            );
            unwind::discard(payload);
        }
        let Some(mut ending) = this.session.begin_to_close(cx) else {
            return Poll::Ready(());
        };
        let poll = ending.as_mut().poll(cx);
        this.stage.set(Stage::Ending { ending });
        poll
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Pending, pending};

    fn child_of<H, Fut>(_: &H) -> usize
    where
        H: Fn(Connection) -> Fut,
    {
        size_of::<Life<H, Fut>>()
    }

    /// Every connection has one, and with thousands of them each byte counts.
    #[test]
    fn a_connections_future_is_little_more_than_its_handlers() {
        let more = child_of(&|_: Connection| -> Pending<()> { pending() });
        assert!(more <= 200, "{more} bytes");
    }
}
