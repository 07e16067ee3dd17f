//! Pauses after spurious wake-ups: the safety net against causes of readiness that this crate does not know.
//!
//! A reactor may report that a socket is ready although a system call returns `WouldBlock`, and may go on doing so,
//! because no read or write consumes the cause. One such cause is a queue of errors that holds time stamps; another is
//! a kernel that is short of memory. A single spurious wake-up is harmless: another task was faster, or the report is
//! old. Many in a row, with no progress in between, would keep a core busy. The net need not know the cause:
//!
//! 1. Each direction counts the attempts that have found nothing since its last progress ([`SpuriousCount`]). That
//!    takes two bytes, and costs nothing for an attempt that finds something. Such attempts prove nothing: a task may
//!    be polled often for reasons of its own. So a count that grows quickly is only a *suspicion*, and has one
//!    consequence: from then on the direction is waited for with a waker of ours (`readiness`).
//! 2. That waker sees which wake-ups the reactor causes ([`Pauses`]). Wake-ups without progress, each within [`APART`]
//!    of the one before, are a *row*. After more than [`FEW`] in a row, each further one is followed by a pause, in
//!    which the reactor is not asked: first 1 ms, then twice as long each time, up to [`LONGEST_PAUSE`]. Any progress
//!    ends the row.

use crate::sync::{Mutex, lock};
use async_io::Timer;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// This many spurious wake-ups or attempts in a row are harmless.
const FEW: u8 = 8;

/// Wake-ups that are further apart do not form a row.
const APART: Duration = Duration::from_secs(1);

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// The longest pause. Bytes that arrive in a pause are found at its end, so this is also the longest delay.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Count of the attempts in a row that found nothing, for one direction. A hint, in relaxed atomics: correctness never
/// depends on it.
#[derive(Debug, Default)]
pub(super) struct SpuriousCount {
    /// The count, [`SUSPICIOUS`] or [`MARK`]. 0: the last attempt made progress.
    count: AtomicU8,
    /// When the count last reached [`FEW`], in units of [`UNIT`], modulo 256.
    filled: AtomicU8,
}

/// A count that reaches [`FEW`] twice within this time, or a little more, grows quickly.
const UNIT: u128 = 64; // milliseconds

/// The value of a count that has grown quickly. Larger than any plain count.
const SUSPICIOUS: u8 = MARK - 1;

/// Set by [`Pauses`] at a wake-up. It is still set at the next one if there was no progress in between.
const MARK: u8 = 1 << 7;

impl SpuriousCount {
    /// Notes progress: an attempt has found something.
    #[inline]
    pub(super) fn reset(&self) {
        if self.count.load(Ordering::Relaxed) != 0 {
            self.count.store(0, Ordering::Relaxed);
        }
    }

    /// Counts an attempt that found nothing.
    #[inline]
    pub(super) fn note(&self) {
        let count = self.count.load(Ordering::Relaxed);
        if count < FEW {
            self.count.store(count + 1, Ordering::Relaxed);
        } else if count < SUSPICIOUS {
            self.note_full();
        } // else the suspicion stands already
    }

    #[cold]
    fn note_full(&self) {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        // Modulo 256. The 128 keeps the first times far from 0, which `filled` has before it is first set.
        let now = (BEGINNING.elapsed().as_millis() / UNIT + 128) as u8;
        let before = self.filled.swap(now, Ordering::Relaxed);
        let is_quick = now.wrapping_sub(before) <= 1;
        self.count.store(if is_quick { SUSPICIOUS } else { 1 }, Ordering::Relaxed);
    }

    /// Returns whether the count has grown quickly.
    #[inline]
    pub(super) fn is_suspicious(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= SUSPICIOUS
    }

    /// Sets the mark. Returns whether it was set already, so that there was no progress since the last mark.
    fn mark(&self) -> bool {
        self.count.swap(MARK, Ordering::Relaxed) >= MARK
    }
}

/// Pauses of one direction.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// The common waker was woken, and no task has polled since then.
    woken: AtomicBool,
    /// A pause is under way: there is a timer.
    pausing: AtomicBool,
    state: Mutex<PausesState>,
}

#[derive(Debug, Default)]
struct PausesState {
    /// How many wake-ups the row has.
    row: u8,
    /// When the last wake-up of the row was, or when the pause after it ends.
    last: Option<Instant>,
    /// The length of the next pause, if the row goes on.
    pause: Duration,
    /// The timer of the pause that is under way.
    timer: Option<Timer>,
}

impl Pauses {
    /// Notes that the common waker was woken.
    pub(super) fn note_wakeup(&self) {
        self.woken.store(true, Ordering::Relaxed);
    }

    /// Polls the end of the pause: pending while one lasts. Called before the reactor is asked. `cx` has the common
    /// waker: its wake-ups are noted.
    pub(super) fn poll(&self, spurious: &SpuriousCount, cx: &mut Context<'_>) -> Poll<()> {
        if !self.pausing.load(Ordering::Relaxed) && !self.woken.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let mut state = lock(&self.state);
        let was_woken = self.woken.swap(false, Ordering::Relaxed); // the timer of a pause sets it as well
        if state.timer.is_none() && was_woken {
            state.note_wakeup(spurious, Instant::now());
        }
        let is_over = state.timer.as_mut().is_none_or(|timer| Pin::new(timer).poll(cx).is_ready());
        if is_over {
            state.timer = None;
        }
        self.pausing.store(!is_over, Ordering::Relaxed);
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl PausesState {
    /// Notes a wake-up by the reactor. Begins a pause if the row is long.
    fn note_wakeup(&mut self, spurious: &SpuriousCount, now: Instant) {
        let no_progress = spurious.mark();
        let goes_on = no_progress && self.last.is_some_and(|last| now.saturating_duration_since(last) <= APART);
        if !goes_on {
            (self.row, self.pause) = (0, SHORTEST_PAUSE);
        }
        self.row = self.row.saturating_add(1);
        self.last = Some(now);
        if self.row > FEW {
            self.timer = Some(Timer::after(self.pause));
            self.last = Some(now + self.pause);
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes a wake-up. Returns the length of the pause that follows.
    fn woken(state: &mut PausesState, spurious: &SpuriousCount, now: Instant) -> Duration {
        state.timer = None;
        state.note_wakeup(spurious, now);
        match state.timer {
            Some(_) => state.last.unwrap() - now,
            None => Duration::ZERO,
        }
    }

    #[test]
    fn pauses_grow_in_a_row_and_only_there() {
        let (mut state, spurious, mut now) = (PausesState::default(), SpuriousCount::default(), Instant::now());
        for _ in 0..2 {
            let pauses: Vec<_> = (0..30).map(|_| woken(&mut state, &spurious, now).as_millis()).collect();
            assert_eq!(&pauses[..11], [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4]);
            assert!(pauses[16..].iter().all(|&pause| pause == 100), "{pauses:?}");
            spurious.reset(); // progress
        }
        for _ in 0..50 {
            assert!(woken(&mut state, &spurious, now).is_zero(), "a pause, although there was progress");
            spurious.reset();
            spurious.note(); // by another task, after that progress
        }
        for _ in 0..50 {
            now += 2 * APART;
            assert!(woken(&mut state, &spurious, now).is_zero(), "a pause, although the wake-ups are far apart");
        }
    }

    #[test]
    fn attempts_that_find_nothing_are_suspicious_only_if_they_follow_quickly() {
        let spurious = SpuriousCount::default();
        for _ in 0..100 {
            (0..FEW).for_each(|_| spurious.note());
            spurious.reset();
        }
        assert!(!spurious.is_suspicious(), "suspicious, although there was progress");
        (0..10 * FEW).for_each(|_| spurious.note());
        assert!(spurious.is_suspicious());
        spurious.reset();
        let slow = SpuriousCount::default();
        for _ in 0..3 {
            while slow.count.load(Ordering::Relaxed) < FEW {
                slow.note();
            }
            let before = slow.filled.load(Ordering::Relaxed);
            slow.filled.store(before.wrapping_sub(100), Ordering::Relaxed); // as if that were long ago
            slow.note();
            assert!(!slow.is_suspicious());
        }
    }
}
