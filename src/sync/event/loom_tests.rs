//! Models of an event: the signal against each kind of wait. `waker_set.rs` and the tests of `event.rs` mirror them.

use super::*;
use crate::sync::atomic::AtomicBool;
use crate::sync::model::{model, no_task, wait_for, wait_until};
use loom::thread;
use std::sync::Arc;

fn signalled_by_another_thread() -> (Arc<Event>, thread::JoinHandle<bool>) {
    let event = Arc::new(Event::default());
    let signaller = Arc::clone(&event);
    (event, thread::spawn(move || signaller.signal()))
}

#[test]
fn a_wait_against_the_signal_ends() {
    model(|| {
        let (event, signaller) = signalled_by_another_thread();
        wait_for(event.wait());
        assert!(event.is_signalled());
        assert!(event.poll(&mut no_task(), &mut None).is_ready(), "a wait after the event is ready at once");
        assert!(signaller.join().unwrap(), "it was the first signal");
    });
}

#[test]
fn a_wait_that_is_dropped_against_the_signal_loses_no_other_wait() {
    model(|| {
        let (event, signaller) = signalled_by_another_thread();
        let dropped = Arc::clone(&event);
        let other = thread::spawn(move || {
            let mut key = None;
            let _first_look = dropped.poll(&mut no_task(), &mut key);
            dropped.forget(&mut key);
        });
        wait_for(event.wait());
        other.join().unwrap();
        signaller.join().unwrap();
    });
}

#[test]
fn one_of_two_signals_is_the_first_and_both_wake() {
    model(|| {
        let (event, signaller) = signalled_by_another_thread();
        let own = event.signal();
        wait_for(event.wait());
        assert_ne!(own, signaller.join().unwrap());
    });
}

#[test]
fn a_primary_task_that_looks_after_it_became_primary_misses_no_wake() {
    model(|| {
        let event = Arc::new(Event::default());
        let aborted = Arc::new(AtomicBool::new(false));
        let aborter = {
            let (event, aborted) = (Arc::clone(&event), Arc::clone(&aborted));
            thread::spawn(move || {
                aborted.store(true, Ordering::Release);
                event.wake_primary();
            })
        };
        wait_until(|cx| {
            event.set_primary(cx.waker());
            match aborted.load(Ordering::Acquire) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        aborter.join().unwrap();
    });
}

#[test]
fn a_wake_of_the_primary_task_against_the_signal_loses_neither() {
    model(|| {
        let (event, signaller) = signalled_by_another_thread();
        let waker = Arc::clone(&event);
        let other = thread::spawn(move || waker.wake_primary());
        let mut place = EventPlace::default();
        wait_until(|cx| {
            event.set_primary(cx.waker());
            place.poll(&event, cx)
        });
        signaller.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn what_arrived_before_the_signal_is_found_by_a_wait_until_the_event() {
    model(|| {
        let event = Arc::new(Event::default());
        let arrived = Arc::new(AtomicBool::new(false));
        let peer = {
            let (event, arrived) = (Arc::clone(&event), Arc::clone(&arrived));
            thread::spawn(move || {
                arrived.store(true, Ordering::Release); // no wake-up: only the signal wakes
                event.signal();
            })
        };
        let mut place = EventPlace::default();
        let found = wait_until(|cx| {
            event.set_primary(cx.waker());
            event.poll_until(cx, &mut place, |_| match arrived.load(Ordering::Acquire) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
        });
        assert!(found.is_some(), "the event hid what had arrived before it");
        peer.join().unwrap();
    });
}
