//! Parses a PROXY header from the bytes that have arrived so far: a pure function, [`parse`].
//!
//! The crate `ppp` reads the addresses and the fields of version 2. This module decides the rest: how much is read,
//! which bytes are a header at all, and which headers are refused although their meaning could be guessed.
//!
//! The invariants, for any bytes. `invariants` checks them for the tests and for `fuzz/`:
//!
//! 1. A decision is final: more bytes after the same beginning do not change it.
//! 2. `Need(n)` is never 0. A caller that reads at most `n` bytes each time reads at most 107 bytes if the connection
//!    may begin with version 1, and never a byte after a header of version 2.

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

/// Result of parsing the first bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Undecided: read at most this many more bytes, and parse again.
    Need(usize),
    /// A valid header of this length.
    Header(usize, ProxyHeader),
    /// Not a header.
    Other,
    /// A malformed header.
    Bad(Flaw),
}

/// Parses the bytes that have arrived so far on a connection.
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

/// Returns whether the bytes begin with the whole signature of a header.
pub(crate) fn is_begun(bytes: &[u8]) -> bool {
    bytes.starts_with(v1::SIGNATURE) || bytes.starts_with(v2::SIGNATURE)
}

/// Returns how many bytes of the signature have not arrived yet; `None` if the bytes differ from it.
fn missing(signature: &[u8], bytes: &[u8]) -> Option<usize> {
    let common = signature.len().min(bytes.len());
    (signature[..common] == bytes[..common]).then_some(signature.len() - common)
}

/// Reason why a header is malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The line of version 1 is too long.
    Endless,
    /// The line of version 1 is wrong, for this reason.
    Line(&'static str),
    /// The byte with version and command of version 2 is wrong.
    Command(u8),
    /// The byte with family and protocol of version 2 is wrong.
    Family(u8),
    /// The length field of version 2 has this number, which is above the limit.
    Oversized(usize),
    /// The length field of version 2 has the first number; the addresses of its family have the second.
    Short(usize, usize),
    /// A field of version 2 is malformed: it ends after the header, or a checksum does not have 4 bytes.
    Field,
    /// The checksum of version 2 is wrong.
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
            Self::Checksum => f.write_str("its checksum (CRC32c) is wrong: it was damaged on its way"),
        }
    }
}
