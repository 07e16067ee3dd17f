//! [`Http`]: the builder of the settings, which makes handlers.

use super::io::StreamExecutor;
use super::progress::Progress;
use super::service::HttpService;
use super::{Error, Serving, serve};
use crate::connection::Connection;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// Builder for the settings of HTTP.
///
/// [`handler`](Self::handler) makes a handler with these settings for [`Server::serve`](crate::Server::serve) and
/// [`Server::scope`](crate::Server::scope).
///
/// `B` is the type of the requests' bodies: [`Incoming`], or [`Limited<Incoming>`][limited] after
/// [`max_body`](Self::max_body).
///
/// [limited]: https://docs.rs/http-body-util/0.1/http_body_util/struct.Limited.html
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::http::{Http, hyper::{Request, Response, body::Incoming, service::service_fn}};
/// use ebbtide::{Listener, Server};
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// let hello = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
/// let http = Http::new().header_timeout(Duration::from_secs(5)).keep_alive_timeout(Duration::from_secs(20));
/// # let (listener, _connector) = Listener::memory();
/// let (_, report) = Server::new(listener).scope(http.handler(hello), async |_| {}).await?;
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
pub struct Http<B = Incoming> {
    settings: Settings,
    body: PhantomData<fn() -> B>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) header_timeout: Option<Duration>,
    pub(super) keep_alive_timeout: Option<Duration>,
    pub(super) drain_patience: Duration,
    pub(super) only: Option<Only>,
    pub(super) max_head: usize,
    pub(super) max_headers: usize,
    pub(super) max_streams: u32,
    pub(super) max_body: Option<usize>,
    pub(super) half_close: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Only {
    Http1,
    Http2,
}

/// hyper reads a body of HTTP/1 through a buffer of this size, and buffers at most so much of an answer.
const LEAST_BUFFER: usize = 64 * 1024;

/// A `HeaderMap` panics if it is to have room for more.
const MOST_HEADERS: usize = 24 * 1024;

impl Http {
    /// Returns the default settings.
    ///
    /// # Examples
    ///
    /// ```
    /// let http = ebbtide::http::Http::new();
    /// # let _ = http;
    /// ```
    pub fn new() -> Self {
        let settings = Settings {
            header_timeout: Some(Duration::from_secs(10)),
            keep_alive_timeout: Some(Duration::from_secs(75)),
            drain_patience: Duration::from_millis(100),
            only: None,
            max_head: 64 * 1024,
            max_headers: 100,
            max_streams: 200,
            max_body: None,
            half_close: true,
        };
        Self { settings, body: PhantomData }
    }

    /// Limits the bodies of requests to `bytes`. No limit by default.
    ///
    /// A request whose `Content-Length` exceeds the limit is answered with 413, and the service is not called. If a
    /// body of unknown length exceeds it, reading the body returns the error
    /// [`LengthLimitError`][length]. If the service returns that error, the answer is 413.
    /// axum's extractors answer with 413 themselves. Their own limit (2 MiB) holds beside this one: see axum's
    /// `DefaultBodyLimit`.
    ///
    /// The service's requests then have the body [`Limited<Incoming>`][limited], of the http-body-util crate. A service
    /// that takes any body, such as axum's `Router`, needs no change.
    ///
    /// [limited]: https://docs.rs/http-body-util/0.1/http_body_util/struct.Limited.html
    /// [length]: https://docs.rs/http-body-util/0.1/http_body_util/struct.LengthLimitError.html
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// use ebbtide::http::http_body_util::{BodyExt, Limited};
    /// use ebbtide::http::{Http, hyper::{Request, Response, body::Incoming, service::service_fn}};
    /// use ebbtide::{BoxError, Listener, Server};
    ///
    /// let length = service_fn(async |request: Request<Limited<Incoming>>| {
    ///     let body = request.into_body().collect().await?.to_bytes();
    ///     Ok::<_, BoxError>(Response::new(body.len().to_string()))
    /// });
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # let request = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    /// # client.write_all(request.as_bytes()).await?;
    /// let handler = Http::new().max_body(4).handler(length);
    /// # Server::new(listener).scope(handler, async |_| {}).await?;
    /// # let mut text = String::new();
    /// # client.read_to_string(&mut text).await?;
    /// # assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "RequestBodyLimit")]
    #[doc(alias = "MaxBytesReader")]
    pub fn max_body(self, bytes: usize) -> Http<Limited<Incoming>> {
        Http { settings: Settings { max_body: Some(bytes), ..self.settings }, body: PhantomData }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Clone for Http<B> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<B> fmt::Debug for Http<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Http").field(&self.settings).finish()
    }
}

/// Shows how a setting is made.
macro_rules! setting_example {
    ($code:literal) => {
        concat!(
            "# Examples\n\n```\nuse ebbtide::http::Http;\nuse std::time::Duration;\n\n",
            "let http = Http::new().",
            $code,
            ";\n# let _ = (http, Duration::ZERO);\n```"
        )
    };
}

impl<B> Http<B> {
    /// Sets how long a request's head may take on HTTP/1, from its first byte to its last. Default: 10 s. `None`: no
    /// limit.
    ///
    /// A slower one is answered with 408. On HTTP/2 it bounds at most the preface, while the first bytes show the
    /// protocol. [`Server::idle_timeout`](crate::Server::idle_timeout) bounds a slow body.
    ///
    #[doc = setting_example!("header_timeout(Duration::from_secs(5))")]
    #[doc(alias = "header_read_timeout")]
    #[doc(alias = "ReadHeaderTimeout")]
    #[must_use]
    pub fn header_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.header_timeout = limit.into();
        self
    }

    /// Sets how long a connection may stay open without a request. Default: 75 s, as in nginx. `None`: no limit.
    ///
    /// An idle connection of HTTP/1 is closed without an answer; one of HTTP/2 gets GOAWAY. Both are counted as
    /// [`completed`](crate::Report::completed). A connection on which no request has come yet is idle too.
    ///
    /// A shorter [`Server::idle_timeout`](crate::Server::idle_timeout) comes first. It sends no GOAWAY, and the
    /// connection is counted as [`disconnected`](crate::Report::disconnected).
    ///
    #[doc = setting_example!("keep_alive_timeout(Duration::from_secs(20))")]
    #[doc(alias = "IdleTimeout")]
    #[must_use]
    pub fn keep_alive_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.keep_alive_timeout = limit.into();
        self
    }

    /// Sets how long a connection of HTTP/1 must be quiet before a drain closes it, if a byte has passed on it within
    /// the last second. Default: 100 ms.
    ///
    /// It is longer for a client that has lately taken longer between an answer and its next request, for example
    /// because it is far away: twice that time, so at most 2 s. Zero closes each idle connection at once, as hyper's
    /// own graceful shutdown does; under load that loses requests.
    ///
    #[doc = setting_example!("drain_patience(Duration::from_millis(300))")]
    #[must_use]
    pub fn drain_patience(mut self, patience: Duration) -> Self {
        self.settings.drain_patience = patience;
        self
    }

    /// Serves only HTTP/1. A client of HTTP/2 is disconnected without an answer.
    ///
    /// Over TLS, do not offer `h2` by ALPN then.
    ///
    #[doc = setting_example!("http1_only()")]
    #[must_use]
    pub fn http1_only(mut self) -> Self {
        self.settings.only = Some(Only::Http1);
        self
    }

    /// Serves only HTTP/2, with prior knowledge or over TLS. A client of HTTP/1 is disconnected.
    ///
    /// Over TLS, offer only `h2` by ALPN then.
    ///
    #[doc = setting_example!("http2_only()")]
    #[must_use]
    pub fn http2_only(mut self) -> Self {
        self.settings.only = Some(Only::Http2);
        self
    }

    /// Sets how many bytes a request's head may have: the request line and all header fields. Default: 64 KiB.
    ///
    /// A larger one is answered with 431.
    ///
    #[doc = setting_example!("max_head(16 * 1024)")]
    #[doc(alias = "MaxHeaderBytes")]
    #[doc(alias = "max_header_list_size")]
    #[must_use]
    pub fn max_head(mut self, bytes: usize) -> Self {
        self.settings.max_head = bytes;
        self
    }

    /// Sets how many header fields a request of HTTP/1 may have. Default: 100. At most 24,576.
    ///
    /// A request with more is answered with 431.
    ///
    #[doc = setting_example!("max_headers(50)")]
    #[must_use]
    pub fn max_headers(mut self, fields: usize) -> Self {
        self.settings.max_headers = fields;
        self
    }

    /// Sets how many streams, which are requests, a connection of HTTP/2 may have at a time. Default: 200.
    ///
    /// Others are refused with REFUSED_STREAM, and the client may send them again.
    ///
    #[doc = setting_example!("max_streams(50)")]
    #[doc(alias = "max_concurrent_streams")]
    #[must_use]
    pub fn max_streams(mut self, streams: u32) -> Self {
        self.settings.max_streams = streams;
        self
    }

    /// Sets whether a client of HTTP/1 that shuts down its sending half still gets its answer. Default: true.
    ///
    /// If false, EOF from the client drops the future of the request in progress. So a request that waits for long
    /// (long polling) ends when its client leaves, but a client that half-closes, such as `nc -N`, gets no answer.
    ///
    #[doc = setting_example!("half_close(false)")]
    #[must_use]
    pub fn half_close(mut self, allowed: bool) -> Self {
        self.settings.half_close = allowed;
        self
    }

    /// Makes a handler for [`Server::serve`](crate::Server::serve) and [`Server::scope`](crate::Server::scope), which
    /// serves each connection with `service`.
    ///
    /// # Examples
    ///
    /// A test of a service, without sockets:
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::{io, prelude::*};
    /// use ebbtide::http::{Http, hyper::{Request, Response, body::Incoming, service::service_fn}};
    /// use ebbtide::{Listener, Server};
    /// use std::convert::Infallible;
    ///
    /// let hello = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    /// let (listener, connector) = Listener::memory();
    /// let (answer, _report) = Server::new(listener)
    ///     .scope(Http::new().handler(hello), async |_| {
    ///         let mut client = connector.connect().await?;
    ///         client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
    ///         let mut answer = String::new();
    ///         client.read_to_string(&mut answer).await?;
    ///         Ok(answer)
    ///     })
    ///     .await?;
    /// assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"));
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn handler<S, M>(&self, service: S) -> impl Fn(Connection) -> Serving + Clone + Send + Sync + use<S, M, B>
    where
        S: HttpService<M, B>,
        M: 'static,
        B: RequestBody,
    {
        let (settings, service) = (self.settings, Arc::new(service));
        move |connection| Box::pin(serve::<S, M, B>(connection, Arc::clone(&service), settings))
    }

    /// Serves one connection: see the function [`serve_connection`](super::serve_connection).
    ///
    /// # Errors
    ///
    /// As the function.
    ///
    /// # Cancel safety
    ///
    /// As the function.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::http::{self, Http, hyper::{Request, Response, body::Incoming, service::service_fn}};
    /// use ebbtide::Connection;
    /// use std::convert::Infallible;
    ///
    /// async fn handler(conn: Connection) -> Result<(), http::Error> {
    ///     let hello = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    ///     Http::new().http1_only().serve_connection(conn, hello).await
    /// }
    /// # let _ = handler;
    /// ```
    pub fn serve_connection<S, M>(
        &self,
        connection: Connection,
        service: S,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<S, M, B>
    where
        S: HttpService<M, B>,
        B: RequestBody,
    {
        // Not an async function: this says that the future is `Send`. If a caller's compiler has to find out, it fails
        // for services whose error is `BoxError` ("implementation of `From` is not general enough").
        serve::<S, M, B>(connection, Arc::new(service), self.settings)
    }
}

/// The body of a request: [`Incoming`], or [`Limited<Incoming>`][limited] after [`Http::max_body`]. It is sealed.
///
/// [limited]: https://docs.rs/http-body-util/0.1/http_body_util/struct.Limited.html
pub trait RequestBody: sealed::Sealed + Send + 'static {
    #[doc(hidden)]
    fn new(body: Incoming, limit: Option<usize>) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Incoming {}
    impl Sealed for super::Limited<super::Incoming> {}
}

impl RequestBody for Incoming {
    fn new(body: Incoming, _limit: Option<usize>) -> Self {
        body
    }
}

impl RequestBody for Limited<Incoming> {
    fn new(body: Incoming, limit: Option<usize>) -> Self {
        Self::new(body, limit.unwrap_or(usize::MAX))
    }
}

impl Settings {
    pub(super) fn http1(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .header_read_timeout(None) // the driver's: its timer is set only if a head does not come in one piece
            .half_close(self.half_close)
            .max_headers(self.max_headers.min(MOST_HEADERS))
            .max_header_size(self.max_head)
            .max_buf_size(self.max_head.max(LEAST_BUFFER));
        builder
    }

    pub(super) fn http2(&self, connection: Connection, progress: Arc<Progress>) -> http2::Builder<StreamExecutor> {
        let mut builder = http2::Builder::new(StreamExecutor::new(connection, progress));
        builder
            .max_concurrent_streams(self.max_streams)
            .max_header_list_size(u32::try_from(self.max_head).unwrap_or(u32::MAX))
            .enable_connect_protocol();
        builder
    }
}
