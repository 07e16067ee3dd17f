//! Parses PROXY version 1, a line of text.

use super::{Flaw, Parsed};
use crate::address::Address;
use crate::proxy::ProxyHeader;
use ppp::v1::{Addresses, BinaryParseError, Header, ParseError};
use std::net::SocketAddr;

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// With its CR LF: the specification's number.
pub(super) const LONGEST: usize = 107;

pub(super) fn missing(bytes: &[u8]) -> Option<usize> {
    super::missing(SIGNATURE, bytes)
}

/// For bytes that begin with the signature.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.iter().take(LONGEST - 1).position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return match bytes.len() {
            LONGEST.. => Parsed::Bad(Flaw::Endless),
            length => Parsed::Need(LONGEST - length),
        };
    };
    match bytes[end..] {
        [b'\r'] => Parsed::Need(1),
        [b'\r', b'\n', ..] => match addresses(&bytes[..end], &bytes[..end + 2]) {
            Ok(addresses) => Parsed::Header(end + 2, ProxyHeader { version: 1, addresses, tlvs: Box::default() }),
            Err(text) => Parsed::Bad(Flaw::Line(text)),
        },
        _ => Parsed::Bad(Flaw::Line("its line does not end with CR LF")),
    }
}

/// Of a whole line, which is given without and with its end.
fn addresses(text: &[u8], line: &[u8]) -> Result<Option<(Address, Address)>, &'static str> {
    // Whatever comes after the word is to be ignored.
    if let Some([] | [b' ', ..]) = text[SIGNATURE.len()..].strip_prefix(b"UNKNOWN") {
        return Ok(None);
    }
    if text.contains(&b'+') {
        return Err("one of its ports is no number from 0 to 65535"); // `+80` is one for the parser
    }
    let pair = |source: SocketAddr, destination: SocketAddr| Some((source.into(), destination.into()));
    match Header::try_from(line).map_err(explain)?.addresses {
        Addresses::Tcp4(tcp) => Ok(pair(
            (tcp.source_address, tcp.source_port).into(),
            (tcp.destination_address, tcp.destination_port).into(),
        )),
        Addresses::Tcp6(tcp) => Ok(pair(
            (tcp.source_address, tcp.source_port).into(),
            (tcp.destination_address, tcp.destination_port).into(),
        )),
        Addresses::Unknown => Ok(None),
    }
}

fn explain(error: BinaryParseError) -> &'static str {
    match error {
        BinaryParseError::InvalidUtf8(_) => "its line is no text",
        BinaryParseError::Parse(error) => match error {
            ParseError::InvalidSourceAddress(_) => "its source is no address of the family that it names",
            ParseError::InvalidDestinationAddress(_) => "its destination is no address of the family that it names",
            ParseError::InvalidSourcePort(_) | ParseError::InvalidDestinationPort(_) => {
                "one of its ports is no number from 0 to 65535"
            }
            ParseError::InvalidProtocol | ParseError::MissingProtocol | ParseError::Partial => {
                "its family is none of TCP4, TCP6 and UNKNOWN"
            }
            ParseError::InvalidSuffix => "there is more in its line than two addresses and two ports",
            _ => "there is less in its line than two addresses and two ports",
        },
    }
}
