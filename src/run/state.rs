//! [`ConnectionState`]: what a connection is doing.

use std::fmt;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The handler has not been called yet: what comes before it is waited for, such as the first byte.
    Opening,
    /// The handler runs.
    Serving,
    /// The handler has returned, and its tasks write what they have left, within the
    /// [task grace](crate::Server::task_grace).
    Finishing,
    /// The handler has ended, and the peer is still taking what was written, or may still be sending: its bytes are read
    /// and thrown away, so that the reply reaches it.
    Lingering,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Opening => "opening",
            Self::Serving => "serving",
            Self::Finishing => "finishing",
            Self::Lingering => "lingering",
        })
    }
}

impl ConnectionState {
    /// From its number, as the record keeps it.
    pub(super) fn of(number: u8) -> Self {
        let all = [Self::Opening, Self::Serving, Self::Finishing, Self::Lingering];
        all.into_iter().find(|state| *state as u8 == number).unwrap_or(Self::Opening)
    }
}
