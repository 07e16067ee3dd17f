//! [`GroupObserver`]: how a module above this one follows a group from its start to its end.

use super::running::Services;
use crate::group::{Executor, TaskGroup};
use crate::run::Run;
use crate::server::Serve;
use crate::server::scope::{SideFuture, SideLog};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Follows one group. It is dropped when the group has ended, or if the group never runs.
///
/// Its functions are called by the thread that polls or drops the group, without a lock. They do not block.
pub(crate) trait GroupObserver: Send + Sync {
    /// Prepares a server of the group, before it starts.
    fn prepare(&self, server: &Serve);

    /// The group has changed. Returns a line to be logged at warn.
    fn changed(&self, view: GroupView) -> Option<String>;

    /// Returns a task that runs on the group's executor from its start to its end.
    fn beside(&self, log: SideLog) -> SideFuture;
}

/// What a group is doing.
#[derive(Debug)]
pub(crate) struct GroupView {
    pub(crate) phase: GroupPhase,
    /// When the stop was requested, and when everything that is left is cancelled. The inner `None`: never.
    pub(crate) request: Option<(Instant, Option<Instant>)>,
    /// The services that have not ended, in the order in which they were added.
    pub(crate) services: Vec<ServiceView>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GroupPhase {
    /// Not every service has started.
    Starting,
    /// All services have started. It may have been asked to stop.
    Running,
    /// All services were cancelled at once.
    Cancelling,
    /// With the reports as one line.
    Ended(String),
}

/// One service of a group.
#[derive(Debug)]
pub(crate) enum ServiceView {
    Server(Weak<Run>),
    Task(Arc<str>, TaskState),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskState {
    Running,
    /// It was asked to stop.
    Stopping,
    Cancelling,
}

/// The observer of a group that runs, and its task.
pub(super) struct Observed {
    /// Dropped first: the task cannot outlive the end that the observer's drop reports.
    beside: TaskGroup,
    observer: Box<dyn GroupObserver>,
    /// Something has changed since the observer was called last.
    pub(super) is_changed: bool,
}

impl Observed {
    /// Prepares the servers, and starts the observer's task.
    pub(super) fn begin(
        observer: Box<dyn GroupObserver>,
        services: &Services,
        executor: Executor,
        log: SideLog,
    ) -> Self {
        services.0.iter().filter_map(|service| service.serve()).for_each(|serve| observer.prepare(serve));
        let beside = TaskGroup::with_executor(executor);
        beside.spawn(observer.beside(log));
        Self { beside, observer, is_changed: true }
    }

    pub(super) fn changed(&mut self, view: GroupView) -> Option<String> {
        self.is_changed = false;
        self.observer.changed(view)
    }

    /// Ends the task, and then reports the end of the group.
    pub(super) fn end(self, reports: String) -> Option<String> {
        drop(self.beside);
        self.observer.changed(GroupView { phase: GroupPhase::Ended(reports), request: None, services: Vec::new() })
    }
}
