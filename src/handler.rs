//! [`HandlerOutput`]: what a handler may return; and [`Outcome`]: how the handler of a connection ended.

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
/// A handler is any `Fn(Connection) -> Future`: an async function, or a closure. `Ok` and `()` count as
/// [completed](crate::Report::completed), an error as [failed](crate::Report::failed), or as
/// [disconnected](crate::Report::disconnected) if the peer caused it.
///
/// This trait is sealed: it is not for you to implement. It lets the compiler explain what is wrong with a handler.
///
/// # Examples
///
/// `io::copy` returns a number, and a handler may not return one. End such a handler with `Ok(())`:
///
/// ```
/// use async_std::io;
/// use ebbtide::{Connection, Listener, Server};
///
/// async fn echo(conn: Connection) -> io::Result<()> {
///     io::copy(&mut &conn, &mut &conn).await?;
///     Ok(())
/// }
/// # async_std::task::block_on(async {
/// # let (listener, connector) = Listener::memory();
/// # drop(connector.connect().await?);
/// let (_, report) = Server::new(listener).scope(echo, async |_| {}).await?;
/// assert_eq!(report.completed(), 1);
/// # io::Result::Ok(()) }).unwrap();
/// ```
///
/// This does not compile:
///
/// ```compile_fail,E0277
/// # use ebbtide::{Connection, Server};
/// # async fn example(server: Server) -> std::io::Result<()> {
/// async fn echo(conn: Connection) -> async_std::io::Result<u64> {
///     async_std::io::copy(&mut &conn, &mut &conn).await
/// }
/// server.serve(echo).await?;
/// # Ok(()) }
/// ```
///
/// # Closures that do not compile
///
/// - `async |conn| { …?; Ok(()) }`: the compiler cannot infer the error type of `Ok(())` (E0282, "type annotations
///   needed"; E0283 with `Err("…".into())`). Write the output of the closure, or use an async function.
/// - `async move |conn| { … }` that captures state: "async closure does not implement `Fn` because it captures state
///   from its environment". The future of such a closure borrows what the closure has captured, and a handler's future
///   must own it. Use a plain closure that clones the state for each call, in an [`Arc`](std::sync::Arc).
///
/// Both in the forms that compile:
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::{io, prelude::*};
/// use ebbtide::{Connection, Listener, Server};
/// use std::sync::Arc;
///
/// # let (listener, connector) = Listener::memory();
/// # let server = Server::new(listener);
/// # let _client = connector.connect().await?;
/// let hello = async |mut conn: Connection| -> io::Result<()> {
///     conn.write_all(b"hello").await?;
///     Ok(())
/// };
/// server.scope(hello, async |_| {}).await?;
///
/// # let (listener, connector) = Listener::memory();
/// # let server = Server::new(listener);
/// # let mut client = connector.connect().await?;
/// async fn greet(mut conn: Connection, greeting: Arc<String>) -> io::Result<()> {
///     conn.write_all(greeting.as_bytes()).await
/// }
/// let greeting = Arc::new("hello".to_owned());
/// server.scope(move |conn| greet(conn, Arc::clone(&greeting)), async |_| {}).await?;
/// # let mut text = String::new();
/// # client.read_to_string(&mut text).await?;
/// # assert_eq!(text, "hello");
/// # io::Result::Ok(()) }).unwrap();
/// ```
///
/// And in the forms that do not:
///
/// ```compile_fail,E0282
/// # use async_std::prelude::*;
/// # use ebbtide::{Connection, Server};
/// # async fn example(server: Server) -> std::io::Result<()> {
/// server
///     .serve(async |mut conn: Connection| {
///         conn.write_all(b"hello").await?;
///         Ok(())
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// ```compile_fail
/// # use async_std::prelude::*;
/// # use ebbtide::{Connection, Server};
/// # async fn example(server: Server, greeting: std::sync::Arc<String>) -> std::io::Result<()> {
/// server.serve(async move |mut conn: Connection| conn.write_all(greeting.as_bytes()).await).await?;
/// # Ok(()) }
/// ```
#[doc(alias = "handler")]
#[doc(alias = "IntoResponse")]
#[diagnostic::on_unimplemented(
    message = "a handler must return `()` or `Result<(), E>`, not `{Self}`",
    label = "this handler returns `{Self}`",
    note = "for a `Result` with a value, such as `io::Result<u64>`: end the handler with `.await?; Ok(())`",
    note = "for `Box<dyn Error>`: use `ebbtide::BoxError`, which is `Send + Sync`",
    note = "for an error type of your own: implement `std::error::Error` for it (and it must be `Send + Sync`)"
)]
pub trait HandlerOutput: sealed::Sealed {}

pub(crate) mod sealed {
    use crate::run::report::BoxError;

    pub trait Sealed {
        /// Converts what the handler returned.
        fn into_result(self) -> Result<(), BoxError>;
    }

    /// Names the output of a function type: see [`Never`](super::Never).
    pub trait FnOutput {
        type Output;
    }
}

#[diagnostic::do_not_recommend] // the trait's notes list what a handler may return
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

/// The type `!`, the output of a function that never returns. Stable Rust has no name for it.
pub(crate) type Never = <fn() -> ! as sealed::FnOutput>::Output;

impl<R> sealed::FnOutput for fn() -> R {
    type Output = R;
}

/// A handler that loops forever. It ends when its connection is cancelled.
#[diagnostic::do_not_recommend]
impl HandlerOutput for Never {}

impl sealed::Sealed for Never {
    fn into_result(self) -> Result<(), BoxError> {
        self
    }
}

/// How a handler ended by itself. A handler that was cancelled has none.
#[derive(Debug)]
pub(crate) enum Outcome {
    Completed,
    /// It returned an error. `connection/blame.rs` decides whether the peer is at fault.
    Failed(BoxError),
    Panicked(String),
    /// A task of its connection panicked. That has already been logged.
    TaskPanicked(String),
    /// It was never called: the connection could not be opened.
    Rejected(Rejection),
    /// The connection made no progress for too long.
    TimedOut(TimedOut),
}

/// The limit that a connection has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimedOut {
    /// No byte was read or written for this time.
    Idle(Duration),
    /// A pending write made no progress for this time.
    Write(Duration),
    /// The peer acknowledged nothing for this time, although there was something to acknowledge.
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
            Self::Idle(limit) => write!(f, "no byte was read or written for {}", Span(limit)),
            Self::Write(limit) => write!(f, "a pending write made no progress for {}", Span(limit)),
            Self::Ack(limit) => {
                let limit = Span(limit);
                write!(f, "the peer has vanished: it acknowledged nothing for {limit}, with bytes on their way to it")
            }
        }
    }
}

/// Why a connection was closed before its handler was called.
pub(crate) struct Rejection {
    pub(crate) end: EndReason,
    /// For the log.
    pub(crate) reason: Box<dyn fmt::Display + Send>,
    /// Of the log line. What a peer can cause by itself is at debug.
    pub(crate) level: Level,
    /// Bytes for the peer are still on their way (a TLS alert), so the connection lingers.
    pub(crate) lingers: bool,
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rejection({})", self.reason)
    }
}

impl Outcome {
    /// Polls a handler, and converts what it returns. All of that is user code, so it runs inside a catch.
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

    /// Makes the outcome of a panic, and drops its payload.
    pub(crate) fn panicked(payload: Payload) -> Self {
        let message = panic::message(&payload).to_owned();
        panic::discard(payload);
        Self::Panicked(message)
    }

    /// Returns how the end is counted, if an error that the handler returned is its own fault.
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
