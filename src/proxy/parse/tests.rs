//! Good headers, bad ones, and what chance makes of them.

use super::holds::check;
use super::{Flaw, Parsed, v1, v2};
use crate::address::Address;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn binary(command: u8, family: u8, follows: &[u8]) -> Vec<u8> {
    let length = u16::try_from(follows.len()).unwrap().to_be_bytes();
    [v2::SIGNATURE, &[command, family], &length, follows].concat()
}

fn addresses(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
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

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &u16::try_from(value.len()).unwrap().to_be_bytes()[..], value].concat()
}

/// A header with a checksum as its last field.
fn with_checksum(command: u8, family: u8, follows: &[u8]) -> Vec<u8> {
    let mut header = binary(command, family, &[follows, &tlv(0x03, &[0; 4])].concat());
    let sum = v2::crc32c(header.iter()).to_be_bytes();
    let end = header.len() - 4;
    header[end..].copy_from_slice(&sum);
    header
}

/// The version, the addresses, and the fields.
type Said = (u8, Option<(Address, Address)>, Vec<(u8, Vec<u8>)>);

/// What a good header says; it is tried alone, and with bytes of the client's after it.
fn said(bytes: &[u8]) -> Said {
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
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Some((
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            )),
        ),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN \r\n", None),
        ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
        ("PROXY UNKNOWN whatever comes here is to be ignored, + and \u{fc} too\r\n", None),
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
    let path = |path: &str| Address::Unix(std::path::Path::new(path).into());
    let fields = [tlv(0x02, b"example.com"), tlv(0x04, b""), tlv(0xee, &[0, 255])].concat();
    let seen = vec![(0x02, b"example.com".to_vec()), (0x04, vec![]), (0xee, vec![0, 255])];
    let full = "p".repeat(108);
    let table = [
        (binary(0x21, 0x11, &addresses(one, two)), tcp.clone(), vec![]),
        (binary(0x21, 0x21, &addresses(six, seven)), Some((six.into(), seven.into())), vec![]),
        (binary(0x21, 0x11, &[addresses(one, two), fields.clone()].concat()), tcp.clone(), seen.clone()),
        (
            binary(0x21, 0x31, &unix(b"/run/client\0rubbish", b"\0name\0s")),
            Some((path("/run/client"), Address::UnixAbstract(b"name\0s".as_slice().into()))),
            vec![],
        ),
        (
            binary(0x21, 0x31, &[unix(full.as_bytes(), b""), fields.clone()].concat()),
            Some((path(&full), Address::UnixUnnamed)),
            seen.clone(),
        ),
        // Nobody is named: a health check, whatever it adds; an unknown family; datagrams.
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
    let (source, destination) = (
        "its source is no address of the family that it names",
        "its destination is no address of the family that it names",
    );
    let port = "one of its ports is no number from 0 to 65535";
    let end = "its line does not end with CR LF";
    let (less, more) = (
        "there is less in its line than two addresses and two ports",
        "there is more in its line than two addresses and two ports",
    );
    let table: [(&[u8], &str); 37] = [
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
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4 \r\n", more),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4 5\r\n", more),
        (b"PROXY TCP4  1.1.1.1 2.2.2.2 3 4\r\n", source),
        (b"PROXY TCP4 ::1 2.2.2.2 3 4\r\n", source),
        (b"PROXY TCP4 01.1.1.1 2.2.2.2 3 4\r\n", source),
        (b"PROXY TCP4 1.1.1 2.2.2.2 3 4\r\n", source),
        (b"PROXY TCP4 256.1.1.1 2.2.2.2 3 4\r\n", source),
        (b"PROXY TCP4 1.1.1.1 localhost 3 4\r\n", destination),
        (b"PROXY TCP6 1.1.1.1 ::1 3 4\r\n", source),
        (b"PROXY TCP6 fe80::1%eth0 ::1 3 4\r\n", source),
        (b"PROXY TCP6 ::1 [::1] 3 4\r\n", destination),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 -4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 +3 4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 03 4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 0x4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2  4\r\n", port),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 3 \xff\r\n", "its line is no text"),
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
fn what_is_no_header_is_known_by_its_first_byte_that_is_another() {
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

/// A small generator of our own: the test must not depend on luck that cannot be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % sides as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.roll(256) as u8
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }

    fn pair(&mut self) -> (SocketAddr, SocketAddr) {
        let six = self.roll(2) == 0;
        let mut one = || {
            let ip: IpAddr = match six {
                true => <[u8; 16]>::try_from(self.bytes(16)).unwrap().into(),
                false => <[u8; 4]>::try_from(self.bytes(4)).unwrap().into(),
            };
            SocketAddr::new(ip, u16::from_be_bytes([self.byte(), self.byte()]))
        };
        (one(), one())
    }

    /// A good header, and what it says.
    fn header(&mut self) -> (Vec<u8>, (SocketAddr, SocketAddr)) {
        let (source, destination) = self.pair();
        let six = source.is_ipv6();
        if self.roll(2) == 0 {
            let family = if six { 6 } else { 4 };
            let (from, to) = (source.ip(), destination.ip());
            let line = format!("PROXY TCP{family} {from} {to} {} {}\r\n", source.port(), destination.port());
            return (line.into_bytes(), (source, destination));
        }
        let mut follows = addresses(source, destination);
        for _ in 0..self.roll(4) {
            let value = self.roll(40);
            let kind = [0x01, 0x02, 0x04, 0x05, 0x20, 0x30, 0xe0][self.roll(7)];
            follows.extend(tlv(kind, &self.bytes(value)));
        }
        let family = if six { 0x21 } else { 0x11 };
        let make = if self.roll(2) == 0 { binary } else { with_checksum };
        (make(0x21, family, &follows), (source, destination))
    }

    /// Changes it a little, as the fuzzer does.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len().max(1));
            match self.roll(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                1 if at < bytes.len() => bytes[at] = self.byte(),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.insert(at.min(bytes.len()), b" \r\n+0:.%\0\xff"[self.roll(10)]),
                4 => bytes.truncate(at),
                5 => {
                    let (piece, _) = self.header();
                    let n = self.roll(piece.len());
                    bytes.splice(at.min(bytes.len())..at.min(bytes.len()), piece[..n].iter().copied());
                }
                _ => {
                    let n = self.roll(120);
                    bytes.extend(self.bytes(n));
                }
            }
        }
    }
}

/// A second parser, written by others, must read every header of ours as we do. (What it takes and we refuse is in the tables.)
fn compare(bytes: &[u8], parsed: &Parsed) {
    let Parsed::Header(length, header) = parsed else { return };
    let Some((source, destination)) = header.source().zip(header.destination()) else { return };
    let (Some(source), Some(destination)) = (source.as_tcp(), destination.as_tcp()) else { return };
    let config = proxy_header::ParseConfig::default();
    let (theirs, their_length) = proxy_header::ProxyHeader::parse(bytes, config).expect("the other parser takes it");
    let they = theirs.proxied_address().map(|they| (they.source, they.destination));
    assert_eq!((they, their_length), (Some((source, destination)), *length), "{}", bytes.escape_ascii());
}

/// 5,000 headers and as many that chance has changed. More: `EBBTIDE_FUZZ_SECONDS=600 cargo test --release --features
/// proxy-protocol --lib whatever -- --nocapture`.
#[test]
fn whatever_comes_nothing_panics_and_no_decision_is_taken_back() {
    let long = std::env::var("EBBTIDE_FUZZ_SECONDS")
        .ok()
        .map(|seconds| Duration::from_secs(seconds.parse().expect("EBBTIDE_FUZZ_SECONDS is a number of seconds")));
    let start = Instant::now();
    let seed = if long.is_some() { std::process::id().into() } else { 1 };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
    let (mut headers, mut others, mut flaws, mut unfinished) = (0_u64, 0_u64, 0_u64, 0_u64);
    while long.map_or(headers + others + flaws + unfinished < 5_000, |long| start.elapsed() < long) {
        let (mut bytes, (source, destination)) = dice.header();
        assert_eq!(said(&bytes).1, Some((source.into(), destination.into())));
        compare(&bytes, &super::parse(&bytes));
        dice.mutate(&mut bytes);
        let parsed = check(&bytes);
        compare(&bytes, &parsed);
        match parsed {
            Parsed::Header(..) => headers += 1,
            Parsed::Other => others += 1,
            Parsed::Bad(flaw) => {
                let _ = flaw.to_string();
                flaws += 1;
            }
            Parsed::Need(_) => unfinished += 1,
        }
    }
    println!(
        "seed {seed}: {headers} were still headers, {flaws} bad ones, {unfinished} unfinished, {others} none ({:.1?})",
        start.elapsed()
    );
    assert!(
        long.is_some() || [headers, others, flaws, unfinished].iter().all(|n| *n > 100),
        "chance reaches everything"
    );
}
