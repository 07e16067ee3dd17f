//! [`Lines`]: a connection read line by line.

use super::read_ahead::{Filled, ReadAhead};
use crate::connection::Connection;
use crate::text::explained;
use async_std::stream::Stream;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The default of [`Lines::max_len`].
const MAX_LEN: usize = 64 * 1024;

impl Connection {
    /// Reads the connection line by line. In a drain the lines that have arrived are still given, half a line is waited
    /// for, and between two lines comes the end.
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
    /// ```
    pub fn lines(&self) -> Lines {
        Lines { ahead: ReadAhead::new(self), max_len: MAX_LEN, searched: 0 }
    }
}

/// Lines of a connection: see [`Connection::lines`]. Also a [`Stream`], for `merge` and the like.
///
/// It reads ahead. Dropped, it pushes back what it has not given, so that whatever reads the connection next finds it:
/// a protocol may begin with lines and go on with something else. While it lives, nothing else should read; a second
/// `Lines` or [`Frames`](crate::Frames) gives an error.
#[derive(Debug)]
#[must_use = "what it has read ahead is pushed back when it is dropped"]
pub struct Lines {
    ahead: ReadAhead,
    max_len: usize,
    /// How many of the bytes that were read ahead have no newline in them.
    searched: usize,
}

impl Lines {
    /// Sets how many bytes a line may have, without its end. Default: 64 KiB.
    pub fn max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Returns the connection.
    pub fn connection(&self) -> &Connection {
        self.ahead.connection()
    }

    /// Returns the next line, without its `\n` or `\r\n`; `None` at the peer's end, and between two lines once the
    /// server drains. [`Connection::is_draining`] tells the two apart. The last line may have no end.
    ///
    /// # Errors
    ///
    /// What a read gives, such as a reset. `InvalidData` if a line is not UTF-8, after which the next one can be read;
    /// and if it is longer than [`max_len`](Self::max_len), after which every call gives that error. `ResourceBusy`
    /// while another `Lines` or [`Frames`](crate::Frames) of the connection lives.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future: half a line waits for the next call.
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
            // The one more may be a carriage return.
            if self.searched.saturating_sub(1) > self.max_len {
                return Poll::Ready(Err(self.too_long()));
            }
            match ready!(self.ahead.poll_fill(0, cx))? {
                Filled::More => {}
                Filled::Eof if self.searched > 0 => {
                    return Poll::Ready(self.take_line(self.searched, self.searched).map(Some));
                }
                Filled::Eof | Filled::Draining | Filled::Ended => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// The line has `length` bytes, and `with_end` together with its newline.
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
                let what = format!("a line of {length} bytes is not UTF-8 from byte {} on", error.valid_up_to());
                Err(explained(ErrorKind::InvalidData, what))
            }
        });
        line.map_err(|error| self.ahead.note_bad_input(error))
    }

    fn too_long(&self) -> io::Error {
        let what = format!("a line is longer than {} bytes; if that is right, raise `max_len`", self.max_len);
        self.ahead.note_bad_input(explained(ErrorKind::InvalidData, what))
    }
}

/// Ends where [`next`](Lines::next) returns `None`. The errors are those of `next`.
impl Stream for Lines {
    type Item = io::Result<String>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<String>>> {
        self.poll_line(cx).map(io::Result::transpose)
    }
}
