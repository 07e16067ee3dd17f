//! [`LimitWarning`]: decides when to log that `max_connections` is reached, and when to log that this is over.
//!
//! Each is logged once. A busy server reaches its limit again and again, so the warning is over only after a while, and
//! when a tenth of the permits is free.

use crate::sync::{Mutex, lock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the warning stands at least.
const SHORTEST: Duration = Duration::from_secs(10);

/// State of the warning.
#[derive(Debug, Default)]
pub(crate) struct LimitWarning {
    /// Since when the limit is known to be reached. `None`: the warning is not set.
    since: Mutex<Option<Instant>>,
    /// Whether `since` is set. A hint that is cheap enough to read for each client.
    is_set: AtomicBool,
}

impl LimitWarning {
    /// Sets the warning: a client may be waiting, and there is no permit. Returns whether the warning is new.
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

    /// Clears the warning if it is over, and returns whether it was cleared. Called after an accept, with `used` of
    /// `max` permits in use.
    ///
    /// It is over if a tenth of the permits is free, and at least one. (If `max` is 1, none is free after an accept.
    /// The warning is over anyway: the permit was free a moment ago.)
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
    fn the_warning_is_new_once_and_over_when_a_tenth_is_free_after_a_while() {
        let (warning, start) = (LimitWarning::default(), Instant::now());
        let late = start + SHORTEST;
        assert!(!warning.is_over(1, 100, late), "the limit was never reached");
        assert!(warning.is_new(start) && !warning.is_new(start) && !warning.is_new(late));
        assert!(!warning.is_over(91, 100, late) && !warning.is_over(90, 100, start));
        assert!(warning.is_over(90, 100, late) && !warning.is_over(90, 100, late));
        assert!(warning.is_new(late));
    }

    #[test]
    fn the_warning_of_a_small_limit_is_over_when_one_permit_is_free() {
        let start = Instant::now();
        let late = start + SHORTEST;
        for (max, used, is_over) in [(5, 5, false), (5, 4, true), (2, 2, false), (2, 1, true), (1, 1, true)] {
            let warning = LimitWarning::default();
            assert!(warning.is_new(start));
            assert_eq!(warning.is_over(used, max, late), is_over, "{used} of {max}");
        }
        let warning = LimitWarning::default();
        assert!(warning.is_new(start) && !warning.is_over(1, 0, late), "a limit of 0 has no free permit");
    }
}
