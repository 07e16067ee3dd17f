//! Wait-for graph that keeps drops free of deadlock: which thread waits for which.
//!
//! A thread that must wait for another thread's poll or destructor first enters an edge here. Invariants:
//!
//! 1. A thread has at most one edge that leaves it, because it can block in only one place.
//! 2. The graph has no cycle. An edge that would close one is refused, and the caller then does not wait.
//! 3. An edge exists exactly while its thread has a reason to wait. It is entered under the lock of the slot that the
//!    thread waits at. It is removed under the same lock by the thread that ends the reason, not by the thread that
//!    wakes up. So no wait is refused because of an outdated edge of a thread that the scheduler has not run yet.
//!
//! The lock order is slot, then graph. The graph is locked only when a drop must wait, and when such a wait ends.
//! `slot` has the argument why drops cannot deadlock.

use crate::sync::{Mutex, ThreadId, lock};

/// `(waiter, awaited)`. A vector suffices: it has as many entries as threads wait in a drop at the same moment.
type Edges = Vec<(ThreadId, ThreadId)>;

#[cfg(not(all(test, ebbtide_loom)))]
static EDGES: Mutex<Edges> = Mutex::new(Vec::new());

#[cfg(all(test, ebbtide_loom))]
loom::lazy_static! {
    static ref EDGES: Mutex<Edges> = Mutex::new(Vec::new());
}

/// Enters the edge from `waiter` to `awaited`. Returns false, and enters nothing, if they are the same thread or if
/// `awaited` already waits for `waiter`, directly or through others.
pub(super) fn enter(waiter: ThreadId, awaited: ThreadId) -> bool {
    let mut edges = lock(&EDGES);
    let mut end = awaited;
    loop {
        if end == waiter {
            return false;
        }
        match edges.iter().find(|(from, _)| *from == end) {
            Some((_, to)) => end = *to, // the loop ends: there is one way on (1), and no cycle (2)
            None => break,
        }
    }
    edges.push((waiter, awaited));
    true
}

/// Removes the edges of these threads: their waits are over.
pub(super) fn leave(threads: &[ThreadId]) {
    if !threads.is_empty() {
        lock(&EDGES).retain(|(from, _)| !threads.contains(from));
    }
}

#[cfg(all(test, not(ebbtide_loom)))]
mod tests {
    use super::{enter, leave};
    use crate::sync::{ThreadId, this_thread};

    fn threads<const N: usize>() -> [ThreadId; N] {
        std::array::from_fn(|_| std::thread::spawn(this_thread).join().unwrap())
    }

    #[test]
    fn a_cycle_of_any_length_is_refused_and_nothing_else() {
        let [a, b, c, d, e] = threads();
        assert!(!enter(a, a));
        assert!(enter(a, b) && enter(b, c) && enter(c, d));
        assert!(!enter(d, a) && !enter(d, b) && !enter(d, c));
        assert!(enter(e, b), "two may wait for one");
        leave(&[a, b, c, d, e]);
    }

    #[test]
    fn a_wait_that_is_over_is_part_of_no_cycle() {
        let [a, b, c] = threads();
        assert!(enter(a, b) && enter(b, c) && !enter(c, a));
        leave(&[b]);
        assert!(enter(c, a));
        assert!(!enter(b, c), "`c` waits for `a`, and `a` for `b`");
        leave(&[a, b, c]);
        assert!(enter(b, c));
        leave(&[b]);
    }
}
