//! [`Clients`]: a table of how many connections each client has, for `max_connections_per_ip`.
//!
//! A client is an IPv4 address or an IPv6 network. The table has an entry only for clients with open connections, and
//! shrinks after a flood of addresses.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Default: how many bits of an IPv6 address identify a client. A network of this size is the smallest that a
/// subscriber gets, and the subscriber can use each of its addresses.
const IPV6_PREFIX: u8 = 64;

/// The table shrinks when at most one part in so many of its room is used.
const SPARSE: usize = 4;
/// A table with room for this many clients, or fewer, does not shrink.
const SMALLEST: usize = 64;

/// One client as it is counted: an IPv4 address, or an IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// An IPv4 address (never in its IPv6-mapped form), or the first address of an IPv6 network.
    ip: IpAddr,
    /// Length of the IPv6 prefix; 128 for an IPv4 address.
    prefix: u8,
}

impl Client {
    fn new(ip: IpAddr, prefix: u8) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0);
                Self { ip: Ipv6Addr::from(u128::from(ip) & mask).into(), prefix }
            }
            ip => Self { ip, prefix: 128 },
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            128 => self.ip.fmt(f),
            prefix => write!(f, "{}/{prefix}", self.ip),
        }
    }
}

/// The number of connections of each client that has one.
#[derive(Debug)]
pub(super) struct Clients {
    numbers: HashMap<Client, usize>,
    /// How many bits of an IPv6 address identify a client.
    prefix: u8,
}

impl Default for Clients {
    fn default() -> Self {
        Self { numbers: HashMap::new(), prefix: IPV6_PREFIX }
    }
}

impl Clients {
    /// Sets the prefix for connections that are counted from now on.
    pub(super) fn set_prefix(&mut self, prefix: u8) {
        self.prefix = prefix.min(128);
    }

    /// Counts one more connection of a client. Returns the client as an error if it already has `max`.
    pub(super) fn add(&mut self, ip: IpAddr, max: usize) -> Result<Client, Client> {
        let client = Client::new(ip, self.prefix);
        let number = self.numbers.get(&client).copied().unwrap_or(0);
        if number >= max {
            return Err(client);
        }
        self.numbers.insert(client, number + 1);
        Ok(client)
    }

    /// Uncounts a connection that has ended.
    pub(super) fn remove(&mut self, client: Client) {
        if let Some(number) = self.numbers.get_mut(&client) {
            *number -= 1;
            if *number == 0 {
                self.numbers.remove(&client);
                self.shrink();
            }
        }
    }

    /// Frees the memory of a flood of addresses. Each time it frees at least half of the room, so its cost, spread over
    /// all removals, is small.
    fn shrink(&mut self) {
        let (len, capacity) = (self.numbers.len(), self.numbers.capacity());
        if capacity > SMALLEST && len <= capacity / SPARSE {
            self.numbers.shrink_to(2 * len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv4_address_is_a_client_and_so_is_an_ipv6_network() {
        let table = [
            ("192.0.2.1", 64, "192.0.2.1"),
            ("::ffff:192.0.2.1", 64, "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", 64, "2001:db8:1:2::/64"),
            ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
            ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::/48"),
            ("2001:db8:1:23ff:3:4:5:6", 56, "2001:db8:1:2300::/56"),
            ("2001:db8::1", 0, "::/0"),
            ("192.0.2.1", 0, "192.0.2.1"),
        ];
        for (address, prefix, shown) in table {
            assert_eq!(Client::new(ip(address), prefix).to_string(), shown, "{address}");
        }
    }

    #[test]
    fn the_limit_of_a_client_holds_for_all_of_its_addresses_together() {
        let mut clients = Clients::default();
        let one = clients.add(ip("2001:db8::1"), 2).unwrap();
        let two = clients.add(ip("2001:db8::ffff:2"), 2).unwrap();
        assert_eq!((one, clients.add(ip("2001:db8::3"), 2).unwrap_err()), (two, two));
        let neighbour = clients.add(ip("2001:db8:0:1::1"), 2).unwrap();
        clients.remove(one);
        clients.add(ip("2001:db8::3"), 2).unwrap();
        assert!(clients.add(ip("2001:db8::4"), 0).is_err());
        // Connections that were counted before the setting changed are still uncounted.
        clients.set_prefix(128);
        for client in [two, two, neighbour] {
            clients.remove(client);
        }
        assert!(clients.numbers.is_empty());
        clients.set_prefix(200);
        assert_eq!(clients.add(ip("::1"), 1).unwrap().to_string(), "::1");
    }

    #[test]
    fn the_table_frees_its_memory_after_a_flood_of_addresses() {
        let mut clients = Clients::default();
        let flood: Vec<_> = (0..100_000u32).map(|n| clients.add(n.to_be_bytes().into(), 1).unwrap()).collect();
        assert!(clients.numbers.capacity() >= 100_000);
        for (n, client) in flood.into_iter().enumerate() {
            clients.remove(client);
            let (len, capacity) = (clients.numbers.len(), clients.numbers.capacity());
            assert!(capacity <= SMALLEST.max(SPARSE * (len + 1)), "after {n}: {capacity} for {len}");
        }
        assert!(clients.numbers.capacity() <= SMALLEST, "{}", clients.numbers.capacity());
    }
}
