//! [`Dialogue`]: what has been said between a client and its handler.

use std::sync::atomic::{AtomicU8, Ordering, fence};

/// What has been said, in one byte: whether the connection is told later that the drain has begun (`newcomers`), and
/// whether an answer is due.
///
/// ```text
/// SILENT ──▶ SPARED ──▶ ASKED ◀──▶ ANSWERED      the drain begins, and then the first read notifies it,
///    └────────────────────▲         ▲            or the end of its time, or of the handler
///                  └────────────────┘
/// ```
#[derive(Debug)]
pub(super) struct Dialogue(AtomicU8);

/// The handler has read no byte. What it has written does not count.
const SILENT: u8 = 0;
/// The same, and the drain has begun: the handler will be notified later.
const SPARED: u8 = 1;
/// Bytes were read since the last write.
const ASKED: u8 = 2;
/// None were.
const ANSWERED: u8 = 3;

impl Default for Dialogue {
    fn default() -> Self {
        Self(AtomicU8::new(SILENT))
    }
}

impl Dialogue {
    /// The drain has begun: a silent connection is notified later. Returns whether it is one.
    pub(super) fn spare(&self) -> bool {
        self.0.compare_exchange(SILENT, SPARED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub(super) fn is_spared(&self) -> bool {
        self.0.load(Ordering::SeqCst) == SPARED
    }

    /// Its time as a newcomer is over, which is no answer to what was read. Returns whether it is to be notified now.
    pub(super) fn end_newcomer_time(&self) -> bool {
        let end = |dialogue| (dialogue < ASKED).then_some(ANSWERED);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, end) == Ok(SPARED)
    }

    /// Bytes were read. Returns whether it is to be notified now.
    #[inline]
    pub(super) fn ask(&self) -> bool {
        match self.0.load(Ordering::Relaxed) {
            ASKED => false,
            ANSWERED => {
                self.0.store(ASKED, Ordering::Relaxed); // no state but these two follows
                false
            }
            _ => self.0.swap(ASKED, Ordering::SeqCst) == SPARED,
        }
    }

    /// Bytes were written. Returns whether that is the answer to what was read.
    #[inline]
    pub(super) fn answer(&self) -> bool {
        let is_due = self.0.load(Ordering::Relaxed) == ASKED;
        if is_due {
            self.0.store(ANSWERED, Ordering::Relaxed);
            fence(Ordering::SeqCst); // with `is_answer_due`: what waits for the answer sees it, or is seen
        }
        is_due
    }

    /// Whether bytes were read since the last write.
    pub(super) fn is_answer_due(&self) -> bool {
        fence(Ordering::SeqCst); // with `answer`
        self.0.load(Ordering::Relaxed) == ASKED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_spared_is_notified_once_by_its_first_read_or_the_end_of_its_time() {
        for first_read in [true, false] {
            let dialogue = Dialogue::default();
            assert!(!dialogue.answer(), "a greeting is no answer");
            assert!(dialogue.spare() && dialogue.is_spared() && !dialogue.spare());
            assert!(if first_read { dialogue.ask() } else { dialogue.end_newcomer_time() });
            assert!(!dialogue.ask() && !dialogue.end_newcomer_time() && !dialogue.is_spared());
        }
    }

    #[test]
    fn an_answer_is_due_from_a_read_to_the_next_write_whatever_time_is_over() {
        let dialogue = Dialogue::default();
        assert!(!dialogue.is_answer_due() && !dialogue.ask() && dialogue.is_answer_due());
        assert!(!dialogue.end_newcomer_time() && dialogue.is_answer_due(), "the end of its time is no answer");
        assert!(dialogue.answer() && !dialogue.answer() && !dialogue.is_answer_due());
        assert!(!dialogue.ask() && dialogue.is_answer_due() && !dialogue.spare());
    }
}
