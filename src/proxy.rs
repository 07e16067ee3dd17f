//! [`ProxyProtocol`]: which peers may send a PROXY header, and whether they must.
//!
//! A PROXY header is a few bytes in which a proxy gives its client's address, before the client's own bytes. `parse`
//! reads it from bytes; `header` is the result, [`ProxyHeader`]. `connection/open/proxy.rs` reads it from a connection.

mod header;
pub(crate) mod parse;

use crate::address::Address;
use crate::text::explained;
pub use header::ProxyHeader;
use ipnet::{IpNet, Ipv4Net};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// How long a header may take by default. A proxy sends it at once, before everything else. In this time a lost packet
/// is sent again, and it is the least that the specification recommends.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Settings of a listener behind a proxy that sends its client's address: the [PROXY protocol], versions 1 and 2
/// (feature `proxy-protocol`).
///
/// HAProxy, nginx, Envoy and the load balancers of clouds can send it: a header of a few bytes before the client's own
/// bytes. Pass the settings to [`ListenOptions::proxy_protocol`](crate::ListenOptions::proxy_protocol) or
/// [`Listener::proxy_protocol`](crate::Listener::proxy_protocol). Each listener has its own.
///
/// The header is read before the handler is called, and before a TLS handshake. The handler reads from the byte after
/// it. Then:
///
/// - [`peer_addr`](crate::Connection::peer_addr) is the client's address, and
///   [`local_addr`](crate::Connection::local_addr) the one that it connected to: in the handler, in the log, and in
///   [`Handle::connections`](crate::Handle::connections).
/// - [`max_connections_per_ip`](crate::Server::max_connections_per_ip) counts by the client's address, not the proxy's.
/// - [`socket_peer_addr`](crate::Connection::socket_peer_addr) is the proxy's address.
/// - [`proxy_header`](crate::Connection::proxy_header) is the whole header.
///
/// # Trusted peers
///
/// A peer that may send a header can claim any address. So by default no peer is trusted. [`trust`](Self::trust) and
/// [`trust_local`](Self::trust_local) name the proxies. A header of any other peer is never read:
///
/// | | a trusted peer | any other peer |
/// |---|---|---|
/// | [`required`](Self::required) | must send a header | is closed, since it did not connect through the proxy |
/// | [`optional`](Self::optional) | may send a header | reaches the handler, with every byte that it sends |
///
/// # Headers that are refused
///
/// A malformed header closes its connection, even if headers are optional: a connection that begins as headers do
/// (`PROXY` and a space, or the 12 bytes of version 2) must have a valid header. The handler is not called. The
/// connection counts as [rejected](crate::Report::rejected), and never stops the server. The log has, at level `warn`,
/// what was wrong and the first bytes, since a trusted proxy that sends a malformed header has a wrong configuration. A
/// peer that closes before its header is complete, as health checks of load balancers do, is logged at level `debug`.
///
/// A header of version 1 has at most 107 bytes, the limit of its specification. One of version 2 has at most 4 KiB,
/// which is enough for a client's certificate; a longer one is refused before it is read. The form of the fields of
/// version 2 (TLVs) is checked, and so is the checksum (CRC32c) if there is one.
///
/// # Headers that are accepted
///
/// - A header without a client's address (`UNKNOWN`, `LOCAL`: the proxy's own health checks; address families that no
///   stream has): the addresses of the connection are those of the socket.
/// - A header of version 1 with addresses of another family than its own (`PROXY TCP6 192.0.2.1 ::1 …`), which nginx
///   has written for years: each address has the family in which it is written.
/// - A second header is not read: it reaches the handler, as the client's bytes do.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{ListenOptions, ProxyProtocol, Server};
///
/// let proxy = ProxyProtocol::required().trust("10.0.0.0/8")?.trust("fd00::/8")?;
/// let server = Server::bind_with("127.0.0.1:0", &ListenOptions::new().proxy_protocol(proxy)).await?;
/// # assert!(server.local_addr().tcp().is_ok());
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
///
/// The server's line for HAProxy is `server one 10.0.0.7:8888 send-proxy-v2`.
///
/// [PROXY protocol]: https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt
#[derive(Clone, Debug)]
#[must_use = "pass it to `ListenOptions::proxy_protocol` or `Listener::proxy_protocol`: it has no effect before"]
#[doc(alias = "HAProxy")]
#[doc(alias = "send-proxy")]
#[doc(alias = "proxyproto")]
#[doc(alias = "X-Forwarded-For")]
#[doc(alias = "real_ip")]
pub struct ProxyProtocol {
    /// A trusted peer must send a header, and all other peers are closed.
    required: bool,
    /// The networks of trusted proxies. An IPv4 network is never in IPv6-mapped form.
    networks: Vec<IpNet>,
    /// Peers without an IP address are trusted.
    local: bool,
    /// How long a header may take. `None`: no limit.
    timeout: Option<Duration>,
}

impl ProxyProtocol {
    /// Returns settings with which every connection must come from a trusted proxy, and must begin with a header.
    ///
    /// All other connections are closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// use ebbtide::ProxyProtocol;
    ///
    /// let proxy = ProxyProtocol::required().trust_local();
    /// let server = Server::new(listener.proxy_protocol(proxy));
    /// let handler = async |mut conn: Connection| {
    ///     let client = conn.peer_addr().to_string();
    ///     conn.write_all(client.as_bytes()).await
    /// };
    /// # let (reply, _report) = server
    /// #     .scope(handler, async |_| {
    /// #         let mut client = connector.connect().await?;
    /// #         client.write_all(b"PROXY TCP4 203.0.113.7 198.51.100.2 56324 443\r\n").await?;
    /// #         let mut reply = String::new();
    /// #         client.read_to_string(&mut reply).await?;
    /// #         Ok(reply)
    /// #     })
    /// #     .await?;
    /// // The proxy sent `PROXY TCP4 203.0.113.7 198.51.100.2 56324 443\r\n`.
    /// assert_eq!(reply, "203.0.113.7:56324");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn required() -> Self {
        Self { required: true, networks: Vec::new(), local: false, timeout: Some(TIMEOUT) }
    }

    /// Returns settings with which a connection from a trusted proxy may begin with a header.
    ///
    /// If it does not, or if the peer is not trusted, every byte reaches the handler. This is for a listener to which
    /// clients also connect directly, or for the time in which a proxy is introduced. Note:
    ///
    /// - The handler of a trusted peer that sends nothing is called after the [`timeout`](Self::timeout). If the server
    ///   speaks first, its greeting is that late.
    /// - If a trusted proxy does *not* send headers, its client can send one, and so choose its address. Let every
    ///   trusted proxy send headers, or trust none.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// use ebbtide::ProxyProtocol;
    ///
    /// let proxy = ProxyProtocol::optional().trust_local();
    /// let server = Server::new(listener.proxy_protocol(proxy));
    /// let handler = async |mut conn: Connection| {
    ///     let mut word = [0; 5];
    ///     conn.read_exact(&mut word).await?; // no header: these are the client's first bytes
    ///     conn.write_all(&word).await
    /// };
    /// # let (reply, _report) = server
    /// #     .scope(handler, async |_| {
    /// #         let mut client = connector.connect().await?;
    /// #         client.write_all(b"hello").await?;
    /// #         let mut reply = String::new();
    /// #         client.read_to_string(&mut reply).await?;
    /// #         Ok(reply)
    /// #     })
    /// #     .await?;
    /// assert_eq!(reply, "hello");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn optional() -> Self {
        Self { required: false, ..Self::required() }
    }

    /// Trusts the peers of a network, such as `10.0.0.0/8` or `fd00::/8`, or one address, such as `192.0.2.7`.
    ///
    /// Each call adds one. Default: none. An IPv4 peer of an IPv6 socket counts as an IPv4 peer, so `::/0` is every
    /// IPv6 address and no IPv4 address.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the text is not a network or an address. The error contains the
    /// text.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::ProxyProtocol;
    ///
    /// let proxy = ProxyProtocol::required().trust("10.0.0.0/8")?.trust("192.0.2.7")?;
    /// # drop(proxy);
    /// let error = ProxyProtocol::required().trust("localhost").unwrap_err();
    /// assert!(error.to_string().starts_with("cannot trust `localhost`"));
    /// # std::io::Result::Ok(())
    /// ```
    #[doc(alias = "set_real_ip_from")]
    pub fn trust(mut self, network: &str) -> io::Result<Self> {
        let parsed = network.parse().or_else(|_| network.parse().map(|address: IpAddr| address.into()));
        let Ok(parsed) = parsed else {
            let text = format!(
                "cannot trust `{network}`: it is not a network; give one as `10.0.0.0/8` or `fd00::/8`, or an address \
                 as `192.0.2.7`"
            );
            return Err(explained(io::ErrorKind::InvalidInput, text));
        };
        self.networks.push(canonical(parsed));
        Ok(self)
    }

    /// Trusts the peers that have no IP address. Default: they are not trusted.
    ///
    /// These are the peers of a Unix socket (the [permissions](crate::ListenOptions::mode) of its file decide which
    /// processes can connect), of a listener in memory, and of a [custom listener](crate::Listener::custom) that
    /// returns other addresses.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::{Listener, ProxyProtocol};
    ///
    /// let (listener, _connector) = Listener::memory();
    /// let listener = listener.proxy_protocol(ProxyProtocol::required().trust_local());
    /// assert!(listener.local_addr().ip().is_none());
    /// ```
    pub fn trust_local(mut self) -> Self {
        self.local = true;
        self
    }

    /// Sets how long a header may take after the accept: a `Duration`, or `None` for no limit.
    ///
    /// Default: 3 seconds, in which a lost packet is sent again. In a drain it is at most 1 second. When the time is
    /// over:
    ///
    /// | | `PROXY ` or the 12 bytes of version 2 have not arrived | they have arrived, and the header is not complete |
    /// |---|---|---|
    /// | [`required`](Self::required) | the connection is closed | the connection is closed |
    /// | [`optional`](Self::optional) | the handler is called | the connection is closed |
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// use std::time::Duration;
    ///
    /// use ebbtide::ProxyProtocol;
    ///
    /// let proxy = ProxyProtocol::required().trust_local().timeout(Duration::from_millis(20));
    /// let server = Server::new(listener.proxy_protocol(proxy));
    /// # let handler = async |_: Connection| {};
    /// # let (reply, report) = server
    /// #     .scope(handler, async |_| {
    /// #         let mut reply = String::new();
    /// #         connector.connect().await?.read_to_string(&mut reply).await?;
    /// #         Ok(reply)
    /// #     })
    /// #     .await?;
    /// // A client connects, and sends nothing.
    /// assert_eq!((reply.as_str(), report.rejected()), ("", 1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "proxy_protocol_timeout")]
    #[doc(alias = "ReadHeaderTimeout")]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// Returns whether a trusted peer must send a header, and all other peers are closed.
    pub(crate) fn is_required(&self) -> bool {
        self.required
    }

    /// Returns how long a header may take; `None` for no limit.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.timeout
    }

    /// Returns whether any peer is trusted.
    pub(crate) fn trusts_any(&self) -> bool {
        self.local || !self.networks.is_empty()
    }

    /// Returns whether this peer is trusted.
    pub(crate) fn trusts(&self, peer: &Address) -> bool {
        match peer.ip() {
            Some(ip) => self.networks.iter().any(|network| network.contains(&ip)),
            None => self.local,
        }
    }
}

/// Returns an IPv4 network in place of one in IPv6-mapped form (`::ffff:10.0.0.0/104`).
fn canonical(network: IpNet) -> IpNet {
    /// How many bits stand before the IPv4 address in the mapped form.
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
    fn no_peer_is_trusted_by_default_and_peers_without_an_ip_address_only_by_trust_local() {
        let peers = [SocketAddr::from(([127, 0, 0, 1], 1)).into(), Address::unix_unnamed(), Address::named("memory:0")];
        for peer in &peers {
            assert!(!ProxyProtocol::required().trusts(peer) && !ProxyProtocol::optional().trusts(peer), "{peer}");
        }
        let all_of_ipv4 = ProxyProtocol::required().trust("0.0.0.0/0").unwrap();
        let local = ProxyProtocol::required().trust_local();
        for peer in &peers {
            assert_eq!(all_of_ipv4.trusts(peer), peer.ip().is_some(), "{peer}");
            assert_eq!(local.trusts(peer), peer.ip().is_none(), "{peer}");
        }
    }

    #[test]
    fn a_text_that_is_not_a_network_is_in_the_error() {
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "10.0.0.0/8,11.0.0.0/8", "fd00::/129", " 10.0.0.1"] {
            let error = ProxyProtocol::required().trust(wrong).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("`{wrong}`")), "{error}");
        }
    }
}
