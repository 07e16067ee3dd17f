//! [`Connection`] as a stream: reading from it, and writing to it.

use super::Connection;
use crate::run::end_reason::EndReason;
use crate::sync::coop;
use crate::text::explained;
use crate::transport::Transport;
use futures_io::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};

impl Connection {
    pub(super) fn poll_half_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.record.has_ended() {
            return Poll::Ready(Ok(()));
        }
        let poll = self.record.transport.poll_close(cx);
        if let Poll::Ready(Err(error)) = &poll {
            self.note_error(error);
        }
        poll
    }

    /// Ready once bytes have arrived, with how many there are to be read at once; 0: the end. The read that finds them
    /// counts as the read.
    pub(super) fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_unless_ended(true, |stream| stream.poll_arrived(cx))
    }

    fn poll_read_with(
        &self,
        wants_some: bool,
        read: impl FnOnce(&Transport) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let result = self.poll_unless_ended(wants_some, read);
        if let Poll::Ready(Ok(n @ 1..)) = result {
            self.record.note_read(n);
        }
        result
    }

    #[inline]
    fn poll_unless_ended(
        &self,
        wants_some: bool,
        read: impl FnOnce(&Transport) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.record.has_returned() {
            return Poll::Ready(Ok(0)); // ours, and not the peer's end
        }
        let result = read(&self.record.transport);
        match result {
            Poll::Ready(Ok(0)) if wants_some => self.record.note_eof(),
            // Meanwhile; and its end may have woken us before we waited.
            Poll::Pending | Poll::Ready(Err(_)) if self.record.has_returned() => return Poll::Ready(Ok(0)),
            Poll::Ready(Err(ref error)) => self.note_error(error),
            _ => {}
        }
        result
    }

    /// After a reset nothing more comes from the peer, and nothing reaches it.
    #[cold]
    fn note_error(&self, error: &io::Error) {
        let kind = error.kind();
        if kind == io::ErrorKind::ConnectionReset {
            self.record.note_eof();
        }
        // Any error at all may be of that kind; and the panic of a custom stream is.
        if kind != io::ErrorKind::Other {
            self.record.note_given(kind, EndReason::Disconnected);
        }
    }

    fn poll_write_with(&self, write: impl FnOnce(&Transport) -> Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if self.record.has_ended() {
            return Poll::Ready(Err(broken_pipe()));
        }
        let yields = coop::yields();
        let result = write(&self.record.transport);
        match result {
            Poll::Ready(Ok(n @ 1..)) => self.record.note_written(n),
            Poll::Ready(Err(ref error)) => self.note_error(error),
            Poll::Pending if self.record.has_ended() => return Poll::Ready(Err(broken_pipe())),
            Poll::Pending if coop::yields() == yields => self.record.note_write_waits(),
            _ => {}
        }
        result
    }
}

fn broken_pipe() -> io::Error {
    explained(io::ErrorKind::BrokenPipe, "the connection is closed: its handler has ended")
}

impl AsyncRead for &Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let wants_some = !buf.is_empty(); // into an empty buffer, nothing read is not the end
        self.poll_read_with(wants_some, |stream| stream.poll_read(cx, buf))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let wants_some = bufs.iter().any(|buf| !buf.is_empty());
        self.poll_read_with(wants_some, |stream| stream.poll_read_vectored(cx, bufs))
    }
}

/// `poll_close` half-closes: the peer reads EOF, and can still send. The rest is closed when the handler ends.
impl AsyncWrite for &Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(|stream| stream.poll_write_vectored(cx, bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.record.has_ended() {
            return Poll::Ready(Err(broken_pipe()));
        }
        let yields = coop::yields();
        let poll = self.record.transport.poll_flush(cx);
        match &poll {
            Poll::Ready(result) => {
                self.record.note_write_done();
                if let Err(error) = result {
                    self.note_error(error);
                }
            }
            Poll::Pending if coop::yields() == yields => self.record.note_write_waits(),
            Poll::Pending => {}
        }
        poll
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_half_close(cx)
    }
}

/// A stream by value is the same as by reference.
macro_rules! stream_by_value {
    ($stream:ty) => {
        impl futures_io::AsyncRead for $stream {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_read(cx, buf)
            }

            fn poll_read_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &mut [IoSliceMut<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_read_vectored(cx, bufs)
            }
        }

        /// `poll_close` half-closes: the peer reads EOF, and can still send. The rest is closed when the handler ends.
        impl futures_io::AsyncWrite for $stream {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_write_vectored(cx, bufs)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut &*self).poll_flush(cx)
            }

            fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut &*self).poll_close(cx)
            }
        }
    };
}

pub(crate) use stream_by_value;

stream_by_value!(Connection);
