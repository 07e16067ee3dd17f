//! [`Ownership`]: which generation of a program a listening socket belongs to, as this process sees it.
//!
//! ```text
//! in the next generation:   Previous ─┐
//!                           New ──────┴─► Ours            once the previous generation has stopped accepting
//! in the old generation:    Ours ─► Offered ─► Next       the next generation has confirmed that it takes over
//!                                          └─► Ours       it has not
//! ```
//!
//! 1. A generation accepts only while a socket is `Ours`, and holds the lock during the accept. So once the state has
//!    changed, no accept of this generation is under way, and never do two generations accept from one socket.
//! 2. Only an owner closes a backlog and removes a socket's file. `Previous` and `Next` leave both alone.
//! 3. A listener that is closed ends the hand-over that runs ([`EndHandOver`]), before it decides whose the backlog is.

#[cfg(all(test, ebbtide_loom))]
mod loom_tests;

use crate::listener::Inherited;
use crate::origin::Origin;
use crate::sync::{Mutex, MutexGuard, lock};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

/// The owner of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// This generation, which accepts.
    Ours,
    /// This generation has bound it, and does not accept before it is ready.
    New,
    /// The previous generation, which still accepts.
    Previous,
    /// Still this generation, which has stopped accepting: the next one may take it at any moment.
    Offered,
    /// The next generation, which accepts.
    Next,
    /// This generation, whose listener was closed. It accepts what is in the backlog.
    Closed,
    /// The previous generation: the listener was closed before this generation was ready.
    Left,
}

/// A hand-over that runs. `upgrade` implements it.
pub(crate) trait EndHandOver: Send + Sync {
    /// Ends the hand-over now. When this returns, the owner of each of its sockets is decided.
    fn end_because_a_listener_closes(&self);
}

/// Which generation owns a listening socket. Shared by the listener and its `Upgrade`.
pub(crate) struct Ownership {
    state: Mutex<State>,
    /// Whether another process has been given a descriptor. It may change the blocking mode, by mistake.
    was_sent: AtomicBool,
    /// What the listener becomes then: it checks the blocking mode, as with every inherited socket.
    inherited: Inherited,
    /// A forked process has a copy, which must not end the hand-over of its parent.
    origin: Origin,
}

struct State {
    owner: Owner,
    /// The accept loop, while it waits until this generation accepts.
    waiting: Option<Waker>,
    /// The hand-over that runs.
    hand_over: Option<Weak<dyn EndHandOver>>,
}

/// Keeps the owner from changing during an accept.
pub(in crate::listener) struct Accepting<'a>(#[expect(dead_code, reason = "held")] MutexGuard<'a, State>);

impl Ownership {
    fn new(owner: Owner, inherited: Inherited) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { owner, waiting: None, hand_over: None }),
            was_sent: AtomicBool::new(owner == Owner::Previous),
            inherited,
            origin: Origin::here(),
        })
    }

    /// Of a socket that was bound here. It accepts at once, or only once this generation is ready.
    pub(super) fn of_new(is_ready: bool, inherited: Inherited) -> Arc<Self> {
        Self::new(if is_ready { Owner::Ours } else { Owner::New }, inherited)
    }

    /// Of a socket that the previous generation has passed.
    pub(super) fn of_passed(inherited: Inherited) -> Arc<Self> {
        Self::new(Owner::Previous, inherited)
    }

    /// Returns whether another generation has the socket as well, so that its backlog and its file are left alone.
    pub(in crate::listener) fn is_shared(&self) -> bool {
        matches!(self.owner(), Owner::Previous | Owner::Left | Owner::Offered | Owner::Next)
    }

    /// Returns whether the listener has been closed.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.owner(), Owner::Closed | Owner::Left)
    }

    fn owner(&self) -> Owner {
        lock(&self.state).owner
    }

    /// Waits until this generation accepts. That may be never.
    pub(in crate::listener) fn poll_accepts(&self, cx: &mut Context<'_>) -> Poll<()> {
        if lock(&self.state).accepts() {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone(); // user code, so before the lock
        let mut state = lock(&self.state);
        if state.accepts() {
            drop(state);
            return Poll::Ready(());
        }
        let earlier = state.waiting.replace(waker);
        drop(state);
        drop(earlier); // user code, too
        Poll::Pending
    }

    /// Begins an accept; `None` if this generation does not accept.
    pub(in crate::listener) fn accepting(&self) -> Option<Accepting<'_>> {
        let state = lock(&self.state);
        state.accepts().then(|| Accepting(state))
    }

    /// Returns what an accept has to do once another process has had the socket.
    pub(in crate::listener) fn once_sent(&self) -> Option<Inherited> {
        self.was_sent.load(Ordering::Relaxed).then_some(self.inherited)
    }

    /// Notes that the listener is closed, and ends the hand-over that runs. Returns whether another generation has the
    /// socket.
    pub(in crate::listener) fn close(&self) -> bool {
        if self.origin.is_elsewhere() {
            return false; // the lock may be held for ever in a forked process
        }
        loop {
            let mut state = lock(&self.state);
            let running = state.hand_over.take().and_then(|hand_over| hand_over.upgrade());
            if let Some(running) = running {
                drop(state);
                running.end_because_a_listener_closes();
                continue;
            }
            state.owner = match state.owner {
                Owner::Ours | Owner::New | Owner::Offered | Owner::Closed => Owner::Closed,
                Owner::Previous | Owner::Left => Owner::Left,
                Owner::Next => Owner::Next,
            };
            return state.owner != Owner::Closed;
        }
    }

    /// Begins to hand the socket over. Returns `false` if it is not this generation's to give.
    pub(crate) fn begin(&self, hand_over: Weak<dyn EndHandOver>) -> bool {
        let mut state = lock(&self.state);
        let is_ours = state.owner == Owner::Ours;
        if is_ours {
            state.hand_over = Some(hand_over);
            self.was_sent.store(true, Ordering::Relaxed);
        }
        is_ours
    }

    /// Stops accepting, until [`decide`](Self::decide). Returns `false` if the listener has been closed.
    pub(crate) fn offer(&self) -> bool {
        let mut state = lock(&self.state);
        let is_ours = state.owner == Owner::Ours;
        if is_ours {
            state.owner = Owner::Offered;
        }
        is_ours
    }

    /// Ends an offer: the socket is the next generation's, or accepts again. Returns the accept loop to wake.
    pub(crate) fn decide(&self, is_taken: bool) -> Option<Waker> {
        let mut state = lock(&self.state);
        state.hand_over = None;
        if state.owner != Owner::Offered {
            return None;
        }
        state.owner = if is_taken { Owner::Next } else { Owner::Ours };
        if is_taken { None } else { state.waiting.take() }
    }

    /// Takes this socket over: the previous generation has stopped accepting.
    pub(crate) fn own(&self) {
        let mut state = lock(&self.state);
        if matches!(state.owner, Owner::Previous | Owner::New) {
            state.owner = Owner::Ours;
        }
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Takes all sockets over from the previous generation if `confirm` succeeds, and wakes their accept loops. No
    /// listener is closed and none accepts in between. `confirm` is not called if a listener has been closed.
    pub(crate) fn take_over<E>(all: &[Arc<Self>], closed: E, confirm: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut states: Vec<_> = all.iter().map(|one| lock(&one.state)).collect();
        if states.iter().any(|state| matches!(state.owner, Owner::Closed | Owner::Left)) {
            return Err(closed);
        }
        confirm()?;
        states.iter_mut().for_each(|state| state.owner = Owner::Ours);
        let waiting: Vec<_> = states.iter_mut().filter_map(|state| state.waiting.take()).collect();
        drop(states);
        waiting.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl State {
    fn accepts(&self) -> bool {
        matches!(self.owner, Owner::Ours | Owner::Closed)
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ownership").field(&self.owner()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::ListenOptions;
    use std::sync::atomic::AtomicUsize;

    fn inherited() -> Inherited {
        Inherited::with(&ListenOptions::new())
    }

    /// A hand-over whose sockets are taken or not when it ends.
    struct Decided(Mutex<Vec<Arc<Ownership>>>, bool, AtomicUsize);

    impl EndHandOver for Decided {
        fn end_because_a_listener_closes(&self) {
            self.2.fetch_add(1, Ordering::SeqCst);
            for one in lock(&self.0).iter() {
                let _waiting = one.decide(self.1);
            }
        }
    }

    #[test]
    fn a_listener_that_is_closed_ends_the_hand_over_and_leaves_the_socket_only_if_it_was_taken() {
        for (is_offered, is_taken) in [(false, false), (true, false), (true, true)] {
            let socket = Ownership::of_new(true, inherited());
            let hand_over = Arc::new(Decided(Mutex::new(vec![Arc::clone(&socket)]), is_taken, AtomicUsize::new(0)));
            let running: Arc<dyn EndHandOver> = hand_over.clone();
            assert!(socket.begin(Arc::downgrade(&running)));
            if is_offered {
                assert!(socket.offer());
                assert!(socket.accepting().is_none());
            }
            assert_eq!(socket.close(), is_taken);
            assert_eq!(hand_over.2.load(Ordering::SeqCst), 1);
            assert_eq!(socket.accepting().is_some(), !is_taken, "the sweep accepts what is this generation's");
            assert!(!socket.offer() && !socket.begin(Arc::downgrade(&running)), "it is closed, or the next one's");
        }
    }

    #[test]
    fn nothing_is_taken_over_if_one_listener_was_closed_and_all_or_nothing_otherwise() {
        let all = [Ownership::of_passed(inherited()), Ownership::of_new(false, inherited())];
        assert!(all.iter().all(|one| one.accepting().is_none()));
        assert_eq!(Ownership::take_over(&all, "closed", || Err("refused")), Err("refused"));
        assert!(all.iter().all(|one| one.accepting().is_none()));
        Ownership::take_over(&all, "closed", || Ok(())).unwrap();
        assert!(all.iter().all(|one| one.accepting().is_some()));
        for closed in 0..2 {
            let all = [Ownership::of_passed(inherited()), Ownership::of_new(false, inherited())];
            assert_eq!(all[closed].close(), closed == 0, "a new socket is this generation's alone");
            let confirm = || -> Result<(), &str> { panic!("must not be called") };
            assert_eq!(Ownership::take_over(&all, "closed", confirm), Err("closed"));
            assert!(all[1 - closed].accepting().is_none());
        }
    }
}
