//! [`Error`]: why `serve` or `scope` failed.

use crate::address::Address;
use crate::panic::Chain;
use crate::run::report::{BoxError, Failure, Report};
use crate::text::{Escaped, escape};
use std::{fmt, io};

/// Error of [`Server::serve`](crate::Server::serve) and [`Server::scope`](crate::Server::scope).
///
/// The server was drained and closed all the same; [`report`](Self::report) has the summary of its run.
/// [`kind`](Self::kind) tells what failed, [`source`](std::error::Error::source) has the error behind it, and
/// [`downcast`](Self::downcast) gives that by value.
///
/// It converts into [`io::Error`], so that `?` works in functions that return `io::Result`: an `io::Error` that the
/// body of a scope returned comes out as it was, any other error is wrapped.
///
/// # Examples
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
pub struct Error(Box<ErrorParts>); // a large error makes every `Result` large that may hold it

struct ErrorParts {
    kind: ErrorKind,
    /// Of the listener or of the peer.
    address: Option<Address>,
    /// What a panic said, or why there is nothing to be served here.
    message: String,
    source: Option<BoxError>,
    report: Report,
}

/// What made `serve` or `scope` fail: see [`Error::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A listener failed for good, or cannot be served in this process, which was forked after the bind. The
    /// [address](Error::address) is the listener's.
    Listener,
    /// A handler returned an error under [`OnFailure::Shutdown`]. The [address](Error::address) is the peer's.
    Handler,
    /// A handler, or a task of its connection, panicked under [`OnFailure::Shutdown`]. The [address](Error::address) is
    /// the peer's.
    HandlerPanicked,
    /// The body of the scope returned an error.
    Body,
    /// The server was stopped by others before the body of its scope returned, and the body was dropped.
    Stopped,
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
        }))
    }

    /// Returns what failed.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the summary of the server's run.
    pub fn report(&self) -> &Report {
        &self.0.report
    }

    /// Returns the summary of the server's run, by value.
    pub fn into_report(self) -> Report {
        self.0.report
    }

    /// Returns the address of the listener or of the peer that failed, if the error is about one.
    pub fn address(&self) -> Option<&Address> {
        self.0.address.as_ref()
    }

    /// Returns the error behind this one, by value, if it is an `E`: what the handler or the body returned, or what
    /// accepting failed with.
    ///
    /// # Errors
    ///
    /// The error itself, unchanged, if there is no such error behind it.
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
            ErrorKind::Stopped => {
                write!(f, "the server was stopped before the body of its scope returned, because {}", report.cause())
            }
        }
    }
}

/// One sentence, with the errors behind it and the report: for `main`, and for `unwrap`.
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

/// A body's `io::Error` comes out as it was. Any other error is wrapped, with the listener's [`kind`](io::Error::kind)
/// if it is one of a listener; its report is still inside.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let error = match error.kind() {
            ErrorKind::Body => match error.downcast::<io::Error>() {
                Ok(body) => return body,
                Err(error) => match error.downcast::<Error>() {
                    Ok(inner) => return inner.into(), // of a scope in the body
                    Err(error) => error,
                },
            },
            _ => error,
        };
        let kind = match error.0.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(source) if error.kind() == ErrorKind::Listener => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// What the failure of a handler means for the server: see [`Server::on_failure`](crate::Server::on_failure).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFailure {
    /// It ends its own connection, is logged and counted. The default: one bad client must not take the others down.
    #[default]
    Isolate,
    /// The first one shuts the server down, which drains the others and returns the failure. As trio's
    /// `serve_listeners` does; for servers whose handlers must never fail, and for tests. What a peer causes (an error
    /// that the handler's own stream gave it, see [`EndReason`](crate::EndReason)) is no failure of this kind.
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
    fn debug_reads_as_a_sentence_with_what_is_behind_it_and_the_report() {
        let shown = format!("{:?}", error(listener()));
        assert!(shown.starts_with("cannot accept connections on `memory` any more: invalid input"), "{shown}");
        assert!(shown.contains("(closed in 5ms because a shutdown was requested: 0 accepted"), "{shown}");
    }

    #[test]
    fn a_bodys_io_error_comes_out_as_it_was_and_every_other_is_wrapped() {
        let body = || Failure::Body { source: io::Error::new(io::ErrorKind::NotFound, "its own").into() };
        let converted = io::Error::from(error(body()));
        assert_eq!((converted.kind(), converted.to_string()), (io::ErrorKind::NotFound, "its own".to_owned()));

        let wrapped = [
            (listener(), io::ErrorKind::InvalidInput),
            (Failure::Body { source: "text".into() }, io::ErrorKind::Other),
            (Failure::Stopped, io::ErrorKind::Other),
            (
                // A handler's kind is not the server's: a reset peer must not look like a reset server.
                Failure::Handler { peer: Address::named("p"), source: io::Error::from(io::ErrorKind::NotFound).into() },
                io::ErrorKind::Other,
            ),
        ];
        for (failure, kind) in wrapped {
            let converted = io::Error::from(error(failure));
            assert_eq!(converted.kind(), kind, "{converted}");
            let inner = converted.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            assert!(inner.is_some(), "the report is still inside of {converted}");
        }
    }

    #[test]
    fn a_scope_within_the_body_of_a_scope_passes_the_inner_bodys_io_error_on() {
        let inner = error(Failure::Body { source: io::Error::new(io::ErrorKind::NotFound, "inner").into() });
        let outer = error(Failure::Body { source: inner.into() });
        assert_eq!(io::Error::from(outer).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn downcast_gives_the_error_behind_it_or_leaves_everything_as_it_is() {
        assert_eq!(error(listener()).downcast::<io::Error>().unwrap().kind(), io::ErrorKind::InvalidInput);
        let same = error(listener()).downcast::<fmt::Error>().unwrap_err();
        assert!(std::error::Error::source(&same).is_some());
        assert!(error(Failure::Stopped).downcast::<io::Error>().is_err());
    }
}
