//! [`Readiness`]: waiting for one direction of a socket, for any number of tasks.
//!
//! The reactor keeps one waker for each direction, and wakes the one that a new one displaces. So two tasks that wait
//! through clones of a connection would displace and wake each other without end. Nearly always there is only one task,
//! and it must not pay for others. So:
//!
//! 1. While one task waits, its own waker is registered, and its identity is remembered. That takes two words.
//! 2. When a second task waits, all tasks use a common waker from then on, a broadcast that wakes each of them. The
//!    first registration of the common waker displaces the registered waker, and so wakes its task. That
//!    task is polled again, and then uses the common waker.
//! 3. The common waker is also used if one task's attempts find nothing again and again. It notes which wake-ups the
//!    reactor has caused, and so the wait can pause (`spurious`).
//!
//! Identities are only compared, so a wrong result costs only speed. One waiting task can be mistaken for two: after
//! the connection was passed to another task, the identity of the first is still remembered. Two waiting tasks are
//! never mistaken for one: while the first one waits, the reactor keeps its waker, so no other waker has its address.

use super::spurious::{Pauses, SpuriousCount};
use crate::sync::broadcast::BroadcastWaker;
use crate::sync::identity;
use once_cell::race::OnceBox;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

/// Tasks that wait for one direction of a socket.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// The identity of the task whose own waker is, or was, registered; 0 if none is known.
    last: AtomicUsize,
    /// Made when a second task waits, or when attempts find nothing suspiciously often (rules 2 and 3).
    common: OnceBox<Common>,
}

/// The common waker of several tasks.
#[derive(Debug)]
struct Common {
    waiters: Arc<Waiters>,
    /// The waker that the reactor gets; it wakes `waiters`.
    waker: Waker,
}

/// The tasks behind a common waker.
#[derive(Debug, Default)]
struct Waiters {
    tasks: BroadcastWaker,
    pauses: Pauses,
}

impl Readiness {
    /// Waits, by `poll_ready`, until the reactor reports the socket ready. After too many spurious wake-ups it first
    /// waits for the end of a pause.
    pub(super) fn poll(
        &self,
        cx: &mut Context<'_>,
        spurious: &SpuriousCount,
        mut poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if let Some(common) = self.common.get() {
            return common.poll(cx, spurious, poll_ready);
        }
        if spurious.is_suspicious() {
            return self.common.get_or_init(Common::new).poll(cx, spurious, poll_ready); // rule 3
        }
        let me = identity(cx.waker());
        let before = self.last.swap(me, Ordering::Relaxed);
        if before != 0 && before != me {
            return self.common.get_or_init(Common::new).poll(cx, spurious, poll_ready); // rule 2
        }
        let poll = poll_ready(cx);
        if poll.is_ready() {
            self.forget();
        }
        poll
    }

    /// Forgets the registered task, because a task has made progress without waiting. Most likely that is the same
    /// task. If it is another one, the next task that waits displaces, and so wakes, the registered one, and rule 2
    /// applies then.
    pub(super) fn forget(&self) {
        self.last.store(0, Ordering::Relaxed);
    }

    /// Wakes the tasks that wait in a pause: their waker is not registered with the reactor.
    pub(super) fn wake_paused(&self) {
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
        spurious: &SpuriousCount,
        mut poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        self.waiters.tasks.add(cx.waker()); // before the poll, so that no wake-up is lost
        let mut common = Context::from_waker(&self.waker);
        ready!(self.waiters.pauses.poll(spurious, &mut common));
        poll_ready(&mut common)
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.pauses.note_wakeup(); // before a woken task polls
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

    /// Treats wakers as the reactor does.
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
    fn two_tasks_do_not_wake_each_other_without_end_and_an_event_wakes_both() {
        let (readiness, reactor) = (Readiness::default(), Reactor::default());
        let tasks = [Arc::new(Count::default()), Arc::new(Count::default())];
        let wakers = [tasks[0].waker(), tasks[1].waker()];
        let woken = || [tasks[0].woken(), tasks[1].woken()];
        let wait = |n: usize| {
            let mut cx = Context::from_waker(&wakers[n]);
            let poll = readiness.poll(&mut cx, &SpuriousCount::default(), |cx| reactor.poll(cx));
            assert!(poll.is_pending());
        };
        wait(0);
        wait(0);
        assert!(readiness.common.get().is_none(), "one task uses its own waker");
        wait(1);
        assert_eq!(woken(), [1, 0], "the first is displaced once");
        for n in [0, 1, 0, 1] {
            wait(n);
        }
        assert_eq!(woken(), [1, 0]);
        reactor.event();
        assert_eq!(woken(), [2, 1]);
    }

    /// A pause does not delay other reasons to end the wait, such as the end of the handler.
    #[test]
    fn a_task_in_a_pause_can_be_woken_and_is_woken_at_the_end_of_the_pause() {
        let (readiness, spurious) = (Readiness::default(), SpuriousCount::default());
        let task = Arc::new(Count::default());
        let (waker, asked) = (task.waker(), Cell::new(0));
        let wait = || {
            // Always reported ready, and always spuriously.
            let poll = readiness.poll(&mut Context::from_waker(&waker), &spurious, |cx| {
                asked.set(asked.get() + 1);
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(()))
            });
            spurious.note();
            poll.is_ready()
        };
        let mut pauses = 0;
        while pauses < 8 {
            pauses += usize::from(!wait());
            assert!(asked.get() < 1000, "it never pauses");
        }
        let (woken, before) = (task.woken(), asked.get());
        readiness.wake_paused();
        assert_eq!(task.woken(), woken + 1);
        assert!(!wait() && asked.get() == before, "the wake-up has ended the pause");
        let patience = Instant::now() + Duration::from_secs(60);
        while task.woken() == woken + 1 {
            assert!(Instant::now() < patience, "the pause does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
