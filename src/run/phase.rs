//! The phases of a server's life, and which may follow which.

use std::fmt;

/// How far a server's life has come. A phase never goes back.
///
/// ```text
/// Bound ──▶ Serving ──▶ LameDuck ──▶ Draining ──▶ Cancelling ──▶ Closed
/// ```
///
/// Each may be skipped towards the end: a server that is cancelled never drains, one whose handlers all end in time
/// never cancels, one that is dropped before it has served is closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The sockets listen, and the kernel queues clients; none is accepted yet.
    Bound,
    /// Connections are accepted and handled.
    Serving,
    /// A shutdown was asked for, and clients are still accepted, while the load balancer takes notice.
    LameDuck,
    /// The sockets are closed; the handlers have been told and have the rest of the grace period.
    Draining,
    /// What is left of the handlers is being destroyed.
    Cancelling,
    /// No handler is left, no listening socket is open, and every connection is shut down.
    Closed,
}

impl Phase {
    /// Each once, in their order.
    pub(super) const ALL: [Self; 6] =
        [Self::Bound, Self::Serving, Self::LameDuck, Self::Draining, Self::Cancelling, Self::Closed];

    /// Whether `next` may come after this one.
    pub(crate) fn may_become(self, next: Self) -> bool {
        // There is nothing to drain before a client was accepted.
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
