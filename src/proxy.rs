//! The PROXY protocol: who the client of a proxy is.

mod header;
pub(crate) mod parse;

/// For `fuzz/`: see [`parse::holds`].
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let _ = parse::invariants::check(bytes);
}

use crate::address::Address;
use crate::text::explained;
pub use header::ProxyHeader;
use ipnet::{IpNet, Ipv4Net};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// How long a header may take. It is the first that a proxy sends, at once; this is the time in which one lost packet
/// is sent again, and the least that the protocol's text recommends.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Says that a listener's connections come through a proxy (HAProxy, nginx, a cloud's load balancer), which tells in a
/// few bytes before the client's own who the client is: the [PROXY protocol], versions 1 and 2. Needs the feature
/// `proxy-protocol`.
///
/// For [`ListenOptions::proxy_protocol`](crate::ListenOptions::proxy_protocol) and
/// [`Listener::proxy_protocol`](crate::Listener::proxy_protocol): each listener has its own.
///
/// The header is read before the handler is called, and before a TLS handshake; the handler begins with the byte after
/// it. Then [`peer_addr`](crate::Connection::peer_addr) and [`local_addr`](crate::Connection::local_addr) are the
/// client's address and the one that it connected to, everywhere: in the log, in
/// [`Handle::connections`](crate::Handle::connections), and for
/// [`max_connections_per_ip`](crate::Server::max_connections_per_ip), which counts clients and not proxies. The
/// socket's own stay reachable: [`socket_peer_addr`](crate::Connection::socket_peer_addr). What else the header says is
/// in [`Connection::proxy_header`](crate::Connection::proxy_header).
///
/// # Trusted peers
///
/// A peer that may send a header may claim to be any client. So no peer is trusted until [`trust`](Self::trust) or
/// [`trust_local`](Self::trust_local) says so, and no header of others is ever read:
///
/// | | a trusted peer | any other peer |
/// |---|---|---|
/// | [`required`](Self::required) | must begin with a header | is closed: it has not come through the proxy |
/// | [`optional`](Self::optional) | may begin with one | goes to the handler with all that it sends |
///
/// # What is refused
///
/// A header of version 1 is at most 107 bytes long, as its specification says; one of version 2 at most 4 KiB, which
/// has room for a client's certificate, and a longer one is refused before it is read. Whatever is malformed closes its
/// connection, also where headers are optional: once the beginning that headers have (`PROXY` and a space, or the 12
/// bytes of version 2) is there, it has to be a good one. The log says with level `warn` what was wrong, and how it
/// began, since a trusted proxy that sends such things is set up wrongly. Such connections count as
/// [rejected](crate::Report::rejected), never stop the server, and their handler is never called.
///
/// Version 1 may name one family and have addresses of another, as nginx wrote it for years
/// (`PROXY TCP6 192.0.2.1 ::1 …`): each address is taken for what it is.
///
/// A peer that leaves before its header is whole, as a load balancer's health check does, is logged with level `debug`.
///
/// Headers that name no client (`UNKNOWN`, `LOCAL`: a proxy's own health checks; families that no stream has) are
/// accepted, and the socket's own addresses stand. The fields of version 2 (TLVs) are checked for their form, and a
/// checksum (CRC32c) for its value. A second header is not read: it goes to the handler, as the client's bytes do.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{ListenOptions, ProxyProtocol, Server};
///
/// let proxy = ProxyProtocol::required().trust("10.0.0.0/8")?.trust("fd00::/8")?;
/// let server = Server::bind_with("127.0.0.1:0", &ListenOptions::new().proxy_protocol(proxy)).await?;
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
///
/// For HAProxy the server's line is then `server one 10.0.0.7:8888 send-proxy-v2`.
///
/// [PROXY protocol]: https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt
#[derive(Clone, Debug)]
#[must_use = "it does nothing before it is given to `ListenOptions::proxy_protocol` or `Listener::proxy_protocol`"]
pub struct ProxyProtocol {
    /// A trusted peer must send a header, and others are closed.
    required: bool,
    /// Where proxies are. IPv4 ones are never written as IPv6 ones.
    networks: Vec<IpNet>,
    /// Peers without an IP address are proxies.
    local: bool,
    /// `None`: no limit.
    timeout: Option<Duration>,
}

impl ProxyProtocol {
    /// Every connection comes through a trusted proxy and begins with a header; all others are closed.
    pub fn required() -> Self {
        Self { required: true, networks: Vec::new(), local: false, timeout: Some(TIMEOUT) }
    }

    /// A connection from a trusted peer may begin with a header. Where it does not, and where the peer is not trusted,
    /// every byte goes to the handler.
    ///
    /// For a listener that is reached directly as well, or while a proxy is being introduced. Two things follow:
    ///
    /// - a trusted peer that says nothing reaches its handler only after the [`timeout`](Self::timeout): where the
    ///   server speaks first, that is how long its greeting takes;
    /// - a client of a trusted proxy that does *not* send headers can send one itself, and so choose its address. Let
    ///   every trusted proxy send them, or none.
    pub fn optional() -> Self {
        Self { required: false, ..Self::required() }
    }

    /// Believes the peers of a network, such as `10.0.0.0/8` or `fd00::/8`, or of one address, such as `192.0.2.7`. Can
    /// be called as often as wanted.
    ///
    /// IPv4 peers of an IPv6 socket are IPv4 peers, and so `::/0` is every IPv6 address and no IPv4 address.
    ///
    /// # Errors
    ///
    /// Where it is no network; the error names it.
    pub fn trust(mut self, network: &str) -> io::Result<Self> {
        let parsed = network.parse().or_else(|_| network.parse().map(|address: IpAddr| address.into()));
        let Ok(parsed) = parsed else {
            let text = format!(
                "cannot trust `{network}`: it is no network; give one as `10.0.0.0/8` or `fd00::/8`, or an address as `192.0.2.7`"
            );
            return Err(explained(io::ErrorKind::InvalidInput, text));
        };
        self.networks.push(canonical(parsed));
        Ok(self)
    }

    /// Believes the peers that have no IP address: those of a Unix socket (its file's
    /// [permissions](crate::ListenOptions::mode) say who can connect), of a listener in memory, and of [one of your
    /// own](crate::Listener::custom) where it gives them other addresses. Default: they are not trusted.
    pub fn trust_local(mut self) -> Self {
        self.local = true;
        self
    }

    /// Sets how long a header may take, from the accept on: a `Duration`, or `None` for no limit. Default: 3 seconds,
    /// in which a lost packet is sent again. In a drain it is at most 1 second.
    ///
    /// When it is over: a required header, or one that is half there, closes its connection; where it is optional and
    /// none has begun, the handler is called.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    pub(crate) fn is_required(&self) -> bool {
        self.required
    }

    pub(crate) fn limit(&self) -> Option<Duration> {
        self.timeout
    }

    /// Whether any peer is believed.
    pub(crate) fn trusts_any(&self) -> bool {
        self.local || !self.networks.is_empty()
    }

    /// Whether this peer is believed.
    pub(crate) fn trusts(&self, peer: &Address) -> bool {
        match peer.ip() {
            Some(ip) => self.networks.iter().any(|network| network.contains(&ip)),
            None => self.local,
        }
    }
}

/// An IPv4 network that is written as an IPv6 one (`::ffff:10.0.0.0/104`) is an IPv4 network.
fn canonical(network: IpNet) -> IpNet {
    /// How many bits come before the IPv4 address.
    const MAPPED: u8 = 96;
    if let IpNet::V6(v6) = network {
        if let (Some(address), Some(bits)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(MAPPED)) {
            return Ipv4Net::new(address, bits).map_or(network, IpNet::V4);
        }
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn a_peer_is_trusted_by_its_network_however_the_addresses_are_written() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "::ffff:11.0.0.1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "203.0.113.1", false),
            ("::/0", "::ffff:203.0.113.1", false),
            ("fd00::/8", "fd12::1", true),
            ("::1", "::1", true),
        ];
        for (network, peer, trusted) in table {
            let proxy = ProxyProtocol::required().trust(network).unwrap();
            let peer = SocketAddr::new(peer.parse().unwrap(), 1234);
            assert_eq!(proxy.trusts(&peer.into()), trusted, "{peer} in {network}");
        }
    }

    #[test]
    fn nobody_is_trusted_by_default_and_peers_without_an_ip_address_only_by_name() {
        let peers = [SocketAddr::from(([127, 0, 0, 1], 1)).into(), Address::unix_unnamed(), Address::named("memory:0")];
        for peer in &peers {
            assert!(!ProxyProtocol::required().trusts(peer) && !ProxyProtocol::optional().trusts(peer), "{peer}");
        }
        let everybody = ProxyProtocol::required().trust("0.0.0.0/0").unwrap();
        let local = ProxyProtocol::required().trust_local();
        for peer in &peers {
            assert_eq!(everybody.trusts(peer), peer.ip().is_some(), "{peer}");
            assert_eq!(local.trusts(peer), peer.ip().is_none(), "{peer}");
        }
    }

    #[test]
    fn what_is_no_network_is_named() {
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "10.0.0.0/8,11.0.0.0/8", "fd00::/129", " 10.0.0.1"] {
            let error = ProxyProtocol::required().trust(wrong).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("`{wrong}`")), "{error}");
        }
    }
}
