//! Notifies a handler of a drain: [`Connection::more`], `until_draining` and similar methods, and [`Draining`].
//!
//! All of them wait for one event, the record's `draining`. The drain signals it; so does the connection's end, for
//! clones that still wait.

use super::Connection;
use crate::run::phase::Phase;
use crate::run::record::ConnectionRecord;
use crate::sync::event::EventPlace;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// # In a drain
///
/// A handler is notified of a drain, and no request is lost. Bytes that have arrived can still be read. Which
/// method is right depends on how the handler reads:
///
/// | the handler reads | use | in a drain |
/// |---|---|---|
/// | messages, with `read` or `read_exact` | [`more`](Connection::more) before each | false between two messages |
/// | lines, or frames with their length before them | [`lines`](Connection::lines), [`frames`](Connection::frames) | `None` between two; half a line or frame is waited for, except within `until_draining` |
/// | through code that does not handle drains: `io::copy`, a codec | [`eof_on_drain`](Connection::eof_on_drain) | EOF if nothing has arrived and no answer is due |
/// | once, with `read`, or waits for something else | [`until_draining`](Connection::until_draining) | `None`; the future that was pending is dropped |
/// | in a `select` or a `race` of its own | [`draining`](Connection::draining) | it is ready |
/// | HTTP | the module `http` (feature `http`) | requests in progress are answered |
///
/// A newcomer is a connection from which the handler has read no byte yet. Its handler is notified later: by its first
/// read, or at the end of the [newcomer time](crate::Server::newcomer_time). So the first request of a client that has
/// just connected is answered.
///
/// Do not use a `BufReader` for lines. It keeps half a line in its own buffer when its reads end. So
/// `until_draining(reader.read_line(…))` loses that half, and so does a reader of lines over
/// [`eof_on_drain`](Connection::eof_on_drain). Use [`lines`](Connection::lines).
impl Connection {
    /// Returns whether the drain has begun: the server's, or one of this connection alone
    /// ([`Handle::drain_connection`](crate::Handle::drain_connection),
    /// [`Server::max_connection_age`](crate::Server::max_connection_age)).
    ///
    /// While this connection alone drains, the [phase](crate::Handle::phase) of its [`server`](Self::server) is not
    /// [`Phase::Draining`](crate::Phase::Draining) yet.
    ///
    /// A drain is neither EOF nor a cancellation: the connection stays open both ways. A drain asks the handler to end
    /// before [`deadline`](Self::deadline).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// # let server = Server::new(listener).newcomer_time(Duration::ZERO);
    /// # let _client = connector.connect().await?;
    /// let handler = async |conn: Connection| {
    ///     conn.draining().await;
    ///     assert!(conn.is_draining());
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "is_cancelled")]
    #[doc(alias = "CancellationToken")]
    pub fn is_draining(&self) -> bool {
        // The event is also signalled when the connection ends.
        let drains = || self.record.alone().is_some() || self.run().phase() >= Phase::Draining;
        self.record.draining.is_signalled() && drains()
    }

    /// Returns whether a shutdown of the server was requested, or this connection drains.
    #[cfg(feature = "http")]
    pub(crate) fn is_leaving(&self) -> bool {
        self.run().requested.is_signalled() || self.is_draining()
    }

    /// Runs `future` until the drain begins: `None` if the drain has begun and `future` is pending.
    ///
    /// `future` is polled first. So a request that has arrived is still read, even if the drain began long ago: `None`
    /// means that the handler would have to wait for the client. A clone also gets `None` once the handler has
    /// returned. swift-service-lifecycle calls this `cancelWhenGracefulShutdown`.
    ///
    /// Read through a reference: `conn.until_draining((&conn).read(&mut buf))`. With `conn.read(…)` the compiler
    /// reports E0502, since `conn` would be borrowed mutably at the same time.
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
    /// # let mut client = connector.connect().await?;
    /// let handler = async |mut conn: Connection| {
    ///     let mut buf = [0; 1024];
    ///     match conn.until_draining((&conn).read(&mut buf)).await {
    ///         Some(n) => println!("the client has sent {} bytes", n?),
    ///         None => conn.write_all(b"goodbye").await?,
    ///     }
    ///     io::Result::Ok(())
    /// };
    /// server.scope(handler, async |_| {}).await?;
    /// let mut text = String::new();
    /// client.read_to_string(&mut text).await?;
    /// assert_eq!(text, "goodbye");
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    ///
    /// # Cancel safety
    ///
    /// `None` means that `future` was dropped while it waited. What that loses depends on the future:
    ///
    /// - a single `read` loses nothing: it takes bytes only in the poll that returns them;
    /// - `lines.next()` and `frames.next()` lose nothing: half a line or frame is kept. So in a drain this handler
    ///   answers every line that has arrived, and does not wait for the rest of an unfinished one:
    ///   `while let Some(Some(line)) = conn.until_draining(lines.next()).await.transpose()? { … }`;
    /// - `read_exact`, `read_to_end` and `read_line` lose the bytes that they have read so far;
    /// - `write_all` has written a part.
    ///
    /// So wrap a `read`, and keep the bytes in a buffer of your own:
    ///
    /// ```
    /// use async_std::{io, prelude::*};
    /// use ebbtide::Connection;
    ///
    /// /// Returns the next line without its newline; `None` at EOF, or between two lines in a drain.
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
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"one\ntwo\n").await?;
    /// # let handler = async |conn: Connection| {
    /// #     let mut kept = Vec::new();
    /// #     assert_eq!(next_line(&conn, &mut kept).await?.as_deref(), Some(&b"one"[..]));
    /// #     assert_eq!(next_line(&conn, &mut kept).await?.as_deref(), Some(&b"two"[..]));
    /// #     assert_eq!(next_line(&conn, &mut kept).await?, None);
    /// #     io::Result::Ok(())
    /// # };
    /// # let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// # assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "run_until_cancelled")]
    #[doc(alias = "cancelWhenGracefulShutdown")]
    pub fn until_draining<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        self.record.draining.until(future)
    }

    /// Runs `future` until a shutdown of the server is requested: `None` if one was requested and `future` is pending.
    ///
    /// With a [lame duck](crate::Server::lame_duck) the request comes earlier than the drain, while the server still
    /// accepts clients. So a handler can send its goodbye early (`Connection: close`, GOAWAY) and continue. `None` also
    /// follows if this connection drains, or has ended.
    ///
    /// `future` is polled first. Everything else is as in [`until_draining`](Self::until_draining).
    ///
    /// # Cancel safety
    ///
    /// As in [`until_draining`](Self::until_draining).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let server = Server::new(listener).lame_duck(Duration::from_millis(20));
    /// let mut client = connector.connect().await?;
    /// let handler = async |mut conn: Connection| {
    ///     let end = conn.until_shutdown(std::future::pending::<()>()).await;
    ///     assert!(end.is_none()); // the lame duck begins
    ///     conn.write_all(b"please reconnect elsewhere").await
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "GracefulShutdown")]
    pub fn until_shutdown<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        let until = self.record.draining.until(self.run().requested.until(future));
        async { until.await.flatten() }
    }

    /// Returns the time at which the handler is cancelled if it has not ended by itself.
    ///
    /// `None` until a shutdown is requested, or a drain of this connection alone; `None` too if the [grace
    /// period](crate::Server::grace) has no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::{Duration, Instant};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let server = Server::new(listener).grace(Duration::from_secs(2));
    /// # let server = server.newcomer_time(Duration::ZERO);
    /// let handler = async |conn: Connection| {
    ///     conn.draining().await;
    ///     let deadline = conn.deadline().expect("the server drains");
    ///     assert!(deadline <= Instant::now() + Duration::from_secs(2));
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        let own = self.record.alone().map(|alone| alone.deadline);
        [own, self.run().deadline()].into_iter().flatten().min()
    }

    /// Waits for the next message, without consuming a byte: true once bytes have arrived, which the next read returns.
    /// False at EOF, and between two messages once the server drains.
    ///
    /// A handler that calls it before each message answers every request that has arrived, and then ends.
    ///
    /// Reading the rest of a message, for example with `read_exact`, does not end in a drain; the server's
    /// [`deadline`](Self::deadline) bounds it. Only one task at a time may read.
    ///
    /// A small message costs no extra system call: it reads what has arrived, at most 16 KiB, and keeps it for the next
    /// read. After a read of 16 KiB or more it only looks, which is one call more, so that large buffers are filled. A
    /// connection that waits has no buffer.
    ///
    /// # Errors
    ///
    /// The error that a read would return, such as a reset.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Examples
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
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"request").await?;
    /// # let (_, report) = Server::new(listener).scope(echo, async |_| {}).await?;
    /// # let mut text = String::new();
    /// # client.read_to_string(&mut text).await?;
    /// # assert_eq!((text.as_str(), report.completed()), ("request", 1));
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "readable")]
    #[doc(alias = "peek")]
    #[doc(alias = "fill_buf")]
    #[doc(alias = "at_eof")]
    pub fn more(&self) -> impl Future<Output = io::Result<bool>> {
        More { connection: self, place: EventPlace::default() }
    }

    /// Returns a future that is ready once this connection drains: see [`is_draining`](Self::is_draining).
    ///
    /// The future owns what it needs, so it fits into a `select` or a `race`, a struct, or another task. For a clone
    /// that outlives its handler it is ready as well.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped. A loop can poll it by reference.
    ///
    /// # Examples
    ///
    /// A heartbeat that ends with the drain:
    ///
    /// ```
    /// use async_std::{io, prelude::*, task};
    /// use ebbtide::Connection;
    /// use futures_concurrency::prelude::*; // the crate `futures-concurrency`, for `race`
    /// use std::time::Duration;
    ///
    /// async fn heartbeat(mut conn: Connection) -> io::Result<()> {
    ///     let mut draining = conn.draining();
    ///     loop {
    ///         (&mut draining, task::sleep(Duration::from_secs(10))).race().await;
    ///         if conn.is_draining() {
    ///             return conn.write_all(b"goodbye\n").await;
    ///         }
    ///         conn.write_all(b"still here\n").await?;
    ///     }
    /// }
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # Server::new(listener).newcomer_time(Duration::ZERO).scope(heartbeat, async |_| {}).await?;
    /// # let mut text = String::new();
    /// # client.read_to_string(&mut text).await?;
    /// # assert_eq!(text, "goodbye\n");
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "cancelled")]
    #[doc(alias = "CancellationToken")]
    pub fn draining(&self) -> Draining {
        Draining { record: Arc::clone(&self.record), place: EventPlace::default() }
    }
}

/// The future of [`Connection::more`]. By hand, because a handler waits in it most of its life, and an async function
/// is larger.
struct More<'a> {
    connection: &'a Connection,
    /// This future's place among the event's waiters.
    place: EventPlace,
}

impl Future for More<'_> {
    type Output = io::Result<bool>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Self { connection, place } = self.get_mut();
        let arrived = ready!(connection.record.draining.poll_until(cx, place, |cx| connection.poll_arrived(cx)));
        Poll::Ready(arrived.map_or(Ok(false), |arrived| arrived.map(|bytes| bytes > 0)))
    }
}

impl Drop for More<'_> {
    fn drop(&mut self) {
        self.place.give_up(&self.connection.record.draining);
    }
}

/// Future that is ready once a connection drains: see [`Connection::draining`].
///
/// It may be polled again after it was ready, and is then ready again.
///
/// # Cancel safety
///
/// Nothing is lost if it is dropped.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// # use ebbtide::{Connection, Listener, Server};
/// # use std::time::Duration;
/// # let (listener, connector) = Listener::memory();
/// # let server = Server::new(listener).newcomer_time(Duration::ZERO);
/// # let _client = connector.connect().await?;
/// let handler = async |conn: Connection| {
///     let mut draining = conn.draining();
///     (&mut draining).await;
///     draining.await; // ready again
/// };
/// let (_, report) = server.scope(handler, async |_| {}).await?;
/// assert_eq!(report.completed(), 1);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "WaitForCancellationFuture")]
#[must_use = "a future does nothing unless it is awaited; `is_draining` asks without waiting"]
pub struct Draining {
    record: Arc<ConnectionRecord>,
    /// This future's place among the event's waiters.
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
