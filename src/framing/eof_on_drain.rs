//! [`EofOnDrain`]: a connection for code that knows nothing of drains.

use crate::connection::Connection;
use crate::connection::stream::stream_by_value;
use crate::sync::event::EventPlace;
use crate::sync::{Mutex, lock};
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

impl Connection {
    /// Returns the same connection for code that reads until EOF and knows nothing of drains, such as `io::copy`, or an
    /// HTTP or WebSocket library: its reads give EOF once the drain has begun, if nothing has arrived, and if no byte
    /// was read since the last write. So what such code does at the end of input it does in a drain too, and a request
    /// that was read in part, or is not answered yet, keeps it reading.
    ///
    /// Any byte that is written counts as the answer to all that was read. So with pipelined requests, or an answer in
    /// parts, the reads may end while the rest of the answer is still to come: code that then half-closes, and goes on
    /// writing what comes, as the two copies of a proxy do (`examples/proxy.rs`), loses nothing.
    ///
    /// Not for what reads without ever writing, such as an upload: there each byte waits for an answer, so the reads
    /// never end by themselves; use [`more`](Self::more). And not for one that writes whatever it reads, such as a
    /// feed, if half a message would matter: then EOF may come in the middle of it.
    ///
    /// # Examples
    ///
    /// ```
    /// use async_std::io;
    /// use ebbtide::Connection;
    ///
    /// async fn echo(conn: Connection) -> io::Result<()> {
    ///     let stream = conn.eof_on_drain();
    ///     io::copy(&mut &stream, &mut &stream).await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn eof_on_drain(&self) -> EofOnDrain {
        EofOnDrain { connection: self.clone(), place: Mutex::default() }
    }
}

/// A connection whose reads end in a drain: see [`Connection::eof_on_drain`].
///
/// A stream by value and by reference, as the connection is; one task at a time reads. Writes are the connection's; so
/// is closing, which half-closes.
#[must_use = "it reads and writes the connection, and does nothing by itself"]
pub struct EofOnDrain {
    connection: Connection,
    /// Of the task that reads.
    place: Mutex<EventPlace>,
}

impl EofOnDrain {
    /// Returns the connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(Pin<&mut &Connection>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let (record, mut connection) = (self.connection.record(), &self.connection);
        let mut place = std::mem::take(&mut *lock(&self.place)); // a read of a custom stream is user code
        let poll = record.draining.poll_until(cx, &mut place, |cx| read(Pin::new(&mut connection), cx));
        let mut other = std::mem::replace(&mut *lock(&self.place), place);
        other.give_up(&record.draining); // of another task that reads at the same time
        match ready!(poll) {
            Some(read) => Poll::Ready(read),
            None => record.poll_answered(cx).map(|()| {
                record.note_given_eof();
                Ok(0)
            }),
        }
    }
}

impl AsyncRead for &EofOnDrain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, |connection, cx| connection.poll_read(cx, buf))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, |connection, cx| connection.poll_read_vectored(cx, bufs))
    }
}

impl AsyncWrite for &EofOnDrain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.connection).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.connection).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &self.connection).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &self.connection).poll_close(cx)
    }
}

stream_by_value!(EofOnDrain);

impl Drop for EofOnDrain {
    fn drop(&mut self) {
        let mut place = std::mem::take(&mut *lock(&self.place));
        place.give_up(&self.connection.record().draining);
    }
}

impl fmt::Debug for EofOnDrain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EofOnDrain").field("connection", &self.connection).finish_non_exhaustive()
    }
}
