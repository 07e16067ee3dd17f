//! [`Io`], [`Timer`] and [`Executor`]: what hyper needs from a runtime, for programs that call hyper directly.

use super::progress::{InProgress, Progress};
use crate::connection::Connection;
use crate::transport::with_scratch;
use futures_io::{AsyncRead, AsyncWrite};
use hyper::rt::{Read, ReadBufCursor, Sleep, Write};
use pin_project_lite::pin_project;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Adapter of a [`Connection`] for hyper: implements hyper's `Read` and `Write`.
///
/// Writes are vectored, so hyper sends a head and a large body without copying them together. Reads go through a buffer
/// of the thread, so no buffer is zeroed for a read, and an idle connection has none.
///
/// [`serve_connection`](super::serve_connection) uses it. Use it yourself to call hyper directly, for example for a
/// setting of hyper's that [`Http`](super::Http) does not have. Then the program itself has to react to a drain.
///
/// # Examples
///
/// ```
/// use ebbtide::{Connection, http};
/// use http::hyper::{self, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
/// use std::convert::Infallible;
///
/// async fn serve(conn: Connection) -> hyper::Result<()> {
///     let service = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
///     let serving = http1::Builder::new().serve_connection(http::Io::new(conn.clone()), service);
///     let mut serving = std::pin::pin!(serving);
///     match conn.until_draining(serving.as_mut()).await {
///         Some(end) => end,
///         None => {
///             serving.as_mut().graceful_shutdown(); // loses a request that is on its way: `serve_connection` does not
///             serving.await
///         }
///     }
/// }
/// # async_std::task::block_on(async {
/// # use async_std::{io, prelude::*};
/// # use ebbtide::{Listener, Server};
/// # let (listener, connector) = Listener::memory();
/// # let mut client = connector.connect().await?;
/// # client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
/// # let (_, report) = Server::new(listener).scope(serve, async |_| {}).await?;
/// # let mut text = String::new();
/// # client.read_to_string(&mut text).await?;
/// # assert!(text.ends_with("\r\n\r\nhello"), "{text}");
/// # io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Io {
    connection: Connection,
}

impl Io {
    /// Makes the adapter of a connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::{Connection, http};
    ///
    /// let adapt = |conn: Connection| http::Io::new(conn);
    /// # let _ = adapt;
    /// ```
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Returns the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::http;
    ///
    /// let peer = |io: &http::Io| io.connection().peer_addr().to_string();
    /// # let _ = peer;
    /// ```
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Io {
    /// Reads, without hyper's buffer.
    pub(super) fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_read(cx, buf)
    }
}

impl Read for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // hyper's buffer is not initialized. Without `unsafe` it can only be filled from another one.
        with_scratch(|scratch| {
            let len = buf.remaining().min(scratch.len());
            let n = ready!(self.poll_read_into(cx, &mut scratch[..len]))?;
            buf.put_slice(&scratch[..n]);
            Poll::Ready(Ok(()))
        })
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_close(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut connection = Pin::new(&mut self.connection);
        if let [buf] = bufs {
            return connection.poll_write(cx, buf);
        }
        let mut joined = [0; SMALL];
        match join(bufs, &mut joined) {
            Some(len) => connection.poll_write(cx, &joined[..len]),
            None => connection.as_mut().poll_write_vectored(cx, bufs),
        }
    }
}

/// Up to this length the parts of an answer are copied together: `send` of one buffer costs less than `writev` of two.
const SMALL: usize = 1024;

/// Copies the buffers into `joined` one after the other. Returns their length, or `None` if they do not fit.
fn join(bufs: &[IoSlice<'_>], joined: &mut [u8; SMALL]) -> Option<usize> {
    let mut len = 0;
    for buf in bufs {
        joined.get_mut(len..len + buf.len())?.copy_from_slice(buf);
        len += buf.len();
    }
    Some(len)
}

/// Timer for hyper's own timeouts: implements hyper's `Timer`. It works on every executor.
///
/// # Examples
///
/// ```
/// use ebbtide::http::{Timer, hyper::server::conn::http1};
/// use std::time::Duration;
///
/// let mut builder = http1::Builder::new();
/// builder.timer(Timer).header_read_timeout(Duration::from_secs(10));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer;

impl hyper::rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Sleeping(async_io::Timer::after(duration)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Sleeping(async_io::Timer::at(deadline)))
    }
}

struct Sleeping(async_io::Timer);

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

impl Sleep for Sleeping {}

/// Executor for hyper: implements hyper's `Executor`. What hyper spawns becomes a task of the connection, and ends with
/// it.
///
/// hyper spawns one task for each stream of HTTP/2.
///
/// # Examples
///
/// ```
/// use ebbtide::{Connection, http};
/// use http::hyper::server::conn::http2;
///
/// let builder = |conn: &Connection| http2::Builder::new(http::Executor::new(conn.clone()));
/// # let _ = builder;
/// ```
#[derive(Clone, Debug)]
pub struct Executor {
    connection: Connection,
}

impl Executor {
    /// Makes an executor for the tasks of this connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::{Connection, http};
    ///
    /// let executor = |conn: &Connection| http::Executor::new(conn.clone());
    /// # let _ = executor;
    /// ```
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }
}

/// [`Executor`] whose tasks count as requests in progress: they end with a stream of HTTP/2, also with an upgraded one.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor {
    executor: Executor,
    progress: Arc<Progress>,
}

impl StreamExecutor {
    pub(super) fn new(connection: Connection, progress: Arc<Progress>) -> Self {
        Self { executor: Executor::new(connection), progress }
    }
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        let in_progress = InProgress::part(&self.progress);
        self.executor.execute(StreamTask { future, in_progress });
    }
}

pin_project! {
    struct StreamTask<F> {
        #[pin]
        future: F,
        in_progress: InProgress,
    }
}

impl<F: Future> Future for StreamTask<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.connection.spawn(future)); // it stays in the connection's group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_parts_are_joined_and_large_ones_are_not() {
        let (mut joined, large) = ([0; SMALL], [7; SMALL]);
        let slices = |parts: [&'static [u8]; 3]| parts.map(IoSlice::new);
        assert_eq!(join(&slices([b"head", b"", b"body"]), &mut joined), Some(8));
        assert_eq!(&joined[..8], b"headbody");
        assert_eq!(join(&[IoSlice::new(&large), IoSlice::new(&[])], &mut joined), Some(SMALL));
        assert_eq!(join(&[IoSlice::new(b"a"), IoSlice::new(&large)], &mut joined), None);
    }
}
