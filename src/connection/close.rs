//! The orderly end of a connection: so that the last bytes arrive.
//!
//! A socket that is closed while bytes of the peer are unread, or still on their way, resets the connection, and the reset
//! can overtake the reply. So the outgoing half is closed first, and what the peer still sends is read and thrown away, for
//! a while: what Apache and nginx call a lingering close.

use crate::control::member::{ConnectionState, Member};
use crate::stream::put_off;
use async_io::Timer;
use async_std::task::sleep;
use futures_concurrency::prelude::*;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How long a peer may go on sending, or keep its half open.
const LINGER: Duration = Duration::from_secs(2);

/// In a drain: a peer that has been quiet for this long has stopped sending.
const QUIET: Duration = Duration::from_millis(100);

/// How many reads in a row, before other tasks get their turn.
const READS: usize = 16;

/// Closes at once. What the peer has not read yet still arrives, unless it is sending.
pub(super) fn abruptly(member: &Member) {
    member.end();
    member.shut_down();
}

/// Closes at once, as [`abruptly`] does, but says so to the peer if that can be had without waiting: what is encrypted has an end of
/// its own, and one who misses it has to think that the line was cut.
pub(super) async fn without_waiting(member: &Member) {
    member.end();
    poll_fn(|cx| {
        let _ = member.poll_close(cx);
        Poll::Ready(())
    })
    .await;
    member.shut_down();
}

/// Closes for the handler and all clones, and our direction for the peer, which is over in a moment for a socket. What is
/// more than a socket may have bytes to send first; that takes at most [`LINGER`], and a cancel does not wait for it. What the peer
/// sends meanwhile is read and thrown away: it may not read before it has sent all.
pub(super) async fn half(member: &Member) {
    member.end();
    // Both at once where the peer has closed already: nothing of its is unread or on its way, so there is nothing to wait for.
    let saw_end = member.saw_end();
    let closed = poll_fn(|cx| {
        let closed = member.poll_close(cx);
        if closed.is_pending() && matches!(discard(member, cx), Discarded::More) {
            cx.waker().wake_by_ref();
        }
        closed
    });
    match member.stream.closes_at_once() {
        true if saw_end => {}
        true => closed.await,
        false => (closed, member.condemned.given(), sleep(LINGER)).race().await,
    }
    if saw_end {
        member.shut_down();
    }
}

/// Closes the other half as soon as that is safe: reads and throws away until the peer's end, at most for [`LINGER`].
///
/// A drain waits only for peers that are still sending: it ends where the first read finds nothing, or after [`QUIET`]. A
/// cancel waits for nobody.
pub(super) async fn linger(member: &Member) {
    if member.is_shut_down() {
        return;
    }
    member.set_state(ConnectionState::Lingering);
    discard_until_safe(member).await;
    member.shut_down();
}

async fn discard_until_safe(member: &Member) {
    let end = Instant::now() + LINGER;
    let mut last_read = None;
    let mut draining = member.draining.watch();
    let mut condemned = member.condemned.watch();
    let (mut timer, mut armed) = (Timer::at(end), end);
    poll_fn(|cx| {
        if condemned.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let discarded = discard(member, cx);
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

fn discard(member: &Member, cx: &mut Context<'_>) -> Discarded {
    for read in 0..READS {
        let put_off = put_off::times();
        match member.stream.poll_discard(cx) {
            Poll::Ready(Ok(0) | Err(_)) => return Discarded::End,
            Poll::Ready(Ok(_)) => {}
            Poll::Pending if read == 0 && put_off::times() != put_off => return Discarded::Unknown,
            Poll::Pending if read == 0 => return Discarded::Nothing,
            Poll::Pending => return Discarded::Some,
        }
    }
    Discarded::More
}
