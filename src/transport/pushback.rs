//! [`Pushback`]: bytes that were read too early, kept until they are read again.
//!
//! Bytes are pushed back by the PROXY header's parser, by readers of lines and frames that leave a rest, and by a wait
//! for bytes, which reads what has arrived.

use crate::sync::{Mutex, lock};
use std::collections::VecDeque;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

/// Queue of pushed-back bytes.
#[derive(Debug, Default)]
pub(super) struct Pushback {
    bytes: Mutex<VecDeque<u8>>,
    /// There are bytes. It is written under the lock, and read without it, so that a read costs no lock once all bytes
    /// were taken. Only a push sets it, and only a take resets it.
    some: AtomicBool,
}

impl Pushback {
    /// Puts bytes in front of those that are there.
    pub(super) fn push_back(&self, bytes: &[u8]) {
        let mut kept = lock(&self.bytes);
        if kept.is_empty() {
            *kept = VecDeque::from(bytes.to_vec());
        } else {
            bytes.iter().rev().for_each(|byte| kept.push_front(*byte));
        }
        self.some.store(!kept.is_empty(), Ordering::Release);
    }

    /// Puts bytes behind those that are there.
    pub(super) fn append(&self, bytes: &[u8]) {
        let mut kept = lock(&self.bytes);
        match kept.is_empty() {
            true => *kept = VecDeque::from(bytes.to_vec()),
            false => kept.extend(bytes),
        }
        self.some.store(!kept.is_empty(), Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        !self.some.load(Ordering::Acquire)
    }

    /// Returns how many bytes there are; `None` for none.
    pub(super) fn len(&self) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        Some(lock(&self.bytes).len()).filter(|len| *len > 0)
    }

    /// Moves as many bytes into `buf` as there are and fit. Returns their number; `None` if there are none.
    pub(super) fn take(&self, buf: &mut [u8]) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let mut kept = lock(&self.bytes);
        if kept.is_empty() {
            return None; // another reader was faster
        }
        let mut read = |buf: &mut [u8]| kept.read(buf).expect("reading from memory does not fail");
        let mut n = read(buf); // a read takes from one of the deque's two slices
        n += read(&mut buf[n..]);
        if kept.is_empty() {
            *kept = VecDeque::new(); // frees the memory
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
        assert_eq!((pushback.take(&mut buf), &buf[..2]), (Some(2), b"ef".as_slice()));
        assert_eq!(pushback.take(&mut buf), None);
        assert!(pushback.is_empty());
    }
}
