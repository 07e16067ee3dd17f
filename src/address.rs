//! [`Address`]: the address of a listener or of a peer.

use crate::text::{escape, explained};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Address of a listener or of a peer: TCP, a Unix socket, or the name that a [custom listener](crate::Accept) gives.
/// Cheap to clone.
///
/// IPv4 addresses are always shown and given as such, also if the socket is an IPv6 one (`::ffff:192.0.2.1`).
///
/// # Examples
///
/// ```
/// use ebbtide::Address;
/// use std::net::SocketAddr;
///
/// let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 8888)));
/// assert_eq!(address.to_string(), "127.0.0.1:8888");
/// assert_eq!(address.port(), Some(8888));
///
/// let memory = Address::named("memory");
/// let error = memory.tcp().unwrap_err();
/// assert_eq!(error.to_string(), "`memory` is not a TCP address");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address(AddressKind);

#[derive(Clone, PartialEq, Eq, Hash)]
enum AddressKind {
    /// Canonical: never an IPv4 address that is written as an IPv6 one.
    Tcp(SocketAddr),
    /// A Unix socket with a path in the file system, as it was bound.
    Unix(Arc<Path>),
    /// A Unix socket with a name in Linux's abstract namespace: any bytes, shown with an `@` before them.
    UnixAbstract(Arc<[u8]>),
    /// A Unix socket without a name, as clients' mostly are; shown as `unix:unnamed`.
    UnixUnnamed,
    /// The name that a custom listener gives.
    Named(Arc<str>),
}

impl Address {
    /// Makes a name for a custom listener's address or peer. It is shown as it is, and never parsed:
    /// `Address::named("127.0.0.1:80")` is no TCP address; for that use `Address::from(socket_addr)`.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self(AddressKind::Named(name.into()))
    }

    #[cfg(any(unix, feature = "proxy-protocol"))] // a proxy may name Unix sockets of another machine
    pub(crate) fn unix(path: &Path) -> Self {
        Self(AddressKind::Unix(path.into()))
    }

    #[cfg(any(target_os = "linux", target_os = "android", feature = "proxy-protocol"))]
    pub(crate) fn unix_abstract(name: &[u8]) -> Self {
        Self(AddressKind::UnixAbstract(name.into()))
    }

    #[cfg(any(unix, feature = "proxy-protocol"))]
    pub(crate) fn unix_unnamed() -> Self {
        Self(AddressKind::UnixUnnamed)
    }

    /// Returns the IP address and port, for a client to connect to.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is not a TCP address; the error names it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(server: ebbtide::Server) -> std::io::Result<()> {
    /// let client = async_std::net::TcpStream::connect(server.local_addr().tcp()?).await?;
    /// # Ok(()) }
    /// ```
    pub fn tcp(&self) -> io::Result<SocketAddr> {
        self.socket_addr()
            .ok_or_else(|| explained(io::ErrorKind::InvalidInput, format_args!("`{self}` is not a TCP address")))
    }

    /// Returns the IP address and port; `None` if it is not a TCP address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.0 {
            AddressKind::Tcp(address) => Some(address),
            _ => None,
        }
    }

    /// Returns the IP address; `None` if it is not a TCP address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|address| address.ip())
    }

    /// Returns the port; `None` if it is not a TCP address.
    pub fn port(&self) -> Option<u16> {
        self.socket_addr().map(|address| address.port())
    }

    /// Returns the path of a Unix socket; `None` if it is not a Unix socket, or has no path.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            AddressKind::Unix(path) => Some(path),
            _ => None,
        }
    }

    /// Returns whether it is the address of a Unix socket: with a path, with an abstract name, or without a name.
    pub fn is_unix(&self) -> bool {
        matches!(self.0, AddressKind::Unix(_) | AddressKind::UnixAbstract(_) | AddressKind::UnixUnnamed)
    }
}

impl From<SocketAddr> for Address {
    fn from(mut address: SocketAddr) -> Self {
        if let Some(v4) = mapped_ipv4(address) {
            address = SocketAddr::new(v4, address.port());
        }
        Self(AddressKind::Tcp(address))
    }
}

fn mapped_ipv4(address: SocketAddr) -> Option<IpAddr> {
    match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::SocketAddr> for Address {
    fn from(address: std::os::unix::net::SocketAddr) -> Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(name) = {
            #[cfg(target_os = "android")]
            use std::os::android::net::SocketAddrExt;
            #[cfg(target_os = "linux")]
            use std::os::linux::net::SocketAddrExt;
            address.as_abstract_name()
        } {
            return Self::unix_abstract(name);
        }
        address.as_pathname().map_or_else(Self::unix_unnamed, Self::unix)
    }
}

/// For the `connect` of the standard library. That of async-std takes a trait of its own, which cannot be implemented
/// here: give it `address.tcp()?`. An address that is not TCP is an error, as in [`Address::tcp`].
impl std::net::ToSocketAddrs for Address {
    type Iter = std::option::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        Ok(Some(self.tcp()?).into_iter())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AddressKind::Tcp(address) => address.fmt(f),
            AddressKind::Unix(path) => f.pad(&escape(&path.to_string_lossy())),
            AddressKind::UnixAbstract(name) => write!(f, "@{}", name.escape_ascii()),
            AddressKind::UnixUnnamed => f.pad("unix:unnamed"),
            AddressKind::Named(name) => f.pad(&escape(name)),
        }
    }
}

/// The same text as `Display`, in quotes unless it is a TCP address.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AddressKind::Tcp(address) => fmt::Display::fmt(address, f),
            _ => fmt::Debug::fmt(&self.to_string(), f),
        }
    }
}

/// A non-empty list of addresses that only grows, so that handles can lend what is in it.
#[derive(Debug)]
pub(crate) struct Addresses {
    first: Address,
    rest: OnceLock<Box<Addresses>>,
}

impl Addresses {
    pub(crate) fn new(first: Address) -> Self {
        Self { first, rest: OnceLock::new() }
    }

    pub(crate) fn first(&self) -> &Address {
        &self.first
    }

    pub(crate) fn push(&self, address: Address) {
        let mut node = self;
        let mut new = Box::new(Self::new(address));
        while let Err(again) = node.rest.set(new) {
            new = again;
            node = node.rest.get().expect("it was just found set");
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Address> {
        std::iter::successors(Some(self), |node| node.rest.get().map(Box::as_ref)).map(|node| &node.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_shown_as_a_person_would_write_it() {
        let table = [
            (Address::from(SocketAddr::from(([127, 0, 0, 1], 80))), "127.0.0.1:80"),
            (Address::from("[::ffff:192.0.2.1]:80".parse::<SocketAddr>().unwrap()), "192.0.2.1:80"),
            (Address::from("[2001:db8::1]:80".parse::<SocketAddr>().unwrap()), "[2001:db8::1]:80"),
            #[cfg(unix)]
            (Address::unix(Path::new("/run/echo.sock")), "/run/echo.sock"),
            #[cfg(target_os = "linux")]
            (Address::unix_abstract(b"echo\0\n"), r"@echo\x00\n"),
            #[cfg(unix)]
            (Address::unix_unnamed(), "unix:unnamed"),
            (Address::named("memory"), "memory"),
            (Address::named("a\n[ERROR] forged \u{1b}[31m"), r"a\n[ERROR] forged \u{1b}[31m"),
            #[cfg(unix)]
            (Address::unix(Path::new("/tmp/a\nb")), r"/tmp/a\nb"),
        ];
        for (address, shown) in table {
            assert_eq!(address.to_string(), shown);
        }
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_has_its_ipv4_address() {
        let address = Address::from("[::ffff:192.0.2.1]:80".parse::<SocketAddr>().unwrap());
        assert_eq!(address.ip(), Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(address, Address::from(SocketAddr::from(([192, 0, 2, 1], 80))));
    }

    #[test]
    fn only_a_tcp_address_can_be_connected_to() {
        use std::net::ToSocketAddrs;
        let tcp = Address::from(SocketAddr::from(([127, 0, 0, 1], 80)));
        assert_eq!(tcp.to_socket_addrs().unwrap().collect::<Vec<_>>(), [tcp.tcp().unwrap()]);
        let error = Address::named("memory").to_socket_addrs().unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("`memory`")), (io::ErrorKind::InvalidInput, true));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_systems_unix_addresses_keep_their_kind() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::SocketAddr;
        let path = Address::from(SocketAddr::from_pathname("/run/echo.sock").unwrap());
        assert_eq!(path.path(), Some(Path::new("/run/echo.sock")));
        let name = SocketAddr::from_abstract_name("echo").unwrap();
        assert_eq!(Address::from(name), Address::unix_abstract(b"echo"));
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        let unnamed = Address::from(one.peer_addr().unwrap());
        assert_eq!(unnamed, Address::unix_unnamed());
        assert!(path.is_unix() && unnamed.is_unix() && !Address::named("memory").is_unix());
    }

    #[test]
    fn a_list_keeps_the_order() {
        let port = |port| Address::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let addresses = Addresses::new(port(1));
        addresses.push(port(2));
        addresses.push(port(3));
        assert_eq!(addresses.iter().cloned().collect::<Vec<_>>(), [port(1), port(2), port(3)]);
    }
}
