//! [`Report`], the summary of a run that is closed, [`Cause`], why it stopped, and [`BoxError`].
//!
//! Inside the crate a failure that stops a server is a [`Failure`] until the report is there. Then the two become an
//! [`Error`](crate::Error).

use super::counts::Counts;
use super::registry::ConnectionInfo;
use crate::address::Address;
use crate::signal::Signal;
use crate::span::Span;
use std::fmt;
use std::io;
use std::time::Duration;

/// Causes of a server's end: the first request to stop.
///
/// The first request wins. `Display` completes the sentence "the server closed because …".
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Cause, Connection, Listener, Server};
///
/// let server = Server::new(Listener::memory().0);
/// let (_, report) = server.scope(async |_: Connection| {}, async |_| ()).await?;
/// assert_eq!(report.cause(), Cause::BodyReturned);
/// assert_eq!(report.cause().to_string(), "the body returned");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The body of [`Server::scope`](crate::Server::scope) returned.
    BodyReturned,
    /// The body of [`Server::scope`](crate::Server::scope) returned an error.
    BodyFailed,
    /// The body of [`Server::scope`](crate::Server::scope) panicked.
    BodyPanicked,
    /// [`Handle::shutdown`](crate::Handle::shutdown) or
    /// [`Handle::shutdown_within`](crate::Handle::shutdown_within) was called.
    Shutdown,
    /// The first item of a [shutdown stream](crate::Server::shutdown_on) was this signal.
    Signal(Signal),
    /// The first item of another [shutdown stream](crate::Server::shutdown_on) arrived, or a
    /// [shutdown future](crate::Server::shutdown_when) ended.
    Stream,
    /// [`Handle::cancel`](crate::Handle::cancel) was called.
    Cancel,
    /// A listener failed permanently.
    ListenerFailed,
    /// A handler failed or panicked under [`OnFailure::Shutdown`](crate::OnFailure::Shutdown).
    HandlerFailed,
    /// The future of `serve` or `scope` was dropped, or a server that never served.
    Dropped,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Signal(signal) => return f.pad(&format!("{signal} was received")),
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

/// A failure that stopped a server. With the report it becomes an [`Error`](crate::Error).
#[derive(Debug)]
pub(crate) enum Failure {
    Listener {
        address: Address,
        source: io::Error,
    },
    /// The server was bound in the process from which this process was forked.
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
    /// The body of a scope returned this error.
    Body {
        source: BoxError,
    },
    /// The body of a scope was dropped before it ended.
    Stopped,
    /// There is nothing to run the handlers.
    NoExecutor,
    /// The executor has dropped this task, which the server needs.
    TaskDropped {
        task: String,
    },
}

/// Type of any error. The errors of handlers and bodies convert into it, by `?` too.
///
/// # Examples
///
/// ```
/// use ebbtide::BoxError;
///
/// fn double(text: &str) -> Result<i32, BoxError> {
///     Ok(text.parse::<i32>()? * 2)
/// }
///
/// assert_eq!(double("21").unwrap(), 42);
/// assert_eq!(double("?").unwrap_err().to_string(), "invalid digit found in string");
/// ```
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Summary of a server's run: why it stopped, how long that took, and how its connections ended.
///
/// `serve` and `scope` return it; so does [`Handle::closed`](crate::Handle::closed), and
/// [`Error::report`](crate::Error::report) after a failure. `Display` is one line for a person, which is also the last
/// log line of the run.
///
/// Every accepted connection is in exactly one of six numbers:
/// `accepted == completed + failed + panicked + disconnected + rejected + cancelled`. [`Counts`] splits them by reason,
/// and is available while the server runs.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, Listener, Server};
///
/// let (listener, connector) = Listener::memory();
/// let client = connector.connect().await?;
/// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
/// assert_eq!((report.accepted(), report.completed()), (1, 1));
/// println!("{report}"); // closed in 1ms because the body returned: 1 accepted, 1 completed, …
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    cause: Cause,
    counts: Counts,
    /// The first that the exit has cut.
    cancelled_connections: Vec<ConnectionInfo>,
    /// From the first request to the end.
    elapsed: Duration,
}

impl Report {
    pub(crate) fn new(cause: Cause, counts: Counts, cut: Vec<ConnectionInfo>, elapsed: Duration) -> Self {
        Self { cause, counts, cancelled_connections: cut, elapsed }
    }

    /// Returns why the server stopped. The first cause wins; what failed later was logged.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Cause, Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.cause(), Cause::BodyReturned);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns all the numbers, with the reasons for which connections ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, EndReason, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.counts().ended(EndReason::Completed), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the connections that the exit cut off: at most 32, each as it was at that moment.
    ///
    /// A connection that was cancelled alone, by [`Handle::cancel_connection`](crate::Handle::cancel_connection),
    /// counts as [`cancelled`](Self::cancelled), and is not listed here.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener)
    ///     .scope(|_: Connection| std::future::pending::<()>(), async |server| {
    ///         while server.connection_count() == 0 {
    ///             async_std::task::yield_now().await;
    ///         }
    ///         server.cancel();
    ///     })
    ///     .await?;
    /// assert_eq!(report.cancelled_connections()[0].peer_addr().to_string(), "memory:0");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn cancelled_connections(&self) -> &[ConnectionInfo] {
        &self.cancelled_connections
    }

    /// Returns how long the exit took: from the request, or the drop, until the server was closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert!(report.elapsed() < std::time::Duration::from_secs(1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

/// Adds getters to [`Report`] that return the numbers of [`Counts`] with the same names. After `=`: the number in the
/// example, a run with one client.
macro_rules! numbers {
    ($($text:literal, $number:ident = $example:literal;)*) => {
        impl Report {
            $(
                #[doc = concat!("Returns how many ", $text, ". See [`Counts::", stringify!($number), "`].")]
                ///
                /// # Examples
                ///
                /// ```
                /// # async_std::task::block_on(async {
                /// # use ebbtide::{Connection, Listener, Server};
                /// # let (listener, connector) = Listener::memory();
                /// # let _client = connector.connect().await?;
                /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
                #[doc = concat!("assert_eq!(report.", stringify!($number), "(), ", $example, ");")]
                /// # std::io::Result::Ok(()) }).unwrap();
                /// ```
                pub fn $number(&self) -> u64 {
                    self.counts.$number()
                }
            )*
        }
    };
}

numbers! {
    "connections were accepted", accepted = 1;
    "handlers returned `()` or `Ok(())`", completed = 1;
    "handlers returned an error that was not their own connection's", failed = 0;
    "handlers panicked", panicked = 0;
    "connections the peer ended, or a limit on a peer that does nothing", disconnected = 0;
    "connections ended before their handlers were called", rejected = 0;
    "handlers were dropped before they ended", cancelled = 0;
    "clients a limit turned away before they became a connection", refused = 0;
    "times accepting a client failed", accept_errors = 0;
    "handlers ended by themselves during the drain", drained = 0;
    "connections were closed before their peers had received everything", undelivered = 0;
}

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
    fn display_is_one_line_for_a_person() {
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
             1 cancelled; of these, 1 ended during the drain"
        );
    }
}
