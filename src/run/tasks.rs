//! [`Tasks`]: the tasks that a connection's handler has spawned, as two task groups.
//!
//! The groups are made for the first task. The connection's task closes them when the handler ends: it joins what is
//! awaited, and cancels the rest.

use super::name::ServerName;
use super::record::{AbortReason, ConnectionRecord};
use crate::group::{Executor, Guard, JoinHandle, Label, ListedChild, Owner, Spawner, TaskGroup};
use crate::sync::{Mutex, lock};
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::{Arc, Weak};

/// Tasks of one connection. Most connections have none, so the groups are made for the first task.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    state: Mutex<TasksState>,
}

#[derive(Debug, Default)]
enum TasksState {
    #[default]
    None,
    Some(Box<TaskGroups>),
    /// The handler has ended: a new task is refused. With the groups' spawners, for lists, if there were groups.
    Over(Option<Box<[Spawner; 2]>>),
}

/// Kinds of a connection's tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// Started by `Connection::spawn`: it may finish its writes after the handler has returned.
    Awaited,
    /// Started by `Connection::spawn_background`: it ends with the handler.
    Background,
}

/// One group for each [`TaskKind`].
#[derive(Debug)]
pub(crate) struct TaskGroups {
    pub(crate) awaited: TaskGroup,
    pub(crate) background: TaskGroup,
}

impl TaskGroups {
    fn of(record: &Weak<ConnectionRecord>, server: &Arc<ServerName>, executor: Executor) -> Box<Self> {
        let owner = || TasksOf { record: Weak::clone(record), server: Arc::clone(server) };
        let group = || TaskGroup::owned_by(Box::new(owner()), executor.clone());
        Box::new(Self { awaited: group(), background: group() })
    }

    /// Returns a spawner of each group, in the order of [`TaskKind`].
    fn spawners(&self) -> [Spawner; 2] {
        [self.awaited.spawner(), self.background.spawner()]
    }

    fn get(&self, kind: TaskKind) -> &TaskGroup {
        match kind {
            TaskKind::Awaited => &self.awaited,
            TaskKind::Background => &self.background,
        }
    }

    /// Requests that all tasks end.
    pub(crate) fn cancel(&self) {
        self.awaited.cancel();
        self.background.cancel();
    }

    /// Cancels all tasks, and waits until each has ended.
    pub(crate) async fn end(self) {
        self.cancel();
        self.awaited.settled().await;
        self.background.settled().await;
    }
}

impl Tasks {
    /// Starts a task, or refuses it if the handler has ended.
    pub(crate) fn spawn<F, G>(
        &self,
        (record, server): (&Weak<ConnectionRecord>, &Arc<ServerName>),
        executor: impl FnOnce() -> Executor,
        kind: TaskKind,
        (label, at): (Label, &'static Location<'static>),
        future: F,
        arm: impl FnOnce(&mut G) -> bool,
    ) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
        G: Guard + 'static,
    {
        let spawner = {
            let mut state = lock(&self.state);
            if let TasksState::None = *state {
                *state = TasksState::Some(TaskGroups::of(record, server, executor()));
            }
            match &*state {
                TasksState::Some(groups) => groups.get(kind).spawner(),
                _ => {
                    drop(state); // a refused future is dropped, which is user code, so not under the lock
                    return JoinHandle::refused(at, future);
                }
            }
        };
        spawner.spawn_guarded(label, at, future, arm)
    }

    /// Returns a spawner of the group of awaited tasks. `None` if there was no task, or the handler has ended.
    pub(crate) fn awaited(&self) -> Option<Spawner> {
        match &*lock(&self.state) {
            TasksState::Some(groups) => Some(groups.awaited.spawner()),
            _ => None,
        }
    }

    /// Returns at most `most` tasks of each kind, for a list, and how many tasks there are.
    pub(crate) fn listed(&self, most: usize) -> (Vec<(TaskKind, ListedChild)>, usize) {
        let spawners = match &*lock(&self.state) {
            TasksState::Some(groups) => groups.spawners(),
            TasksState::Over(Some(spawners)) => (**spawners).clone(),
            _ => return (Vec::new(), 0),
        };
        let (mut all, mut number) = (Vec::new(), 0);
        for (kind, spawner) in [TaskKind::Awaited, TaskKind::Background].into_iter().zip(spawners) {
            let (children, present) = spawner.listed(most);
            all.extend(children.into_iter().map(|child| (kind, child)));
            number += present;
        }
        (all, number)
    }

    /// Refuses new tasks from now on, and returns the groups. The caller joins them, or drops them, which joins too.
    pub(crate) fn close(&self) -> Option<Box<TaskGroups>> {
        let mut state = lock(&self.state);
        let spawners = match &*state {
            TasksState::Some(groups) => Some(Box::new(groups.spawners())),
            TasksState::None => None,
            TasksState::Over(_) => return None,
        };
        match std::mem::replace(&mut *state, TasksState::Over(spawners)) {
            TasksState::Some(groups) => Some(groups),
            _ => None,
        }
    }
}

/// Owner of a connection's tasks: a panic of a task whose handle is gone ends the connection.
struct TasksOf {
    record: Weak<ConnectionRecord>,
    server: Arc<ServerName>,
}

impl Owner for TasksOf {
    fn child_panicked(&self, message: &str) {
        if let Some(record) = self.record.upgrade() {
            record.abort(AbortReason::TaskPanicked(message.to_owned()));
        }
    }
}

impl fmt::Display for TasksOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.record.upgrade() {
            Some(record) => record.fmt(f)?,
            None => f.write_str("a connection that is closed")?,
        }
        write!(f, " to the server `{}`", self.server)
    }
}
