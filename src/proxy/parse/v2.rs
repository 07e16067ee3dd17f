//! Parses PROXY version 2, which is binary.

use super::{Flaw, Parsed};
use crate::address::Address;
use crate::proxy::ProxyHeader;
use ppp::v2::{Addresses, Header, ParseError, Protocol, Type};
use std::net::SocketAddr;

pub(super) const SIGNATURE: &[u8] = ppp::v2::PROTOCOL_PREFIX;

/// The signature, the version and command, the family and protocol, and the length of what follows.
const FIXED: usize = 16;

/// Addresses take at most 216 bytes. The rest is for fields, of which a client's certificate is the largest (2 KiB are
/// usual). A peer that could say more, up to 64 KiB, would only fill memory.
pub(super) const LONGEST: usize = 4096;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// How many bytes are missing before [`parse`] can begin; `None` where they begin otherwise.
pub(super) fn missing(bytes: &[u8]) -> Option<usize> {
    super::missing(SIGNATURE, bytes).map(|_| FIXED.saturating_sub(bytes.len()))
}

/// For bytes that begin with the fixed part.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let (command, family) = (bytes[12], bytes[13]);
    if !matches!(command, LOCAL | PROXY) {
        return Parsed::Bad(Flaw::Command(command));
    }
    // Of the others only the combinations of 0 with 1 and 2 would pass the parser; the specification has no meaning for
    // them.
    if command == PROXY && !matches!(family, 0x00 | 0x11 | 0x12 | 0x21 | 0x22 | 0x31 | 0x32) {
        return Parsed::Bad(Flaw::Family(family));
    }
    let follows = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let length = FIXED + follows;
    if length > LONGEST {
        return Parsed::Bad(Flaw::Oversized(follows));
    }
    let Some(header) = bytes.get(..length) else {
        return Parsed::Need(length - bytes.len());
    };
    // What a proxy says of its own connections is to be skipped, whatever it is.
    let said = if command == LOCAL { Ok((None, Box::default())) } else { said(header) };
    match said {
        Ok((addresses, tlvs)) => Parsed::Header(length, ProxyHeader { version: 2, addresses, tlvs }),
        Err(flaw) => Parsed::Bad(flaw),
    }
}

type Said = (Option<(Address, Address)>, Box<[u8]>);

/// For exactly the bytes of a header.
fn said(bytes: &[u8]) -> Result<Said, Flaw> {
    let header = Header::try_from(bytes).map_err(|error| match error {
        ParseError::InvalidAddresses(length, needed) => Flaw::Short(length, needed),
        _ => Flaw::Family(bytes[13]), // all else has been seen to
    })?;
    check_fields(bytes, header.tlv_bytes())?;
    let tlvs = header.tlv_bytes().into();
    if header.protocol != Protocol::Stream {
        return Ok((None, tlvs)); // no client of a stream has such an address
    }
    let addresses = match header.addresses {
        Addresses::Unspecified => None,
        Addresses::IPv4(ip) => Some((
            SocketAddr::from((ip.source_address, ip.source_port)).into(),
            SocketAddr::from((ip.destination_address, ip.destination_port)).into(),
        )),
        Addresses::IPv6(ip) => Some((
            SocketAddr::from((ip.source_address, ip.source_port)).into(),
            SocketAddr::from((ip.destination_address, ip.destination_port)).into(),
        )),
        Addresses::Unix(unix) => Some((unix_address(&unix.source), unix_address(&unix.destination))),
    };
    Ok((addresses, tlvs))
}

/// As the system writes them: a path up to its zero byte, or, after one, a name without a file.
fn unix_address(bytes: &[u8; 108]) -> Address {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(0) => match bytes.iter().rposition(|byte| *byte != 0) {
            Some(last) => Address::unix_abstract(&bytes[1..=last]),
            None => Address::unix_unnamed(),
        },
        end => Address::unix(&path(&bytes[..end.unwrap_or(bytes.len())])),
    }
}

#[cfg(unix)]
fn path(bytes: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

#[cfg(not(unix))]
fn path(bytes: &[u8]) -> std::path::PathBuf {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// That each field ends within the header, and that the checksum, which the receiver has to verify, is right.
fn check_fields(header: &[u8], fields: &[u8]) -> Result<(), Flaw> {
    let mut start = header.len() - fields.len();
    for field in ppp::v2::TypeLengthValues::from(fields) {
        let field = field.map_err(|_| Flaw::Field)?;
        let value = start + 3..start + 3 + field.value.len();
        start = value.end;
        if field.kind == Type::CRC32C as u8 {
            let said: [u8; 4] = header[value.clone()].try_into().map_err(|_| Flaw::Field)?;
            let zeroed = header[..value.start].iter().chain(&[0; 4]).chain(&header[value.end..]);
            if u32::from_be_bytes(said) != crc32c(zeroed) {
                return Err(Flaw::Checksum);
            }
        }
    }
    Ok(())
}

/// RFC 4960, appendix B. Bit by bit: it is done for at most 4 KiB a connection, and only where a proxy asks for it.
pub(super) fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    /// Castagnoli's polynomial, reflected.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}
