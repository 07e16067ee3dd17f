//! The tasks of one connection.

use crate::group::{Guard, JoinHandle, Owner, TaskGroup};
use crate::sync::{Mutex, lock};
use std::future::Future;
use std::panic::Location;

/// A group that is made when the first task is spawned: most connections have none, and pay one word for that.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    Some(Box<TaskGroup>),
    /// The handler has ended.
    Over,
}

impl Tasks {
    /// Starts a task; it is refused once the handler has ended. `owner` is asked for the group's owner if this is the first.
    pub(crate) fn spawn<F, G>(
        &self,
        at: &'static Location<'static>,
        future: F,
        guard: impl FnOnce() -> G,
        owner: impl FnOnce() -> Box<dyn Owner>,
    ) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
        G: Guard + 'static,
    {
        let spawner = {
            let mut state = lock(&self.state);
            if let State::None = *state {
                *state = State::Some(Box::new(TaskGroup::owned_by(owner())));
            }
            match &*state {
                State::Some(group) => group.spawner(),
                _ => {
                    drop(state); // the future's destructor is user code
                    return JoinHandle::refused(at);
                }
            }
        };
        spawner.spawn_guarded(at, future, guard)
    }

    /// Refuses new tasks from now on and gives the present ones: to be joined, or dropped, which joins them too.
    pub(crate) fn close(&self) -> Option<Box<TaskGroup>> {
        match std::mem::replace(&mut *lock(&self.state), State::Over) {
            State::Some(group) => Some(group),
            _ => None,
        }
    }
}
