//! [`ReadPolicy`]: when to read a socket, and when to wait for it first. That makes two or four system calls a message.
//!
//! A plain reader tries the socket first, finds nothing, and asks the reactor to watch it. For every message that costs
//! a read that returns nothing and an `epoll_ctl`, besides the `epoll_wait` and the read that finds the message. Three
//! observations save calls; each is a unit of its own:
//!
//! | observation | unit | saves | measured with |
//! |---|---|---|---|
//! | a short read has emptied the socket | [`ShortRead`] | 2.3 instead of 3.3 calls a message, 5–18 % of CPU | `--only echo64x64` |
//! | on a busy server the next message arrives before the reactor was asked | [`Retry`] | 2.3 instead of 3.2 calls, 4–12 % | `--only echo64x1000` |
//! | a reader cannot always see the reactor's answer | [`UnseenAnswer`] | 54 % with one connection and two threads; elsewhere nothing | `--only echo64x1 --threads 2` |
//!
//! The command is `cargo run --release -p ebbtide-bench -- --peers ebbtide --only …`, once with the code as it is and
//! once with the unit's answer fixed to "no". `strace -c -f` counts the calls (`bench/README.md`, "Looking into one
//! server").
//!
//! Conditions of correctness:
//!
//! 1. **No lost wake-up.** In every poll that returns `Pending`, the task either registers with the reactor or wakes
//!    itself once. If a retry finds nothing, the same poll registers. A registration is level-triggered: if the socket
//!    is readable already, the reactor reports it at once. So no hint here can lose a wake-up, whatever its value. The
//!    hints are relaxed atomics, and two readers may mix them up.
//! 2. **What a short read is.** Short means `0 < n < len`. EOF, errors and empty buffers imply nothing about the
//!    socket. A read into an empty buffer reads nothing; that is not EOF.
//! 3. **Sockets only.** Another stream may buffer bytes of its own, of which no reactor knows.
//! 4. **Eager in a drain.** From the beginning of a drain the policy is *eager*: the socket is tried before every
//!    `Pending`, and no read yields. So if a read then has to wait, nothing had arrived. There is one exception: a
//!    flood must not keep the thread busy, because that would delay the drain's own deadline without end. So the
//!    [`BUDGET`](crate::sync::coop::BUDGET) applies, and every poll that yields for it is counted (`coop`).
//! 5. **Dropped reads.** If a read is dropped between its self-wake and its retry, the mark `due` stays set, and the
//!    next read of any task tries the socket.
//! 6. **Several readers.** Two tasks may read through clones: see `readiness`.
//! 7. **No spinning.** If no read consumes the cause of readiness, the wait pauses: see `spurious`.

mod unseen;

use super::spurious::SpuriousCount;
use crate::sync::coop::Budget;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use unseen::{Look, UnseenAnswer};

/// Observation: **a short read has emptied the socket.** So the next read waits without trying first. (tokio does the
/// same, for the same reason.)
#[derive(Debug, Default)]
struct ShortRead(AtomicBool);

impl ShortRead {
    /// Returns whether the last read was short.
    fn has_emptied(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self, n: usize, len: usize) {
        self.0.store(n < len, Ordering::Relaxed);
    }
}

/// Observation: **on a busy server the next message arrives before the reactor was asked.** So a task that has just
/// read a message yields once and then tries again. Each connection remembers whether that pays ([`Backoff`]). If it
/// does not pay, the connection soon tries it only once in 16 messages. If it pays, the connection profits from its
/// first messages on.
#[derive(Debug, Default)]
struct Retry {
    /// Bytes were read since the last wait. Only then another retry may pay.
    fresh: AtomicBool,
    /// A reader has yielded, and its retry is due.
    due: AtomicBool,
    backoff: Backoff,
}

impl Retry {
    /// Returns whether this wait follows a message, and a retry may pay. Called at every wait.
    fn is_worth_it(&self) -> bool {
        if !self.fresh.load(Ordering::Relaxed) {
            return false;
        }
        self.fresh.store(false, Ordering::Relaxed); // not a swap: this is on the path of each message
        self.backoff.is_over()
    }
}

/// How many chances are skipped at most.
///
/// A failed retry costs about half of what a successful one saves: a poll and a read, against a registration, its
/// event, and a poll. So trials may be frequent as long as some succeed, and must be rare if none does.
const MOST_SKIPPED: u8 = 15;

/// Back-off of trials that may fail. After a failed trial the next chance is skipped, after a second failure in a row
/// the next three, then seven, and so on up to [`MOST_SKIPPED`]. A successful trial resets it.
#[derive(Debug, Default)]
struct Backoff {
    /// How many chances are skipped after the last trial; 0 if it succeeded.
    last: AtomicU8,
    /// How many of them are left.
    left: AtomicU8,
}

impl Backoff {
    /// Returns whether this chance is to be tried, and counts it as skipped otherwise. Called at every chance.
    fn is_over(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }

    /// Notes a successful trial.
    fn reset(&self) {
        self.set(0);
    }

    /// Notes a failed trial.
    fn lengthen(&self) {
        self.set((2 * self.last.load(Ordering::Relaxed) + 1).min(MOST_SKIPPED));
    }

    fn set(&self, chances: u8) {
        self.last.store(chances, Ordering::Relaxed);
        self.left.store(chances, Ordering::Relaxed);
    }
}

/// Policy and history of one socket's reads.
#[derive(Debug, Default)]
pub(super) struct ReadPolicy {
    short: ShortRead,
    retry: Retry,
    unseen: UnseenAnswer,
    /// The drain has begun: see condition 4. Never reset.
    eager: AtomicBool,
    /// The cooperative budget of reads.
    budget: Budget,
    /// Counts the attempts that found nothing although the reactor may have woken the task.
    spurious: SpuriousCount,
}

impl ReadPolicy {
    /// Tries the socket before every `Pending` from this call on (condition 4).
    pub(super) fn be_eager(&self) {
        self.eager.store(true, Ordering::Release);
    }

    pub(super) fn spurious(&self) -> &SpuriousCount {
        &self.spurious
    }

    /// Reads up to `len` bytes by `read`, or waits by `poll_ready` until the socket is readable.
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
                self.unseen.found_nothing();
            }
            if is_retry {
                self.retry.backoff.lengthen();
            }
        }
        if !is_retry && !eager && self.retry.is_worth_it() {
            return self.yield_now(cx); // the next poll is the retry
        }
        self.budget.reset();
        self.wait(cx, len, read, poll_ready, look, tries)
    }

    /// Registers with the reactor, and reads if that reports readiness. If `look` demands it, and the socket was not
    /// tried in this poll, it tries the socket also without a report.
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
                    self.unseen.found_nothing();
                }
                if look != Look::No {
                    self.spurious.note(); // the reactor may have woken this task
                }
                self.unseen.note_question();
                return Poll::Pending;
            }
            self.unseen.note_old_answer();
            self.spurious.note();
        }
    }

    /// Yields with the self-wake of condition 1, and makes a retry due.
    fn yield_now<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.retry.due.store(true, Ordering::Relaxed);
        self.budget.yield_now(cx)
    }

    /// Records the result of a read.
    fn note(&self, result: &io::Result<usize>, len: usize, was_retry: bool) {
        if let Ok(n @ 1..) = *result {
            self.short.note(n, len);
            self.retry.fresh.store(true, Ordering::Relaxed);
            self.budget.spend();
            self.spurious.reset();
            if was_retry {
                self.retry.backoff.reset();
            }
        }
    }
}

/// Resets a mark. Returns whether it was set.
fn take(mark: &AtomicBool) -> bool {
    mark.load(Ordering::Relaxed) && mark.swap(false, Ordering::Relaxed)
}

/// Makes a system call that reads or writes. Returns `None` if it would block.
pub(super) fn attempt(call: &mut impl FnMut() -> io::Result<usize>) -> Option<io::Result<usize>> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return Some(result),
        }
    }
}

#[cfg(test)]
mod tests;
