//! R2: children that drop each other's groups, in cycles of two and of three. If the wait of a drop would close
//! the cycle, that drop only marks its child and returns. So every child ends at its next yield, and no drop deadlocks.
//! Two of these tests are twins of loom models in `src/group/loom_tests.rs`.

use crate::support::executor::alone_with_threads;
use crate::support::probe::{Gate, Live, SharedGroup, drop_shared_group};
use async_std::task;
use ebbtide::TaskGroup;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};

/// How often each cycle is tried.
const ROUNDS: usize = 300;

#[test]
fn two_children_that_drop_each_others_groups_both_end() {
    circles(2);
}

#[test]
fn three_children_that_drop_in_a_circle_all_end() {
    circles(3);
}

#[test]
fn two_children_that_drop_each_others_groups_in_the_same_instant_both_end() {
    alone_with_threads(4, || {
        meeting_circles(2);
    });
}

#[test]
fn three_children_that_drop_in_a_circle_in_the_same_instant_all_end() {
    alone_with_threads(4, || {
        meeting_circles(3);
    });
}

/// Runs a cycle of `size` children: each drops the next child's group, and the last one drops the first one's. A child
/// that is destroyed before its own drop leaves its neighbour alive, so the test drops all groups too.
fn circles(size: usize) {
    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let groups: Vec<_> = (0..size).map(|_| SharedGroup::default()).collect();
            let ready = Gate::new();
            for n in 0..size {
                let group = TaskGroup::new();
                let (ready, next) = (ready.clone(), Arc::clone(&groups[(n + 1) % size]));
                group.spawn(live.child(async move {
                    ready.opened().await;
                    drop_shared_group(&next);
                    pending().await
                }));
                *groups[n].lock().unwrap() = Some(group);
            }
            ready.open();
            groups.iter().for_each(drop_shared_group);
            live.wait_for(0);
        }
    });
}

/// Does the same with a thread for each child: all children are inside their polls before the first drop begins. So no
/// child is destroyed before its own drop. Exactly one drop, the one that would close the cycle, returns early, and no
/// child runs on after its yield.
fn meeting_circles(size: usize) {
    let all = Live::default();
    all.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let groups: Vec<_> = (0..size).map(|_| SharedGroup::default()).collect();
            let lives: Vec<_> = (0..size).map(|_| Live::default()).collect();
            let (early, went_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (ready, meet) = (Gate::new(), Arc::new(Barrier::new(size)));
            for n in 0..size {
                let next = (n + 1) % size;
                let (group, next_live, probe) = (TaskGroup::new(), lives[next].clone(), all.probe());
                let (next, ready, meet) = (Arc::clone(&groups[next]), ready.clone(), Arc::clone(&meet));
                let (early, went_on) = (Arc::clone(&early), Arc::clone(&went_on));
                group.spawn(lives[n].child(async move {
                    let _probe = probe;
                    ready.opened().await;
                    meet.wait();
                    drop_shared_group(&next);
                    early.fetch_add(next_live.count(), SeqCst);
                    task::yield_now().await;
                    went_on.fetch_add(1, SeqCst);
                }));
                *groups[n].lock().unwrap() = Some(group);
            }
            ready.open();
            all.wait_for(0);
            assert_eq!(
                (early.load(SeqCst), went_on.load(SeqCst)),
                (1, 0),
                "(drops that returned early, children that ran on)"
            );
        }
    });
}
