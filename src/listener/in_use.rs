//! [`holder`]: finds the socket that has a port, in Linux's `/proc`, for the text of an error.

use crate::address::Address;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How many bytes of a table are read. Listening sockets are first in the kernel's tables, so this is far more than
/// needed.
const LONGEST: u64 = 1 << 20;

/// The state of a listening socket in the tables.
const LISTENING: &str = "0A";

/// A listening socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) address: SocketAddr,
    /// It belongs to this process.
    pub(super) is_own: bool,
}

/// Returns the socket that listens where `wanted` would; `None` if the tables show none.
pub(super) fn holder(wanted: SocketAddr, only_v6: bool) -> Option<Holder> {
    let wanted = Address::from(wanted).socket_addr()?;
    let (tcp, tcp6) = ("/proc/self/net/tcp", "/proc/self/net/tcp6");
    let tables = if wanted.is_ipv4() { [tcp, tcp6] } else { [tcp6, tcp] }; // its own family first: the likelier reason
    tables.into_iter().find_map(|table| {
        let table = BufReader::new(File::open(table).ok()?.take(LONGEST));
        let mut found = table.lines().map_while(Result::ok).filter_map(|line| listening(&line));
        let (address, inode) = found.find(|(address, _)| overlaps(wanted, only_v6, *address))?;
        Some(Holder { address, is_own: is_own(inode) })
    })
}

/// Returns whether the two addresses cannot both be listened on. (A `[::]` in the tables may be for IPv6 only; they do
/// not show that.)
fn overlaps(wanted: SocketAddr, only_v6: bool, there: SocketAddr) -> bool {
    let either_is_every = wanted.ip().is_unspecified() || there.ip().is_unspecified();
    wanted.port() == there.port()
        && match (wanted, there) {
            (SocketAddr::V4(_), SocketAddr::V6(there)) => there.ip().is_unspecified(),
            (SocketAddr::V6(wanted), SocketAddr::V4(_)) => wanted.ip().is_unspecified() && !only_v6,
            _ => wanted.ip() == there.ip() || either_is_every,
        }
}

/// Returns the address and the inode in a line of a table, if that socket listens.
fn listening(line: &str) -> Option<(SocketAddr, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != LISTENING {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let address = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    // A socket that is bound to `::ffff:127.0.0.1` is in the table of IPv6.
    Some((Address::from(address).socket_addr()?, inode))
}

/// Parses an IP address: words of 32 bits, each in this machine's byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words: Vec<[u8; 4]> = (0..4).map_while(word).collect();
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Returns whether this process has a descriptor of the socket with this inode.
fn is_own(inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    let Ok(open) = fs::read_dir("/proc/self/fd") else { return false };
    open.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_socket_of_our_own_is_found_as_such() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(holder(address, false), Some(Holder { address, is_own: true }));
        let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        assert_eq!(holder(every, false), Some(Holder { address, is_own: true }));
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), address.port()));
        assert_eq!(holder(mapped, false), Some(Holder { address, is_own: true }));
        drop(socket);
        assert_ne!(holder(address, false).map(|holder| holder.is_own), Some(true));
    }

    #[test]
    fn two_addresses_overlap_if_a_client_could_mean_both() {
        let table = [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.2:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("127.0.0.1:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[::1]:80", "[::]:80", true),
        ];
        for (wanted, there, expected) in table {
            assert_eq!(overlaps(wanted.parse().unwrap(), false, there.parse().unwrap()), expected, "{wanted} {there}");
        }
        assert!(!overlaps("[::]:80".parse().unwrap(), true, "127.0.0.1:80".parse().unwrap()), "for IPv6 only");
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_line_of_the_table_is_read() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0";
        assert_eq!(listening(line), Some((SocketAddr::from(([127, 0, 0, 1], 8080)), 4711)));
        assert_eq!(listening(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listening(&line.replace("0100007F", "0000000000000000FFFF00000100007F")), listening(line));
        let v6 = line.replace("0100007F", "B80D0120000000000000000001000000");
        assert_eq!(listening(&v6).unwrap().0, "[2001:db8::1]:8080".parse().unwrap());
        for wrong in ["", "  sl  local_address rem_address   st", "0: x:1 y 0A", "0: 0100007F:FFFFF 0:0 0A 0 0 0 0 0 1"]
        {
            assert_eq!(listening(wrong), None, "{wrong}");
        }
    }
}
