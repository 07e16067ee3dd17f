//! [`Phase`]: how far a server has come, and which phase may follow which.

use std::fmt;

/// Phases of a server's life. A phase never goes back.
///
/// ```text
/// Bound ──▶ Serving ──▶ LameDuck ──▶ Draining ──▶ Cancelling ──▶ Closed
/// ```
///
/// A server can skip phases:
///
/// - A server that is cancelled never drains.
/// - A server never cancels if all of its handlers end in time.
/// - A server that is dropped before it serves is closed at once.
///
/// [`Handle::phase`](crate::Handle::phase) returns the current phase, [`Handle::reached`](crate::Handle::reached) waits
/// for one, and [`Handle::phases`](crate::Handle::phases) is the stream of all.
///
/// # Examples
///
/// ```
/// use ebbtide::Phase;
///
/// assert!(Phase::Serving < Phase::Draining);
/// assert_eq!(Phase::LameDuck.to_string(), "lame duck");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The sockets listen, and clients wait in the backlog. None is accepted yet.
    Bound,
    /// Connections are accepted and handled.
    Serving,
    /// A shutdown was requested. Clients are still accepted while the load balancer learns of it.
    LameDuck,
    /// The listening sockets are closed. The handlers are notified, and have the rest of the grace period.
    Draining,
    /// The handlers that are left are being dropped.
    Cancelling,
    /// No handler is left, no listening socket is open, and every connection is shut down.
    Closed,
}

impl Phase {
    /// Each phase once, in order.
    pub(super) const ALL: [Self; 6] =
        [Self::Bound, Self::Serving, Self::LameDuck, Self::Draining, Self::Cancelling, Self::Closed];

    /// Returns whether the phase `next` may follow this one.
    pub(crate) fn may_become(self, next: Self) -> bool {
        // A server that never served has no connection to drain.
        next > self && !(self == Self::Bound && matches!(next, Self::LameDuck | Self::Draining))
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bound => "bound",
            Self::Serving => "serving",
            Self::LameDuck => "lame duck",
            Self::Draining => "draining",
            Self::Cancelling => "cancelling",
            Self::Closed => "closed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Phase::{self, *};

    #[test]
    fn a_phase_never_goes_back() {
        let allowed: &[(Phase, &[Phase])] = &[
            (Bound, &[Serving, Cancelling, Closed]),
            (Serving, &[LameDuck, Draining, Cancelling, Closed]),
            (LameDuck, &[Draining, Cancelling, Closed]),
            (Draining, &[Cancelling, Closed]),
            (Cancelling, &[Closed]),
            (Closed, &[]),
        ];
        for (from, to) in allowed {
            for next in Phase::ALL {
                assert_eq!(from.may_become(next), to.contains(&next), "{from} to {next}");
            }
        }
    }
}
