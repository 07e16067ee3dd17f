//! `TaskSet`: results arrive in the order in which the children end, a limit bounds how many run at a time, and a
//! cancel or a drop leaves nothing behind.

use crate::support::logs;
use crate::support::probe::{Gate, Live, NET, Probe, let_the_executor_run};
use crate::support::test;
use async_std::task;
use ebbtide::{JoinError, TaskSet};
use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Spins until a condition holds that has no event of its own. It follows soon after something that the test has
/// awaited.
fn wait_until(holds: impl Fn() -> bool) {
    let end = Instant::now() + NET;
    while !holds() {
        assert!(Instant::now() < end, "the condition did not hold within {NET:?}");
        std::thread::yield_now();
    }
}

fn next<T: Send + 'static>(set: &mut TaskSet<T>) -> Option<Result<T, JoinError>> {
    task::block_on(set.next())
}

/// Takes all remaining results: a value, "cancelled", or a panic's text.
fn all<T: Send + 'static>(set: &mut TaskSet<T>) -> Vec<Result<T, &'static str>> {
    let short = |error: JoinError| match error.into_panic() {
        None => "cancelled",
        Some(payload) => payload.downcast_ref::<&'static str>().copied().unwrap_or("not a text"),
    };
    std::iter::from_fn(|| next(set)).map(|result| result.map_err(short)).collect()
}

/// Numbered children, each behind a gate of its own.
struct Numbered {
    gates: Vec<Gate>,
    /// Counts the children that are alive.
    live: Live,
    /// The children's numbers, in the order of their first polls.
    started: mpsc::Receiver<usize>,
}

impl Numbered {
    fn new(live: &Live, set: &mut TaskSet<usize>, children: usize) -> Self {
        let (starts, started) = mpsc::channel();
        let gates: Vec<_> = (0..children).map(|_| Gate::new()).collect();
        for (n, gate) in gates.iter().enumerate() {
            let (gate, starts, probe) = (gate.clone(), starts.clone(), live.probe());
            set.spawn(async move {
                let _probe = probe;
                starts.send(n).unwrap();
                gate.opened().await;
                n
            });
        }
        Self { gates, live: live.clone(), started }
    }

    /// Returns the next children that are started, sorted, because the executor decides which of them is polled first.
    fn started(&self, children: usize) -> Vec<usize> {
        let mut started: Vec<_> = (0..children).map(|_| self.started.recv_timeout(NET).unwrap()).collect();
        started.sort_unstable();
        started
    }

    fn no_more_are_started(&self) {
        let_the_executor_run();
        assert_eq!(self.started.try_recv().ok(), None);
    }

    /// Opens a child's gate, and waits until the child has ended.
    fn end(&self, n: usize) {
        let alive = self.live.count();
        self.gates[n].open();
        self.live.wait_for(alive - 1);
    }
}

#[test]
fn results_arrive_in_the_order_in_which_the_children_end() {
    let live = Live::default();
    live.clone().within_net(move || {
        let mut set = TaskSet::new();
        let children = Numbered::new(&live, &mut set, 5);
        children.started(5);
        for (ended, n) in [3, 0, 4, 1, 2].into_iter().enumerate() {
            children.end(n);
            wait_until(|| format!("{set:?}").contains(&format!("results: {}", ended + 1)));
        }
        assert_eq!(all(&mut set), [Ok(3), Ok(0), Ok(4), Ok(1), Ok(2)]);
    });
}

#[test]
fn a_set_counts_the_children_that_run_that_wait_and_that_have_ended() {
    let live = Live::default();
    live.clone().within_net(move || {
        let mut set = TaskSet::default().limit(2);
        assert_eq!((set.is_empty(), set.len()), (true, 0));
        let children = Numbered::new(&live, &mut set, 4);
        assert_eq!((set.len(), set.is_empty()), (4, false));
        assert_eq!(format!("{set:?}"), "TaskSet { running: 2, waiting: 2, results: 0, cancelled: false }");
        children.end(0);
        wait_until(|| format!("{set:?}") == "TaskSet { running: 2, waiting: 1, results: 1, cancelled: false }");
        assert_eq!(set.len(), 4);
        assert_eq!(next(&mut set).unwrap().unwrap(), 0);
        assert_eq!(set.len(), 3);
        set.cancel();
        assert_eq!((set.len(), all(&mut set).len()), (3, 3));
        assert_eq!(format!("{set:?}"), "TaskSet { running: 0, waiting: 0, results: 0, cancelled: true }");
        assert!(set.is_empty() && live.count() == 0);
    });
}

#[test]
fn an_empty_set_gives_none_and_can_be_used_again() {
    test(async {
        let mut set = TaskSet::new();
        for round in 0..3 {
            assert!(set.next().await.is_none() && set.next().await.is_none());
            set.spawn(async move { Cell::new(round) }); // a result that is not `Sync`
            assert_eq!(set.next().await.unwrap().unwrap().get(), round);
        }
    });
}

#[test]
fn at_most_as_many_children_run_as_the_limit_and_all_of_them_run_in_the_end() {
    const CHILDREN: usize = 500;
    let live = Live::default();
    live.clone().within_net(move || {
        for limit in [0, 1, 2, 7] {
            let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let order = Arc::new(Mutex::new(Vec::new()));
            let mut set = TaskSet::new().limit(limit);
            for n in 0..CHILDREN {
                let (running, most, order) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&order));
                let child = live.child(task::yield_now());
                set.spawn(async move {
                    order.lock().unwrap().push(n);
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    child.await;
                    running.fetch_sub(1, SeqCst);
                    n
                });
            }
            let mut values: Vec<_> = all(&mut set).into_iter().map(Result::unwrap).collect();
            let expected: Vec<_> = (0..CHILDREN).collect();
            let most = most.load(SeqCst);
            assert!((1..=limit.max(1)).contains(&most), "{most} children ran at a time, the limit is {limit}");
            if limit <= 1 {
                assert!(
                    values == expected && *order.lock().unwrap() == expected,
                    "the children did not run one after the other: {values:?}"
                );
            }
            values.sort_unstable();
            assert_eq!(values, expected);
            assert_eq!(live.count(), 0);
        }
    });
}

#[test]
fn the_child_that_has_waited_longest_starts_when_another_ends() {
    let live = Live::default();
    live.clone().within_net(move || {
        let mut set = TaskSet::new().limit(3);
        let children = Numbered::new(&live, &mut set, 8);
        assert_eq!(children.started(3), [0, 1, 2]);
        children.no_more_are_started();
        for (ends, is_started) in [(1, 3), (3, 4), (0, 5), (2, 6), (6, 7)] {
            children.end(ends);
            assert_eq!(children.started(1), [is_started]);
            children.no_more_are_started();
        }
        children.gates.iter().for_each(Gate::open);
        assert_eq!(all(&mut set).len(), 8);
    });
}

/// A waker that blocks until the test goes on, so that the test acts before anything that follows the wake-up.
struct BlockingWaker(mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>);

impl Wake for BlockingWaker {
    fn wake(self: Arc<Self>) {
        self.0.send(()).unwrap();
        self.1.lock().unwrap().recv_timeout(NET).unwrap();
    }
}

#[test]
fn a_child_that_is_spawned_while_another_ends_does_not_overtake_those_that_wait() {
    let live = Live::default();
    live.clone().within_net(move || {
        let mut set = TaskSet::new().limit(1);
        let children = Numbered::new(&live, &mut set, 2);
        let (woken, is_woken) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let waker = Waker::from(Arc::new(BlockingWaker(woken, goes_on.into())));
        assert!(pin!(set.next()).poll(&mut Context::from_waker(&waker)).is_pending());
        children.gates.iter().for_each(Gate::open);
        is_woken.recv_timeout(NET).unwrap();
        set.spawn(async { 2 });
        go_on.send(()).unwrap();
        assert_eq!(all(&mut set), [Ok(0), Ok(1), Ok(2)]);
    });
}

#[test]
fn a_higher_limit_starts_waiting_children_and_a_lower_one_lets_running_children_end() {
    let live = Live::default();
    live.clone().within_net(move || {
        let mut set = TaskSet::new().limit(2);
        let children = Numbered::new(&live, &mut set, 8);
        assert_eq!(children.started(2), [0, 1]);
        set = set.limit(5);
        assert_eq!(children.started(3), [2, 3, 4]);
        set = set.limit(2);
        (0..3).for_each(|n| children.end(n));
        children.no_more_are_started();
        children.end(3);
        assert_eq!(children.started(1), [5]);
        children.no_more_are_started();
        children.gates.iter().for_each(Gate::open);
        assert_eq!(all(&mut set).len(), 8);
    });
}

#[test]
fn after_a_cancel_each_child_has_one_result_and_waiting_children_were_never_polled() {
    let live = Live::default();
    live.clone().within_net(move || {
        let mut set = TaskSet::new().limit(3);
        let gate = Gate::new();
        gate.open();
        set.spawn(live.child(async {}));
        live.wait_for(0);
        wait_until(|| format!("{set:?}").contains("results: 1"));
        set.spawn(live.child(async { panic_any("before the cancel") }));
        wait_until(|| format!("{set:?}").contains("results: 2"));
        let polls = live.polls();
        (0..3).for_each(|_| set.spawn(live.sleeper()));
        (0..5).for_each(|_| set.spawn(live.runner()));
        live.wait_for_polls(polls + 3);
        set.cancel();
        set.cancel();
        set.spawn(live.runner()); // refused
        assert_eq!(set.len(), 11);
        let results = all(&mut set);
        assert_eq!(results[..2], [Ok(()), Err("before the cancel")]);
        assert_eq!(results[2..], [Err("cancelled"); 9]);
        assert_eq!((live.count(), live.polls()), (0, polls + 3));
    });
}

#[test]
fn a_cancel_that_races_with_ending_children_gives_each_child_one_result() {
    let live = Live::default();
    live.clone().within_net(move || {
        for round in 0..300 {
            let mut set = TaskSet::new().limit(1 + round % 3);
            let polls = live.polls();
            (0..6).for_each(|_| set.spawn(live.child(task::yield_now())));
            live.wait_for_polls(polls + round % 12);
            set.cancel();
            let results = all(&mut set);
            assert!(
                results.len() == 6 && results.iter().all(|it| matches!(it, Ok(()) | Err("cancelled"))),
                "{results:?}"
            );
            assert_eq!((live.count(), set.len()), (0, 0));
        }
    });
}

#[test]
fn a_drop_joins_running_and_waiting_children() {
    let live = Live::default();
    live.clone().within_net(move || {
        for limit in [usize::MAX, 4] {
            let mut set = TaskSet::new().limit(limit);
            let polls = live.polls();
            for n in 0..100 {
                match n % 3 {
                    0 => set.spawn(live.sleeper()),
                    1 => set.spawn(live.runner()),
                    _ => set.spawn(live.child(task::yield_now())),
                }
            }
            live.wait_for_polls(polls + 4);
            drop(set);
            assert_eq!(live.count(), 0);
            let polls = live.polls();
            let_the_executor_run();
            assert_eq!(live.polls(), polls, "children were polled after the drop");
        }
    });
}

#[test]
fn a_hundred_thousand_waiting_children_do_not_overflow_the_stack() {
    const MANY: usize = 100_000;
    let live = Live::default();
    live.clone().within_net(move || {
        let waiting = |children| {
            let mut set = TaskSet::new().limit(1);
            let gate = Gate::new();
            let (opened, probe) = (gate.clone(), live.probe());
            set.spawn(async move {
                let _probe = probe;
                opened.opened().await;
            });
            for _ in 0..children {
                let probe = live.probe();
                set.spawn(async move { drop(probe) });
            }
            assert_eq!((set.len(), live.count()), (children + 1, children + 1));
            (set, gate)
        };
        drop(waiting(MANY));
        assert_eq!(live.count(), 0);

        let (mut set, _gate) = waiting(MANY);
        set.cancel();
        assert!(all(&mut set).iter().all(|result| *result == Err("cancelled")));
        assert_eq!(live.count(), 0);

        let (mut set, gate) = waiting(MANY / 10);
        gate.open();
        assert_eq!(all(&mut set).iter().filter(|result| result.is_ok()).count(), MANY / 10 + 1);
        assert_eq!(live.count(), 0);
    });
}

#[test]
fn a_childs_panic_is_a_result_and_ends_no_other_child() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let mut set = TaskSet::new().limit(1);
        let line = line!() + 1;
        set.spawn(async { panic_any("a result of a set") });
        set.spawn(live.child(async {}));
        let error = next(&mut set).unwrap().unwrap_err();
        assert!(error.is_panic());
        let text = error.to_string();
        assert!(text.starts_with(&format!("the task spawned at {}:{line}:", file!())), "{text}");
        assert!(text.ends_with(" panicked: a result of a set"), "{text}");
        assert_eq!(all(&mut set), [Ok(())]);
        set.spawn(async { panic_any("a result of a set") });
        wait_until(|| format!("{set:?}").contains("results: 1"));
        drop(set);
        assert!(logs.lines_with("a result of a set").is_empty());
    });
}

#[test]
fn a_dropped_next_loses_no_result() {
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    let live = Live::default();
    live.clone().within_net(move || {
        let mut set = TaskSet::new();
        let children = Numbered::new(&live, &mut set, 3);
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        for count in [&first, &second] {
            let waker = Waker::from(Arc::clone(count));
            assert!(pin!(set.next()).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(Arc::strong_count(&first), 1, "the waker of a dropped wait must not be kept");
        children.end(1);
        wait_until(|| second.0.load(SeqCst) == 1);
        assert_eq!((first.0.load(SeqCst), set.len()), (0, 3));
        children.end(0);
        task::block_on(async {
            let mut results = vec![set.next().await.unwrap().unwrap(), set.next().await.unwrap().unwrap()];
            results.sort_unstable();
            assert_eq!(results, [0, 1]);
            for _ in 0..10 {
                async_std::future::timeout(Duration::ZERO, set.next()).await.unwrap_err();
            }
            children.end(2);
            assert_eq!(set.next().await.unwrap().unwrap(), 2);
        });
        assert!(next(&mut set).is_none());
    });
}

#[test]
fn results_that_were_not_taken_are_dropped_with_the_set() {
    let (live, results) = (Live::default(), Live::default());
    live.clone().within_net(move || {
        let mut set = TaskSet::new();
        for _ in 0..3 {
            let results = results.clone();
            set.spawn(async move { results.probe() });
        }
        set.spawn({
            let sleeper = live.sleeper();
            let results = results.clone();
            async move {
                sleeper.await;
                results.probe()
            }
        });
        results.wait_for(3);
        wait_until(|| format!("{set:?}").contains("results: 3"));
        let taken: Probe = next(&mut set).unwrap().unwrap();
        drop(set);
        assert_eq!((live.count(), results.count()), (0, 1));
        drop(taken);
        assert_eq!(results.count(), 0);
    });
}

#[test]
fn a_child_that_drops_its_own_set_takes_those_that_wait_along_at_once() {
    test(async {
        let live = Live::default();
        let place = Arc::new(Mutex::new(None));
        let mut set = TaskSet::new().limit(1);
        let (own, waiting) = (Arc::clone(&place), live.clone());
        let (report, left) = mpsc::channel();
        let gate = Gate::new();
        let behind = gate.clone();
        set.spawn(async move {
            behind.opened().await;
            drop(own.lock().unwrap().take());
            report.send(waiting.count()).unwrap(); // while this child, which is only marked, still runs
            pending::<()>().await;
        });
        for _ in 0..5 {
            set.spawn(live.sleeper());
        }
        assert_eq!((set.len(), live.count()), (6, 5));
        *place.lock().unwrap() = Some(set);
        gate.open();
        assert_eq!(left.recv_timeout(NET), Ok(0), "children that waited for the limit outlive the drop of their set");
        assert_eq!(live.polls(), 0, "one of them was started");
    });
}

#[test]
fn a_child_may_own_a_set_and_spawn_into_another() {
    let live = Live::default();
    live.clone().within_net(move || {
        let other = Arc::new(Mutex::new(TaskSet::new().limit(1)));
        let mut outer = TaskSet::new().limit(2);
        for n in 0..10_u64 {
            let (other, child) = (Arc::clone(&other), live.child(task::yield_now()));
            outer.spawn(async move {
                other.lock().unwrap().spawn(async move { n });
                let mut inner = TaskSet::new();
                inner.spawn(async move {
                    child.await;
                    n
                });
                inner.next().await.unwrap().unwrap()
            });
        }
        let sum = |set: &mut TaskSet<u64>| all(set).into_iter().map(Result::unwrap).sum::<u64>();
        assert_eq!((sum(&mut outer), sum(&mut other.lock().unwrap())), (45, 45));

        let polls = live.polls();
        for _ in 0..10 {
            let (sleeper, runner) = (live.sleeper(), live.runner());
            outer.spawn(async move {
                let mut inner = TaskSet::new().limit(1);
                inner.spawn(sleeper);
                inner.spawn(runner); // waits, since the limit is 1
                inner.next().await;
                0
            });
        }
        live.wait_for_polls(polls + 2);
        drop(outer);
        assert_eq!(live.count(), 0);
    });
}

/// Panics when it is dropped, after its probe has been dropped.
struct Bomb(Option<Probe>, &'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0 = None;
        panic_any(self.1);
    }
}

#[test]
fn panicking_destructors_of_children_affect_no_other_child() {
    const TEXT: &str = "in the destructor of a set's child";
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let set = || {
            let mut set = TaskSet::new().limit(2);
            let polls = live.polls();
            for _ in 0..6 {
                let bomb = Bomb(Some(live.probe()), TEXT);
                let child = live.sleeper();
                set.spawn(async move {
                    let _bomb = bomb;
                    child.await;
                });
            }
            live.wait_for_polls(polls + 2);
            set
        };
        let mut cancelled = set();
        cancelled.cancel();
        assert_eq!(all(&mut cancelled), [Err("cancelled"); 6]);
        assert_eq!(live.count(), 0);
        wait_until(|| logs.lines_with(TEXT).len() == 6);
        let dropped = set();
        assert!(catch_unwind(AssertUnwindSafe(|| drop(dropped))).is_ok());
        assert_eq!((live.count(), logs.lines_with(TEXT).len()), (0, 12));

        let mut set = TaskSet::new();
        let bomb = Bomb(Some(live.probe()), TEXT);
        set.spawn(poll_fn(move |_| {
            let _held = &bomb;
            Poll::Ready(7)
        }));
        assert_eq!(all(&mut set), [Ok(7)]);
    });
}

#[test]
fn dropping_a_set_catches_a_panic_of_a_result_that_was_not_taken() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        for others in [0, 1] {
            let mut set = TaskSet::new();
            let bomb = Bomb(Some(live.probe()), "a result in a set that is dropped");
            set.spawn(async move { Some(bomb) });
            (0..others).for_each(|_| set.spawn(pending()));
            wait_until(|| format!("{set:?}").contains("results: 1"));
            assert!(catch_unwind(AssertUnwindSafe(|| drop(set))).is_ok());
            live.wait_for(0);
        }
        assert_eq!(logs.lines_with("a result in a set that is dropped").len(), 2);
    });
}
