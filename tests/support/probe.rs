//! Drop probes: how many of something are alive, how often it was polled, and a net for what may hang.

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

/// How long anything may take before its test gives up. Never the way in which a test passes.
pub const NET: Duration = Duration::from_secs(30);

/// Longer than any test runs.
pub const FOR_EVER: Duration = Duration::from_secs(3600);

/// The books of one test: how many of its probes are alive, and how often its children were polled.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<Books>);

#[derive(Debug, Default)]
struct Books {
    alive: Mutex<usize>,
    changed: Condvar,
    polls: AtomicUsize,
    moved: AtomicBool,
    polled_after_end: AtomicBool,
}

impl Live {
    /// Counts as alive until it is dropped.
    pub fn probe(&self) -> Probe {
        gate::assert_in_a_test();
        *self.alive() += 1;
        self.0.changed.notify_all();
        Probe(self.clone())
    }

    pub fn count(&self) -> usize {
        *self.alive()
    }

    /// How often the children were polled, all together.
    pub fn polls(&self) -> usize {
        self.0.polls.load(SeqCst)
    }

    /// Waits until so many are alive.
    pub fn wait_for(&self, count: usize) {
        self.wait_until(|alive| alive == count, || format!("for {count} alive"));
    }

    /// Waits until the children have been polled so often, all together.
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

    /// A child that runs `future` under observation.
    pub fn child<F: Future<Output = ()>>(&self, future: F) -> Child<F> {
        Child {
            future: Mutex::new(Box::pin(future)),
            place: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            probe: self.probe(),
            _pinned: PhantomPinned,
        }
    }

    /// A child that nothing wakes.
    pub fn sleeper(&self) -> impl Future<Output = ()> + Send + 'static {
        self.child(std::future::pending())
    }

    /// A child that is always being polled, or about to be.
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

#[derive(Debug)]
pub struct Probe(Live);

impl Drop for Probe {
    fn drop(&mut self) {
        *self.0.alive() -= 1;
        self.0.0.changed.notify_all();
    }
}

/// A child that must stay where it was first polled: it is not `Unpin`, and looks at its address whenever it is called.
pub struct Child<F> {
    // Dropped first, so that the probe lives as long as anything of the future does.
    future: Mutex<Pin<Box<F>>>,
    place: AtomicUsize,
    ended: AtomicBool,
    probe: Probe,
    _pinned: PhantomPinned,
}

impl<F> Child<F> {
    fn look(&self) {
        let here = std::ptr::from_ref(self).addr();
        let first = self.place.compare_exchange(0, here, SeqCst, SeqCst);
        if first.is_err_and(|place| place != here) {
            self.probe.0.0.moved.store(true, SeqCst);
        }
    }
}

impl<F: Future<Output = ()>> Future for Child<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.as_ref().get_ref();
        this.look();
        let books = &this.probe.0.0;
        if this.ended.load(SeqCst) {
            books.polled_after_end.store(true, SeqCst);
            return Poll::Pending;
        }
        {
            let _under_lock = this.probe.0.alive(); // or the wake is lost
            books.polls.fetch_add(1, SeqCst);
        }
        books.changed.notify_all();
        let poll = this.future.lock().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx);
        this.ended.store(poll.is_ready(), SeqCst);
        poll
    }
}

impl<F> Drop for Child<F> {
    fn drop(&mut self) {
        if self.place.load(SeqCst) != 0 {
            self.look();
        }
    }
}

impl Live {
    /// Nothing was done to a child that never may be.
    pub fn assert_sound(&self) {
        assert!(!self.0.moved.load(SeqCst), "a child was moved after its first poll");
        assert!(!self.0.polled_after_end.load(SeqCst), "a child was polled after its end");
    }

    /// Runs a test within the net.
    pub fn within_net(&self, body: impl FnOnce() + Send + 'static) {
        self.run(Role::Beside, body);
    }

    /// Runs a test within the net, while no other test runs.
    pub fn alone_within_net(&self, body: impl FnOnce() + Send + 'static) {
        self.run(Role::Alone, body);
    }

    fn run(&self, role: Role, body: impl FnOnce() + Send + 'static) {
        let alive = || format!(", with {} alive after {} polls", self.count(), self.polls());
        gate::run(role, NET, &alive, body);
        self.assert_sound();
    }
}

/// Something that opens once, and stays open.
#[derive(Clone, Debug)]
pub struct Gate {
    closed_when_open: Sender<()>,
    ends_when_open: Receiver<()>,
}

impl Gate {
    pub fn new() -> Self {
        let (closed_when_open, ends_when_open) = bounded(1);
        Self { closed_when_open, ends_when_open }
    }

    pub fn open(&self) {
        self.closed_when_open.close();
    }

    /// Opens when what this returns is dropped, at the latest.
    pub fn opens_at_the_end(&self) -> impl Drop + use<> {
        struct Opens(Gate);
        impl Drop for Opens {
            fn drop(&mut self) {
                self.0.open();
            }
        }
        Opens(self.clone())
    }

    /// Waits as a task does.
    pub async fn opened(&self) {
        assert!(self.ends_when_open.recv().await.is_err());
    }

    /// Blocks the thread.
    pub fn block_until_open(&self) {
        assert!(self.ends_when_open.recv_blocking().is_err());
    }
}

/// Returns after the executor has had time to run whatever was scheduled before: it goes round its whole queue a few
/// times.
pub fn let_the_executor_go_round() {
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

/// A group that a child can take and drop, its own one too.
pub type Shared = Arc<Mutex<Option<TaskGroup>>>;

pub fn drop_shared(group: &Shared) {
    let group = group.lock().unwrap().take();
    drop(group); // without the lock
}
