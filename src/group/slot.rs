//! One child's future: polled by the executor, destroyed by whoever comes for it.
//!
//! ```text
//!             poll               pending, wanted by nobody
//!    Idle ────────────▶ Taken ──────────────────────────────▶ Idle
//!     │                   │  └── pending, somebody waits ─────▶ Idle (handed over; never polled again)
//!     │ destroy,          │ ended, panicked, or wanted and nobody waits:
//!     │ or poll           │ destroyed
//!     │ once wanted       ▼
//!     └──▶ Taken ──────▶ Gone
//! ```
//!
//! Invariants, cited below by number:
//!
//! 1. Exactly one thread owns the future outside the slot: the one named by `Taken`, to poll it, to destroy it, or both.
//! 2. No lock is held while the future is polled or destroyed, or a waker is woken: they are user code.
//! 3. Once `wanted` is set it stays set, and no poll of the future *begins* any more.
//! 4. A thread in `waiters` blocks until it is taken out, which happens at every change of `place` (and by itself once a
//!    second, to say that it waits); it then looks again. The one that takes it out also takes its edge out of the graph
//!    of waits, under this slot's lock.
//! 5. Whoever destroys the future reports its end, exactly once, between the destructor's return and `Gone`. So whoever
//!    has waited for the child finds its end reported.
//!
//! Why it cannot deadlock: a thread waits only for a thread that polls or destroys, never for one that is itself (the
//! child is marked instead, and its own poll destroys it on return), and never where the graph of waits would close a
//! circle (marked as well). So among waiting threads there is always one that waits for a thread which runs.

use super::waits;
use crate::say::say;
use crate::sync::{Condvar, Mutex, MutexGuard, ThreadId, lock, this_thread, wait};
use crate::unwind::{self, Payload};
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A drop that waits says so this often.
const STALL_NOTICE: Duration = Duration::from_secs(1);

type BoxedFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A child's future and who has it.
pub(super) struct Slot {
    state: Mutex<State>,
    /// Notified when threads are taken out of `waiters`.
    changed: Condvar,
}

/// As small as may be: every connection has one, and every poll of it looks here first.
struct State {
    place: Place,
    /// The executor's task for this child, as of its last poll, while the child is idle. Whoever destroys the future wakes it:
    /// the executor keeps the shell of every task that nobody wakes.
    shell: Option<Waker>,
    /// The threads that block in `destroy` until `place` changes. Hardly ever there are any.
    waiters: Option<Box<Vec<ThreadId>>>,
    /// Somebody has come to destroy the child. Set by `mark` and `destroy`, never reset.
    wanted: bool,
}

/// Where the future is.
enum Place {
    /// Here, and nobody is at it.
    Idle(BoxedFuture),
    /// Taken out by this thread, which polls it or destroys it.
    Taken(ThreadId),
    /// Destroyed.
    Gone,
}

/// How a child ended.
#[derive(Debug)]
pub(super) enum End {
    /// Its future was polled to its end.
    Returned,
    /// Its last poll panicked.
    Panicked(Payload),
    /// Its future was destroyed before its end.
    Cancelled,
}

impl Slot {
    pub(super) fn new(future: BoxedFuture) -> Self {
        Self {
            state: Mutex::new(State { place: Place::Idle(future), shell: None, waiters: None, wanted: false }),
            changed: Condvar::new(),
        }
    }

    /// Polls the child for the executor's task that `cx` belongs to. Ready once that task has nothing left to do: the child
    /// has ended, or belongs to somebody else now.
    pub(super) fn poll(&self, cx: &mut Context<'_>, report: impl FnOnce(End)) -> Poll<()> {
        let mut state = lock(&self.state);
        let mut future = match mem::replace(&mut state.place, Place::Taken(this_thread())) {
            Place::Idle(future) => future,
            other => {
                state.place = other;
                return Poll::Ready(());
            }
        };
        let wanted = state.wanted;
        drop(state);
        if wanted {
            return self.end_poll(future, || report(End::Cancelled));
        }
        match unwind::catch(|| future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => self.put_back(future, cx, report),
            Ok(Poll::Ready(())) => self.end_poll(future, || report(End::Returned)),
            Err(payload) => self.end_poll(future, || report(End::Panicked(payload))),
        }
    }

    /// After a poll that found the child pending: back into its slot, or to whoever has come for it.
    fn put_back(&self, future: BoxedFuture, cx: &Context<'_>, report: impl FnOnce(End)) -> Poll<()> {
        let mut state = lock(&self.state);
        if !state.wanted {
            state.place = Place::Idle(future);
            if !state.shell.as_ref().is_some_and(|shell| shell.will_wake(cx.waker())) {
                state.shell = Some(cx.waker().clone()); // the executor's own waker: not user code
            }
            return Poll::Pending;
        }
        if state.waiters.is_none() {
            drop(state);
            return self.end_poll(future, || report(End::Cancelled));
        }
        // Handed over. Each waiter looks again, and the first of them finds it idle and takes it. The return tells the
        // executor all that a wake of its shell would.
        state.place = Place::Idle(future);
        state.shell = None;
        self.release(state);
        Poll::Ready(())
    }

    /// The poll was the child's last: destroys it. Those who waited for the poll go on waiting, for the same thread: their edges
    /// stay true.
    fn end_poll(&self, future: BoxedFuture, report: impl FnOnce()) -> Poll<()> {
        drop(self.bring_to_gone(future, report)); // the return tells the executor all that a wake would
        Poll::Ready(())
    }

    /// Destroys the future, which this thread has taken out.
    ///
    /// Gives the waker of the executor's task, if nobody has woken that yet.
    fn bring_to_gone(&self, future: BoxedFuture, report: impl FnOnce()) -> Option<Waker> {
        if let Err(payload) = unwind::catch(|| drop(future)) {
            say!(error, "a child's destructor panicked: {}", unwind::message(&payload));
            unwind::discard(payload);
        }
        report();
        let mut state = lock(&self.state);
        state.place = Place::Gone;
        let shell = state.shell.take();
        self.release(state);
        shell
    }

    /// Sets the waiters free, after `place` has changed (invariant 4).
    fn release(&self, mut state: MutexGuard<'_, State>) {
        if let Some(waiters) = state.waiters.take() {
            waits::leave(&waiters);
            self.changed.notify_all();
        }
    }

    /// Asks for the child's end, without waiting: its next poll, or the one under way, destroys it.
    ///
    /// Gives the waker of the executor's task, to be woken after the caller has let go of its own locks.
    pub(super) fn mark(&self) -> Option<Waker> {
        let mut state = lock(&self.state);
        state.wanted = true;
        match state.place {
            // Taken, not cloned: one wake is all that the shell needs. It finds the child wanted, or gone.
            Place::Idle(_) => state.shell.take(),
            _ => None,
        }
    }

    /// Destroys the child if nobody is at it, without waiting. Says whether that leaves nothing to wait for.
    pub(super) fn try_destroy(&self, report: impl FnOnce(End)) -> bool {
        self.take_out(report).is_ok()
    }

    /// Destroys the child on this thread, or waits until another thread that is at it has destroyed or handed it over.
    ///
    /// Where waiting would mean to wait for ourselves it returns: the child is marked, and ends when its poll or destructor
    /// returns. Calls `stalled` once a second while it waits.
    pub(super) fn destroy(&self, mut report: impl FnMut(End), mut stalled: impl FnMut()) {
        let me = this_thread();
        while let Err((owner, mut state)) = self.take_out(&mut report) {
            if !waits::enter(me, owner) {
                return;
            }
            state.waiters.get_or_insert_default().push(me);
            if self.wait_for_release(me, state) == Waited::TooLong {
                stalled(); // while it is in no list and in no graph: it calls a logger, which is user code
            }
        }
    }

    /// Marks the child, and destroys it if nobody is at it. If somebody is: who, and the slot, still locked.
    fn take_out(&self, report: impl FnOnce(End)) -> Result<(), (ThreadId, MutexGuard<'_, State>)> {
        let mut state = lock(&self.state);
        state.wanted = true;
        match state.place {
            Place::Taken(owner) => return Err((owner, state)),
            Place::Gone => return Ok(()),
            Place::Idle(_) => {}
        }
        if let Place::Idle(future) = mem::replace(&mut state.place, Place::Taken(this_thread())) {
            drop(state);
            if let Some(shell) = self.bring_to_gone(future, || report(End::Cancelled)) {
                shell.wake();
            }
        }
        Ok(())
    }

    /// Blocks until this thread is taken out of `waiters`; after a while it takes itself out.
    fn wait_for_release(&self, me: ThreadId, mut state: MutexGuard<'_, State>) -> Waited {
        while state.has_waiter(me) {
            let (guard, timed_out) = wait(&self.changed, state, STALL_NOTICE);
            state = guard;
            if timed_out && state.has_waiter(me) {
                state.remove_waiter(me);
                waits::leave(&[me]);
                return Waited::TooLong;
            }
        }
        Waited::Released
    }
}

impl State {
    fn has_waiter(&self, thread: ThreadId) -> bool {
        self.waiters.as_ref().is_some_and(|waiters| waiters.contains(&thread))
    }

    /// Where there is a list, there is somebody in it.
    fn remove_waiter(&mut self, thread: ThreadId) {
        self.waiters = self.waiters.take().filter(|waiters| waiters.len() > 1).map(|mut waiters| {
            waiters.retain(|waiter| *waiter != thread);
            waiters
        });
    }
}

/// How a wait ended.
#[derive(PartialEq, Eq)]
enum Waited {
    Released,
    TooLong,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        let place = match state.place {
            Place::Idle(_) => "idle",
            Place::Taken(_) => "taken",
            Place::Gone => "gone",
        };
        f.debug_struct("Slot")
            .field("place", &place)
            .field("wanted", &state.wanted)
            .field("waiters", &state.waiters.as_ref().map_or(0, |waiters| waiters.len()))
            .finish()
    }
}
