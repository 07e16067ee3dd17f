//! Lingering close: how a connection ends so that its last bytes arrive.
//!
//! If a socket is closed while bytes of the peer are unread, or still on their way, the system resets the connection,
//! and the reset can overtake the reply. So the connection is half-closed first. Then what the peer still sends is read
//! and discarded for some time, as Apache and nginx do. A peer that reads slowly, or pauses, is waited for as long as
//! it makes progress: bytes that the kernel has accepted from us have not yet arrived.
//!
//! | wait for | at most | at most, in a drain |
//! |---|---|---|
//! | the acknowledgement of all bytes (Linux: TCP, and TLS over it; elsewhere it cannot be seen) | 10 s without progress | 2 s without progress |
//! | then EOF of the peer | 2 s, or 4 s if the peer continues to send | no wait if nothing is unread; else until 100 ms of quiet, at most 2 s |
//! | all together | 5 minutes, and the deadline of a drain of this connection alone | the same, and the server's deadline |
//!
//! Bytes that were not delivered are logged and counted.

use super::delivery::{LINGER, Progress};
use crate::run::Run;
use crate::run::name::run_line;
use crate::run::record::{ConnectionRecord, Named};
use crate::run::state::ConnectionState;
use crate::run::tasks::TaskGroups;
use crate::sync::coop;
use crate::sync::time;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// The longest linger, even with steady progress.
const LONGEST: Duration = Duration::from_secs(300);

/// In a drain: a peer that has been quiet for this long has stopped sending.
const QUIET: Duration = Duration::from_millis(100);

/// How many reads in a row before the task yields.
const READS: usize = 16;

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// At once. Bytes on their way to the peer still arrive, unless the peer is sending.
    Abruptly,
    /// At once, with a half-close if that needs no wait. TLS has a closing message of its own (`close_notify`); a peer
    /// that does not receive it must assume that the connection was cut.
    WithoutWaiting,
    /// With a linger, so that the last bytes arrive.
    WithCare,
}

/// The rest of a close, after [`begin`]. On the heap: most connections do not need it, and it would make all of them
/// larger. It must be polled by the connection's own task, since only that is woken for an abort.
pub(super) type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How far [`begin`] has closed a connection.
pub(super) enum End {
    /// Nothing is unread or on its way: closing the descriptor is enough.
    Quiet,
    /// The stream is shut down.
    ShutDown,
    /// The rest needs a wait.
    Waits(Ending),
}

/// Ends the connection for its clones, and closes it as far as that needs no wait: usually completely. `tasks` are the
/// connection's tasks that are left.
pub(super) fn begin(
    run: &Arc<Run>,
    record: &Arc<ConnectionRecord>,
    how: How,
    tasks: Option<Box<TaskGroups>>,
    cx: &mut Context<'_>,
) -> End {
    record.end(has_clones(record));
    let mut quiet = false;
    match how {
        How::Abruptly => {}
        How::WithoutWaiting => {
            let _ = record.poll_close(cx);
        }
        How::WithCare => match is_quiet(run, record, cx) {
            Ok(()) => quiet = true,
            Err(last_read) => {
                let (run, record) = (Arc::clone(run), Arc::clone(record));
                return End::Waits(Box::pin(with_care(run, record, tasks, last_read)));
            }
        },
    }
    if quiet && tasks.is_none() {
        return End::Quiet;
    }
    record.shut_down();
    match tasks {
        None => End::ShutDown,
        Some(tasks) => End::Waits(Box::pin(tasks.end())),
    }
}

/// Returns whether the record may have owners other than the connection's task and the registry.
pub(super) fn has_clones(record: &Arc<ConnectionRecord>) -> bool {
    /// The task's reference, and the registry's.
    const OURS: usize = 2;

    Arc::strong_count(record) > OURS
}

/// Notes the time at which the drain is first seen.
fn note_drain(run: &Run, drain: &mut Option<Instant>) {
    if drain.is_none() && in_drain(run) {
        *drain = Some(time::now());
    }
}

fn in_drain(run: &Run) -> bool {
    run.draining.is_signalled()
}

/// Returns `Ok` if no linger is needed: the peer has stopped sending, and has acknowledged everything. Then both
/// directions can be closed at once.
///
/// Otherwise the error is the time at which the peer was last seen to send. A socket is half-closed here at EOF, and in
/// a drain; in all other cases the linger does it.
fn is_quiet(run: &Run, record: &ConnectionRecord, cx: &mut Context<'_>) -> Result<(), Option<Instant>> {
    if !record.transport.closes_at_once() {
        return Err(None);
    }
    if record.saw_eof() {
        // Closing the descriptor is not enough if another process has a copy of it.
        let _ = record.poll_close(cx);
        return Ok(());
    }
    if !in_drain(run) {
        return Err(None);
    }
    // Asked before the half-close: its FIN is always on its way for a moment.
    let is_delivered = Progress::since(time::now(), record).is_done();
    // A drain waits only for peers that still send, or have not acknowledged everything. The order matters: first
    // half-close, then look for unread bytes. Bytes that arrive after the look make the system reset the connection,
    // but a peer that has our EOF by then reads everything that came before it.
    let _ = record.poll_close(cx);
    if is_delivered && record.transport.is_surely_empty() {
        return Ok(());
    }
    match discard(record, cx) {
        Discarded::End => Ok(()),
        Discarded::Nothing if is_delivered => Ok(()),
        Discarded::Nothing | Discarded::Unknown => Err(None),
        Discarded::More | Discarded::Some => Err(Some(time::now())),
    }
}

/// Lingers and closes: see [`How::WithCare`]. `last_read` is the time at which the peer was last seen to send.
pub(super) async fn with_care(
    run: Arc<Run>,
    record: Arc<ConnectionRecord>,
    tasks: Option<Box<TaskGroups>>,
    last_read: Option<Instant>,
) {
    let start = time::now();
    record.set_state(ConnectionState::Lingering);
    if let Some(tasks) = &tasks {
        tasks.cancel(); // before the half-close, which may take long
    }
    let is_flushed = half_close(&run, &record, start).await;
    if let Some(tasks) = tasks {
        tasks.end().await;
    }
    if !is_flushed {
        log_undelivered(&run, &record, None);
    } else if !record.is_shut_down() {
        linger(&run, &record, start, last_read).await;
    }
    record.shut_down();
}

/// Half-closes. Returns whether it is done.
///
/// For a socket this takes a moment. Other streams (TLS, custom ones) may have to send bytes first: it waits as long as
/// they make progress, and not at all after a cancel. What the peer sends in that time is read and discarded: the peer
/// may not read before it has sent everything.
async fn half_close(run: &Run, record: &ConnectionRecord, start: Instant) -> bool {
    let mut drain = None;
    let mut progress: Option<Progress<'_>> = None; // made only if it is needed: each check is a system call
    let (mut timer, mut armed) = (run.timers.timer(), None);
    let is_done = poll_fn(|cx| {
        if record.poll_close(cx).is_ready() {
            return Poll::Ready(true);
        }
        if record.is_cancelled() {
            return Poll::Ready(false);
        }
        if matches!(discard(record, cx), Discarded::More) {
            cx.waker().wake_by_ref();
        }
        let progress = progress.get_or_insert_with(|| Progress::since(start, record));
        loop {
            let now = time::now();
            if armed.is_none_or(|armed| armed <= now) {
                progress.check();
                note_drain(run, &mut drain);
                let end = latest(record, start).min(progress.end(drain));
                if end <= now {
                    return Poll::Ready(false);
                }
                let next = progress.next_check().min(end);
                timer.set(Some(next));
                armed = Some(next);
            }
            ready!(timer.poll(cx));
        }
    })
    .await;
    if record.saw_eof() {
        record.shut_down(); // at EOF nothing of the peer's is unread or on its way, so no linger is needed
    }
    is_done
}

/// Reads and discards until it is safe to close the other half: see the table in the module's doc. A cancel ends it.
async fn linger(run: &Run, record: &ConnectionRecord, longest_from: Instant, mut last_read: Option<Instant>) {
    let (start, mut drain) = (time::now(), None);
    let mut draining = run.draining.listen();
    let mut progress: Option<Progress<'_>> = None; // made only if it is needed: each check is a system call
    let (mut timer, mut armed) = (run.timers.timer(), None);
    let saw_eof = poll_fn(|cx| {
        loop {
            if record.is_cancelled() {
                return Poll::Ready(false);
            }
            // Before the look: a thread that stands still after it must not take that time for the peer's quiet.
            let now = time::now();
            let discarded = discard(record, cx);
            match discarded {
                Discarded::End => return Poll::Ready(true),
                Discarded::More | Discarded::Some => last_read = Some(time::now()),
                Discarded::Nothing | Discarded::Unknown => {}
            }
            let in_drain = draining.poll(cx).is_ready();
            note_drain(run, &mut drain);
            if in_drain || start + LINGER <= now {
                match &mut progress {
                    None => progress = Some(Progress::since(start, record)),
                    Some(progress) => progress.check(),
                }
            }
            let end = match &progress {
                Some(progress) if !progress.is_done() => progress.end(drain),
                // Everything has been acknowledged since then: now the peer has time to close.
                Some(progress) if !in_drain => progress.at() + LINGER,
                None if !in_drain => start + LINGER,
                _ => match last_read {
                    None if matches!(discarded, Discarded::Unknown) => start + LINGER,
                    None => return Poll::Ready(false),
                    Some(last) => (start + LINGER).min(last + QUIET),
                },
            };
            let end = latest(record, longest_from).min(end);
            if end <= now {
                return Poll::Ready(false);
            }
            if matches!(discarded, Discarded::More) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let next = match &mut progress {
                Some(progress) if !progress.is_done() => progress.next_check().min(end),
                _ => end,
            };
            if armed != Some(next) {
                timer.set(Some(next));
                armed = Some(next);
            }
            ready!(timer.poll(cx));
        }
    })
    .await;
    if saw_eof {
        return;
    }
    let progress = Progress::since(start, record);
    if !progress.is_done() {
        log_undelivered(run, record, progress.unsent());
    }
}

/// Returns the time at which the linger ends, even with steady progress.
fn latest(record: &ConnectionRecord, start: Instant) -> Instant {
    let longest = start + LONGEST;
    record.alone().map_or(longest, |alone| longest.min(alone.deadline))
}

/// Logs and counts that the peer has not acknowledged everything that was written to it.
fn log_undelivered(run: &Run, record: &ConnectionRecord, unsent: Option<u32>) {
    if record.note_undelivered() {
        run.counters.undelivered();
    }
    let what = match unsent {
        None | Some(0) => "some of it is".to_owned(),
        Some(1) => "at least 1 byte is".to_owned(),
        Some(unsent) => format!("at least {unsent} bytes are"),
    };
    let (id, peer, name) = (record.id.as_u64(), record.peer(), Named(record));
    run_line!(
        warn,
        run,
        [connection = id, peer:% = peer],
        "closed {name} before the peer had received all that was written to it: {what} lost"
    );
}

/// Result of [`discard`].
pub(super) enum Discarded {
    /// EOF, or an error.
    End,
    /// Bytes, and there may be more at once: the caller wakes the task.
    More,
    /// Bytes. The task is woken for more.
    Some,
    /// No bytes. The task is woken for some.
    Nothing,
    /// The stream has yielded before it looked. The task is woken to look again.
    Unknown,
}

/// Reads and discards what has arrived, a limited number of reads at a time.
pub(super) fn discard(record: &ConnectionRecord, cx: &mut Context<'_>) -> Discarded {
    for read in 0..READS {
        let yields = coop::yields();
        match record.transport.poll_discard(cx) {
            Poll::Ready(Ok(0) | Err(_)) => return Discarded::End,
            Poll::Ready(Ok(_)) => {}
            Poll::Pending if read == 0 && coop::yields() != yields => return Discarded::Unknown,
            Poll::Pending if read == 0 => return Discarded::Nothing,
            Poll::Pending => return Discarded::Some,
        }
    }
    Discarded::More
}
