//! The HTTP servers: one service by hyper on each runtime, and the same answer by tide.

mod async_std;
mod ebbtide;
mod tide;
mod tokio;

use super::Peer;
use crate::control::Control;
use crate::http::{Answer, PART, Version};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::{Request, Response};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(super) fn serve(peer: Peer, version: Version, answer: Answer, threads: usize, control: &Control) -> io::Result<()> {
    match (peer, version, answer.streaming) {
        (Peer::Ebbtide, _, _) => ebbtide::serve(answer, control),
        (Peer::AsyncStd, _, _) => async_std::serve(version, answer, control),
        (Peer::Tide, Version::Http1, false) => tide::serve(control),
        (peer, _, _) => match peer.form() {
            Some(form) => tokio::serve(form, threads, answer, control),
            None => Err(io::Error::other("it has no such server")),
        },
    }
}

/// The service of all peers on hyper. Each makes a `service_fn` of it.
async fn hello(_: Request<Incoming>, answer: Answer) -> Result<Response<Either<Full<Bytes>, Parts>>, Infallible> {
    Ok(Response::new(if answer.streaming {
        Either::Right(Parts { left: answer.parts(), paused: false })
    } else {
        Either::Left(Full::new(Bytes::from_static(PART)))
    }))
}

/// The body of a streaming answer.
struct Parts {
    left: usize,
    /// The task has been scheduled again since the last part.
    paused: bool,
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.paused = !self.paused;
        if self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(PART)))))
    }
}
