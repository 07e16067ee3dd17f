//! R11: a child that has ended leaves no memory behind, in the group or in the executor. The executor keeps the shell
//! of a task that nothing wakes, so the group has to wake the task of each child that it destroys.

use crate::support::executor::alone_with_threads;
use crate::support::probe::{Gate, Live, NET};
use async_std::task;
use cap::Cap;
use ebbtide::{JoinHandle, Spawner, TaskGroup, TaskSet};
use std::alloc::System;
use std::hint::black_box;
use std::time::Instant;

#[global_allocator]
static LIVE_BYTES: Cap<System> = Cap::new(System, usize::MAX);

/// Runs 10 rounds, in which queues may grow, and then 20 more. Fails if the 20 rounds keep memory.
///
/// A leaked child has about 200 bytes: 8 million in 20 rounds of 2,000 children. The limit finds 5 bytes for each
/// child. A lower limit would also find a queue or a table of the executor that doubles once (32 KiB), which happens
/// when one round is slower than the others.
fn assert_level(mut round: impl FnMut()) {
    let mut run = |rounds| {
        (0..rounds).for_each(|_| round());
        LIVE_BYTES.allocated()
    };
    let before = run(10);
    let after = run(20);
    let grown = after.saturating_sub(before);
    assert!(grown < 200_000, "20 rounds have kept {grown} bytes: {before} before, {after} after");
}

const CHILDREN: usize = 2000;

/// Waits until the executor has dropped every shell: each shell keeps the group's records alive.
fn wait_for_the_shells(spawner: &Spawner) {
    let end = Instant::now() + NET;
    while format!("{spawner:?}") != "Spawner { group_is_alive: false }" {
        assert!(Instant::now() < end, "the executor still has a shell after {NET:?}");
        task::block_on(task::yield_now());
    }
}

/// Returns a group of children that are never woken, after each of them was polled.
fn sleepers(live: &Live) -> TaskGroup {
    let group = TaskGroup::new();
    let polls = live.polls();
    for _ in 0..CHILDREN {
        assert!(!group.spawn(live.sleeper()).is_finished());
    }
    live.wait_for_polls(polls + CHILDREN);
    group
}

#[test]
fn r11_memory_stays_level_when_groups_of_children_that_are_never_woken_are_dropped() {
    for threads in [1, 2] {
        alone_with_threads(threads, || {
            let live = Live::default();
            live.clone().within_net(move || {
                assert_level(|| {
                    let group = sleepers(&live);
                    let spawner = group.spawner();
                    drop(group);
                    assert_eq!(live.count(), 0);
                    wait_for_the_shells(&spawner);
                });
            });
        });
    }
}

#[test]
fn r11_memory_stays_level_when_children_are_cancelled_and_joined() {
    alone_with_threads(2, || {
        let live = Live::default();
        live.clone().within_net(move || {
            assert_level(|| {
                let group = sleepers(&live);
                group.cancel();
                task::block_on(group.join());
                assert_eq!((live.count(), group.len()), (0, 0));
                assert!(group.spawn(live.sleeper()).is_finished(), "the child is refused");
                let spawner = group.spawner();
                drop(group);
                wait_for_the_shells(&spawner);
            });
        });
    });
}

#[test]
fn r11_memory_stays_level_in_a_group_whose_children_start_and_end_all_the_time() {
    alone_with_threads(2, || {
        let live = Live::default();
        live.clone().within_net(move || {
            let group = TaskGroup::new();
            assert_level(|| {
                let gate = Gate::new();
                for _ in 0..CHILDREN {
                    let gate = gate.clone();
                    group.spawn(live.child(async move { gate.opened().await }));
                }
                gate.open();
                task::block_on(group.join());
                assert_eq!((live.count(), group.len()), (0, 0));
            });
        });
    });
}

#[test]
fn r11_memory_stays_level_when_some_results_are_taken_and_others_dropped() {
    alone_with_threads(2, || {
        let live = Live::default();
        live.clone().within_net(move || {
            let group = TaskGroup::new();
            assert_level(|| {
                let spawn = |n| {
                    let probe = live.probe();
                    group.spawn(async move { (n, probe) })
                };
                let children: Vec<_> = (0..CHILDREN).map(spawn).collect();
                task::block_on(group.join());
                for (n, child) in children.into_iter().enumerate() {
                    if n % 2 == 0 {
                        assert_eq!(task::block_on(child).unwrap().0, n);
                    }
                }
                assert_eq!((live.count(), group.len()), (0, 0));
            });
        });
    });
}

#[test]
fn r11_memory_stays_level_in_a_task_set_with_a_limit() {
    alone_with_threads(2, || {
        let live = Live::default();
        live.clone().within_net(move || {
            let mut set = TaskSet::new().limit(10);
            assert_level(|| {
                (0..CHILDREN).for_each(|_| set.spawn(live.child(task::yield_now())));
                let results = std::iter::from_fn(|| task::block_on(set.next()));
                assert_eq!(results.map(Result::unwrap).count(), CHILDREN);
                assert_eq!((live.count(), set.len()), (0, 0));

                let mut dropped = TaskSet::new().limit(10);
                (0..CHILDREN).for_each(|_| dropped.spawn(live.sleeper()));
                drop(dropped);
                assert_eq!(live.count(), 0);
            });
        });
    });
}

/// Waits until fewer than `more` bytes beyond `before` are allocated: the executor drops a task soon after its end.
fn wait_for_bytes(before: usize, more: usize) {
    let end = Instant::now() + NET;
    loop {
        let held = LIVE_BYTES.allocated().saturating_sub(before);
        if held < more {
            return;
        }
        assert!(Instant::now() < end, "{held} bytes are still held after {NET:?}, and at most {more} are allowed");
        task::block_on(task::yield_now());
    }
}

#[test]
fn r11_the_handle_of_a_child_that_has_ended_keeps_its_result_and_not_its_future() {
    const CHILDREN: usize = 200;
    alone_with_threads(2, || {
        let live = Live::default();
        live.clone().within_net(move || {
            let group = TaskGroup::new();
            let run = || -> Vec<JoinHandle<usize>> {
                let spawn = |n| {
                    group.spawn(async move {
                        let room = [1_u8; 50_000];
                        task::yield_now().await;
                        n + black_box(&room).len()
                    })
                };
                let children = (0..CHILDREN).map(spawn).collect();
                task::block_on(group.join());
                children
            };
            drop(run()); // so that tables and queues have grown
            let before = LIVE_BYTES.allocated();
            let children = run();
            wait_for_bytes(before, CHILDREN * 1_000);
            for (n, child) in children.into_iter().enumerate() {
                assert_eq!(task::block_on(child).unwrap(), n + 50_000);
            }
        });
    });
}

#[test]
fn r11_a_group_frees_the_memory_of_its_peak_while_it_lives_on() {
    const PEAK: usize = 100_000;
    alone_with_threads(2, || {
        let live = Live::default();
        live.clone().within_net(move || {
            let peak = |group: &TaskGroup| {
                let gate = Gate::new();
                for _ in 0..PEAK {
                    let gate = gate.clone();
                    group.spawn(async move { gate.opened().await });
                }
                assert_eq!(group.len(), PEAK);
                gate.open();
                task::block_on(group.join());
            };
            peak(&TaskGroup::new()); // the executor keeps the memory of its own peak
            let group = TaskGroup::new();
            let before = LIVE_BYTES.allocated();
            peak(&group);
            wait_for_bytes(before, 300_000);
            assert!(group.is_empty());
        });
    });
}
