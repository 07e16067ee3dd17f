//! Tests of a record alone: each flag as its writers and readers use it, one after the other. `run/loom_tests.rs` has
//! the models of several threads.

use super::*;
use crate::listener::Protocols;
use crate::sync::waker_set::counting::Count;
use std::sync::Arc;

fn record(watch: &[u8]) -> ConnectionRecord {
    let transport = Transport::boxed(Box::pin(futures_lite::io::Cursor::new(Vec::new())));
    let peer = Address::named("a peer");
    let mut watched = Watch::default();
    watch.iter().for_each(|what| watched.set(*what, true));
    let accepted = Accepted { transport, peer, local: None, protocols: Protocols::default() };
    ConnectionRecord::new(ConnectionId::new(7), accepted, watched)
}

#[test]
fn each_thing_that_is_watched_is_set_and_cleared_alone() {
    let all = [Watch::IDLE, Watch::WRITES, Watch::BYTES];
    for what in all {
        let mut watch = Watch::default();
        for times in 0..2 {
            watch.set(what, true);
            assert!(all.iter().all(|other| watch.has(*other) == (*other == what)), "{what}, set {times} times before");
        }
        all.iter().for_each(|other| watch.set(*other, true));
        for times in 0..2 {
            watch.set(what, false);
            assert!(all.iter().all(|other| watch.has(*other) != (*other == what)), "{what}, cleared {times} times");
        }
    }
}

#[test]
fn each_use_is_noted_alone_and_the_first_time_is_known() {
    let record = record(&[]);
    assert!(record.note_undelivered() && !record.note_undelivered());
    record.note_given_eof();
    assert!(!record.is_lent(), "another use counted as lending the socket");
    assert!(record.claim_framing() && !record.claim_framing());
    record.release_framing();
    assert!(record.claim_framing(), "the reader that has released it is still there");
    assert!(record.lend_tcp().is_none(), "this stream is no TCP socket");
    assert!(record.is_lent() && !record.note_undelivered() && !record.claim_framing());
}

#[test]
fn an_error_that_the_stream_gave_is_recognised_by_its_kind_and_the_first_reason_stays() {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let new = record(&[]);
    assert_eq!(new.given(ConnectionReset), None);
    for reason in [EndReason::Disconnected, EndReason::Failed] {
        new.note_given(ConnectionReset, reason);
        new.note_given(BrokenPipe, EndReason::Failed);
    }
    assert_eq!(new.given(ConnectionReset), Some(EndReason::Disconnected));
    assert_eq!(new.given(BrokenPipe), Some(EndReason::Failed));
    assert_eq!(new.given(UnexpectedEof), None, "no read has returned EOF");
    new.note_given_eof();
    assert_eq!((new.given(UnexpectedEof), new.saw_eof()), (Some(EndReason::Disconnected), false));
    let ended = record(&[]);
    ended.note_eof();
    assert_eq!((ended.given(UnexpectedEof), ended.saw_eof()), (Some(EndReason::Disconnected), true));
    assert_eq!(ended.given(BrokenPipe), None);
}

#[test]
fn a_write_waits_from_its_first_wait_to_its_end() {
    let plain = record(&[Watch::IDLE, Watch::BYTES]);
    plain.note_write_waits();
    assert_eq!(plain.write_waits_since(), None, "noted although there is no write timeout");
    let watched = record(&[Watch::WRITES]);
    assert_eq!(watched.write_waits_since(), None);
    watched.note_write_waits();
    let since = watched.write_waits_since().expect("a write waits");
    assert!(watched.since < since && since <= Instant::now());
    watched.note_write_waits();
    assert_eq!(watched.write_waits_since(), Some(since), "a second wait moved the time");
    watched.note_write_done();
    assert_eq!(watched.write_waits_since(), None);
    watched.note_write_waits();
    watched.note_written(1);
    assert_eq!(watched.write_waits_since(), None, "bytes were written");
}

#[test]
fn bytes_are_counted_for_each_direction_and_only_if_asked() {
    let plain = record(&[Watch::IDLE, Watch::WRITES]);
    plain.note_read(3);
    assert_eq!(plain.bytes(), None);
    let counted = record(&[Watch::BYTES]);
    assert_eq!(counted.bytes(), Some((0, 0)));
    counted.note_read(3);
    counted.note_written(40);
    counted.note_read(500);
    assert_eq!(counted.bytes(), Some((503, 40)));
    assert_eq!(counted.last_byte(), counted.since, "the time is kept for an idle timeout only");
}

#[test]
fn a_record_knows_when_the_last_byte_has_passed() {
    let record = record(&[Watch::IDLE]);
    assert_eq!(record.last_byte(), record.since);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(5) {
        std::thread::yield_now();
    }
    assert!(record.silence().is_some_and(|silence| silence >= Duration::from_millis(5)), "{:?}", record.silence());
    record.note_read(1);
    let read = record.last_byte();
    assert!(start < read && read <= Instant::now());
    record.note_written(1);
    assert!(read <= record.last_byte() && record.last_byte() <= Instant::now());
}

#[test]
fn a_label_follows_the_name_escaped_and_shortened() {
    let record = record(&[]);
    let name = record.to_string();
    assert_eq!((record.label(), record.shown_label()), (None, String::new()));
    record.set_label("first".into());
    record.set_label("a\nb".into());
    assert_eq!(record.label().as_deref(), Some("a\nb"));
    assert_eq!(record.to_string(), format!("{name} (`a\\nb`)"));
    for (length, shown) in [(100, "x".repeat(100)), (101, "x".repeat(100) + "…")] {
        assert_eq!(Label(&"x".repeat(length)).to_string(), shown);
    }
}

#[test]
fn clones_learn_of_each_step_of_the_end() {
    for has_clones in [false, true] {
        let record = record(&[]);
        assert_eq!((record.has_returned(), record.has_ended(), record.is_shut_down()), (false, false, false));
        if has_clones {
            record.end_reads();
            assert_eq!((record.has_returned(), record.has_ended()), (true, false));
            assert!(record.draining.is_signalled());
        }
        record.end(has_clones);
        assert_eq!((record.has_returned(), record.has_ended()), (true, true));
        assert_eq!(record.draining.is_signalled(), has_clones, "signalled, and there is no clone");
        record.shut_down();
        assert!(record.is_shut_down());
    }
}

/// Returns the abort after two requests: the first letters of their names.
fn after(first: AbortReason, second: AbortReason) -> (String, bool) {
    let record = record(&[]);
    let task = Arc::new(Count::default());
    for (n, reason) in [first, second].into_iter().enumerate() {
        record.draining.set_primary(&task.waker());
        record.abort(reason);
        assert_eq!(task.woken(), n + 1, "the connection's task is woken by each request");
        assert!(record.is_aborted() && !record.take_look());
    }
    (format!("{:?}", record.abort_reason().expect("there is an abort")), record.is_cancelled())
}

#[test]
fn a_cancel_overrides_what_is_no_cancel_and_the_first_cancel_stays() {
    use AbortReason::{CancelledById, Exit, Vanished};
    let panicked = || AbortReason::TaskPanicked("one".to_owned());
    let panicked_again = || AbortReason::TaskPanicked("two".to_owned());
    let cases = [
        (panicked(), panicked_again(), "TaskPanicked(\"one\")", false),
        (panicked(), Vanished, "Vanished", false),
        (panicked(), CancelledById, "CancelledById", true),
        (panicked(), Exit, "Exit", true),
        (Vanished, panicked(), "Vanished", false),
        (Vanished, Vanished, "Vanished", false),
        (Vanished, CancelledById, "CancelledById", true),
        (Vanished, Exit, "Exit", true),
        (CancelledById, panicked(), "CancelledById", true),
        (CancelledById, Vanished, "CancelledById", true),
        (CancelledById, Exit, "CancelledById", true),
        (Exit, panicked(), "Exit", true),
        (Exit, Vanished, "Exit", true),
        (Exit, CancelledById, "Exit", true),
    ];
    for (first, second, stays, is_cancelled) in cases {
        let what = format!("{first:?}, then {second:?}");
        assert_eq!(after(first, second), (stays.to_owned(), is_cancelled), "{what}");
    }
}

#[test]
fn the_task_looks_once_at_a_drain_of_its_connection_and_an_abort_stays() {
    let record = record(&[]);
    assert!(!record.is_aborted() && !record.take_look() && record.alone().is_none());
    let first = DrainAlone { deadline: Instant::now(), reason: EndReason::Age };
    record.drain_alone(first);
    record.drain_alone(DrainAlone { reason: EndReason::DrainedById, ..first });
    assert!(record.is_aborted() && !record.is_cancelled() && record.abort_reason().is_none());
    assert!(record.take_look() && !record.take_look() && !record.is_aborted());
    assert_eq!(record.alone(), Some(first));
    record.abort(AbortReason::Vanished);
    record.drain_alone(first);
    assert!(!record.take_look() && matches!(record.abort_reason(), Some(AbortReason::Vanished)));
}
