//! [`Service`]: one server or task of a group, from its start to its end.

use super::observer::{ServiceView, TaskState};
use super::reports::{ServiceEnd, TaskEnd};
use super::stopping::Stopping;
use crate::error::Error;
use crate::group::{Executor, JoinHandle, TaskGroup, named};
use crate::handler::Outcome;
use crate::panic::{Chain, Payload, catch, drop_caught, log_line, text};
use crate::run::Run;
use crate::run::report::{BoxError, Cause, Report};
use crate::server::Serve;
use crate::sync::event::{Event, EventPlace};
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The function of a task. It is called in the first poll of the task.
pub(super) type Work = Box<dyn FnOnce(Stopping) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send>;

/// One service of a group. Its drop cancels and joins it.
pub(super) struct Service {
    pub(super) name: Arc<str>,
    kind: Kind,
    is_started: bool,
    /// It was asked to stop, or cancelled.
    pub(super) is_asked: bool,
    /// How it has ended. `None`: it has not.
    pub(super) end: Option<ServiceEnd>,
}

enum Kind {
    Server(Server),
    Task(Task),
}

struct Server {
    /// `None` once it has ended.
    serve: Option<Serve>,
    run: Arc<Run>,
    /// The group's place among the waiters for `run.requested`.
    requested: EventPlace,
}

struct Task {
    /// `None` once it is started.
    work: Option<Work>,
    /// The line that added it.
    at: &'static Location<'static>,
    stopping: Arc<Event>,
    child: Option<Child>,
    /// The group has cancelled it.
    is_cancelled: bool,
}

struct Child {
    /// `None` once it was ready.
    outcome: Option<JoinHandle<Outcome>>,
    /// The group of this one child, because a drop has to join the services one after the other.
    group: TaskGroup,
}

/// How a service ended, when its end is noticed.
#[derive(Debug)]
pub(super) enum Ended {
    /// As it should, or cancelled by the group.
    Well,
    Failed(ServiceFailure),
    /// The future of a server panicked.
    ServePanicked(Payload),
}

/// The failure of one service.
#[derive(Debug)]
pub(super) enum ServiceFailure {
    Server(Error),
    Task(BoxError),
    TaskPanicked(String),
    /// The executor has dropped the task.
    TaskDropped,
}

impl ServiceFailure {
    /// Returns the failure with its sources as text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Server(error) => text(|| Chain(error).to_string()),
            Self::Task(error) => text(|| Chain(error.as_ref()).to_string()),
            Self::TaskPanicked(message) => message.clone(),
            Self::TaskDropped => "the executor has dropped it".to_owned(),
        }
    }
}

impl Service {
    pub(super) fn server(serve: Serve) -> Self {
        let run = Arc::clone(serve.handle().run());
        let name = run.name.to_string().into();
        Self::new(name, Kind::Server(Server { serve: Some(serve), run, requested: EventPlace::default() }))
    }

    pub(super) fn task(name: Cow<'static, str>, work: Work, at: &'static Location<'static>) -> Self {
        let stopping = Arc::new(Event::default());
        let task = Task { work: Some(work), at, stopping, child: None, is_cancelled: false };
        Self::new(name.into(), Kind::Task(task))
    }

    fn new(name: Arc<str>, kind: Kind) -> Self {
        Self { name, kind, is_started: false, is_asked: false, end: None }
    }

    /// Returns how long its exit may last by its own settings, if it is a server.
    pub(super) fn allowance(&self) -> Option<Option<Duration>> {
        match &self.kind {
            Kind::Server(server) => server.serve.as_ref().map(Serve::allowance),
            Kind::Task(_) => None,
        }
    }

    /// Returns the future of a server that has not ended.
    pub(super) fn serve(&self) -> Option<&Serve> {
        match &self.kind {
            Kind::Server(server) => server.serve.as_ref(),
            Kind::Task(_) => None,
        }
    }

    /// Returns what it is doing; `None` if it has ended.
    pub(super) fn view(&self) -> Option<ServiceView> {
        if self.end.is_some() {
            return None;
        }
        Some(match &self.kind {
            Kind::Server(server) => ServiceView::Server(Arc::downgrade(&server.run)),
            Kind::Task(task) => {
                let state = match (task.is_cancelled, self.is_asked) {
                    (true, _) => TaskState::Cancelling,
                    (false, true) => TaskState::Stopping,
                    (false, false) => TaskState::Running,
                };
                ServiceView::Task(Arc::clone(&self.name), state)
            }
        })
    }

    pub(super) fn is_task(&self) -> bool {
        matches!(self.kind, Kind::Task(_))
    }

    /// Returns whether only the group can end it at its deadline. A server knows its deadline.
    pub(super) fn needs_cancel(&self) -> bool {
        matches!(&self.kind, Kind::Task(task) if !task.is_cancelled)
    }

    /// Starts a task. A server starts with its first poll.
    pub(super) fn start(&mut self, executor: &Executor) {
        self.is_started = true;
        if let Kind::Task(task) = &mut self.kind {
            let Some(work) = task.work.take() else { return };
            let stopping = Stopping::new(Arc::clone(&task.stopping));
            let group = TaskGroup::with_executor(executor.clone());
            let future = async move { work(stopping).await };
            let (label, future) = named(Cow::Owned(self.name.to_string()), task.at, future);
            let outcome = group.spawner().spawn_guarded(label, task.at, future, |(): &mut ()| true);
            task.child = Some(Child { outcome: Some(outcome), group });
        }
    }

    /// Ready once the end of a server was requested, by anything: with the cause.
    pub(super) fn poll_requested(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        match &mut self.kind {
            Kind::Server(server) if self.is_started => {
                server.requested.poll(&server.run.requested, cx).map(|()| server.run.cause().unwrap_or(Cause::Shutdown))
            }
            _ => Poll::Pending,
        }
    }

    /// Ready once it has ended. A service that was neither started nor asked to stop is not polled.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.end.is_some() || !self.is_started && !self.is_asked {
            return Poll::Pending;
        }
        let (end, ended) = match &mut self.kind {
            Kind::Server(server) => match server.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready((report, ended)) => (ServiceEnd::Server(report.map(Box::new)), ended),
            },
            Kind::Task(task) => match task.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready((end, ended)) => (ServiceEnd::Task(end), ended),
            },
        };
        self.end = Some(end);
        Poll::Ready(ended)
    }

    /// Asks it to stop by this time.
    pub(super) fn ask(&mut self, cause: Cause, latest: Option<Instant>) {
        self.is_asked = true;
        match &mut self.kind {
            Kind::Server(server) => server.run.request_by(cause, latest),
            Kind::Task(task) => {
                task.stopping.signal();
                drop_caught(task.work.take()); // never started
            }
        }
    }

    /// Asks a server again, which ends its lame duck.
    pub(super) fn ask_again(&self, cause: Cause) {
        match &self.kind {
            Kind::Server(server) if self.end.is_none() => server.run.request(cause),
            _ => {}
        }
    }

    /// Requests its immediate end.
    pub(super) fn cancel(&mut self, cause: Cause) {
        if self.end.is_some() {
            return;
        }
        self.is_asked = true;
        match &mut self.kind {
            Kind::Server(server) => server.run.cancel(cause),
            Kind::Task(task) => {
                // Its `Stopping` is signalled once it has ended: the services behind it may not have.
                task.is_cancelled = true;
                drop_caught(task.work.take());
                if let Some(outcome) = task.child.as_ref().and_then(|child| child.outcome.as_ref()) {
                    outcome.cancel();
                }
            }
        }
    }
}

impl Server {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Option<Report>, Ended)> {
        let Some(serve) = &mut self.serve else {
            return Poll::Pending; // not reached: it has ended
        };
        let result = match catch(|| Pin::new(serve).poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => Ok(result),
            Err(payload) => Err(payload),
        };
        drop_caught(self.serve.take());
        Poll::Ready(match result {
            Ok(Ok(report)) => (Some(report), Ended::Well),
            Ok(Err(error)) => (Some(error.report().clone()), Ended::Failed(ServiceFailure::Server(error))),
            Err(payload) => (None, Ended::ServePanicked(payload)),
        })
    }
}

impl Task {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(TaskEnd, Ended)> {
        let Some(child) = &mut self.child else {
            return Poll::Ready((TaskEnd::Cancelled, Ended::Well)); // never started
        };
        let Some(outcome) = &mut child.outcome else {
            return Poll::Pending; // not reached: it has ended
        };
        let Poll::Ready(result) = Pin::new(outcome).poll(cx) else {
            return Poll::Pending;
        };
        child.outcome = None;
        self.stopping.signal(); // for clones that outlive the task
        Poll::Ready(match result {
            Ok(outcome) => Self::ended(outcome),
            // The task catches its own panics, so it was cancelled: by the group, or by its executor.
            Err(_) if self.is_cancelled => (TaskEnd::Cancelled, Ended::Well),
            Err(_) => (TaskEnd::Cancelled, Ended::Failed(ServiceFailure::TaskDropped)),
        })
    }

    fn ended(outcome: Outcome) -> (TaskEnd, Ended) {
        match outcome {
            Outcome::Failed(error) => (TaskEnd::Failed, Ended::Failed(ServiceFailure::Task(error))),
            Outcome::Panicked(message) => (TaskEnd::Panicked, Ended::Failed(ServiceFailure::TaskPanicked(message))),
            _ => (TaskEnd::Completed, Ended::Well),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        match &mut self.kind {
            Kind::Server(server) => {
                server.requested.give_up(&server.run.requested);
                drop_caught(server.serve.take());
            }
            Kind::Task(task) => {
                drop_caught(task.work.take());
                let Some(Child { outcome, group }) = task.child.take() else { return };
                drop(group); // cancels and joins the task
                task.stopping.signal();
                let Some(mut outcome) = outcome else { return };
                // It may have failed before the drop, and nothing else will report that.
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(Ok(outcome)) = Pin::new(&mut outcome).poll(&mut cx) {
                    if let (_, Ended::Failed(failure)) = Task::ended(outcome) {
                        log_dropped(&self.name, &failure);
                        drop_caught(failure);
                    }
                }
            }
        }
    }
}

/// Logs the failure of a service that no caller gets, because the group was dropped.
pub(super) fn log_dropped(name: &str, failure: &ServiceFailure) {
    log_line!(
        warn, service:% = name;
        "the service `{name}` failed, and its group was dropped before it could return that: {}", failure.text()
    );
}

/// Logs the panic of a server's future that cannot continue, because the group was dropped. Its first line may be lost:
/// the queue of log lines was dropped, too.
pub(super) fn log_dropped_panic(name: &str, message: &str) {
    log_line!(
        error, service:% = name;
        "the server `{name}` panicked, and its group was dropped before the panic could continue: {message}"
    );
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Server(_) => "server",
            Kind::Task(_) => "task",
        };
        write!(f, "{kind} `{}`", self.name)
    }
}
