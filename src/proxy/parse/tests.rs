//! Tests of the PROXY parser: tables of valid and malformed headers, written by hand.

use super::invariants::check;
use super::{Flaw, Parsed, v1, v2};
use crate::address::Address;
use std::net::{IpAddr, SocketAddr};

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn binary(command: u8, family: u8, follows: &[u8]) -> Vec<u8> {
    let length = u16::try_from(follows.len()).unwrap().to_be_bytes();
    [v2::SIGNATURE, &[command, family], &length, follows].concat()
}

pub(super) fn addresses(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let octets = |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut bytes = [octets(source.ip()), octets(destination.ip())].concat();
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

fn unix(source: &[u8], destination: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 216];
    bytes[..source.len()].copy_from_slice(source);
    bytes[108..108 + destination.len()].copy_from_slice(destination);
    bytes
}

pub(super) fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &u16::try_from(value.len()).unwrap().to_be_bytes()[..], value].concat()
}

/// A header with a checksum as its last field.
pub(super) fn with_checksum(command: u8, family: u8, follows: &[u8]) -> Vec<u8> {
    let mut header = binary(command, family, &[follows, &tlv(0x03, &[0; 4])].concat());
    let sum = v2::crc32c(header.iter()).to_be_bytes();
    let end = header.len() - 4;
    header[end..].copy_from_slice(&sum);
    header
}

/// The version, the addresses, and the fields.
pub(super) type Said = (u8, Option<(Address, Address)>, Vec<(u8, Vec<u8>)>);

/// Parses a valid header, alone and with bytes of the client after it.
pub(super) fn said(bytes: &[u8]) -> Said {
    check(&[bytes, b"\r\n\r\nGET / HTTP/1.1"].concat());
    match check(bytes) {
        Parsed::Header(length, header) => {
            assert_eq!(length, bytes.len(), "{}", bytes.escape_ascii());
            let tlvs = header.tlvs().map(|(kind, value)| (kind, value.to_vec())).collect();
            (header.version(), header.source().cloned().zip(header.destination().cloned()), tlvs)
        }
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

#[test]
fn good_headers_of_version_1() {
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
    let table = [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", Some(("192.0.2.1:56324", "198.51.100.2:443"))),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Some(("255.255.255.255:65535", "255.255.255.255:65535")),
        ),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some(("0.0.0.0:0", "0.0.0.0:0"))),
        ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some(("[2001:db8::1]:1", "[::1]:2"))),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Some(("[::ffff:192.0.2.1]:1", "[::1]:2"))),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 \
             65535\r\n",
            Some((
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            )),
        ),
        // Mixed families, as nginx writes them: each address is what it is.
        ("PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", Some(("1.2.3.4:1", "[::1]:2"))),
        ("PROXY TCP6 1.2.3.4 ::1 1 2\r\n", Some(("1.2.3.4:1", "[::1]:2"))),
        ("PROXY TCP6 2001:db8::1 1.2.3.4 1 2\r\n", Some(("[2001:db8::1]:1", "1.2.3.4:2"))),
        ("PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", Some(("1.2.3.4:1", "5.6.7.8:2"))),
        ("PROXY TCP4 1.2.3.4 2001:db8::1 1 2\r\n", Some(("1.2.3.4:1", "[2001:db8::1]:2"))),
        ("PROXY TCP4 2001:db8::1 1.2.3.4 1 2\r\n", Some(("[2001:db8::1]:1", "1.2.3.4:2"))),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN \r\n", None),
        ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
        ("PROXY UNKNOWN whatever stands here is to be ignored, + and \u{fc} too\r\n", None),
        (&longest, None),
    ];
    for (line, expected) in table {
        let expected = expected.map(|(source, destination)| (socket(source).into(), socket(destination).into()));
        assert_eq!(said(line.as_bytes()), (1, expected, Vec::new()), "{line}");
    }
    assert_eq!(longest.len(), v1::LONGEST);
}

#[test]
fn good_headers_of_version_2() {
    let (one, two) = (socket("192.0.2.1:56324"), socket("198.51.100.2:443"));
    let (six, seven) = (socket("[2001:db8::1]:1"), socket("[::1]:2"));
    let tcp = Some((one.into(), two.into()));
    let path = |path: &str| Address::unix(std::path::Path::new(path));
    let fields = [tlv(0x02, b"example.com"), tlv(0x04, b""), tlv(0xee, &[0, 255])].concat();
    let seen = vec![(0x02, b"example.com".to_vec()), (0x04, vec![]), (0xee, vec![0, 255])];
    let full = "p".repeat(108);
    let table = [
        (binary(0x21, 0x11, &addresses(one, two)), tcp.clone(), vec![]),
        (binary(0x21, 0x21, &addresses(six, seven)), Some((six.into(), seven.into())), vec![]),
        (binary(0x21, 0x11, &[addresses(one, two), fields.clone()].concat()), tcp.clone(), seen.clone()),
        (
            binary(0x21, 0x31, &unix(b"/run/client\0rubbish", b"\0name\0s")),
            Some((path("/run/client"), Address::unix_abstract(b"name\0s"))),
            vec![],
        ),
        (
            binary(0x21, 0x31, &[unix(full.as_bytes(), b""), fields.clone()].concat()),
            Some((path(&full), Address::unix_unnamed())),
            seen.clone(),
        ),
        // Without a client's address: a health check, whatever follows; an unknown family; datagrams.
        (binary(0x20, 0x00, b""), None, vec![]),
        (binary(0x20, 0x11, &addresses(one, two)), None, vec![]),
        (binary(0x20, 0x11, b"short"), None, vec![]),
        (binary(0x20, 0xff, b"anything"), None, vec![]),
        (binary(0x21, 0x00, b""), None, vec![]),
        (binary(0x21, 0x00, b"to be ignored"), None, vec![]),
        (binary(0x21, 0x12, &[addresses(one, two), fields].concat()), None, seen),
        (binary(0x21, 0x22, &addresses(six, seven)), None, vec![]),
        (binary(0x21, 0x32, &unix(b"/run/client", b"")), None, vec![]),
        (
            binary(0x21, 0x11, &[addresses(one, two), tlv(0x04, &[0; 4096 - 16 - 12 - 3])].concat()),
            tcp,
            vec![(0x04, vec![0; 4065])],
        ),
    ];
    for (bytes, expected, fields) in table {
        assert_eq!(said(&bytes), (2, expected, fields), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_checksum_is_verified() {
    assert_eq!(v2::crc32c(b"123456789".iter()), 0xe306_9283, "the algorithm's known answer");
    let (one, two) = (socket("192.0.2.1:56324"), socket("198.51.100.2:443"));
    let good = with_checksum(0x21, 0x11, &[addresses(one, two), tlv(0x01, b"h2")].concat());
    assert_eq!(said(&good).1, Some((one.into(), two.into())));
    for byte in 16..good.len() {
        let mut damaged = good.clone();
        damaged[byte] ^= 0x10;
        let parsed = check(&damaged);
        assert!(
            matches!(parsed, Parsed::Bad(Flaw::Checksum | Flaw::Field)) || byte == good.len() - 7,
            "{byte}: {parsed:?}"
        );
    }
    let short = binary(0x21, 0x11, &[addresses(one, two), tlv(0x03, &[0; 3])].concat());
    assert_eq!(check(&short), Parsed::Bad(Flaw::Field));
}

#[test]
fn bad_headers_of_version_1() {
    let family = "its family is none of TCP4, TCP6 and UNKNOWN";
    let (source, destination) = ("its source is no IP address", "its destination is no IP address");
    let port = "one of its ports is no number from 0 to 65535";
    let end = "its line does not end with CR LF";
    let (less, more) = (
        "there is less in its line than two addresses and two ports",
        "there is more in its line than two addresses and two ports",
    );
    let table: [(&[u8], &str); 35] = [
        (b"PROXY \r\n", family),
        (b"PROXY  TCP4 1.1.1.1 2.2.2.2 3 4\r\n", family),
        (b"PROXY tcp4 1.1.1.1 2.2.2.2 3 4\r\n", family),
        (b"PROXY TCP5 1.1.1.1 2.2.2.2 3 4\r\n", family),
        (b"PROXY TCP\r\n", family),
        (b"PROXY UDP4 1.1.1.1 2.2.2.2 3 4\r\n", family),
        (b"PROXY unknown\r\n", family),
        (b"PROXY UNKNOWNS\r\n", family),
        (b"PROXY UNKNOWN\n", end),
        (b"PROXY UNKNOWN\r\r\n", end),
        (b"PROXY TCP4\t1.1.1.1 2.2.2.2 3 4\r\n", family),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4\n", end),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4\rX", end),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3\r4\r\n", end),
        (b"PROXY please\n", end),
        (b"PROXY TCP4\r\n", less),
        (b"PROXY TCP4 1.1.1.1\r\n", less),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2\r\n", less),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3\r\n", less),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4 \r\n", more),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4 5\r\n", more),
        (b"PROXY TCP4  1.1.1.1 2.2.2.2 3 4\r\n", source),
        (b"PROXY TCP4 01.1.1.1 2.2.2.2 3 4\r\n", source),
        (b"PROXY TCP4 1.1.1 2.2.2.2 3 4\r\n", source),
        (b"PROXY TCP4 256.1.1.1 2.2.2.2 3 4\r\n", source),
        (b"PROXY TCP4 1.1.1.1 localhost 3 4\r\n", destination),
        (b"PROXY TCP6 fe80::1%eth0 ::1 3 4\r\n", source),
        (b"PROXY TCP6 ::1 [::1] 3 4\r\n", destination),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 -4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 +3 4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 03 4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 0x4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2  4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 \xff\r\n", "its line is not UTF-8"),
    ];
    for (line, expected) in table {
        assert_eq!(check(line), Parsed::Bad(Flaw::Line(expected)), "{}", line.escape_ascii());
    }
    for line in [format!("PROXY {}", "x".repeat(101)), format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 15))] {
        assert_eq!(check(line.as_bytes()), Parsed::Bad(Flaw::Endless), "{line}");
    }
}

#[test]
fn bad_headers_of_version_2() {
    let ip = addresses(socket("192.0.2.1:1"), socket("192.0.2.2:2"));
    let mut oversized = binary(0x21, 0x11, &ip);
    oversized[14..16].copy_from_slice(&4081u16.to_be_bytes());
    let mut huge = binary(0x20, 0x00, b"");
    huge[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let table = [
        (binary(0x11, 0x11, &ip), Flaw::Command(0x11)),
        (binary(0x31, 0x11, &ip), Flaw::Command(0x31)),
        (binary(0x22, 0x11, &ip), Flaw::Command(0x22)),
        (binary(0x21, 0x10, &ip), Flaw::Family(0x10)),
        (binary(0x21, 0x01, &ip), Flaw::Family(0x01)),
        (binary(0x21, 0x13, &ip), Flaw::Family(0x13)),
        (binary(0x21, 0x41, &ip), Flaw::Family(0x41)),
        (binary(0x21, 0x11, b""), Flaw::Short(0, 12)),
        (binary(0x21, 0x11, &ip[..11]), Flaw::Short(11, 12)),
        (binary(0x21, 0x21, &ip), Flaw::Short(12, 36)),
        (binary(0x21, 0x31, &[0; 215]), Flaw::Short(215, 216)),
        (binary(0x21, 0x12, &ip[..11]), Flaw::Short(11, 12)),
        (binary(0x21, 0x11, &[&ip[..], &[0x04]].concat()), Flaw::Field),
        (binary(0x21, 0x11, &[&ip[..], &[0x04, 0]].concat()), Flaw::Field),
        (binary(0x21, 0x11, &[&ip[..], &[0x04, 0, 1]].concat()), Flaw::Field),
        (binary(0x21, 0x11, &[&ip[..], &[0x04, 0xff, 0xff]].concat()), Flaw::Field),
        (binary(0x21, 0x11, &[&ip[..], &tlv(0x03, b"sum!")].concat()), Flaw::Checksum),
        (oversized, Flaw::Oversized(4081)),
        (huge, Flaw::Oversized(65535)),
    ];
    for (bytes, flaw) in table {
        assert_eq!(check(&bytes), Parsed::Bad(flaw), "{}", bytes.escape_ascii());
    }
}

#[test]
fn bytes_that_are_not_a_header_are_known_at_the_first_byte_that_differs() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"PROXX", b"PROXY\r\n", b"PROXYTCP4", b"\r\n\r\nGET", b"\x16\x03\x01", b"\n"]
    {
        assert_eq!(check(bytes), Parsed::Other, "{}", bytes.escape_ascii());
    }
    for bytes in [&b""[..], b"P", b"PROXY", b"\r\n\r\n\0"] {
        assert!(matches!(check(bytes), Parsed::Need(_)) && !super::is_begun(bytes), "{}", bytes.escape_ascii());
    }
    assert!(super::is_begun(b"PROXY ") && super::is_begun(v2::SIGNATURE));
}
