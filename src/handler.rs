//! [`HandlerOutput`]: what a handler may return, and what that means.

use crate::panic::{self, Payload};
use crate::run::end_reason::EndReason;
use crate::run::report::BoxError;
use crate::span::Span;
use log::Level;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// What a handler may return: `()`, `!`, or a `Result<(), E>` whose error converts into [`BoxError`].
///
/// You do not implement this trait: it is sealed. It is there so that the compiler can say what is wrong with a
/// handler.
///
/// A closure that ends with `Ok(())` names its error type, since any would do:
/// `async |conn: Connection| -> io::Result<()> { … }`.
///
/// A handler that copies bytes returns their number. That does not compile; end such a handler with `Ok(())`:
///
/// ```compile_fail,E0277
/// # use ebbtide::{Connection, Server};
/// # async fn example() -> std::io::Result<()> {
/// async fn echo(conn: Connection) -> async_std::io::Result<u64> {
///     async_std::io::copy(&mut &conn, &mut &conn).await
/// }
/// Server::bind("127.0.0.1:0").await?.serve(echo).await?;
/// # Ok(()) }
/// ```
///
/// ```
/// # use ebbtide::{Connection, Server};
/// # async fn example() -> std::io::Result<()> {
/// async fn echo(conn: Connection) -> async_std::io::Result<()> {
///     async_std::io::copy(&mut &conn, &mut &conn).await?;
///     Ok(())
/// }
/// Server::bind("127.0.0.1:0").await?.serve(echo).await?;
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "a handler must return `()` or `Result<(), E>`, not `{Self}`",
    label = "this handler returns `{Self}`",
    note = "for `io::Result<u64>` and the like: end the handler with `.await?; Ok(())`",
    note = "for `Box<dyn Error>`: use `ebbtide::BoxError`, which is `Send + Sync`",
    note = "for an error type of your own: implement `std::error::Error` for it (and it must be `Send + Sync`)"
)]
pub trait HandlerOutput: sealed::Sealed {}

pub(crate) mod sealed {
    use crate::run::report::BoxError;

    pub trait Sealed {
        fn into_result(self) -> Result<(), BoxError>;
    }

    pub trait FnOutput {
        type Output;
    }
}

#[diagnostic::do_not_recommend] // the notes of the trait name what there is
impl HandlerOutput for () {}

impl sealed::Sealed for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> HandlerOutput for Result<(), E> {}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> sealed::Sealed for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// The type `!`, which has no name of its own on stable Rust: the output of a function that never returns.
pub(crate) type Never = <fn() -> ! as sealed::FnOutput>::Output;

impl<R> sealed::FnOutput for fn() -> R {
    type Output = R;
}

/// A handler that loops for ever: it ends with its connection.
#[diagnostic::do_not_recommend]
impl HandlerOutput for Never {}

impl sealed::Sealed for Never {
    fn into_result(self) -> Result<(), BoxError> {
        self
    }
}

/// How a handler ended by itself. One that did not was cancelled, and has none.
#[derive(Debug)]
pub(crate) enum Outcome {
    Completed,
    /// It returned an error: `connection/blame.rs` tells whose fault that is.
    Failed(BoxError),
    Panicked(String),
    /// A task of its connection panicked, which has been logged.
    TaskPanicked(String),
    /// It was never called: the connection could not be opened.
    Rejected(Rejection),
    /// Nothing went over its connection for longer than may be.
    TimedOut(TimedOut),
}

/// Which limit was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimedOut {
    /// No byte went either way for this time.
    Idle(Duration),
    /// The peer has taken nothing of a write for this time.
    Write(Duration),
    /// The peer has acknowledged nothing for this time, although there was something to acknowledge.
    Ack(Duration),
}

impl TimedOut {
    fn reason(self) -> EndReason {
        match self {
            Self::Idle(_) => EndReason::IdleTimeout,
            Self::Write(_) => EndReason::WriteTimeout,
            Self::Ack(_) => EndReason::AckTimeout,
        }
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Idle(limit) => write!(f, "no byte went either way for {}", Span(limit)),
            Self::Write(limit) => write!(f, "the peer has taken nothing of a write for {}", Span(limit)),
            Self::Ack(limit) => write!(
                f,
                "the peer has vanished: for {} it has acknowledged nothing of what is on its way to it",
                Span(limit)
            ),
        }
    }
}

/// Why a connection was closed before its handler was called.
pub(crate) struct Rejection {
    pub(crate) end: EndReason,
    pub(crate) reason: Box<dyn fmt::Display + Send>,
    /// For the log: what a peer caused is not news.
    pub(crate) level: Level,
    /// Something is still being sent to the peer, so the connection is closed with care.
    pub(crate) is_told: bool,
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rejection({})", self.reason)
    }
}

impl Outcome {
    /// Polls a handler, and converts what it returns. All of that is user code.
    pub(crate) fn poll<F>(handler: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<Self>
    where
        F: Future<Output: HandlerOutput> + ?Sized,
    {
        match panic::catch(|| handler.poll(cx).map(sealed::Sealed::into_result)) {
            Ok(poll) => poll.map(Self::returned),
            Err(payload) => Poll::Ready(Self::panicked(payload)),
        }
    }

    fn returned(result: Result<(), BoxError>) -> Self {
        match result {
            Ok(()) => Self::Completed,
            Err(error) => Self::Failed(error),
        }
    }

    pub(crate) fn panicked(payload: Payload) -> Self {
        let message = panic::message(&payload).to_owned();
        panic::discard(payload);
        Self::Panicked(message)
    }

    /// How its end is counted, if an error that it returned is its own fault.
    pub(crate) fn reason(&self) -> EndReason {
        match self {
            Self::Completed => EndReason::Completed,
            Self::Failed(_) => EndReason::Failed,
            Self::Panicked(_) => EndReason::Panicked,
            Self::TaskPanicked(_) => EndReason::TaskPanicked,
            Self::Rejected(why) => why.end,
            Self::TimedOut(limit) => limit.reason(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_output_has_its_reason() {
        use sealed::Sealed;
        use std::io;
        use std::task::Waker;
        let reason = |mut handler: Pin<Box<dyn Future<Output = Result<(), BoxError>>>>| match Outcome::poll(
            handler.as_mut(),
            &mut Context::from_waker(Waker::noop()),
        ) {
            Poll::Ready(outcome) => outcome.reason(),
            Poll::Pending => panic!("it has nothing to wait for"),
        };
        assert_eq!(reason(Box::pin(async { ().into_result() })), EndReason::Completed);
        assert_eq!(reason(Box::pin(async { Ok::<_, io::Error>(()).into_result() })), EndReason::Completed);
        assert_eq!(reason(Box::pin(async { Err::<(), _>("no").into_result() })), EndReason::Failed);
        assert_eq!(reason(Box::pin(async { std::panic::resume_unwind(Box::new("oh")) })), EndReason::Panicked);
    }
}
