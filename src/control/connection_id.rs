//! The number of a connection.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// Number of a connection: unique within its server, in the order of acceptance, from 0.
///
/// Its text is the number, and can be parsed: an operator takes it from a log line and gives it to
/// [`Handle::cancel_connection`](crate::Handle::cancel_connection).
///
/// # Examples
///
/// ```
/// use ebbtide::ConnectionId;
///
/// let id: ConnectionId = "17".parse()?;
/// assert_eq!(id.to_string(), "17");
/// assert_eq!(id.as_u64(), 17);
/// # Ok::<_, std::num::ParseIntError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ConnectionId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}
