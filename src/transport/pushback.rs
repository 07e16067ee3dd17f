//! [`Pushback`]: bytes that were read too early, kept until they are read again.
//!
//! Bytes are pushed back by the PROXY header's parser, by readers of lines and frames that leave a rest, and by a wait
//! for bytes, which reads what has arrived.

use crate::sync::{Mutex, lock};
use std::sync::atomic::{AtomicBool, Ordering};

/// Queue of pushed-back bytes. Each connection has one, so it is small, and has no memory of its own while it is empty.
#[derive(Debug, Default)]
pub(super) struct Pushback {
    bytes: Mutex<Bytes>,
    /// There are bytes. It is written under the lock, and read without it, so that a read costs no lock once all bytes
    /// were taken. Only a push sets it, and only a take resets it.
    some: AtomicBool,
}

#[derive(Debug, Default)]
struct Bytes {
    kept: Box<[u8]>,
    /// How many of `kept` were taken already.
    taken: usize,
}

impl Bytes {
    /// Returns the bytes that were not taken yet.
    fn left(&self) -> &[u8] {
        &self.kept[self.taken..]
    }
}

impl Pushback {
    /// Puts bytes in front of those that are there.
    pub(super) fn push_back(&self, bytes: &[u8]) {
        self.put(|left| if left.is_empty() { bytes.into() } else { [bytes, left].concat().into() });
    }

    /// Puts bytes behind those that are there.
    pub(super) fn append(&self, bytes: &[u8]) {
        self.put(|left| if left.is_empty() { bytes.into() } else { [left, bytes].concat().into() });
    }

    /// Replaces the bytes that are left.
    fn put(&self, replace: impl FnOnce(&[u8]) -> Box<[u8]>) {
        let mut bytes = lock(&self.bytes);
        *bytes = Bytes { kept: replace(bytes.left()), taken: 0 };
        self.some.store(!bytes.kept.is_empty(), Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        !self.some.load(Ordering::Acquire)
    }

    /// Returns how many bytes there are; `None` for none.
    pub(super) fn len(&self) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        Some(lock(&self.bytes).left().len()).filter(|len| *len > 0)
    }

    /// Moves as many bytes into `buf` as there are and fit. Returns their number; `None` if there are none.
    pub(super) fn take(&self, buf: &mut [u8]) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let mut bytes = lock(&self.bytes);
        let left = bytes.left();
        if left.is_empty() {
            return None; // another reader was faster
        }
        let (n, all) = (left.len().min(buf.len()), left.len() <= buf.len());
        buf[..n].copy_from_slice(&left[..n]);
        bytes.taken += n;
        if all {
            *bytes = Bytes::default(); // frees the memory
            self.some.store(false, Ordering::Release);
        }
        Some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_in_their_order_and_only_once() {
        let pushback = Pushback::default();
        let mut buf = [0; 4];
        assert_eq!(pushback.take(&mut buf), None);
        pushback.push_back(b"cdef");
        pushback.push_back(b"ab");
        assert_eq!(pushback.take(&mut []), Some(0), "an empty buffer takes nothing, and the bytes stay");
        assert_eq!((pushback.take(&mut buf), &buf), (Some(4), b"abcd"));
        pushback.push_back(b"d");
        pushback.append(b"g");
        assert_eq!(pushback.len(), Some(4));
        assert_eq!((pushback.take(&mut buf), &buf), (Some(4), b"defg"));
        assert_eq!((pushback.take(&mut buf), pushback.len()), (None, None));
        pushback.append(b"");
        assert!(pushback.is_empty());
    }
}
