//! [`UpgradedIo`]: an upgraded stream for libraries on futures-io.

use futures_io::{AsyncRead, AsyncWrite};
use hyper::rt::{Read as _, ReadBuf, Write as _};
use hyper::upgrade::Upgraded;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Adapter of hyper's upgraded stream, such as a WebSocket's, for libraries on futures-io: implements `AsyncRead` and
/// `AsyncWrite`.
///
/// Reads begin with the bytes that the client has already sent after its request. Dropping it ends the connection, on
/// HTTP/2 the stream. A drain does not end it: the task that reads it waits for the drain, as in the example.
///
/// # Examples
///
/// An echo, for clients that ask for the protocol `echo`:
///
/// ```
/// use ebbtide::http::hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn, upgrade};
/// use ebbtide::{BoxError, Connection, http::UpgradedIo};
/// use futures_lite::{AsyncReadExt, AsyncWriteExt};
///
/// let service = service_fn(async |mut request: Request<Incoming>| {
///     let connection = request.extensions().get::<Connection>().expect("every request has it").clone();
///     connection.clone().spawn(async move {
///         let mut stream = UpgradedIo::new(upgrade::on(&mut request).await?);
///         let mut buf = [0; 1024];
///         // Until the client leaves, or the server drains.
///         while let Some(n) = connection.until_draining(stream.read(&mut buf)).await.transpose()?.filter(|&n| n > 0) {
///             stream.write_all(&buf[..n]).await?;
///         }
///         stream.write_all(b", goodbye").await?;
///         Ok::<_, BoxError>(())
///     });
///     let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
///     response.header(header::CONNECTION, "upgrade").header(header::UPGRADE, "echo").body(String::new())
/// });
/// # async_std::task::block_on(async {
/// # use ebbtide::{Listener, Server, http::Http};
/// # let (listener, connector) = Listener::memory();
/// # let mut client = connector.connect().await?;
/// # client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello").await?;
/// # let mut text = String::new();
/// # let server = Server::new(listener);
/// # let ((), report) = server.scope(Http::new().handler(service), async |_| {}).await?;
/// # client.read_to_string(&mut text).await?;
/// # assert!(text.starts_with("HTTP/1.1 101 ") && text.ends_with("\r\n\r\nhello, goodbye"), "{text}");
/// # assert_eq!(report.completed(), 1);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Debug)]
#[doc(alias = "WebSocket")]
#[doc(alias = "hijack")]
pub struct UpgradedIo {
    upgraded: Upgraded,
}

impl UpgradedIo {
    /// Makes the adapter of an upgraded stream, which [`hyper::upgrade::on`] returns.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::http::{UpgradedIo, hyper::{self, Request, body::Incoming, upgrade}};
    ///
    /// async fn upgraded(mut request: Request<Incoming>) -> hyper::Result<UpgradedIo> {
    ///     Ok(UpgradedIo::new(upgrade::on(&mut request).await?))
    /// }
    /// # let _ = upgraded;
    /// ```
    pub fn new(upgraded: Upgraded) -> Self {
        Self { upgraded }
    }

    /// Returns hyper's stream.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::http::{UpgradedIo, hyper::upgrade::Upgraded};
    ///
    /// let back = |stream: UpgradedIo| -> Upgraded { stream.into_inner() };
    /// # let _ = back;
    /// ```
    pub fn into_inner(self) -> Upgraded {
        self.upgraded
    }
}

impl AsyncRead for UpgradedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        ready!(Pin::new(&mut self.upgraded).poll_read(cx, buf.unfilled()))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl AsyncWrite for UpgradedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.upgraded).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.upgraded).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.upgraded).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.upgraded).poll_shutdown(cx)
    }
}
