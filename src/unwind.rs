//! What we do with panics that are not ours.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs `work` and catches its panic.
///
/// Asserting unwind safety is right wherever this is used: what has panicked is never used again, only destroyed.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Payload> {
    catch_unwind(AssertUnwindSafe(work))
}

/// The text of a panic, as the default panic hook would print it.
pub(crate) fn message(payload: &Payload) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a value that is not text"
    }
}

/// Drops a payload. Its destructor is user code too, and may panic in its turn; that second payload is leaked.
pub(crate) fn discard(payload: Payload) {
    if let Err(again) = catch(|| drop(payload)) {
        std::mem::forget(again);
    }
}
