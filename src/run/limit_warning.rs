//! [`LimitWarning`]: that the limit on connections is reached is logged once, and that it is over.

use crate::sync::{Mutex, lock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A busy server is at its limit again and again: it is not over before this time.
const SHORTEST: Duration = Duration::from_secs(10);

/// Since when the limit is known to be reached.
#[derive(Debug, Default)]
pub(crate) struct LimitWarning {
    since: Mutex<Option<Instant>>,
    /// The same as a hint, to be looked at for each client.
    is_set: AtomicBool,
}

impl LimitWarning {
    /// A client may be waiting, and there is no permit. Returns whether that is new.
    pub(crate) fn is_new(&self, now: Instant) -> bool {
        let mut since = lock(&self.since);
        let is_new = since.is_none();
        since.get_or_insert(now);
        self.is_set.store(true, Ordering::Relaxed);
        is_new
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// A client was accepted, and so many of so many permits are out. Returns whether the limit was reached before, and
    /// that is over: a tenth is free, or one at least. (With one permit none is, and it is over for a moment.)
    pub(crate) fn is_over(&self, used: usize, max: usize, now: Instant) -> bool {
        let mut since = lock(&self.since);
        let is_over = since.is_some_and(|since| {
            let has_room = used <= max - (max / 10).clamp(1.min(max), max) || max == 1;
            has_room && now.duration_since(since) >= SHORTEST
        });
        if is_over {
            *since = None;
            self.is_set.store(false, Ordering::Relaxed);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_and_over_when_a_tenth_is_free_after_a_while() {
        let (warning, start) = (LimitWarning::default(), Instant::now());
        let late = start + SHORTEST;
        assert!(!warning.is_over(1, 100, late), "it was never reached");
        assert!(warning.is_new(start) && !warning.is_new(start) && !warning.is_new(late));
        assert!(!warning.is_over(91, 100, late) && !warning.is_over(90, 100, start));
        assert!(warning.is_over(90, 100, late) && !warning.is_over(90, 100, late));
        assert!(warning.is_new(late));
    }

    #[test]
    fn a_small_limit_is_over_too_when_one_is_free() {
        let start = Instant::now();
        let late = start + SHORTEST;
        for (max, used, is_over) in [(5, 5, false), (5, 4, true), (2, 2, false), (2, 1, true), (1, 1, true)] {
            let warning = LimitWarning::default();
            assert!(warning.is_new(start));
            assert_eq!(warning.is_over(used, max, late), is_over, "{used} of {max}");
        }
        let warning = LimitWarning::default();
        assert!(warning.is_new(start) && !warning.is_over(1, 0, late), "the limit was lowered to none");
    }
}
