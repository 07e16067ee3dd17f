//! The executor of a group: the one that the crate's features choose, or a function of the user's that runs a [`Job`].

use super::children::Shell;
use crate::panic::{self, Kept, log_line};
use crate::runtime;
use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Task of this crate for an executor of yours: see [`Server::executor`](crate::Server::executor).
///
/// A future without a result, `Send` and `'static`, of a few words in size: it borrows the child that it stands for
/// during each poll. Poll it to its end. If it is dropped before, for example because the runtime shuts down, its child
/// is destroyed as by a cancel, and a warning is logged once for each group.
///
/// # Examples
///
/// A job runs wherever futures run. This executor has one thread for each job:
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Job, TaskGroup};
/// use std::thread;
///
/// let group = TaskGroup::on(|job: Job| {
///     thread::spawn(|| async_std::task::block_on(job));
/// });
/// let name = group.spawn(async { thread::current().id() });
/// assert_ne!(name.await?, thread::current().id());
/// # Ok::<_, ebbtide::JoinError>(()) }).unwrap();
/// ```
#[must_use = "a job does nothing unless an executor polls it, and cancels its child when it is dropped"]
pub struct Job {
    shell: Shell,
    /// The executor that it was given to: groups and servers that are made while it is polled use it, too.
    executor: Executor,
    /// The executor has nothing left to do.
    done: bool,
}

impl Future for Job {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.done {
            return Poll::Ready(());
        }
        let _current = Current::enter(self.executor.clone());
        let poll = self.shell.poll(cx);
        self.done = poll.is_ready();
        poll
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.done {
            self.shell.abandon();
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("done", &self.done).finish_non_exhaustive()
    }
}

/// Where the children of a group run. The default is the executor that the crate's features choose.
#[derive(Clone, Default)]
pub(crate) struct Executor(Option<Arc<Kept<RunJob>>>);

type RunJob = Box<dyn Fn(Job) + Send + Sync>;

impl Executor {
    pub(crate) fn new(run: impl Fn(Job) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(Kept::new(Box::new(run)))))
    }

    /// Returns the executor of the job that this thread is polling, or else the default.
    pub(crate) fn current() -> Self {
        CURRENT.try_with(|current| current.borrow().clone()).unwrap_or_default()
    }

    /// Returns whether it can run a child: there is no default without the features that bring one.
    pub(crate) fn exists(&self) -> bool {
        runtime::HAS_EXECUTOR || self.0.is_some()
    }

    /// Starts a child.
    ///
    /// NOTE: the only spawn of the crate. The executor gets a shell that borrows the future for each poll. No handle is
    /// kept: the group can destroy the child without one.
    pub(super) fn start(self, shell: Shell) {
        let Some(run) = self.0.clone() else {
            return runtime::spawn(poll_fn(move |cx| shell.poll(cx)));
        };
        let job = Job { shell, executor: self, done: false };
        // A panic drops the job, and so cancels the child.
        if let Err(payload) = panic::catch(|| run.get()(job)) {
            log_line!(error, "the executor panicked when it was given a task: {}", panic::message(&payload));
            panic::discard(payload);
        }
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Executor(given)" } else { "Executor(default)" })
    }
}

thread_local! {
    /// The executor of the job that this thread is polling.
    static CURRENT: RefCell<Executor> = const { RefCell::new(Executor(None)) };
}

/// Marks this thread as one that polls a job of this executor. Its drop restores what was marked before.
struct Current(Executor);

impl Current {
    fn enter(executor: Executor) -> Self {
        Self(CURRENT.try_with(|current| current.replace(executor)).unwrap_or_default())
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let before = std::mem::take(&mut self.0);
        // The displaced value is dropped behind the borrow: its destructor may be the user's.
        drop(CURRENT.try_with(|current| current.replace(before)));
    }
}
