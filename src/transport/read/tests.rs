//! Tests of `read`, on a scripted socket and reactor, one poll at a time.

use super::*;
use crate::sync::coop::BUDGET;
use crate::sync::waker_set::counting::Count;
use crate::transport::readiness::Readiness;
use async_io::Timer;
use futures_concurrency::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// Answers of the scripted reactor.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Answers {
    /// The truth. It is level-triggered, so bytes that are there already are reported at once.
    #[default]
    Truth,
    /// Nothing, as if it ran on another thread: the reader registers again.
    Nothing,
    /// Once, that the socket is readable, for bytes that were read already.
    Old,
}

/// A socket and its reactor, as far as one reader sees them.
#[derive(Default)]
struct Scripted {
    policy: ReadPolicy,
    /// The results of the next reads; after them reads would block.
    arrived: RefCell<VecDeque<io::Result<usize>>>,
    /// How often the socket was read.
    reads: Cell<usize>,
    /// The last poll has registered with the reactor.
    registered: Cell<bool>,
    answers: Cell<Answers>,
    wakes: Arc<Count>,
}

impl Scripted {
    fn arrive(&self, n: usize) {
        self.arrived.borrow_mut().push_back(Ok(n));
    }

    /// Polls once with a buffer of 8 bytes, and checks condition 1.
    fn poll(&self) -> Poll<io::Result<usize>> {
        let wakes = self.wakes.woken();
        self.registered.set(false);
        let waker = self.wakes.waker();
        let read = || {
            self.reads.set(self.reads.get() + 1);
            self.arrived.borrow_mut().pop_front().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))
        };
        let poll_ready = |_: &mut Context<'_>| match (self.registered.replace(true), self.answers.get()) {
            (false, Answers::Truth) if !self.arrived.borrow().is_empty() => Poll::Ready(Ok(())),
            (_, Answers::Old) => {
                self.answers.set(Answers::Truth);
                Poll::Ready(Ok(()))
            }
            _ => Poll::Pending,
        };
        let poll = self.policy.poll(&mut Context::from_waker(&waker), 8, read, poll_ready);
        let woken = self.wakes.woken() - wakes;
        match poll {
            Poll::Pending => assert!((woken == 1) != self.registered.get(), "a lost wake-up, or one too many"),
            Poll::Ready(_) => assert_eq!(woken, 0),
        }
        poll
    }

    /// Polls until the reader is registered. Returns how many reads that took.
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

    /// Makes a socket on which no retry has paid for a long time.
    fn without_retries() -> Self {
        let socket = Self::default();
        socket.policy.retry.backoff.set(MOST_SKIPPED);
        socket
    }

    /// Makes a socket that waits for a reactor whose answers cannot be seen.
    fn without_answers() -> Self {
        let socket = Self::without_retries();
        socket.read(3);
        socket.answers.set(Answers::Nothing);
        socket.wait();
        socket
    }
}

#[test]
fn after_a_short_read_the_socket_is_waited_for_and_not_tried() {
    let socket = Scripted::without_retries();
    assert_eq!(socket.wait(), 1, "nothing is known, so the socket is tried");
    socket.read(3);
    assert_eq!(socket.wait(), 0);
    socket.read(8);
    assert_eq!(socket.wait(), 1, "the buffer was full, so there may be more");
}

#[test]
fn eof_errors_and_empty_buffers_change_nothing() {
    let socket = Scripted::without_retries();
    socket.read(3);
    for what in [Ok(0), Err(ErrorKind::ConnectionReset.into())] {
        socket.arrived.borrow_mut().push_back(what);
        assert!(socket.poll().is_ready());
        assert_eq!(socket.wait(), 0, "the last read with bytes was short");
    }
    let poll = socket.policy.poll(&mut Context::from_waker(Waker::noop()), 0, || unreachable!(), |_| unreachable!());
    assert!(matches!(poll, Poll::Ready(Ok(0))));
}

#[test]
fn a_retry_is_made_once_for_each_message_and_only_after_one() {
    let socket = Scripted::default();
    assert_eq!(socket.wait(), 1, "no message, no retry");
    socket.read(3);
    assert!(socket.poll().is_pending() && !socket.registered.get(), "it yields once");
    socket.arrive(4);
    assert!(matches!(socket.poll(), Poll::Ready(Ok(4))), "the retry pays");
    assert!(socket.poll().is_pending() && !socket.registered.get());
    assert!(socket.poll().is_pending() && socket.registered.get(), "a failed retry registers in the same poll");
    assert_eq!(socket.wait(), 1, "polled again for another reason, it tries once and waits");
}

#[test]
fn retries_are_rare_if_they_do_not_pay_and_frequent_again_once_they_pay() {
    let socket = Scripted::default();
    let retries = |messages| {
        let mut retries = 0;
        for _ in 0..messages {
            socket.read(3);
            retries += socket.wait();
        }
        retries
    };
    let few = 10_000 / usize::from(MOST_SKIPPED) + 5;
    assert!((1..=few).contains(&retries(10_000)), "too many retries, or none");
    // From here on the next message has always arrived at the retry.
    let mut in_time = 0;
    for _ in 0..1000 {
        socket.arrive(3);
        assert!(socket.poll().is_ready());
        if socket.poll().is_pending() && !socket.registered.get() {
            in_time += 1;
        }
    }
    assert!(in_time >= 1000 - usize::from(MOST_SKIPPED), "{in_time}");
}

#[test]
fn a_reader_of_a_flood_yields_after_its_budget() {
    let socket = Scripted::default();
    for _ in 0..3 {
        (0..BUDGET).for_each(|_| socket.read(8));
        socket.arrive(8);
        assert!(socket.poll().is_pending() && !socket.registered.get(), "it yields although there are bytes");
        assert!(socket.poll().is_ready());
        socket.wait();
    }
}

#[test]
fn an_eager_policy_tries_the_socket_before_each_pending_and_does_not_yield() {
    let socket = Scripted::default();
    socket.read(3);
    socket.policy.be_eager();
    assert!(socket.poll().is_pending() && socket.registered.get());
    assert_eq!(socket.wait(), 1);
    socket.read(3);
    socket.arrive(3);
    assert!(matches!(socket.poll(), Poll::Ready(Ok(3))));
}

#[test]
fn the_retry_of_a_read_that_is_dropped_is_made_by_the_next_read() {
    let socket = Scripted::default();
    socket.read(3);
    assert!(socket.poll().is_pending() && !socket.registered.get());
    // That read is dropped here; another begins, at any later time.
    socket.arrive(4);
    let reads = socket.reads.get();
    assert!(matches!(socket.poll(), Poll::Ready(Ok(4))));
    assert_eq!(socket.reads.get(), reads + 1);
}

#[test]
fn a_woken_read_without_an_answer_finds_the_bytes_and_the_next_one_tries_the_socket_first() {
    let socket = Scripted::without_answers();
    for asks in [true, false, false] {
        socket.read(3);
        assert_eq!(socket.registered.get(), asks);
        assert_eq!(socket.wait(), 0);
    }
    assert_eq!(socket.wait(), 1, "woken for another reason, it tries once");
}

#[test]
fn the_reactor_is_asked_first_again_once_it_has_answered() {
    let socket = Scripted::without_answers();
    socket.read(3);
    socket.wait();
    socket.read(3);
    socket.answers.set(Answers::Old);
    assert_eq!(socket.wait(), 1, "the old answer costs one read that finds nothing");
    socket.read(3);
    assert!(socket.registered.get(), "the reactor was asked");
    assert_eq!(socket.wait(), 0);
}

#[test]
fn a_reader_that_is_often_polled_for_other_reasons_rarely_tries_the_socket() {
    for answers in [Answers::Truth, Answers::Nothing] {
        let socket = Scripted::without_retries();
        socket.read(3);
        socket.wait();
        if answers == Answers::Nothing {
            socket.answers.set(answers);
            socket.read(3); // an attempt that pays
            socket.wait();
        }
        let attempts: usize = (0..1600).map(|_| socket.wait()).sum();
        assert!((50..=110).contains(&attempts), "{attempts}");
    }
}

/// A reactor that reports the socket readable whenever a task registers, although reads find nothing: as for a socket
/// with errors in its queue.
struct AlwaysReady {
    /// An event that no task has seen.
    event: Cell<bool>,
    /// Tasks see the event as an answer. With several threads they may never see one.
    is_seen: bool,
    polls: Cell<usize>,
}

impl AlwaysReady {
    fn poll(&self, policy: &ReadPolicy, readers: &Readiness, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.polls.set(self.polls.get() + 1);
        let ask = |cx: &mut Context<'_>| {
            if self.event.take() && self.is_seen {
                return Poll::Ready(Ok(()));
            }
            self.event.set(true);
            cx.waker().wake_by_ref();
            Poll::Pending
        };
        policy.poll(cx, 8, || Err(ErrorKind::WouldBlock.into()), |cx| readers.poll(cx, policy.spurious(), ask))
    }
}

#[test]
fn a_reactor_that_always_reports_readiness_makes_no_task_spin_whether_or_not_its_answer_is_seen() {
    const WHILE: Duration = Duration::from_millis(400);
    for is_seen in [true, false] {
        let (policy, readers) = (ReadPolicy::default(), Readiness::default());
        let reactor = AlwaysReady { event: Cell::default(), is_seen, polls: Cell::default() };
        let read = async { poll_fn(|cx| reactor.poll(&policy, &readers, cx)).await.map(drop) };
        let end = async { _ = Timer::after(WHILE).await };
        async_io::block_on((async { drop(read.await) }, end).race());
        assert!(reactor.polls.get() < 400, "{} polls, seen: {is_seen}", reactor.polls.get());
    }
}
