//! A buffer for bytes that are read and at once put elsewhere, or thrown away.

use std::cell::Cell;

/// As long as what a busy peer sends before it waits for an answer, as a rule.
const LENGTH: usize = 16 * 1024;

/// Lends the thread's buffer. The thread's and not the connection's: a thousand that wait need no memory for it.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local!(static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) });
    SCRATCH.with(|kept| {
        // Taken, since a stream that is no socket runs code of the user's, which may end up here again.
        let mut scratch = kept.take().unwrap_or_else(|| vec![0; LENGTH].into());
        let result = work(&mut scratch);
        kept.set(Some(scratch));
        result
    })
}
