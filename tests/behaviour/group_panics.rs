//! Panics in a group: in a child's poll, in a child's destructor, in the logger. Other children are not affected, every
//! panic is raised by a join or logged, and the drop of a group never panics.

use crate::support::executor::alone_with_threads;
use crate::support::logs;
use crate::support::probe::{Gate, Live, NET, Probe};
use async_std::task;
use ebbtide::TaskGroup;
use log::Level;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::task::Poll;
use std::time::Instant;

/// Runs `work`, and returns the text with which it panics.
fn panic_of(work: impl FnOnce()) -> Option<&'static str> {
    let payload = catch_unwind(AssertUnwindSafe(work)).err()?;
    Some(payload.downcast_ref::<&'static str>().copied().unwrap_or("not a text"))
}

/// Waits, by polling, for something that follows soon after an event and has no event of its own.
fn wait_until(holds: impl Fn() -> bool) {
    let end = Instant::now() + NET;
    while !holds() {
        assert!(Instant::now() < end, "the awaited condition is still false after {NET:?}");
        std::thread::yield_now();
    }
}

/// Panics with this text when it is dropped, after it has dropped its probe.
struct Bomb(Option<Probe>, &'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0 = None;
        panic_any(self.1);
    }
}

#[test]
fn a_child_that_panics_does_not_affect_its_siblings() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        let (gate, went_on) = (Gate::new(), Arc::new(AtomicBool::new(false)));
        group.spawn(live.child({
            let (gate, went_on) = (gate.clone(), Arc::clone(&went_on));
            async move {
                gate.opened().await;
                went_on.store(true, SeqCst);
            }
        }));
        group.spawn(live.child(async { panic!("alone") }));
        live.wait_for(1);
        task::block_on(group.spawn(live.child(async {}))).expect("the group goes on");
        gate.open();
        assert_eq!(panic_of(|| task::block_on(group.join())), Some("alone"));
        assert!(went_on.load(SeqCst));
    });
}

#[test]
fn a_join_raises_the_first_panic_after_the_last_child_has_ended() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        let gate = Gate::new();
        group.spawn(live.child({
            let gate = gate.clone();
            async move { gate.opened().await }
        }));
        for text in ["the first of two", "the second of two"] {
            group.spawn(live.child(async move { panic_any(text) }));
            wait_until(|| group.len() == 1);
        }
        assert!(live.count() == 1 && !group.is_empty(), "the sibling runs on");
        gate.open();
        assert_eq!(panic_of(|| task::block_on(group.join())), Some("the first of two"));
        assert_eq!((live.count(), group.len()), (0, 0));
        assert_eq!(logs.lines_with("the second of two").len(), 1, "the second panic is not in the log");
        assert!(logs.lines_with("the first of two").is_empty(), "a panic that is raised must not be logged too");
    });
}

#[test]
fn a_panic_is_raised_by_one_join_and_the_next_join_returns() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        for round in 0..3 {
            group.spawn(live.child(async { panic!("once") }));
            let join = || task::block_on(group.join());
            std::thread::scope(|scope| {
                assert!(scope.spawn(join).join().is_err(), "round {round}");
                assert!(scope.spawn(join).join().is_ok(), "round {round}, again");
            });
        }
    });
}

#[test]
fn the_drop_of_a_group_logs_a_panic_that_no_join_has_raised() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        group.spawn(live.child(async { panic!("nobody joined me") }));
        live.wait_for(0);
        wait_until(|| group.is_empty());
        assert_eq!(panic_of(|| drop(group)), None);
        let lines = logs.lines_with("nobody joined me");
        assert!(matches!(lines[..], [(Level::Error, _)]), "{lines:?}");
    });
}

#[test]
fn a_panic_during_the_drop_of_the_group_is_logged_before_the_drop_returns() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        for round in 1..=300 {
            let group = TaskGroup::new();
            let (in_poll, entered) = mpsc::channel();
            group.spawn(live.child(async move {
                in_poll.send(()).unwrap();
                panic_any("met a drop");
            }));
            entered.recv_timeout(NET).unwrap();
            drop(group);
            assert_eq!(logs.lines_with("met a drop").len(), round);
        }
    });
}

#[test]
fn the_panic_of_a_child_that_has_dropped_its_own_group_is_logged() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        let (give, take) = async_std::channel::bounded(1);
        group.spawn(live.child(async move {
            drop::<TaskGroup>(take.recv().await.unwrap());
            panic_any("after its own drop");
        }));
        give.send_blocking(group).unwrap();
        wait_until(|| logs.lines_with("after its own drop").len() == 1);
        wait_until(|| live.count() == 0); // the thread that has logged the panic then destroys the child
    });
}

#[test]
fn r02_a_drop_destroys_every_child_although_the_logger_panics() {
    // A logger that prints panics in this way once its pipe is closed.
    struct Panics;
    impl log::Log for Panics {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            assert!(record.target() != "ebbtide", "failed printing to stdout");
        }
        fn flush(&self) {}
    }

    let body = || {
        log::set_logger(&Panics).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        let live = Live::default();
        live.clone().within_net(move || {
            for joined in [false, true] {
                let group = TaskGroup::new();
                for _ in 0..30 {
                    let mut bomb = Some(Bomb(Some(live.probe()), "in a child's destructor"));
                    let end = if joined { Poll::Ready(()) } else { Poll::Pending };
                    group.spawn(live.child(std::future::poll_fn(move |_| {
                        let _held = &mut bomb;
                        end
                    })));
                }
                if joined {
                    task::block_on(group.join());
                }
                assert_eq!(panic_of(|| drop(group)), None);
                assert_eq!(live.count(), 0);
            }
        });
    };
    alone_with_threads(2, body);
}

#[test]
fn r02_a_drop_destroys_every_child_although_some_destructors_panic() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        for unwinding in [false, true] {
            let group = TaskGroup::new();
            for n in 0..30 {
                let bomb = (n % 3 == 0).then(|| Bomb(Some(live.probe()), "in a child's destructor"));
                group.spawn(live.child(async move {
                    let _bomb = bomb;
                    std::future::pending().await
                }));
            }
            let panic = panic_of(move || {
                let group = group;
                if unwinding {
                    panic!("the one that unwinds");
                }
                drop(group);
            });
            assert_eq!(panic, unwinding.then_some("the one that unwinds"));
            assert_eq!(live.count(), 0);
        }
        let lines = logs.lines_with("in a child's destructor");
        assert_eq!(lines.len(), 20, "{lines:?}");
        assert!(lines.iter().all(|(level, _)| *level == Level::Error));
    });
}

#[test]
fn the_destructor_of_a_child_that_has_returned_may_panic_and_the_join_still_returns() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        for _ in 0..3 {
            let (gate, bomb) = (Gate::new(), Bomb(Some(live.probe()), "after the end"));
            gate.open();
            let mut bomb = Some(bomb);
            group.spawn(live.child(std::future::poll_fn(move |_| {
                let _still_held = &mut bomb;
                Poll::Ready(())
            })));
        }
        assert_eq!(panic_of(|| task::block_on(group.join())), None);
        assert_eq!((live.count(), group.len()), (0, 0));
        assert_eq!(logs.lines_with("after the end").len(), 3);
    });
}

#[test]
fn the_destructor_of_a_panics_payload_may_panic_too() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        for _ in 0..3 {
            let bomb = Bomb(Some(live.probe()), "in a panic's value");
            group.spawn(async move { panic_any(bomb) });
        }
        wait_until(|| group.is_empty());
        assert_eq!(panic_of(|| drop(group)), None);
        live.wait_for(0);
        assert!(logs.lines_with("a value that is not text").len() >= 3);
    });
}
