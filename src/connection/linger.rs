//! The orderly end of a connection: so that the last bytes arrive.
//!
//! A socket that is closed while bytes of the peer are unread, or still on their way, resets the connection, and the
//! reset can overtake the reply. So the outgoing half is closed first, and what the peer still sends is read and thrown
//! away, for a while: what Apache and nginx call a lingering close. And a peer that reads slowly, or pauses, is waited
//! for as long as it takes something: what the kernel has taken from us has not arrived.
//!
//! | what is waited for | how long | in a drain |
//! |---|---|---|
//! | that all is acknowledged (Linux, TCP and TLS over it; elsewhere it is not seen) | 10 s without progress | 2 s without progress |
//! | then the peer's end | 2 s, or 4 s if the peer goes on sending | not at all if nothing is unread; else until it has been quiet for 100 ms, at most 2 s |
//! | all of it | 5 minutes, and the deadline of a drain of this connection alone | the same, and the server's deadline |
//!
//! What was not delivered is logged and counted.

use super::delivery::{LINGER, Progress};
use crate::run::Run;
use crate::run::name::run_line;
use crate::run::record::{ConnectionRecord, Named};
use crate::run::state::ConnectionState;
use crate::run::tasks::TaskGroups;
use crate::sync::coop;
use async_io::Timer;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How long all of it may last, however well it gets on.
const LONGEST: Duration = Duration::from_secs(300);

/// In a drain: a peer that has been quiet for this long has stopped sending.
const QUIET: Duration = Duration::from_millis(100);

/// How many reads in a row, before other tasks get their turn.
const READS: usize = 16;

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// At once. What the peer has not read yet still arrives, unless it is sending.
    Abruptly,
    /// The same, but the peer is told if that can be had without waiting: TLS has an end of its own, and a
    /// peer that does not get it must assume that the line was cut.
    WithoutWaiting,
    /// So that the last bytes arrive.
    WithCare,
}

/// What is still to be done after [`begin`]. On the heap: most connections need none of it, and all would be larger by
/// it. To be polled by the connection's own task, which alone is woken for an abort.
pub(super) type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How far [`begin`] has come.
pub(super) enum End {
    /// Nothing is unread or on its way: to close the descriptor is enough.
    Quiet,
    /// It is shut down.
    ShutDown,
    /// The rest takes time.
    Waits(Ending),
}

/// Ends the connection for its clones, and closes it as far as that can be done without waiting: as a rule, wholly.
/// `tasks` are those that are left.
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

/// Whether others than the connection's task and the registry have it, as far as can be told.
pub(super) fn has_clones(record: &Arc<ConnectionRecord>) -> bool {
    /// The task's, and the registry's.
    const OURS: usize = 2;

    Arc::strong_count(record) > OURS
}

/// Notes when the drain was first seen.
fn note_drain(run: &Run, drain: &mut Option<Instant>) {
    if drain.is_none() && in_drain(run) {
        *drain = Some(Instant::now());
    }
}

fn in_drain(run: &Run) -> bool {
    run.draining.is_signalled()
}

/// Whether the peer sends nothing any more and has all that was written, so that both directions can be closed at once.
/// Else: when it was last seen to send.
///
/// In a drain our direction is closed in any case.
fn is_quiet(run: &Run, record: &ConnectionRecord, cx: &mut Context<'_>) -> Result<(), Option<Instant>> {
    if !record.transport.closes_at_once() {
        return Err(None);
    }
    if record.saw_eof() {
        // Closing the descriptor is not enough where another process has a copy of it.
        let _ = record.poll_close(cx);
        return Ok(());
    }
    if !in_drain(run) {
        return Err(None);
    }
    // Before our end, which is on its way for a moment in any case.
    let is_delivered = Progress::since(Instant::now(), record).is_done();
    // A drain waits only for peers that are still sending, or still taking. Our end goes out before it is asked: what
    // comes after that makes the system reset the connection, and a peer that has the end already reads all that came
    // before it.
    let _ = record.poll_close(cx);
    match discard(record, cx) {
        Discarded::End => Ok(()),
        Discarded::Nothing if is_delivered => Ok(()),
        Discarded::Nothing | Discarded::Unknown => Err(None),
        Discarded::More | Discarded::Some => Err(Some(Instant::now())),
    }
}

/// See [`How::WithCare`]; when the peer was last seen to send, if it was.
pub(super) async fn with_care(
    run: Arc<Run>,
    record: Arc<ConnectionRecord>,
    tasks: Option<Box<TaskGroups>>,
    last_read: Option<Instant>,
) {
    let start = Instant::now();
    record.set_state(ConnectionState::Lingering);
    if let Some(tasks) = &tasks {
        tasks.cancel(); // what follows may take its time
    }
    let is_flushed = half(&run, &record, start).await;
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

/// Closes our direction for the peer, which is over in a moment for a socket. What is more than a socket may have bytes
/// to send first; that goes on while it gets on, and a cancel does not wait for it. What the peer sends meanwhile is
/// read and thrown away: it may not read before it has sent all. Returns whether it is done.
async fn half(run: &Run, record: &ConnectionRecord, start: Instant) -> bool {
    let mut drain = None;
    let mut progress: Option<Progress<'_>> = None; // asked only where it matters: each look is a system call
    let (mut timer, mut armed) = (Timer::never(), None);
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
            let now = Instant::now();
            if armed.is_none_or(|armed| armed <= now) {
                progress.look();
                note_drain(run, &mut drain);
                let end = latest(record, start).min(progress.end(drain));
                if end <= now {
                    return Poll::Ready(false);
                }
                let next = progress.next_look().min(end);
                timer.set_at(next);
                armed = Some(next);
            }
            ready!(Pin::new(&mut timer).poll(cx));
        }
    })
    .await;
    if record.saw_eof() {
        record.shut_down(); // nothing of the peer's is unread or on its way, so there is nothing to wait for
    }
    is_done
}

/// Reads and throws away until closing the other half is safe: see the table of the module. A cancel does not wait.
async fn linger(run: &Run, record: &ConnectionRecord, longest_from: Instant, mut last_read: Option<Instant>) {
    let (start, mut drain) = (Instant::now(), None);
    let mut draining = run.draining.listen();
    let mut progress: Option<Progress<'_>> = None; // asked only where it matters: each look is a system call
    let (mut timer, mut armed) = (Timer::never(), None);
    let peer_ended = poll_fn(|cx| {
        loop {
            if record.is_cancelled() {
                return Poll::Ready(false);
            }
            let discarded = discard(record, cx);
            match discarded {
                Discarded::End => return Poll::Ready(true),
                Discarded::More | Discarded::Some => last_read = Some(Instant::now()),
                Discarded::Nothing | Discarded::Unknown => {}
            }
            let in_drain = draining.poll(cx).is_ready();
            note_drain(run, &mut drain);
            if in_drain || start + LINGER <= Instant::now() {
                match &mut progress {
                    None => progress = Some(Progress::since(start, record)),
                    Some(progress) => progress.look(),
                }
            }
            let end = match &progress {
                Some(progress) if !progress.is_done() => progress.end(drain),
                // It has all since then, and its time to end.
                Some(progress) if !in_drain => progress.at() + LINGER,
                None if !in_drain => start + LINGER,
                _ => match last_read {
                    None if matches!(discarded, Discarded::Unknown) => start + LINGER,
                    None => return Poll::Ready(false),
                    Some(last) => (start + LINGER).min(last + QUIET),
                },
            };
            let end = latest(record, longest_from).min(end);
            if end <= Instant::now() {
                return Poll::Ready(false);
            }
            if matches!(discarded, Discarded::More) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let next = match &mut progress {
                Some(progress) if !progress.is_done() => progress.next_look().min(end),
                _ => end,
            };
            if armed != Some(next) {
                timer.set_at(next);
                armed = Some(next);
            }
            ready!(Pin::new(&mut timer).poll(cx));
        }
    })
    .await;
    if peer_ended {
        return;
    }
    let progress = Progress::since(start, record);
    if !progress.is_done() {
        log_undelivered(run, record, progress.unsent());
    }
}

/// When it must be over, however well it gets on.
fn latest(record: &ConnectionRecord, start: Instant) -> Instant {
    let longest = start + LONGEST;
    record.alone().map_or(longest, |alone| longest.min(alone.deadline))
}

/// The peer has not taken all that was written to it.
fn log_undelivered(run: &Run, record: &ConnectionRecord, unsent: Option<u32>) {
    if record.note_undelivered() {
        run.counters.undelivered();
    }
    let what = match unsent {
        None | Some(0) => "some of it".to_owned(),
        Some(unsent) => format!("{unsent} bytes and more"),
    };
    let (id, peer, name) = (record.id.as_u64(), record.peer(), Named(record));
    run_line!(
        warn,
        run,
        [connection = id, peer:% = peer],
        "closed {name} before the peer had taken all that was written to it: {what} is lost"
    );
}

pub(super) enum Discarded {
    /// The peer has closed, or is gone.
    End,
    /// There were bytes, and there may be more at once.
    More,
    /// There were bytes, and the task will be woken for more.
    Some,
    /// There were none; the same.
    Nothing,
    /// It could not be asked yet; the same.
    Unknown,
}

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
