//! [`UnseenAnswer`]: works around a reactor whose answer a reader cannot always see.
//!
//! A reader that is woken asks async-io again, to learn why. But if a turn of the reactor had begun when it first
//! asked, which is so whenever another thread waits in the reactor, async-io cannot tell the event of that turn from an
//! older one. It registers the reader anew, and the reactor, which finds the socket readable still, wakes it a second
//! time. So a reader that waits, is polled again, and gets no answer, tries the socket. A reader for which that has
//! paid tries it first from then on, until async-io is found to have known. A reader that is polled again and again for
//! other reasons pauses from that, as from retries.
//!
//! It pays in one row of the benchmark: one connection and two threads, 54 % of the CPU time of a message
//! (`cargo run --release -p ebbtide-bench -- --only echo64x1 --threads 2`). It works around async-executor, which
//! notifies a sleeping worker after every task, whether or not its queue is empty, so that a thread nearly always waits
//! in the reactor. Once async-executor does that only if there is work, this module brings nothing, and is to be
//! removed: [`ReadPolicy`](super::ReadPolicy) then waits without it.

use super::Pause;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub(super) struct UnseenAnswer {
    /// The reactor was asked, and its answer was not looked at yet.
    asked: AtomicBool,
    /// Its last answer could not be seen.
    expected: AtomicBool,
    /// From looks in vain.
    pause: Pause,
}

/// What a poll does about an answer that it may not see.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    No,
    /// If async-io has no answer.
    Later,
    /// Before async-io is asked.
    First,
}

impl UnseenAnswer {
    /// Asked once by each poll.
    pub(super) fn look(&self) -> Look {
        let was_asked = self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Relaxed);
        match was_asked && self.pause.is_over() {
            true if self.expected.load(Ordering::Relaxed) => Look::First,
            true => Look::Later,
            false => Look::No,
        }
    }

    /// A look has found something: with or without an answer of the reactor.
    pub(super) fn found(&self, unseen: bool) {
        self.expected.store(unseen, Ordering::Relaxed);
        if unseen {
            self.pause.end();
        }
    }

    pub(super) fn looked_in_vain(&self) {
        self.pause.lengthen();
    }

    /// The reactor was asked to watch the socket.
    pub(super) fn note_question(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// The reactor had an answer, an old one: what it was about was found without it.
    pub(super) fn answer_was_old(&self) {
        self.expected.store(false, Ordering::Relaxed);
    }
}
