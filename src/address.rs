//! Where a socket is.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// The address of a listener or of a peer. Cheap to clone.
///
/// # Examples
///
/// ```
/// use ebbtide::Address;
/// use std::net::SocketAddr;
///
/// let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 8888)));
/// assert_eq!(address.to_string(), "127.0.0.1:8888");
/// assert_eq!(address.as_tcp().map(|tcp| tcp.port()), Some(8888));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IPv4 or IPv6 address and a TCP port.
    Tcp(SocketAddr),
    /// A Unix socket with a path in the file system, as it was bound.
    Unix(Arc<Path>),
    /// A Unix socket with a name in Linux's abstract namespace: any bytes, shown with an `@` before them.
    UnixAbstract(Arc<[u8]>),
    /// A Unix socket without a name, as clients' mostly are; shown as `unix:unnamed`.
    UnixUnnamed,
    /// Whatever a [custom listener](crate::Accept) calls it; for [`Listener::memory`](crate::Listener::memory) it begins
    /// with `memory`.
    Other(Arc<str>),
}

impl Address {
    /// An address in a custom listener's own words.
    pub fn other(name: impl Into<Arc<str>>) -> Self {
        Self::Other(name.into())
    }

    /// The address as an IP address and port, if it is one.
    pub fn as_tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            _ => None,
        }
    }

    /// The path of a Unix socket that has one.
    pub fn as_unix(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            _ => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
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
            return Self::UnixAbstract(name.into());
        }
        address.as_pathname().map_or(Self::UnixUnnamed, |path| Self::Unix(path.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
            Self::UnixAbstract(name) => write!(f, "@{}", name.escape_ascii()),
            Self::UnixUnnamed => f.pad("unix:unnamed"),
            Self::Other(name) => f.pad(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_shown_as_a_person_would_write_it() {
        let table = [
            (Address::from(SocketAddr::from(([127, 0, 0, 1], 80))), "127.0.0.1:80"),
            (Address::Unix(Path::new("/run/echo.sock").into()), "/run/echo.sock"),
            (Address::UnixAbstract(b"echo\0\n".as_slice().into()), r"@echo\x00\n"),
            (Address::UnixUnnamed, "unix:unnamed"),
            (Address::other("memory"), "memory"),
        ];
        for (address, shown) in table {
            assert_eq!(address.to_string(), shown);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_systems_unix_addresses_keep_their_kind() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::SocketAddr;
        let path = Address::from(SocketAddr::from_pathname("/run/echo.sock").unwrap());
        assert_eq!(path.as_unix(), Some(Path::new("/run/echo.sock")));
        let name = SocketAddr::from_abstract_name("echo").unwrap();
        assert_eq!(Address::from(name), Address::UnixAbstract(b"echo".as_slice().into()));
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Address::from(one.peer_addr().unwrap()), Address::UnixUnnamed);
    }
}
