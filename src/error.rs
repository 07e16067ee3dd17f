//! What `serve` and `scope` can fail with.

use crate::address::Address;
use crate::control::failure::{BoxError, Failure};
use crate::control::report::Report;
use std::{fmt, io};

/// Why a server ended with an error: the first failure that stopped it.
///
/// The server was drained and closed all the same; [`report`](Self::report) says what came of it. Converts into
/// [`io::Error`], so that `?` works in functions that return `io::Result`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A listener failed in a way that trying again cannot mend.
    Listener {
        /// Where it listened.
        address: Address,
        /// What accepting a connection failed with.
        source: io::Error,
        /// What came of the server.
        report: Box<Report>,
    },
    /// A handler returned an error under [`OnFailure::Shutdown`].
    Handler {
        /// Whose connection it was.
        peer: Address,
        /// What the handler returned.
        source: BoxError,
        /// What came of the server.
        report: Box<Report>,
    },
    /// A handler, or a task of its connection, panicked under [`OnFailure::Shutdown`].
    HandlerPanicked {
        /// Whose connection it was.
        peer: Address,
        /// What the panic said.
        message: String,
        /// What came of the server.
        report: Box<Report>,
    },
}

impl Error {
    pub(crate) fn new(failure: Failure, report: Report) -> Self {
        let report = Box::new(report); // a large error makes every `Result` large that may hold it
        match failure {
            Failure::Listener { address, source } => Self::Listener { address, source, report },
            Failure::Handler { peer, source } => Self::Handler { peer, source, report },
            Failure::HandlerPanicked { peer, message } => Self::HandlerPanicked { peer, message, report },
        }
    }

    /// What came of the server.
    pub fn report(&self) -> &Report {
        match self {
            Self::Listener { report, .. } | Self::Handler { report, .. } | Self::HandlerPanicked { report, .. } => {
                report
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener { address, .. } => write!(f, "cannot accept connections on `{address}` any more"),
            Self::Handler { peer, .. } => write!(f, "the handler of the connection from `{peer}` failed"),
            Self::HandlerPanicked { peer, message, .. } => {
                write!(f, "the handler of the connection from `{peer}` panicked: {message}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listener { source, .. } => Some(source),
            Self::Handler { source, .. } => Some(source.as_ref()),
            Self::HandlerPanicked { .. } => None,
        }
    }
}

/// Keeps the listener's [`kind`](io::Error::kind); the error itself is inside, and so is its report.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Listener { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// What a handler's failure means for the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFailure {
    /// It ends its own connection, is logged and counted. The default: one bad client must not take the others down.
    #[default]
    Isolate,
    /// The first one shuts the server down, which drains the others and returns the failure. As trio's
    /// `serve_listeners` does; for servers whose handlers must never fail, and for tests.
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

/// An error and what caused it, in one line: for logs, where nobody walks the chain.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
