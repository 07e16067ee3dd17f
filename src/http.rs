//! HTTP/1.1 and HTTP/2, by [hyper](https://hyper.rs) 1: serve a hyper or tower service, such as axum's `Router`, with a
//! shutdown that loses no request of a busy client (feature `http`).
//!
//! ```no_run
//! use ebbtide::http::hyper::{Request, Response, body::Incoming, service::service_fn};
//! use ebbtide::{BoxError, Server, signal};
//! use std::convert::Infallible;
//!
//! #[async_std::main]
//! async fn main() -> Result<(), BoxError> {
//!     let hello = service_fn(async |request: Request<Incoming>| {
//!         Ok::<_, Infallible>(Response::new(format!("hello from {}\n", request.uri().path())))
//!     });
//!     let signals = signal::termination()?;
//!     let report = Server::bind("127.0.0.1:8080").await?.shutdown_on(signals).serve_http(hello).await?;
//!     println!("{report}");
//!     Ok(())
//! }
//! ```
//!
//! - [`Server::serve_http`] serves one service on all listeners, with the default settings.
//! - [`Http`] has the settings. [`Http::handler`] makes a handler for [`Server::serve`] and [`Server::scope`]:
//!   `server.serve(Http::new().max_body(1 << 20).handler(app))`.
//! - [`serve_connection`] serves one connection, in a handler that does something before or after.
//! - [`Io`], [`Timer`] and [`Executor`] are what hyper needs from a runtime, for programs that call hyper directly.
//! - [`UpgradedIo`] adapts an upgraded stream to futures-io, for libraries such as async-tungstenite.
//!
//! A server stops as every server does, by [`Server::shutdown_on`], [`Handle::shutdown`](crate::Handle::shutdown) or
//! the end of a scope. [`Listener::memory`](crate::Listener::memory) tests a service without sockets: [`Http::handler`]
//! has an example.
//!
//! tokio's runtime is not needed. Services that use tokio's timers or `tokio::spawn`, as `TimeoutLayer` of tower-http
//! and `WebSocketUpgrade` of axum do, need [`Server::executor`].
//!
//! # The protocol
//!
//! Over TLS, ALPN negotiates it: `Tls::files(&cert, &key).alpn(["h2", "http/1.1"]).load()?` makes the settings for
//! [`ListenOptions`](crate::ListenOptions)`::tls`. Browsers speak HTTP/2 only in this way. Without ALPN or TLS, the
//! first bytes show the protocol (HTTP/2 with prior knowledge). [`Http::http1_only`] and [`Http::http2_only`] fix it.
//!
//! # A request
//!
//! The [`Connection`] is in its extensions: `request.extensions().get::<Connection>()`, in axum the extractor
//! `Extension<Connection>`. From it a service gets the peer's address ([`Connection::peer_addr`]; axum's `ConnectInfo`
//! is not set), the TLS session and the PROXY header. It can spawn tasks that end with the connection, and wait for a
//! drain. It must not read or write the connection itself, because hyper does.
//!
//! Behind a reverse proxy the peer is the proxy. With the PROXY protocol (feature `proxy-protocol`),
//! [`peer_addr`](Connection::peer_addr) is the client's address. Header fields such as `X-Forwarded-For` are passed to
//! the service as they are.
//!
//! # A shutdown loses no request
//!
//! | a connection | in a drain |
//! |---|---|
//! | with a request in progress | the request is answered; on HTTP/1 the answer says `Connection: close` |
//! | HTTP/1, quiet for more than 1 s | is closed at once |
//! | HTTP/1, quiet for a shorter time | a request may be on its way. The connection is closed after 100 ms of quiet ([`Http::drain_patience`]), or after twice the time that this client has lately taken between an answer and its next request, whichever is longer. A request that comes in that time is answered with `Connection: close` |
//! | HTTP/1, a part of a request's head has arrived | the rest is waited for, up to the [`header_timeout`](Http::header_timeout) |
//! | HTTP/2 | gets GOAWAY and a PING. Streams opened before the client has answered the PING are served. Without a stream in progress, a client that is silent for 1 s after it is disconnected |
//! | upgraded (WebSocket) | stays open until the upgraded stream is dropped. The service is notified by [`until_draining`](Connection::until_draining) or [`draining`](Connection::draining) of the `Connection` in the extensions |
//!
//! The grace period bounds all of it.
//!
//! Answers say `Connection: close`, and HTTP/2 gets GOAWAY, from the shutdown request on, so in a
//! [lame duck](Server::lame_duck) too. An idle connection of HTTP/1 stays open in a lame duck, up to its
//! [`keep_alive_timeout`](Http::keep_alive_timeout). The answer to an upgrade (101, or the success of CONNECT) does not
//! say `close`.
//!
//! If a client of HTTP/1 pipelines requests, those that have arrived with the one that is answered are answered too,
//! before an answer says `Connection: close`. Those that arrive later are not executed; a client should send them again
//! on another connection (RFC 9112, 9.3.2).
//!
//! One race remains, as for every HTTP/1 server: a client may send a request at the moment at which its quiet
//! connection is closed. Such a request is not executed either.
//!
//! # Failures
//!
//! - **The service panics.** The request is answered with 500, and the connection continues. One line at error. It
//!   is counted as [`requests_panicked`](crate::Counts::requests_panicked), not as
//!   [`panicked`](crate::Report::panicked), which counts handlers.
//! - **The body of an answer panics or fails.** The answer is cut, because its head has been sent. HTTP/1 ends the
//!   connection, which is counted as [`failed`](crate::Report::failed); HTTP/2 resets the stream. One line at warn. A
//!   panic is also one line at error.
//! - **The service returns an error.** HTTP/1 ends the connection, which is counted as `failed`; HTTP/2 resets the
//!   stream. One line at warn. To answer with a status instead, return a response.
//!   [`requests_failed`](crate::Counts::requests_failed) has the number for both protocols, failed bodies included.
//! - **The request is at fault.** On HTTP/1 a malformed request is answered with 400, a head that is too large with 431
//!   (a path over 64 KiB with 414, if `max_head` allows such a head), a head that is not complete within 10 s
//!   ([`Http::header_timeout`]) with 408, and a body that exceeds [`Http::max_body`] with 413. Each of them ends the
//!   connection, which is counted as [`disconnected`](crate::Report::disconnected), with one line at debug. On HTTP/2
//!   the answers 431 and 413 are the same, and the connection continues; the protocol has its own error codes for the
//!   rest.
//!
//! On HTTP/2 the other streams of the connection continue in each case, unless the client has broken the protocol.
//! [`OnFailure::Shutdown`](crate::OnFailure::Shutdown) applies to connections that are counted as `failed`.
//!
//! # Limits
//!
//! - A head has at most 64 KiB ([`Http::max_head`]), and on HTTP/1 at most 100 header fields ([`Http::max_headers`]).
//! - A connection of HTTP/2 has at most 200 streams at a time ([`Http::max_streams`]).
//! - An idle connection is closed after 75 s ([`Http::keep_alive_timeout`]), and counted as
//!   [`completed`](crate::Report::completed).
//! - Bodies are read only as fast as the service takes them. Their size has no limit unless [`Http::max_body`] sets
//!   one. (Extractors of axum have a limit of their own, 2 MiB.)
//! - [`Server::idle_timeout`] and [`Server::write_timeout`] bound slow bodies. An `idle_timeout` also cuts a request
//!   for which the service works longer without reading or writing.
//!
//! A client that shuts down its sending half after a request gets the answer ([`Http::half_close`]).

mod answer;
mod builder;
mod driver;
mod ends;
mod error;
mod io;
mod progress;
mod service;
mod upgraded;
mod version;

use crate::connection::Connection;
use crate::server::{Serve, Server};
use answer::WatchedService;
use async_io::Timer as IoTimer;
use builder::Settings;
pub use builder::{Http, RequestBody};
use driver::{Driver, End, Protocol};
pub use error::Error;
use futures_lite::{AsyncWriteExt as _, FutureExt as _};
pub use http_body_util;
pub use hyper;
use hyper::body::Incoming;
pub use io::{Executor, Io, Timer};
use progress::{Progress, WatchedIo};
pub use service::{ByHyper, ByTower, HttpService};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
pub use upgraded::UpgradedIo;
use version::{Spoken, version};

/// Serves one connection with the default settings of [`Http`], until the client leaves or the server drains.
///
/// Use it in a handler that does something before or after. [`Server::serve_http`] and [`Http::handler`] call it for
/// each connection.
///
/// # Errors
///
/// [`Error`], which is either the peer's fault or the service's. If the handler returns it, the end of the connection
/// is counted accordingly.
///
/// # Panics
///
/// It does not panic if the service does: see the [module's documentation](self#failures).
///
/// # Cancel safety
///
/// If the future is dropped, requests in progress are dropped, and the connection ends with its handler.
///
/// # Examples
///
/// ```
/// use ebbtide::http::{self, hyper::{Request, Response, body::Incoming, service::service_fn}};
/// use ebbtide::{Connection, Listener, Server};
/// use std::convert::Infallible;
///
/// async fn handler(conn: Connection) -> Result<(), http::Error> {
///     println!("{} has connected", conn.peer_addr());
///     let hello = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
///     http::serve_connection(conn, hello).await
/// }
/// # async_std::task::block_on(async {
/// # use async_std::{io, prelude::*};
/// # let (listener, connector) = Listener::memory();
/// # let mut client = connector.connect().await?;
/// # client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
/// # let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
/// # let mut text = String::new();
/// # client.read_to_string(&mut text).await?;
/// # assert!(text.contains("hello"), "{text}");
/// # assert_eq!(report.completed(), 1);
/// # io::Result::Ok(()) }).unwrap();
/// ```
pub fn serve_connection<S, M>(
    connection: Connection,
    service: S,
) -> impl Future<Output = Result<(), Error>> + Send + use<S, M>
where
    S: HttpService<M, Incoming>,
{
    Http::new().serve_connection(connection, service)
}

impl Server {
    /// Serves HTTP/1.1 and HTTP/2 with a hyper or tower service, such as axum's `Router` (feature `http`).
    ///
    /// It is `self.serve(Http::new().handler(service))`. For other settings write that:
    /// [`http::Http`](crate::http::Http) has them. [`http`](crate::http) describes what a drain, a panic and a
    /// malformed request do. It returns as [`serve`](Self::serve) does.
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve).
    ///
    /// # Cancel safety
    ///
    /// As [`serve`](Self::serve): if the future is dropped, the server is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// use ebbtide::http::hyper::{Request, Response, body::Incoming, service::service_fn};
    /// use ebbtide::{Listener, Server};
    /// use std::convert::Infallible;
    ///
    /// let hello = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    /// let server = Server::new(listener);
    /// # let handle = server.handle();
    /// # let client = async_std::task::spawn(async move {
    /// #     let mut buf = [0; 1024];
    /// #     let n = client.read(&mut buf).await.unwrap();
    /// #     handle.shutdown();
    /// #     String::from_utf8_lossy(&buf[..n]).into_owned()
    /// # });
    /// let report = server.serve_http(hello).await?;
    /// assert_eq!(report.completed(), 1);
    /// # let text = client.await;
    /// # assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "axum")]
    #[doc(alias = "with_graceful_shutdown")]
    #[doc(alias = "hyper")]
    pub fn serve_http<S, M>(self, service: S) -> Serve
    where
        S: HttpService<M, Incoming>,
        M: 'static,
    {
        self.serve(Http::new().handler(service))
    }
}

/// Future that serves one connection. The handlers of [`Http::handler`] return it.
pub type Serving = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

async fn serve<S, M, B>(connection: Connection, service: Arc<S>, settings: Settings) -> Result<(), Error>
where
    S: HttpService<M, B>,
    B: RequestBody,
{
    let spoken = version(&connection, &settings).await.map_err(|error| Error::broken(error, &connection))?;
    let is_http1 = match spoken {
        Spoken::Http1 => true,
        Spoken::Http2 => false,
        Spoken::Nothing => return Ok(()),
        Spoken::SlowHead => return Err(slow_head(&connection, &settings).await),
    };
    let progress = Arc::new(Progress::new(is_http1));
    let io = WatchedIo::new(connection.clone(), Arc::clone(&progress));
    let service = WatchedService::new(service, connection.clone(), Arc::clone(&progress), settings.max_body);
    let end = if is_http1 {
        let http = settings.http1().serve_connection(io, service).with_upgrades();
        drive(http, &connection, &progress, &settings).await
    } else {
        let http = settings.http2(connection.clone(), Arc::clone(&progress)).serve_connection(io, service);
        drive(http, &connection, &progress, &settings).await
    };
    match (end, progress.fault()) {
        (End::Closed(Ok(())), None) => {
            // An upgraded stream keeps its side of the connection, and with it the connection.
            progress.released.wait().await;
            Ok(())
        }
        (End::Closed(_), Some(fault)) => Err(Error::refused(fault, &connection)),
        (End::Closed(Err(error)), None) => Err(Error::new(error, &connection)),
        (End::SlowHead, _) => Err(slow_head(&connection, &settings).await),
    }
}

/// Runs hyper's future to its end, and drops it.
async fn drive<P: Protocol>(http: P, connection: &Connection, progress: &Progress, settings: &Settings) -> End {
    let mut http = pin!(http);
    let mut driver = Driver::new(connection, progress, settings, P::IS_HTTP2);
    poll_fn(|cx| driver.poll(http.as_mut(), cx)).await
}

/// Answers a request whose head is not complete with 408. hyper would only end the connection.
async fn slow_head(mut connection: &Connection, settings: &Settings) -> Error {
    let answer = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let write = async { connection.write_all(answer).await };
    let timeout = async {
        IoTimer::after(Duration::from_secs(1)).await;
        Ok(()) // a client that reads nothing gets no answer
    };
    match write.or(timeout).await {
        Ok(()) => Error::slow_head(settings.header_timeout, connection),
        Err(error) => Error::broken(error, connection),
    }
}
