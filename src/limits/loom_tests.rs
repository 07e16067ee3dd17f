//! Models of the permits: every way to free one against the loops that wait. The tests of `limits.rs` and
//! `tests/behaviour/limits.rs` mirror them.

use super::*;
use crate::sync::model::{model, no_task, wait_until};
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::thread;

fn limit(max: usize) -> Arc<ConnectionLimit> {
    let limit = ConnectionLimit::new();
    limit.set_max(max);
    limit
}

/// Waits for a permit, as an accept loop does.
fn permit(limit: &Arc<ConnectionLimit>, mut turn: Turn) -> Permit {
    wait_until(|cx| limit.poll_acquire(cx, &mut turn)).keep().0
}

fn at_once(limit: &Arc<ConnectionLimit>) -> Permit {
    match limit.try_acquire() {
        Attempt::Permit(permit) => permit,
        Attempt::Undecided | Attempt::Full => panic!("a permit is free"),
    }
}

#[test]
fn a_permit_that_comes_back_against_a_wait_wakes_the_loop() {
    model(|| {
        let limit = limit(1);
        let held = at_once(&limit);
        let connection = thread::spawn(move || drop(held));
        drop(permit(&limit, Turn::default()));
        connection.join().unwrap();
        assert_eq!(limit.used(), 0);
    });
}

#[test]
fn two_loops_against_a_raised_limit_both_get_their_turn_and_never_exceed_it() {
    model(|| {
        let limit = limit(0);
        let open = Arc::new(AtomicUsize::new(0));
        let serve = |limit: &Arc<ConnectionLimit>, open: &AtomicUsize| {
            let permit = permit(limit, Turn::default());
            assert_eq!(open.fetch_add(1, SeqCst), 0, "more connections than permits");
            open.fetch_sub(1, SeqCst);
            drop(permit);
        };
        let other = {
            let (limit, open) = (Arc::clone(&limit), Arc::clone(&open));
            thread::spawn(move || serve(&limit, &open))
        };
        let operator = {
            let limit = Arc::clone(&limit);
            thread::spawn(move || limit.set_max(1))
        };
        serve(&limit, &open);
        other.join().unwrap();
        operator.join().unwrap();
        assert_eq!(limit.used(), 0);
    });
}

#[test]
fn a_lowered_limit_against_a_permit_that_comes_back_is_not_exceeded() {
    model(|| {
        let limit = limit(2);
        let (first, second) = (at_once(&limit), at_once(&limit));
        let operator = {
            let limit = Arc::clone(&limit);
            thread::spawn(move || limit.set_max(1))
        };
        drop(first);
        operator.join().unwrap();
        assert!(matches!(limit.try_acquire(), Attempt::Full), "the one permit is in use");
        drop(second);
        drop(at_once(&limit));
        assert_eq!(limit.used(), 0);
    });
}

#[test]
fn a_pause_against_a_resume_leaves_no_loop_asleep() {
    model(|| {
        let limit = limit(1);
        let pause = |limit: &Arc<ConnectionLimit>, paused| {
            let limit = Arc::clone(limit);
            thread::spawn(move || limit.set_paused(paused))
        };
        let (paused, resumed) = (pause(&limit, true), pause(&limit, false));
        let mut turn = Turn::default();
        let early = limit.poll_acquire(&mut no_task(), &mut turn).is_ready();
        limit.leave(&mut turn);
        let (paused_before, _) = (paused.join().unwrap(), resumed.join().unwrap());
        assert!(!paused_before, "it was not paused before");
        if limit.is_paused() {
            assert!(!limit.admits());
            limit.set_paused(false);
        }
        assert!(limit.admits() || early);
        drop(permit(&limit, Turn::default()));
        assert_eq!(limit.used(), 0);
    });
}

#[test]
fn a_resume_against_a_wait_wakes_the_loop() {
    model(|| {
        let limit = limit(1);
        limit.set_paused(true);
        let operator = {
            let limit = Arc::clone(&limit);
            thread::spawn(move || limit.set_paused(false))
        };
        drop(permit(&limit, Turn::default()));
        assert!(operator.join().unwrap());
    });
}

#[test]
fn a_called_loop_that_leaves_calls_the_one_that_stands_back_for_it() {
    model(|| {
        let limit = limit(1);
        let held = at_once(&limit);
        let leaver = {
            let limit = Arc::clone(&limit);
            thread::spawn(move || {
                let mut turn = Turn::default(); // it has had no client, so it is the first
                let _trial = limit.poll_acquire(&mut no_task(), &mut turn);
                limit.leave(&mut turn); // as the drop of an accept loop does
            })
        };
        let connection = thread::spawn(move || drop(held));
        drop(permit(&limit, Turn::since(5)));
        leaver.join().unwrap();
        connection.join().unwrap();
        assert_eq!(limit.used(), 0);
    });
}

#[test]
fn a_permit_on_trial_that_comes_back_wakes_the_next_loop() {
    model(|| {
        let limit = limit(1);
        let listener_without_a_client = {
            let limit = Arc::clone(&limit);
            thread::spawn(move || {
                let mut turn = Turn::default();
                let trial = limit.poll_acquire(&mut no_task(), &mut turn);
                drop(trial);
                limit.leave(&mut turn);
            })
        };
        drop(permit(&limit, Turn::since(5)));
        listener_without_a_client.join().unwrap();
        assert_eq!(limit.used(), 0);
    });
}
