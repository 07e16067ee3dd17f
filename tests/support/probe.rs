//! Drop probes for the tests of groups: they count how many futures are alive and how often these were polled. Also
//! gates that block tasks, and time limits for tests that may hang.

use super::gate::{self, Role};
use async_std::channel::{Receiver, Sender, bounded};
use async_std::task;
use ebbtide::TaskGroup;
use std::future::Future;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Safety net: the time limit of every wait. No test passes because this time is over.
pub const NET: Duration = Duration::from_secs(30);

/// A time that is longer than any test runs.
pub const FOR_EVER: Duration = Duration::from_secs(3600);

/// Counts of one test: how many of its probes are alive, and how often its children were polled.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    alive: Mutex<usize>,
    /// Notified when `alive` or `polls` changes.
    changed: Condvar,
    polls: AtomicUsize,
    /// Whether a child was moved after its first poll.
    moved: AtomicBool,
    /// Whether a child was polled after it had returned `Ready`.
    polled_after_end: AtomicBool,
}

impl Live {
    /// Makes a probe, which counts as alive until it is dropped.
    pub fn probe(&self) -> Probe {
        gate::assert_in_a_test();
        *self.alive() += 1;
        self.0.changed.notify_all();
        Probe(self.clone())
    }

    /// Returns how many probes are alive.
    pub fn count(&self) -> usize {
        *self.alive()
    }

    /// Returns how often the children were polled, all together.
    pub fn polls(&self) -> usize {
        self.0.polls.load(SeqCst)
    }

    /// Waits until exactly `count` probes are alive.
    pub fn wait_for(&self, count: usize) {
        self.wait_until(|alive| alive == count, || format!("for {count} alive"));
    }

    /// Waits until the children have been polled at least `polls` times, all together.
    pub fn wait_for_polls(&self, polls: usize) {
        self.wait_until(|_| self.polls() >= polls, || format!("for {polls} polls"));
    }

    fn wait_until(&self, holds: impl Fn(usize) -> bool, what: impl Fn() -> String) {
        let end = Instant::now() + NET;
        let mut alive = self.alive();
        while !holds(*alive) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {NET:?} {}, with {} alive after {} polls", what(), *alive, self.polls());
            alive = self.0.changed.wait_timeout(alive, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns a child that runs `future`, counts its polls, and checks that it is never moved.
    pub fn child<F: Future<Output = ()>>(&self, future: F) -> Child<F> {
        Child {
            future: Mutex::new(Box::pin(future)),
            address: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            probe: self.probe(),
            _pinned: PhantomPinned,
        }
    }

    /// Returns a child that is never woken.
    pub fn sleeper(&self) -> impl Future<Output = ()> + Send + 'static {
        self.child(std::future::pending())
    }

    /// Returns a child that yields without end: it is always being polled or about to be polled.
    pub fn runner(&self) -> impl Future<Output = ()> + Send + 'static {
        self.child(async {
            loop {
                task::yield_now().await;
            }
        })
    }

    fn alive(&self) -> MutexGuard<'_, usize> {
        self.0.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as alive until it is dropped.
#[derive(Debug)]
pub struct Probe(Live);

impl Drop for Probe {
    fn drop(&mut self) {
        *self.0.alive() -= 1;
        self.0.0.changed.notify_all();
    }
}

/// Future that checks its pinning: it is not `Unpin`, and it compares its address at each poll and in its destructor
/// with the address of its first poll.
pub struct Child<F> {
    // The first field, so that it is dropped before the probe: the probe outlives all of the future.
    future: Mutex<Pin<Box<F>>>,
    /// The address at the first poll; 0 before.
    address: AtomicUsize,
    /// Whether a poll has returned `Ready`.
    ended: AtomicBool,
    probe: Probe,
    _pinned: PhantomPinned,
}

impl<F> Child<F> {
    fn check_address(&self) {
        let here = std::ptr::from_ref(self).addr();
        let first = self.address.compare_exchange(0, here, SeqCst, SeqCst);
        if first.is_err_and(|address| address != here) {
            self.probe.0.0.moved.store(true, SeqCst);
        }
    }
}

impl<F: Future<Output = ()>> Future for Child<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.as_ref().get_ref();
        this.check_address();
        let counts = &this.probe.0.0;
        if this.ended.load(SeqCst) {
            counts.polled_after_end.store(true, SeqCst);
            return Poll::Pending;
        }
        {
            // Without the lock `wait_until` could check the count before this, and wait after the notification.
            let _under_lock = this.probe.0.alive();
            counts.polls.fetch_add(1, SeqCst);
        }
        counts.changed.notify_all();
        let poll = this.future.lock().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx);
        this.ended.store(poll.is_ready(), SeqCst);
        poll
    }
}

impl<F> Drop for Child<F> {
    fn drop(&mut self) {
        if self.address.load(SeqCst) != 0 {
            self.check_address();
        }
    }
}

impl Live {
    /// Asserts that no child was moved after its first poll, and none was polled after its end.
    pub fn assert_sound(&self) {
        assert!(!self.0.moved.load(SeqCst), "a child was moved after its first poll");
        assert!(!self.0.polled_after_end.load(SeqCst), "a child was polled after its end");
    }

    /// Runs a test for at most [`NET`].
    pub fn within_net(&self, body: impl FnOnce() + Send + 'static) {
        self.run(Role::Beside, body);
    }

    /// Runs a test for at most [`NET`], while no other test runs.
    pub fn alone_within_net(&self, body: impl FnOnce() + Send + 'static) {
        self.run(Role::Alone, body);
    }

    fn run(&self, role: Role, body: impl FnOnce() + Send + 'static) {
        let alive = || format!(", with {} alive after {} polls", self.count(), self.polls());
        gate::run(role, NET, &alive, body);
        self.assert_sound();
    }
}

/// Gate that opens once and stays open: to open it is to close a channel.
#[derive(Clone, Debug)]
pub struct Gate {
    opener: Sender<()>,
    /// Never gets a message; a receive returns an error once the gate is open.
    waiter: Receiver<()>,
}

impl Gate {
    pub fn new() -> Self {
        let (opener, waiter) = bounded(1);
        Self { opener, waiter }
    }

    pub fn open(&self) {
        self.opener.close();
    }

    /// Returns a guard that opens the gate when it is dropped.
    pub fn open_on_drop(&self) -> impl Drop + use<> {
        struct Opens(Gate);
        impl Drop for Opens {
            fn drop(&mut self) {
                self.0.open();
            }
        }
        Opens(self.clone())
    }

    /// Waits until the gate is open.
    pub async fn opened(&self) {
        assert!(self.waiter.recv().await.is_err());
    }

    /// Blocks the thread until the gate is open.
    pub fn block_until_open(&self) {
        assert!(self.waiter.recv_blocking().is_err());
    }
}

/// Returns after the executor has gone through its whole queue a few times. So it has polled every task that was
/// scheduled before the call.
pub fn let_the_executor_run() {
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            task::spawn(async {
                for _ in 0..16 {
                    task::yield_now().await;
                }
            })
        })
        .collect();
    task::block_on(async {
        for task in tasks {
            task.await;
        }
    });
}

/// Group that a child can take and drop. It may be the child's own group.
pub type SharedGroup = Arc<Mutex<Option<TaskGroup>>>;

pub fn drop_shared_group(group: &SharedGroup) {
    let group = group.lock().unwrap().take();
    drop(group); // after the lock was released
}
