//! Parses PROXY version 1, a line of text.

use super::{Flaw, Parsed};
use crate::address::Address;
use crate::proxy::ProxyHeader;
use std::net::{IpAddr, SocketAddr};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The length of the longest line, with its CR LF: the number of the specification.
pub(super) const LONGEST: usize = 107;

/// Returns how many bytes of the signature have not arrived yet; `None` if the bytes differ from it.
pub(super) fn missing(bytes: &[u8]) -> Option<usize> {
    super::missing(SIGNATURE, bytes)
}

/// Parses bytes that begin with the signature.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.iter().take(LONGEST - 1).position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return match bytes.len() {
            LONGEST.. => Parsed::Bad(Flaw::Endless),
            length => Parsed::Need(LONGEST - length),
        };
    };
    match bytes[end..] {
        [b'\r'] => Parsed::Need(1),
        [b'\r', b'\n', ..] => match addresses(&bytes[SIGNATURE.len()..end]) {
            Ok(addresses) => Parsed::Header(end + 2, ProxyHeader { version: 1, addresses, tlvs: Box::default() }),
            Err(text) => Parsed::Bad(Flaw::Line(text)),
        },
        _ => Parsed::Bad(Flaw::Line("its line does not end with CR LF")),
    }
}

/// Parses the addresses in a line, without its signature and its CR LF.
///
/// The family need not be that of the addresses: nginx writes the family of its own socket, followed by the client's
/// address from another header. So `TCP6` may stand before an IPv4 address, and `TCP4` before an IPv6 one. Each address
/// shows its own family.
fn addresses(line: &[u8]) -> Result<Option<(Address, Address)>, &'static str> {
    // The specification: ignore everything after this word.
    if let Some([] | [b' ', ..]) = line.strip_prefix(b"UNKNOWN") {
        return Ok(None);
    }
    let mut fields = std::str::from_utf8(line).map_err(|_| "its line is not UTF-8")?.split(' ');
    if !matches!(fields.next(), Some("TCP4" | "TCP6")) {
        return Err("its family is none of TCP4, TCP6 and UNKNOWN");
    }
    let mut next = || fields.next().ok_or("there is less in its line than two addresses and two ports");
    let source: IpAddr = next()?.parse().map_err(|_| "its source is no IP address")?;
    let destination: IpAddr = next()?.parse().map_err(|_| "its destination is no IP address")?;
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    if fields.next().is_some() {
        return Err("there is more in its line than two addresses and two ports");
    }
    let address = |ip, port| Address::from(SocketAddr::new(ip, port));
    Ok(Some((address(source, source_port), address(destination, destination_port))))
}

/// Parses a port: digits, without a sign and without a leading zero.
fn port(text: &str) -> Result<u16, &'static str> {
    match text.as_bytes() {
        [b'0'] | [b'1'..=b'9', ..] => text.parse().ok(),
        _ => None,
    }
    .ok_or("one of its ports is no number from 0 to 65535")
}
