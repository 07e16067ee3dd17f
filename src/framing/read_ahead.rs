//! [`ReadAhead`]: the buffer of [`Lines`](super::Lines) and [`Frames`](super::Frames), for bytes that were read and are
//! not yet returned in a message.

use crate::connection::Connection;
use crate::run::end_reason::EndReason;
use crate::sync::coop::Budget;
use crate::sync::event::EventPlace;
use crate::text::explained;
use crate::transport::with_scratch;
use futures_io::AsyncRead;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The most bytes that one read asks for.
const LONGEST_READ: usize = 256 * 1024;

/// Bytes that were read from a connection ahead of the messages in them. It derefs to these bytes.
///
/// Its drop pushes them back, so that the connection's next read finds them.
pub(super) struct ReadAhead {
    connection: Connection,
    bytes: Vec<u8>,
    /// Index into `bytes`: those before it were returned.
    start: usize,
    /// The place among the waiters of the drain's event.
    place: EventPlace,
    /// For messages that are returned without a read.
    budget: Budget,
    /// False: another reader of the connection reads ahead, and this one must not read.
    claimed: bool,
}

/// How a read has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// More bytes have arrived.
    More,
    /// EOF of the peer.
    Eof,
    /// The connection drains, and no message has begun.
    Draining,
    /// EOF, because the handler has returned. It is not the peer's EOF.
    Ended,
}

impl ReadAhead {
    pub(super) fn new(connection: &Connection) -> Self {
        Self {
            claimed: connection.record().claim_framing(),
            connection: connection.clone(),
            bytes: Vec::new(),
            start: 0,
            place: EventPlace::default(),
            budget: Budget::default(),
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Reads more. `wanted` is how many bytes are missing, 0 if that is unknown.
    pub(super) fn poll_fill(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        if !self.claimed {
            let what = "another `Lines` or `Frames` of this connection has read ahead; drop it first";
            return Poll::Ready(Err(explained(ErrorKind::ResourceBusy, what)));
        }
        self.bytes.drain(..std::mem::take(&mut self.start));
        let Self { connection, bytes, place, .. } = self;
        let (connection, has_begun) = (&*connection, !bytes.is_empty());
        let mut read = |cx: &mut Context<'_>| poll_read(connection, bytes, wanted, cx);
        let filled = match has_begun {
            true => Some(ready!(read(cx))),
            false => ready!(connection.record().draining.poll_until(cx, place, read)),
        };
        Poll::Ready(match filled {
            None => Ok(Filled::Draining),
            Some(Ok(0)) if connection.record().has_returned() && !connection.record().saw_eof() => Ok(Filled::Ended),
            Some(Ok(0)) => Ok(Filled::Eof),
            Some(Ok(_)) => Ok(Filled::More),
            Some(Err(error)) => Err(error),
        })
    }

    /// Notes that what has arrived is not a message. If the handler returns this error, the peer is at fault.
    pub(super) fn note_bad_input(&self, error: io::Error) -> io::Error {
        self.connection.record().note_given(error.kind(), EndReason::BadInput);
        error
    }

    /// Spends one unit of the cooperative budget, or yields if it is spent. Called before each message that is returned
    /// without a read.
    pub(super) fn poll_budget(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.budget.is_spent() {
            return self.budget.yield_now(cx);
        }
        self.budget.spend();
        Poll::Ready(())
    }

    /// Takes the first `n` bytes. With the last byte the buffer is freed: an idle connection has none.
    pub(super) fn take<T>(&mut self, n: usize, make: impl FnOnce(&[u8]) -> T) -> T {
        let end = self.start + n;
        let taken = make(&self.bytes[self.start..end]);
        self.start = end;
        if self.start == self.bytes.len() {
            (self.bytes, self.start) = (Vec::new(), 0);
        }
        taken
    }
}

fn poll_read(
    mut connection: &Connection,
    bytes: &mut Vec<u8>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    with_scratch(|scratch| {
        let connection = Pin::new(&mut connection);
        if wanted <= scratch.len() {
            let n = ready!(connection.poll_read(cx, scratch))?;
            bytes.extend_from_slice(&scratch[..n]);
            return Poll::Ready(Ok(n));
        }
        // Reads straight into the buffer. It grows by at most as much as has arrived already (at least the scratch
        // buffer's size): an announced length is not trusted.
        let len = bytes.len();
        bytes.resize(len + wanted.min(len.clamp(scratch.len(), LONGEST_READ)), 0);
        let poll = connection.poll_read(cx, &mut bytes[len..]);
        let n = if let Poll::Ready(Ok(n)) = poll { n } else { 0 };
        bytes.truncate(len + n);
        poll
    })
}

impl Deref for ReadAhead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        let record = self.connection.record();
        self.place.give_up(&record.draining);
        if self.claimed {
            record.transport.push_back(&self.bytes[self.start..]);
            record.release_framing();
        }
    }
}

impl fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadAhead").field("connection", &self.connection.id()).field("bytes", &self.len()).finish()
    }
}
