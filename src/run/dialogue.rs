//! [`Dialogue`]: what the client and the handler have exchanged, as far as a drain needs it. One byte per connection.

use crate::sync::atomic::{AtomicU8, Ordering, fence};

/// State of the exchange. It answers two questions: is the handler notified of the drain later (`newcomers.rs`), and is
/// an answer to the client due?
///
/// ```text
/// SILENT ──▶ SPARED ──▶ ASKED ◀──▶ ANSWERED
///    └────────────────────▲         ▲
///                  └────────────────┘
/// ```
///
/// | step | cause |
/// |---|---|
/// | `SILENT` to `SPARED` | the drain begins |
/// | `SILENT` or `SPARED` to `ASKED` | the handler's first read; it notifies a spared handler |
/// | `SILENT` or `SPARED` to `ANSWERED` | the end of the newcomer time, or of the handler; it notifies a spared handler |
/// | `ASKED` to `ANSWERED` and back | a write; a read |
#[derive(Debug)]
pub(super) struct Dialogue(AtomicU8);

/// The handler has read no byte. A greeting that it wrote does not matter.
const SILENT: u8 = 0;
/// As `SILENT`, and the drain has begun: the handler is notified later.
const SPARED: u8 = 1;
/// Bytes were read since the last write.
const ASKED: u8 = 2;
/// No byte was read since the last write.
const ANSWERED: u8 = 3;

impl Default for Dialogue {
    fn default() -> Self {
        let dialogue = Self(AtomicU8::new(SILENT));
        // loom lets a `SeqCst` load overlook later `SeqCst` stores, but only in favour of a value that was not stored so.
        #[cfg(all(test, ebbtide_loom))]
        dialogue.0.store(SILENT, Ordering::SeqCst);
        dialogue
    }
}

impl Dialogue {
    /// Spares a silent connection: the drain has begun, and its handler is notified later. Returns whether it is one.
    pub(super) fn spare(&self) -> bool {
        self.0.compare_exchange(SILENT, SPARED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub(super) fn is_spared(&self) -> bool {
        self.0.load(Ordering::SeqCst) == SPARED
    }

    /// Ends the newcomer time. Returns whether the handler must be notified now. If bytes were read, nothing changes:
    /// an answer to them is still due.
    pub(super) fn end_newcomer_time(&self) -> bool {
        let end = |dialogue| (dialogue < ASKED).then_some(ANSWERED);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, end) == Ok(SPARED)
    }

    /// Notes that bytes were read. Returns whether the handler must be notified now.
    #[inline]
    pub(super) fn ask(&self) -> bool {
        match self.0.load(Ordering::Relaxed) {
            ASKED => false,
            ANSWERED => {
                self.0.store(ASKED, Ordering::Relaxed); // only these two states can follow
                false
            }
            _ => self.0.swap(ASKED, Ordering::SeqCst) == SPARED,
        }
    }

    /// Notes that bytes were written. Returns whether they are the answer to bytes that were read.
    #[inline]
    pub(super) fn answer(&self) -> bool {
        let is_due = self.0.load(Ordering::Relaxed) == ASKED;
        if is_due {
            self.0.store(ANSWERED, Ordering::Relaxed);
            // Pairs with `is_answer_due`: either a waiter sees this answer, or the caller sees the waiter and wakes it.
            fence(Ordering::SeqCst);
        }
        is_due
    }

    /// Returns whether bytes were read since the last write.
    pub(super) fn is_answer_due(&self) -> bool {
        fence(Ordering::SeqCst); // pairs with `answer`
        self.0.load(Ordering::Relaxed) == ASKED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spared_handler_is_notified_once_by_its_first_read_or_the_end_of_its_time() {
        for first_read in [true, false] {
            let dialogue = Dialogue::default();
            assert!(!dialogue.answer(), "a greeting counted as an answer");
            assert!(dialogue.spare() && dialogue.is_spared() && !dialogue.spare());
            assert!(if first_read { dialogue.ask() } else { dialogue.end_newcomer_time() });
            assert!(!dialogue.ask() && !dialogue.end_newcomer_time() && !dialogue.is_spared());
        }
    }

    #[test]
    fn an_answer_is_due_from_a_read_to_the_next_write() {
        let dialogue = Dialogue::default();
        assert!(!dialogue.is_answer_due() && !dialogue.ask() && dialogue.is_answer_due());
        assert!(
            !dialogue.end_newcomer_time() && dialogue.is_answer_due(),
            "the end of the newcomer time counted as an answer"
        );
        assert!(dialogue.answer() && !dialogue.answer() && !dialogue.is_answer_due());
        assert!(!dialogue.ask() && dialogue.is_answer_due() && !dialogue.spare());
    }
}
