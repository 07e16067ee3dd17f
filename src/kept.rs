//! Values of the user's that the crate keeps.

use crate::say::say;
use crate::unwind;

/// A handler, or another value of the user's, that is dropped wherever its last owner goes: its destructor may panic, and
/// must not take that place down.
pub(crate) struct Kept<T>(Option<T>);

impl<T> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(crate) fn get(&self) -> &T {
        self.0.as_ref().expect("it is there until its drop")
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is there until its drop")
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        drop_caught(self.0.take());
    }
}

/// Drops a value of the user's: a panic of its destructor is logged.
pub(crate) fn drop_caught<T>(value: T) {
    if let Err(payload) = unwind::catch(|| drop(value)) {
        say!(error, "a destructor panicked: {}", unwind::message(&payload));
        unwind::discard(payload);
    }
}
