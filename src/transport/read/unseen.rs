//! [`UnseenAnswer`]: a workaround for readiness that the reactor has reported and a reader cannot see.
//!
//! A reader that is woken asks async-io again whether the socket is readable. If a turn of the reactor was under way
//! when the reader registered, async-io cannot distinguish that turn's event from an older one. (A turn is under way
//! whenever another thread waits in the reactor.) So async-io registers the reader again, and the reactor, which finds
//! the socket still readable, wakes it a second time.
//!
//! The workaround has three parts:
//!
//! - A reader that has registered, is polled again, and gets no answer tries the socket.
//! - If that finds something, the next polls try the socket first, until async-io turns out to have known.
//! - If that finds nothing, chances are skipped, as with retries. So a reader that is often polled for other reasons
//!   rarely tries.
//!
//! It pays in one row of the benchmark, with one connection and two threads: 54 % of the CPU time of a message
//! (`cargo run --release -p ebbtide-bench -- --only echo64x1 --threads 2`). The cause is async-executor, which notifies
//! a sleeping worker after every task, even if its queue is empty. So one thread nearly always waits in the reactor. If
//! async-executor did that only when there is work, this module would gain nothing. Remove it then:
//! [`ReadPolicy`](super::ReadPolicy) also waits without it.

use super::Backoff;
use std::sync::atomic::{AtomicBool, Ordering};

/// History of one socket's reads with unseen answers.
#[derive(Debug, Default)]
pub(super) struct UnseenAnswer {
    /// A task has registered, and no poll has asked for the answer since.
    asked: AtomicBool,
    /// The last answer was unseen, so the next one is expected to be unseen.
    expected: AtomicBool,
    /// Back-off of attempts that found nothing.
    backoff: Backoff,
}

/// When a poll tries the socket because of an answer that it may not see.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Not for this reason.
    No,
    /// After async-io was asked and had no answer.
    Later,
    /// Before async-io is asked.
    First,
}

impl UnseenAnswer {
    /// Returns when this poll is to try the socket. Called once by each poll.
    pub(super) fn look(&self) -> Look {
        let was_asked = self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Relaxed);
        match was_asked && self.backoff.is_over() {
            true if self.expected.load(Ordering::Relaxed) => Look::First,
            true => Look::Later,
            false => Look::No,
        }
    }

    /// Records an attempt that has found something. `unseen`: async-io had no answer.
    pub(super) fn found(&self, unseen: bool) {
        self.expected.store(unseen, Ordering::Relaxed);
        if unseen {
            self.backoff.reset();
        }
    }

    /// Records an attempt that has found nothing.
    pub(super) fn found_nothing(&self) {
        self.backoff.lengthen();
    }

    /// Records that the task has registered with the reactor.
    pub(super) fn note_question(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Records an old answer: async-io reported readiness, and an earlier attempt had already consumed its cause.
    pub(super) fn note_old_answer(&self) {
        self.expected.store(false, Ordering::Relaxed);
    }
}
