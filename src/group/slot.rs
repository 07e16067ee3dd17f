//! One child's future: polled by the executor, destroyed by the first thread that wants its end.
//!
//! A slot holds the future, or the name of the thread that has taken it out. Three parties meet here:
//!
//! - the executor's task for the child, called its *shell*, polls it: [`Slot::poll`];
//! - a thread that cancels or drops the group *marks* the child ([`Slot::mark`]), or destroys it on the spot
//!   ([`Slot::try_destroy`], [`Slot::destroy`]);
//! - the child's handle asks for the result ([`Slot::poll_end`]) or gives it up ([`Slot::detach`]).
//!
//! ```text
//!            poll or destroy             destroyed
//!     Idle ────────────────────▶ Taken ─────────────▶ Gone
//!     ▲ │                          │                    ▲
//!     └─┼──────────────────────────┘                    │
//!       │  put back, handed over, or ended with a result│
//!       │                                               │
//!       └───────────────────────────────────────────────┘
//!          the result was taken, or the handle was dropped
//! ```
//!
//! A poll that finds the child marked destroys it without polling it. Any other poll leaves the slot as follows:
//!
//! | the poll returned | marked | handle | what happens | place |
//! |---|---|---|---|---|
//! | pending | no | | the future is put back | `Idle` |
//! | pending | yes, and a thread waits | | the future is handed over to that thread, and never polled again | `Idle` |
//! | pending | yes, and no thread waits | | this thread destroys the future | `Gone` |
//! | ready, or panicked | either | lives | the future is destroyed, the result stays for the handle | `Idle` |
//! | ready, or panicked | either | dropped, or there was none | the future and its result are destroyed | `Gone` |
//!
//! # Invariants
//!
//! The code cites them by number.
//!
//! 1. **One owner.** `Taken` names the only thread that has the future outside the slot. That thread polls it or
//!    destroys it, or first one and then the other; no other thread has to know which.
//! 2. **No lock during user code.** No lock is held while a future is polled or destroyed, while a waker of the user's
//!    is woken, cloned or dropped, or while a logger is called.
//! 3. **Marked for good.** `marked` is never reset. Once it is set, no poll of the future *begins*.
//! 4. **Every waiting thread is released.** A thread is in `waiters.threads` only while the place is `Taken`. The owner
//!    that ends this state empties the list, removes the edges of those threads from the graph of waits, and notifies
//!    them: all of it under this slot's lock. A released thread looks at the slot again. (Once a second a waiting
//!    thread removes itself and its edge, logs that it waits, and looks again.)
//! 5. **One moment of the end.** The child's end is recorded once, in one critical section: here (`ended`) and in the
//!    group's list of children. So a drop, a handle and a join of the group agree at any moment whether the child has
//!    ended.
//! 6. **No result without a handle.** A result is kept only while its [`JoinHandle`](super::JoinHandle) lives
//!    (`joinable`). If the handle was dropped before the end is recorded, the result is dropped first, or its panic is
//!    handed to the group, and the end is recorded after that.
//! 7. **No shell is left behind.** The executor keeps every task that is not woken. So a poll that puts the future back
//!    leaves the shell's waker in `shell_waker`, and the thread that marks or destroys an idle child takes that waker
//!    and wakes it. In every other case a poll is scheduled already, or one under way returns `Ready`.
//!
//! # Why it cannot deadlock
//!
//! *Locks.* They nest only as slot, then the group's list of children; and as slot, then the graph of waits. No user
//! code runs under them (2), so none is held for long.
//!
//! *Waits.* A thread blocks in one place, [`wait_for_release`]; it holds no lock there. It waits for one thread, the
//! owner that `Taken` names (1), and the graph of waits has an edge from it to that owner.
//!
//! - An owner that runs finishes its poll or destructor, changes the place, and releases the threads that wait for it
//!   (4).
//! - An owner may itself wait, in a drop inside that poll or destructor. Then it has an edge, too. The graph has no
//!   cycle, so the path of edges ends at a thread that runs. That thread releases those that wait for it, which then
//!   run, and so on back along the path.
//! - A wait that would close a cycle does not begin. That includes a thread which would wait for itself, when a child
//!   drops its own group. The child stays marked, and its owner destroys it when the poll returns (3). In this case
//!   alone `destroy` returns before the child is gone.
//! - After a hand-over the place is `Idle`. The released threads look again: the first takes the future and destroys
//!   it, and the others wait for that one, by edges of their own.
//!
//! Out of reach: a poll or a destructor that does not return, or that waits for the dropping thread by other means,
//! such as a lock.

use super::future::{BoxedFuture, Panic, dispose};
use super::wait_graph;
use crate::panic::{self, Payload, log_line};
use crate::sync::waker_set::{wake, wake_all};
use crate::sync::{self, Condvar, Mutex, MutexGuard, ThreadId, lock, this_thread};
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A drop that waits logs a line this often.
const STALL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A child's future, or the name of the thread that has it.
pub(super) struct Slot {
    state: Mutex<SlotState>,
}

/// State of a slot. There is one for each child, so its size matters: a test in `children` pins it.
struct SlotState {
    place: Place,
    /// The waker of the shell, from the last poll that put the future back (invariant 7). `None` before that poll: the
    /// executor polls a new task without being woken. Also `None` after it was taken to be woken.
    shell_waker: Option<Waker>,
    /// `None` if nothing waits. In a box, because few drops and few handles ever wait.
    waiters: Option<Box<SlotWaiters>>,
    /// The child's key in the group's list of children. Never changes. It lies here because it fits beside `marked`.
    key: u32,
    /// The child is to be destroyed. Set by `mark` and `take_out`, never reset (invariant 3).
    marked: bool,
    /// A handle lives that may ask for the result. Reset by the drop of the handle (invariant 6).
    joinable: bool,
    /// The child has ended. An idle place then has the result instead of the future (invariant 5).
    ended: bool,
}

/// The threads and the task that wait for a change of `place`.
#[derive(Default)]
struct SlotWaiters {
    /// The threads that block in `destroy` (invariant 4).
    threads: Vec<ThreadId>,
    /// The task that awaits the child's handle.
    joiner: Option<Waker>,
    /// Notified when `threads` is emptied. Shared, because a thread that waits at it cannot keep the state borrowed.
    changed: Arc<Condvar>,
}

/// Where the future is.
enum Place {
    /// In the slot; no thread polls or destroys it. If the child has ended, the result is here instead.
    Idle(BoxedFuture),
    /// Not in the slot.
    Away(Away),
}

/// Why a future is not in its slot. (An enum of its own, because then `Place` is no larger than the future.)
#[derive(Clone, Copy)]
enum Away {
    /// This thread has taken it out, and polls or destroys it (invariant 1).
    Taken(ThreadId),
    /// It was destroyed, or its result was taken.
    Gone,
}

/// The group of a child, as far as the end of the child needs it.
pub(super) trait Parent {
    /// Removes the child of this key from the group's list. Returns the wakers of the tasks that wait for an empty
    /// group, if this was the last child. It is called under the slot's lock, so it runs no user code.
    fn remove(&self, key: u32) -> Vec<Waker>;

    /// Handles the panic of a child without a handle.
    fn panicked(&self, payload: Payload);

    /// Wraps the panic of a child with a handle: the handle returns it, or the group gets it if the handle is dropped.
    fn panic_of_handle(&self, payload: Payload) -> Box<Panic>;
}

impl Slot {
    /// Puts a future into a slot of its own. `joinable`: there is a handle that may ask for the result.
    pub(super) fn new(future: BoxedFuture, key: u32, joinable: bool) -> Self {
        let place = Place::Idle(future);
        let state = SlotState { place, shell_waker: None, waiters: None, key, marked: false, joinable, ended: false };
        Self { state: Mutex::new(state) }
    }

    /// Polls the child, in its shell; `cx` has the shell's waker. Ready once the shell has nothing left to do: the
    /// child has ended, or another thread owns it.
    pub(super) fn poll(&self, cx: &mut Context<'_>, parent: &impl Parent) -> Poll<()> {
        let mut state = lock(&self.state);
        let joinable = state.joinable;
        let is_known = state.shell_waker.as_ref().is_some_and(|known| known.will_wake(cx.waker()));
        let mut future = match state.take() {
            Ok(future) if state.marked => {
                drop(state);
                return self.destroy_in_shell(future, parent); // invariant 3
            }
            Ok(future) => future,
            Err(_) => return Poll::Ready(()),
        };
        drop(state); // invariant 2

        match panic::catch(|| future.as_mut().poll(cx, joinable)) {
            Ok(Poll::Pending) if is_known => self.put_back(None, future, parent),
            // The waker is cloned only here: a child that ends in its first poll needs none. And without the lock: the
            // waker of an executor that the user gives is user code, and may panic.
            Ok(Poll::Pending) => match panic::catch(|| cx.waker().clone()) {
                Ok(waker) => self.put_back(Some(waker), future, parent),
                Err(payload) => {
                    log_line!(error, "a waker panicked, so its task is cancelled: {}", panic::message(&payload));
                    panic::discard(payload);
                    self.destroy_in_shell(future, parent)
                }
            },
            Ok(Poll::Ready(())) if joinable => self.keep_result(future, parent),
            Ok(Poll::Ready(())) => self.destroy_in_shell(future, parent),
            Err(payload) if joinable => {
                future.as_mut().keep_panic(parent.panic_of_handle(payload));
                self.keep_result(future, parent)
            }
            Err(payload) => {
                parent.panicked(payload); // before the end is recorded: a join that sees the end raises the panic
                self.destroy_in_shell(future, parent)
            }
        }
    }

    /// Puts the future back after a poll that returned pending, or gives it to the thread that waits to destroy it, or
    /// destroys it if it is marked and no thread waits. `shell_waker` is set if it differs from the one that is stored,
    /// which no other thread replaces while the future is taken.
    fn put_back(&self, shell_waker: Option<Waker>, future: BoxedFuture, parent: &impl Parent) -> Poll<()> {
        let mut state = lock(&self.state);
        if !state.marked {
            state.place = Place::Idle(future); // no thread waits: each marks the child first
            // Stored only here (invariant 7): no thread asks for it while the future is taken.
            let displaced = shell_waker.and_then(|waker| state.shell_waker.replace(waker));
            drop(state); // invariant 2
            drop(displaced);
            return Poll::Pending;
        }
        if state.waiters.as_ref().is_none_or(|waiters| waiters.threads.is_empty()) {
            drop(state);
            return self.destroy_in_shell(future, parent);
        }
        // Handed over: each waiting thread looks again, and the first one finds the future idle and takes it.
        state.place = Place::Idle(future);
        state.release();
        Poll::Ready(())
    }

    /// Destroys, in the shell, the future that this thread has taken out. Threads that waited for the poll go on
    /// waiting for the destruction. The same thread does it, so their edges in the graph of waits stay correct.
    fn destroy_in_shell(&self, future: BoxedFuture, parent: &impl Parent) -> Poll<()> {
        drop(self.destroy_taken(future, parent)); // no wake: `Ready` frees the shell (invariant 7)
        Poll::Ready(())
    }

    /// Keeps the result for the handle, in the shell, after a poll that has ended the child. Only the result is left of
    /// `future`.
    fn keep_result(&self, future: BoxedFuture, parent: &impl Parent) -> Poll<()> {
        let result = future.compact();
        let state = lock(&self.state);
        if !state.joinable {
            // The handle was dropped during the poll. The end is recorded after the result is gone (invariant 6).
            drop(state);
            dispose(result);
            drop(self.record_end(Place::Away(Away::Gone), parent));
            return Poll::Ready(());
        }
        drop(self.record_end_locked(state, Place::Idle(result), parent));
        Poll::Ready(())
    }

    /// Records the child's end, in the slot and in the group's list (invariant 5), and wakes all that waits for it.
    /// Returns the shell's waker, if that was not taken yet.
    fn record_end(&self, place: Place, parent: &impl Parent) -> Option<Waker> {
        self.record_end_locked(lock(&self.state), place, parent)
    }

    fn record_end_locked(
        &self,
        mut state: MutexGuard<'_, SlotState>,
        place: Place,
        parent: &impl Parent,
    ) -> Option<Waker> {
        state.place = place;
        state.ended = true;
        let group_joiners = parent.remove(state.key); // the lock order is slot, then the group's list
        let shell_waker = state.shell_waker.take();
        let joiner = state.release_all();
        drop(state); // invariant 2
        wake_all(group_joiners);
        joiner.into_iter().for_each(wake);
        shell_waker
    }

    /// Ready once the child has ended: with its result, or with `None` if it was destroyed before it had one.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Option<BoxedFuture>> {
        let waker = cx.waker().clone(); // user code, so before the lock
        let mut state = lock(&self.state);
        if let Some(result) = state.take_result() {
            return Poll::Ready(Some(result));
        }
        if let Place::Away(Away::Gone) = state.place {
            return Poll::Ready(None);
        }
        let displaced = state.waiters.get_or_insert_default().joiner.replace(waker);
        drop(state);
        drop(displaced);
        Poll::Pending
    }

    /// Records that the child's handle is dropped (invariant 6). Returns the result, if it is here already.
    pub(super) fn detach(&self) -> Option<BoxedFuture> {
        let mut state = lock(&self.state);
        state.joinable = false;
        let result = state.take_result();
        let joiner = state.waiters.as_mut().and_then(|waiters| waiters.joiner.take());
        state.drop_empty_waiters();
        drop(state);
        drop(joiner);
        result
    }

    pub(super) fn has_ended(&self) -> bool {
        lock(&self.state).ended
    }

    /// Destroys the future that this thread has taken out, and records the child's end. Returns the shell's waker, if
    /// that was not taken yet.
    fn destroy_taken(&self, future: BoxedFuture, parent: &impl Parent) -> Option<Waker> {
        if let Err(payload) = panic::catch(|| drop(future)) {
            log_line!(error, "a child's destructor panicked: {}", panic::message(&payload));
            panic::discard(payload);
        }
        self.record_end(Place::Away(Away::Gone), parent)
    }

    /// Marks the child, without waiting: its next poll destroys it, or the one under way when it returns.
    ///
    /// Returns the shell's waker, which the caller wakes after it has released its own locks.
    pub(super) fn mark(&self) -> Option<Waker> {
        let mut state = lock(&self.state);
        state.marked = true;
        match state.place {
            // Taken, not cloned: the shell needs one wake (invariant 7). It then finds the child marked, or gone.
            Place::Idle(_) => state.shell_waker.take(),
            Place::Away(_) => None,
        }
    }

    /// Marks the child, and destroys it if no thread has it. Never waits. Returns whether the child has ended.
    pub(super) fn try_destroy(&self, parent: &impl Parent) -> bool {
        self.take_out(parent).is_ok()
    }

    /// Marks the child, and destroys it on this thread; or waits until the thread that has it has destroyed it or
    /// handed it over.
    ///
    /// It does not wait if that would close a cycle of waits. Then it returns early: the child is marked, and ends when
    /// its poll or destructor returns. It calls `stalled` once a second while it waits.
    pub(super) fn destroy(&self, parent: &impl Parent, mut stalled: impl FnMut()) {
        let me = this_thread();
        while let Err((owner, mut state)) = self.take_out(parent) {
            if !wait_graph::enter(me, owner) {
                return;
            }
            let waiters = state.waiters.get_or_insert_default();
            waiters.threads.push(me);
            let changed = Arc::clone(&waiters.changed);
            if wait_for_release(me, state, &changed) == Waited::TooLong {
                stalled(); // a logger, so user code: this thread is in no list and in no graph here
            }
        }
    }

    /// Marks the child, and destroys it if no thread has it. Otherwise returns that thread and the slot, still locked:
    /// the edge must be entered before the place can change (invariant 4).
    fn take_out(&self, parent: &impl Parent) -> Result<(), (ThreadId, MutexGuard<'_, SlotState>)> {
        let mut state = lock(&self.state);
        state.marked = true;
        match state.take() {
            Err(Away::Taken(owner)) => return Err((owner, state)),
            Err(Away::Gone) => {}
            Ok(future) => {
                drop(state); // invariant 2
                self.destroy_taken(future, parent).into_iter().for_each(wake); // invariant 7
            }
        }
        Ok(())
    }
}

impl SlotState {
    /// Takes the future out for this thread (invariant 1), if it is here and has not ended.
    fn take(&mut self) -> Result<BoxedFuture, Away> {
        if let Place::Away(away) = self.place {
            return Err(away);
        }
        if self.ended {
            return Err(Away::Gone);
        }
        match mem::replace(&mut self.place, Place::Away(Away::Taken(this_thread()))) {
            Place::Idle(future) => Ok(future),
            Place::Away(away) => Err(away),
        }
    }

    /// Takes the result, if it is here. No thread waits then, although the place changes: the child has ended.
    fn take_result(&mut self) -> Option<BoxedFuture> {
        if !self.ended || matches!(self.place, Place::Away(_)) {
            return None;
        }
        match mem::replace(&mut self.place, Place::Away(Away::Gone)) {
            Place::Idle(result) => Some(result),
            Place::Away(_) => None, // not reached: checked above
        }
    }

    /// Releases the waiting threads after a hand-over (invariant 4). The task that awaits the handle stays.
    fn release(&mut self) {
        if let Some(waiters) = &mut self.waiters {
            wait_graph::leave(&waiters.threads);
            waiters.threads.clear();
            waiters.changed.notify_all();
        }
        self.drop_empty_waiters();
    }

    /// Releases the waiting threads at the child's end (invariant 4). Returns the waker of the task that awaits the
    /// handle, to be woken without the lock.
    fn release_all(&mut self) -> Option<Waker> {
        let waiters = self.waiters.take()?;
        wait_graph::leave(&waiters.threads);
        waiters.changed.notify_all();
        waiters.joiner
    }

    fn drop_empty_waiters(&mut self) {
        if self.waiters.as_ref().is_some_and(|waiters| waiters.threads.is_empty() && waiters.joiner.is_none()) {
            self.waiters = None;
        }
    }

    fn awaited_by(&self, thread: ThreadId) -> bool {
        self.waiters.as_ref().is_some_and(|waiters| waiters.threads.contains(&thread))
    }

    /// Removes a thread that stops waiting by itself, and its edge.
    fn remove_waiter(&mut self, thread: ThreadId) {
        if let Some(waiters) = &mut self.waiters {
            waiters.threads.retain(|waiter| *waiter != thread);
        }
        self.drop_empty_waiters();
        wait_graph::leave(&[thread]);
    }
}

/// Blocks until this thread was removed from `waiters.threads`. After [`STALL_LOG_INTERVAL`] it removes itself.
fn wait_for_release(me: ThreadId, mut state: MutexGuard<'_, SlotState>, changed: &Condvar) -> Waited {
    while state.awaited_by(me) {
        let (guard, timed_out) = sync::wait(changed, state, STALL_LOG_INTERVAL);
        state = guard;
        if timed_out && state.awaited_by(me) {
            state.remove_waiter(me);
            return Waited::TooLong;
        }
    }
    Waited::Released
}

/// How a wait ended.
#[derive(PartialEq, Eq)]
enum Waited {
    /// The place has changed.
    Released,
    /// [`STALL_LOG_INTERVAL`] has passed.
    TooLong,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        let place = match state.place {
            Place::Idle(_) if state.ended => "ended",
            Place::Idle(_) => "idle",
            Place::Away(Away::Taken(_)) => "taken",
            Place::Away(Away::Gone) => "gone",
        };
        f.debug_struct("Slot")
            .field("place", &place)
            .field("marked", &state.marked)
            .field("waiters", &state.waiters.as_ref().map_or(0, |waiters| waiters.threads.len()))
            .finish()
    }
}
