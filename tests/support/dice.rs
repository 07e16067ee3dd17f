//! Pseudo-random numbers from a seed, the same in each run, so that a failure can be repeated.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A small random generator (SplitMix64). Any two seeds give unrelated numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Returns true in `percent` of 100 calls.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

impl Dice {
    /// Returns another generator, whose numbers do not depend on how this one is used afterwards.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

/// Returns the seeds of a random test: `usual` of them, or `EBBTIDE_RANDOM_CASES`. With `EBBTIDE_RANDOM_SEED` they are all
/// that one, because a case that fails rarely has to be tried often.
pub fn seeds(usual: usize) -> Vec<u64> {
    let number = |variable| {
        let text = std::env::var(variable).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")))
    };
    let cases = number("EBBTIDE_RANDOM_CASES");
    match number("EBBTIDE_RANDOM_SEED") {
        Some(seed) => vec![seed; cases.unwrap_or(1) as usize],
        None => (1..=cases.unwrap_or(usual as u64)).collect(),
    }
}

/// Locks. Ignores poisoning: in a random test a panic may be part of the case.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
