//! Pseudo-random numbers from a seed, the same in each run, so that a failure can be repeated.

pub(crate) use super::random_bytes::Dice;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
