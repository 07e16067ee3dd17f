//! [`Lines`]: a connection read line by line. In a drain it ends between two lines.

use super::read_ahead::{Filled, ReadAhead};
use crate::connection::Connection;
use crate::text::{explained, plural};
use futures_core::Stream;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The default of [`Lines::max_len`].
const MAX_LEN: usize = 64 * 1024;

impl Connection {
    /// Returns a reader of lines.
    ///
    /// In a drain it still returns the lines that have arrived, waits for the rest of half a line, and ends between two
    /// lines. A client that stops in the middle of a line holds the drain until the end of the grace period, and is
    /// then cancelled. To say goodbye instead, write `conn.until_draining(lines.next())`: it drops only the unfinished
    /// line.
    ///
    /// EOF ends the last line like a newline. So a client that vanishes after `delete fo` has sent the line `delete
    /// fo`. If half a line may do harm, use [`require_newline`](Lines::require_newline).
    ///
    /// # Examples
    ///
    /// ```
    /// use async_std::{io, prelude::*};
    /// use ebbtide::Connection;
    ///
    /// async fn shout(mut conn: Connection) -> io::Result<()> {
    ///     let mut lines = conn.lines();
    ///     while let Some(line) = lines.next().await? {
    ///         conn.write_all(format!("{}\n", line.to_uppercase()).as_bytes()).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"hello\r\nworld\n").await?;
    /// # Server::new(listener).scope(shout, async |_| {}).await?;
    /// # let mut text = String::new();
    /// # client.read_to_string(&mut text).await?;
    /// # assert_eq!(text, "HELLO\nWORLD\n");
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "readline")]
    #[doc(alias = "read_line")]
    #[doc(alias = "BufReader")]
    #[doc(alias = "Scanner")]
    #[doc(alias = "LinesCodec")]
    pub fn lines(&self) -> Lines {
        Lines { ahead: ReadAhead::new(self), max_len: MAX_LEN, requires_newline: false, searched: 0 }
    }
}

/// Reader of a connection's lines: see [`Connection::lines`].
///
/// It is also a [`Stream`] of lines, for combinators such as `merge`.
///
/// It reads ahead. Its drop pushes back the bytes that it has not returned, and the connection's next read finds them.
/// So a protocol may begin with lines and continue with something else. While a `Lines` lives, nothing else should
/// read; a second `Lines` or [`Frames`](crate::Frames) returns an error.
///
/// # Examples
///
/// A line, and then bytes:
///
/// ```
/// # async_std::task::block_on(async {
/// # use async_std::{io, prelude::*};
/// # use ebbtide::{Connection, Listener, Server};
/// # let (listener, connector) = Listener::memory();
/// # let mut client = connector.connect().await?;
/// client.write_all(b"LENGTH 5\nhello").await?;
/// let handler = async |mut conn: Connection| {
///     let length = conn.lines().next().await?;
///     assert_eq!(length.as_deref(), Some("LENGTH 5"));
///     let mut body = [0; 5];
///     conn.read_exact(&mut body).await?;
///     assert_eq!(&body, b"hello");
///     io::Result::Ok(())
/// };
/// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
/// assert_eq!(report.completed(), 1);
/// # io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "`Lines` does nothing by itself: await its `next`"]
pub struct Lines {
    ahead: ReadAhead,
    max_len: usize,
    /// EOF in the middle of a line is an error.
    requires_newline: bool,
    /// How many of the first bytes in `ahead` were searched and have no newline.
    searched: usize,
}

impl Lines {
    /// Sets how many bytes a line may have, without its end. Default: 64 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// client.write_all(b"a long line\n").await?;
    /// let handler = async |conn: Connection| {
    ///     let mut lines = conn.lines().max_len(5);
    ///     let error = lines.next().await.expect_err("the line has 11 bytes");
    ///     assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "new_with_max_length")]
    pub fn max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Makes EOF in the middle of a line an error of the kind `UnexpectedEof`. Default: EOF ends the last line.
    ///
    /// Without it, the first part of a line counts as a whole line if the client vanishes there. A handler that returns
    /// the error is counted as [`disconnected`](crate::Report::disconnected), because the client is at fault.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// client.write_all(b"list\ndelete fo").await?;
    /// client.close().await?;
    /// let handler = async |conn: Connection| {
    ///     let mut lines = conn.lines().require_newline();
    ///     assert_eq!(lines.next().await?.as_deref(), Some("list"));
    ///     let error = lines.next().await.expect_err("the line has no newline");
    ///     assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    ///     Err::<(), _>(error)
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.disconnected(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "readuntil")]
    #[doc(alias = "IncompleteReadError")]
    pub fn require_newline(mut self) -> Self {
        self.requires_newline = true;
        self
    }

    /// Returns the connection, for example to write to it.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Lines, Listener, Server};
    /// async fn greet(lines: &Lines) -> io::Result<()> {
    ///     let mut conn = lines.connection();
    ///     conn.write_all(b"hello").await
    /// }
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// let handler = async |conn: Connection| greet(&conn.lines()).await;
    /// # Server::new(listener).scope(handler, async |_| {}).await?;
    /// # let mut text = String::new();
    /// # client.read_to_string(&mut text).await?;
    /// # assert_eq!(text, "hello");
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn connection(&self) -> &Connection {
        self.ahead.connection()
    }

    /// Returns the next line, without its `\n` or `\r\n`; `None` at EOF, and between two lines once the server drains.
    ///
    /// [`Connection::is_draining`] distinguishes the two. The last line before EOF may lack its newline: it may be a
    /// line that the client has not finished. [`require_newline`](Self::require_newline) makes that an error.
    ///
    /// # Errors
    ///
    /// | kind | cause | the next call |
    /// |---|---|---|
    /// | `UnexpectedEof` | EOF in the middle of a line, with [`require_newline`](Self::require_newline) | returns this error again |
    /// | `InvalidData` | the line is not UTF-8 | returns the next line |
    /// | `InvalidData` | the line is longer than [`max_len`](Self::max_len) | returns this error again |
    /// | `ResourceBusy` | another `Lines` or [`Frames`](crate::Frames) of the connection lives | returns this error again: drop the other, and create a new one |
    /// | others | the read failed, for example with a reset | |
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped: half a line is kept for the next call.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// client.write_all(b"one\r\ntwo").await?;
    /// client.close().await?;
    /// let handler = async |conn: Connection| {
    ///     let mut lines = conn.lines();
    ///     assert_eq!(lines.next().await?.as_deref(), Some("one"));
    ///     assert_eq!(lines.next().await?.as_deref(), Some("two"));
    ///     assert_eq!(lines.next().await?, None);
    ///     io::Result::Ok(())
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "next_line")]
    #[doc(alias = "read_line")]
    #[doc(alias = "readline")]
    pub async fn next(&mut self) -> io::Result<Option<String>> {
        poll_fn(|cx| self.poll_line(cx)).await
    }

    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<String>>> {
        loop {
            let newline = self.ahead[self.searched..].iter().position(|&byte| byte == b'\n');
            if let Some(length) = newline.map(|at| self.searched + at) {
                ready!(self.ahead.poll_budget(cx));
                return Poll::Ready(self.take_line(length, length + 1).map(Some));
            }
            self.searched = self.ahead.len();
            // One byte more is allowed: it may be the carriage return of `\r\n`.
            if self.searched.saturating_sub(1) > self.max_len {
                return Poll::Ready(Err(self.too_long()));
            }
            match ready!(self.ahead.poll_fill(0, cx))? {
                Filled::More => {}
                Filled::Eof if self.searched > 0 && self.requires_newline => {
                    return Poll::Ready(Err(cut(self.searched)));
                }
                Filled::Eof if self.searched > 0 => {
                    return Poll::Ready(self.take_line(self.searched, self.searched).map(Some));
                }
                Filled::Eof | Filled::Draining | Filled::Ended => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Takes a line of `length` bytes, which has `with_end` bytes together with its newline.
    fn take_line(&mut self, length: usize, with_end: usize) -> io::Result<String> {
        let ends_in_return = with_end > length && self.ahead[..length].ends_with(b"\r");
        let length = length - usize::from(ends_in_return);
        if length > self.max_len {
            return Err(self.too_long());
        }
        self.searched = 0;
        let line = self.ahead.take(with_end, |bytes| match std::str::from_utf8(&bytes[..length]) {
            Ok(line) => Ok(line.to_owned()),
            Err(error) => {
                let (length, from) = (plural(length, "byte"), error.valid_up_to());
                let what = format!("a line of {length} is not UTF-8 from byte {from} on");
                Err(explained(ErrorKind::InvalidData, what))
            }
        });
        line.map_err(|error| self.ahead.note_bad_input(error))
    }

    fn too_long(&self) -> io::Error {
        let what = format!("a line is longer than {}; if that is right, raise `max_len`", plural(self.max_len, "byte"));
        self.ahead.note_bad_input(explained(ErrorKind::InvalidData, what))
    }
}

/// Makes the error for EOF in the middle of a line.
fn cut(have: usize) -> io::Error {
    let have = plural(have, "byte");
    explained(ErrorKind::UnexpectedEof, format!("unexpected EOF in the middle of a line, after {have}"))
}

/// The stream ends when [`next`](Lines::next) returns `None`. Its errors are those of `next`.
impl Stream for Lines {
    type Item = io::Result<String>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<String>>> {
        self.poll_line(cx).map(io::Result::transpose)
    }
}
