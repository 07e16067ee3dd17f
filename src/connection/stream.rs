//! [`Connection`] as a stream: its `AsyncRead` and `AsyncWrite`.
//!
//! Each call is passed to the transport. Clones stop reading and writing when the handler has ended. The record notes
//! what the run needs to know: bytes, EOF, errors, and writes that wait.

use super::Connection;
use super::blame::is_exhaustion;
use crate::run::end_reason::EndReason;
use crate::sync::coop;
use crate::text::explained;
use crate::transport::Transport;
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};

impl Connection {
    /// Makes the error for invalid input from the peer. Its kind is `InvalidData`, its text is `why`.
    ///
    /// If the handler returns it, the connection's end is the peer's fault: it is logged at debug, and counted as
    /// [`BadInput`](EndReason::BadInput), one of the reasons of [`disconnected`](crate::Report::disconnected). It is
    /// for handlers with a parser of their own; [`lines`](Self::lines), [`frames`](Self::frames) and HTTP do the same.
    ///
    /// The error is recognised by its kind. So after this call every error of the kind `InvalidData` that the handler
    /// returns counts as the peer's fault: call it only to return the error.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"?").await?;
    /// let handler = async |mut conn: Connection| {
    ///     let mut version = [0];
    ///     conn.read_exact(&mut version).await?;
    ///     match version {
    ///         [1] => conn.write_all(b"welcome").await,
    ///         [other] => Err(conn.bad_input(format_args!("version {other} instead of 1"))),
    ///     }
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!((report.disconnected(), report.failed()), (1, 0));
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn bad_input(&self, why: impl fmt::Display) -> io::Error {
        self.record.note_given(io::ErrorKind::InvalidData, EndReason::BadInput);
        explained(io::ErrorKind::InvalidData, why)
    }

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

    /// Ready once bytes have arrived, with the number that the next read can return at once; 0 at EOF.
    ///
    /// It does not note a read: the read that takes the bytes does so.
    pub(super) fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_unless_ended(true, |stream| stream.poll_arrived(cx))
    }

    /// Reads, and notes the bytes. `wants_some` is false for an empty buffer.
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

    /// Reads while the handler runs; after it has returned, reads return EOF.
    #[inline]
    fn poll_unless_ended(
        &self,
        wants_some: bool,
        read: impl FnOnce(&Transport) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.record.has_returned() {
            return Poll::Ready(Ok(0)); // not the peer's EOF, so it is not noted
        }
        let result = read(&self.record.transport);
        match result {
            Poll::Ready(Ok(0)) if wants_some => {
                if let Some(error) = self.record.take_kept_error() {
                    self.note_error(&error);
                    return Poll::Ready(Err(error));
                }
                self.record.note_eof();
            }
            // Checked again: the handler may have returned during this poll, and its wake-up may have come before this
            // task was registered.
            Poll::Pending | Poll::Ready(Err(_)) if self.record.has_returned() => return Poll::Ready(Ok(0)),
            Poll::Ready(Err(ref error)) => self.note_error(error),
            _ => {}
        }
        result
    }

    /// Notes an error, so that it is recognised if the handler returns it. After a reset no more bytes arrive, and none
    /// reach the peer: that is noted like EOF.
    #[cold]
    pub(crate) fn note_error(&self, error: &io::Error) {
        let kind = error.kind();
        if kind == io::ErrorKind::ConnectionReset {
            self.record.note_eof();
        }
        // Not `Other`: an error that has nothing to do with the stream may be of that kind, and the panic of a custom
        // stream is.
        if kind != io::ErrorKind::Other {
            let is_own = is_exhaustion(error); // of this system: no fault of the peer's
            self.record.note_given(kind, if is_own { EndReason::Failed } else { EndReason::Disconnected });
        }
    }

    /// Writes while tasks of the connection may write; notes the bytes, or that the write waits.
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
        let wants_some = !buf.is_empty(); // into an empty buffer, 0 bytes are not EOF
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

/// `poll_close` half-closes: the peer reads EOF, and can still send. The other half is closed when the handler ends.
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

/// Implements `AsyncRead` and `AsyncWrite` for a type by those of its reference.
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

        /// `poll_close` half-closes: the peer reads EOF, and can still send. The other half is closed when the handler
        /// ends.
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
