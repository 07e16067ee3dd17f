//! [`Driver`]: runs hyper's future for one connection, and decides when the connection is closed: in a drain, after a
//! time without requests, or because a head does not become complete.
//!
//! A drain must lose no request. HTTP/1 has no message by which a server announces that it will close, except the
//! header `Connection: close` of an answer. If a server closes an idle connection, a request may be on its way to it.
//! So a connection on which a byte has passed within the last second is closed only after it has been quiet for the
//! patience of the drain. If a request comes in that time, its answer says `Connection: close`, and the client sends no
//! other. (hyper's own graceful shutdown closes each connection that has no request at that moment: under load it loses
//! about one request for each connection.) HTTP/2 has GOAWAY: the server announces the end, asks for a PING's answer,
//! and refuses only streams that were opened after that.

use super::builder::Settings;
use super::error::has_left;
use super::progress::{Progress, RECENT};
use crate::connection::{Connection, Draining};
use crate::run::timers::RunTimer;
use crate::sync::event::EventListener;
use crate::transport::ExtraTime;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How long a connection that is being closed may be silent. A client of HTTP/2 has to answer a PING in that time.
const CLOSING: Duration = Duration::from_secs(1);

/// How long a connection that is being closed may last after its last request, whatever the client sends: it may send
/// PINGs of its own, and not answer ours.
const LONGEST_CLOSING: Duration = Duration::from_secs(3);

/// hyper's future for one connection.
pub(super) trait Protocol: Future<Output = hyper::Result<()>> {
    const IS_HTTP2: bool;

    fn begin_shutdown(self: Pin<&mut Self>);
}

impl<I, S, B> Protocol for http1::UpgradeableConnection<I, S>
where
    Self: Future<Output = hyper::Result<()>>,
    S: Service<hyper::Request<hyper::body::Incoming>, Response = hyper::Response<B>, Error: Into<crate::BoxError>>,
    B: hyper::body::Body<Error: Into<crate::BoxError>> + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    const IS_HTTP2: bool = false;

    fn begin_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> Protocol for http2::Connection<I, S, E>
where
    Self: Future<Output = hyper::Result<()>>,
    S: Service<hyper::Request<hyper::body::Incoming>, Response = hyper::Response<B>, Error: Into<crate::BoxError>>,
    B: hyper::body::Body<Error: Into<crate::BoxError>> + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    E: Http2ServerConnExec<S::Future, B>,
{
    const IS_HTTP2: bool = true;

    fn begin_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What is done if nothing happens until a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Ends the connection as the protocol has it: hyper finishes what has begun.
    Close,
    /// Drops the connection, which does not answer any more.
    GiveUp,
    /// Answers 408.
    EndSlowHead,
}

/// How a connection has ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself, or because it was closed.
    Closed(hyper::Result<()>),
    /// A request's head was not complete in time.
    SlowHead,
}

/// Runs hyper's future for one connection.
pub(super) struct Driver<'a> {
    connection: &'a Connection,
    progress: &'a Progress,
    settings: &'a Settings,
    draining: Draining,
    /// The shutdown request of the whole server, which with a lame duck comes before the drain. Only HTTP/2 waits for
    /// it: all connections share this event.
    requested: Option<EventListener<'a>>,
    /// When the connection was asked to leave.
    leaving: Option<Instant>,
    /// When the end was announced to hyper.
    closing: Option<Instant>,
    /// Since when there has been no request, if the end was announced.
    closing_idle: Option<Instant>,
    timer: RunTimer,
    /// When the timer ends.
    due: Option<Instant>,
    /// The extra time of the last limit that had passed.
    extra: ExtraTime,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        progress: &'a Progress,
        settings: &'a Settings,
        is_http2: bool,
    ) -> Self {
        Self {
            connection,
            progress,
            settings,
            draining: connection.draining(),
            requested: is_http2.then(|| connection.server().run().requested.listen()),
            leaving: None,
            closing: None,
            closing_idle: None,
            timer: connection.server().run().timers.timer(),
            due: None,
            extra: ExtraTime::default(),
        }
    }

    pub(super) fn poll<P: Protocol>(&mut self, mut http: Pin<&mut P>, cx: &mut Context<'_>) -> Poll<End> {
        if P::IS_HTTP2 {
            self.progress.released.set_primary(cx.waker()); // before it is looked whether requests are in progress
        }
        loop {
            if let Poll::Ready(end) = http.as_mut().poll(cx) {
                let is_idle = !self.progress.is_busy() && self.progress.head_began().is_none();
                return Poll::Ready(End::Closed(match end {
                    // A peer that leaves between two requests has lost nothing, however it leaves.
                    Err(error) if is_idle && !error.is_user() && has_left(&error, self.connection) => Ok(()),
                    end => end,
                }));
            }
            if self.progress.take_unseen_head() {
                // hyper 1.12 may read the next request in the moment in which it has sent the end of a streamed answer
                // (`poll_loop` in its h1/dispatch.rs returns without a look at `wants_read_again`). Then nothing wakes
                // it, so it is polled again: it finds the request, or waits for the rest of the head.
                continue;
            }
            self.poll_leaving(cx);
            self.note_closing_idle();
            let Some((due, act)) = self.plan::<P>() else { return Poll::Pending };
            let now = Instant::now();
            let later = if due > now { Some(due) } else { self.extra_time(due, act, now) };
            if let Some(later) = later {
                if self.poll_timer(later, cx).is_ready() {
                    continue; // it was set for an earlier time than is due now
                }
                return Poll::Pending;
            }
            match act {
                Act::Close => {
                    self.closing = Some(Instant::now());
                    http.as_mut().begin_shutdown();
                }
                Act::GiveUp => return Poll::Ready(End::Closed(Ok(()))),
                Act::EndSlowHead => return Poll::Ready(End::SlowHead),
            }
        }
    }

    /// Returns until when bytes that have arrived may still be read, after a limit on the peer. In a drain there are none
    /// that hyper has not found: each read tries the socket then.
    fn extra_time(&mut self, due: Instant, act: Act, now: Instant) -> Option<Instant> {
        if self.leaving.is_some() || act == Act::GiveUp {
            return None;
        }
        self.extra.after(due, now, &self.connection.record().transport)
    }

    /// Notes when the connection is asked to leave.
    fn poll_leaving(&mut self, cx: &mut Context<'_>) {
        if self.leaving.is_some() {
            return;
        }
        let drains = Pin::new(&mut self.draining).poll(cx).is_ready();
        if drains || self.requested.as_mut().is_some_and(|requested| requested.poll(cx).is_ready()) {
            self.leaving = Some(Instant::now());
        }
    }

    /// Ready if the timer has ended. It is set again only to an earlier time: usually each request makes a later time
    /// due, and setting a timer costs more than one wake-up that finds nothing to do.
    fn poll_timer(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.due.is_none_or(|armed| due < armed) {
            self.timer.set(Some(due));
            self.due = Some(due);
        }
        let poll = self.timer.poll(cx);
        if poll.is_ready() {
            self.due = None;
        }
        poll
    }

    /// Notes since when a connection whose end was announced has had no request.
    fn note_closing_idle(&mut self) {
        match self.closing.is_some() && !self.progress.is_busy() {
            true => _ = self.closing_idle.get_or_insert_with(Instant::now),
            false => self.closing_idle = None,
        }
    }

    /// Returns what is to be done if nothing happens until a certain time.
    fn plan<P: Protocol>(&self) -> Option<(Instant, Act)> {
        let (is_busy, last) = (self.progress.is_busy(), self.progress.last_activity());
        if let Some(closing) = self.closing {
            let end = self.closing_idle? + LONGEST_CLOSING;
            return Some((end.min(last.max(closing) + CLOSING), Act::GiveUp));
        }
        if let (true, Some(leaving)) = (P::IS_HTTP2 && self.progress.has_served(), self.leaving) {
            return Some((leaving, Act::Close));
        }
        if is_busy {
            return None;
        }
        if let (false, Some(began)) = (P::IS_HTTP2, self.progress.head_began()) {
            return Some((began.checked_add(self.settings.header_timeout?)?, Act::EndSlowHead));
        }
        let close = match self.leaving {
            Some(leaving) if leaving.duration_since(last) > RECENT => leaving,
            Some(leaving) => {
                let patience = self.progress.patience(self.settings.drain_patience);
                let latest = last.max(leaving).checked_add(patience)?;
                // GOAWAY loses no request, so a client of HTTP/2 that sends PINGs need not be quiet.
                if P::IS_HTTP2 { latest.min(leaving + CLOSING.max(patience)) } else { latest }
            }
            None => last.checked_add(self.settings.keep_alive_timeout?)?,
        };
        Some((close, Act::Close))
    }
}
