//! The orderly end of a connection: so that the last bytes arrive.
//!
//! A socket that is closed while bytes of the peer are unread, or still on their way, resets the connection, and the
//! reset can overtake the reply. So the outgoing half is closed first, and what the peer still sends is read and thrown
//! away, for a while: what Apache and nginx call a lingering close.

use crate::run::record::{ConnectionRecord, ConnectionState};
use crate::run::tasks::TaskGroups;
use crate::sync::coop;
use async_io::Timer;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How long a peer may go on sending, or keep its half open.
const LINGER: Duration = Duration::from_secs(2);

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
    record: &Arc<ConnectionRecord>,
    how: How,
    tasks: Option<Box<TaskGroups>>,
    cx: &mut Context<'_>,
) -> End {
    record.end();
    let mut quiet = false;
    match how {
        How::Abruptly => {}
        How::WithoutWaiting => {
            let _ = record.poll_close(cx);
        }
        How::WithCare => match is_quiet(record, cx) {
            Ok(()) => quiet = true,
            Err(last_read) => return End::Waits(Box::pin(with_care(Arc::clone(record), tasks, last_read))),
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

/// Whether the peer sends nothing any more, so that both directions can be closed at once. Else: when it was last seen
/// to send.
///
/// In a drain our direction is closed in any case.
fn is_quiet(record: &ConnectionRecord, cx: &mut Context<'_>) -> Result<(), Option<Instant>> {
    if !record.transport.closes_at_once() {
        return Err(None);
    }
    if record.saw_eof() {
        return Ok(());
    }
    if !record.draining.is_signalled() {
        return Err(None);
    }
    // A drain waits only for peers that are still sending. Our end goes out before it is asked: what comes after that
    // makes the system reset the connection, and a peer that has the end already reads all that came before it.
    let _ = record.poll_close(cx);
    match discard(record, cx) {
        Discarded::End | Discarded::Nothing => Ok(()),
        Discarded::Unknown => Err(None),
        Discarded::More | Discarded::Some => Err(Some(Instant::now())),
    }
}

/// See [`How::WithCare`]; when the peer was last seen to send, if it was.
pub(super) async fn with_care(
    record: Arc<ConnectionRecord>,
    tasks: Option<Box<TaskGroups>>,
    last_read: Option<Instant>,
) {
    half(&record).await;
    if let Some(tasks) = tasks {
        tasks.end().await;
    }
    if !record.is_shut_down() {
        record.set_state(ConnectionState::Lingering);
        linger(&record, last_read).await;
        record.shut_down();
    }
}

/// Closes our direction for the peer, which is over in a moment for a socket. What is more than a socket may have bytes
/// to send first; that takes at most [`LINGER`], and a cancel does not wait for it. What the peer sends meanwhile is
/// read and thrown away: it may not read before it has sent all.
async fn half(record: &ConnectionRecord) {
    let mut timer = Timer::after(LINGER);
    poll_fn(|cx| {
        if record.poll_close(cx).is_ready() || record.is_aborted() {
            return Poll::Ready(());
        }
        if matches!(discard(record, cx), Discarded::More) {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut timer).poll(cx).map(|_| ())
    })
    .await;
    if record.saw_eof() {
        record.shut_down(); // nothing of the peer's is unread or on its way, so there is nothing to wait for
    }
}

/// Reads and throws away until closing the other half is safe: until the peer's end, at most for [`LINGER`].
///
/// A drain waits only for peers that are still sending: it ends if the first read finds nothing, or after [`QUIET`]. A
/// cancel does not wait.
async fn linger(record: &ConnectionRecord, mut last_read: Option<Instant>) {
    let end = Instant::now() + LINGER;
    let mut draining = record.draining.listen();
    let (mut timer, mut armed) = (Timer::at(end), end);
    poll_fn(|cx| {
        if record.is_aborted() {
            return Poll::Ready(());
        }
        let discarded = discard(record, cx);
        match discarded {
            Discarded::End => return Poll::Ready(()),
            Discarded::More => {
                cx.waker().wake_by_ref();
                last_read = Some(Instant::now());
                return if Instant::now() < end { Poll::Pending } else { Poll::Ready(()) };
            }
            Discarded::Some => last_read = Some(Instant::now()),
            Discarded::Nothing | Discarded::Unknown => {}
        }
        let mut until = end;
        if draining.poll(cx).is_ready() {
            match last_read {
                None if matches!(discarded, Discarded::Unknown) => {}
                None => return Poll::Ready(()),
                Some(last) => until = end.min(last + QUIET),
            }
        }
        if until != armed {
            timer.set_at(until);
            armed = until;
        }
        Pin::new(&mut timer).poll(cx).map(|_| ())
    })
    .await;
}

enum Discarded {
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

fn discard(record: &ConnectionRecord, cx: &mut Context<'_>) -> Discarded {
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
