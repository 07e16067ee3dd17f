//! [`EofOnDrain`]: a view of a connection whose reads return EOF in a drain, for code that does not handle drains.

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
    /// Returns a view of the connection for code that reads until EOF and does not handle drains, such as `io::copy` or
    /// a codec.
    ///
    /// A read of the view returns EOF if three things are true: the drain has begun, no bytes have arrived, and no byte
    /// was read since the last write. So in a drain the code does what it does at the end of input. While a request has
    /// been read in part, or is not yet answered, it continues to read.
    ///
    /// Any byte that is written counts as the answer to all that was read. So with pipelined requests, or with an
    /// answer in parts, reads may return EOF while the rest of the answer is still to be written. Code that then
    /// half-closes, and continues to write what arrives, loses nothing: the two copies of a proxy do so
    /// (`examples/proxy.rs`).
    ///
    /// # When not to use it
    ///
    /// - For code that reads and never writes, such as an upload. Each byte waits for an answer there, so the reads
    ///   never end by themselves. Use [`more`](Self::more).
    /// - For code that writes whatever it reads, such as a feed, if half a message matters. EOF may come in the middle
    ///   of a message.
    /// - For HTTP. The `100 Continue` of HTTP/1.1 counts as an answer, so in a drain EOF cuts the body that follows it.
    ///   Use the module `http` (feature `http`), or [`more`](Self::more) before each request.
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
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"hello").await?;
    /// # let (_, report) = Server::new(listener).scope(echo, async |_| {}).await?;
    /// # let mut text = String::new();
    /// # client.read_to_string(&mut text).await?;
    /// # assert_eq!((text.as_str(), report.completed()), ("hello", 1));
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "copy")]
    #[doc(alias = "copy_bidirectional")]
    pub fn eof_on_drain(&self) -> EofOnDrain {
        EofOnDrain { connection: self.clone(), place: Mutex::default() }
    }
}

/// View of a connection whose reads return EOF in a drain: see [`Connection::eof_on_drain`].
///
/// Like the connection, it is a stream by value and by reference. Only one task at a time may read. Writes and closing
/// are the connection's own; closing half-closes.
///
/// # Cancel safety
///
/// A single read or write loses nothing if its future is dropped, as for the connection.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// # use async_std::{io, prelude::*};
/// # use ebbtide::{Connection, Listener, Server};
/// # use std::time::Duration;
/// # let (listener, connector) = Listener::memory();
/// # let server = Server::new(listener).newcomer_time(Duration::ZERO);
/// # let _client = connector.connect().await?;
/// let handler = async |conn: Connection| {
///     let mut rest = Vec::new();
///     conn.eof_on_drain().read_to_end(&mut rest).await?; // EOF, although the client has not closed
///     assert!(rest.is_empty() && conn.is_draining());
///     io::Result::Ok(())
/// };
/// let (_, report) = server.scope(handler, async |_| {}).await?;
/// assert_eq!(report.completed(), 1);
/// # io::Result::Ok(()) }).unwrap();
/// ```
#[must_use = "`EofOnDrain` does nothing by itself: read from it"]
pub struct EofOnDrain {
    connection: Connection,
    /// The reading task's place among the waiters of the drain's event.
    place: Mutex<EventPlace>,
}

impl EofOnDrain {
    /// Returns the connection itself.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let handler = async |conn: Connection| {
    ///     let stream = conn.eof_on_drain();
    ///     assert_eq!(stream.connection().id(), conn.id());
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(Pin<&mut &Connection>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let (record, mut connection) = (self.connection.record(), &self.connection);
        // Taken out, so that no lock is held during the read: the read of a custom stream is user code.
        let mut place = std::mem::take(&mut *lock(&self.place));
        let poll = record.draining.poll_until(cx, &mut place, |cx| read(Pin::new(&mut connection), cx));
        let mut other = std::mem::replace(&mut *lock(&self.place), place);
        other.give_up(&record.draining); // another task's, if it has read at the same time
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
