//! A thread-local buffer for bytes that are read and at once copied elsewhere, or discarded.

use std::cell::Cell;

/// As much as a busy peer usually sends before it waits for an answer.
pub(super) const LENGTH: usize = 16 * 1024;

/// Runs `work` with the buffer of this thread. It belongs to the thread and not to a connection, so a thousand waiting
/// connections need no memory for it.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local!(static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) });
    SCRATCH.with(|kept| {
        // Taken out: a stream that is not a socket runs user code, which may call this function again.
        let mut scratch = kept.take().unwrap_or_else(|| vec![0; LENGTH].into());
        let result = work(&mut scratch);
        kept.set(Some(scratch));
        result
    })
}
