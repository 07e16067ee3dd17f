//! [`Frames`]: messages with their length before them.

use super::read_ahead::{Filled, ReadAhead};
use crate::connection::Connection;
use crate::text::explained;
use async_std::io::WriteExt;
use async_std::stream::Stream;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The default of [`Frames::max_len`].
const MAX_LEN: usize = 8 * 1024 * 1024;

/// The default of [`Frames::length_bytes`].
const LENGTH_BYTES: usize = 4;

impl Connection {
    /// Reads and writes the connection in frames: messages with their length before them, as a big-endian number of 4
    /// bytes. In a drain the frames that have arrived are still given, half a frame is waited for, and between two
    /// frames comes the end. (tokio-util's `LengthDelimitedCodec` has the same format.)
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::Connection;
    /// use std::io;
    ///
    /// async fn echo(conn: Connection) -> io::Result<()> {
    ///     let mut frames = conn.frames();
    ///     while let Some(frame) = frames.next().await? {
    ///         frames.write(&frame).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn frames(&self) -> Frames {
        Frames { ahead: ReadAhead::new(self), max_len: MAX_LEN, length_bytes: LENGTH_BYTES }
    }
}

/// Frames of a connection: see [`Connection::frames`]. Also a [`Stream`] of those that are read.
///
/// It reads ahead. Dropped, it pushes back what it has not given, so that whatever reads the connection next finds it.
/// While it lives, nothing else should read; a second `Frames` or [`Lines`](crate::Lines) gives an error.
#[derive(Debug)]
#[must_use = "what it has read ahead is pushed back when it is dropped"]
pub struct Frames {
    ahead: ReadAhead,
    max_len: usize,
    length_bytes: usize,
}

impl Frames {
    /// Sets how many bytes a frame may have, without its length. Default: 8 MiB.
    pub fn max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Sets how many bytes the length has, 1 to 8. Default: 4.
    ///
    /// # Panics
    ///
    /// If it is 0, or more than 8.
    pub fn length_bytes(mut self, bytes: usize) -> Self {
        assert!((1..=8).contains(&bytes), "a length has 1 to 8 bytes, not {bytes}");
        self.length_bytes = bytes;
        self
    }

    /// Returns the connection.
    pub fn connection(&self) -> &Connection {
        self.ahead.connection()
    }

    /// Returns the next frame, without its length; `None` at the peer's end, and between two frames once the server
    /// drains. [`Connection::is_draining`] tells the two apart.
    ///
    /// A frame takes memory as it arrives, and not when its length is announced.
    ///
    /// # Errors
    ///
    /// What a read gives, such as a reset. `UnexpectedEof` if the peer ends in the middle of a frame. `InvalidData` if
    /// a frame is longer than [`max_len`](Self::max_len), after which every call gives that error. `ResourceBusy` while
    /// another `Frames` or [`Lines`](crate::Lines) of the connection lives.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future: half a frame waits for the next call.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Writes a frame: its length, and it.
    ///
    /// # Errors
    ///
    /// What a write gives. `InvalidInput` if the frame is longer than [`max_len`](Self::max_len), or than its length
    /// can say; then nothing was written.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave half a frame written, after which the peer can make sense of nothing: end the
    /// connection then.
    pub async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = frame.len() as u64;
        let fits = self.length_bytes == 8 || length >> (8 * self.length_bytes) == 0;
        if frame.len() > self.max_len || !fits {
            let (max, bytes) = (self.max_len, self.length_bytes);
            let what =
                format!("a frame of {length} bytes does not fit: `max_len` is {max}, its length has {bytes} bytes");
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
                None => 0, // as much as comes
            };
            match ready!(self.ahead.poll_fill(missing, cx))? {
                Filled::More => {}
                Filled::Eof if have > 0 => return Poll::Ready(Err(cut(have, total))),
                Filled::Eof | Filled::Draining | Filled::Ended => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// How many bytes the next frame has, with its length; `None` if that has not come.
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
                let max = self.max_len;
                let what = format!("a frame of {length} bytes is longer than {max}; if that is right, raise `max_len`");
                Err(explained(ErrorKind::InvalidData, what))
            }
        }
    }
}

/// Frames up to this length are copied, so that they and their length are one write.
const JOINED: usize = 64 * 1024;

fn cut(have: usize, total: Option<usize>) -> io::Error {
    let of = total.map_or_else(String::new, |total| format!(" of {total}"));
    let what = format!("the peer has ended in the middle of a frame, after {have}{of} bytes");
    explained(ErrorKind::UnexpectedEof, what)
}

/// Ends where [`next`](Frames::next) returns `None`. The errors are those of `next`.
impl Stream for Frames {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Vec<u8>>>> {
        self.poll_frame(cx).map(io::Result::transpose)
    }
}
