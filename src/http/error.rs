//! [`Error`]: why serving a connection's HTTP ended early, and whose fault it is.

use super::progress::Fault;
use crate::connection::Connection;
use crate::panic::{Chain, DEEPEST};
use crate::run::end_reason::EndReason;
use crate::run::report::BoxError;
use crate::text::{Escaped, explained};
use std::fmt;
use std::io;
use std::time::Duration;

/// The error of [`serve_connection`](super::serve_connection).
///
/// It is either the peer's fault ([`is_peer`](Self::is_peer)) or not: the service's, or the system's, if that had no memory
/// for the connection. If a handler returns it, the end of the connection is logged and counted accordingly: the peer's
/// fault at debug, as [`disconnected`](crate::Report::disconnected); the others at warn, as
/// [`failed`](crate::Report::failed).
///
/// # Examples
///
/// ```
/// use ebbtide::http;
///
/// fn look(error: &http::Error) {
///     match error.is_peer() {
///         true => println!("the client: {error}"),
///         false => eprintln!("a bug of ours: {error}"),
///     }
/// }
/// # let _ = look;
/// ```
pub struct Error {
    kind: Kind,
    /// An `io::Error` if the peer is at fault: by its kind the connection's end is counted as the peer's.
    source: BoxError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The peer sent what is not HTTP, or exceeds a limit.
    Malformed,
    /// A head was not complete in time.
    SlowHead,
    /// The peer left, or the connection broke, in the middle of a request.
    Disconnected,
    /// The service returned an error, or an answer that cannot be sent, or its answer's body failed.
    Service,
    /// The system had no memory for the connection, or had run out of something else.
    Exhausted,
}

impl Error {
    /// Sorts hyper's error. Notes a fault of the peer's in the connection's record.
    pub(super) fn new(error: hyper::Error, connection: &Connection) -> Self {
        if error.is_user() {
            return Self { kind: Kind::Service, source: error.into() };
        }
        let (kind, source) = match stream_error(&error) {
            Some(kind) if is_exhaustion(kind, connection) => {
                return Self { kind: Kind::Exhausted, source: error.into() };
            }
            Some(kind) => (Kind::Disconnected, kind),
            None if error.is_incomplete_message() => (Kind::Disconnected, io::ErrorKind::UnexpectedEof),
            None => (Kind::Malformed, io::ErrorKind::InvalidData),
        };
        let reason = match kind {
            Kind::Disconnected => EndReason::Disconnected,
            _ => EndReason::BadInput,
        };
        connection.record().note_given(source, reason);
        Self { kind, source: explained(source, Chain(&error)).into() }
    }

    /// Makes the error of a request that was answered with an error of the protocol.
    pub(super) fn refused(fault: Fault, connection: &Connection) -> Self {
        connection.record().note_given(io::ErrorKind::InvalidData, EndReason::BadInput);
        let what = match fault {
            Fault::TooLarge => "the body exceeds the limit (answered with 413)",
            Fault::BrokenBody => "the body is malformed (answered with 400)",
            Fault::CutBody => {
                let source = explained(io::ErrorKind::UnexpectedEof, "EOF came in its body (answered with 400)");
                return Self { kind: Kind::Disconnected, source: source.into() };
            }
        };
        Self { kind: Kind::Malformed, source: explained(io::ErrorKind::InvalidData, what).into() }
    }

    /// Makes the error of a stream that broke before a request began.
    pub(super) fn broken(error: io::Error, connection: &Connection) -> Self {
        let kind = if is_exhaustion(error.kind(), connection) { Kind::Exhausted } else { Kind::Disconnected };
        Self { kind, source: error.into() }
    }

    pub(super) fn slow_head(limit: Option<Duration>, connection: &Connection) -> Self {
        connection.record().note_given(io::ErrorKind::TimedOut, EndReason::BadInput);
        let limit = limit.unwrap_or_default();
        let source = explained(io::ErrorKind::TimedOut, format_args!("its rest did not arrive within {limit:?}"));
        Self { kind: Kind::SlowHead, source: source.into() }
    }

    /// Returns whether the peer is at fault: it sent what is not HTTP, exceeded a limit, was too slow, or left in the
    /// middle of a request. Otherwise the service is: it returned an error, or an answer that cannot be sent; or the
    /// system is: it had no memory for the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// # use ebbtide::http;
    /// let is_bug = |error: &http::Error| !error.is_peer();
    /// # let _ = is_bug;
    /// ```
    pub fn is_peer(&self) -> bool {
        !matches!(self.kind, Kind::Service | Kind::Exhausted)
    }

    /// Returns whether a request's head was not complete within the
    /// [`header_timeout`](super::Http::header_timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// # use ebbtide::http;
    /// let is_slow_loris = |error: &http::Error| error.is_timeout();
    /// # let _ = is_slow_loris;
    /// ```
    pub fn is_timeout(&self) -> bool {
        self.kind == Kind::SlowHead
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self.kind {
            Kind::Malformed => "the peer's request was malformed, or exceeded a limit",
            Kind::SlowHead => "the peer sent only a part of a request's head",
            Kind::Disconnected => "the peer left in the middle of a request",
            Kind::Service => "the HTTP service failed",
            Kind::Exhausted => "the connection broke because the system has run out of memory or of another resource",
        })
    }
}

/// The sentence of `Display` and the errors behind it, because `main` and `unwrap` print this text.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(Chain(self)))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// Returns whether an error of the stream ended hyper's work that is not the system's fault.
pub(super) fn has_left(error: &hyper::Error, connection: &Connection) -> bool {
    stream_error(error).is_some_and(|kind| !is_exhaustion(kind, connection))
}

/// Returns whether an error of this kind came from a system that has run out of something. The connection has noted that:
/// h2 keeps no more of an error than its kind.
fn is_exhaustion(kind: io::ErrorKind, connection: &Connection) -> bool {
    connection.record().given(kind) == Some(EndReason::Failed)
}

/// Returns the kind of the error of the stream that ended hyper's work; `None` if it is not one.
fn stream_error(error: &hyper::Error) -> Option<io::ErrorKind> {
    // hyper has no predicate for this. Such an error has an `io::Error` among its sources.
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| (**error).source())
        .take(DEEPEST)
        .find_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind)
}
