//! [`CompletionGuard`]: its last drop closes the run. [`OpenListener`]: a listening socket that the run counts.
//!
//! Everything that must be gone before the run is closed holds a guard, and drops it last: each accept loop, each
//! connection, each task, and the supervisor; before serving, the server. So the last of them closes the run,
//! whichever way it ends, and there is no path on which `Closed` stays pending. (In tokio the usual form of this is the
//! last sender of a channel.)

use super::Run;
use crate::group::Guard;
use crate::listener::Listener;
use crate::sync::atomic::Ordering;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// Keeps the run open. Its owner drops it last.
#[derive(Clone, Debug)]
pub(crate) struct CompletionGuard(Arc<Completion>);

/// Shared by all guards of a run. Its drop closes the run.
#[derive(Debug)]
pub(crate) struct Completion(Arc<Run>);

impl CompletionGuard {
    /// Returns the first guard of a run, and the means to make more.
    pub(super) fn first(run: &Arc<Run>) -> (Self, Weak<Completion>) {
        let completion = Arc::new(Completion(Arc::clone(run)));
        let more = Arc::downgrade(&completion);
        (Self(completion), more)
    }

    /// Returns one more guard, or `None` if the run is closed.
    pub(super) fn of(completion: &Weak<Completion>) -> Option<Self> {
        completion.upgrade().map(Self)
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Completion guard of a task. The task is polled [`inside`] its run.
#[derive(Debug, Default)]
pub(crate) struct TaskGuard(Option<CompletionGuard>);

impl TaskGuard {
    /// Takes a guard of the run. Returns false if the run is closed.
    pub(crate) fn arm(&mut self, run: &Run) -> bool {
        self.0 = run.completion_guard();
        self.0.is_some()
    }
}

impl Guard for TaskGuard {
    const IS_TIMED: bool = true; // for `TaskTree`

    fn during<T>(&self, poll: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(guard) => inside(&guard.0.0, poll),
            None => poll(), // not reached: a task that could not be armed is refused
        }
    }
}

thread_local! {
    /// Address of the run that this thread runs code of, or 0. Only compared, never followed.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Runs `work` as code of this run, so that [`is_inside`] finds it.
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

/// Returns whether the caller is a handler or a task of this run. Such a caller waits for itself if it waits for the
/// run's end.
pub(crate) fn is_inside(run: &Arc<Run>) -> bool {
    INSIDE.get() == Arc::as_ptr(run) as usize
}

/// A listening socket. The run counts it until it is closed.
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
        self.socket.as_mut().expect("the listening socket is open")
    }

    pub(crate) fn get(&self) -> &Listener {
        self.socket.as_ref().expect("the listening socket is open")
    }

    /// Closes the socket. After this `get` and `get_mut` panic.
    pub(crate) fn close(&mut self) {
        if let Some(socket) = self.socket.take() {
            drop(socket); // first: when `is_serving` becomes false, the port must already refuse
            self.run.listening.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        self.close();
    }
}

/// The listeners of a server that never served, while they are closed: a child whose future does nothing, so that
/// dropping the child closes them. See [`Run::close_unserved`].
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

#[cfg(all(test, not(ebbtide_loom)))]
mod tests {
    use super::*;
    use crate::panic;
    use std::time::Duration;

    fn run() -> Arc<Run> {
        Run::new(Listener::memory().0)
    }

    /// Whoever is told wrongly that it waits for itself looks for a mistake that is not there.
    #[test]
    fn a_thread_is_inside_the_run_whose_code_it_runs_and_only_then() {
        let (one, other) = (run(), run());
        let is_inside = || [is_inside(&one), is_inside(&other)];
        assert_eq!(is_inside(), [false, false]);
        inside(&one, || {
            assert_eq!(is_inside(), [true, false]);
            inside(&other, || assert_eq!(is_inside(), [false, true]));
            assert_eq!(is_inside(), [true, false], "after a poll of another run's code");
        });
        assert_eq!(is_inside(), [false, false], "after the poll");
        panic::catch(|| inside(&one, || panic!("on purpose"))).unwrap_err();
        assert_eq!(is_inside(), [false, false], "after a poll that panicked");
    }

    #[test]
    fn a_listening_socket_counts_until_it_is_closed_or_dropped() {
        for closes in [false, true] {
            let run = run();
            let (_unserved, mut listeners) =
                run.start((None, Duration::ZERO), Duration::ZERO).expect("it was not closed");
            assert!(run.is_serving());
            if closes {
                listeners[0].close();
                assert!(!run.is_serving(), "closed");
            }
            drop(listeners);
            assert!(!run.is_serving(), "dropped; closed before: {closes}");
        }
    }
}
