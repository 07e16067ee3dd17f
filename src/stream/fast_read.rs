//! When to read a socket, and when to wait for it first: the difference between two and four system calls a message.
//!
//! A plain reader tries the socket first, finds nothing, and asks the reactor to watch it: for every message a read in vain and
//! an `epoll_ctl`, with an `epoll_wait` to follow. Two observations save them:
//!
//! - **A read that was short has emptied the socket.** What comes next is waited for without trying first. (tokio does the
//!   same, for the same reason.)
//! - **On a busy server the next message is there before the reactor has been asked.** So a task that has just had a message
//!   goes once to the end of the executor's queue and then tries again. Each connection keeps account of whether that pays: a
//!   retry that finds something earns credit, one in vain costs some; without credit it is left out for [`REST`] waits, and
//!   then there is one for a trial. So a connection for which it can't pay pays for it once in so many messages.
//!
//! The conditions of correctness:
//!
//! 1. Every `Pending` is preceded, in the same poll, by a registration with the reactor or by the one self-wake. After a
//!    retry in vain the same poll registers. The reactor's registration is level-triggered: asked to watch a socket
//!    that is readable already, it says so at once. So nothing here can lose a wake-up, whatever the hints say: they are
//!    relaxed atomics, and two readers may mix them up.
//! 2. Short means `0 < n < len`. The end, errors and empty buffers leave the hints alone; into an empty buffer nothing is read,
//!    which is not the end.
//! 3. Only sockets are read so. A stream that is more may keep bytes of its own, which no reactor knows.
//! 4. Once it is *eager*, which it is from the beginning of a drain, the socket is tried before every `Pending`, and nobody goes to
//!    the end of the queue: who asks then, and is told to wait, can be sure that nothing had arrived. One exception keeps a
//!    flood from holding the thread, and so the drain's own deadline, for ever: after [`BUDGET_OF_THE_EAGER`]; and all that go to
//!    the end of the queue say so (`put_off`).
//! 5. A read that is dropped between its self-wake and its retry leaves the mark of it, and the next read, whoever polls it, tries.
//! 6. Two tasks may read through clones: see `side`.
//!
//! And one more thing that async-std leaves to chance: a client that sends faster than its handler reads would have the thread
//! for itself, since a read that always succeeds never waits. After [`BUDGET`] of them in a row, others get their turn.
//!
//! The figures, and how to have them again: `bench/README.md`.

use super::put_off;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

/// For how many waits the retry is left out, where it does not pay.
const REST: u8 = 64;

/// What a retry costs that was in vain is about half of what one saves that was not: a poll and a read against a registration,
/// its event, and a poll.
const EARNED: u8 = 2;

/// The most that can be had in advance: so a connection that has fallen silent is noticed soon.
const MOST_CREDIT: u8 = 16;

/// For a connection of which nothing is known.
const FIRST_CREDIT: u8 = 2;

/// After so many reads, or writes, in a row that had not to wait, the task goes to the end of the queue. tokio grants 128.
pub(super) const BUDGET: u8 = 32;

/// The same in a drain. More, since there a `Pending` is a reason to leave.
const BUDGET_OF_THE_EAGER: u8 = u8::MAX;

/// What is remembered of one socket's reads.
#[derive(Debug)]
pub(super) struct FastRead {
    /// The last read was short.
    drained: AtomicBool,
    /// Bytes have come since the last wait: only then another retry is worth a thought.
    fresh: AtomicBool,
    /// A reader has gone to the end of the queue, and its retry is due.
    yielded: AtomicBool,
    /// See condition 4. Never reset.
    eager: AtomicBool,
    /// How many retries in vain are still granted.
    credit: AtomicU8,
    /// Without credit: how many waits are still without a retry.
    rest: AtomicU8,
    streak: Streak,
}

impl Default for FastRead {
    fn default() -> Self {
        Self {
            drained: AtomicBool::new(false),
            fresh: AtomicBool::new(false),
            yielded: AtomicBool::new(false),
            eager: AtomicBool::new(false),
            credit: AtomicU8::new(FIRST_CREDIT),
            rest: AtomicU8::new(REST),
            streak: Streak::default(),
        }
    }
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
        mut poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<usize>> {
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        let eager = self.eager.load(Ordering::Acquire);
        if self.streak.is_over(if eager { BUDGET_OF_THE_EAGER } else { BUDGET }) {
            return self.go_to_the_end(cx);
        }
        let retry = self.yielded.load(Ordering::Relaxed) && self.yielded.swap(false, Ordering::Relaxed);
        if retry || eager || !self.drained.load(Ordering::Relaxed) {
            if let Some(result) = attempt(&mut read) {
                self.note(&result, len, retry);
                return Poll::Ready(result);
            }
            if retry {
                self.note_vain_retry();
            }
        }
        if !retry && !eager && self.is_worth_a_retry() {
            return self.go_to_the_end(cx);
        }
        self.streak.reset();
        loop {
            ready!(poll_ready(cx))?;
            if let Some(result) = attempt(&mut read) {
                self.note(&result, len, false);
                return Poll::Ready(result);
            }
        }
    }

    /// Condition 1, with the self-wake.
    fn go_to_the_end<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.streak.reset();
        self.yielded.store(true, Ordering::Relaxed);
        put_off::mark();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn note(&self, result: &io::Result<usize>, len: usize, was_retry: bool) {
        if let Ok(n @ 1..) = *result {
            self.drained.store(n < len, Ordering::Relaxed);
            self.fresh.store(true, Ordering::Relaxed);
            self.streak.go_on();
            if was_retry {
                let credit = self.credit.load(Ordering::Relaxed);
                self.credit.store((credit + EARNED).min(MOST_CREDIT), Ordering::Relaxed);
            }
        }
    }

    fn note_vain_retry(&self) {
        let credit = self.credit.load(Ordering::Relaxed);
        self.credit.store(credit.saturating_sub(1), Ordering::Relaxed);
    }

    /// Asked once for each wait that follows a message.
    fn is_worth_a_retry(&self) -> bool {
        if !self.fresh.load(Ordering::Relaxed) {
            return false;
        }
        self.fresh.store(false, Ordering::Relaxed);
        if self.credit.load(Ordering::Relaxed) > 0 {
            return true;
        }
        let rest = self.rest.load(Ordering::Relaxed);
        self.rest.store(if rest == 0 { REST } else { rest - 1 }, Ordering::Relaxed);
        rest == 0
    }
}

/// How often in a row one had not to wait. Never needed for correctness.
#[derive(Debug, Default)]
pub(super) struct Streak(AtomicU8);

impl Streak {
    pub(super) fn is_over(&self, budget: u8) -> bool {
        self.0.load(Ordering::Relaxed) >= budget
    }

    pub(super) fn go_on(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
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
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    /// A socket and its reactor, as far as one reader sees them.
    #[derive(Default)]
    struct Scripted {
        fast: FastRead,
        /// What reads find, one after the other; then nothing.
        arrived: RefCell<VecDeque<io::Result<usize>>>,
        reads: Cell<usize>,
        registered: Cell<bool>,
        wakes: Arc<Wakes>,
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Scripted {
        fn arrive(&self, n: usize) {
            self.arrived.borrow_mut().push_back(Ok(n));
        }

        /// One poll with a buffer of 8 bytes; it holds condition 1 for each.
        fn poll(&self) -> Poll<io::Result<usize>> {
            let wakes = self.wakes.0.load(Ordering::SeqCst);
            self.registered.set(false);
            let waker = Waker::from(Arc::clone(&self.wakes));
            let read = || {
                self.reads.set(self.reads.get() + 1);
                self.arrived.borrow_mut().pop_front().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))
            };
            // Level-triggered: what is there already is told at once, after the registration.
            let poll_ready = |_: &mut Context<'_>| match self.registered.replace(true) {
                false if !self.arrived.borrow().is_empty() => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            };
            let poll = self.fast.poll(&mut Context::from_waker(&waker), 8, read, poll_ready);
            let woken = self.wakes.0.load(Ordering::SeqCst) - wakes;
            match poll {
                Poll::Pending => assert!((woken == 1) != self.registered.get(), "a lost wake-up, or one too many"),
                Poll::Ready(_) => assert_eq!(woken, 0),
            }
            poll
        }

        /// Polls until it is registered; says how many reads that took.
        fn wait(&self) -> usize {
            let before = self.reads.get();
            assert!(self.poll().is_pending());
            if !self.registered.get() {
                assert!(self.poll().is_pending() && self.registered.get(), "one self-wake, and no more");
            }
            self.reads.get() - before
        }

        fn read(&self, n: usize) {
            self.arrive(n);
            match self.poll() {
                Poll::Ready(Ok(read)) => assert_eq!(read, n),
                other => panic!("{other:?}"),
            }
        }

        /// As one for which no retry has paid for long.
        fn without_credit() -> Self {
            let socket = Self::default();
            socket.fast.credit.store(0, Ordering::Relaxed);
            socket
        }
    }

    #[test]
    fn after_a_short_read_the_socket_is_waited_for_and_not_tried() {
        let socket = Scripted::without_credit();
        assert_eq!(socket.wait(), 1, "nothing is known, so it is tried");
        socket.read(3);
        assert_eq!(socket.wait(), 0);
        socket.read(8);
        assert_eq!(socket.wait(), 1, "the buffer was full, so there may be more");
    }

    #[test]
    fn the_end_errors_and_empty_buffers_change_nothing() {
        let socket = Scripted::without_credit();
        socket.read(3);
        for what in [Ok(0), Err(ErrorKind::ConnectionReset.into())] {
            socket.arrived.borrow_mut().push_back(what);
            assert!(socket.poll().is_ready());
            assert_eq!(socket.wait(), 0, "what was short is short still");
        }
        let poll = socket.fast.poll(&mut Context::from_waker(Waker::noop()), 0, || unreachable!(), |_| unreachable!());
        assert!(matches!(poll, Poll::Ready(Ok(0))));
    }

    #[test]
    fn a_retry_is_made_once_for_each_message_and_only_after_one() {
        let socket = Scripted::default();
        assert_eq!(socket.wait(), 1, "no message, no retry");
        socket.read(3);
        assert!(socket.poll().is_pending() && !socket.registered.get(), "to the end of the queue");
        socket.arrive(4);
        assert!(matches!(socket.poll(), Poll::Ready(Ok(4))), "the retry pays");
        assert!(socket.poll().is_pending() && !socket.registered.get());
        assert!(socket.poll().is_pending() && socket.registered.get(), "a retry in vain registers in the same poll");
        assert_eq!(socket.wait(), 0, "polled again for another reason, it only waits");
    }

    #[test]
    fn where_retries_do_not_pay_they_are_rare_and_where_they_pay_again_they_come_back() {
        let socket = Scripted::default();
        let retries = |messages| {
            let mut retries = 0;
            for _ in 0..messages {
                socket.read(3);
                retries += socket.wait();
            }
            retries
        };
        assert!(retries(10_000) <= 10_000 / usize::from(REST) + usize::from(FIRST_CREDIT));
        // From now on the next message is always there at the retry.
        let mut in_time = 0;
        for _ in 0..1000 {
            socket.arrive(3);
            assert!(socket.poll().is_ready());
            if socket.poll().is_pending() && !socket.registered.get() {
                in_time += 1;
            }
        }
        assert!(in_time > 1000 - 2 * usize::from(REST), "{in_time}");
    }

    #[test]
    fn a_flood_lets_others_have_their_turn() {
        let socket = Scripted::default();
        for _ in 0..3 {
            (0..BUDGET).for_each(|_| socket.read(8));
            socket.arrive(8);
            assert!(
                socket.poll().is_pending() && !socket.registered.get(),
                "there is more, and it yields all the same"
            );
            assert!(socket.poll().is_ready());
            socket.wait();
        }
        socket.fast.be_eager();
        (0..3 * BUDGET).for_each(|_| socket.read(8));
    }

    #[test]
    fn once_it_is_eager_the_socket_is_tried_before_each_pending_and_nobody_yields() {
        let socket = Scripted::default();
        socket.read(3);
        socket.fast.be_eager();
        assert!(socket.poll().is_pending() && socket.registered.get());
        assert_eq!(socket.wait(), 1);
        socket.read(3);
        socket.arrive(3);
        assert!(matches!(socket.poll(), Poll::Ready(Ok(3))));
    }

    #[test]
    fn a_read_that_is_dropped_before_its_retry_leaves_it_to_the_next() {
        let socket = Scripted::default();
        socket.read(3);
        assert!(socket.poll().is_pending() && !socket.registered.get());
        // That read is dropped here; another begins, at any later time.
        socket.arrive(4);
        let reads = socket.reads.get();
        assert!(matches!(socket.poll(), Poll::Ready(Ok(4))));
        assert_eq!(socket.reads.get(), reads + 1);
    }
}
