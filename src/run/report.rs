//! [`Report`] and [`Cause`]: the summary of a run, and the counters behind it.

use super::registry::ConnectionInfo;
use crate::address::Address;
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
    /// The first item of a [shutdown stream](crate::Server::shutdown_on), such as Ctrl-C, or the end of a
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
/// Every connection that was accepted is in exactly one of four buckets:
/// `accepted == completed + failed + panicked + cancelled`.
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

    /// Returns how many connections were accepted.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted
    }

    /// Returns how many handlers returned `()` or `Ok(())`.
    pub fn completed(&self) -> u64 {
        self.counts.completed
    }

    /// Returns how many handlers returned an error. A connection that was ended by a timeout of the server's (no first
    /// byte, no byte for too long) counts as failed too.
    pub fn failed(&self) -> u64 {
        self.counts.failed
    }

    /// Returns how many handlers panicked, or were ended because a task of their connection did.
    pub fn panicked(&self) -> u64 {
        self.counts.panicked
    }

    /// Returns how many handlers were dropped before their end, by a cancel, a drop, or the end of the grace period.
    pub fn cancelled(&self) -> u64 {
        self.counts.cancelled
    }

    /// Returns the connections that the exit cut off: at most 32 of them, each as it was at that moment. Those that
    /// were cancelled one by one ([`Handle::cancel_connection`](crate::Handle::cancel_connection)) count as
    /// [`cancelled`](Self::cancelled), and are not here.
    pub fn cancelled_connections(&self) -> &[ConnectionInfo] {
        &self.cancelled_connections
    }

    /// Returns how many clients a limit turned away before they became a connection: one too many from its address, or
    /// still queued, without room for it, when the listeners were closed. They are not among the accepted.
    pub fn refused(&self) -> u64 {
        self.counts.refused
    }

    /// Returns how many times accepting a client failed, whether the client or a lack of resources was the reason.
    pub fn accept_errors(&self) -> u64 {
        self.counts.accept_errors
    }

    /// Returns how many handlers ended by themselves during the drain, well or badly: they were not cut off.
    pub fn drained(&self) -> u64 {
        self.counts.drained
    }

    /// Returns how many connections were closed before their peers had all that they should: because the peer took
    /// nothing of it for too long, or the grace period was over (seen on Linux, for TCP and TLS over it), or because tasks
    /// of a handler that had returned by itself were cut, at the end of the [task grace](crate::Server::task_grace) or by
    /// the exit. What a peer did not take is named in a warning, and so is each line of code whose tasks outlived their
    /// grace. The connections are counted by what their handlers returned as well.
    pub fn undelivered(&self) -> u64 {
        self.counts.undelivered
    }

    /// Returns how long the exit took: from the request, or the drop, until the server was closed.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { accepted, completed, failed, panicked, cancelled, refused, accept_errors, drained, undelivered } =
            self.counts;
        write!(
            f,
            "closed in {} because {}: {accepted} accepted, {completed} completed, {failed} failed, \
             {panicked} panicked, {cancelled} cancelled; {drained} ended during the drain",
            Span(self.elapsed),
            self.cause
        )?;
        if undelivered > 0 {
            write!(f, "; {undelivered} undelivered")?;
        }
        if refused > 0 {
            write!(f, "; {refused} refused")?;
        }
        if accept_errors > 0 {
            write!(f, "; {accept_errors} accept errors")?;
        }
        Ok(())
    }
}

/// The numbers of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) panicked: u64,
    pub(crate) cancelled: u64,
    pub(crate) refused: u64,
    pub(crate) accept_errors: u64,
    pub(crate) drained: u64,
    pub(crate) undelivered: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_for_a_person() {
        let counts = Counts { accepted: 3, completed: 2, cancelled: 1, drained: 1, ..Counts::default() };
        let report = Report::new(Cause::Shutdown, counts, Vec::new(), Duration::from_millis(1250));
        assert_eq!(
            report.to_string(),
            "closed in 1.2s because a shutdown was requested: 3 accepted, 2 completed, 0 failed, 0 panicked, \
             1 cancelled; 1 ended during the drain"
        );
    }
}
