//! Models of the time limits of a run, which share one timer of the reactor: everything that a task may do with its
//! limit, against the reactor that fires. The tests of `timers.rs` mirror them.

use super::*;
use crate::run::timers::{RunTimer, Timers};
use crate::sync::model::clock::{advance, at};
use crate::sync::model::no_task;
use crate::sync::time;
use crate::sync::waker_set::counting::Count;
use std::task::Context;

/// Returns a timer that is set to this time. Its task was polled already, if `is_polled`.
fn until(timers: &Arc<Timers>, millis: usize, is_polled: bool) -> RunTimer {
    let mut timer = timers.timer();
    timer.set(Some(at(millis)));
    assert!(!is_polled || timer.poll(&mut no_task()).is_pending());
    timer
}

/// Waits for this time as a task does. If the task is never woken, loom reports a deadlock.
fn wait(mut timer: RunTimer, millis: usize) {
    wait_until(|cx| timer.poll(cx));
    assert!(at(millis) <= time::now(), "ready before its time");
}

/// Starts the reactor's thread. It fires at each of these times.
fn reactor<const N: usize>(times: [usize; N]) -> thread::JoinHandle<()> {
    thread::spawn(move || times.into_iter().for_each(advance))
}

#[test]
fn each_task_is_woken_at_its_time_whatever_the_order_in_which_they_wait() {
    model(|| {
        let timers = Timers::new();
        let (later, reactor) = (until(&timers, 2, false), reactor([1, 2]));
        let later = thread::spawn(move || wait(later, 2));
        wait(until(&timers, 1, false), 1);
        later.join().unwrap();
        reactor.join().unwrap();
    });
}

#[test]
fn an_earlier_time_against_the_fire_of_a_later_one_is_not_missed() {
    model(|| {
        let timers = Timers::new();
        let _later = until(&timers, 2, true);
        let reactor = reactor([2, 3]);
        wait(until(&timers, 1, false), 1);
        wait(until(&timers, 3, false), 3); // the reactor's timer is set for it, although that has just fired
        reactor.join().unwrap();
    });
}

#[test]
fn a_timer_that_fires_for_no_task_is_set_for_the_next_one() {
    model(|| {
        let timers = Timers::new();
        let (dropped, next) = (until(&timers, 1, true), until(&timers, 2, false));
        let reactor = reactor([1, 2]);
        let other = thread::spawn(move || drop(dropped));
        wait(next, 2);
        other.join().unwrap();
        reactor.join().unwrap();
    });
}

/// Waits for a time that a task sets after it has waited for `first`.
fn set_again(first: usize, second: usize) {
    let timers = Timers::new();
    let mut timer = until(&timers, first, false);
    let reactor = reactor([1, second]);
    let mut is_set_again = false;
    wait_until(|cx| {
        let waker = cx.waker().clone(); // loom's own waker and its clones have different identities
        let cx = &mut Context::from_waker(&waker);
        if !is_set_again {
            let _early = timer.poll(cx);
            timer.set(Some(at(second)));
            is_set_again = true;
        }
        timer.poll(cx)
    });
    assert!(at(second) <= time::now(), "ready before its time");
    assert!(format!("{timers:?}").contains("waiting: 0"), "its earlier time stayed behind: {timers:?}");
    reactor.join().unwrap();
}

#[test]
fn a_timer_that_is_set_again_forgets_its_earlier_time() {
    model(|| set_again(1, 2));
}

#[test]
fn a_timer_that_is_set_again_to_an_earlier_time_is_not_missed() {
    model(|| set_again(3, 2));
}

#[test]
fn a_task_that_polls_with_another_waker_is_woken_by_that_one() {
    model(|| {
        let timers = Timers::new();
        let mut timer = until(&timers, 1, false);
        let first = Arc::new(Count::default());
        let waker = first.waker();
        assert!(timer.poll(&mut Context::from_waker(&waker)).is_pending());
        let reactor = reactor([1]);
        wait(timer, 1);
        reactor.join().unwrap();
        drop(waker);
        assert_eq!(Arc::strong_count(&first), 1, "a waker stayed behind");
    });
}

/// The reactor may have taken its waker when the run ends, and wakes it when the run is gone.
#[test]
fn nothing_keeps_the_timers_or_a_task_alive() {
    model(|| {
        let timers = Timers::new();
        let (first, mut second) = (until(&timers, 1, true), until(&timers, 2, false));
        let task = Arc::new(Count::default());
        let waker = task.waker();
        assert!(second.poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        let weak = Arc::downgrade(&timers);
        let reactor = reactor([1, 2]);
        drop((first, timers));
        drop(second);
        reactor.join().unwrap();
        assert_eq!(Arc::strong_count(&task), 1, "a waker stayed behind");
        assert!(weak.upgrade().is_none(), "the reactor keeps the timers");
    });
}
