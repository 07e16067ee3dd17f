//! One child's future: polled by the executor, destroyed by whoever comes for it.
//!
//! ```text
//!              poll                 pending, wanted by nobody
//!    Idle ─────────────▶ Taken ──────────────────────────────▶ Idle
//!     │                    │ └─ pending, somebody waits ─────▶ Idle (handed over; never polled again)
//!     │ destroy,           │
//!     │ or poll once       │ destroyed: after it has ended, panicked, or was pending but wanted and nobody waits
//!     │ wanted             ▼
//!     └─▶ Taken ────────▶ Gone
//! ```
//!
//! Invariants, cited below by number:
//!
//! 1. Exactly one thread owns the future outside the slot: the one named by `Taken`. It polls it
//!    or destroys it, and after a last poll both; nobody else has to know which.
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
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A drop that waits says so this often.
const STALL_NOTICE: Duration = Duration::from_secs(1);

type BoxedFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A child's future and who has it.
pub(super) struct Slot {
    state: Mutex<State>,
}

/// One for each child, so its bytes count: a test pins them.
struct State {
    place: Place,
    /// The executor's task for this child, as of the last poll that found it pending. Whoever destroys the future wakes
    /// it: the executor keeps the shell of every task that nobody wakes. Before that first poll it is none, and none is
    /// needed: a new task is scheduled.
    shell: Option<Waker>,
    /// Some exactly while there are any. In a box, because few drops ever have to wait.
    waiters: Option<Box<Waiters>>,
    /// What the child is called in the group's books. Never changes; here because there is room beside `wanted`.
    key: u32,
    /// Somebody has come to destroy the child. Set by `mark` and `destroy`, never reset.
    wanted: bool,
}

/// The threads that block in `destroy` until `place` changes.
#[derive(Default)]
struct Waiters {
    threads: Vec<ThreadId>,
    /// Notified when threads are taken out of `threads`. Shared, because who waits at it cannot keep the state borrowed.
    changed: Arc<Condvar>,
}

/// Where the future is.
enum Place {
    /// Here, and nobody is at it.
    Idle(BoxedFuture),
    /// Not here.
    Away(Away),
}

/// Why a future is not in its slot. (An enum of its own, since so `Place` needs no more room than the future.)
#[derive(Clone, Copy)]
enum Away {
    /// Taken out by this thread, which polls or destroys it.
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
    pub(super) fn new(future: BoxedFuture, key: u32) -> Self {
        Self { state: Mutex::new(State { place: Place::Idle(future), shell: None, waiters: None, key, wanted: false }) }
    }

    /// Polls the child for the executor's task that `cx` belongs to. Ready once that task has nothing left to do: the child
    /// has ended, or belongs to somebody else now. Reports by its key how the child ended, if that is now.
    pub(super) fn poll(&self, cx: &mut Context<'_>, report: impl FnOnce(u32, End)) -> Poll<()> {
        let mut state = lock(&self.state);
        let key = state.key;
        let mut future = match state.take() {
            Ok(future) if state.wanted => {
                drop(state);
                return self.end(future, || report(key, End::Cancelled));
            }
            Ok(future) => future,
            Err(_) => return Poll::Ready(()),
        };
        drop(state);

        match unwind::catch(|| future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => self.put_back(cx, future, || report(key, End::Cancelled)),
            Ok(Poll::Ready(())) => self.end(future, || report(key, End::Returned)),
            Err(payload) => self.end(future, || report(key, End::Panicked(payload))),
        }
    }

    /// After a poll that found the child pending: back into its slot, or to whoever has come for it.
    fn put_back(&self, cx: &Context<'_>, future: BoxedFuture, report: impl FnOnce()) -> Poll<()> {
        let mut state = lock(&self.state);
        if !state.wanted {
            state.place = Place::Idle(future);
            // Only now: while the future is taken nobody asks for the shell, and a child that ends at once needs none.
            if !state.shell.as_ref().is_some_and(|shell| shell.will_wake(cx.waker())) {
                state.shell = Some(cx.waker().clone()); // the executor's own waker: not user code
            }
            return Poll::Pending;
        }
        if state.waiters.is_none() {
            drop(state);
            return self.end(future, report);
        }
        // Handed over. Each waiter looks again, and the first of them finds it idle and takes it.
        state.place = Place::Idle(future);
        state.release();
        Poll::Ready(())
    }

    /// In the executor's task: destroys the future, which this thread has taken out. Those who waited for the poll wait on
    /// for the destruction, by the same thread: their edges stay true.
    fn end(&self, future: BoxedFuture, report: impl FnOnce()) -> Poll<()> {
        // The return tells the executor all that a wake would.
        drop(self.bring_to_gone(future, report));
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
        state.place = Place::Away(Away::Gone);
        state.release();
        state.shell.take()
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
            Place::Away(_) => None,
        }
    }

    /// Destroys the child if nobody is at it, without waiting. Says whether that leaves nothing to wait for.
    pub(super) fn try_destroy(&self, report: impl FnOnce(u32, End)) -> bool {
        self.take_out(report).is_ok()
    }

    /// Destroys the child on this thread, or waits until another thread that is at it has destroyed or handed it over.
    ///
    /// Where waiting would mean to wait for ourselves it returns: the child is marked, and ends when its poll or destructor
    /// returns. Calls `stalled` once a second while it waits.
    pub(super) fn destroy(&self, mut report: impl FnMut(u32, End), mut stalled: impl FnMut()) {
        let me = this_thread();
        while let Err((owner, mut state)) = self.take_out(&mut report) {
            if !waits::enter(me, owner) {
                return;
            }
            let waiters = state.waiters.get_or_insert_default();
            waiters.threads.push(me);
            let changed = Arc::clone(&waiters.changed);
            if wait_for_release(me, state, &changed) == Waited::TooLong {
                stalled(); // while it is in no list and in no graph: it calls a logger, which is user code
            }
        }
    }

    /// Marks the child, and destroys it if nobody is at it. If somebody is: who, and the slot, still locked.
    fn take_out(&self, report: impl FnOnce(u32, End)) -> Result<(), (ThreadId, MutexGuard<'_, State>)> {
        let mut state = lock(&self.state);
        state.wanted = true;
        let key = state.key;
        match state.take() {
            Err(Away::Taken(owner)) => return Err((owner, state)),
            Err(Away::Gone) => {}
            Ok(future) => {
                drop(state);
                if let Some(shell) = self.bring_to_gone(future, || report(key, End::Cancelled)) {
                    shell.wake();
                }
            }
        }
        Ok(())
    }
}

impl State {
    /// Takes the future out for this thread, if it is here.
    fn take(&mut self) -> Result<BoxedFuture, Away> {
        if let Place::Away(away) = self.place {
            return Err(away);
        }
        match mem::replace(&mut self.place, Place::Away(Away::Taken(this_thread()))) {
            Place::Idle(future) => Ok(future),
            Place::Away(away) => Err(away),
        }
    }

    /// Sets the waiters free, after `place` has changed (invariant 4).
    fn release(&mut self) {
        if let Some(waiters) = self.waiters.take() {
            waits::leave(&waiters.threads);
            waiters.changed.notify_all();
        }
    }

    fn awaited_by(&self, thread: ThreadId) -> bool {
        self.waiters.as_ref().is_some_and(|waiters| waiters.threads.contains(&thread))
    }

    /// A thread waits no more, of its own accord.
    fn forget(&mut self, thread: ThreadId) {
        if let Some(waiters) = &mut self.waiters {
            waiters.threads.retain(|waiter| *waiter != thread);
            if waiters.threads.is_empty() {
                self.waiters = None;
            }
        }
        waits::leave(&[thread]);
    }
}

/// Blocks until this thread is taken out of `waiters`; after a while it takes itself out.
fn wait_for_release(me: ThreadId, mut state: MutexGuard<'_, State>, changed: &Condvar) -> Waited {
    while state.awaited_by(me) {
        let (guard, timed_out) = wait(changed, state, STALL_NOTICE);
        state = guard;
        if timed_out && state.awaited_by(me) {
            state.forget(me);
            return Waited::TooLong;
        }
    }
    Waited::Released
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
            Place::Away(Away::Taken(_)) => "taken",
            Place::Away(Away::Gone) => "gone",
        };
        f.debug_struct("Slot")
            .field("place", &place)
            .field("wanted", &state.wanted)
            .field("waiters", &state.waiters.as_ref().map_or(0, |waiters| waiters.threads.len()))
            .finish()
    }
}
