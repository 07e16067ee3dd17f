//! Parses a PROXY header from the bytes that have come so far: a pure function.
//!
//! `ppp` reads the addresses and the fields of version 2. What it leaves open is decided here: how much is read, what
//! is a header at all, and what is refused although it could be guessed. What holds, whatever the bytes (see the tests,
//! and `fuzz/`):
//!
//! 1. No decision is taken back: what is decided for some bytes is decided in the same way for them and any that
//!    follow.
//! 2. `Need(n)` is never 0, and where it is obeyed at most 107 bytes are read of what may be version 1, and of version
//!    2 never a byte after the header.

#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use super::ProxyHeader;
use std::fmt;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Up to so many more are wanted before it can be told, or told further.
    Need(usize),
    /// A header of this length.
    Header(usize, ProxyHeader),
    /// Something else.
    Other,
    /// A header that is none.
    Bad(Flaw),
}

pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    if let Some(missing) = v2::missing(bytes) {
        return if missing == 0 { v2::parse(bytes) } else { Parsed::Need(missing) };
    }
    match v1::missing(bytes) {
        Some(0) => v1::parse(bytes),
        Some(_) => Parsed::Need(v1::LONGEST - bytes.len()),
        None => Parsed::Other,
    }
}

/// Whether it has begun as only headers do.
pub(crate) fn is_begun(bytes: &[u8]) -> bool {
    bytes.starts_with(v1::SIGNATURE) || bytes.starts_with(v2::SIGNATURE)
}

/// How many bytes of the signature are still to come; `None` where there is another.
fn missing(signature: &[u8], bytes: &[u8]) -> Option<usize> {
    let common = signature.len().min(bytes.len());
    (signature[..common] == bytes[..common]).then_some(signature.len() - common)
}

/// What is wrong with a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Version 1 has no end where it must have one.
    Endless,
    /// Something in the line of version 1.
    Line(&'static str),
    /// The version and command of version 2.
    Command(u8),
    /// The family and protocol of version 2.
    Family(u8),
    /// Version 2 says that this much follows.
    Oversized(usize),
    /// So much follows, and its family takes more.
    Short(usize, usize),
    /// A field of version 2 goes beyond the end of the header.
    Field,
    /// The checksum of version 2 is another.
    Checksum,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endless => write!(f, "its line is longer than {} bytes", v1::LONGEST),
            Self::Line(text) => f.write_str(text),
            Self::Command(byte) => write!(f, "its version and command are `{byte:#04x}`, not 0x20 or 0x21"),
            Self::Family(byte) => write!(f, "there is no family and protocol `{byte:#04x}`"),
            Self::Oversized(length) => {
                write!(f, "it says that {length} bytes follow, which makes it longer than {} bytes", v2::LONGEST)
            }
            Self::Short(length, needed) => {
                write!(f, "it says that {length} bytes follow, and its addresses take {needed}")
            }
            Self::Field => f.write_str("one of its fields (TLV) goes beyond its end"),
            Self::Checksum => f.write_str("its checksum (CRC32c) does not fit: it was damaged on its way"),
        }
    }
}
