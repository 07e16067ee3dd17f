//! When to read a socket, and when to wait for it first: the difference between two and four system calls a message.
//!
//! A plain reader tries the socket first, finds nothing, and asks the reactor to watch it: for every message a read in
//! vain and an `epoll_ctl`, with an `epoll_wait` to follow. Three observations save calls; each is a unit of its own:
//!
//! | observation | unit | saves | seen with |
//! |---|---|---|---|
//! | a short read has emptied the socket | [`ShortRead`] | 2.3 against 3.3 calls a message, 5–18 % of CPU | `--only echo64x64` |
//! | on a busy server the next message is there before the reactor was asked | [`Retry`] | 2.3 against 3.2 calls, 4–12 % | `--only echo64x1000` |
//! | the reactor's answer cannot always be seen | [`UnseenAnswer`] | 54 % with one connection and two threads; elsewhere nothing | `--only echo64x1 --threads 2` |
//!
//! The command is `cargo run --release -p ebbtide-bench -- --peers ebbtide --only …`, once as it is and once with the
//! unit's answer fixed to "no"; the calls are counted by `strace -c -f` (`bench/README.md`, "Looking into one server").
//!
//! The conditions of correctness:
//!
//! 1. Every `Pending` is preceded, in the same poll, by a registration with the reactor or by the one self-wake. After
//!    a retry in vain the same poll registers. The reactor's registration is level-triggered: asked to watch a socket
//!    that is readable already, it says so at once. So nothing here can lose a wake-up, whatever the hints say: they
//!    are relaxed atomics, and two readers may mix them up.
//! 2. Short means `0 < n < len`. EOF, errors and empty buffers say nothing of that; into an empty buffer nothing is
//!    read, which is not EOF.
//! 3. Only sockets are read so. Any other stream may keep bytes of its own, which no reactor knows.
//! 4. Once it is *eager*, which it is from the beginning of a drain, the socket is tried before every `Pending`, and no
//!    read yields: a task that reads then, and has to wait, can be sure that nothing had arrived. One exception keeps a
//!    flood from holding the thread, and so the drain's own deadline, for ever: the
//!    [`BUDGET`](crate::sync::coop::BUDGET); and every poll that yields marks it (`coop`).
//! 5. A read that is dropped between its self-wake and its retry leaves the mark of it, and the next read, in whichever
//!    task, tries.
//! 6. Two tasks may read through clones: see `readiness`.
//! 7. A cause of readiness that no read consumes makes no task spin: see `vain`.

mod unseen;

use super::vain::InVain;
use crate::sync::coop::Budget;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use unseen::{Look, UnseenAnswer};

/// Observation: **a read that was short has emptied the socket.** The reader waits for what comes next without trying
/// first. (tokio does the same, for the same reason.)
#[derive(Debug, Default)]
struct ShortRead(AtomicBool);

impl ShortRead {
    fn has_emptied(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self, n: usize, len: usize) {
        self.0.store(n < len, Ordering::Relaxed);
    }
}

/// Observation: **on a busy server the next message is there before the reactor has been asked.** So a task that has
/// just had a message yields once and then tries again. Each connection remembers whether that pays ([`Pause`]): one
/// for which it cannot pay soon pays for it once in so many messages, and one for which it does gets it from its first
/// messages on.
#[derive(Debug, Default)]
struct Retry {
    /// Bytes have come since the last wait: only then another retry may pay.
    fresh: AtomicBool,
    /// A reader has yielded, and its retry is due.
    due: AtomicBool,
    pause: Pause,
}

impl Retry {
    /// Asked at every wait: whether this wait follows a message, and a retry may pay.
    fn is_worth_it(&self) -> bool {
        if !self.fresh.load(Ordering::Relaxed) {
            return false;
        }
        self.fresh.store(false, Ordering::Relaxed); // not a swap: this is on the path of each message
        self.pause.is_over()
    }
}

/// For how many chances a trial is left out at most.
///
/// A retry in vain costs about half of what one saves that was not: a poll and a read against a registration, its
/// event, and a poll. So trials may be frequent as long as some succeed, and must be rare if none does.
const LONGEST_PAUSE: u8 = 15;

/// How often something is tried that may be in vain: after a trial in vain the next chance goes by, after a second in a
/// row the next three, then seven, and so on up to [`LONGEST_PAUSE`]. A trial that succeeds makes it begin anew.
#[derive(Debug, Default)]
struct Pause {
    /// How many chances went by after the last trial, which was in vain; 0: it was not.
    last: AtomicU8,
    /// How many are still to go by.
    left: AtomicU8,
}

impl Pause {
    /// Asked at every chance.
    fn is_over(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }

    fn end(&self) {
        self.set(0);
    }

    fn lengthen(&self) {
        self.set((2 * self.last.load(Ordering::Relaxed) + 1).min(LONGEST_PAUSE));
    }

    fn set(&self, chances: u8) {
        self.last.store(chances, Ordering::Relaxed);
        self.left.store(chances, Ordering::Relaxed);
    }
}

/// What is remembered of one socket's reads.
#[derive(Debug, Default)]
pub(super) struct ReadPolicy {
    short: ShortRead,
    retry: Retry,
    unseen: UnseenAnswer,
    /// See condition 4. Never reset.
    eager: AtomicBool,
    budget: Budget,
    in_vain: InVain,
}

impl ReadPolicy {
    /// From now on the socket is always tried.
    pub(super) fn be_eager(&self) {
        self.eager.store(true, Ordering::Release);
    }

    pub(super) fn in_vain(&self) -> &InVain {
        &self.in_vain
    }

    /// Reads up to `len` bytes with `read`, or waits with `poll_ready` until the socket is readable.
    pub(super) fn poll(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        mut read: impl FnMut() -> io::Result<usize>,
        poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<usize>> {
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.budget.is_spent() {
            return self.yield_now(cx);
        }
        let eager = self.eager.load(Ordering::Acquire);
        let is_retry = take(&self.retry.due);
        let look = self.unseen.look();
        let tries = is_retry || eager || look == Look::First || !self.short.has_emptied();
        if tries {
            if let Some(result) = attempt(&mut read) {
                if look == Look::First {
                    self.unseen.found(true);
                }
                self.note(&result, len, is_retry);
                return Poll::Ready(result);
            }
            if look == Look::First {
                self.unseen.looked_in_vain();
            }
            if is_retry {
                self.retry.pause.lengthen();
            }
        }
        if !is_retry && !eager && self.retry.is_worth_it() {
            return self.yield_now(cx);
        }
        self.budget.reset();
        self.wait(cx, len, read, poll_ready, look, tries)
    }

    /// Asks the reactor. If it is to look, and has not `tried`, it tries the socket also without an answer.
    fn wait(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        mut read: impl FnMut() -> io::Result<usize>,
        mut poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
        look: Look,
        tried: bool,
    ) -> Poll<io::Result<usize>> {
        let looks = look != Look::No && !tried;
        loop {
            let answer = poll_ready(cx)?;
            if answer.is_ready() || looks {
                if let Some(result) = attempt(&mut read) {
                    self.unseen.found(answer.is_pending());
                    self.note(&result, len, false);
                    return Poll::Ready(result);
                }
            }
            if answer.is_pending() {
                if looks {
                    self.unseen.looked_in_vain();
                }
                if look != Look::No {
                    self.in_vain.note(); // the reactor may have woken it
                }
                self.unseen.note_question();
                return Poll::Pending;
            }
            self.unseen.answer_was_old();
            self.in_vain.note();
        }
    }

    /// Condition 1, with the self-wake.
    fn yield_now<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.retry.due.store(true, Ordering::Relaxed);
        self.budget.yield_now(cx)
    }

    fn note(&self, result: &io::Result<usize>, len: usize, was_retry: bool) {
        if let Ok(n @ 1..) = *result {
            self.short.note(n, len);
            self.retry.fresh.store(true, Ordering::Relaxed);
            self.budget.spend();
            self.in_vain.end();
            if was_retry {
                self.retry.pause.end();
            }
        }
    }
}

fn take(mark: &AtomicBool) -> bool {
    mark.load(Ordering::Relaxed) && mark.swap(false, Ordering::Relaxed)
}

/// `None`: there is nothing.
pub(super) fn attempt(read: &mut impl FnMut() -> io::Result<usize>) -> Option<io::Result<usize>> {
    loop {
        match read() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return Some(result),
        }
    }
}

#[cfg(test)]
mod tests;
