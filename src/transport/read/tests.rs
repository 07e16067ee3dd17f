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

#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Tells {
    /// What is so: level-triggered, so what is there already is told at once.
    #[default]
    Truly,
    /// Nothing, as where it runs on another thread: it registers anew.
    Nothing,
    /// Of what was found without asking it, once.
    Old,
}

/// A socket and its reactor, as far as one reader sees them.
#[derive(Default)]
struct Scripted {
    fast: ReadPolicy,
    /// What reads find, one after the other; then nothing.
    arrived: RefCell<VecDeque<io::Result<usize>>>,
    reads: Cell<usize>,
    registered: Cell<bool>,
    /// What the reactor tells of is not what it knows.
    tells: Cell<Tells>,
    wakes: Arc<Count>,
}

impl Scripted {
    fn arrive(&self, n: usize) {
        self.arrived.borrow_mut().push_back(Ok(n));
    }

    /// One poll with a buffer of 8 bytes; it holds condition 1 for each.
    fn poll(&self) -> Poll<io::Result<usize>> {
        let wakes = self.wakes.woken();
        self.registered.set(false);
        let waker = self.wakes.waker();
        let read = || {
            self.reads.set(self.reads.get() + 1);
            self.arrived.borrow_mut().pop_front().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))
        };
        let poll_ready = |_: &mut Context<'_>| match (self.registered.replace(true), self.tells.get()) {
            (false, Tells::Truly) if !self.arrived.borrow().is_empty() => Poll::Ready(Ok(())),
            (_, Tells::Old) => {
                self.tells.set(Tells::Truly);
                Poll::Ready(Ok(()))
            }
            _ => Poll::Pending,
        };
        let poll = self.fast.poll(&mut Context::from_waker(&waker), 8, read, poll_ready);
        let woken = self.wakes.woken() - wakes;
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
    fn resting() -> Self {
        let socket = Self::default();
        socket.fast.retry.pause.set(LONGEST_PAUSE);
        socket
    }

    /// As one that waits, for a reactor whose answers cannot be seen.
    fn told_nothing() -> Self {
        let socket = Self::resting();
        socket.read(3);
        socket.tells.set(Tells::Nothing);
        socket.wait();
        socket
    }
}

#[test]
fn after_a_short_read_the_socket_is_waited_for_and_not_tried() {
    let socket = Scripted::resting();
    assert_eq!(socket.wait(), 1, "nothing is known, so it is tried");
    socket.read(3);
    assert_eq!(socket.wait(), 0);
    socket.read(8);
    assert_eq!(socket.wait(), 1, "the buffer was full, so there may be more");
}

#[test]
fn the_end_errors_and_empty_buffers_change_nothing() {
    let socket = Scripted::resting();
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
    assert_eq!(socket.wait(), 1, "polled again for another reason, it looks once, and waits");
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
    let few = 10_000 / usize::from(LONGEST_PAUSE) + 5;
    assert!((1..=few).contains(&retries(10_000)), "and there is a trial now and then");
    // From now on the next message is always there at the retry.
    let mut in_time = 0;
    for _ in 0..1000 {
        socket.arrive(3);
        assert!(socket.poll().is_ready());
        if socket.poll().is_pending() && !socket.registered.get() {
            in_time += 1;
        }
    }
    assert!(in_time >= 1000 - usize::from(LONGEST_PAUSE), "{in_time}");
}

#[test]
fn a_flood_lets_others_have_their_turn() {
    let socket = Scripted::default();
    for _ in 0..3 {
        (0..BUDGET).for_each(|_| socket.read(8));
        socket.arrive(8);
        assert!(socket.poll().is_pending() && !socket.registered.get(), "there is more, and it yields all the same");
        assert!(socket.poll().is_ready());
        socket.wait();
    }
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

#[test]
fn who_was_woken_and_is_told_nothing_finds_what_woke_it_and_the_next_time_does_not_ask() {
    let socket = Scripted::told_nothing();
    for asks in [true, false, false] {
        socket.read(3);
        assert_eq!(socket.registered.get(), asks);
        assert_eq!(socket.wait(), 0);
    }
    assert_eq!(socket.wait(), 1, "woken by something else, it looks once");
}

#[test]
fn the_reactor_is_asked_first_again_once_it_was_found_to_have_known() {
    let socket = Scripted::told_nothing();
    socket.read(3);
    socket.wait();
    socket.read(3);
    socket.tells.set(Tells::Old);
    assert_eq!(socket.wait(), 1, "the old answer costs a read in vain");
    socket.read(3);
    assert!(socket.registered.get(), "it was asked");
    assert_eq!(socket.wait(), 0);
}

#[test]
fn who_is_polled_again_and_again_for_other_reasons_seldom_looks() {
    for tells in [Tells::Truly, Tells::Nothing] {
        let socket = Scripted::resting();
        socket.read(3);
        socket.wait();
        if tells == Tells::Nothing {
            socket.tells.set(tells);
            socket.read(3); // a look that paid
            socket.wait();
        }
        let looks: usize = (0..1600).map(|_| socket.wait()).sum();
        assert!((50..=110).contains(&looks), "{looks}");
    }
}

/// Says `readable` at once whenever it is asked to watch, whatever there is: as a socket does with errors in its queue.
struct Vain {
    /// An event that no task has seen. With several threads a reactor's answer may never be seen as one.
    event: Cell<bool>,
    is_seen: bool,
    polls: Cell<usize>,
}

impl Vain {
    fn poll(&self, fast: &ReadPolicy, readers: &Readiness, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.polls.set(self.polls.get() + 1);
        let ask = |cx: &mut Context<'_>| {
            if self.event.take() && self.is_seen {
                return Poll::Ready(Ok(()));
            }
            self.event.set(true);
            cx.waker().wake_by_ref();
            Poll::Pending
        };
        fast.poll(cx, 8, || Err(ErrorKind::WouldBlock.into()), |cx| readers.poll(cx, fast.in_vain(), ask))
    }
}

#[test]
fn a_reactor_that_is_always_wrong_makes_no_task_spin_whether_or_not_its_answer_is_seen() {
    const WHILE: Duration = Duration::from_millis(400);
    for is_seen in [true, false] {
        let (fast, readers) = (ReadPolicy::default(), Readiness::default());
        let vain = Vain { event: Cell::default(), is_seen, polls: Cell::default() };
        let read = async { poll_fn(|cx| vain.poll(&fast, &readers, cx)).await.map(drop) };
        let end = async { _ = Timer::after(WHILE).await };
        async_io::block_on((async { drop(read.await) }, end).race());
        assert!(vain.polls.get() < 400, "{} polls, {is_seen}", vain.polls.get());
    }
}
