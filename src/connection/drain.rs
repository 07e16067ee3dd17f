//! What a handler is told of a drain, and reads that end with it.

use super::Connection;
use crate::run::phase::Phase;
use crate::run::record::ConnectionRecord;
use crate::sync::event::EventPlace;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// # In a drain
///
/// The notice costs no client its request: what has arrived is still read. Which of these is right depends on what
/// reads.
///
/// | the handler reads | use | in a drain |
/// |---|---|---|
/// | messages, with `read` or `read_exact` | [`more`](Connection::more) before each | false between two messages |
/// | lines, or frames with their length before them | [`lines`](Connection::lines), [`frames`](Connection::frames) | `None` between two; half a line or frame is waited for |
/// | through code that knows nothing of drains: `io::copy`, an HTTP or WebSocket library, a codec | [`eof_on_drain`](Connection::eof_on_drain) | EOF where nothing has arrived and no answer is due |
/// | one `read`, or waits for something else | [`until_draining`](Connection::until_draining) | `None`, and what it waited in is dropped |
/// | in a `select` or a `race` of its own | [`draining`](Connection::draining) | it is ready |
///
/// A [`BufReader`](async_std::io::BufReader) keeps half a line of its own when its reads end, so
/// `until_draining(reader.read_line(…))` loses it, and so does a reader of lines over
/// [`eof_on_drain`](Connection::eof_on_drain) if half a line has come: use [`lines`](Connection::lines).
impl Connection {
    /// Returns whether the drain has begun: the server's, or one of this connection alone
    /// ([`Handle::drain_connection`](crate::Handle::drain_connection),
    /// [`Server::max_connection_age`](crate::Server::max_connection_age)).
    ///
    /// The connection stays open both ways: the drain is neither an end of input nor a cancellation, but a request to
    /// come to an end before [`deadline`](Self::deadline).
    pub fn is_draining(&self) -> bool {
        // The event is given to a connection that has ended, too.
        let drains = || self.record.alone().is_some() || self.run().phase() >= Phase::Draining;
        self.record.draining.is_signalled() && drains()
    }

    /// Runs `future` until the drain begins: `None` where it is pending and the drain has begun.
    ///
    /// A clone gets `None` as well once the handler has returned.
    ///
    /// The future is polled first. So a request that has arrived is still read, even if the drain began long ago; only
    /// where the handler would have to wait for the client does it get `None`. This is what swift-service-lifecycle
    /// calls `cancelWhenGracefulShutdown`.
    ///
    /// Read through a reference: `conn.until_draining((&conn).read(&mut buf))`. `conn.read(…)` would borrow `conn`
    /// mutably at the same time, which the compiler refuses (E0502).
    ///
    /// # Cancel safety
    ///
    /// `None` means that `future` has been dropped where it waited. A single `read` loses nothing by that: it waits
    /// before it takes. `read_exact`, `read_to_end` and `read_line` do lose what they had read so far, and `write_all`
    /// has written a part; do not wrap those. Wrap the read, and keep the rest in a buffer of your own:
    ///
    /// ```
    /// use async_std::{io, prelude::*};
    /// use ebbtide::Connection;
    ///
    /// /// The next line without its end; `None` at the end of input, or between two lines of a drain.
    /// async fn next_line(conn: &Connection, kept: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    ///     let mut chunk = [0; 1024];
    ///     loop {
    ///         if let Some(end) = kept.iter().position(|&byte| byte == b'\n') {
    ///             let line: Vec<u8> = kept.drain(..=end).collect();
    ///             return Ok(Some(line[..end].to_vec()));
    ///         }
    ///         let mut reader = conn;
    ///         let n = match conn.until_draining(reader.read(&mut chunk)).await {
    ///             Some(n) => n?,
    ///             None if kept.is_empty() => return Ok(None),
    ///             None => reader.read(&mut chunk).await?, // half a line is there: let the client finish it
    ///         };
    ///         if n == 0 {
    ///             return Ok(None);
    ///         }
    ///         kept.extend_from_slice(&chunk[..n]);
    ///     }
    /// }
    /// ```
    pub fn until_draining<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        self.record.draining.until(future)
    }

    /// Runs `future` until a shutdown of the server is requested: `None` where it is pending and one was, or where this
    /// connection drains, or has ended. With a [lame duck](crate::Server::lame_duck) that comes before the drain, while
    /// clients are still accepted: so a handler can say goodbye early (`Connection: close`, GOAWAY) and go on.
    ///
    /// The future is polled first. What is said of [`until_draining`](Self::until_draining) goes for it, too.
    pub fn until_shutdown<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        let until = self.record.draining.until(self.run().requested.until(future));
        async { until.await.flatten() }
    }

    /// Returns when the handler is cancelled if it has not ended by itself. `None` until a shutdown is requested, or a
    /// drain of this connection alone, and if the grace period has no limit.
    pub fn deadline(&self) -> Option<Instant> {
        let own = self.record.alone().map(|alone| alone.deadline);
        [own, self.run().deadline()].into_iter().flatten().min()
    }

    /// Waits for the next message, without taking a byte: true once bytes have arrived, which the next read finds.
    /// False at the peer's end, and between two messages once the server drains. So a handler that asks before each
    /// message answers every request that has arrived, and then ends:
    ///
    /// ```
    /// use async_std::{io, prelude::*};
    /// use ebbtide::Connection;
    ///
    /// async fn echo(mut conn: Connection) -> io::Result<()> {
    ///     let mut buf = vec![0; 1024];
    ///     while conn.more().await? {
    ///         let n = conn.read(&mut buf).await?;
    ///         conn.write_all(&buf[..n]).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// Reading the rest of a message, with `read_exact` and the like, does not end in a drain; the server's
    /// [`deadline`](Self::deadline) bounds it. One task at a time reads.
    ///
    /// It costs no system call: what has arrived is read, and kept for the next read, at most 16 KiB. A connection that
    /// waits has no buffer.
    ///
    /// # Errors
    ///
    /// What a read would give, such as a reset.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future.
    pub async fn more(&self) -> io::Result<bool> {
        let arrived = self.until_draining(poll_fn(|cx| self.poll_arrived(cx))).await;
        arrived.map_or(Ok(false), |arrived| arrived.map(|bytes| bytes > 0))
    }

    /// Returns a future that is ready once the drain has begun, for this connection: see
    /// [`is_draining`](Self::is_draining). It owns what it needs, so it fits into a `select` or a `race`, a struct, or
    /// another task.
    ///
    /// A clone that outlives its handler finds it ready as well.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping it, or by polling a reference to it.
    ///
    /// # Examples
    ///
    /// A heartbeat that ends with the drain:
    ///
    /// ```
    /// use async_std::{prelude::*, task};
    /// use ebbtide::Connection;
    /// use futures_concurrency::prelude::*; // the crate `futures-concurrency`, for `race`
    /// use std::time::Duration;
    ///
    /// async fn heartbeat(mut conn: Connection) -> std::io::Result<()> {
    ///     let mut draining = conn.draining();
    ///     loop {
    ///         (&mut draining, task::sleep(Duration::from_secs(10))).race().await;
    ///         if conn.is_draining() {
    ///             return Ok(());
    ///         }
    ///         conn.write_all(b"still here\n").await?;
    ///     }
    /// }
    /// ```
    pub fn draining(&self) -> Draining {
        Draining { record: Arc::clone(&self.record), place: EventPlace::default() }
    }
}

/// Future of a connection's drain: see [`Connection::draining`].
///
/// Polled again after it was ready, it is ready again.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Draining {
    record: Arc<ConnectionRecord>,
    place: EventPlace,
}

impl Future for Draining {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.place.poll(&this.record.draining, cx)
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.place.give_up(&self.record.draining);
    }
}

impl fmt::Debug for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining").field("connection", &self.record.id).finish_non_exhaustive()
    }
}
