//! R2: dropping a group cancels and joins it synchronously. Whatever state the children are in, and wherever the drop
//! happens, every child has been destroyed when the drop returns. So the tests assert the counts on the very next line.

use crate::support::executor::alone_with_threads;
use crate::support::logs;
use crate::support::probe::{FOR_EVER, Gate, Live, NET, let_the_executor_run};
use async_std::task;
use ebbtide::TaskGroup;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// So many children that the executor has not polled all of them when the drop begins.
const MANY: usize = 200;

/// Returns a group with children in every state: never polled, never woken, waiting for a timer, being polled, or
/// joining a group of their own.
fn group_of_all_kinds(live: &Live) -> TaskGroup {
    let group = TaskGroup::new();
    for n in 0..MANY {
        let child = match n % 4 {
            0 => group.spawn(live.sleeper()),
            1 => group.spawn(live.runner()),
            2 => group.spawn(live.child(task::sleep(FOR_EVER))),
            _ => {
                let inner = TaskGroup::new();
                inner.spawn(live.sleeper());
                inner.spawn(live.runner());
                group.spawn(live.child(async move { inner.join().await }))
            }
        };
        assert!(!child.is_finished());
    }
    live.wait_for_polls(MANY / 2);
    group
}

#[test]
fn r02_a_drop_inside_block_on_joins() {
    let live = Live::default();
    live.clone().within_net(move || {
        task::block_on(async {
            let group = group_of_all_kinds(&live);
            drop(group);
            assert_eq!(live.count(), 0);
            let inner = group_of_all_kinds(&live);
            task::block_on(async { drop(inner) }); // nested
            assert_eq!(live.count(), 0);
        });
    });
}

#[test]
fn r02_a_drop_on_a_plain_thread_joins() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = group_of_all_kinds(&live);
        drop(group);
        assert_eq!(live.count(), 0);
    });
}

#[test]
fn r02_a_drop_inside_an_executor_task_joins() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = group_of_all_kinds(&live);
        let dropper = {
            let live = live.clone();
            task::spawn(async move {
                drop(group);
                live.count()
            })
        };
        assert_eq!(task::block_on(dropper), 0);
    });
}

#[test]
fn r02_a_drop_while_unwinding_joins() {
    let live = Live::default();
    live.clone().within_net(move || {
        let panicking = {
            let live = live.clone();
            move || {
                let _group = group_of_all_kinds(&live);
                panic!("as ordered");
            }
        };
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
        assert_eq!(live.count(), 0);
    });
}

#[test]
fn r02_a_drop_in_the_destructor_of_a_thread_local_joins() {
    thread_local!(static GROUP: RefCell<Option<TaskGroup>> = const { RefCell::new(None) });
    let live = Live::default();
    live.clone().within_net(move || {
        let ends = {
            let live = live.clone();
            thread::spawn(move || GROUP.set(Some(group_of_all_kinds(&live))))
        };
        ends.join().unwrap();
        assert_eq!(live.count(), 0);
    });
}

#[test]
fn r02_a_drop_by_a_timeout_joins() {
    let live = Live::default();
    live.clone().within_net(move || {
        task::block_on(async {
            let group = group_of_all_kinds(&live);
            let joined = async move { group.join().await };
            assert!(async_std::future::timeout(Duration::from_millis(1), joined).await.is_err());
            assert_eq!(live.count(), 0);
        });
    });
}

#[test]
fn r02_ten_thousand_children_with_a_timer_each_are_gone_when_the_drop_returns() {
    let live = Live::default();
    live.clone().within_net(move || {
        task::block_on(async {
            let group = TaskGroup::new();
            for _ in 0..10_000 {
                group.spawn(live.child(task::sleep(FOR_EVER)));
            }
            assert_eq!((group.len(), live.count()), (10_000, 10_000));
            live.wait_for_polls(10_000);
            drop(group);
            assert_eq!(live.count(), 0);
        });
    });
}

#[test]
fn r02_nothing_is_polled_after_a_drop() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = group_of_all_kinds(&live);
        drop(group);
        let polls = live.polls();
        let_the_executor_run();
        assert_eq!(live.polls(), polls);
    });
}

#[test]
fn r02_a_child_that_runs_stops_for_good_at_a_cancel_and_join() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = group_of_all_kinds(&live);
        group.cancel();
        task::block_on(group.join());
        assert_eq!((live.count(), group.len()), (0, 0));
        let polls = live.polls();
        let_the_executor_run();
        assert_eq!(live.polls(), polls);
    });
}

#[test]
fn r02_a_child_is_never_moved() {
    // `Child` is not `Unpin`, and checks its address at every poll and in its destructor. Here different threads poll
    // it, hand it over and destroy it.
    let live = Live::default();
    live.clone().within_net(move || {
        for round in 1..=50 {
            let group = TaskGroup::new();
            for _ in 0..8 {
                group.spawn(live.runner());
            }
            live.wait_for_polls(round * 100);
            drop(group);
            live.assert_sound();
        }
    });
}

#[test]
fn r02_a_child_that_another_thread_polls_is_waited_for() {
    let live = Live::default();
    live.clone().alone_within_net(move || {
        let (in_poll, entered) = mpsc::channel();
        let gate = Gate::new();
        let group = TaskGroup::new();
        let blocking = gate.clone();
        group.spawn(live.child(async move {
            in_poll.send(()).unwrap();
            blocking.block_until_open();
            task::yield_now().await;
            unreachable!("the drop wanted this child before it yielded");
        }));
        entered.recv_timeout(NET).unwrap();
        drop_waits_for(&gate, group, &live);
    });
}

#[test]
fn r02_a_child_that_blocks_its_thread_does_not_hold_up_its_siblings() {
    let body = || {
        let (live, siblings) = (Live::default(), Live::default());
        live.clone().within_net(move || {
            let (in_poll, entered) = mpsc::channel();
            let gate = Gate::new();
            let group = TaskGroup::new();
            let blocking = gate.clone();
            group.spawn(siblings.sleeper());
            group.spawn(live.child(async move {
                in_poll.send(()).unwrap();
                blocking.block_until_open();
            }));
            group.spawn(siblings.sleeper());
            entered.recv_timeout(NET).unwrap();
            let dropper = thread::spawn(move || drop(group));
            siblings.wait_for(0);
            assert!(!dropper.is_finished());
            assert_eq!(live.count(), 1);
            gate.open();
            dropper.join().unwrap();
            assert_eq!(live.count(), 0);
        });
    };
    alone_with_threads(1, body);
}

/// Drops a group on another thread, and opens the gate once the drop has logged that it waits. Asserts that the drop
/// returns only after that.
fn drop_waits_for(gate: &Gate, group: TaskGroup, live: &Live) {
    let _opens = gate.open_on_drop(); // a failing test must not leave the executor's thread blocked
    let logs = logs::remember();
    let notices = || logs.lines_with(&format!("still waiting for the end of a task (spawned at {}:", file!())).len();
    let before = notices();
    let (returned, has_returned) = mpsc::channel();
    let in_the_end = live.clone();
    thread::spawn(move || {
        drop(group);
        returned.send(in_the_end.count())
    });
    let end = Instant::now() + NET;
    while notices() == before {
        assert!(Instant::now() < end, "after {NET:?} the drop has neither returned nor logged that it waits");
        let early = has_returned.recv_timeout(Duration::from_millis(10));
        assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout), "the drop did not wait");
    }
    gate.open();
    assert_eq!(has_returned.recv_timeout(NET), Ok(0), "alive after the drop");
}

#[test]
fn r02_a_destructor_that_another_thread_runs_is_waited_for() {
    struct Slow(mpsc::Sender<()>, Gate);
    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
            self.1.block_until_open();
        }
    }

    let live = Live::default();
    live.clone().alone_within_net(move || {
        let (in_destructor, entered) = mpsc::channel();
        let gate = Gate::new();
        let group = TaskGroup::new();
        let slow = Slow(in_destructor, gate.clone());
        group.spawn(live.child(async move {
            let _slow = slow;
            std::future::pending().await
        }));
        live.wait_for_polls(1);
        group.cancel(); // a thread of the executor destroys the child
        entered.recv_timeout(NET).unwrap();
        drop_waits_for(&gate, group, &live);
    });
}
