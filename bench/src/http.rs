//! What the HTTP servers and the load generator agree on: the version and the answer.

use std::fmt;
use std::str::FromStr;

/// Version of HTTP. Neither side negotiates it: both are given it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1" => Ok(Self::Http1),
            "2" => Ok(Self::Http2),
            other => Err(format!("there is no version `{other}` of HTTP")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "1",
            Self::Http2 => "2",
        })
    }
}

/// The answer of the service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    /// `PARTS` parts of an unknown total length, with a pause of the task before each; otherwise one part.
    pub(crate) streaming: bool,
}

/// One part of an answer's body.
pub(crate) const PART: &[u8] = b"Hello, world!";

/// The number of parts of a streaming answer.
const PARTS: usize = 4;

impl Answer {
    /// Returns the number of parts of the body.
    pub(crate) fn parts(self) -> usize {
        if self.streaming { PARTS } else { 1 }
    }
}
