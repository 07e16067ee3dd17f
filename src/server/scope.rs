//! The funnel: every way out of `serve` and `scope` passes through here and ends closed.
//!
//! ```text
//! serve, scope ── Run ── TaskGroup ── supervisor ── Crew ─┬─ acceptors
//!   (a guard: its drop                (a task)            ├─ connections, and tasks of the server
//!    cancels and joins)                                   └─ shutdown streams
//! ```
//!
//! Whoever drops the future of `serve` or `scope` drops the run, and so its group, and so the supervisor's future, and so
//! the crew: each of them cancels and joins what is below it. On the orderly ways out the crew has gone before.

use super::Server;
use super::accept::Acceptor;
use super::settings::Settings;
use super::stop::{Stop, obey};
use super::supervise::Crew;
use crate::connection::Connection;
use crate::connection::life::Service;
use crate::control::handle::Handle;
use crate::control::inside::catch_future;
use crate::control::notice::Notice;
use crate::control::phase::Phase;
use crate::control::report::{Cause, Report};
use crate::control::token::OpenListener;
use crate::control::{Control, Idle};
use crate::error::Error;
use crate::group::{Name, TaskGroup};
use crate::handler::HandlerOutput;
use crate::kept::Kept;
use crate::say::say;
use crate::unwind::{self, Payload};
use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// A run of a server: the guard in the future of `serve` or `scope`.
#[derive(Debug)]
pub(super) struct Run {
    control: Arc<Control>,
    /// Holds the supervisor.
    group: TaskGroup,
}

impl Run {
    /// Begins to serve, unless the server was closed before.
    pub(super) fn start<H, Fut>(server: Server, handler: H) -> Self
    where
        H: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: HandlerOutput> + Send + 'static,
    {
        let (control, settings, stops) = server.into_parts();
        let run = Self { control, group: TaskGroup::new() };
        if let Some((idle, listeners)) = run.control.start(settings.grace, settings.lame_duck) {
            let addresses: Vec<_> = run.control.addresses.iter().map(ToString::to_string).collect();
            say!(info, phase:% = Phase::Serving; "serving on {}", addresses.join(", "));
            let crew = muster(&run.control, (idle, listeners), &settings, stops, handler);
            run.group.spawn(crew.supervise());
        }
        run
    }

    pub(super) fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.control))
    }

    /// Drives the body until it returns or the server closes; then it is polled once more and dropped.
    pub(super) async fn drive<F: Future>(&self, body: impl FnOnce() -> F) -> BodyEnd<F::Output> {
        let mut body = pin!(catch_future(body));
        let mut over = self.control.over.watch();
        let ended = poll_fn(|cx| {
            if let Poll::Ready(result) = body.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            if over.poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Whoever waits in the body for the server's end has been woken before us, and gets to say what follows.
            match body.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => Poll::Ready(None),
            }
        })
        .await;
        match ended {
            Some(Ok(value)) => {
                self.control.request(Cause::BodyReturned);
                BodyEnd::Returned(value)
            }
            Some(Err(payload)) => {
                self.control.request(Cause::BodyPanicked);
                BodyEnd::Panicked(Swallowed(Some(payload)))
            }
            None => BodyEnd::Dropped,
        }
    }

    /// Waits until the server is closed, and says what came of it.
    pub(super) async fn finish(self) -> Result<Report, Error> {
        self.control.over.given().await;
        self.group.join().await; // raises what the supervisor itself may have panicked with; it has ended
        let report = self.control.report();
        match self.control.take_failure() {
            Some(failure) => Err(Error::new(failure, report)),
            None => Ok(report),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.control.over.is_given() {
            self.control.cancel(Cause::Dropped);
            self.control.advance(Phase::Cancelling);
        }
        // Now the group is dropped, which cancels and joins everything.
    }
}

/// What became of a body.
#[derive(Debug)]
pub(super) enum BodyEnd<T> {
    Returned(T),
    Panicked(Swallowed),
    /// The server closed first.
    Dropped,
}

impl<T> BodyEnd<T> {
    /// The value, or on with the panic.
    pub(super) fn into_value(self) -> Option<T> {
        match self {
            Self::Returned(value) => Some(value),
            Self::Panicked(mut swallowed) => match swallowed.0.take() {
                Some(payload) => resume_unwind(payload),
                None => None,
            },
            Self::Dropped => None,
        }
    }
}

/// A panic on its way. If the scope is dropped before it could go on, it is logged.
#[derive(Debug)]
pub(super) struct Swallowed(Option<Payload>);

impl Drop for Swallowed {
    fn drop(&mut self) {
        if let Some(payload) = self.0.take() {
            say!(
                error,
                "the body of a scope panicked, and the scope was dropped before the panic could go on: {}",
                unwind::message(&payload)
            );
            unwind::discard(payload);
        }
    }
}

/// Starts everything that a run consists of, but for the supervisor.
fn muster<H, Fut>(
    control: &Arc<Control>,
    (idle, listeners): (Idle, Vec<OpenListener>),
    settings: &Settings,
    stops: Vec<Stop>,
    handler: H,
) -> Crew
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: HandlerOutput> + Send + 'static,
{
    let Idle { connections, tasks, token } = idle;
    let crew = Crew {
        lame_duck: settings.lame_duck,
        acceptors: TaskGroup::new(),
        connections,
        tasks,
        stops: TaskGroup::new(),
        stop_accepting: Arc::new(Notice::default()),
        control: Arc::clone(control),
        _token: token,
    };
    let service = Arc::new(Service { handler: Kept::new(handler), policy: settings.policy });
    for listener in listeners {
        let acceptor = Acceptor {
            listener,
            service: Arc::clone(&service),
            control: Arc::clone(control),
            stop: Arc::clone(&crew.stop_accepting),
            _token: control.token(),
        };
        crew.acceptors.spawn(acceptor.run());
    }
    for stop in stops {
        let name = Arc::new("a shutdown stream");
        let obey = obey(Arc::clone(control), stop);
        crew.stops.spawner().spawn_named(Arc::downgrade(&name) as Name, async move {
            let _name = name;
            obey.await;
        });
    }
    crew
}
