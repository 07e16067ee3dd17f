//! When to read a socket, and when to wait for it first: the difference between two and four system calls a message.
//!
//! A plain reader tries the socket first, finds nothing, and asks the reactor to watch it: for every message a read in vain and
//! an `epoll_ctl`, with an `epoll_wait` to follow. Two observations save them:
//!
//! - **A read that was short has emptied the socket.** What comes next is waited for without trying first. (tokio does the
//!   same, for the same reason.)
//! - **On a busy server the next message is there before the reactor has been asked.** So a task that has just had a message
//!   goes once to the end of the executor's queue and then tries again. Each connection remembers whether that pays (see [`Rest`]).
//!   So a connection for which it can't pay soon pays for it once in so many messages, and one for which it does gets it from
//!   its first messages on.
//!
//! A third saves a wait where the reactor runs on another thread than the reader, as it does with several:
//!
//! - **The reactor's answer can't always be seen.** A reader that is woken asks async-io again, to learn why. But if a turn of the
//!   reactor had begun when it first asked, which is so whenever another thread waits in it, async-io can't tell the event
//!   of that turn from an older one. It registers the reader anew, and the reactor, which finds the socket readable still,
//!   wakes it a second time. So who waits, is polled again, and is told nothing, tries the socket; and whom that has served tries it
//!   first from then on, until async-io is found to have known. (One connection and two threads: 30 % less processor time.) Who
//!   is polled again and again for other reasons rests from that as from retries.
//!
//! The conditions of correctness:
//!
//! 1. Every `Pending` is preceded, in the same poll, by a registration with the reactor or by the one self-wake. After a
//!    retry in vain the same poll registers. The reactor's registration is level-triggered: asked to watch a socket
//!    that is readable already, it says so at once. So nothing here can lose a wake-up, whatever the hints say: they are
//!    relaxed atomics, and two readers may mix them up.
//! 2. Short means `0 < n < len`. The end, errors and empty buffers say nothing of that; into an empty buffer nothing is read,
//!    which is not the end.
//! 3. Only sockets are read so. A stream that is more may keep bytes of its own, which no reactor knows.
//! 4. Once it is *eager*, which it is from the beginning of a drain, the socket is tried before every `Pending`, and nobody goes to
//!    the end of the queue: who asks then, and is told to wait, can be sure that nothing had arrived. One exception keeps a
//!    flood from holding the thread, and so the drain's own deadline, for ever: the [`BUDGET`](super::streak::BUDGET); and all that go to the end of
//!    the queue say so (`put_off`).
//! 5. A read that is dropped between its self-wake and its retry leaves the mark of it, and the next read, whoever polls it, tries.
//! 6. Two tasks may read through clones: see `side`.
//!
//! And one more thing that async-std leaves to chance: a client that sends faster than its handler reads would have the thread
//! for itself, since a read that always succeeds never waits. After a [`BUDGET`](super::streak::BUDGET) of them in a row, others get their turn.
//!
//! The figures, and how to have them again: `bench/README.md`.

use super::streak::Streak;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};

/// For how many chances a trial is left out at most.
///
/// A retry that was in vain costs about half of what one saves that was not: a poll and a read against a registration, its event,
/// and a poll. So trials may be frequent as long as some succeed, and must be rare where none does.
const LONGEST_REST: u8 = 15;

/// How often something is tried that may be in vain: after a trial in vain the next chance goes by, after a second in a row
/// the next three, then seven, and so on up to [`LONGEST_REST`]. One that succeeds makes it begin anew.
#[derive(Debug, Default)]
struct Rest {
    /// How many chances went by after the last trial, which was in vain; 0: it was not.
    last: AtomicU8,
    /// How many are still to go by.
    left: AtomicU8,
}

impl Rest {
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
        self.set((2 * self.last.load(Ordering::Relaxed) + 1).min(LONGEST_REST));
    }

    fn set(&self, chances: u8) {
        self.last.store(chances, Ordering::Relaxed);
        self.left.store(chances, Ordering::Relaxed);
    }
}

/// What is remembered of one socket's reads.
#[derive(Debug, Default)]
pub(super) struct FastRead {
    /// The last read was short.
    drained: AtomicBool,
    /// Bytes have come since the last wait: only then another retry is worth a thought.
    fresh: AtomicBool,
    /// A reader has gone to the end of the queue, and its retry is due.
    yielded: AtomicBool,
    /// See condition 4. Never reset.
    eager: AtomicBool,
    /// From retries.
    rest: Rest,
    /// The reactor was asked, and its answer was not looked at yet.
    asked: AtomicBool,
    /// Its last answer could not be seen.
    unseen: AtomicBool,
    /// From looking for what it may have said unseen.
    rest_from_looking: Rest,
    streak: Streak,
}

impl FastRead {
    /// From now on the socket is always tried.
    pub(super) fn be_eager(&self) {
        self.eager.store(true, Ordering::Release);
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
        if self.streak.is_over() {
            return self.go_to_the_end(cx);
        }
        let eager = self.eager.load(Ordering::Acquire);
        let retry = take(&self.yielded);
        let looks = take(&self.asked) && self.rest_from_looking.is_over();
        let looks_first = looks && self.unseen.load(Ordering::Relaxed);
        let tries = retry || eager || looks_first || !self.drained.load(Ordering::Relaxed);
        if tries {
            if let Some(result) = attempt(&mut read) {
                if looks_first {
                    self.rest_from_looking.end();
                }
                self.note(&result, len, retry);
                return Poll::Ready(result);
            }
            if looks_first {
                self.rest_from_looking.lengthen();
            }
            if retry {
                self.rest.lengthen();
            }
        }
        if !retry && !eager && self.is_worth_a_retry() {
            return self.go_to_the_end(cx);
        }
        self.streak.reset();
        self.wait(cx, len, read, poll_ready, looks && !tries)
    }

    /// Asks the reactor. Who `looks` tries the socket also where it is told nothing.
    fn wait(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        mut read: impl FnMut() -> io::Result<usize>,
        mut poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
        looks: bool,
    ) -> Poll<io::Result<usize>> {
        loop {
            let answer = poll_ready(cx)?;
            if answer.is_ready() || looks {
                if let Some(result) = attempt(&mut read) {
                    self.unseen.store(answer.is_pending(), Ordering::Relaxed);
                    if answer.is_pending() {
                        self.rest_from_looking.end();
                    }
                    self.note(&result, len, false);
                    return Poll::Ready(result);
                }
            }
            if answer.is_pending() {
                if looks {
                    self.rest_from_looking.lengthen();
                }
                self.asked.store(true, Ordering::Relaxed);
                return Poll::Pending;
            }
            self.unseen.store(false, Ordering::Relaxed); // an old answer, to what was found without it
        }
    }

    /// Condition 1, with the self-wake.
    fn go_to_the_end<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.yielded.store(true, Ordering::Relaxed);
        self.streak.end(cx)
    }

    fn note(&self, result: &io::Result<usize>, len: usize, was_retry: bool) {
        if let Ok(n @ 1..) = *result {
            self.drained.store(n < len, Ordering::Relaxed);
            self.fresh.store(true, Ordering::Relaxed);
            self.streak.go_on();
            if was_retry {
                self.rest.end();
            }
        }
    }

    /// Asked at every wait; once for each that follows a message it may be.
    fn is_worth_a_retry(&self) -> bool {
        if !self.fresh.load(Ordering::Relaxed) {
            return false;
        }
        self.fresh.store(false, Ordering::Relaxed);
        self.rest.is_over()
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
