//! Tests of the queue alone: who enters it, with which time, and who is woken. The clock stands for all times: no test
//! waits for one. `run/loom_tests/newcomers.rs` has the models of several threads.

use super::*;
use crate::address::Address;
use crate::listener::{Accepted, Listener, Protocols};
use crate::run::Run;
use crate::run::record::Watch;
use crate::sync::waker_set::counting::Count;
use crate::transport::Transport;
use std::pin::pin;
use std::task::Context;

const HOUR: Duration = Duration::from_secs(3600);

fn accepted() -> Accepted {
    let transport = Transport::boxed(Box::pin(futures_lite::io::Cursor::new(Vec::new())));
    Accepted { transport, peer: Address::named("a peer"), local: None, protocols: Protocols::default() }
}

fn opening(id: u64) -> Arc<ConnectionRecord> {
    Arc::new(ConnectionRecord::new(ConnectionId::new(id), accepted(), Watch::default()))
}

/// Returns the record of a connection whose handler has just begun, and has read nothing.
fn new(id: u64) -> Arc<ConnectionRecord> {
    let record = opening(id);
    record.note_opened();
    record.set_state(ConnectionState::Serving);
    record
}

/// Returns the record of a connection whose handler has read.
fn known(id: u64) -> Arc<ConnectionRecord> {
    let record = new(id);
    record.note_read(1);
    record.note_written(1);
    record
}

/// Begins a drain of these connections.
fn drain(records: &[Arc<ConnectionRecord>], time: Duration, deadline: Option<Instant>, spread: Duration) -> Newcomers {
    let newcomers = Newcomers::default();
    newcomers.prepare(time, deadline);
    newcomers.begin_drain(records, spread);
    newcomers
}

/// Returns the entries: number, time, and whether it is a turn.
fn entries(newcomers: &Newcomers) -> Vec<(u64, Instant, bool)> {
    let queue = lock(&newcomers.queue);
    queue.due.iter().map(|((at, id), entry)| (id.as_u64(), *at, entry.is_turn)).collect()
}

fn are_notified(records: &[Arc<ConnectionRecord>]) -> Vec<bool> {
    records.iter().map(|record| record.draining.is_signalled()).collect()
}

/// Calls `act`. Returns its value, and the moments before and after it.
fn timed<T>(act: impl FnOnce() -> T) -> (T, Instant, Instant) {
    let before = time::now();
    let value = act();
    (value, before, time::now())
}

#[test]
fn a_newcomer_is_entered_with_the_end_of_its_time_and_the_others_are_notified() {
    let records = [new(0), known(1), opening(2)];
    let newcomers = drain(&records, HOUR, None, Duration::ZERO);
    assert_eq!(are_notified(&records), [false, true, false]);
    assert_eq!(entries(&newcomers), [(0, records[0].opened_at() + HOUR, false)], "one that is opening enters later");
    assert_eq!(records.each_ref().map(|record| record.is_spared()), [true, false, true]);
}

#[test]
fn without_a_newcomer_time_or_after_it_there_are_no_newcomers() {
    let records = [new(0), opening(1)];
    let newcomers = drain(&records, Duration::ZERO, None, Duration::ZERO);
    assert_eq!((are_notified(&records), entries(&newcomers)), (vec![true, true], vec![]));
    let time = Duration::from_nanos(1);
    let records = [after(new(0), time)];
    let newcomers = drain(&records, time, None, Duration::ZERO);
    assert_eq!((are_notified(&records), entries(&newcomers)), (vec![true], vec![]));
}

/// Returns the record, once so much time has passed since it was opened.
fn after(record: Arc<ConnectionRecord>, time: Duration) -> Arc<ConnectionRecord> {
    while record.opened_at() + time >= time::now() {}
    record
}

/// Its newcomer time has not begun: it begins with the end of its opening.
#[test]
fn a_connection_that_opens_for_longer_than_the_newcomer_time_is_spared() {
    let time = Duration::from_nanos(1);
    let records = [after(opening(0), time)];
    let newcomers = drain(&records, time, None, Duration::ZERO);
    assert_eq!((are_notified(&records), entries(&newcomers)), (vec![false], vec![]));
    assert!(records[0].is_spared());
}

#[test]
fn a_silent_connection_whose_newcomer_time_is_over_has_its_turn_like_the_others() {
    let time = Duration::from_nanos(1);
    let records = [known(0), after(new(1), time)];
    let newcomers = drain(&records, time, None, HOUR);
    assert_eq!(are_notified(&records), [true, false]);
    assert!(matches!(entries(&newcomers)[..], [(1, _, true)]), "{:?}", entries(&newcomers));
}

/// It was spared by a drain of its own: it keeps its newcomer time.
#[test]
fn a_connection_that_is_spared_already_is_entered() {
    let records = [new(0)];
    assert!(records[0].spare() && !records[0].spare());
    let newcomers = drain(&records, HOUR, None, Duration::ZERO);
    assert_eq!((are_notified(&records), entries(&newcomers).len()), (vec![false], 1));
}

#[test]
fn a_spread_gives_each_connection_its_turn_in_order() {
    let records = [known(0), known(1), known(2), known(3)];
    let (newcomers, before, after) = timed(|| drain(&records, HOUR, None, 4 * HOUR));
    assert_eq!(are_notified(&records), [true, false, false, false], "the first has its turn at once");
    let entries = entries(&newcomers);
    assert_eq!(
        entries.iter().map(|(id, _, is_turn)| (*id, *is_turn)).collect::<Vec<_>>(),
        [(1, true), (2, true), (3, true)]
    );
    for (id, at, _) in entries {
        let turn = HOUR * id as u32;
        assert!(before + turn <= at && at <= after + turn, "{id}: {:?} after the start", at - before);
    }
}

#[test]
fn a_spread_takes_at_most_half_of_the_time_that_is_left() {
    let (records, deadline) = ([known(0), known(1)], time::now() + 4 * HOUR);
    let (newcomers, before, after) = timed(|| drain(&records, HOUR, Some(deadline), 100 * HOUR));
    let at = entries(&newcomers)[0].1;
    // The second of two has its turn at half of the spread: at a quarter of the time that is left.
    assert!(before + (deadline - after) / 4 <= at && at <= after + (deadline - before) / 4, "{:?}", at - before);
}

#[test]
fn a_newcomer_has_at_most_a_quarter_of_the_time_that_is_left() {
    let (records, deadline) = ([new(0)], time::now() + 4 * HOUR);
    let (newcomers, before, after) = timed(|| drain(&records, 100 * HOUR, Some(deadline), Duration::ZERO));
    let at = entries(&newcomers)[0].1;
    assert!(before + (deadline - after) / 4 <= at && at <= after + (deadline - before) / 4, "{:?}", at - before);
    assert_eq!(are_notified(&records), [false]);
}

/// So it is for a connection that was opening when the drain began, and opens after its deadline.
#[test]
fn a_newcomer_that_enters_when_its_time_is_over_is_notified_at_once() {
    for (time, deadline) in [(Duration::ZERO, None), (HOUR, Some(time::now()))] {
        let (records, newcomers) = ([opening(0)], Newcomers::default());
        assert!(records[0].spare());
        newcomers.prepare(time, deadline);
        newcomers.enter(&records[0], time::now());
        assert_eq!((are_notified(&records), entries(&newcomers)), (vec![true], vec![]), "{time:?}");
    }
}

/// A newcomer that is entered already must not keep the time that the first deadline allowed.
#[test]
fn a_deadline_that_comes_nearer_shortens_the_time_of_who_was_entered_before_and_ends_a_spread() {
    let records = [new(0), known(1), known(2), new(3)];
    let newcomers = drain(&records, 100 * HOUR, None, 100 * HOUR);
    lock(&newcomers.queue).due.retain(|(_, id), _| id.as_u64() != 3);
    let soon = time::now() + HOUR / 2; // one whose time is over before the quarter keeps it
    let woken = lock(&newcomers.queue).put(soon, &records[3], false);
    assert!(woken.is_none());
    let deadline = time::now() + 4 * HOUR;
    let (_, before, after) = timed(|| newcomers.hurry(deadline));
    assert_eq!(are_notified(&records), [false, true, true, false], "all turns are now");
    let entries = entries(&newcomers);
    assert_eq!(entries.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [3, 0]);
    assert_eq!(entries[0].1, soon);
    let at = entries[1].1;
    assert!(before + (deadline - after) / 4 <= at && at <= after + (deadline - before) / 4, "{:?}", at - before);
    newcomers.hurry(deadline + 100 * HOUR); // two requests may arrive in the other order
    assert_eq!(lock(&newcomers.queue).deadline, Some(deadline));
}

/// The same through the run, whose connections enter when the drain begins.
#[test]
fn a_later_request_with_a_nearer_deadline_reaches_the_newcomers() {
    let run = Run::new(Listener::memory().0);
    let started = run.start((None, Duration::ZERO), Duration::ZERO).expect("it was not closed");
    let (_, record) = run.registry.enter(accepted(), Watch::default());
    record.note_opened();
    record.set_state(ConnectionState::Serving);
    run.request_within(None);
    run.begin_drain(HOUR, Duration::ZERO);
    assert_eq!(entries(&run.newcomers), [(record.id.as_u64(), record.opened_at() + HOUR, false)]);
    run.request_within(Some(Duration::from_secs(4)));
    let latest = time::now() + Duration::from_secs(1);
    assert!(entries(&run.newcomers)[0].1 <= latest, "it keeps the time that it had without a deadline");
    drop(started);
}

/// Polls the wait for the first entry, and returns the waker with which it waits.
fn waits(wait: Pin<&mut impl Future<Output = ()>>) -> Arc<Count> {
    let task = Arc::new(Count::default());
    assert!(wait.poll(&mut Context::from_waker(&task.waker())).is_pending());
    task
}

#[test]
fn whoever_enters_a_connection_or_moves_the_deadline_wakes_the_wait_for_the_first_entry() {
    let newcomers = drain(&[], HOUR, None, Duration::ZERO);
    let mut wait = pin!(newcomers.notify_when_due());
    let records = [new(0), new(1)];
    let task = waits(wait.as_mut());
    newcomers.enter(&records[0], time::now());
    assert_eq!(task.woken(), 1, "a newcomer has entered");
    let task = waits(wait.as_mut());
    newcomers.put(time::now() + HOUR, &records[1], true);
    assert_eq!(task.woken(), 1, "a turn was entered");
    let task = waits(wait.as_mut());
    newcomers.hurry(time::now() + HOUR);
    assert_eq!(task.woken(), 1, "the deadline is nearer");
}

#[test]
fn the_wait_notifies_those_whose_time_is_over_and_sets_its_timer_for_the_next() {
    let newcomers = drain(&[], HOUR, None, Duration::ZERO);
    let mut wait = pin!(newcomers.notify_when_due());
    let records = [new(0), new(1), known(2), new(3)];
    assert!(records[..2].iter().chain(&records[3..]).all(|record| record.spare()));
    let far = time::now() + HOUR;
    newcomers.put(far, &records[3], false);
    let task = waits(wait.as_mut());
    let past = time::now();
    newcomers.put(past, &records[0], false);
    newcomers.put(past, &records[1], false);
    newcomers.put(past, &records[2], true);
    assert_eq!(task.woken(), 1);
    let task = waits(wait.as_mut());
    assert_eq!(are_notified(&records), [true, true, true, false]);
    assert_eq!(entries(&newcomers), [(3, far, false)]);
    // The timer is set for the last one. One that is due sooner sets it again, and it fires.
    newcomers.put(time::now() + Duration::from_millis(20), &records[3], false);
    assert_eq!(task.woken(), 1);
    let task = waits(wait.as_mut());
    let start = Instant::now();
    while task.woken() == 0 && !records[3].draining.is_signalled() {
        assert!(start.elapsed() < Duration::from_secs(60), "the timer was not set for the first entry");
        std::thread::yield_now();
    }
    waits(wait.as_mut());
    assert!(records[3].draining.is_signalled());
}
