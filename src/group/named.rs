//! Children that the user has named, with `spawn_named`.
//!
//! The future owns the name, and the group has a weak reference to it ([`Name`]): see there.

use super::children::{ChildName, Label, Name};
use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Wraps a future with its name. Returns the child's label and the wrapped future.
pub(crate) fn named<F>(
    name: Cow<'static, str>,
    at: &'static Location<'static>,
    future: F,
) -> (Label, impl Future<Output = F::Output> + Send + 'static)
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let name = Arc::new(TaskName { name, at });
    (Label::Named(Arc::downgrade(&name) as Name), Named { future, _name: name })
}

struct TaskName {
    name: Cow<'static, str>,
    /// The line that spawned the child.
    at: &'static Location<'static>,
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task `{}`", self.name)
    }
}

impl ChildName for TaskName {
    fn bare(&self) -> String {
        self.name.to_string()
    }

    fn at(&self) -> Option<&'static Location<'static>> {
        Some(self.at)
    }
}

pin_project! {
    /// A future that keeps its name until it is destroyed.
    struct Named<F> {
        #[pin]
        future: F,
        _name: Arc<TaskName>,
    }
}

impl<F: Future> Future for Named<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}
