//! [`Progress`]: how far a connection's requests are. The connection's driver decides by it when to close.
//! [`WatchedIo`] notes what is read and written.

mod watched_io;

use crate::sync::event::Event;
use hyper::body::Body;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
pub(super) use watched_io::WatchedIo;

/// How far a connection's requests are.
///
/// The connection's task writes all of it, except that a stream of HTTP/2 ends its request in a task of its own, which
/// then wakes the connection's task. So relaxed atomics are enough.
#[derive(Debug)]
pub(super) struct Progress {
    is_http1: bool,
    /// The points in time below are counted from here, in nanoseconds.
    epoch: Instant,
    /// When the last byte passed, either way.
    last: AtomicU64,
    /// When the first byte of a head arrived that is not complete, plus one; 0: there is none. Only for HTTP/1.
    head: AtomicU64,
    /// hyper has read bytes of a head since this was last asked for. Only for HTTP/1.
    head_read: AtomicBool,
    /// How long the client takes between an answer and its next request, in nanoseconds. It includes a round trip.
    gap: AtomicU64,
    /// Requests whose answers are not complete, and on HTTP/2 tasks of streams and chunks of answers that are not sent.
    requests: AtomicUsize,
    /// A request has come.
    served: AtomicBool,
    /// The last write did not take all bytes: the peer reads more slowly than we write.
    blocked: AtomicBool,
    /// How many bytes of the request's body hyper has not read; [`UNKNOWN`] for a chunked body. Only for HTTP/1.
    body_left: AtomicU64,
    /// The request's body is chunked. Only for HTTP/1.
    is_chunked: AtomicBool,
    /// How many bytes have arrived that hyper has not read, without empty lines at their end. Only for HTTP/1.
    unread: AtomicU64,
    /// EOF came in the middle of a body. Only for HTTP/1.
    is_cut: AtomicBool,
    /// Why the connection ends, if a request of HTTP/1 was answered with an error of the protocol.
    fault: OnceLock<Fault>,
    /// hyper has dropped its side of the connection, or the upgraded stream was dropped. Its primary task is the
    /// connection's, which is woken when the last request has ended.
    pub(super) released: Event,
}

/// A connection that has been quiet for so long is not busy: most likely no request is on its way.
pub(super) const RECENT: Duration = Duration::from_secs(1);

/// The length of a chunked body.
const UNKNOWN: u64 = u64::MAX;

/// What a peer did wrong in a request that the service has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The body exceeds the limit.
    TooLarge,
    /// The body is malformed.
    BrokenBody,
    /// EOF came in the middle of the body.
    CutBody,
}

impl Progress {
    pub(super) fn new(is_http1: bool) -> Self {
        Self {
            is_http1,
            epoch: Instant::now(),
            last: AtomicU64::new(0),
            head: AtomicU64::new(0),
            head_read: AtomicBool::new(false),
            gap: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            body_left: AtomicU64::new(0),
            is_chunked: AtomicBool::new(false),
            unread: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            fault: OnceLock::new(),
            released: Event::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn at(&self, nanos: u64) -> Instant {
        self.epoch + Duration::from_nanos(nanos)
    }

    /// When the last byte passed, either way; if none has, when the connection began.
    pub(super) fn last_activity(&self) -> Instant {
        self.at(self.last.load(Relaxed))
    }

    /// When the first byte of a head arrived that is not complete. Only for HTTP/1.
    pub(super) fn head_began(&self) -> Option<Instant> {
        let head = self.head.load(Relaxed);
        (head > 0).then(|| self.at(head - 1))
    }

    /// Returns whether the next byte that hyper reads is the first of a head. Only for HTTP/1.
    fn is_between_requests(&self) -> bool {
        self.body_left.load(Relaxed) == 0 && self.head.load(Relaxed) == 0
    }

    /// Returns whether hyper has read bytes of a head since this was last asked for, and no request has begun by them.
    /// Only for HTTP/1.
    pub(super) fn take_unseen_head(&self) -> bool {
        self.head_read.load(Relaxed) && self.head_read.swap(false, Relaxed)
    }

    /// Returns how long the connection must be quiet before it may be closed, for the patience that is set.
    ///
    /// A request of a busy client is on its way for the time that the client usually takes. Twice that time, because it
    /// varies.
    pub(super) fn patience(&self, set: Duration) -> Duration {
        match set {
            Duration::ZERO => set,
            set => set.max(2 * Duration::from_nanos(self.gap.load(Relaxed))),
        }
    }

    /// Notes the time between an answer and the next request. An idle client says nothing about a busy one. A longer
    /// time counts at once, and is forgotten by and by.
    fn note_gap(&self, gap: u64) {
        if Duration::from_nanos(gap) <= RECENT {
            let before = self.gap.load(Relaxed);
            self.gap.store(gap.max(before - before / 8), Relaxed);
        }
    }

    /// Returns whether an answer is not complete, or not written, or a request's body has not arrived as a whole: the
    /// service may read it after the answer.
    pub(super) fn is_busy(&self) -> bool {
        self.requests.load(Relaxed) > 0 || self.blocked.load(Relaxed) || self.body_left.load(Relaxed) > 0
    }

    /// Returns whether a request has come.
    pub(super) fn has_served(&self) -> bool {
        self.served.load(Relaxed)
    }

    /// Returns whether bytes of further requests have arrived. Only for HTTP/1.
    pub(super) fn has_pipelined(&self) -> bool {
        self.unread.load(Relaxed) > self.body_left.load(Relaxed) // the service may leave a body unread
    }

    /// Returns whether the request's body may be malformed: EOF came in it, or it is chunked. Only for HTTP/1.
    pub(super) fn may_be_broken(&self) -> bool {
        self.is_cut.load(Relaxed) || self.is_chunked.load(Relaxed)
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }

    /// Notes why the connection ends after the answer that is being made.
    pub(super) fn set_fault(&self, fault: Fault) {
        let _ = self.fault.set(fault); // the first one ends the connection
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.get().copied()
    }

    fn note_unread(&self, bytes: &[u8]) {
        let len = bytes.iter().rposition(|byte| !is_end_of_line(*byte)).map_or(0, |last| last + 1);
        self.unread.store(len as u64, Relaxed);
    }

    fn note_write(&self, is_pending: bool) {
        if !is_pending {
            self.last.store(self.now(), Relaxed);
        }
        self.note_blocked(is_pending);
    }

    fn note_blocked(&self, is_blocked: bool) {
        if self.blocked.load(Relaxed) != is_blocked {
            self.blocked.store(is_blocked, Relaxed);
        }
    }
}

/// A request whose answer is not complete.
#[derive(Debug)]
pub(super) struct InProgress(Arc<Progress>);

impl InProgress {
    /// Counts a part of a request that goes on after its answer was made: a task, or a chunk.
    pub(super) fn part(progress: &Arc<Progress>) -> Self {
        progress.requests.fetch_add(1, Relaxed);
        Self(Arc::clone(progress))
    }

    /// Counts a request, whose head is complete.
    pub(super) fn new(progress: &Arc<Progress>, body: &impl Body) -> Self {
        progress.head.store(0, Relaxed);
        progress.head_read.store(false, Relaxed);
        progress.served.store(true, Relaxed);
        if progress.is_http1 {
            let length = body.size_hint().exact();
            progress.body_left.store(length.unwrap_or(UNKNOWN), Relaxed);
            progress.is_chunked.store(length.is_none(), Relaxed);
        }
        Self::part(progress)
    }

    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.0
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Relaxed) == 1 && !self.0.is_http1 {
            self.0.released.wake_primary();
        }
    }
}

/// Before a request, ends of lines belong to none: some clients send an empty line behind a body.
fn is_end_of_line(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patience_is_twice_the_time_that_the_client_takes_if_that_is_more() {
        let (progress, set) = (Progress::new(true), Duration::from_millis(100));
        let note = |millis: u64| progress.note_gap(millis * 1_000_000);
        assert_eq!(progress.patience(set), set);
        note(20);
        assert_eq!(progress.patience(set), set);
        note(150); // a client that is far away
        assert_eq!(progress.patience(set), Duration::from_millis(300));
        note(5000); // a client that was idle
        assert_eq!(progress.patience(set), Duration::from_millis(300));
        (0..20).for_each(|_| note(1));
        assert_eq!(progress.patience(set), set, "it is forgotten");
        note(400);
        assert_eq!(progress.patience(Duration::ZERO), Duration::ZERO, "no patience is wanted");
    }
}
