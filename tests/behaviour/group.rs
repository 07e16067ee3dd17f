//! The protocol of a group's children on the real executor. These tests are twins of the loom models in
//! `src/group/loom_tests.rs` and have the same names; `group_circles.rs` has the twins of two more. A model tries every
//! interleaving of a few steps; its twin uses real threads, wakers, and the executor's queue.

use crate::support::probe::{Gate, Live, SharedGroup, drop_shared_group, let_the_executor_run};
use async_std::task;
use ebbtide::{JoinHandle, TaskGroup};
use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Poll, Waker};
use std::thread;

/// How often each race is tried.
const ROUNDS: usize = 300;

#[test]
fn a_spawn_against_a_cancel_is_either_refused_or_destroyed() {
    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let group = TaskGroup::new();
            let spawner = group.spawner();
            let start = Arc::new(Barrier::new(2));
            let polls = live.polls();
            let other = {
                let (live, start) = (live.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    let child = live.sleeper();
                    start.wait();
                    spawner.spawn(child)
                })
            };
            start.wait();
            drop(group);
            let child = other.join().unwrap();
            assert_eq!(live.count(), 0);
            assert!(child.is_finished() && live.polls() <= polls + 1);
            assert!(task::block_on(child).unwrap_err().is_cancelled());
        }
    });
}

#[test]
fn a_drop_against_a_poll_leaves_nothing() {
    let live = Live::default();
    live.clone().within_net(move || {
        for round in 0..ROUNDS {
            let group = TaskGroup::new();
            let polls = live.polls();
            assert!(!group.spawn(live.runner()).is_finished());
            live.wait_for_polls(polls + round % 4);
            drop(group);
            assert_eq!(live.count(), 0);
        }
        let polls = live.polls();
        let_the_executor_run();
        assert_eq!(live.polls(), polls, "polled after the drop");
    });
}

#[test]
fn a_drop_against_a_finish_leaves_nothing() {
    let live = Live::default();
    live.clone().within_net(move || {
        for round in 0..ROUNDS {
            let group = TaskGroup::new();
            let polls = live.polls();
            let mut kept = Vec::new();
            for n in 0..4 {
                let child = group.spawn(live.child(task::yield_now()));
                kept.extend((n % 2 == 0).then_some(child)); // half of the handles are dropped at once
            }
            live.wait_for_polls(polls + round % 9);
            drop(group);
            assert_eq!(live.count(), 0);
            assert!(kept.iter().all(JoinHandle::is_finished));
        }
    });
}

#[test]
fn two_droppers_both_wait_for_the_end() {
    // After the cancel the executor's threads drop the children, and so does the drop of the group.
    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let group = TaskGroup::new();
            for _ in 0..4 {
                group.spawn(live.sleeper());
                group.spawn(live.runner());
            }
            group.cancel();
            drop(group);
            assert_eq!(live.count(), 0);
        }
    });
}

#[test]
fn a_child_that_drops_its_own_group_ends_when_its_poll_returns() {
    let (live, siblings) = (Live::default(), Live::default());
    live.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let group = TaskGroup::new();
            let shared = SharedGroup::default();
            let ready = Gate::new();
            let went_on = Arc::new(AtomicBool::new(false));
            let child = {
                let (shared, ready, siblings, went_on) =
                    (Arc::clone(&shared), ready.clone(), siblings.clone(), Arc::clone(&went_on));
                async move {
                    ready.opened().await;
                    drop_shared_group(&shared);
                    assert_eq!(siblings.count(), 0, "a sibling outlived the drop");
                    task::yield_now().await;
                    went_on.store(true, SeqCst);
                }
            };
            group.spawn(siblings.sleeper());
            group.spawn(live.child(child));
            group.spawn(siblings.runner());
            *shared.lock().unwrap() = Some(group);
            ready.open();
            live.wait_for(0);
            assert_eq!(siblings.count(), 0);
            assert!(!went_on.load(SeqCst), "it went on after its end");
        }
    });
}

#[test]
fn a_wait_that_is_over_refuses_no_other() {
    // A child drops a second group with a child that is always being polled: it waits, and that poll hands the future
    // over. At the same time a task that is in no group drops the first child's group. Nothing waits for that task, so
    // its drop closes no cycle: it can wait, and must.
    let (ours, theirs) = (Live::default(), Live::default());
    theirs.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let (given, dropping) = (TaskGroup::new(), TaskGroup::new());
            given.spawn(ours.runner());
            let ready = Gate::new();
            let child = {
                let ready = ready.clone();
                async move {
                    ready.opened().await;
                    drop(given);
                    pending().await
                }
            };
            dropping.spawn(theirs.child(child));
            let dropper = {
                let (ready, ours, theirs) = (ready.clone(), ours.clone(), theirs.clone());
                task::spawn(async move {
                    ready.opened().await;
                    drop(dropping);
                    (ours.count(), theirs.count())
                })
            };
            ready.open();
            assert_eq!(task::block_on(dropper), (0, 0), "the drop marked a child instead of waiting for it");
        }
    });
}

#[test]
fn a_waker_fired_during_destruction_polls_nothing() {
    struct WakesInDrop(Option<Waker>);
    impl WakesInDrop {
        fn keep(&mut self, waker: &Waker) {
            self.0 = Some(waker.clone());
        }
    }
    impl Drop for WakesInDrop {
        fn drop(&mut self) {
            self.0.take().into_iter().for_each(Waker::wake);
        }
    }

    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let group = TaskGroup::new();
            let outlives = Arc::new(Mutex::new(None::<Waker>));
            let polls = live.polls();
            let kept = Arc::clone(&outlives);
            let mut wakes = WakesInDrop(None);
            group.spawn(live.child(poll_fn(move |cx| {
                wakes.keep(cx.waker());
                *kept.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            })));
            live.wait_for_polls(polls + 1);
            let fires = thread::spawn(move || {
                let waker = outlives.lock().unwrap().take();
                for _ in 0..10 {
                    waker.iter().for_each(Waker::wake_by_ref);
                }
            });
            drop(group);
            assert_eq!(live.count(), 0);
            let polls = live.polls();
            fires.join().unwrap();
            let_the_executor_run();
            assert_eq!(live.polls(), polls, "polled after the drop");
        }
    });
}

#[test]
fn a_cancel_loses_no_wakeup_and_a_join_sees_the_end() {
    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let group = TaskGroup::new();
            group.spawn(live.sleeper());
            group.spawn(live.runner());
            group.spawn(live.child(task::yield_now()));
            group.cancel();
            task::block_on(group.join());
            assert_eq!((live.count(), group.len()), (0, 0), "joined before the children were gone");
        }
    });
}

#[test]
fn no_poll_begins_after_a_cancel() {
    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let group = TaskGroup::new();
            let polls = live.polls();
            let woken = Gate::new();
            group.spawn(live.child({
                let woken = woken.clone();
                async move { woken.opened().await }
            }));
            live.wait_for_polls(polls + 1);
            group.cancel();
            woken.open(); // the child's event, after the cancel
            task::block_on(group.join());
            assert_eq!(live.polls(), polls + 1, "polled after the cancel");
            assert_eq!(live.count(), 0);
        }
    });
}
