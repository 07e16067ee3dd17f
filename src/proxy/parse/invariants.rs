//! Checks the parser's invariants on any bytes: for the tests and for the fuzzer.

use super::{Parsed, parse, v1, v2};

/// Parses every prefix, as a connection does whose bytes come one by one.
///
/// # Panics
///
/// Where something does not hold.
pub(crate) fn check(bytes: &[u8]) -> Parsed {
    let whole = parse(bytes);
    let mut obeyed = 0; // how far one reads who reads as much as is wanted
    for end in 0..=bytes.len() {
        let part = &bytes[..end];
        let parsed = parse(part);
        let Parsed::Need(wanted) = parsed else {
            assert_eq!(parsed, whole, "a decision was taken back: {}", part.escape_ascii());
            continue;
        };
        assert!(wanted > 0, "it wants nothing, and says that it wants more: {}", part.escape_ascii());
        if end == obeyed {
            obeyed += wanted;
        }
        // Whichever way they come, no byte after a header of version 2 is asked for.
        match &whole {
            Parsed::Header(length, header) if header.version() == 2 => assert!(end + wanted <= *length),
            _ => assert!(end + wanted <= v2::LONGEST),
        }
        if v2::missing(part).is_none() {
            assert!(end + wanted <= v1::LONGEST);
        }
    }
    if let Parsed::Header(length, header) = &whole {
        assert!(*length <= bytes.len() && *length <= v2::LONGEST);
        let fields: usize = header.tlvs().map(|(_, value)| 3 + value.len()).sum();
        assert!(fields <= *length);
        let mut other = bytes[..*length].to_vec();
        other.extend_from_slice(b"\r\n\r\n\0\r\nQUIT\nPROXY ");
        assert_eq!(parse(&other), whole, "what comes after a header is no part of it");
    }
    whole
}
