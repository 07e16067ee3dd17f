//! The tasks of one connection.

use super::name::ServerName;
use super::record::{AbortReason, ConnectionRecord};
use crate::group::{Guard, JoinHandle, Label, Owner, Spawner, TaskGroup};
use crate::sync::{Mutex, lock};
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::{Arc, Weak};

/// The tasks of one connection: groups that are made for the first. Most connections have none, and pay one word for
/// that.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    state: Mutex<TasksState>,
}

#[derive(Debug, Default)]
enum TasksState {
    #[default]
    None,
    Some(Box<TaskGroups>),
    /// The handler has ended.
    Over,
}

/// What a task is to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// It may finish what it writes when the handler has returned.
    Awaited,
    /// It ends with the handler.
    Background,
}

#[derive(Debug)]
pub(crate) struct TaskGroups {
    pub(crate) awaited: TaskGroup,
    pub(crate) background: TaskGroup,
}

impl TaskGroups {
    fn of(record: &Weak<ConnectionRecord>, server: &Arc<ServerName>) -> Box<Self> {
        let owner = || TasksOf { record: Weak::clone(record), server: Arc::clone(server) };
        let group = || TaskGroup::owned_by(Box::new(owner()));
        Box::new(Self { awaited: group(), background: group() })
    }

    fn get(&self, kind: TaskKind) -> &TaskGroup {
        match kind {
            TaskKind::Awaited => &self.awaited,
            TaskKind::Background => &self.background,
        }
    }

    /// Asks for the end of all.
    pub(crate) fn cancel(&self) {
        self.awaited.cancel();
        self.background.cancel();
    }

    /// The same, and waits for their ends.
    pub(crate) async fn end(self) {
        self.cancel();
        self.awaited.settled().await;
        self.background.settled().await;
    }
}

impl Tasks {
    /// Starts a task; it is refused once the handler has ended.
    pub(crate) fn spawn<F, G>(
        &self,
        (record, server): (&Weak<ConnectionRecord>, &Arc<ServerName>),
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
                *state = TasksState::Some(TaskGroups::of(record, server));
            }
            match &*state {
                TasksState::Some(groups) => groups.get(kind).spawner(),
                _ => {
                    drop(state); // the future's destructor is user code
                    return JoinHandle::refused(at, future);
                }
            }
        };
        spawner.spawn_guarded(label, at, future, arm)
    }

    /// The group of those that are awaited; `None` if there has been no task.
    pub(crate) fn awaited(&self) -> Option<Spawner> {
        match &*lock(&self.state) {
            TasksState::Some(groups) => Some(groups.awaited.spawner()),
            _ => None,
        }
    }

    /// Refuses new tasks from now on and gives the present ones: to be joined, or dropped, which joins them too.
    pub(crate) fn close(&self) -> Option<Box<TaskGroups>> {
        match std::mem::replace(&mut *lock(&self.state), TasksState::Over) {
            TasksState::Some(groups) => Some(groups),
            _ => None,
        }
    }
}

/// The owner of a connection's tasks. One that panics while its handle is gone ends the connection.
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
