//! [`ConnectionState`]: what a connection is doing. For lists, logs and metrics. The drain only looks whether a
//! connection is still opening.

use std::fmt;

/// States of a connection: what it is doing.
///
/// # Examples
///
/// ```
/// use ebbtide::ConnectionState;
///
/// assert_eq!(ConnectionState::Lingering.to_string(), "lingering");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The handler has not been called yet. The connection waits for what comes before it: the PROXY header, the TLS
    /// handshake, or the first byte.
    Opening,
    /// The handler runs.
    Serving,
    /// The handler has returned. Its tasks write the rest, within the [task grace](crate::Server::task_grace).
    Finishing,
    /// The handler and its tasks have ended. The peer is still receiving what was written, or may still be sending. Its
    /// bytes are read and discarded, so that the reply reaches it (lingering close, as in nginx and Apache).
    Lingering,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl ConnectionState {
    /// Each state once, in the order of declaration: `state as usize` is its index.
    pub(super) const ALL: [Self; 4] = [Self::Opening, Self::Serving, Self::Finishing, Self::Lingering];

    /// Returns the name of the state, for metrics.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(ebbtide::ConnectionState::Serving.as_str(), "serving");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Serving => "serving",
            Self::Finishing => "finishing",
            Self::Lingering => "lingering",
        }
    }

    /// Returns the state of this number, which the record keeps in an atomic.
    pub(super) fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Opening)
    }
}
