//! A small DER reader for error messages: the lengths, versions and kinds of keys that explain what is wrong with a
//! file.
//!
//! rustls, not this module, decides whether a certificate or a key is good. No function panics: any bytes give a result
//! or `None`.

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// The tag `[0]`, of a certificate's version and of an EC key's curve.
const CONTEXT_0: u8 = 0xA0;

/// An element: its tag, its content, and what follows it.
type Element<'a> = (u8, &'a [u8], &'a [u8]);

/// Returns the length of the first element, head included, according to its head; and the length of the head.
fn claimed(der: &[u8]) -> Option<(usize, usize)> {
    let (_, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return Some((2 + usize::from(first), 2));
    }
    let digits = usize::from(first & 0x7F);
    if !(1..=4).contains(&digits) {
        return None;
    }
    let length = rest.get(..digits)?.iter().fold(0_usize, |length, &digit| length << 8 | usize::from(digit));
    Some((length.checked_add(2 + digits)?, 2 + digits))
}

/// Splits off the first element, if all of it is there.
fn element(der: &[u8]) -> Option<Element<'_>> {
    let (length, head) = claimed(der)?;
    Some((der[0], der.get(head..length)?, &der[length..]))
}

/// Returns the content of the first element, if it has this tag, and the bytes after it.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(der).filter(|&(found, ..)| found == tag).map(|(_, content, rest)| (content, rest))
}

/// Checks that the bytes are exactly one sequence.
pub(super) fn whole(der: &[u8]) -> Result<(), String> {
    match (der.first(), claimed(der)) {
        (None, _) => Err("is empty".to_owned()),
        (Some(&SEQUENCE), Some((length, _))) if length == der.len() => Ok(()),
        (Some(&SEQUENCE), Some((length, _))) if length > der.len() => {
            Err(format!("is cut off: {} of its {length} bytes are there", der.len()))
        }
        (Some(&SEQUENCE), Some((length, _))) => Err(format!("has {} bytes too many", der.len() - length)),
        _ => Err("is damaged at its beginning".to_owned()),
    }
}

/// Returns the version of a certificate: 1, 2 or 3.
pub(super) fn certificate_version(der: &[u8]) -> Option<u8> {
    let (tbs, _) = expect(expect(der, SEQUENCE)?.0, SEQUENCE)?;
    match expect(tbs, CONTEXT_0) {
        None => Some(1), // the default
        Some((version, _)) => expect(version, INTEGER)?.0.last()?.checked_add(1),
    }
}

/// Content of a file in DER.
#[derive(Debug, PartialEq)]
pub(super) enum File {
    Certificate,
    Key,
    Pkcs12,
}

/// Returns the content of a file in DER; `None` if it is not DER.
pub(super) fn file(bytes: &[u8]) -> Option<File> {
    let (content, _) = expect(bytes, SEQUENCE)?;
    match element(content)? {
        (SEQUENCE, ..) => Some(File::Certificate),
        (INTEGER, [3], _) => Some(File::Pkcs12),
        (INTEGER, [0 | 1], _) => Some(File::Key),
        _ => None,
    }
}

/// Returns the kind of a key, as it stands in error messages. `label` is that of its PEM section.
pub(super) fn key_kind(label: &str, der: &[u8]) -> Option<String> {
    let (key, _) = expect(der, SEQUENCE)?;
    let (_, rest) = expect(key, INTEGER)?;
    match label {
        "RSA PRIVATE KEY" => rsa_size(der),
        "EC PRIVATE KEY" => {
            let (_, rest) = expect(rest, OCTET_STRING)?;
            curve(expect(rest, CONTEXT_0)?.0)
        }
        _ => {
            let (algorithm, rest) = expect(rest, SEQUENCE)?;
            let (oid, parameters) = expect(algorithm, OBJECT_IDENTIFIER)?;
            match ALGORITHMS.iter().find(|(known, _)| *known == oid)?.1 {
                "RSA" => rsa_size(expect(rest, OCTET_STRING)?.0),
                "EC" => curve(parameters),
                name => Some(name.to_owned()),
            }
        }
    }
}

/// Returns the size of a key in PKCS #1.
fn rsa_size(der: &[u8]) -> Option<String> {
    let (key, _) = expect(der, SEQUENCE)?;
    let (_, rest) = expect(key, INTEGER)?;
    let (modulus, _) = expect(rest, INTEGER)?;
    let zeros = modulus.iter().position(|&byte| byte != 0)?;
    let bits = (modulus.len() - zeros) * 8 - modulus[zeros].leading_zeros() as usize;
    Some(format!("RSA with {bits} bits"))
}

/// Returns the curve of an EC key, from its parameters.
fn curve(parameters: &[u8]) -> Option<String> {
    match element(parameters)? {
        (OBJECT_IDENTIFIER, oid, _) => {
            let name = CURVES.iter().find(|(known, _)| *known == oid).map_or("an unknown curve", |(_, name)| name);
            Some(format!("ECDSA with {name}"))
        }
        (SEQUENCE, ..) => Some("ECDSA with a curve that is written out and not named".to_owned()),
        _ => None,
    }
}

/// The object identifiers of kinds of keys, encoded.
const ALGORITHMS: &[(&[u8], &str)] = &[
    (b"\x2A\x86\x48\x86\xF7\x0D\x01\x01\x01", "RSA"),
    (b"\x2A\x86\x48\x86\xF7\x0D\x01\x01\x0A", "RSA-PSS"),
    (b"\x2A\x86\x48\x86\xF7\x0D\x01\x03\x01", "Diffie-Hellman"),
    (b"\x2A\x86\x48\xCE\x38\x04\x01", "DSA"),
    (b"\x2A\x86\x48\xCE\x3D\x02\x01", "EC"),
    (b"\x2B\x65\x6E", "X25519"),
    (b"\x2B\x65\x6F", "X448"),
    (b"\x2B\x65\x70", "Ed25519"),
    (b"\x2B\x65\x71", "Ed448"),
    (b"\x60\x86\x48\x01\x65\x03\x04\x03\x11", "ML-DSA-44"),
    (b"\x60\x86\x48\x01\x65\x03\x04\x03\x12", "ML-DSA-65"),
    (b"\x60\x86\x48\x01\x65\x03\x04\x03\x13", "ML-DSA-87"),
];

/// The object identifiers of curves, encoded.
const CURVES: &[(&[u8], &str)] = &[
    (b"\x2A\x86\x48\xCE\x3D\x03\x01\x01", "P-192"),
    (b"\x2B\x81\x04\x00\x21", "P-224"),
    (b"\x2A\x86\x48\xCE\x3D\x03\x01\x07", "P-256"),
    (b"\x2B\x81\x04\x00\x22", "P-384"),
    (b"\x2B\x81\x04\x00\x23", "P-521"),
    (b"\x2B\x81\x04\x00\x0A", "secp256k1"),
    (b"\x2B\x24\x03\x03\x02\x08\x01\x01\x07", "brainpoolP256r1"),
    (b"\x2B\x24\x03\x03\x02\x08\x01\x01\x0B", "brainpoolP384r1"),
    (b"\x2B\x24\x03\x03\x02\x08\x01\x01\x0D", "brainpoolP512r1"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_give_a_result_or_none() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let inner = [&[SEQUENCE, 7, INTEGER, 1, 0, INTEGER, 2, 0, 0xF1][..]].concat();
        let templates = [
            [
                &[SEQUENCE, 30, INTEGER, 1, 0, SEQUENCE, 14, OBJECT_IDENTIFIER, 7],
                ALGORITHMS[4].0,
                &[6, 3, 1, 2, 3, 4, 2, 8, 8],
            ]
            .concat(),
            [
                &[SEQUENCE, 29, INTEGER, 1, 0, SEQUENCE, 11, OBJECT_IDENTIFIER, 9],
                ALGORITHMS[0].0,
                &[OCTET_STRING, 9],
                &inner,
            ]
            .concat(),
            [&[SEQUENCE, 15, INTEGER, 1, 1, OCTET_STRING, 1, 9, CONTEXT_0, 7, OBJECT_IDENTIFIER, 5], CURVES[5].0]
                .concat(),
            vec![SEQUENCE, 0x81, 9, SEQUENCE, 5, CONTEXT_0, 3, INTEGER, 1, 2, 5, 0],
            inner,
        ];
        let mut results = 0;
        for _ in 0..200_000 {
            let mut der = templates[next() as usize % templates.len()].clone();
            for _ in 0..next() % 4 {
                let at = next() as usize % der.len();
                der[at] = next() as u8;
            }
            der.truncate(der.len() - (next() % 8).saturating_sub(5) as usize);
            let kinds = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"].map(|label| key_kind(label, &der));
            let found = kinds.iter().flatten().count() + usize::from(whole(&der).is_ok());
            results += found + usize::from(certificate_version(&der).is_some()) + usize::from(file(&der).is_some());
        }
        assert!(results > 100_000, "the bytes reach the code: {results}");
    }

    #[test]
    fn every_form_of_a_length_is_read() {
        for (der, expected) in [
            (&[][..], None),
            (&[0x30], None),
            (&[0x30, 0], Some((2, 2))),
            (&[0x30, 0x7F], Some((129, 2))),
            (&[0x30, 0x80], None), // the indefinite form, which DER does not have
            (&[0x30, 0x81, 200], Some((203, 3))),
            (&[0x30, 0x82, 1], None),
            (&[0x30, 0x82, 1, 0], Some((260, 4))),
            (&[0x30, 0x84, 0x7F, 0xFF, 0xFF, 0xFF], Some((0x7FFF_FFFF + 6, 6))),
            (&[0x30, 0x85, 0, 0, 0, 0, 1], None),
        ] {
            assert_eq!(claimed(der), expected, "{der:x?}");
        }
    }
}
