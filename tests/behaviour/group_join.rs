//! `TaskGroup::join`, spawning by a group's own children, and `TaskGroup::len`.

use crate::support::probe::{Gate, Live, let_the_executor_run};
use async_std::task;
use ebbtide::{JoinHandle, Spawner, TaskGroup};
use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

/// Waker that counts its wakes.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Returns a group of children that end when the gate is opened.
fn group_behind(gate: &Gate, live: &Live, children: usize) -> TaskGroup {
    let group = TaskGroup::new();
    for _ in 0..children {
        let gate = gate.clone();
        assert!(!group.spawn(live.child(async move { gate.opened().await })).is_finished());
    }
    group
}

/// Returns whether the child has ended already, cancelled.
fn is_refused<T: 'static>(child: JoinHandle<T>) -> bool {
    child.is_finished() && task::block_on(child).is_err_and(|error| error.is_cancelled())
}

#[test]
fn a_join_of_an_empty_group_returns_at_once() {
    let mut cx = Context::from_waker(Waker::noop());
    let group = TaskGroup::default();
    assert_eq!(pin!(group.join()).poll(&mut cx), Poll::Ready(()));
    group.cancel();
    assert_eq!(pin!(group.join()).poll(&mut cx), Poll::Ready(()));
}

#[test]
fn len_counts_the_children_that_have_not_ended() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        assert!(group.is_empty());
        let gates: Vec<_> = (1..=5)
            .map(|n| {
                let gate = Gate::new();
                let child = live.child({
                    let gate = gate.clone();
                    async move { gate.opened().await }
                });
                assert!(!group.spawn(child).is_finished());
                assert_eq!((group.len(), group.is_empty()), (n, false));
                gate
            })
            .collect();
        assert_eq!(format!("{group:?}"), "TaskGroup { len: 5, cancelled: false }");
        for (ended, gate) in gates.iter().enumerate() {
            assert_eq!(group.len(), 5 - ended);
            gate.open();
            while group.len() == 5 - ended {
                std::thread::yield_now();
            }
        }
        assert!(group.is_empty());
        group.spawn(live.sleeper());
        group.cancel();
        task::block_on(group.join());
        assert_eq!((group.len(), live.count()), (0, 0));
        assert_eq!(format!("{group:?}"), "TaskGroup { len: 0, cancelled: true }");
    });
}

#[test]
fn a_join_waits_for_children_that_are_spawned_during_the_join() {
    fn generation(left: usize, spawner: Spawner, live: Live) {
        if left > 0 {
            let (next, within) = (spawner.clone(), live.clone());
            let child = live.child(async move {
                task::yield_now().await;
                generation(left - 1, next, within);
            });
            spawner.spawn(child);
        }
    }

    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        generation(1000, group.spawner(), live.clone());
        task::block_on(group.join());
        assert_eq!((live.count(), live.polls()), (0, 2000));
    });
}

#[test]
fn several_tasks_may_join_one_group_and_each_join_returns() {
    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..100 {
            let gate = Gate::new();
            let group = Arc::new(group_behind(&gate, &live, 3));
            let joiners: Vec<_> = (0..8)
                .map(|_| {
                    let (group, live) = (Arc::clone(&group), live.clone());
                    task::spawn(async move {
                        group.join().await;
                        live.count()
                    })
                })
                .collect();
            gate.open();
            task::block_on(async {
                for joiner in joiners {
                    assert_eq!(joiner.await, 0);
                }
            });
        }
    });
}

#[test]
fn a_join_wakes_the_task_that_polled_it_last() {
    let live = Live::default();
    live.clone().within_net(move || {
        let gate = Gate::new();
        let group = group_behind(&gate, &live, 1);
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut join = pin!(group.join());
        for count in [&first, &second] {
            let waker = Waker::from(Arc::clone(count));
            assert!(join.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(Arc::strong_count(&first), 1, "the waker of the first poll is still held");
        gate.open();
        while second.0.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert!(join.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!((first.0.load(SeqCst), second.0.load(SeqCst)), (0, 1));
    });
}

#[test]
fn a_dropped_join_loses_no_panic_and_leaves_no_waker_behind() {
    let live = Live::default();
    live.clone().within_net(move || {
        let gate = Gate::new();
        let group = group_behind(&gate, &live, 3);
        group.spawn(live.child(async { panic!("waits for the next join") }));
        live.wait_for(3);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        for _ in 0..100 {
            assert!(pin!(group.join()).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1, "the group still holds a waker of a dropped join");
        assert_eq!(live.count(), 3, "a dropped join must not end the children");
        gate.open();
        let join = std::thread::scope(|scope| scope.spawn(|| task::block_on(group.join())).join());
        assert_eq!(join.unwrap_err().downcast_ref(), Some(&"waits for the next join"));
    });
}

#[test]
fn a_spawn_after_a_cancel_is_refused_and_its_future_is_dropped_without_a_poll() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        group.cancel();
        assert!(is_refused(group.spawn(live.runner())));
        assert!(is_refused(group.spawner().spawn(live.runner())));
        assert_eq!((live.count(), group.len()), (0, 0));
        let_the_executor_run();
        assert_eq!(live.polls(), 0);
    });
}

#[test]
fn a_spawner_does_not_keep_its_group_alive_and_is_refused_after_the_groups_drop() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        let spawner = group.spawner();
        // A spawner that a child holds does not keep the group alive either.
        for _ in 0..3 {
            let (spawner, sleeper) = (spawner.clone(), live.sleeper());
            let child = spawner.clone().spawn(live.child(async move {
                let _kept = spawner;
                sleeper.await;
            }));
            assert!(!child.is_finished());
        }
        assert_eq!(live.count(), 6);
        drop(group);
        assert_eq!(live.count(), 0);
        assert!(is_refused(spawner.spawn(live.runner())));
        assert!(is_refused(spawner.clone().spawn(ready(()))));
        assert_eq!(live.count(), 0);
    });
}
