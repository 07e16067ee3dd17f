//! [`EndReason`], why a connection ended, and [`Bucket`], which number of [`Counts`](crate::Counts) it is part of.

use std::fmt;

/// Reasons for which a connection ends. [`Counts`](crate::Counts), events and log lines use them.
///
/// Each reason belongs to one of the six numbers that add up to the accepted connections:
///
/// | counted as | reasons |
/// |---|---|
/// | [`completed`](crate::Counts::completed) | `Completed` |
/// | [`failed`](crate::Counts::failed) | `Failed` |
/// | [`panicked`](crate::Counts::panicked) | `Panicked`, `TaskPanicked` |
/// | [`disconnected`](crate::Counts::disconnected) | `Disconnected`, `BadInput`, `IdleTimeout`, `WriteTimeout`, `AckTimeout` |
/// | [`rejected`](crate::Counts::rejected) | `FirstByteTimeout`, `Handshake`, `ProxyHeader`, `AddressLimit` |
/// | [`cancelled`](crate::Counts::cancelled) | `Shutdown`, `CancelledById`, `DrainedById`, `Age` |
///
/// `failed` and `panicked` are the program's faults, and worth an alert. `disconnected` and `rejected` are the peers'
/// doing, and normal on the internet.
///
/// # Examples
///
/// ```
/// use ebbtide::EndReason;
///
/// assert_eq!(EndReason::IdleTimeout.to_string(), "idle_timeout"); // a label for metrics
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The handler returned `()` or `Ok(())`.
    Completed,
    /// The handler returned an error that is not its own connection's.
    Failed,
    /// The handler panicked.
    Panicked,
    /// A task of the connection panicked, and nothing held its [`JoinHandle`](crate::JoinHandle).
    TaskPanicked,
    /// The handler returned an error that its own stream gave it: the peer left in the middle of something.
    ///
    /// The error is looked for along [`Error::source`](std::error::Error::source), so a library may have wrapped it. It
    /// is recognised by its [`io::ErrorKind`](std::io::ErrorKind):
    ///
    /// - After a reset of its own connection, a handler's error of that kind is the peer's.
    /// - After EOF from the peer, an `UnexpectedEof` is the peer's.
    ///
    /// An error for which the system has run out of something, such as memory for sockets (`ENOMEM`, `ENOBUFS`), is not
    /// the peer's: it counts as [`Failed`](Self::Failed).
    ///
    /// A handler that also reads from another source, such as a database, gives the errors of that source a type or a
    /// kind of their own.
    Disconnected,
    /// The handler returned an error of its [`Lines`](crate::Lines) or [`Frames`](crate::Frames), because the input was
    /// too long or was not UTF-8; one of [`Connection::bad_input`](crate::Connection::bad_input); or one of HTTP
    /// (feature `http`), because a request was malformed, too large or too slow.
    BadInput,
    /// No byte passed either way for as long as the [`idle_timeout`](crate::Server::idle_timeout).
    IdleTimeout,
    /// A write made no progress for as long as the [`write_timeout`](crate::Server::write_timeout).
    WriteTimeout,
    /// The peer acknowledged nothing for as long as the [`ack_timeout`](crate::Server::ack_timeout): it vanished while
    /// bytes were on their way to it.
    AckTimeout,
    /// The peer sent no byte within the [`first_byte_timeout`](crate::Server::first_byte_timeout).
    FirstByteTimeout,
    /// The TLS handshake failed, or took too long.
    Handshake,
    /// The PROXY header was missing, malformed or late, or its sender may not send one.
    ProxyHeader,
    /// The address in the PROXY header had as many connections as
    /// [`max_connections_per_ip`](crate::Server::max_connections_per_ip) allows.
    AddressLimit,
    /// The server's exit cut the connection: a cancel, the end of the grace period, or a drop of the server.
    Shutdown,
    /// [`Handle::cancel_connection`](crate::Handle::cancel_connection) was called.
    CancelledById,
    /// The handler outlived its grace period after
    /// [`Handle::drain_connection`](crate::Handle::drain_connection).
    DrainedById,
    /// The handler outlived its grace period after the
    /// [`max_connection_age`](crate::Server::max_connection_age).
    Age,
}

/// The six numbers that add up to the accepted connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bucket {
    Completed,
    Failed,
    Panicked,
    Disconnected,
    Rejected,
    Cancelled,
}

impl EndReason {
    /// Each reason once, in the order of declaration: `reason as usize` is its index.
    pub(super) const ALL: [Self; 17] = [
        Self::Completed,
        Self::Failed,
        Self::Panicked,
        Self::TaskPanicked,
        Self::Disconnected,
        Self::BadInput,
        Self::IdleTimeout,
        Self::WriteTimeout,
        Self::AckTimeout,
        Self::FirstByteTimeout,
        Self::Handshake,
        Self::ProxyHeader,
        Self::AddressLimit,
        Self::Shutdown,
        Self::CancelledById,
        Self::DrainedById,
        Self::Age,
    ];

    pub(crate) fn bucket(self) -> Bucket {
        match self {
            Self::Completed => Bucket::Completed,
            Self::Failed => Bucket::Failed,
            Self::Panicked | Self::TaskPanicked => Bucket::Panicked,
            Self::Disconnected | Self::BadInput | Self::IdleTimeout | Self::WriteTimeout | Self::AckTimeout => {
                Bucket::Disconnected
            }
            Self::FirstByteTimeout | Self::Handshake | Self::ProxyHeader | Self::AddressLimit => Bucket::Rejected,
            Self::Shutdown | Self::CancelledById | Self::DrainedById | Self::Age => Bucket::Cancelled,
        }
    }

    /// Returns whether the reason is the program's own fault, which stops the server under `OnFailure::Shutdown`.
    pub(crate) fn is_a_fault(self) -> bool {
        matches!(self.bucket(), Bucket::Failed | Bucket::Panicked)
    }

    /// Returns the name of the reason in snake case, for metrics.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(ebbtide::EndReason::IdleTimeout.as_str(), "idle_timeout");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::TaskPanicked => "task_panicked",
            Self::Disconnected => "disconnected",
            Self::BadInput => "bad_input",
            Self::IdleTimeout => "idle_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::AckTimeout => "ack_timeout",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::Handshake => "handshake",
            Self::ProxyHeader => "proxy_header",
            Self::AddressLimit => "address_limit",
            Self::Shutdown => "shutdown",
            Self::CancelledById => "cancelled_by_id",
            Self::DrainedById => "drained_by_id",
            Self::Age => "age",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_its_own_index() {
        for (index, reason) in EndReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason}");
        }
    }
}
