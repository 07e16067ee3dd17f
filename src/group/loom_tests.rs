//! Models of `slot` and `children` for loom, which tries every interleaving of the threads.
//!
//! Run them with `RUSTFLAGS="--cfg ebbtide_loom" cargo test --release --lib loom_tests`. `group.rs` and
//! `group_circles.rs` of `tests/behaviour` have tests of the same names on the real executor.

mod handles;

use super::children::{Children, Label, Shell};
use super::executor::Executor;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

/// The executor's side of one child: it polls when it is woken, and ends when the child is ready. If a shell that waits
/// is never woken, loom reports a deadlock.
struct Task {
    /// It was woken, and not polled since.
    scheduled: Mutex<bool>,
    woken: Condvar,
}

impl Task {
    fn run(child: Shell) {
        let shell = Arc::new(Task { scheduled: Mutex::new(true), woken: Condvar::new() });
        let waker = Waker::from(Arc::clone(&shell));
        loop {
            let mut scheduled = shell.scheduled.lock().unwrap();
            while !*scheduled {
                scheduled = shell.woken.wait(scheduled).unwrap();
            }
            *scheduled = false;
            drop(scheduled);
            if child.poll(&mut Context::from_waker(&waker)).is_ready() {
                return;
            }
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        *self.scheduled.lock().unwrap() = true;
        self.woken.notify_one();
    }
}

/// Asserts in code that the slot calls. The slot would catch a panic, so the failure is recorded, and the model
/// checks it at its end.
fn must(holds: bool, otherwise: &'static str) {
    if !holds {
        *BROKEN.lock().unwrap() = Some(otherwise);
    }
}

static BROKEN: std::sync::Mutex<Option<&str>> = std::sync::Mutex::new(None);

/// A child that counts its destructions, and checks that no poll follows. `dropped` is not loom's: it is only checked,
/// and synchronises nothing.
struct Probe<F> {
    poll: F,
    /// Touched by each poll: a point at which loom may switch threads.
    step: loom::sync::atomic::AtomicUsize,
    dropped: Arc<AtomicUsize>,
    /// The waker of the last poll, which the destructor wakes.
    wake_in_drop: Option<Waker>,
}

impl<F: FnMut() -> Poll<()> + Unpin> Future for Probe<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        must(self.dropped.load(SeqCst) == 0, "a child was polled after its destruction");
        self.wake_in_drop = Some(cx.waker().clone());
        // A point at which loom may run other threads. (Not a yield: after one, loom always runs the others first.)
        self.step.fetch_add(1, SeqCst);
        (self.poll)()
    }
}

impl<F> Drop for Probe<F> {
    fn drop(&mut self) {
        if let Some(waker) = self.wake_in_drop.take() {
            waker.wake(); // as a timer or a channel may do that is dropped with the future
        }
        must(self.dropped.fetch_add(1, SeqCst) == 0, "a child was destroyed twice");
    }
}

fn enter(
    children: &Arc<Children>,
    poll: impl FnMut() -> Poll<()> + Unpin + Send + 'static,
) -> (Option<Shell>, Arc<AtomicUsize>) {
    let dropped = Arc::new(AtomicUsize::new(0));
    let probe = Probe { poll, step: Default::default(), dropped: Arc::clone(&dropped), wake_in_drop: None };
    (children.enter(Label::At(Location::caller()), probe).map(|(shell, _)| shell), dropped)
}

fn pending() -> Poll<()> {
    Poll::Pending
}

/// Checks a model with up to three preemptions. Without a bound the larger models take hours.
fn model(check: impl Fn() + Send + Sync + 'static) {
    bounded(3, check);
}

fn bounded(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        check();
        assert_eq!(*BROKEN.lock().unwrap(), None);
    });
}

#[test]
fn a_spawn_against_a_cancel_is_either_refused_or_destroyed() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let spawner = {
            let children = Arc::clone(&children);
            thread::spawn(move || {
                let (child, dropped) = enter(&children, pending);
                if let Some(child) = child {
                    Task::run(child);
                }
                dropped
            })
        };
        children.cancel_and_destroy();
        let dropped = spawner.join().unwrap();
        assert_eq!(dropped.load(SeqCst), 1);
        assert_eq!(children.len(), 0);
    });
}

#[test]
fn a_drop_against_a_poll_leaves_nothing() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, dropped) = enter(&children, pending);
        let executor = thread::spawn(move || Task::run(child.unwrap()));
        children.cancel_and_destroy();
        assert_eq!(dropped.load(SeqCst), 1, "the drop returned before the child was gone");
        assert_eq!(children.len(), 0, "the drop returned before the child had left the list");
        executor.join().unwrap();
    });
}

#[test]
fn a_drop_against_a_finish_leaves_nothing() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, dropped) = enter(&children, || Poll::Ready(()));
        let executor = thread::spawn(move || Task::run(child.unwrap()));
        children.cancel_and_destroy();
        assert_eq!(dropped.load(SeqCst), 1, "the drop returned before the child was gone");
        assert_eq!(children.len(), 0, "the drop returned before the child had left the list");
        executor.join().unwrap();
    });
}

#[test]
fn a_drop_against_a_panic_leaves_no_panic_unseen() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, dropped) = enter(&children, || std::panic::resume_unwind(Box::new("unseen")));
        let executor = thread::spawn(move || Task::run(child.unwrap()));
        children.cancel_and_destroy();
        assert_eq!(dropped.load(SeqCst), 1, "the drop returned before the child was gone");
        executor.join().unwrap();
        // A panic that is still kept here is never logged.
        let kept = children.poll_empty(&mut Context::from_waker(Waker::noop()), &mut None);
        assert!(matches!(kept, Poll::Ready(None)), "a panic was kept, and no join follows that could raise it");
    });
}

/// An executor that shuts down: it has polled the child once, and drops its task.
fn poll_once_and_drop(child: &Shell) {
    let _ = child.poll(&mut Context::from_waker(Waker::noop()));
    child.abandon();
}

#[test]
fn an_executor_that_drops_its_task_against_a_drop_leaves_nothing() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, dropped) = enter(&children, pending);
        let executor = thread::spawn(move || poll_once_and_drop(&child.unwrap()));
        children.cancel_and_destroy();
        assert_eq!(dropped.load(SeqCst), 1, "the drop returned before the child was gone");
        assert_eq!(children.len(), 0, "the drop returned before the child had left the list");
        executor.join().unwrap();
    });
}

#[test]
fn an_executor_that_drops_its_task_ends_a_join() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, dropped) = enter(&children, pending);
        let executor = thread::spawn(move || poll_once_and_drop(&child.unwrap()));
        let mut key = None;
        loom::future::block_on(std::future::poll_fn(|cx| children.poll_empty(cx, &mut key)));
        assert_eq!((dropped.load(SeqCst), children.len()), (1, 0));
        executor.join().unwrap();
    });
}

#[test]
fn two_droppers_both_wait_for_the_end() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, dropped) = enter(&children, pending);
        let executor = thread::spawn(move || Task::run(child.unwrap()));
        let other = {
            let (children, dropped) = (Arc::clone(&children), Arc::clone(&dropped));
            thread::spawn(move || {
                children.cancel_and_destroy();
                assert_eq!(dropped.load(SeqCst), 1, "the second drop returned before the child was gone");
            })
        };
        children.cancel_and_destroy();
        assert_eq!(dropped.load(SeqCst), 1, "the first drop returned before the child was gone");
        other.join().unwrap();
        executor.join().unwrap();
        assert_eq!(children.len(), 0);
    });
}

#[test]
fn a_child_that_drops_its_own_group_ends_when_its_poll_returns() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (sibling, sibling_dropped) = enter(&children, pending);
        let (child, dropped) = {
            let (group, sibling_dropped) = (Arc::clone(&children), Arc::clone(&sibling_dropped));
            enter(&children, move || {
                group.cancel_and_destroy();
                must(sibling_dropped.load(SeqCst) == 1, "the sibling outlived the drop");
                Poll::Pending
            })
        };
        let executor = thread::spawn(move || Task::run(sibling.unwrap()));
        Task::run(child.unwrap());
        assert_eq!(dropped.load(SeqCst), 1);
        executor.join().unwrap();
        assert_eq!(children.len(), 0);
    });
}

#[test]
fn two_children_that_drop_each_others_groups_both_end() {
    circle(2, 3);
}

#[test]
fn three_children_that_drop_in_a_circle_all_end() {
    circle(3, 1); // a model can carry four threads at most; `wait_graph` has a test of longer cycles
}

/// Checks a cycle: each child drops the next one's group, and the last drops the first's. A child that is destroyed
/// before its poll does so leaves the next one alive, so the main thread drops all groups as well.
fn circle(size: usize, preemptions: usize) {
    bounded(preemptions, move || {
        let groups: Vec<_> = (0..size).map(|_| Arc::new(Children::new(Executor::default(), None))).collect();
        let (children, probes): (Vec<_>, Vec<_>) = (0..size)
            .map(|n| {
                let next = Arc::clone(&groups[(n + 1) % size]);
                let (child, dropped) = enter(&groups[n], move || {
                    next.cancel_and_destroy();
                    Poll::Pending
                });
                (child.unwrap(), dropped)
            })
            .unzip();
        let executors: Vec<_> = children.into_iter().map(|child| thread::spawn(move || Task::run(child))).collect();
        for group in &groups {
            group.cancel_and_destroy();
        }
        for executor in executors {
            executor.join().unwrap();
        }
        assert!(probes.iter().all(|dropped| dropped.load(SeqCst) == 1));
        assert!(groups.iter().all(|group| group.len() == 0));
    });
}

#[test]
fn a_wait_that_is_over_refuses_no_other() {
    // One thread hands its child over to a drop that runs inside the other thread's poll. Then it drops the group of
    // the child that runs this poll. It owns no future any more, so waiting closes no cycle, and it must wait.
    model(|| {
        let (ours, theirs) =
            (Arc::new(Children::new(Executor::default(), None)), Arc::new(Children::new(Executor::default(), None)));
        let (given, _) = enter(&ours, pending);
        let (dropping, dropped) = {
            let ours = Arc::clone(&ours);
            enter(&theirs, move || {
                ours.cancel_and_destroy();
                Poll::Pending
            })
        };
        let other = {
            let theirs = Arc::clone(&theirs);
            thread::spawn(move || {
                Task::run(given.unwrap());
                theirs.cancel_and_destroy();
                assert_eq!(dropped.load(SeqCst), 1, "the child was only marked, although the drop could wait for it");
            })
        };
        Task::run(dropping.unwrap());
        ours.cancel_and_destroy(); // if the child was destroyed before its poll did this
        other.join().unwrap();
        assert_eq!((ours.len(), theirs.len()), (0, 0));
    });
}

#[test]
fn a_waker_fired_during_destruction_polls_nothing() {
    // Every probe wakes its shell from its destructor. Here there is a second waker, which outlives the child and fires
    // while the child is destroyed or after that.
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, dropped) = enter(&children, pending);
        let child = child.unwrap();
        let late = Arc::new(Task { scheduled: Mutex::new(false), woken: Condvar::new() });
        let executor = {
            let (child, late) = (child.clone(), Arc::clone(&late));
            thread::spawn(move || {
                let waker = Waker::from(Arc::clone(&late));
                let first = child.poll(&mut Context::from_waker(&waker));
                waker.wake_by_ref();
                let second = child.poll(&mut Context::from_waker(&waker));
                (first, second)
            })
        };
        children.cancel_and_destroy();
        assert_eq!(dropped.load(SeqCst), 1);
        let polls = executor.join().unwrap();
        if polls.1.is_pending() {
            assert!(*late.scheduled.lock().unwrap(), "the shell waits and was not woken");
        }
        assert!(child.poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(children.len(), 0);
    });
}

#[test]
fn a_cancel_loses_no_wakeup_and_a_join_sees_the_end() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, dropped) = enter(&children, pending);
        let executor = thread::spawn(move || Task::run(child.unwrap()));
        children.cancel();
        let mut key = None;
        loom::future::block_on(std::future::poll_fn(|cx| children.poll_empty(cx, &mut key)));
        children.forget_joiner(key);
        assert_eq!(dropped.load(SeqCst), 1, "joined before the child was gone");
        executor.join().unwrap();
    });
}

#[test]
fn no_poll_begins_after_a_cancel() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let (child, dropped) = enter(&children, move || {
            counted.fetch_add(1, SeqCst);
            Poll::Pending
        });
        let child = child.unwrap();
        assert!(child.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        children.cancel();
        assert!(child.poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!((polls.load(SeqCst), dropped.load(SeqCst)), (1, 1));
    });
}
