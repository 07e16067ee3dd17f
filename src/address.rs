//! [`Address`]: the address of a listener or of a peer: TCP, a Unix socket, or a custom listener's name.

use crate::text::{escape, explained};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Address of a listener or of a peer: TCP, a Unix socket, or a name that a [custom listener](crate::Accept) chooses.
///
/// It is cheap to clone. An IPv4 address is always IPv4 here, even if an IPv6 socket has it as `::ffff:192.0.2.1`.
/// `Display` escapes line breaks and terminal escapes, since a peer may choose its path or name.
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
#[doc(alias = "SocketAddr")]
#[doc(alias = "Addr")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address(AddressKind);

#[derive(Clone, PartialEq, Eq, Hash)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "not every system has all of them"))]
enum AddressKind {
    /// In canonical form: never an IPv4-mapped IPv6 address.
    Tcp(SocketAddr),
    /// A Unix socket with a path in the file system, as the path was given to `bind`.
    Unix(Arc<Path>),
    /// A Unix socket with a name in Linux's abstract namespace: any bytes, shown after an `@`.
    UnixAbstract(Arc<[u8]>),
    /// A Unix socket without a name, as most clients' are. Shown as `unix:unnamed`.
    UnixUnnamed,
    /// A name that a custom listener chooses.
    Named(Arc<str>),
}

impl Address {
    /// Makes an address from a name, for a custom listener or its peers.
    ///
    /// The name is never parsed: `Address::named("127.0.0.1:80")` is not a TCP address. For a TCP address use
    /// `Address::from(socket_addr)`.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::Address;
    ///
    /// let address = Address::named("serial port 1");
    /// assert_eq!(address.to_string(), "serial port 1");
    /// assert_eq!(address.socket_addr(), None);
    /// ```
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

    /// Returns the IP address and port, or an error: for a client that connects.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is not a TCP address. The text of the error has the address.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::net::TcpStream;
    /// use ebbtide::Server;
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let client = TcpStream::connect(server.local_addr().tcp()?).await?;
    /// assert_eq!(client.peer_addr()?, server.local_addr().tcp()?);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn tcp(&self) -> io::Result<SocketAddr> {
        self.socket_addr()
            .ok_or_else(|| explained(io::ErrorKind::InvalidInput, format_args!("`{self}` is not a TCP address")))
    }

    /// Returns the IP address and port; `None` if it is not a TCP address.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::Address;
    /// use std::net::SocketAddr;
    ///
    /// let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 8888)));
    /// assert_eq!(address.socket_addr(), Some(SocketAddr::from(([127, 0, 0, 1], 8888))));
    /// assert_eq!(Address::named("memory").socket_addr(), None);
    /// ```
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.0 {
            AddressKind::Tcp(address) => Some(address),
            _ => None,
        }
    }

    /// Returns the IP address; `None` if it is not a TCP address.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::Address;
    /// use std::net::SocketAddr;
    ///
    /// let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 8888)));
    /// assert_eq!(address.ip().map(|ip| ip.is_loopback()), Some(true));
    /// ```
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|address| address.ip())
    }

    /// Returns the port; `None` if it is not a TCP address.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::Address;
    /// use std::net::SocketAddr;
    ///
    /// let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 8888)));
    /// assert_eq!(address.port(), Some(8888));
    /// ```
    pub fn port(&self) -> Option<u16> {
        self.socket_addr().map(|address| address.port())
    }

    /// Returns the path of a Unix socket; `None` if it is not a Unix socket, or has no path.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use ebbtide::Address;
    /// use std::os::unix::net::SocketAddr;
    /// use std::path::Path;
    ///
    /// let address = Address::from(SocketAddr::from_pathname("/run/echo.sock")?);
    /// assert_eq!(address.path(), Some(Path::new("/run/echo.sock")));
    /// # }
    /// # std::io::Result::Ok(())
    /// ```
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            AddressKind::Unix(path) => Some(path),
            _ => None,
        }
    }

    /// Returns whether it is the address of a Unix socket: with a path, with an abstract name, or without a name.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use ebbtide::Address;
    /// use std::os::unix::net::SocketAddr;
    ///
    /// let address = Address::from(SocketAddr::from_pathname("/run/echo.sock")?);
    /// assert!(address.is_unix());
    /// assert!(!Address::named("/run/echo.sock").is_unix());
    /// # }
    /// # std::io::Result::Ok(())
    /// ```
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

/// Returns the IPv4 address in an IPv4-mapped IPv6 address.
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

/// For the `connect` of the standard library. An address that is not TCP is an error, as in [`Address::tcp`].
///
/// The `connect` of async-std takes a trait of its own, which this crate cannot implement: pass it `address.tcp()?`.
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

/// Linked list of addresses, never empty. It only grows, so a handle can return references into it.
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
            node = node.rest.get().expect("`set` has found a value");
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
    fn each_kind_is_shown_in_its_usual_notation() {
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
    fn an_ipv4_client_of_an_ipv6_socket_has_an_ipv4_address() {
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
