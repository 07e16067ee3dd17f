//! The tasks of one connection.

use crate::group::{Name, TaskGroup};
use crate::sync::{Mutex, lock};
use std::future::Future;

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
    /// `false`: refused, because the handler has ended.
    pub(crate) fn spawn<F>(&self, name: Name, future: F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let spawner = {
            let mut state = lock(&self.state);
            if let State::None = *state {
                *state = State::Some(Box::default());
            }
            match &*state {
                State::Some(group) => group.spawner(),
                _ => return false,
            }
        };
        spawner.spawn_named(name, future)
    }

    /// Refuses new tasks from now on and gives those that there are: to be joined, or dropped, which joins them too.
    pub(crate) fn close(&self) -> Option<Box<TaskGroup>> {
        match std::mem::replace(&mut *lock(&self.state), State::Over) {
            State::Some(group) => Some(group),
            _ => None,
        }
    }
}
