//! The net for the unknown: a wait for readiness that is in vain again and again rests before it asks again.
//!
//! A reactor may say that a socket is ready where a system call finds nothing, and go on saying so: the cause is one
//! that no read or write consumes. One such cause is a queue of errors that holds time stamps, another a kernel that
//! is short of memory. Once in a while that is harmless: another task was faster, or the answer is old. In a row, and
//! with nothing in between, it would keep a core busy. Nothing has to be known of the cause:
//!
//! 1. Each direction counts its looks in vain since its last progress ([`InVain`]): two bytes, and a look that finds
//!    something pays nothing for it. A look in vain is no proof: a task may be polled often for reasons of its own. So a
//!    count that grows quickly is a *suspicion*, and has one consequence: the direction is waited for with a waker of
//!    ours from then on (`readiness`).
//! 2. That waker tells what the reactor has caused ([`Rest`]). More than [`FEW`] of its wake-ups in a row, without
//!    progress and each within [`APART`] of the one before, are answered by a pause, in which the reactor is not asked:
//!    1 ms, then twice as long, up to [`LONGEST_PAUSE`]. Any progress ends the row.

use crate::sync::{Mutex, lock};
use async_io::Timer;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// So many in a row have a harmless reason.
const FEW: u8 = 8;

/// Wake-ups that are further apart are no row.
const APART: Duration = Duration::from_secs(1);

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// What arrives in a pause is found at its end, so this is also the longest delay.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How many looks in a row were in vain, of one direction. A hint: relaxed, and never needed for correctness.
#[derive(Debug, Default)]
pub(super) struct InVain {
    /// In the lower bits; and [`MARK`]. 0: the last look has found something.
    count: AtomicU8,
    /// When the count was full before, in units of [`UNIT`], modulo 256.
    filled: AtomicU8,
}

/// A count that is full twice within this time or a little more has grown quickly.
const UNIT: u128 = 64; // milliseconds

/// A count that has grown quickly. Larger than any other.
const SUSPICIOUS: u8 = MARK - 1;

/// Set by [`Rest`], to see whether there was progress since then.
const MARK: u8 = 1 << 7;

impl InVain {
    /// A look has found something.
    #[inline]
    pub(super) fn end(&self) {
        if self.count.load(Ordering::Relaxed) != 0 {
            self.count.store(0, Ordering::Relaxed);
        }
    }

    /// A look was in vain.
    #[inline]
    pub(super) fn note(&self) {
        let count = self.count.load(Ordering::Relaxed);
        if count < FEW {
            self.count.store(count + 1, Ordering::Relaxed);
        } else if count < SUSPICIOUS {
            self.note_full();
        } // else it is known
    }

    #[cold]
    fn note_full(&self) {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        // Modulo 256. At the beginning it is far from the 0 that no count has left.
        let now = (BEGINNING.elapsed().as_millis() / UNIT + 128) as u8;
        let before = self.filled.swap(now, Ordering::Relaxed);
        let is_quick = now.wrapping_sub(before) <= 1;
        self.count.store(if is_quick { SUSPICIOUS } else { 1 }, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_suspicious(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= SUSPICIOUS
    }

    /// Returns whether it was marked, and there was no progress since then.
    fn mark(&self) -> bool {
        self.count.swap(MARK, Ordering::Relaxed) >= MARK
    }
}

/// The pauses of one direction.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// The reactor's waker was woken, and no task has looked since then.
    woken: AtomicBool,
    /// There is a timer.
    resting: AtomicBool,
    state: Mutex<RestState>,
}

#[derive(Debug, Default)]
struct RestState {
    /// Wake-ups in a row.
    row: u8,
    /// When the row went on last, a pause included.
    last: Option<Instant>,
    /// The pause that comes next, if the row goes on.
    pause: Duration,
    /// Of the pause that is under way.
    timer: Option<Timer>,
}

impl Rest {
    pub(super) fn note_wakeup(&self) {
        self.woken.store(true, Ordering::Relaxed);
    }

    /// Before the reactor is asked: pending as long as a pause lasts. `cx` has the waker of which the wake-ups are
    /// noted.
    pub(super) fn poll(&self, in_vain: &InVain, cx: &mut Context<'_>) -> Poll<()> {
        if !self.resting.load(Ordering::Relaxed) && !self.woken.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let mut state = lock(&self.state);
        let was_woken = self.woken.swap(false, Ordering::Relaxed); // also by the timer, which is no wake-up in vain
        if state.timer.is_none() && was_woken {
            state.note_wakeup(in_vain, Instant::now());
        }
        let is_over = state.timer.as_mut().is_none_or(|timer| Pin::new(timer).poll(cx).is_ready());
        if is_over {
            state.timer = None;
        }
        self.resting.store(!is_over, Ordering::Relaxed);
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl RestState {
    fn note_wakeup(&mut self, in_vain: &InVain, now: Instant) {
        let no_progress = in_vain.mark();
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

    /// How long the pause is that follows a wake-up.
    fn woken(state: &mut RestState, in_vain: &InVain, now: Instant) -> Duration {
        state.timer = None;
        state.note_wakeup(in_vain, now);
        match state.timer {
            Some(_) => state.last.unwrap() - now,
            None => Duration::ZERO,
        }
    }

    #[test]
    fn pauses_grow_in_a_row_and_only_there() {
        let (mut state, in_vain, mut now) = (RestState::default(), InVain::default(), Instant::now());
        for _ in 0..2 {
            let pauses: Vec<_> = (0..30).map(|_| woken(&mut state, &in_vain, now).as_millis()).collect();
            assert_eq!(&pauses[..11], [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4]);
            assert!(pauses[16..].iter().all(|&pause| pause == 100), "{pauses:?}");
            in_vain.end(); // progress
        }
        for _ in 0..50 {
            assert!(woken(&mut state, &in_vain, now).is_zero(), "there is progress between them");
            in_vain.end();
            in_vain.note(); // by another task, after that progress
        }
        for _ in 0..50 {
            now += 2 * APART;
            assert!(woken(&mut state, &in_vain, now).is_zero(), "they are far apart");
        }
    }

    #[test]
    fn looks_in_vain_are_suspicious_only_if_they_come_quickly() {
        let in_vain = InVain::default();
        for _ in 0..100 {
            (0..FEW).for_each(|_| in_vain.note());
            in_vain.end();
        }
        assert!(!in_vain.is_suspicious(), "there is progress between them");
        (0..10 * FEW).for_each(|_| in_vain.note());
        assert!(in_vain.is_suspicious());
        in_vain.end();
        let slow = InVain::default();
        for _ in 0..3 {
            while slow.count.load(Ordering::Relaxed) < FEW {
                slow.note();
            }
            let before = slow.filled.load(Ordering::Relaxed);
            slow.filled.store(before.wrapping_sub(100), Ordering::Relaxed); // as if that was long ago
            slow.note();
            assert!(!slow.is_suspicious());
        }
    }
}
