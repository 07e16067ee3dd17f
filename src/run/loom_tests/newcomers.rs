//! Models of the queue of newcomers: the first read, the end of the newcomer time, the connection's end and a nearer
//! deadline against each other. The tests of `tests/behaviour/r05_newcomers.rs` mirror them.

use super::*;
use crate::run::newcomers::Newcomers;
use crate::run::state::ConnectionState;
use crate::sync::model::clock::{advance, at};
use crate::sync::model::no_task;
use crate::sync::time;

/// Returns the record of a connection whose handler runs and has read nothing. The client could send since now.
fn serving_record(id: u64) -> Arc<ConnectionRecord> {
    let record = record(id);
    record.note_opened();
    record.set_state(ConnectionState::Serving);
    record
}

/// Begins a drain of these connections, which are all newcomers for `millis`.
fn draining(records: &[Arc<ConnectionRecord>], millis: u64, deadline: Option<Instant>) -> Arc<Newcomers> {
    let newcomers = Arc::new(Newcomers::default());
    newcomers.prepare(Duration::from_millis(millis), deadline);
    newcomers.begin_drain(records, Duration::ZERO);
    assert!(records.iter().all(|record| record.is_spared()));
    newcomers
}

/// Notifies newcomers when their times are over, as the supervisor does, until `event` is signalled.
fn supervise(newcomers: &Newcomers, event: &Event) {
    let mut notify = pin!(newcomers.notify_when_due());
    let mut end = event.listen();
    wait_until(|cx| match notify.as_mut().poll(cx) {
        Poll::Ready(()) => unreachable!(),
        Poll::Pending => end.poll(cx),
    });
}

fn supervisor(newcomers: &Arc<Newcomers>, until: &Arc<ConnectionRecord>) -> thread::JoinHandle<()> {
    let (newcomers, record) = (Arc::clone(newcomers), Arc::clone(until));
    thread::spawn(move || supervise(&newcomers, &record.draining))
}

#[test]
fn r05_the_end_of_the_newcomer_time_does_not_count_as_an_answer_to_the_first_request() {
    model(|| {
        let record = serving_record(0);
        let newcomers = draining(&[Arc::clone(&record)], 1, None);
        let supervisor = supervisor(&newcomers, &record);
        let handler = Arc::clone(&record);
        let handler = thread::spawn(move || handler.note_read(1));
        advance(1);
        supervisor.join().unwrap();
        handler.join().unwrap();
        assert!(!record.is_spared());
        assert!(record.poll_answered(&mut no_task()).is_pending(), "the answer to the first request is lost");
    });
}

#[test]
fn r05_a_silent_newcomer_is_notified_when_its_time_is_over() {
    model(|| {
        let record = serving_record(0);
        let newcomers = draining(&[Arc::clone(&record)], 1, None);
        let supervisor = supervisor(&newcomers, &record);
        wait_for(async {
            assert!(!record.draining.is_signalled(), "notified before its time");
            advance(1);
            record.draining.wait().await;
        });
        supervisor.join().unwrap();
    });
}

#[test]
fn r05_a_connection_that_opened_late_does_not_delay_the_notice_of_another() {
    model(|| {
        advance(1);
        let (late, early) = (serving_record(1), record(0));
        assert!(early.spare(), "it is still opening");
        let newcomers = draining(&[Arc::clone(&late)], 2, None);
        let supervisor = supervisor(&newcomers, &early);
        let enters = (Arc::clone(&newcomers), Arc::clone(&early));
        let task = thread::spawn(move || enters.0.enter(&enters.1, at(0)));
        advance(2);
        supervisor.join().unwrap();
        task.join().unwrap();
        assert!(!late.draining.is_signalled(), "notified before its time");
    });
}

#[test]
fn r05_the_end_of_a_connection_against_the_end_of_its_newcomer_time_leaves_the_others_in_the_queue() {
    model(|| {
        let (ends, stays) = (serving_record(0), serving_record(1));
        let newcomers = draining(&[Arc::clone(&ends), Arc::clone(&stays)], 1, None);
        let weak = Arc::downgrade(&ends);
        let supervisor = supervisor(&newcomers, &stays);
        let task = thread::spawn(move || {
            ends.end_newcomer_time(); // as the connection's task does when its handler has ended
            drop(ends);
        });
        advance(1);
        supervisor.join().unwrap();
        task.join().unwrap();
        assert!(weak.upgrade().is_none(), "the queue keeps a connection that has ended");
    });
}

/// A newcomer that entered the queue while a request brought the deadline nearer could be notified as late as the old
/// deadline allowed: after the new one, when its handler had been cut. `enter` took the lock twice: for the deadline,
/// and to enter the time that it had computed from it.
#[test]
fn a_nearer_deadline_also_holds_for_newcomers() {
    model(|| {
        let record = record(0);
        assert!(record.spare());
        let newcomers = draining(&[], 100, Some(at(1000)));
        let enters = (Arc::clone(&newcomers), Arc::clone(&record));
        let task = thread::spawn(move || enters.0.enter(&enters.1, time::now()));
        newcomers.hurry(at(40));
        task.join().unwrap();
        advance(10); // a quarter of the time that is left
        supervise(&newcomers, &record.draining);
    });
}

#[test]
fn a_nearer_deadline_against_the_begin_of_the_drain_also_holds_for_newcomers() {
    bounded(2, || {
        let (run, guard) = serving();
        let (key, record) = run.registry.enter(accepted(), Watch::default());
        record.set_state(ConnectionState::Serving);
        run.request_within(Some(Duration::from_millis(1000)));
        let request = in_thread(&run, |run| run.request_within(Some(Duration::from_millis(40))));
        run.begin_drain(Duration::from_millis(100), Duration::ZERO);
        request.join().unwrap();
        advance(10);
        supervise(&run.newcomers, &record.draining);
        run.registry.leave(key);
        drop(guard);
    });
}

#[test]
fn a_later_request_against_the_wait_for_the_deadline_brings_it_nearer() {
    bounded(2, || {
        let (run, guard) = serving();
        run.request_within(Some(Duration::from_millis(1000)));
        let request = in_thread(&run, |run| {
            run.request_within(Some(Duration::from_millis(10)));
            advance(10);
        });
        wait_for(run.deadline_passed());
        assert_eq!(run.deadline(), Some(at(10)));
        request.join().unwrap();
        drop(guard);
    });
}
