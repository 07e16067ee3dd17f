//! Checks the parser's invariants (see the module above) on any bytes: for the tests and for the fuzzer.

use super::{Parsed, parse, v1, v2};

/// Parses every prefix of the bytes, as for a connection whose bytes arrive one by one.
///
/// # Panics
///
/// If an invariant is broken.
pub(crate) fn check(bytes: &[u8]) -> Parsed {
    let whole = parse(bytes);
    let mut obeyed = 0; // how many bytes a caller has read that reads as much as `Need` allows
    for end in 0..=bytes.len() {
        let part = &bytes[..end];
        let parsed = parse(part);
        let Parsed::Need(wanted) = parsed else {
            assert_eq!(parsed, whole, "a decision has changed: {}", part.escape_ascii());
            continue;
        };
        assert!(wanted > 0, "`Need(0)`: {}", part.escape_ascii());
        if end == obeyed {
            obeyed += wanted;
        }
        // In whichever pieces they arrive, no byte after a header of version 2 is asked for.
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
        assert_eq!(parse(&other), whole, "bytes after a header are not a part of it");
    }
    whole
}
