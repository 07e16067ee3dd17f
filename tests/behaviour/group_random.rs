//! R2, R3: random trees of groups and sets. Children spawn siblings and nested groups, join, abort and await each other,
//! panic, hang, give their groups away, and drop each other's, also in cycles. The test's thread drops whatever is
//! left, at a random moment. When such a drop returns, no child of that group lives; in the end none lives at all, every
//! handle becomes ready, and none gives a wrong result.
//!
//! ```sh
//! EBBTIDE_RANDOM_CASES=10000 cargo test --release --test behaviour group_random -- --nocapture
//! EBBTIDE_RANDOM_SEED=7 EBBTIDE_RANDOM_CASES=1000 cargo test --test behaviour group_random -- --nocapture # one tree
//! ```

use crate::support::dice::{Dice, lock, seeds};
use crate::support::gate::{self, Role, side_by_side};
use crate::support::probe::{Live, NET, Probe};
use async_std::future::timeout;
use async_std::task::{block_on, yield_now};
use ebbtide::{JoinHandle, Spawner, TaskGroup, TaskSet};
use futures_concurrency::prelude::*;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Trees in a run of the whole suite.
const IN_CI: usize = 300;
/// The most children of one tree.
const CHILDREN: usize = 60;

/// A group, and the probes of its own children.
struct Tracked {
    group: TaskGroup,
    live: Live,
}

/// What a child needs to spawn others in its group.
#[derive(Clone)]
struct Own {
    spawner: Spawner,
    live: Live,
}

/// Handle of a child that returns this number, if it returns.
struct Numbered {
    number: u32,
    is_gone: Arc<AtomicBool>,
    handle: JoinHandle<u32>,
}

/// Part of each child's future.
struct InChild {
    is_gone: Arc<AtomicBool>,
    /// In the counts of its group, and of the whole tree.
    _probes: [Probe; 2],
}

impl Drop for InChild {
    fn drop(&mut self) {
        self.is_gone.store(true, SeqCst);
    }
}

/// Shared by all children of a tree.
struct World {
    /// Groups that were given away: anyone may take and drop them.
    slots: [Mutex<Option<Tracked>>; 4],
    handles: Mutex<Vec<Numbered>>,
    /// How many children may still be spawned.
    left: AtomicUsize,
    numbers: AtomicU32,
    live: Live,
    violations: Mutex<Vec<String>>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            slots: Default::default(),
            handles: Mutex::default(),
            left: AtomicUsize::new(CHILDREN),
            numbers: AtomicU32::new(0),
            live: Live::default(),
            violations: Mutex::default(),
        })
    }

    fn violation(&self, text: String) {
        lock(&self.violations).push(text);
    }

    fn tracked(&self) -> (Tracked, Own) {
        let (group, live) = (TaskGroup::new(), Live::default());
        let own = Own { spawner: group.spawner(), live: live.clone() };
        (Tracked { group, live }, own)
    }

    fn spawn(self: &Arc<Self>, own: &Own, mut dice: Dice) {
        if self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            return;
        }
        let (number, is_gone) = (self.numbers.fetch_add(1, SeqCst), Arc::<AtomicBool>::default());
        let in_child = InChild { is_gone: Arc::clone(&is_gone), _probes: [own.live.probe(), self.live.probe()] };
        let drops_handle = dice.chance(30);
        let child = child(Arc::clone(self), own.clone(), dice, number, in_child);
        let handle = own.spawner.spawn(child);
        if !drops_handle {
            lock(&self.handles).push(Numbered { number, is_gone, handle });
        }
    }

    /// Checks what a handle has returned.
    fn check(&self, result: Result<u32, ebbtide::JoinError>, number: u32, is_gone: &AtomicBool) {
        if !is_gone.load(SeqCst) {
            self.violation(format!("the handle of child {number} is ready, and its future lives"));
        }
        match result {
            Ok(n) if n != number => self.violation(format!("child {number} returned {n}")),
            _ => {}
        }
    }

    fn take_handle(&self, dice: &mut Dice) -> Option<Numbered> {
        let mut handles = lock(&self.handles);
        let n = handles.len();
        (n > 0).then(|| handles.swap_remove(dice.below(n)))
    }
}

type Boxed = Pin<Box<dyn Future<Output = u32> + Send>>;

/// Takes a few random steps, and returns its number.
fn child(world: Arc<World>, own: Own, mut dice: Dice, number: u32, in_child: InChild) -> Boxed {
    Box::pin(async move {
        let _in_child = in_child;
        for _ in 0..dice.below(6) {
            step(&world, &own, &mut dice).await;
        }
        number
    })
}

async fn step(world: &Arc<World>, own: &Own, dice: &mut Dice) {
    match dice.below(14) {
        0..=2 => yields(dice.below(4)).await,
        3 | 4 => world.spawn(own, dice.fork()),
        5 | 6 => nested(world, dice).await,
        7 => {
            let taken = lock(&world.slots[dice.below(4)]).take();
            drop(taken); // may be its own group, or that of a child that drops this one's
        }
        8 => {
            if let Some(mut numbered) = world.take_handle(dice) {
                let patience = yields(dice.below(20));
                let waited = async { Some((&mut numbered.handle).await) };
                match (waited, async {
                    patience.await;
                    None
                })
                    .race()
                    .await
                {
                    Some(result) => world.check(result, numbered.number, &numbered.is_gone),
                    None => lock(&world.handles).push(numbered),
                }
            }
        }
        9 => {
            if let Some(numbered) = world.take_handle(dice) {
                numbered.handle.cancel();
                lock(&world.handles).push(numbered);
            }
        }
        10 => drop(world.take_handle(dice)),
        11 => set(world, dice).await,
        12 if dice.chance(30) => resume_unwind(Box::new("as ordered")), // which no panic hook prints
        13 if dice.chance(40) => pending().await,
        _ => {}
    }
}

async fn yields(n: usize) {
    for _ in 0..n {
        yield_now().await;
    }
}

/// A nested group: joined, dropped, cancelled or given away.
async fn nested(world: &Arc<World>, dice: &mut Dice) {
    let (tracked, own) = world.tracked();
    for _ in 0..=dice.below(3) {
        world.spawn(&own, dice.fork());
    }
    yields(dice.below(3)).await;
    match dice.below(4) {
        0 => tracked.group.join().await, // raises the panic of a child
        1 => {
            tracked.group.cancel();
            let refused = own.spawner.spawn(async { 0 });
            if !refused.await.is_err_and(|error| error.is_cancelled()) {
                world.violation("a cancelled group ran a child".to_owned());
            }
            let joined = catch_panic(tracked.group.join()).await;
            if joined && !tracked.group.is_empty() {
                world.violation(format!("a joined group has {} children", tracked.group.len()));
            }
        }
        2 => drop(tracked),
        _ => {
            let displaced = lock(&world.slots[dice.below(4)]).replace(tracked);
            drop(displaced);
        }
    }
}

/// Returns whether the future has ended without a panic.
async fn catch_panic(future: impl Future<Output = ()>) -> bool {
    use futures_lite::FutureExt as _;
    AssertUnwindSafe(future).catch_unwind().await.is_ok()
}

/// A set with a limit. Some of its results are taken; the rest is dropped with it.
async fn set(world: &Arc<World>, dice: &mut Dice) {
    let (children, limit) = (dice.below(6), 1 + dice.below(3));
    let (mut set, running) = (TaskSet::new().limit(limit), Arc::new(AtomicUsize::new(0)));
    for n in 0..children {
        let (probe, world, running, mut dice) =
            (world.live.probe(), Arc::clone(world), Arc::clone(&running), dice.fork());
        set.spawn(async move {
            let _probe = probe;
            let now = running.fetch_add(1, SeqCst) + 1;
            if now > limit {
                world.violation(format!("{now} children of a set run, the limit is {limit}"));
            }
            yields(dice.below(4)).await;
            running.fetch_sub(1, SeqCst); // not if it is cancelled: then no further child is started
            n
        });
    }
    let mut seen = vec![false; children];
    for _ in 0..dice.below(children + 2) {
        match set.next().await {
            Some(Ok(n)) if !std::mem::replace(&mut seen[n], true) => {}
            None if seen.iter().all(|seen| *seen) => break,
            other => world.violation(format!("a set of {children} returned {other:?} after {seen:?}")),
        }
    }
    if dice.chance(20) {
        set.cancel();
    }
}

/// Drops a group on a thread that belongs to no child. So the drop closes no cycle, and waits for all of its children.
fn drop_from_outside(world: &World, tracked: Tracked, unwinding: bool) {
    let Tracked { group, live } = tracked;
    if unwinding {
        let result = catch_unwind(AssertUnwindSafe(move || {
            let _group = group;
            resume_unwind(Box::new("as ordered"));
        }));
        assert!(result.is_err());
    } else {
        drop(group);
    }
    if live.count() > 0 {
        world.violation(format!("{} children live after the drop of their group", live.count()));
    }
}

fn run_tree(seed: u64) {
    let (mut dice, world) = (Dice::new(seed), World::new());
    let (root, own) = world.tracked();
    for _ in 0..=dice.below(4) {
        world.spawn(&own, dice.fork());
    }
    match dice.below(4) {
        0 => {}
        1 => (0..dice.below(200)).for_each(|_| std::thread::yield_now()),
        2 => std::thread::sleep(Duration::from_micros(dice.below(2000) as u64)),
        _ => {
            let joined = catch_panic(root.group.join());
            let patience = async {
                async_io::Timer::after(Duration::from_millis(2)).await;
                false
            };
            block_on((joined, patience).race());
        }
    }
    drop_from_outside(&world, root, dice.chance(20));
    let end = Instant::now() + NET;
    while world.live.count() > 0 && Instant::now() < end {
        // A child of a group that was given away may give others away.
        for slot in &world.slots {
            let taken = lock(slot).take();
            if let Some(tracked) = taken {
                drop_from_outside(&world, tracked, dice.chance(20));
            }
        }
    }
    assert_eq!(world.live.count(), 0, "children live on, in no group");
    for Numbered { number, is_gone, handle } in std::mem::take(&mut *lock(&world.handles)) {
        // The end of a child is recorded a moment after its last destructor has run.
        match block_on(timeout(NET, handle)) {
            Ok(result) => world.check(result, number, &is_gone),
            Err(_) => world.violation(format!("the handle of child {number} is never ready")),
        }
    }
    assert_eq!(*lock(&world.violations), [""; 0]);
}

#[test]
fn random_trees_of_groups_leave_no_child_behind() {
    let (seeds, next) = (seeds(IN_CI), AtomicUsize::new(0));
    side_by_side(&[1, 2, 3, 4], |_| {
        while let Some(&seed) = seeds.get(next.fetch_add(1, SeqCst)) {
            let repeat = || format!(": EBBTIDE_RANDOM_SEED={seed} cargo test --test behaviour group_random");
            let run = || gate::run(Role::Beside, 2 * NET, &repeat, move || run_tree(seed));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_ok(), "a tree fails{}", repeat());
        }
    });
    println!("{} trees", seeds.len());
}
