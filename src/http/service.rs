//! [`HttpService`]: a hyper or tower service that answers requests.

use crate::run::report::BoxError;
use hyper::body::Body;
use hyper::{Request, Response};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A service that answers HTTP requests: hyper's `Service`, or tower's, such as axum's `Router`.
///
/// It is implemented for both, and cannot be implemented otherwise. `M` tells the two apart and is always inferred.
/// `B` is the body of the requests: [`Incoming`](hyper::body::Incoming), or
/// [`Limited<Incoming>`][limited] after [`Http::max_body`](super::Http::max_body).
///
/// [limited]: https://docs.rs/http-body-util/0.1/http_body_util/struct.Limited.html
///
/// A tower service is cloned for each request, and `poll_ready` is called on the clone.
///
/// # Examples
///
/// With hyper's `service_fn`:
///
/// ```
/// use ebbtide::{Listener, Server, http};
/// use http::hyper::{Request, Response, body::Incoming, service::service_fn};
/// use std::convert::Infallible;
///
/// # async_std::task::block_on(async {
/// # use async_std::{io, prelude::*};
/// # let (listener, connector) = Listener::memory();
/// # let mut client = connector.connect().await?;
/// # client.write_all(b"GET /world HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
/// let service = service_fn(async |request: Request<Incoming>| {
///     Ok::<_, Infallible>(Response::new(format!("hello {}", request.uri().path())))
/// });
/// # let server = Server::new(listener);
/// let handler = http::Http::new().handler(service);
/// # server.scope(handler, async |_| {}).await?;
/// # let mut text = String::new();
/// # client.read_to_string(&mut text).await?;
/// # assert!(text.ends_with("\r\n\r\nhello /world"), "{text}");
/// # io::Result::Ok(()) }).unwrap();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a service that answers requests with the body `{B}`",
    note = "a service implements `hyper::service::Service<Request<Incoming>>`, or `tower::Service` of it and `Clone`; \
            it and its futures are `Send`, the service is also `Sync` and `'static`",
    note = "after `Http::max_body` the requests' body is `Limited<Incoming>`: a generic service takes both"
)]
pub trait HttpService<M, B>: sealed::Sealed<M, B> + Send + Sync + 'static {
    /// The body of the answers.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
    /// The service's error.
    type Error: Into<BoxError>;
    /// The future of one answer.
    type Future: Future<Output = Result<Response<Self::Body>, Self::Error>> + Send + 'static;

    #[doc(hidden)]
    fn answer(&self, request: Request<B>) -> Self::Future;
}

mod sealed {
    pub trait Sealed<M, B> {}
}

/// Marks a hyper service: see [`HttpService`].
#[derive(Debug)]
pub enum ByHyper {}

/// Marks a tower service: see [`HttpService`].
#[derive(Debug)]
pub enum ByTower {}

impl<S, B> sealed::Sealed<ByHyper, B> for S where S: hyper::service::Service<Request<B>> {}

impl<S, B, R> HttpService<ByHyper, B> for S
where
    S: hyper::service::Service<Request<B>, Response = Response<R>> + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Body = R;
    type Error = S::Error;
    type Future = S::Future;

    fn answer(&self, request: Request<B>) -> Self::Future {
        self.call(request)
    }
}

impl<S, B> sealed::Sealed<ByTower, B> for S where S: tower_service::Service<Request<B>> {}

impl<S, B, R> HttpService<ByTower, B> for S
where
    S: tower_service::Service<Request<B>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    B: Send + 'static,
{
    type Body = R;
    type Error = S::Error;
    type Future = Oneshot<S, B>;

    fn answer(&self, request: Request<B>) -> Self::Future {
        Oneshot::Waiting { service: self.clone(), request: Some(request) }
    }
}

pin_project! {
    /// Waits until a tower service is ready, and calls it.
    #[project = OneshotProjected]
    pub enum Oneshot<S: tower_service::Service<Request<B>>, B> {
        #[doc(hidden)]
        Waiting { service: S, request: Option<Request<B>> },
        #[doc(hidden)]
        Called { #[pin] future: S::Future },
    }
}

impl<S: tower_service::Service<Request<B>>, B> Future for Oneshot<S, B> {
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let future = match self.as_mut().project() {
                OneshotProjected::Called { future } => return future.poll(cx),
                OneshotProjected::Waiting { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    service.call(request.take().expect("the service is called once"))
                }
            };
            self.set(Self::Called { future });
        }
    }
}
