//! [`EndReason`]: how a connection ended, and where that is counted.

use std::fmt;

/// How a connection ended: what [`Counts`](crate::Counts), events and log lines call it.
///
/// Each belongs to one of the six numbers that add up to the accepted connections:
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
/// So `failed` and `panicked` are the program's faults, and worth an alert; `disconnected` and `rejected` are the
/// peers', and a matter of course on the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The handler returned `()` or `Ok(())`.
    Completed,
    /// The handler returned an error that is not its connection's own.
    Failed,
    /// The handler panicked.
    Panicked,
    /// A task of the connection panicked, and nothing held its [`JoinHandle`](crate::JoinHandle).
    TaskPanicked,
    /// The handler returned an error that its own stream had given: the peer is gone, in the middle of something.
    /// Looked for along [`Error::source`](std::error::Error::source), so a library may have wrapped it.
    ///
    /// It is known by its [`io::ErrorKind`](std::io::ErrorKind): after a reset of its own connection, a handler's error
    /// of that kind is the peer's, and after the peer's end of input an `UnexpectedEof` is. A handler that also reads
    /// from others, such as a database, gives errors of those a type or kind of their own.
    Disconnected,
    /// The handler returned an error of its [`Lines`](crate::Lines) or [`Frames`](crate::Frames): too long, or not
    /// UTF-8.
    BadInput,
    /// [`Server::idle_timeout`](crate::Server::idle_timeout).
    IdleTimeout,
    /// [`Server::write_timeout`](crate::Server::write_timeout).
    WriteTimeout,
    /// [`Server::ack_timeout`](crate::Server::ack_timeout): the peer has vanished with bytes on their way to it.
    AckTimeout,
    /// [`Server::first_byte_timeout`](crate::Server::first_byte_timeout).
    FirstByteTimeout,
    /// The TLS handshake failed, or took too long.
    Handshake,
    /// The PROXY header was missing, malformed or late, or came from a peer that may send none.
    ProxyHeader,
    /// [`Server::max_connections_per_ip`](crate::Server::max_connections_per_ip), found once the PROXY header was read.
    AddressLimit,
    /// The exit cut it: a cancel, the end of the grace period, or a drop of the server.
    Shutdown,
    /// [`Handle::cancel_connection`](crate::Handle::cancel_connection).
    CancelledById,
    /// [`Handle::drain_connection`](crate::Handle::drain_connection): the handler outlived its grace.
    DrainedById,
    /// [`Server::max_connection_age`](crate::Server::max_connection_age): the handler outlived its grace.
    Age,
}

/// Which of the six numbers a reason belongs to.
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
    /// Each once, in the order of their declaration.
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

    /// Whether it is the program's own fault, which may stop the server.
    pub(crate) fn is_a_fault(self) -> bool {
        matches!(self.bucket(), Bucket::Failed | Bucket::Panicked)
    }

    /// Returns its name for metrics, in snake case: `idle_timeout`.
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
