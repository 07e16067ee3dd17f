//! One child's future: polled by the executor, destroyed by the first thread that wants its end.
//!
//! ```text
//!              poll                 pending, not wanted
//!    Idle ─────────────▶ Taken ──────────────────────────────▶ Idle
//!     │                    │ ├─ pending, a thread waits ──────▶ Idle (handed over; never polled again)
//!     │ destroy,           │ └─ ended, a handle waits ────────▶ Idle (only its result; never polled again) ─▶ Gone
//!     │ or poll once       │
//!     │ wanted             │ destroyed: after it has ended, panicked, or was pending but wanted and no thread waits
//!     │                    ▼
//!     └─▶ Taken ────────▶ Gone
//! ```
//!
//! Invariants, cited below by number:
//!
//! 1. Exactly one thread owns the future outside the slot: the one named by `Taken`. It polls it
//!    or destroys it, and after a last poll both; no other thread has to know which.
//! 2. No lock is held while the future is polled or destroyed, or a waker is woken: they are user code.
//! 3. Once `wanted` is set it stays set, and no poll of the future *begins* any more.
//! 4. A thread in `waiters` blocks until it is taken out, which happens at every change of `place` (and by itself once
//!    a second, to say that it waits); it then looks again. The one that takes it out also takes its edge out of the
//!    graph of waits, under this slot's lock.
//! 5. The child's end is noted once, in one critical section: in the slot (`ended`), and on the group's books. So a
//!    thread, a handle and a join of the group that have waited for the child agree, at any moment, whether it has
//!    ended.
//! 6. A result is kept only while its [`JoinHandle`](super::JoinHandle) lives (`joinable`). If the handle has gone
//!    before the end is noted, the result is dropped first, and its panic handed to the group.
//!
//! Why it cannot deadlock: a thread waits only for a thread that polls or destroys, never for one that is itself (the
//! child is marked instead, and its own poll destroys it on return), and never where the graph of waits would close a
//! circle (marked as well). So among waiting threads there is always one that waits for a thread which runs.

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

/// A drop that waits says so this often.
const STALL_NOTICE: Duration = Duration::from_secs(1);

/// A child's future, and which thread has it.
pub(super) struct Slot {
    state: Mutex<SlotState>,
}

/// One for each child, so its bytes count: a test pins them.
struct SlotState {
    place: Place,
    /// The executor's task for this child, as of the last poll that found it pending. The thread that destroys the
    /// future wakes it: the executor keeps the shell of every task that is not woken. Before that first poll it is
    /// none, and none is needed: a new task is scheduled.
    shell: Option<Waker>,
    /// Some exactly while there are any. In a box, because few drops ever have to wait, and few handles.
    waiters: Option<Box<SlotWaiters>>,
    /// What the child is called in the group's books. Never changes; here because there is room beside `wanted`.
    key: u32,
    /// The child is to be destroyed. Set by `mark` and `destroy`, never reset.
    wanted: bool,
    /// A handle lives, which may ask for the result. Reset by its drop, and by what takes the result.
    joinable: bool,
    /// The child has ended: if `place` is idle, it has the result.
    ended: bool,
}

/// What waits for a change of `place`.
#[derive(Default)]
struct SlotWaiters {
    /// The threads that block in `destroy`.
    threads: Vec<ThreadId>,
    /// The task that awaits the child's handle.
    joiner: Option<Waker>,
    /// Notified when threads are taken out of `threads`. Shared, because a thread that waits at it cannot keep the
    /// state borrowed.
    changed: Arc<Condvar>,
}

/// Where the future is.
enum Place {
    /// Here, and no thread is polling or destroying it.
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

/// The group's books, as a child's end needs them.
pub(super) trait Books {
    /// Takes the child of this key out. Gives the tasks that wait for the group to be empty, if it is now. Runs no user
    /// code: it is called under the slot's lock.
    fn remove(&self, key: u32) -> Vec<Waker>;

    /// The child has panicked, and has no handle.
    fn panicked(&self, payload: Payload);

    /// The child has panicked, and has a handle: what that is given, or what the group gets if the handle goes.
    fn panic_of_handle(&self, payload: Payload) -> Box<Panic>;
}

impl Slot {
    /// `joinable`: it has a handle that may ask for the result.
    pub(super) fn new(future: BoxedFuture, key: u32, joinable: bool) -> Self {
        let place = Place::Idle(future);
        let state = SlotState { place, shell: None, waiters: None, key, wanted: false, joinable, ended: false };
        Self { state: Mutex::new(state) }
    }

    /// Polls the child for the executor's task that `cx` belongs to. Ready once that task has nothing left to do: the
    /// child has ended, or another thread owns it now.
    pub(super) fn poll(&self, cx: &mut Context<'_>, books: &impl Books) -> Poll<()> {
        let mut state = lock(&self.state);
        let joinable = state.joinable;
        let mut future = match state.take() {
            Ok(future) if state.wanted => {
                drop(state);
                return self.end(future, books);
            }
            Ok(future) => future,
            Err(_) => return Poll::Ready(()),
        };
        drop(state);

        match panic::catch(|| future.as_mut().poll(cx, joinable)) {
            Ok(Poll::Pending) => self.put_back(cx, future, books),
            Ok(Poll::Ready(())) if joinable => self.keep(future, books),
            Ok(Poll::Ready(())) => self.end(future, books),
            Err(payload) if joinable => {
                future.as_mut().keep_panic(books.panic_of_handle(payload));
                self.keep(future, books)
            }
            Err(payload) => {
                books.panicked(payload); // before any join can know that the child is gone
                self.end(future, books)
            }
        }
    }

    /// After a poll that found the child pending: back into its slot, or to the thread that has come for it.
    fn put_back(&self, cx: &Context<'_>, future: BoxedFuture, books: &impl Books) -> Poll<()> {
        let mut state = lock(&self.state);
        if !state.wanted {
            state.place = Place::Idle(future);
            // Only now: while the future is taken the shell is not asked for, and a child that ends at once needs none.
            if !state.shell.as_ref().is_some_and(|shell| shell.will_wake(cx.waker())) {
                state.shell = Some(cx.waker().clone()); // the executor's own waker: not user code
            }
            return Poll::Pending;
        }
        if state.waiters.as_ref().is_none_or(|waiters| waiters.threads.is_empty()) {
            drop(state);
            return self.end(future, books);
        }
        // Handed over. Each waiter looks again, and the first of them finds it idle and takes it.
        state.place = Place::Idle(future);
        state.release();
        Poll::Ready(())
    }

    /// In the executor's task: destroys the future, which this thread has taken out. The threads that waited for the
    /// poll wait on for the destruction, by the same thread: their edges stay true.
    fn end(&self, future: BoxedFuture, books: &impl Books) -> Poll<()> {
        // The return tells the executor all that a wake would.
        drop(self.bring_to_gone(future, books));
        Poll::Ready(())
    }

    /// In the executor's task: the future has ended, and destroyed itself but for its result. That stays for the
    /// handle.
    fn keep(&self, future: BoxedFuture, books: &impl Books) -> Poll<()> {
        let result = future.compact();
        let state = lock(&self.state);
        if !state.joinable {
            // The handle has gone meanwhile. The end comes after the result's.
            drop(state);
            dispose(result);
            drop(self.note_end(Place::Away(Away::Gone), books));
            return Poll::Ready(());
        }
        drop(self.note_end_locked(state, Place::Idle(result), books));
        Poll::Ready(())
    }

    /// Notes the child's end, in the slot and on the books, and wakes whatever waits for it. Gives the waker of the
    /// executor's task, if that was not woken yet.
    fn note_end(&self, place: Place, books: &impl Books) -> Option<Waker> {
        self.note_end_locked(lock(&self.state), place, books)
    }

    fn note_end_locked(&self, mut state: MutexGuard<'_, SlotState>, place: Place, books: &impl Books) -> Option<Waker> {
        state.place = place;
        state.ended = true;
        let group_joiners = books.remove(state.key); // the lock order is slot, then books
        let shell = state.shell.take();
        let joiner = state.release_all();
        drop(state);
        wake_all(group_joiners);
        joiner.into_iter().for_each(wake);
        shell
    }

    /// Ready once the child has ended, with its result if it has one: `None` if it was destroyed before its end.
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

    /// The child's handle is dropped. Gives the result, if that is here already.
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

    /// Destroys the future, which this thread has taken out.
    ///
    /// Gives the waker of the executor's task, if that was not woken yet.
    fn bring_to_gone(&self, future: BoxedFuture, books: &impl Books) -> Option<Waker> {
        if let Err(payload) = panic::catch(|| drop(future)) {
            log_line!(error, "a child's destructor panicked: {}", panic::message(&payload));
            panic::discard(payload);
        }
        self.note_end(Place::Away(Away::Gone), books)
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

    /// Destroys the child if no thread has it, without waiting. Returns whether that leaves nothing to wait for.
    pub(super) fn try_destroy(&self, books: &impl Books) -> bool {
        self.take_out(books).is_ok()
    }

    /// Destroys the child on this thread, or waits until another thread that has it has destroyed it or handed it over.
    ///
    /// If waiting would mean to wait for ourselves it returns: the child is marked, and ends when its poll or
    /// destructor returns. Calls `stalled` once a second while it waits.
    pub(super) fn destroy(&self, books: &impl Books, mut stalled: impl FnMut()) {
        let me = this_thread();
        while let Err((owner, mut state)) = self.take_out(books) {
            if !wait_graph::enter(me, owner) {
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

    /// Marks the child, and destroys it if no thread has it. Otherwise gives that thread, and the slot, still locked.
    fn take_out(&self, books: &impl Books) -> Result<(), (ThreadId, MutexGuard<'_, SlotState>)> {
        let mut state = lock(&self.state);
        state.wanted = true;
        match state.take() {
            Err(Away::Taken(owner)) => return Err((owner, state)),
            Err(Away::Gone) => {}
            Ok(future) => {
                drop(state);
                if let Some(shell) = self.bring_to_gone(future, books) {
                    shell.wake();
                }
            }
        }
        Ok(())
    }
}

impl SlotState {
    /// Takes the future out for this thread, if it is here and has not ended.
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

    /// Takes the result, if it is here.
    fn take_result(&mut self) -> Option<BoxedFuture> {
        if !self.ended || matches!(self.place, Place::Away(_)) {
            return None;
        }
        match mem::replace(&mut self.place, Place::Away(Away::Gone)) {
            Place::Idle(result) => Some(result),
            Place::Away(_) => None, // not reached: it was seen above
        }
    }

    /// Sets the waiting threads free, after `place` has changed (invariant 4).
    fn release(&mut self) {
        if let Some(waiters) = &mut self.waiters {
            wait_graph::leave(&waiters.threads);
            waiters.threads.clear();
            waiters.changed.notify_all();
        }
        self.drop_empty_waiters();
    }

    /// Sets the waiting threads free at the child's end, and gives the task that awaits its handle: to be woken without
    /// the lock.
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

    /// A thread waits no more, of its own accord.
    fn forget(&mut self, thread: ThreadId) {
        if let Some(waiters) = &mut self.waiters {
            waiters.threads.retain(|waiter| *waiter != thread);
        }
        self.drop_empty_waiters();
        wait_graph::leave(&[thread]);
    }
}

/// Blocks until this thread is taken out of `waiters`; after a while it takes itself out.
fn wait_for_release(me: ThreadId, mut state: MutexGuard<'_, SlotState>, changed: &Condvar) -> Waited {
    while state.awaited_by(me) {
        let (guard, timed_out) = sync::wait(changed, state, STALL_NOTICE);
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
            Place::Idle(_) if state.ended => "ended",
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
