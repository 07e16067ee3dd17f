//! Parses PROXY version 2, which is binary.

use super::{Flaw, Parsed};
use crate::address::Address;
use crate::proxy::ProxyHeader;
use ppp::v2::{Addresses, Header, ParseError, Protocol, Type};
use std::net::SocketAddr;

pub(super) const SIGNATURE: &[u8] = ppp::v2::PROTOCOL_PREFIX;

/// The length of the fixed part: signature, version and command, family and protocol, and the length of the rest.
const FIXED: usize = 16;

/// The longest header that is accepted. Addresses take at most 216 bytes; the rest is for fields, of which a client's
/// certificate is the largest (usually 2 KiB). The length field allows 64 KiB, which would only fill memory.
pub(super) const LONGEST: usize = 4096;

/// Version 2, for a connection of the proxy's own.
const LOCAL: u8 = 0x20;
/// Version 2, for a client's connection.
const PROXY: u8 = 0x21;

/// Returns how many bytes of the fixed part have not arrived yet; `None` if the bytes differ from the signature.
pub(super) fn missing(bytes: &[u8]) -> Option<usize> {
    super::missing(SIGNATURE, bytes).map(|_| FIXED.saturating_sub(bytes.len()))
}

/// Parses bytes that begin with the fixed part.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let (command, family) = (bytes[12], bytes[13]);
    if !matches!(command, LOCAL | PROXY) {
        return Parsed::Bad(Flaw::Command(command));
    }
    // Of all other values, `ppp` accepts only the combinations of 0 with 1 and 2. The specification does not define
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
    // The specification: after LOCAL, skip the rest, whatever it is.
    let contents = if command == LOCAL { Ok((None, Box::default())) } else { contents(header) };
    match contents {
        Ok((addresses, tlvs)) => Parsed::Header(length, ProxyHeader { version: 2, addresses, tlvs }),
        Err(flaw) => Parsed::Bad(flaw),
    }
}

/// The source and the destination, and the fields.
type Contents = (Option<(Address, Address)>, Box<[u8]>);

/// Parses the addresses and the fields of exactly one header.
fn contents(bytes: &[u8]) -> Result<Contents, Flaw> {
    let header = Header::try_from(bytes).map_err(|error| match error {
        ParseError::InvalidAddresses(length, needed) => Flaw::Short(length, needed),
        _ => Flaw::Family(bytes[13]), // `parse` has checked everything else
    })?;
    check_fields(bytes, header.tlv_bytes())?;
    let tlvs = header.tlv_bytes().into();
    if header.protocol != Protocol::Stream {
        return Ok((None, tlvs)); // datagrams: not the address of a stream's client
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

/// Parses a Unix address in the system's form: a path up to its zero byte, or a zero byte and an abstract name.
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

/// Checks that each field ends within the header, and that the checksum is right, which a receiver has to verify.
fn check_fields(header: &[u8], fields: &[u8]) -> Result<(), Flaw> {
    let mut start = header.len() - fields.len();
    for field in ppp::v2::TypeLengthValues::from(fields) {
        let field = field.map_err(|_| Flaw::Field)?;
        let value = start + 3..start + 3 + field.value.len();
        start = value.end;
        if field.kind == Type::CRC32C as u8 {
            let sent: [u8; 4] = header[value.clone()].try_into().map_err(|_| Flaw::Field)?;
            let zeroed = header[..value.start].iter().chain(&[0; 4]).chain(&header[value.end..]);
            if u32::from_be_bytes(sent) != crc32c(zeroed) {
                return Err(Flaw::Checksum);
            }
        }
    }
    Ok(())
}

/// Computes a CRC32c (RFC 4960, appendix B). Bit by bit is fast enough: it is at most 4 KiB a connection, and only if
/// the proxy sends a checksum.
pub(super) fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    /// The Castagnoli polynomial, reflected.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}
