//! [`Report`] and [`Cause`]: the summary of a run.

use super::counts::Counts;
use super::registry::ConnectionInfo;
use crate::address::Address;
use crate::signal::Signal;
use crate::span::Span;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why a server stopped: the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The body of [`Server::scope`](crate::Server::scope) returned.
    BodyReturned,
    /// The body of [`Server::scope`](crate::Server::scope) returned an error.
    BodyFailed,
    /// The body of [`Server::scope`](crate::Server::scope) panicked.
    BodyPanicked,
    /// [`Handle::shutdown`](crate::Handle::shutdown).
    Shutdown,
    /// The first item of a [shutdown stream](crate::Server::shutdown_on) was this signal.
    Signal(Signal),
    /// The first item of another [shutdown stream](crate::Server::shutdown_on), or the end of a
    /// [shutdown future](crate::Server::shutdown_when).
    Stream,
    /// [`Handle::cancel`](crate::Handle::cancel).
    Cancel,
    /// A listener failed for good.
    ListenerFailed,
    /// A handler failed or panicked under [`OnFailure::Shutdown`](crate::OnFailure::Shutdown).
    HandlerFailed,
    /// The future of `serve` or `scope`, or the server before it was served, was dropped.
    Dropped,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Signal(signal) => return f.pad(&format!("{signal} came")),
            Self::BodyReturned => "the body returned",
            Self::BodyFailed => "the body failed",
            Self::BodyPanicked => "the body panicked",
            Self::Shutdown => "a shutdown was requested",
            Self::Stream => "a shutdown stream asked for it",
            Self::Cancel => "it was cancelled",
            Self::ListenerFailed => "a listener failed",
            Self::HandlerFailed => "a handler failed",
            Self::Dropped => "it was dropped",
        })
    }
}

/// A failure that stopped a server, until there is a report to make an [`Error`](crate::Error) of the two.
#[derive(Debug)]
pub(crate) enum Failure {
    Listener {
        address: Address,
        source: io::Error,
    },
    /// The server was bound in the process from which this one was forked.
    Forked {
        address: Address,
        why: String,
    },
    Handler {
        peer: Address,
        source: BoxError,
    },
    HandlerPanicked {
        peer: Address,
        message: String,
    },
    /// The body of a scope returned this.
    Body {
        source: BoxError,
    },
    /// The body of a scope was dropped before its end.
    Stopped,
}

/// Any error: what the errors of handlers and bodies convert into.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Summary of a server's run: how many connections, how each ended, why the server stopped, and how long that took.
///
/// Every connection that was accepted is in exactly one of six numbers:
/// `accepted == completed + failed + panicked + disconnected + rejected + cancelled`. [`Counts`] has them by reason,
/// also while the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    cause: Cause,
    counts: Counts,
    cancelled_connections: Vec<ConnectionInfo>,
    elapsed: Duration,
}

impl Report {
    pub(crate) fn new(cause: Cause, counts: Counts, cut: Vec<ConnectionInfo>, elapsed: Duration) -> Self {
        Self { cause, counts, cancelled_connections: cut, elapsed }
    }

    /// Returns why the server stopped. The first cause wins; what failed later has been logged.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns all of the numbers, with the reasons for which connections ended.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the connections that the exit cut off: at most 32 of them, each as it was at that moment. Those that
    /// were cancelled one by one ([`Handle::cancel_connection`](crate::Handle::cancel_connection)) count as
    /// [`cancelled`](Self::cancelled), and are not here.
    pub fn cancelled_connections(&self) -> &[ConnectionInfo] {
        &self.cancelled_connections
    }

    /// Returns how long the exit took: from the request, or the drop, until the server was closed.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

/// The numbers of [`Counts`] by the same names.
macro_rules! numbers {
    ($($number:ident),*) => {
        impl Report {
            $(
                #[doc = concat!("See [`Counts::", stringify!($number), "`].")]
                pub fn $number(&self) -> u64 {
                    self.counts.$number()
                }
            )*
        }
    };
}

numbers!(accepted, completed, failed, panicked, disconnected, rejected, cancelled);
numbers!(refused, accept_errors, drained, undelivered);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "closed in {} because {}: ", Span(self.elapsed), self.cause)?;
        self.counts.write(f, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::counts::Counters;
    use crate::run::end_reason::EndReason;

    #[test]
    fn a_report_is_one_line_for_a_person() {
        let counters = Counters::default();
        for (reason, drained) in
            [(EndReason::Completed, false), (EndReason::Completed, true), (EndReason::Shutdown, false)]
        {
            counters.accepted();
            counters.ended(reason, drained);
        }
        let report = Report::new(Cause::Shutdown, counters.read(), Vec::new(), Duration::from_millis(1250));
        assert_eq!(
            report.to_string(),
            "closed in 1.2s because a shutdown was requested: 3 accepted, 2 completed, 0 failed, 0 panicked, \
             1 cancelled; 1 ended during the drain"
        );
    }
}
