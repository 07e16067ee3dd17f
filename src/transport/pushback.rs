//! Bytes that were read too early, until they are read again.

use crate::sync::{Mutex, lock};
use std::collections::VecDeque;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub(super) struct Pushback {
    bytes: Mutex<VecDeque<u8>>,
    /// So that the reads after the last of them cost no lock. A hint: only a put-back sets it, and only a take resets
    /// it.
    some: AtomicBool,
}

impl Pushback {
    /// They come before those that are there.
    pub(super) fn push_back(&self, bytes: &[u8]) {
        let mut kept = lock(&self.bytes);
        if kept.is_empty() {
            *kept = VecDeque::from(bytes.to_vec());
        } else {
            bytes.iter().rev().for_each(|byte| kept.push_front(*byte));
        }
        self.some.store(!kept.is_empty(), Ordering::Release);
    }

    /// They come after those that are there.
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

    /// `None`: there are none.
    pub(super) fn len(&self) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        Some(lock(&self.bytes).len()).filter(|len| *len > 0)
    }

    /// As many as there are and fit; `None` if there are none.
    pub(super) fn take(&self, buf: &mut [u8]) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let mut kept = lock(&self.bytes);
        if kept.is_empty() {
            return None; // another reader was quicker
        }
        let mut read = |buf: &mut [u8]| kept.read(buf).expect("reading from memory does not fail");
        let mut n = read(buf); // of what lies in one piece
        n += read(&mut buf[n..]);
        if kept.is_empty() {
            *kept = VecDeque::new();
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
        assert_eq!(pushback.take(&mut []), Some(0), "an empty buffer is no end");
        assert_eq!((pushback.take(&mut buf), &buf), (Some(4), b"abcd"));
        assert_eq!((pushback.take(&mut buf), &buf[..2]), (Some(2), b"ef".as_slice()));
        assert_eq!(pushback.take(&mut buf), None);
        assert!(pushback.is_empty());
    }
}
