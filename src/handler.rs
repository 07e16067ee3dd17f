//! [`HandlerOutput`]: what a handler may return, and what that means.

use crate::panic::{self, Payload};
use crate::run::registry::Bucket;
use crate::run::report::BoxError;
use log::Level;
use std::fmt;
use std::future::Future;
use std::io;
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
}

/// Why a connection was closed before its handler was called.
pub(crate) struct Rejection {
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

    pub(crate) fn bucket(&self) -> Bucket {
        match self {
            Self::Completed => Bucket::Completed,
            Self::Failed(_) | Self::Rejected(_) | Self::TimedOut(_) => Bucket::Failed,
            Self::Panicked(_) | Self::TaskPanicked(_) => Bucket::Panicked,
        }
    }
}

/// How loud a handler's error is: a flood of resets is not news.
pub(crate) fn level_of(error: &BoxError) -> Level {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut, UnexpectedEof, WriteZero,
    };
    // Only the error itself, as reading and writing return it. One that is wrapped in another may come from anywhere,
    // such as a database, and that is news.
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    match kind {
        Some(
            BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut | UnexpectedEof | WriteZero,
        ) => Level::Debug,
        _ => Level::Warn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_caused_is_not_news() {
        let table = [
            (io::ErrorKind::ConnectionReset, Level::Debug),
            (io::ErrorKind::BrokenPipe, Level::Debug),
            (io::ErrorKind::UnexpectedEof, Level::Debug),
            (io::ErrorKind::TimedOut, Level::Debug),
            (io::ErrorKind::InvalidData, Level::Warn),
            (io::ErrorKind::PermissionDenied, Level::Warn),
        ];
        for (kind, level) in table {
            assert_eq!(level_of(&io::Error::from(kind).into()), level, "{kind}");
        }
        assert_eq!(level_of(&"no such user".into()), Level::Warn);
    }

    #[test]
    fn each_output_has_its_bucket() {
        use sealed::Sealed;
        use std::task::Waker;
        let bucket = |mut handler: Pin<Box<dyn Future<Output = Result<(), BoxError>>>>| match Outcome::poll(
            handler.as_mut(),
            &mut Context::from_waker(Waker::noop()),
        ) {
            Poll::Ready(outcome) => outcome.bucket(),
            Poll::Pending => panic!("it has nothing to wait for"),
        };
        assert_eq!(bucket(Box::pin(async { ().into_result() })), Bucket::Completed);
        assert_eq!(bucket(Box::pin(async { Ok::<_, io::Error>(()).into_result() })), Bucket::Completed);
        assert_eq!(bucket(Box::pin(async { Err::<(), _>("no").into_result() })), Bucket::Failed);
        assert_eq!(bucket(Box::pin(async { std::panic::resume_unwind(Box::new("oh")) })), Bucket::Panicked);
    }
}
