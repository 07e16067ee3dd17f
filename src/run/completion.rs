//! What keeps a run from being closed: guards, and the listening sockets that it counts.
//!
//! Everything of a run that must be gone before it counts as closed holds a [`CompletionGuard`], and drops it last:
//! each accept loop, each connection, each task, the supervisor; before serving, the server. So the last to end closes
//! the run, whichever way it ended, and there is no path on which `Closed` stays unresolved. (In tokio this is done
//! with the last sender of a channel.)

use super::Run;
use crate::group::Guard;
use crate::listener::Listener;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// Keeps the run from being closed. Dropped last by whatever holds it.
#[derive(Clone, Debug)]
pub(crate) struct CompletionGuard(Arc<Completion>);

/// What the guards share. Its drop closes the run.
#[derive(Debug)]
pub(crate) struct Completion(Arc<Run>);

impl CompletionGuard {
    /// The first guard of a run, and the way to more.
    pub(super) fn first(run: &Arc<Run>) -> (Self, Weak<Completion>) {
        let completion = Arc::new(Completion(Arc::clone(run)));
        let more = Arc::downgrade(&completion);
        (Self(completion), more)
    }

    /// One more guard; `None` if the run is closed.
    pub(super) fn of(completion: &Weak<Completion>) -> Option<Self> {
        completion.upgrade().map(Self)
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The completion guard of a task, which is polled as code of the run.
#[derive(Debug, Default)]
pub(crate) struct TaskGuard(Option<CompletionGuard>);

impl TaskGuard {
    /// Returns whether the run is still open.
    pub(crate) fn arm(&mut self, run: &Run) -> bool {
        self.0 = run.completion_guard();
        self.0.is_some()
    }
}

impl Guard for TaskGuard {
    fn during<T>(&self, poll: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(guard) => inside(&guard.0.0, poll),
            None => poll(), // not reached: no task runs unarmed
        }
    }
}

thread_local! {
    /// The run whose code this thread is running (its address), or 0. Only ever compared.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Does `work` as code of this run, so that [`is_inside`] can tell.
pub(crate) fn inside<T>(run: &Arc<Run>, work: impl FnOnce() -> T) -> T {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }

    let _restore = Restore(INSIDE.replace(Arc::as_ptr(run) as usize));
    work()
}

/// Whether the caller is a handler or a task of this run: if it waits for the run's end, it waits for itself.
pub(crate) fn is_inside(run: &Arc<Run>) -> bool {
    INSIDE.get() == Arc::as_ptr(run) as usize
}

/// A listening socket that the run counts until it is closed.
#[derive(Debug)]
pub(crate) struct OpenListener {
    /// `None` once it is closed.
    socket: Option<Listener>,
    run: Arc<Run>,
}

impl OpenListener {
    pub(super) fn new(socket: Listener, run: Arc<Run>) -> Self {
        run.listening.fetch_add(1, Ordering::AcqRel);
        Self { socket: Some(socket), run }
    }

    pub(crate) fn get_mut(&mut self) -> &mut Listener {
        self.socket.as_mut().expect("it is open")
    }

    pub(crate) fn get(&self) -> &Listener {
        self.socket.as_ref().expect("it is open")
    }

    /// Closes the socket. After this there is no socket to get.
    pub(crate) fn close(&mut self) {
        if let Some(socket) = self.socket.take() {
            drop(socket); // first the port refuses, then `is_serving` is false
            self.run.listening.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        self.close();
    }
}

/// The listeners of a server that was never served, on their way to their end: a child that does nothing, and is
/// dropped.
pub(super) struct ClosingListeners {
    _listeners: Vec<OpenListener>,
    /// Dropped last.
    _completion: CompletionGuard,
}

impl ClosingListeners {
    pub(super) fn new(listeners: Vec<OpenListener>, completion: CompletionGuard) -> Self {
        Self { _listeners: listeners, _completion: completion }
    }
}

impl Future for ClosingListeners {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
