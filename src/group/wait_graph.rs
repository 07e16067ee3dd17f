//! The graph of waits that keeps drops free of deadlock: which thread waits for which.
//!
//! A thread that must wait for another thread's poll or destructor enters an edge here first. Invariants:
//!
//! 1. A thread has at most one edge out of it, since it can block in only one place.
//! 2. The graph has no cycle: an edge that would close one is refused, and the caller then does without waiting.
//! 3. An edge is there exactly while its thread has reason to wait. It is entered under the lock of the slot that is
//!    waited for, and taken out under that same lock by the thread that ends the reason, not by the one that wakes up.
//!    So no wait is refused because of an edge that has lost its meaning but whose thread the scheduler has not run
//!    yet.
//!
//! The lock order is slot, then graph. The lock is touched only when a drop must wait.

use crate::sync::{Mutex, ThreadId, lock};

/// `(waiter, awaited)`. A vector: only as many entries as threads that wait in a drop at the same moment.
type Edges = Vec<(ThreadId, ThreadId)>;

#[cfg(not(all(test, ebbtide_loom)))]
static EDGES: Mutex<Edges> = Mutex::new(Vec::new());

#[cfg(all(test, ebbtide_loom))]
loom::lazy_static! {
    static ref EDGES: Mutex<Edges> = Mutex::new(Vec::new());
}

/// Enters that `waiter` waits for `awaited`, unless `awaited` already waits for `waiter`, directly or through others.
pub(super) fn enter(waiter: ThreadId, awaited: ThreadId) -> bool {
    let mut edges = lock(&EDGES);
    let mut end = awaited;
    loop {
        if end == waiter {
            return false;
        }
        match edges.iter().find(|(from, _)| *from == end) {
            Some((_, to)) => end = *to, // ends, by invariant 2
            None => break,
        }
    }
    edges.push((waiter, awaited));
    true
}

/// The waits of these threads are over.
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
    fn a_circle_of_any_length_is_refused_and_nothing_else() {
        let [a, b, c, d, e] = threads();
        assert!(!enter(a, a));
        assert!(enter(a, b) && enter(b, c) && enter(c, d));
        assert!(!enter(d, a) && !enter(d, b) && !enter(d, c));
        assert!(enter(e, b), "two may wait for one");
        leave(&[a, b, c, d, e]);
    }

    #[test]
    fn a_wait_that_is_over_is_no_part_of_a_circle() {
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
