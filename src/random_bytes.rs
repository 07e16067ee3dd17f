//! Random inputs for readers of foreign bytes: valid ones, changed at random as a fuzzer changes them. The same checks run
//! in `fuzz/`, with a fuzzer that follows the code's branches.
//!
//! Only for tests. Those below `tests/` include this file by its path.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

/// A small random generator (SplitMix64). Any two seeds give unrelated numbers.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Returns true in `percent` of 100 calls.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Returns another generator, whose numbers do not depend on how this one is used afterwards.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn any_bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// Inputs of one reader.
pub(crate) struct Inputs<'a> {
    /// Valid inputs, and others that are worth a change.
    pub(crate) seeds: Vec<Vec<u8>>,
    /// What inputs are made of, such as keywords and separators.
    pub(crate) parts: &'a [&'a [u8]],
}

impl Inputs<'_> {
    /// Returns a seed, as it is or changed, or a row of parts.
    pub(crate) fn input(&self, dice: &mut Dice) -> Vec<u8> {
        if dice.chance(10) {
            return (0..dice.below(12)).flat_map(|_| dice.pick(self.parts)).copied().collect();
        }
        let mut bytes = self.seeds[dice.below(self.seeds.len())].clone();
        for _ in 0..dice.below(5) {
            self.change(&mut bytes, dice);
        }
        bytes
    }

    fn change(&self, bytes: &mut Vec<u8>, dice: &mut Dice) {
        let at = dice.below(bytes.len() + 1);
        let end = (at + 1 + dice.below(8)).min(bytes.len());
        match dice.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = dice.pick(b"\0\x7f\x80\xff\r\n 09:"),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy).for_each(drop);
            }
            5 => {
                let other = &self.seeds[dice.below(self.seeds.len())];
                let from = dice.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied()).for_each(drop);
            }
            6 => {
                let length = dice.below(10);
                bytes.splice(at..at, dice.any_bytes(length)).for_each(drop);
            }
            _ => bytes.splice(at..at, dice.pick(self.parts).iter().copied()).for_each(drop),
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")))
}

/// Returns how long a test with random inputs runs, if `EBBTIDE_FUZZ_SECONDS` is set.
pub(crate) fn long() -> Option<Duration> {
    number("EBBTIDE_FUZZ_SECONDS").map(Duration::from_secs)
}

/// Calls `check` with `usual` inputs, or with as many as take `EBBTIDE_FUZZ_SECONDS`. `check` returns a name for the kind
/// of the result; each of `kinds` has to be among the results.
///
/// A failure prints its input, and the command that repeats it.
pub(crate) fn run(usual: u64, inputs: &Inputs<'_>, kinds: &[&str], check: impl Fn(&[u8]) -> &'static str) {
    let long = long();
    let only = number("EBBTIDE_RANDOM_SEED");
    let first = only.unwrap_or(if long.is_some() { u64::from(std::process::id()) << 32 } else { 1 });
    let (start, mut found, mut cases) = (Instant::now(), BTreeMap::new(), 0);
    loop {
        let seed = first + cases;
        let bytes = inputs.input(&mut Dice::new(seed));
        let on_failure = OnFailure { seed, bytes: &bytes };
        *found.entry(check(on_failure.bytes)).or_insert(0_u64) += 1;
        drop(on_failure);
        cases += 1;
        if only.is_some() || long.map_or(cases >= usual, |long| start.elapsed() >= long) {
            break;
        }
    }
    println!("seed {first}: {cases} inputs ({:.1?}): {found:?}", start.elapsed());
    for kind in kinds.iter().filter(|_| only.is_none()) {
        assert!(found.contains_key(kind), "no input reached `{kind}`: {found:?}");
    }
}

/// Prints the input if its check panics.
struct OnFailure<'a> {
    seed: u64,
    bytes: &'a [u8],
}

impl Drop for OnFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            eprintln!("input: b\"{}\"", self.bytes.escape_ascii());
            eprintln!("again: EBBTIDE_RANDOM_SEED={} cargo test --all-features {test}", self.seed);
        }
    }
}
