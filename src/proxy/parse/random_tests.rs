//! Tests of the PROXY parser with random headers, and with randomly changed ones.

use super::invariants::check;
use super::tests::{addresses, binary, said, tlv, with_checksum};
use super::{Parsed, parse};
use crate::random_bytes::{Dice, long};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// Random headers.
trait Headers {
    fn byte(&mut self) -> u8;
    fn pair(&mut self) -> (SocketAddr, SocketAddr);
    /// Returns a valid header, with its source and destination.
    fn header(&mut self) -> (Vec<u8>, (SocketAddr, SocketAddr));
    /// Changes the bytes a little, as a fuzzer does.
    fn mutate(&mut self, bytes: &mut Vec<u8>);
}

impl Headers for Dice {
    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn pair(&mut self) -> (SocketAddr, SocketAddr) {
        let six = self.below(2) == 0;
        let mut one = || {
            let ip: IpAddr = match six {
                true => <[u8; 16]>::try_from(self.any_bytes(16)).unwrap().into(),
                false => <[u8; 4]>::try_from(self.any_bytes(4)).unwrap().into(),
            };
            SocketAddr::new(ip, u16::from_be_bytes([self.byte(), self.byte()]))
        };
        (one(), one())
    }

    fn header(&mut self) -> (Vec<u8>, (SocketAddr, SocketAddr)) {
        let (source, destination) = self.pair();
        let six = source.is_ipv6();
        if self.below(2) == 0 {
            let family = if six { 6 } else { 4 };
            let (from, to) = (source.ip(), destination.ip());
            let line = format!("PROXY TCP{family} {from} {to} {} {}\r\n", source.port(), destination.port());
            return (line.into_bytes(), (source, destination));
        }
        let mut follows = addresses(source, destination);
        for _ in 0..self.below(4) {
            let value = self.below(40);
            let kind = [0x01, 0x02, 0x04, 0x05, 0x20, 0x30, 0xe0][self.below(7)];
            follows.extend(tlv(kind, &self.any_bytes(value)));
        }
        let family = if six { 0x21 } else { 0x11 };
        let make = if self.below(2) == 0 { binary } else { with_checksum };
        (make(0x21, family, &follows), (source, destination))
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len().max(1));
            match self.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.byte(),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.insert(at.min(bytes.len()), b" \r\n+0:.%\0\xff"[self.below(10)]),
                4 => bytes.truncate(at),
                5 => {
                    let (piece, _) = self.header();
                    let n = self.below(piece.len());
                    bytes.splice(at.min(bytes.len())..at.min(bytes.len()), piece[..n].iter().copied());
                }
                _ => {
                    let n = self.below(120);
                    bytes.extend(self.any_bytes(n));
                }
            }
        }
    }
}

/// Compares with the crate `proxy-header`: it must read every header that we accept, with the same result. (Headers
/// that it accepts and we refuse are in the tables of `tests`.)
fn compare(bytes: &[u8], parsed: &Parsed) {
    let Parsed::Header(length, header) = parsed else { return };
    let Some((source, destination)) = header.source().zip(header.destination()) else { return };
    let (Some(source), Some(destination)) = (source.socket_addr(), destination.socket_addr()) else { return };
    if header.version() == 1 && [source, destination].iter().any(|it| it.is_ipv6() != (bytes[9] == b'6')) {
        return; // mixed families, which only we accept
    }
    let config = proxy_header::ParseConfig::default();
    let (theirs, their_length) = proxy_header::ProxyHeader::parse(bytes, config).expect("the other parser accepts it");
    let they = theirs.proxied_address().map(|they| (they.source, they.destination));
    assert_eq!((they, their_length), (Some((source, destination)), *length), "{}", bytes.escape_ascii());
}

/// Parses 5,000 random headers, and each again with random changes. For a longer run: `EBBTIDE_FUZZ_SECONDS=600 cargo
/// test --release --features proxy-protocol --lib random_bytes -- --nocapture`.
#[test]
fn random_bytes_are_a_proxy_header_or_none_and_no_decision_changes() {
    let long = long();
    let start = Instant::now();
    let seed = if long.is_some() { std::process::id().into() } else { 1 };
    let mut dice = Dice::new(seed);
    let (mut headers, mut others, mut flaws, mut unfinished) = (0_u64, 0_u64, 0_u64, 0_u64);
    while long.map_or(headers + others + flaws + unfinished < 5_000, |long| start.elapsed() < long) {
        let (mut bytes, (source, destination)) = dice.header();
        assert_eq!(said(&bytes).1, Some((source.into(), destination.into())));
        compare(&bytes, &parse(&bytes));
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
        "seed {seed}: {headers} headers, {flaws} malformed, {unfinished} incomplete, {others} others ({:.1?})",
        start.elapsed()
    );
    assert!(
        long.is_some() || [headers, others, flaws, unfinished].iter().all(|n| *n > 100),
        "the changes reach every kind of result"
    );
}
