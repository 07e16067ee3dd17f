//! [`Frames`]: messages with their length before them. In a drain they end between two frames.

use super::read_ahead::{Filled, ReadAhead};
use crate::connection::Connection;
use crate::text::{explained, plural};
use futures_core::Stream;
use futures_lite::AsyncWriteExt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The default of [`Frames::max_len`].
const MAX_LEN: usize = 8 * 1024 * 1024;

/// The default of [`Frames::length_bytes`].
const LENGTH_BYTES: usize = 4;

impl Connection {
    /// Returns a reader and writer of frames: messages with their length before them, a big-endian number of 4 bytes.
    ///
    /// tokio-util's `LengthDelimitedCodec` has the same format. In a drain it still returns the frames that have
    /// arrived, waits for the rest of half a frame, and ends between two frames.
    ///
    /// # Examples
    ///
    /// ```
    /// use async_std::io;
    /// use ebbtide::Connection;
    ///
    /// async fn echo(conn: Connection) -> io::Result<()> {
    ///     let mut frames = conn.frames();
    ///     while let Some(frame) = frames.next().await? {
    ///         frames.write(&frame).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"\0\0\0\x05hello").await?;
    /// # Server::new(listener).scope(echo, async |_| {}).await?;
    /// # let mut bytes = Vec::new();
    /// # client.read_to_end(&mut bytes).await?;
    /// # assert_eq!(bytes, b"\0\0\0\x05hello");
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "Framed")]
    #[doc(alias = "LengthDelimitedCodec")]
    #[doc(alias = "readexactly")]
    pub fn frames(&self) -> Frames {
        Frames { ahead: ReadAhead::new(self), max_len: MAX_LEN, length_bytes: LENGTH_BYTES }
    }
}

/// Reader and writer of a connection's frames: see [`Connection::frames`].
///
/// It is also a [`Stream`] of the frames that are read.
///
/// It reads ahead. Its drop pushes back the bytes that it has not returned, and the connection's next read finds them.
/// While a `Frames` lives, nothing else should read; a second `Frames` or [`Lines`](crate::Lines) returns an error.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// # use async_std::{io, prelude::*};
/// # use ebbtide::{Connection, Listener, Server};
/// # let (listener, connector) = Listener::memory();
/// # let mut client = connector.connect().await?;
/// client.write_all(b"\0\0\0\x05hello").await?;
/// let handler = async |conn: Connection| {
///     let frame = conn.frames().next().await?;
///     assert_eq!(frame.as_deref(), Some(&b"hello"[..]));
///     io::Result::Ok(())
/// };
/// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
/// assert_eq!(report.completed(), 1);
/// # io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "Framed")]
#[doc(alias = "LengthDelimitedCodec")]
#[derive(Debug)]
#[must_use = "`Frames` does nothing by itself: await its `next` or `write`"]
pub struct Frames {
    ahead: ReadAhead,
    /// The greatest length of a frame, without its length field.
    max_len: usize,
    /// How many bytes the length field has.
    length_bytes: usize,
}

impl Frames {
    /// Sets how many bytes a frame may have, without its length. Default: 8 MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// client.write_all(b"\0\0\0\x05hello").await?;
    /// let handler = async |conn: Connection| {
    ///     let error = conn.frames().max_len(4).next().await.expect_err("the frame has 5 bytes");
    ///     assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "max_frame_length")]
    pub fn max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Sets how many bytes the length has, 1 to 8. Default: 4.
    ///
    /// # Panics
    ///
    /// If it is 0, or more than 8.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// client.write_all(b"\0\x05hello").await?;
    /// let handler = async |conn: Connection| {
    ///     let frame = conn.frames().length_bytes(2).next().await?;
    ///     assert_eq!(frame.as_deref(), Some(&b"hello"[..]));
    ///     io::Result::Ok(())
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "length_field_length")]
    pub fn length_bytes(mut self, bytes: usize) -> Self {
        assert!((1..=8).contains(&bytes), "a length has 1 to 8 bytes, not {bytes}");
        self.length_bytes = bytes;
        self
    }

    /// Returns the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let handler = async |conn: Connection| {
    ///     let frames = conn.frames();
    ///     assert_eq!(frames.connection().id(), conn.id());
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn connection(&self) -> &Connection {
        self.ahead.connection()
    }

    /// Returns the next frame, without its length; `None` at EOF, and between two frames once the server drains.
    ///
    /// [`Connection::is_draining`] distinguishes the two. Memory is allocated as a frame's bytes arrive, not when its
    /// length is announced.
    ///
    /// # Errors
    ///
    /// | kind | cause | the next call |
    /// |---|---|---|
    /// | `UnexpectedEof` | EOF in the middle of a frame | returns this error again |
    /// | `InvalidData` | the frame is longer than [`max_len`](Self::max_len) | returns this error again |
    /// | `ResourceBusy` | another `Frames` or [`Lines`](crate::Lines) of the connection lives | returns this error again: drop the other, and create a new one |
    /// | others | the read failed, for example with a reset | |
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped: half a frame is kept for the next call.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// client.write_all(b"\0\0\0\x05hello\0\0\0\0").await?;
    /// client.close().await?;
    /// let handler = async |conn: Connection| {
    ///     let mut frames = conn.frames();
    ///     assert_eq!(frames.next().await?.as_deref(), Some(&b"hello"[..]));
    ///     assert_eq!(frames.next().await?.as_deref(), Some(&b""[..]));
    ///     assert_eq!(frames.next().await?, None);
    ///     io::Result::Ok(())
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "read_frame")]
    #[doc(alias = "read_exact")]
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Writes a frame: its length, then its bytes.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the frame is longer than [`max_len`](Self::max_len), or too long for its length field; then
    /// nothing was written. Otherwise the error of the write.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: if the future is dropped, a part of the frame may have been written, and the peer cannot find
    /// the beginning of the next one. End the connection then.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// let handler = async |conn: Connection| conn.frames().write(b"hello").await;
    /// Server::new(listener).scope(handler, async |_| {}).await?;
    /// let mut bytes = Vec::new();
    /// client.read_to_end(&mut bytes).await?;
    /// assert_eq!(bytes, b"\0\0\0\x05hello");
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "send")]
    #[doc(alias = "write_frame")]
    pub async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = frame.len() as u64;
        let fits = self.length_bytes == 8 || length >> (8 * self.length_bytes) == 0;
        if frame.len() > self.max_len || !fits {
            let (max, length, bytes) = (self.max_len, plural(length, "byte"), plural(self.length_bytes, "byte"));
            let what = format!("a frame of {length} does not fit: `max_len` is {max}, its length has {bytes}");
            return Err(explained(ErrorKind::InvalidInput, what));
        }
        let header = &length.to_be_bytes()[8 - self.length_bytes..];
        let mut connection = self.ahead.connection();
        if frame.len() <= JOINED {
            return connection.write_all(&[header, frame].concat()).await;
        }
        connection.write_all(header).await?;
        connection.write_all(frame).await
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        loop {
            let (have, total) = (self.ahead.len(), self.total().map_err(|error| self.ahead.note_bad_input(error))?);
            let missing = match total {
                Some(total) if have >= total => {
                    ready!(self.ahead.poll_budget(cx));
                    let frame = self.ahead.take(total, |bytes| bytes[self.length_bytes..].to_vec());
                    return Poll::Ready(Ok(Some(frame)));
                }
                Some(total) => total - have,
                None => 0, // unknown: read what has arrived
            };
            match ready!(self.ahead.poll_fill(missing, cx))? {
                Filled::More => {}
                Filled::Eof if have > 0 => return Poll::Ready(Err(cut(have, total))),
                Filled::Eof | Filled::Draining | Filled::Ended => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Returns how many bytes the next frame has, with its length field; `None` if that field has not arrived.
    fn total(&self) -> io::Result<Option<usize>> {
        let Some(header) = self.ahead.get(..self.length_bytes) else {
            return Ok(None);
        };
        let length = header.iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
        match usize::try_from(length) {
            Ok(length) if length <= self.max_len.min(usize::MAX - self.length_bytes) => {
                Ok(Some(self.length_bytes + length))
            }
            _ => {
                let (max, length) = (self.max_len, plural(length, "byte"));
                let what = format!("a frame of {length} is longer than {max}; if that is right, raise `max_len`");
                Err(explained(ErrorKind::InvalidData, what))
            }
        }
    }
}

/// The longest frame that is copied behind its length, so that both are one write.
const JOINED: usize = 64 * 1024;

/// Makes the error for EOF in the middle of a frame.
fn cut(have: usize, total: Option<usize>) -> io::Error {
    let read = match total {
        Some(total) => format!("{have} of {}", plural(total, "byte")),
        None => plural(have, "byte"),
    };
    let what = format!("unexpected EOF in the middle of a frame, after {read}");
    explained(ErrorKind::UnexpectedEof, what)
}

/// The stream ends when [`next`](Frames::next) returns `None`. Its errors are those of `next`.
impl Stream for Frames {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Vec<u8>>>> {
        self.poll_frame(cx).map(io::Result::transpose)
    }
}
