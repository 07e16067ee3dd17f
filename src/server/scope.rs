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
use super::body::{self, BodyEnd, BodyOutput};
use super::settings::Settings;
use super::stop::{Stop, obey};
use super::supervise::Crew;
use crate::connection::Connection;
use crate::connection::life::Service;
use crate::control::failure::Failure;
use crate::control::handle::Handle;
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
use std::future::Future;
use std::sync::Arc;

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

    /// Drives the body to its end, which ends the server.
    pub(super) async fn drive<F, O, T>(&self, body: impl FnOnce() -> F) -> BodyEnd<T>
    where
        F: Future<Output = O>,
        O: BodyOutput<T>,
    {
        let end = body::drive::<F, O, T>(&self.control, body).await;
        end.request(&self.control);
        end
    }

    /// Waits until the server of a scope is closed. The first failure wins; a panic of the body goes on in any case.
    pub(super) async fn finish_with<O: BodyOutput<T>, T>(self, end: BodyEnd<T>) -> Result<(T, Report), Error> {
        let finished = self.finish().await;
        match end {
            BodyEnd::Panicked(payload) => {
                payload.resume();
                finished.and_then(|report| Err(Error::new(Failure::Stopped, report))) // not reached
            }
            BodyEnd::Returned(value) => finished.map(|report| (value, report)),
            BodyEnd::Failed(error) => finished.and_then(|report| match error.take() {
                Some(source) => Err(Error::new(Failure::Body { source }, report)),
                None => Err(Error::new(Failure::Stopped, report)), // not reached: nothing else takes it
            }),
            BodyEnd::Dropped => finished.and_then(|report| match O::of_dropped() {
                Some(value) => Ok((value, report)),
                None => Err(Error::new(Failure::Stopped, report)),
            }),
        }
    }

    /// Waits until the server is closed, and returns its report, or the failure that stopped it.
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
