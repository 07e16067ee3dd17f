//! What a reader of messages has read and not handed out yet.

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

/// How many bytes are read at once at most.
const LONGEST_READ: usize = 256 * 1024;

/// Bytes that were read from a connection ahead of the messages in them; as a slice, those that are there.
///
/// Dropped, it pushes them back, so that whatever reads next finds them.
pub(super) struct ReadAhead {
    connection: Connection,
    bytes: Vec<u8>,
    /// Those before it were handed out.
    start: usize,
    place: EventPlace,
    budget: Budget,
    /// False: another reader has read ahead already, and this one must not read.
    claimed: bool,
}

/// Why a read has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// There are more bytes.
    More,
    /// The peer's end.
    Eof,
    /// The server drains, and no message has begun.
    Draining,
    /// The handler has returned, and no clone reads any more: not the peer's end.
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

    /// Reads more; `wanted` is how much is missing, as far as that is known.
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

    /// What has come is no message: the peer's fault, should the handler end by this error.
    pub(super) fn note_bad_input(&self, error: io::Error) -> io::Error {
        self.connection.record().note_given(error.kind(), EndReason::BadInput);
        error
    }

    /// To be asked before each message that is handed out without a read: so many in a row, and other tasks get their
    /// turn.
    pub(super) fn poll_budget(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.budget.is_spent() {
            return self.budget.yield_now(cx);
        }
        self.budget.spend();
        Poll::Ready(())
    }

    /// Hands out the first `n`. The room is given back with the last of them: an idle connection has no buffer.
    pub(super) fn take<T>(&mut self, n: usize, hand_out: impl FnOnce(&[u8]) -> T) -> T {
        let end = self.start + n;
        let taken = hand_out(&self.bytes[self.start..end]);
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
        // Into its place at once, with room for as much as has come already: what a peer announces is not believed.
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
