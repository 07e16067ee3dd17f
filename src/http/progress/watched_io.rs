//! [`WatchedIo`]: hyper reads and writes through it, and it notes the progress.

use super::{Progress, UNKNOWN, is_end_of_line};
use crate::connection::Connection;
use crate::http::ends::{ChunkedEnd, HeadEnd};
use crate::http::io::Io;
use crate::transport::with_scratch;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

/// The connection as hyper has it: [`Io`] that notes the progress.
///
/// On HTTP/1 one read does not go beyond the end of a head or a body: the rest is kept for the next read. So it is
/// known whether a part of another request has arrived. hyper would keep such bytes in a buffer of its own, which
/// nothing can look into.
#[derive(Debug)]
pub(in crate::http) struct WatchedIo {
    io: Io,
    progress: Arc<Progress>,
    /// Bytes that have arrived behind those that hyper has read.
    excess: VecDeque<u8>,
    /// How much of the end of a head the last bytes are: see [`HeadEnd`].
    head_end: HeadEnd,
    /// How far the request's body is, if it is chunked.
    chunked_end: ChunkedEnd,
}

impl WatchedIo {
    pub(in crate::http) fn new(connection: Connection, progress: Arc<Progress>) -> Self {
        let (head_end, chunked_end) = (HeadEnd::default(), ChunkedEnd::default());
        Self { io: Io::new(connection), progress, excess: VecDeque::new(), head_end, chunked_end }
    }

    fn note_write<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.progress.note_write(poll.is_pending());
        poll
    }

    /// Returns how many of these bytes hyper may read now, and notes them as read.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let progress = &*self.progress;
        let now = progress.now();
        if progress.is_http1 && progress.is_between_requests() && bytes.iter().copied().all(is_end_of_line) {
            // Not noted as activity: a client that sends nothing else would hold the connection, also in a drain.
            progress.head_read.store(true, Relaxed);
            return bytes.len();
        }
        let last = progress.last.swap(now, Relaxed);
        if !progress.is_http1 {
            return bytes.len();
        }
        match progress.body_left.load(Relaxed) {
            0 => {
                progress.head_read.store(true, Relaxed);
                if progress.head.load(Relaxed) == 0 {
                    progress.head.store(now + 1, Relaxed);
                    if progress.has_served() {
                        progress.note_gap(now.saturating_sub(last));
                    }
                }
                self.head_end.find(bytes).unwrap_or(bytes.len())
            }
            UNKNOWN => match self.chunked_end.find(bytes) {
                Some(end) => {
                    progress.body_left.store(0, Relaxed);
                    end
                }
                None => bytes.len(),
            },
            left => {
                let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                progress.body_left.store(left - n as u64, Relaxed);
                n
            }
        }
    }

    /// Reads what was kept back.
    fn read_excess(&mut self, buf: &mut ReadBufCursor<'_>) {
        let mut excess = std::mem::take(&mut self.excess);
        let bytes = excess.make_contiguous();
        let bytes = &bytes[..bytes.len().min(buf.remaining())];
        let n = self.pass(bytes);
        buf.put_slice(&bytes[..n]);
        excess.drain(..n);
        self.progress.note_unread(excess.make_contiguous());
        if !excess.is_empty() {
            self.excess = excess; // otherwise its memory is freed: an idle connection has none
        }
    }
}

impl Drop for WatchedIo {
    fn drop(&mut self) {
        self.progress.released.signal();
    }
}

impl Read for WatchedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !this.excess.is_empty() {
            this.read_excess(&mut buf);
            return Poll::Ready(Ok(()));
        }
        with_scratch(|scratch| {
            let len = buf.remaining().min(scratch.len());
            let n = ready!(this.io.poll_read_into(cx, &mut scratch[..len]))?;
            if n == 0 && this.progress.body_left.load(Relaxed) > 0 {
                this.progress.is_cut.store(true, Relaxed);
            }
            if n > 0 {
                let passed = this.pass(&scratch[..n]);
                buf.put_slice(&scratch[..passed]);
                if passed < n {
                    this.excess.extend(&scratch[passed..n]);
                    this.progress.note_unread(&scratch[passed..n]);
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl Write for WatchedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note_write(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_flush(cx);
        self.progress.note_blocked(poll.is_pending()); // TLS has a buffer of its own
        poll
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
