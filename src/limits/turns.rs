//! [`Turns`]: decides which accept loop gets the next permit, if several wait.
//!
//! Without an order the loop of a busy listener, which asks again at once, would get every permit that becomes free. So
//! the loop that accepted its last client longest ago has priority. But its listener may have no client, and then it
//! must not hold the permit. So a permit that becomes free wakes all waiting loops, and:
//!
//! 1. A woken loop is *called* until it is polled. Until then, loops that accepted their last client later *stand
//!    back*: they take no permit.
//! 2. When a called loop is polled, it takes the permit on trial. It then keeps or returns the permit; both call the
//!    others, if a permit is free. If the loop is dropped instead, its place is removed, which calls the others too. So
//!    a loop that stands back is woken again.
//! 3. Among the called loops there is always an oldest one, which does not stand back: so there is no deadlock.

use slab::Slab;
use std::task::Waker;

/// One accept loop among those that share a limit.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Its place among the waiting loops. `None`: it does not wait.
    key: Option<usize>,
    /// The number of its last client; 0 if it had none.
    last: u64,
}

impl Turn {
    /// Creates the turn of a loop; its last client had this number.
    pub(crate) fn since(last: u64) -> Self {
        Self { key: None, last }
    }

    /// Returns whether it waits, for a permit or for another loop's turn.
    pub(crate) fn is_waiting(&self) -> bool {
        self.key.is_some()
    }
}

/// The accept loops that wait. It is used under its owner's lock. Wakers are user code, so the methods return them, to
/// be woken or dropped after the lock is released.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: Slab<Waiting>,
    /// How many clients have been accepted, by all loops.
    clients: u64,
}

/// A waiting loop.
#[derive(Debug)]
struct Waiting {
    /// `None`: it was woken, and is called until it is polled.
    waker: Option<Waker>,
    /// The number of its last client.
    last: u64,
}

impl Turns {
    /// Returns whether it has to stand back, because another loop that accepted its last client earlier is called.
    pub(super) fn stands_back(&self, turn: &Turn) -> bool {
        let is_before = |other: &Waiting| other.waker.is_none() && other.last < turn.last;
        self.waiting.iter().any(|(key, other)| turn.key != Some(key) && is_before(other))
    }

    /// Makes the loop wait with this waker. Returns the waker that it had.
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

    /// Gives up the loop's place. Returns its waker.
    #[must_use = "drop the waker after the lock is released"]
    pub(super) fn leave(&mut self, turn: &mut Turn) -> Option<Waker> {
        self.waiting.try_remove(turn.key.take()?)?.waker
    }

    /// Calls all waiting loops. Returns their wakers.
    #[must_use = "wake them after the lock is released"]
    pub(super) fn call(&mut self) -> Vec<Waker> {
        self.waiting.iter_mut().filter_map(|(_, waiting)| waiting.waker.take()).collect()
    }

    /// Counts one more client. Returns its number.
    pub(super) fn count(&mut self) -> u64 {
        self.clients += 1;
        self.clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_with_a_later_client_stands_back_until_the_called_loop_is_polled_or_leaves() {
        let mut turns = Turns::default();
        let (mut old, mut new) = (Turn::since(turns.count()), Turn::since(turns.count()));
        let waker = || Waker::noop().clone();
        assert!(!turns.stands_back(&new), "no loop waits");
        let _none = (turns.wait(&mut old, waker()), turns.wait(&mut new, waker()));
        assert!(!turns.stands_back(&new), "no loop is called");
        assert_eq!(turns.call().len(), 2);
        assert!(turns.stands_back(&new) && !turns.stands_back(&old));
        assert!(turns.wait(&mut old, waker()).is_none(), "it was polled, and waits again");
        assert!(!turns.stands_back(&new));
        assert_eq!(turns.call().len(), 1, "the other is called already");
        assert!(turns.stands_back(&new));
        let _none = turns.leave(&mut old);
        assert!(!turns.stands_back(&new));
        let _none = turns.leave(&mut new);
        assert!(turns.waiting.is_empty());
    }
}
