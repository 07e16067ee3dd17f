//! Models of a run: requests against the last end, phases against their waiters, the drain against the first read and
//! the answer, aborts against the connection's task. Below: its time limits, its newcomers, and its registry.
//!
//! The tests of the rules R1, R3, R5, R6 and R9 in `tests/behaviour` mirror them on a real executor.

mod newcomers;
mod registry;
mod timers;

use super::completion::CompletionGuard;
use super::dialogue::Dialogue;
use super::handle::Handle;
use super::phases::{Phases, Reached};
use super::record::{AbortReason, ConnectionRecord, Watch};
use super::registry::ConnectionId;
use super::*;
use crate::address::Address;
use crate::listener::{Accepted, Listener, Protocols};
use crate::sync::model::{bounded, model, wait_for, wait_until};
use crate::transport::Transport;
use futures_core::Stream;
use loom::thread;
use std::pin::pin;
use std::task::Poll;

fn run() -> Arc<Run> {
    Run::new(Listener::memory().0)
}

/// A run that serves: without its accept loops and its supervisor, so that the returned guard is the last one.
pub(crate) fn serving() -> (Arc<Run>, CompletionGuard) {
    serving_on(Executor::default())
}

/// The same, with the executor of its connections' tasks.
pub(crate) fn serving_on(executor: Executor) -> (Arc<Run>, CompletionGuard) {
    let run = run();
    run.set_executor(executor);
    let (unserved, listeners) = run.start((None, Duration::ZERO), Duration::ZERO).expect("it was not closed");
    let guard = run.completion_guard().expect("it is open");
    drop((listeners, unserved));
    (run, guard)
}

fn in_thread<T: Send + 'static>(
    run: &Arc<Run>,
    act: impl FnOnce(&Arc<Run>) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let run = Arc::clone(run);
    thread::spawn(move || act(&run))
}

fn closed(run: &Arc<Run>) -> Report {
    wait_for(Handle::new(Arc::clone(run)).closed())
}

#[test]
fn r01_a_shutdown_against_a_cancel_of_a_server_that_never_served_closes_it_once() {
    bounded(2, || {
        let run = run();
        let cancel = in_thread(&run, |run| run.cancel(Cause::Dropped));
        run.request(Cause::Shutdown);
        assert_eq!(run.phase(), Phase::Closed, "closed when the request returns, whichever thread closes it");
        assert_eq!(run.listening.load(Ordering::Acquire), 0, "a listening socket was left open");
        assert!(matches!(closed(&run).cause(), Cause::Shutdown | Cause::Dropped));
        cancel.join().unwrap();
    });
}

#[test]
fn r01_a_shutdown_against_the_start_is_carried_out_by_one_of_them() {
    bounded(2, || {
        let run = run();
        let request = in_thread(&run, |run| run.request(Cause::Shutdown));
        match run.start((None, Duration::ZERO), Duration::ZERO) {
            Some(started) => {
                wait_for(run.requested.wait()); // as the supervisor does
                drop(started);
            }
            None => assert!(run.requested.is_signalled() || run.cause().is_some()),
        }
        assert_eq!(closed(&run).cause(), Cause::Shutdown);
        request.join().unwrap();
    });
}

#[test]
fn r09_the_last_end_against_a_shutdown_is_in_the_report() {
    model(|| {
        let (run, guard) = serving();
        run.counters.accepted();
        let connection = in_thread(&run, move |run| {
            run.counters.ended(end_reason::EndReason::Completed, false);
            drop(guard);
        });
        let other = in_thread(&run, |run| run.request(Cause::Shutdown));
        let report = closed(&run);
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
        connection.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn r09_two_last_ends_write_one_report_with_both() {
    model(|| {
        let (run, guard) = serving();
        run.request(Cause::Shutdown);
        let end = |guard: CompletionGuard| {
            in_thread(&run, move |run| {
                run.counters.accepted();
                run.counters.ended(end_reason::EndReason::Failed, true);
                drop(guard);
            })
        };
        let ends = [end(guard.clone()), end(guard)];
        let report = closed(&run);
        assert_eq!((report.accepted(), report.failed()), (2, 2), "{report}");
        ends.into_iter().for_each(|end| end.join().unwrap());
    });
}

#[test]
fn r03_a_task_that_is_spawned_against_the_last_end_is_refused_or_waited_for() {
    model(|| {
        let (run, guard) = serving();
        run.request(Cause::Shutdown);
        let last = thread::spawn(move || drop(guard));
        if let Some(guard) = run.completion_guard() {
            assert_ne!(run.phase(), Phase::Closed, "the run is open as long as there is a guard");
            drop(guard);
        }
        assert_eq!(closed(&run).cause(), Cause::Shutdown);
        assert!(run.completion_guard().is_none(), "nothing waits for a guard after the close");
        last.join().unwrap();
    });
}

#[test]
fn r09_who_asks_late_for_the_report_gets_it_at_once() {
    model(|| {
        let (run, guard) = serving();
        run.request(Cause::Shutdown);
        let early = in_thread(&run, closed);
        drop(guard);
        let late = closed(&run);
        assert_eq!(late, early.join().unwrap());
        assert_eq!(closed(&run), late);
        run.cancel(Cause::Cancel); // no effect
        assert_eq!(closed(&run), late);
    });
}

#[test]
fn a_wait_for_a_phase_against_the_change_ends() {
    model(|| {
        let (run, guard) = serving();
        let supervisor = in_thread(&run, |run| {
            run.advance(Phase::Draining);
            run.advance(Phase::Cancelling);
        });
        wait_for(Reached::new(Arc::clone(&run), Phase::Draining));
        assert!(run.phase() >= Phase::Draining);
        supervisor.join().unwrap();
        drop(guard);
    });
}

#[test]
fn the_stream_of_phases_against_their_changes_yields_each_once_and_in_order() {
    bounded(2, || {
        let (run, guard) = serving();
        let supervisor = in_thread(&run, move |run| {
            run.request(Cause::Shutdown);
            run.advance(Phase::Draining);
            drop(guard);
        });
        let mut phases = pin!(Phases::new(Arc::clone(&run)));
        let mut seen = Vec::new();
        while let Some(phase) = wait_until(|cx| phases.as_mut().poll_next(cx)) {
            seen.push(phase);
        }
        assert!(seen.is_sorted_by(|before, after| before < after), "{seen:?}");
        assert_eq!(seen.last(), Some(&Phase::Closed));
        supervisor.join().unwrap();
    });
}

#[test]
fn a_phase_that_two_threads_enter_is_entered_by_one() {
    model(|| {
        let (run, guard) = serving();
        let other = in_thread(&run, |run| run.enter(Phase::Draining));
        let own = run.enter(Phase::Cancelling);
        assert!(own, "a later phase may always follow");
        let _either = other.join().unwrap();
        assert_eq!(run.phase(), Phase::Cancelling, "a phase never goes back");
        drop(guard);
    });
}

#[test]
fn r05_the_first_read_against_the_drain_notifies_the_handler_exactly_once() {
    model(|| {
        let dialogue = Arc::new(Dialogue::default());
        let reader = Arc::clone(&dialogue);
        let read = thread::spawn(move || reader.ask());
        // A silent handler is spared. One that has read is notified by the drain itself.
        let by_the_drain = !dialogue.spare();
        let by_the_end_of_its_time = !by_the_drain && dialogue.end_newcomer_time();
        let by_its_read = read.join().unwrap();
        let notified = [by_the_drain, by_the_end_of_its_time, by_its_read];
        assert_eq!(notified.into_iter().filter(|by| *by).count(), 1, "{notified:?}");
    });
}

fn accepted() -> Accepted {
    let transport = Transport::boxed(Box::pin(futures_lite::io::Cursor::new(Vec::new())));
    Accepted { transport, peer: Address::named("a peer"), local: None, protocols: Protocols::default() }
}

fn record(id: u64) -> Arc<ConnectionRecord> {
    Arc::new(ConnectionRecord::new(ConnectionId::new(id), accepted(), Watch::default()))
}

#[test]
fn r05_a_wait_for_the_answer_against_the_answer_ends() {
    model(|| {
        let record = record(0);
        record.note_read(1);
        record.notify_of_drain();
        let handler = Arc::clone(&record);
        let handler = thread::spawn(move || handler.note_written(1));
        wait_until(|cx| record.poll_answered(cx));
        handler.join().unwrap();
    });
}

/// The handler's answer may not see that the drain has begun, and so wakes no task. Then a task that was notified of the
/// drain must see the answer.
#[test]
fn r05_a_wait_for_the_answer_against_the_drain_and_the_answer_ends() {
    model(|| {
        let record = record(0);
        record.note_read(1);
        let handler = Arc::clone(&record);
        let handler = thread::spawn(move || handler.note_written(1));
        let drain = Arc::clone(&record);
        let drain = thread::spawn(move || drain.notify_of_drain());
        wait_for(record.draining.wait());
        wait_until(|cx| record.poll_answered(cx));
        handler.join().unwrap();
        drain.join().unwrap();
    });
}

#[test]
fn r03_a_wait_of_a_clone_against_the_return_of_the_handler_ends() {
    model(|| {
        let record = record(0);
        let task = Arc::clone(&record);
        let task = thread::spawn(move || task.end_reads());
        wait_for(record.returned());
        assert!(record.has_returned());
        task.join().unwrap();
    });
}

/// Waits as the connection's task does: it looks after it became the primary task.
fn aborted(record: &ConnectionRecord) {
    wait_until(|cx| {
        record.draining.set_primary(cx.waker());
        match record.is_aborted() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    });
}

#[test]
fn r06_a_cancel_against_the_panic_of_a_task_wakes_the_connection_and_wins() {
    model(|| {
        let record = record(0);
        let abort = |reason| {
            let record = Arc::clone(&record);
            thread::spawn(move || record.abort(reason))
        };
        let threads = [abort(AbortReason::TaskPanicked("a panic".to_owned())), abort(AbortReason::Exit)];
        aborted(&record);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(matches!(record.abort_reason(), Some(AbortReason::Exit)), "{:?}", record.abort_reason());
        assert!(record.is_cancelled());
    });
}

#[test]
fn r06_of_two_cancels_the_first_stays() {
    model(|| {
        let record = record(0);
        let other = Arc::clone(&record);
        let other = thread::spawn(move || other.abort(AbortReason::Exit));
        record.abort(AbortReason::CancelledById);
        let first = matches!(record.abort_reason(), Some(AbortReason::CancelledById));
        other.join().unwrap();
        assert_eq!(matches!(record.abort_reason(), Some(AbortReason::CancelledById)), first);
        assert!(record.is_cancelled());
    });
}

#[test]
fn r06_a_look_at_the_drain_of_one_connection_hides_no_cancel() {
    model(|| {
        let record = record(0);
        let other = Arc::clone(&record);
        let drain =
            super::record::DrainAlone { deadline: Instant::now(), reason: end_reason::EndReason::CancelledById };
        let drainer = thread::spawn(move || other.drain_alone(drain));
        let other = Arc::clone(&record);
        let canceller = thread::spawn(move || other.abort(AbortReason::CancelledById));
        while !record.is_cancelled() {
            aborted(&record);
            if record.take_look() {
                assert!(record.alone().is_some(), "the mark was set before the drain was there");
            }
        }
        drainer.join().unwrap();
        canceller.join().unwrap();
        assert!(record.is_cancelled(), "a mark to look replaced a cancel");
    });
}
