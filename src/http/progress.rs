//! [`Progress`]: how far a connection's requests are. The connection's driver decides by it when to close.

use super::io::Io;
use crate::connection::Connection;
use crate::sync::event::Event;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How far a connection's requests are.
///
/// The connection's task writes all of it, except that a stream of HTTP/2 ends its request in a task of its own. That
/// task wakes the connection's task, which has to send the stream's last frame. So relaxed atomics are enough.
#[derive(Debug)]
pub(super) struct Progress {
    /// The points in time below are counted from here, in nanoseconds.
    epoch: Instant,
    /// When the last byte passed, either way.
    last: AtomicU64,
    /// When the first byte arrived that belongs to no request yet, plus one; 0: there is none.
    head: AtomicU64,
    /// Requests whose answers are not complete.
    requests: AtomicUsize,
    /// A request has come.
    served: AtomicBool,
    /// The last write did not take all bytes: the peer reads more slowly than we write.
    blocked: AtomicBool,
    /// hyper has dropped its side of the connection, or the upgraded stream was dropped.
    pub(super) released: Event,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            last: AtomicU64::new(0),
            head: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
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

    /// When the first byte arrived that belongs to no request yet. So on HTTP/1 the rest of a head is missing.
    pub(super) fn head_began(&self) -> Option<Instant> {
        let head = self.head.load(Relaxed);
        (head > 0).then(|| self.at(head - 1))
    }

    /// Returns whether an answer is not complete, or not written.
    pub(super) fn is_busy(&self) -> bool {
        self.requests.load(Relaxed) > 0 || self.blocked.load(Relaxed)
    }

    /// Returns whether a request has come.
    pub(super) fn has_served(&self) -> bool {
        self.served.load(Relaxed)
    }

    fn note_read(&self) {
        let now = self.now();
        self.last.store(now, Relaxed);
        if self.head.load(Relaxed) == 0 {
            self.head.store(now + 1, Relaxed);
        }
    }

    fn note_write(&self, is_pending: bool) {
        if !is_pending {
            self.last.store(self.now(), Relaxed);
        }
        if self.blocked.load(Relaxed) != is_pending {
            self.blocked.store(is_pending, Relaxed);
        }
    }
}

/// A request whose answer is not complete.
#[derive(Debug)]
pub(super) struct InProgress {
    progress: Arc<Progress>,
    has_body: bool,
}

impl InProgress {
    /// Counts a request, whose head is complete.
    pub(super) fn new(progress: &Arc<Progress>, has_body: bool) -> Self {
        progress.requests.fetch_add(1, Relaxed);
        progress.head.store(0, Relaxed);
        progress.served.store(true, Relaxed);
        Self { progress: Arc::clone(progress), has_body }
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        // Bytes that arrived since the head are the body's, if there is one. Otherwise they begin the next request.
        if self.has_body {
            self.progress.head.store(0, Relaxed);
        }
        self.progress.requests.fetch_sub(1, Relaxed);
    }
}

/// The connection as hyper has it: [`Io`] that notes the progress.
#[derive(Debug)]
pub(super) struct WatchedIo {
    io: Io,
    progress: Arc<Progress>,
}

impl WatchedIo {
    pub(super) fn new(connection: Connection, progress: Arc<Progress>) -> Self {
        Self { io: Io::new(connection), progress }
    }

    fn note_write<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.progress.note_write(poll.is_pending());
        poll
    }
}

impl Drop for WatchedIo {
    fn drop(&mut self) {
        self.progress.released.signal();
    }
}

impl Read for WatchedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let before = buf.remaining();
        ready!(self.io.poll_read_into(cx, &mut buf))?;
        if buf.remaining() < before {
            self.progress.note_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for WatchedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note_write(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note_write(poll)
    }
}
