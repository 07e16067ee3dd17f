//! [`Error`] of `serve` and `scope`, with the report of the failed run; and [`OnFailure`], the policy for handlers.
//!
//! Inside the crate a failure is a [`Failure`] until the run is closed. Then [`Error::new`] joins it with the report.

use crate::address::Address;
use crate::panic::Chain;
use crate::run::report::{BoxError, Failure, Report};
use crate::text::{Escaped, escape};
use std::{fmt, io};

/// Error of [`Server::serve`](crate::Server::serve) and [`Server::scope`](crate::Server::scope).
///
/// The server is drained and closed when this error is returned. [`report`](Self::report) is the summary of its run,
/// [`kind`](Self::kind) names what failed, and [`source`](std::error::Error::source) is the error behind it.
/// [`downcast`](Self::downcast) returns that error by value.
///
/// # In functions that return `io::Result`
///
/// `?` converts it into [`io::Error`]. An `io::Error` that the body of a scope returned is passed on unchanged. Any
/// other error is wrapped.
///
/// # In `main`
///
/// `Display` is one short sentence. `Debug`, which `main` and `unwrap` print, is that sentence, the errors behind it,
/// and the report:
///
/// ```text
/// Error: the handler of the connection from `10.0.0.7:51034` failed: disk full (closed in 2ms because a handler
/// failed: 1 accepted, 0 completed, 1 failed, 0 panicked, 0 cancelled; of these, 0 ended during the drain)
/// ```
///
/// A `main` that returns `Result<(), BoxError>` prints exactly this ([`BoxError`](crate::BoxError)). If it returns
/// `io::Result<()>`, std prints the same line inside `Custom { kind: …, error: … }`.
///
/// # Examples
///
/// The error of a body:
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, ErrorKind, Server};
/// use std::io;
///
/// async fn body() -> io::Result<()> {
///     Err(io::Error::new(io::ErrorKind::NotFound, "no such room"))
/// }
///
/// let scope = Server::bind("127.0.0.1:0").await?.scope(async |_: Connection| {}, async |_| {
///     body().await?;
///     Ok(())
/// });
/// let error = scope.await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Body);
/// assert_eq!(error.report().accepted(), 0);
/// assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
/// # io::Result::Ok(()) }).unwrap();
/// ```
///
/// What a `main` that returns `Result<(), BoxError>` prints:
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, Listener, OnFailure, Server};
///
/// let (listener, connector) = Listener::memory();
/// let client = connector.connect().await?;
/// let server = Server::new(listener).on_failure(OnFailure::Shutdown);
/// let error = server.serve(async |_: Connection| Err::<(), _>("disk full")).await.unwrap_err();
/// assert_eq!(error.to_string(), "the handler of the connection from `memory:0` failed");
/// let in_main = format!("Error: {:?}", ebbtide::BoxError::from(error));
/// assert!(in_main.starts_with("Error: the handler of the connection from `memory:0` failed: disk full (closed in "));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
pub struct Error(Box<ErrorParts>); // boxed: a large error makes every `Result` with it large

struct ErrorParts {
    kind: ErrorKind,
    /// Address of the listener or the peer, if the error is about one.
    address: Option<Address>,
    /// Message of a panic, or why this process cannot serve the listener. Empty for all other errors.
    message: String,
    /// The error behind this one. `None` for a panic, a forked process, and `Stopped`.
    source: Option<BoxError>,
    report: Report,
}

/// Kinds of [`Error`]: what made `serve` or `scope` fail. See [`Error::kind`].
///
/// # Examples
///
/// ```
/// use ebbtide::{Error, ErrorKind};
///
/// /// Exit status of a program.
/// fn exit_status(error: &Error) -> u8 {
///     match error.kind() {
///         ErrorKind::Listener => 69, // EX_UNAVAILABLE
///         ErrorKind::Body | ErrorKind::Stopped => 1,
///         _ => 70, // EX_SOFTWARE
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A listener failed permanently; or this process was forked after the bind and cannot serve the listener.
    /// [`Error::address`] is the listener's.
    Listener,
    /// A handler returned an error under [`OnFailure::Shutdown`]. [`Error::address`] is the peer's.
    Handler,
    /// A handler, or a task of its connection, panicked under [`OnFailure::Shutdown`]. [`Error::address`] is the
    /// peer's.
    HandlerPanicked,
    /// The body of the scope returned an error.
    Body,
    /// Something else stopped the server while the body of its scope was still running, and the body was dropped.
    /// [`Report::cause`] names it.
    Stopped,
    /// There is no executor: neither the feature `async-std` nor `smol` is on, and the server was given none by
    /// [`Server::executor`](crate::Server::executor). Or the executor has dropped a task that the server needs, for
    /// example because its runtime has shut down.
    NoExecutor,
}

impl Error {
    pub(crate) fn new(failure: Failure, report: Report) -> Self {
        let inner =
            ErrorParts { kind: ErrorKind::Listener, address: None, message: String::new(), source: None, report };
        Self(Box::new(match failure {
            Failure::Listener { address, source } => {
                ErrorParts { address: Some(address), source: Some(source.into()), ..inner }
            }
            Failure::Forked { address, why } => ErrorParts { address: Some(address), message: why, ..inner },
            Failure::Handler { peer, source } => {
                ErrorParts { kind: ErrorKind::Handler, address: Some(peer), source: Some(source), ..inner }
            }
            Failure::HandlerPanicked { peer, message } => {
                ErrorParts { kind: ErrorKind::HandlerPanicked, address: Some(peer), message, ..inner }
            }
            Failure::Body { source } => ErrorParts { kind: ErrorKind::Body, source: Some(source), ..inner },
            Failure::Stopped => ErrorParts { kind: ErrorKind::Stopped, ..inner },
            Failure::NoExecutor => ErrorParts { kind: ErrorKind::NoExecutor, ..inner },
            Failure::TaskDropped { task } => ErrorParts { kind: ErrorKind::NoExecutor, message: task, ..inner },
        }))
    }

    /// Returns the kind of the error: what failed.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, ErrorKind, Listener, Server};
    ///
    /// let server = Server::new(Listener::memory().0);
    /// let scope = server.scope(async |_: Connection| {}, async |_| Err::<(), _>("no such room".into()));
    /// assert_eq!(scope.await.unwrap_err().kind(), ErrorKind::Body);
    /// # });
    /// ```
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the summary of the server's run.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Cause, Connection, Listener, Server};
    ///
    /// let server = Server::new(Listener::memory().0);
    /// let scope = server.scope(async |_: Connection| {}, async |_| Err::<(), _>("no such room".into()));
    /// let error = scope.await.unwrap_err();
    /// assert_eq!(error.report().cause(), Cause::BodyFailed);
    /// # });
    /// ```
    pub fn report(&self) -> &Report {
        &self.0.report
    }

    /// Returns the summary of the server's run, by value.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Report, Server};
    ///
    /// let server = Server::new(Listener::memory().0);
    /// let scope = server.scope(async |_: Connection| {}, async |_| Err::<(), _>("no such room".into()));
    /// let report: Report = match scope.await {
    ///     Ok(((), report)) => report,
    ///     Err(error) => error.into_report(),
    /// };
    /// assert_eq!(report.accepted(), 0);
    /// # });
    /// ```
    pub fn into_report(self) -> Report {
        self.0.report
    }

    /// Returns the kind of the `io::Error` that this error is wrapped in.
    pub(crate) fn io_kind(&self) -> io::ErrorKind {
        match self.0.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(source) if self.kind() == ErrorKind::Listener => source.kind(),
            _ => io::ErrorKind::Other,
        }
    }

    /// Returns the address of the listener or the peer that failed. `None` if the error is not about one.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, OnFailure, Server};
    ///
    /// let (listener, connector) = Listener::memory();
    /// let client = connector.connect().await?;
    /// let server = Server::new(listener).on_failure(OnFailure::Shutdown);
    /// let error = server.serve(async |_: Connection| Err::<(), _>("disk full")).await.unwrap_err();
    /// assert_eq!(error.address().unwrap().to_string(), "memory:0");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn address(&self) -> Option<&Address> {
        self.0.address.as_ref()
    }

    /// Returns the error behind this one, by value, if its type is `E`: the error that the handler or the body
    /// returned, or the one of accept.
    ///
    /// # Errors
    ///
    /// Returns this error, unchanged, if the error behind it has another type, or if there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Server};
    /// use std::num::ParseIntError;
    ///
    /// let server = Server::new(Listener::memory().0);
    /// let scope = server.scope(async |_: Connection| {}, async |_| Ok("seven".parse::<u8>()?));
    /// let error = scope.await.unwrap_err();
    /// let error = error.downcast::<std::fmt::Error>().unwrap_err(); // not this type: returned unchanged
    /// let error: ParseIntError = error.downcast().unwrap();
    /// assert_eq!(error.to_string(), "invalid digit found in string");
    /// # });
    /// ```
    pub fn downcast<E: std::error::Error + 'static>(mut self) -> Result<E, Self> {
        match self.0.source.take().map(|source| source.downcast::<E>()) {
            Some(Ok(source)) => Ok(*source),
            Some(Err(source)) => {
                self.0.source = Some(source);
                Err(self)
            }
            None => Err(self),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorParts { kind, address, message, report, .. } = &*self.0;
        let address = address.as_ref().map(|address| format!(" `{address}`")).unwrap_or_default();
        match kind {
            ErrorKind::Listener if !message.is_empty() => write!(f, "cannot serve on{address}: {message}"),
            ErrorKind::Listener => write!(f, "cannot accept connections on{address} any more"),
            ErrorKind::Handler => write!(f, "the handler of the connection from{address} failed"),
            ErrorKind::HandlerPanicked => {
                write!(f, "the handler of the connection from{address} panicked: {}", escape(message))
            }
            ErrorKind::Body => f.write_str("the body of the server's scope failed"),
            ErrorKind::NoExecutor if !message.is_empty() => write!(
                f,
                "the executor has dropped {message}, so the server was closed: keep the executor, or its runtime, \
                 until `serve` has returned"
            ),
            ErrorKind::NoExecutor => f.write_str(
                "cannot serve without an executor: turn on the feature `async-std` or `smol` of ebbtide, or give the \
                 server one by `Server::executor`",
            ),
            ErrorKind::Stopped => {
                write!(f, "the server was stopped before the body of its scope returned, because {}", report.cause())
            }
        }
    }
}

/// One line for `main` and `unwrap`: the sentence of `Display`, the errors behind it, and the report.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", Escaped(Chain(self)), self.0.report)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// Returns an `io::Error` of a scope's body unchanged, and wraps any other error.
///
/// A wrapped error has the [`kind`](io::Error::kind) of the listener's error if a listener failed, and
/// [`Other`](io::ErrorKind::Other) otherwise. The [`Error`] with its report is inside:
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, Error, Listener, Server};
/// use std::io;
///
/// let server = Server::new(Listener::memory().0);
/// let scope = server.scope(async |_: Connection| {}, async |_| Err::<(), _>("no such room".into()));
/// let error = io::Error::from(scope.await.unwrap_err());
/// let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).unwrap();
/// assert_eq!(inner.report().accepted(), 0);
/// # });
/// ```
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let error = match error.kind() {
            ErrorKind::Body => match error.downcast::<io::Error>() {
                Ok(body) => return body,
                Err(error) => match error.downcast::<Error>() {
                    Ok(inner) => return inner.into(), // of an inner scope that the body ran
                    Err(error) => error,
                },
            },
            _ => error,
        };
        Self::new(error.io_kind(), error)
    }
}

/// Policies for the failure of a handler. See [`Server::on_failure`](crate::Server::on_failure).
///
/// A handler fails if it returns an error that its own stream did not give it, or if it panics. It also fails if a task
/// of its connection panics after the task's [`JoinHandle`](crate::JoinHandle) was dropped. What a peer causes is not a
/// failure: [`EndReason`](crate::EndReason) lists both.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, ErrorKind, Listener, OnFailure, Server};
///
/// let (listener, connector) = Listener::memory();
/// let client = connector.connect().await?;
/// let server = Server::new(listener).on_failure(OnFailure::Shutdown);
/// let error = server.serve(async |_: Connection| Err::<(), _>("disk full")).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Handler);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFailure {
    /// The failure ends its own connection; it is logged and counted. The default: one bad client must not take the
    /// others down.
    #[default]
    Isolate,
    /// The first failure shuts the server down: the other handlers are drained, and `serve` returns the failure. As in
    /// trio's `serve_listeners`. For servers with handlers that must never fail, and for tests.
    Shutdown,
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Isolate => "isolate",
            Self::Shutdown => "shutdown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::counts::Counts;
    use crate::run::report::Cause;
    use std::time::Duration;

    fn error(failure: Failure) -> Error {
        Error::new(failure, Report::new(Cause::Shutdown, Counts::default(), Vec::new(), Duration::from_millis(5)))
    }

    fn listener() -> Failure {
        Failure::Listener { address: Address::named("memory"), source: io::ErrorKind::InvalidInput.into() }
    }

    #[test]
    fn debug_is_a_sentence_with_the_errors_behind_it_and_the_report() {
        let shown = format!("{:?}", error(listener()));
        assert!(shown.starts_with("cannot accept connections on `memory` any more: invalid input"), "{shown}");
        assert!(shown.contains("(closed in 5ms because a shutdown was requested: 0 accepted"), "{shown}");
    }

    #[test]
    fn a_bodys_io_error_is_returned_unchanged_and_every_other_error_is_wrapped() {
        let body = || Failure::Body { source: io::Error::new(io::ErrorKind::NotFound, "its own").into() };
        let converted = io::Error::from(error(body()));
        assert_eq!((converted.kind(), converted.to_string()), (io::ErrorKind::NotFound, "its own".to_owned()));

        let wrapped = [
            (listener(), io::ErrorKind::InvalidInput),
            (Failure::Body { source: "text".into() }, io::ErrorKind::Other),
            (Failure::Stopped, io::ErrorKind::Other),
            (
                // The kind of a handler's error is dropped: a reset peer must not look like a reset server.
                Failure::Handler { peer: Address::named("p"), source: io::Error::from(io::ErrorKind::NotFound).into() },
                io::ErrorKind::Other,
            ),
        ];
        for (failure, kind) in wrapped {
            let converted = io::Error::from(error(failure));
            assert_eq!(converted.kind(), kind, "{converted}");
            let inner = converted.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            assert!(inner.is_some(), "{converted} lost its report");
        }
    }

    #[test]
    fn the_io_error_of_an_inner_scopes_body_passes_through_both_scopes() {
        let inner = error(Failure::Body { source: io::Error::new(io::ErrorKind::NotFound, "inner").into() });
        let outer = error(Failure::Body { source: inner.into() });
        assert_eq!(io::Error::from(outer).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn downcast_returns_the_error_behind_it_or_the_error_unchanged() {
        assert_eq!(error(listener()).downcast::<io::Error>().unwrap().kind(), io::ErrorKind::InvalidInput);
        let same = error(listener()).downcast::<fmt::Error>().unwrap_err();
        assert!(std::error::Error::source(&same).is_some());
        assert!(error(Failure::Stopped).downcast::<io::Error>().is_err());
    }
}
