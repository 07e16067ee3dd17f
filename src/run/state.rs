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
    /// The handler has ended, and the peer is still taking what was written, or may still be sending: its bytes are
    /// read and thrown away, so that the reply reaches it.
    Lingering,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl ConnectionState {
    /// Each once, in the order of their declaration.
    pub(super) const ALL: [Self; 4] = [Self::Opening, Self::Serving, Self::Finishing, Self::Lingering];

    /// Returns its name, for metrics: `serving`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Serving => "serving",
            Self::Finishing => "finishing",
            Self::Lingering => "lingering",
        }
    }

    /// From its number, as the record keeps it.
    pub(super) fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Opening)
    }
}
