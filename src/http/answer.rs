//! One request's way through the service: [`WatchedService`], [`Answering`] and [`AnswerBody`]. The service's panics
//! are caught here, and a shutdown is announced to the client here.

use super::builder::RequestBody;
use super::progress::{Fault, InProgress, Progress};
use super::service::HttpService;
use crate::connection::Connection;
use crate::panic::{self, Chain, DEEPEST, Payload};
use crate::run::counts::Counters;
use crate::run::name::run_line;
use crate::run::report::BoxError;
use crate::text::explained;
use http_body_util::LengthLimitError;
use hyper::body::{Body, Buf, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use log::Level;
use pin_project_lite::pin_project;
use std::error::Error;
use std::future::Future;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The user's service, as hyper calls it for one connection.
pub(super) struct WatchedService<S, M, B> {
    service: Arc<S>,
    connection: Connection,
    progress: Arc<Progress>,
    max_body: Option<usize>,
    marker: PhantomData<fn(M, B)>,
}

impl<S, M, B> WatchedService<S, M, B> {
    pub(super) fn new(
        service: Arc<S>,
        connection: Connection,
        progress: Arc<Progress>,
        max_body: Option<usize>,
    ) -> Self {
        Self { service, connection, progress, max_body, marker: PhantomData }
    }
}

impl<S, M, B> hyper::service::Service<Request<Incoming>> for WatchedService<S, M, B>
where
    S: HttpService<M, B>,
    B: RequestBody,
{
    type Response = Response<AnswerBody<S::Body>>;
    type Error = BoxError;
    type Future = Answering<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let context = RequestContext {
            connection: self.connection.clone(),
            is_http2: request.version() >= Version::HTTP_2,
            is_connect: request.method() == Method::CONNECT,
            in_progress: InProgress::new(&self.progress, request.body()),
        };
        let stage = if self.max_body.is_some_and(|max| request.body().size_hint().lower() > max as u64) {
            Stage::TooLarge
        } else {
            context.counters().request();
            request.extensions_mut().insert(self.connection.clone());
            let request = request.map(|body| B::new(body, self.max_body));
            match panic::catch(|| self.service.answer(request)) {
                Ok(future) => Stage::Running { future },
                Err(payload) => Stage::Panicked { payload },
            }
        };
        Answering { stage, context: Some(context) }
    }
}

/// A request that is being answered, until its answer is complete.
#[derive(Debug)]
struct RequestContext {
    connection: Connection,
    is_http2: bool,
    is_connect: bool,
    in_progress: InProgress,
}

pin_project! {
    /// Future of one answer.
    pub(super) struct Answering<F> {
        #[pin]
        stage: Stage<F>,
        // `None` once the answer has begun.
        context: Option<RequestContext>,
    }

    impl<F> PinnedDrop for Answering<F> {
        fn drop(this: Pin<&mut Self>) {
            this.project().stage.end();
        }
    }
}

pin_project! {
    #[project = StageProjected]
    #[project_replace = StageReplaced]
    enum Stage<F> {
        Running { #[pin] future: F },
        // The service panicked when it was called.
        Panicked { payload: Payload },
        // The request announces a body that is too large.
        TooLarge,
        Ended,
    }
}

impl<F> Stage<F> {
    /// Drops the service's future. If its destructor panics, the connection's other requests continue.
    fn end(mut self: Pin<&mut Self>) {
        panic::destroy(|| self.set(Self::Ended));
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<AnswerBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = match this.stage.as_mut().project() {
            StageProjected::Running { future } => match panic::catch(|| future.poll(cx)) {
                Ok(poll) => ready!(poll).map_err(Into::into),
                Err(payload) => return Poll::Ready(Ok(answer_panic(this.stage, this.context, payload))),
            },
            _ => match this.stage.as_mut().project_replace(Stage::Ended) {
                StageReplaced::Panicked { payload } => {
                    return Poll::Ready(Ok(answer_panic(this.stage, this.context, payload)));
                }
                StageReplaced::TooLarge => Err(BoxError::from(TooLarge)),
                _ => return Poll::Pending, // not reached: it is not polled again after it has ended
            },
        };
        this.stage.end();
        let Some(context) = this.context.take() else {
            return Poll::Pending; // not reached, likewise
        };
        Poll::Ready(match result {
            Ok(response) => Ok(context.finish(response.map(Some))),
            Err(error) => match context.fault(error.as_ref()) {
                Some(Fault::TooLarge) => Ok(context.refuse(Fault::TooLarge, StatusCode::PAYLOAD_TOO_LARGE)),
                Some(fault) if !context.is_http2 => Ok(context.refuse(fault, StatusCode::BAD_REQUEST)),
                fault => {
                    if fault.is_none() {
                        context.counters().request_failed();
                    }
                    // On HTTP/1 the connection ends with this error, and the end of its handler is logged.
                    if context.is_http2 {
                        context.log_reset("the HTTP service", fault, error.as_ref());
                    }
                    Err(error)
                }
            },
        })
    }
}

/// Logs a panic of the service, and makes the answer to its request.
fn answer_panic<F, B>(
    stage: Pin<&mut Stage<F>>,
    context: &mut Option<RequestContext>,
    payload: Payload,
) -> Response<AnswerBody<B>> {
    stage.end();
    let context = context.take().expect("the answer has not begun");
    context.note_panic("the HTTP service panicked, and its request is answered with 500", payload);
    context.finish(empty(StatusCode::INTERNAL_SERVER_ERROR))
}

fn empty<B>(status: StatusCode) -> Response<Option<B>> {
    let mut response = Response::new(None);
    *response.status_mut() = status;
    response
}

/// Returns the errors of a chain of sources.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source()).take(DEEPEST)
}

impl RequestContext {
    fn counters(&self) -> &Counters {
        &self.connection.server().run().counters
    }

    /// Completes the answer's head.
    fn finish<B>(self, mut response: Response<Option<B>>) -> Response<AnswerBody<B>> {
        let status = response.status();
        let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS || self.is_connect && status.is_success();
        // Requests that have arrived behind this one are answered first.
        let is_last = self.connection.is_leaving() && !self.in_progress.progress().has_pipelined();
        if !self.is_http2 && !is_upgrade && is_last {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| AnswerBody { body, context: self })
    }

    /// Returns the peer's fault that made the service return this error. `None`: it is the service's own.
    fn fault(&self, error: &(dyn Error + 'static)) -> Option<Fault> {
        let progress = self.in_progress.progress();
        // An error of hyper's may also be that of another connection, such as a proxy's own.
        let broken = |error: &(dyn Error + 'static)| match error.downcast_ref::<hyper::Error>() {
            None => false,
            Some(error) if self.is_http2 => is_of_stream(error),
            Some(_) if progress.is_cut() => true,
            Some(error) => progress.may_be_broken() && chain(error).any(is_malformed),
        };
        let find = || {
            if chain(error).any(|error| error.is::<LengthLimitError>() || error.is::<TooLarge>()) {
                return Some(Fault::TooLarge);
            }
            let fault = if progress.is_cut() { Fault::CutBody } else { Fault::BrokenBody };
            chain(error).any(broken).then_some(fault)
        };
        panic::catch(find).unwrap_or_else(|payload| {
            panic::discard(payload); // `Error::source` is user code
            None
        })
    }

    /// Answers a request that is at fault. The connection of HTTP/1 ends: otherwise the rest of the body would have to
    /// be read first.
    fn refuse<B>(self, fault: Fault, status: StatusCode) -> Response<AnswerBody<B>> {
        let mut response = empty(status);
        if !self.is_http2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            self.in_progress.progress().set_fault(fault);
        }
        self.finish(response)
    }

    fn chunk<D: Buf>(&self, data: D) -> Chunk<D> {
        let is_held = self.is_http2 && data.has_remaining();
        Chunk { data, in_progress: is_held.then(|| InProgress::part(self.in_progress.progress())) }
    }

    fn log_reset(&self, what: &str, fault: Option<Fault>, error: &(dyn Error + 'static)) {
        let (id, peer) = (self.connection.id().as_u64(), self.connection.peer_addr());
        let (run, error) = (self.connection.server().run(), panic::text(|| Chain(error).to_string()));
        run_line!(
            if fault.is_some() { Level::Debug } else { Level::Warn },
            run,
            [connection = id, peer:% = peer],
            "connection {id} from {peer}: {what} failed, and the stream is reset: {error}"
        );
    }

    fn note_panic(&self, what: &str, payload: Payload) {
        let (id, peer) = (self.connection.id().as_u64(), self.connection.peer_addr());
        self.counters().request_panicked();
        let (run, message) = (self.connection.server().run(), panic::message(&payload));
        run_line!(error, run, [connection = id, peer:% = peer], "connection {id} from {peer}: {what}: {message}");
        panic::discard(payload);
    }
}

pin_project! {
    /// The body of an answer. The request is in progress until the body is dropped.
    pub(super) struct AnswerBody<B> {
        // `None`: empty.
        #[pin]
        body: Option<B>,
        context: RequestContext,
    }

    impl<B> PinnedDrop for AnswerBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut body = this.project().body;
            panic::destroy(|| body.set(None));
        }
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for AnswerBody<B> {
    type Data = Chunk<B::Data>;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        match panic::catch(|| body.poll_frame(cx)) {
            Ok(poll) => {
                let context = &*this.context;
                poll.map_ok(|frame| frame.map_data(|data| context.chunk(data))).map_err(|error| {
                    let error = error.into();
                    let fault = context.fault(error.as_ref()); // the body may be made of the request's
                    if fault.is_none() {
                        context.counters().request_failed();
                    }
                    if context.is_http2 {
                        context.log_reset("the body of an HTTP answer", fault, error.as_ref());
                    }
                    error
                })
            }
            Err(payload) => {
                // The answer must not end as if it were complete.
                this.context.note_panic("the body of an HTTP answer panicked, and the answer is cut", payload);
                panic::destroy(|| this.body.set(None));
                Poll::Ready(Some(Err(explained(io::ErrorKind::Other, "the answer's body panicked").into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let Some(body) = &self.body else { return true };
        panic::catch(|| body.is_end_stream()).unwrap_or_else(|payload| {
            panic::discard(payload);
            false // the panic of the frame that is asked for next is logged
        })
    }

    fn size_hint(&self) -> SizeHint {
        let Some(body) = &self.body else { return SizeHint::with_exact(0) };
        panic::catch(|| body.size_hint()).unwrap_or_else(|payload| {
            panic::discard(payload);
            SizeHint::new()
        })
    }
}

/// Bytes of an answer. On HTTP/2 the request is in progress until they are sent: h2 takes a chunk as a whole, and sends
/// it as the client's window allows. By then the body may have been dropped.
pub(super) struct Chunk<D> {
    data: D,
    in_progress: Option<InProgress>,
}

impl<D: Buf> Chunk<D> {
    fn end_if_sent(&mut self) {
        if !self.data.has_remaining() {
            self.in_progress = None; // h2 keeps the last chunk for a while
        }
    }
}

impl<D: Buf> Buf for Chunk<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(dst)
    }

    fn advance(&mut self, cnt: usize) {
        self.data.advance(cnt);
        self.end_if_sent();
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let bytes = self.data.copy_to_bytes(len);
        self.end_if_sent();
        bytes
    }
}

/// The request announces a body that exceeds [`Http::max_body`](super::Http::max_body).
#[derive(Debug)]
struct TooLarge;

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the request's body is too large")
    }
}

impl Error for TooLarge {}

/// Returns whether this is hyper's error for a chunk that is malformed, or the end of a body that was cut off.
fn is_malformed(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(InvalidData | InvalidInput | UnexpectedEof))
}

/// Returns whether hyper's error may be that of a stream of HTTP/2. Those that remain come from hyper's clients and
/// from HTTP/1: a proxy's own connection has failed.
fn is_of_stream(error: &hyper::Error) -> bool {
    let is_other = error.is_user() || error.is_parse() || error.is_incomplete_message();
    !(is_other || error.is_canceled() || error.is_closed() || error.is_timeout())
}
