//! Readiness of one direction of a socket, for any number of tasks.
//!
//! The reactor keeps one waker a direction, and wakes the one that it displaces. So two tasks that wait through clones
//! of a connection would displace and wake each other for ever. Nearly always there is only one task, and that one must
//! not pay. So:
//!
//! 1. As long as one task waits, its own waker is registered, and its identity is remembered: two words.
//! 2. When another task waits, all of them wait behind a broadcast waker from then on, which wakes each of them. The
//!    first registration of that waker displaces, and so wakes, the task that was registered itself; it is polled
//!    again, and joins them.
//! 3. So does a task whose looks are in vain again and again: that waker can tell what the reactor has caused, and the
//!    wait can rest (`vain`).
//!
//! An identity is only compared, so a wrong guess costs speed and nothing else: a task may be taken for another (once
//! the connection was handed from one to the other), but not two tasks for one, since the reactor keeps the waker of
//! the first, and with it its address, for as long as it waits.

use super::vain::{InVain, Rest};
use crate::sync::broadcast::BroadcastWaker;
use crate::sync::identity;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker, ready};

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// The identity of the task that is registered itself, or was; 0: none, as far as is known.
    last: AtomicUsize,
    /// There once several tasks have waited, or one has been woken in vain again and again.
    common: OnceLock<Box<Common>>,
}

#[derive(Debug)]
struct Common {
    waiters: Arc<Waiters>,
    /// Wakes the waiters.
    waker: Waker,
}

#[derive(Debug, Default)]
struct Waiters {
    tasks: BroadcastWaker,
    rest: Rest,
}

impl Readiness {
    /// Waits, with `poll_ready`, until the reactor says that something has come; not before the end of a pause, if that
    /// was in vain too often.
    pub(super) fn poll(
        &self,
        cx: &mut Context<'_>,
        in_vain: &InVain,
        mut poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if let Some(common) = self.common.get() {
            return common.poll(cx, in_vain, poll_ready);
        }
        if in_vain.is_suspicious() {
            return self.common.get_or_init(Common::new).poll(cx, in_vain, poll_ready);
        }
        let me = identity(cx.waker());
        let before = self.last.swap(me, Ordering::Relaxed);
        if before != 0 && before != me {
            return self.common.get_or_init(Common::new).poll(cx, in_vain, poll_ready);
        }
        let poll = poll_ready(cx);
        if poll.is_ready() {
            self.forget();
        }
        poll
    }

    /// A task has found something without asking the reactor: most likely the one that is registered itself, if there
    /// is one. If it was another, the next that waits displaces, and so wakes, the registered one, which then joins it.
    pub(super) fn forget(&self) {
        self.last.store(0, Ordering::Relaxed);
    }

    /// Wakes the tasks that rest: the reactor does not know them.
    pub(super) fn wake_resting(&self) {
        if let Some(common) = self.common.get() {
            common.waiters.tasks.wake_all();
        }
    }
}

impl Common {
    fn new() -> Box<Self> {
        let waiters = Arc::<Waiters>::default();
        Box::new(Self { waker: Waker::from(Arc::clone(&waiters)), waiters })
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        in_vain: &InVain,
        mut poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        self.waiters.tasks.add(cx.waker()); // first, so that no wake-up comes too early
        let mut common = Context::from_waker(&self.waker);
        ready!(self.waiters.rest.poll(in_vain, &mut common));
        poll_ready(&mut common)
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rest.note_wakeup(); // before a task that is woken looks
        self.tasks.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::waker_set::counting::Count;
    use crate::sync::{Mutex, lock};
    use std::cell::Cell;
    use std::thread;
    use std::time::{Duration, Instant};

    /// Does with wakers as the reactor does.
    #[derive(Default)]
    struct Reactor(Mutex<Option<Waker>>);

    impl Reactor {
        fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let displaced = lock(&self.0).replace(cx.waker().clone());
            if let Some(displaced) = displaced.filter(|waker| !waker.will_wake(cx.waker())) {
                displaced.wake();
            }
            Poll::Pending
        }

        fn event(&self) {
            if let Some(waker) = lock(&self.0).take() {
                waker.wake();
            }
        }
    }

    #[test]
    fn two_tasks_do_not_wake_each_other_for_ever_and_an_event_wakes_both() {
        let (side, reactor) = (Readiness::default(), Reactor::default());
        let tasks = [Arc::new(Count::default()), Arc::new(Count::default())];
        let wakers = [tasks[0].waker(), tasks[1].waker()];
        let woken = || [tasks[0].woken(), tasks[1].woken()];
        let wait = |n: usize| {
            let poll = side.poll(&mut Context::from_waker(&wakers[n]), &InVain::default(), |cx| reactor.poll(cx));
            assert!(poll.is_pending());
        };
        wait(0);
        wait(0);
        assert!(side.common.get().is_none(), "one task pays nothing");
        wait(1);
        assert_eq!(woken(), [1, 0], "the first is displaced once");
        for n in [0, 1, 0, 1] {
            wait(n);
        }
        assert_eq!(woken(), [1, 0]);
        reactor.event();
        assert_eq!(woken(), [2, 1]);
    }

    /// An end of the wait by others, such as the handler's, is not late by the length of a pause.
    #[test]
    fn a_task_that_rests_can_be_woken_and_is_woken_at_the_end_of_its_pause() {
        let (side, in_vain) = (Readiness::default(), InVain::default());
        let task = Arc::new(Count::default());
        let (waker, asked) = (task.waker(), Cell::new(0));
        let wait = || {
            // Always ready, and always in vain.
            let poll = side.poll(&mut Context::from_waker(&waker), &in_vain, |cx| {
                asked.set(asked.get() + 1);
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(()))
            });
            in_vain.note();
            poll.is_ready()
        };
        let mut pauses = 0;
        while pauses < 8 {
            pauses += usize::from(!wait());
            assert!(asked.get() < 1000, "it never rests");
        }
        let (woken, before) = (task.woken(), asked.get());
        side.wake_resting();
        assert_eq!(task.woken(), woken + 1);
        assert!(!wait() && asked.get() == before, "it rests still");
        let patience = Instant::now() + Duration::from_secs(60);
        while task.woken() == woken + 1 {
            assert!(Instant::now() < patience, "its pause does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
