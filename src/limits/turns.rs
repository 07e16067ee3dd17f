//! Whose turn it is, if several accept loops wait for a permit.
//!
//! Without an order the loop of a busy listener, which is back at once, would have every permit that becomes free. So
//! the loop whose last client was accepted longest ago has the first right to it. It may have no client, and a permit
//! must not lie with it; so a permit that becomes free wakes all who wait, and:
//!
//! 1. A woken loop is *called* until it comes. While it is, the loops that have had a client after it stand back.
//! 2. When it comes, it takes the permit on trial, and keeps it, or gives it back, which calls the others; or its place
//!    is removed with it, which does the same. So a loop that stands back is woken again.
//! 3. Of those that are called one has no older one, and does not stand back.

use slab::Slab;
use std::task::Waker;

/// One accept loop among those that share a limit.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Its place among those that wait; `None` if it does not.
    key: Option<usize>,
    /// When it last had a client: the count of clients then.
    last: u64,
}

impl Turn {
    /// That of a loop that had a client then.
    pub(crate) fn since(last: u64) -> Self {
        Self { key: None, last }
    }

    /// Whether it waits: for a permit, or for another loop to have its turn.
    pub(crate) fn is_waiting(&self) -> bool {
        self.key.is_some()
    }
}

/// The accept loops that wait. Kept under its owner's lock: wakers are user code, so they are handed out, to be woken
/// or dropped once that is released.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: Slab<Waiting>,
    /// How many clients there have been.
    clients: u64,
}

#[derive(Debug)]
struct Waiting {
    /// `None`: it is called.
    waker: Option<Waker>,
    last: u64,
}

impl Turns {
    /// Whether it has to stand back for a loop that is called.
    pub(super) fn stands_back(&self, turn: &Turn) -> bool {
        let is_before = |other: &Waiting| other.waker.is_none() && other.last < turn.last;
        self.waiting.iter().any(|(key, other)| turn.key != Some(key) && is_before(other))
    }

    /// Waits, with this waker. Gives back the one that it had.
    #[must_use = "drop the displaced waker after the lock is released"]
    pub(super) fn wait(&mut self, turn: &mut Turn, waker: Waker) -> Option<Waker> {
        match turn.key {
            Some(key) => self.waiting[key].waker.replace(waker),
            None => {
                turn.key = Some(self.waiting.insert(Waiting { waker: Some(waker), last: turn.last }));
                None
            }
        }
    }

    /// Gives up its place. Gives back its waker.
    #[must_use = "drop the waker after the lock is released"]
    pub(super) fn leave(&mut self, turn: &mut Turn) -> Option<Waker> {
        self.waiting.try_remove(turn.key.take()?)?.waker
    }

    /// Calls all who wait.
    #[must_use = "wake them after the lock is released"]
    pub(super) fn call(&mut self) -> Vec<Waker> {
        self.waiting.iter_mut().filter_map(|(_, waiting)| waiting.waker.take()).collect()
    }

    /// One more client. Returns its number.
    pub(super) fn count(&mut self) -> u64 {
        self.clients += 1;
        self.clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_a_client_later_stands_back_until_the_other_has_come_or_left() {
        let mut turns = Turns::default();
        let (mut old, mut new) = (Turn::since(turns.count()), Turn::since(turns.count()));
        let waker = || Waker::noop().clone();
        assert!(!turns.stands_back(&new), "no loop waits");
        let _none = (turns.wait(&mut old, waker()), turns.wait(&mut new, waker()));
        assert!(!turns.stands_back(&new), "no loop is called");
        assert_eq!(turns.call().len(), 2);
        assert!(turns.stands_back(&new) && !turns.stands_back(&old));
        assert!(turns.wait(&mut old, waker()).is_none(), "it has come, and waits again");
        assert!(!turns.stands_back(&new));
        assert_eq!(turns.call().len(), 1, "the other is called already");
        assert!(turns.stands_back(&new));
        let _none = turns.leave(&mut old);
        assert!(!turns.stands_back(&new));
        let _none = turns.leave(&mut new);
        assert!(turns.waiting.is_empty());
    }
}
