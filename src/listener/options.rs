//! [`ListenOptions`]: builder for the options of a listening socket, and their defaults.
//!
//! Options of connections (`TCP_NODELAY`, keep-alive) are set on the listening socket too: the kernel copies them to
//! each accepted socket, which saves a system call for each connection.

use super::{Keepalive, Protocols};
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyProtocol;
#[cfg(feature = "tls")]
use crate::tls::Tls;
#[cfg(feature = "proxy-protocol")]
use std::sync::Arc;

/// How many clients the kernel may queue. The kernel clamps the number to its own limit (`somaxconn`). The 128 of
/// async-std's listeners drop connections in a burst.
const BACKLOG: u32 = 4096;

/// Builder for the options of a listening socket.
///
/// For [`Server::bind_with`](crate::Server::bind_with), [`Listener::tcp_with`](crate::Listener::tcp_with) and, on Unix,
/// `Server::bind_unix_with` and `Listener::unix_with`.
///
/// Options that concern connections are set on the listening socket, and its connections inherit them from the kernel:
/// that costs no system call for each connection.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{ListenOptions, Server};
///
/// let options = ListenOptions::new().backlog(128).nodelay(false);
/// let server = Server::bind_with("127.0.0.1:0", &options).await?;
/// assert_eq!(server.local_addrs().count(), 1);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "ListenConfig")]
#[doc(alias = "TcpSocket")]
#[doc(alias = "setsockopt")]
#[derive(Clone, Debug)]
#[must_use = "options do nothing before they are given to `Server::bind_with` or `Listener::tcp_with`"]
pub struct ListenOptions {
    /// How many clients the kernel may queue: 1 to `i32::MAX`.
    pub(crate) backlog: u32,
    /// `SO_REUSEADDR`.
    pub(crate) reuse_address: bool,
    /// `TCP_NODELAY` of the connections.
    pub(crate) nodelay: bool,
    /// `SO_KEEPALIVE` of the connections.
    pub(crate) keepalive: Keepalive,
    /// `SO_REUSEPORT`.
    #[cfg(unix)]
    pub(crate) reuse_port: bool,
    /// The permissions of a Unix socket's file. `None`: what the process's umask leaves.
    #[cfg(unix)]
    pub(crate) mode: Option<u32>,
    /// `IPV6_V6ONLY`. `None`: true if an IPv4 address with the same port is bound beside it, else the system's default.
    pub(crate) only_v6: Option<bool>,
    /// The protocols that the connections begin with.
    pub(crate) protocols: Protocols,
}

impl ListenOptions {
    /// Creates the default options.
    ///
    /// | option | default |
    /// |---|---|
    /// | [`backlog`](Self::backlog) | 4,096 clients |
    /// | [`reuse_address`](Self::reuse_address) | on (Unix) |
    /// | `reuse_port` (Unix) | off |
    /// | `mode` (Unix sockets) | what the umask leaves |
    /// | [`only_v6`](Self::only_v6) | the system's default, or true beside an IPv4 address with the same port |
    /// | [`nodelay`](Self::nodelay) | on |
    /// | [`keepalive`](Self::keepalive) | a vanished peer is noticed after 2 minutes |
    /// | TLS, PROXY protocol | none |
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{ListenOptions, Server};
    /// let server = Server::bind_with("127.0.0.1:0", &ListenOptions::new()).await?; // the same as `Server::bind`
    /// assert!(server.local_addr().port().is_some());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn new() -> Self {
        Self {
            backlog: BACKLOG,
            reuse_address: true,
            nodelay: true,
            keepalive: Keepalive::default(),
            #[cfg(unix)]
            reuse_port: false,
            #[cfg(unix)]
            mode: None,
            only_v6: None,
            protocols: Protocols::default(),
        }
    }

    /// Sets the backlog (accept queue): how many clients the kernel may queue before they are accepted.
    ///
    /// Default: 4,096. At least 1; zero means 1. The kernel clamps it (`net.core.somaxconn` on Linux).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{ListenOptions, Server};
    /// let server = Server::bind_with("127.0.0.1:0", &ListenOptions::new().backlog(16)).await?;
    /// assert!(server.local_addr().port().is_some());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "somaxconn")]
    #[doc(alias = "accept_queue")]
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog.clamp(1, i32::MAX as u32);
        self
    }

    /// Sets `SO_REUSEADDR`: whether a bind succeeds while connections of an earlier run are still in TIME_WAIT.
    ///
    /// Default: `true`. Only on Unix; on Windows the option would let other programs take the port, and is never set.
    /// (`SO_EXCLUSIVEADDRUSE`, which keeps them from that, cannot be set there without `unsafe`.)
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{ListenOptions, Server};
    /// let server = Server::bind_with("127.0.0.1:0", &ListenOptions::new().reuse_address(false)).await?;
    /// assert!(server.local_addr().port().is_some());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "SO_REUSEADDR")]
    pub fn reuse_address(mut self, reuse: bool) -> Self {
        self.reuse_address = reuse;
        self
    }

    /// Sets `SO_REUSEPORT`: whether several sockets, of several processes, may listen on one TCP address.
    ///
    /// The kernel spreads the clients among them (on Linux by a hash of their addresses). All of the sockets must set
    /// it, and belong to one user. Default: `false`.
    ///
    /// Each socket has its own backlog. When a socket closes, the kernel resets the clients in its backlog, although
    /// another process could have served them. A server of this crate empties its backlog before it closes the socket,
    /// which leaves a gap of microseconds: in 400 hand-overs under load, 11 of 52,000 clients were reset. If that is
    /// too many:
    ///
    /// - With `net.ipv4.tcp_migrate_req=1`, Linux 5.14 and later hand such clients over (2 of 52,000 were reset).
    /// - Let the processes share one socket, as socket activation does (none were reset).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{ListenOptions, Server};
    /// let options = ListenOptions::new().reuse_port(true);
    /// let one = Server::bind_with("127.0.0.1:0", &options).await?;
    /// let other = Server::bind_with(one.local_addr(), &options).await?;
    /// assert_eq!(one.local_addr(), other.local_addr());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "SO_REUSEPORT")]
    #[cfg(unix)]
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.reuse_port = reuse;
        self
    }

    /// Sets the permissions of a Unix socket's file, such as `0o660`: a client may connect if it may write to the file.
    ///
    /// Default: what the umask leaves of `0o777`. They are set before a client can connect. No effect on TCP.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{ListenOptions, Server};
    /// # use std::os::unix::fs::PermissionsExt;
    /// let path = std::env::temp_dir().join(format!("ebbtide-doc-options-{}.sock", std::process::id()));
    /// let server = Server::bind_unix_with(&path, &ListenOptions::new().mode(0o660)).await?;
    /// assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o660);
    /// # drop(server);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "chmod")]
    #[doc(alias = "umask")]
    #[cfg(unix)]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode & 0o7777);
        self
    }

    /// Sets `IPV6_V6ONLY`: whether an IPv6 socket on `[::]` leaves IPv4 clients to another socket.
    ///
    /// - `true`: it accepts IPv6 clients only, so another listener can have `0.0.0.0` and the same port.
    /// - `false`: it accepts both, also on systems with the other default.
    ///
    /// No effect on IPv4 addresses.
    ///
    /// Default: `true` for an address of a list that also has an IPv4 address with the same port, such as
    /// `["0.0.0.0:80", "[::]:80"]`. Otherwise the system's default: both families on Linux (`net.ipv6.bindv6only`) and
    /// macOS, IPv6 only on Windows, FreeBSD and OpenBSD. (nginx's `ipv6only=on`, systemd's `BindIPv6Only=ipv6-only`.)
    ///
    /// # Examples
    ///
    /// One listener for each family, each with its own options, on one port:
    ///
    /// ```no_run
    /// # async fn example() -> std::io::Result<ebbtide::Server> {
    /// use ebbtide::{ListenOptions, Server};
    ///
    /// let v4 = Server::bind_with("0.0.0.0:8888", &ListenOptions::new().backlog(64)).await?;
    /// let v6 = ebbtide::Listener::tcp_with(([0u16; 8], 8888).into(), &ListenOptions::new().only_v6(true))?;
    /// let server = v4.add_listener(v6);
    /// # Ok(server) }
    /// ```
    #[doc(alias = "v6only")]
    #[doc(alias = "IPV6_V6ONLY")]
    pub fn only_v6(mut self, only_v6: bool) -> Self {
        self.only_v6 = Some(only_v6);
        self
    }

    /// Sets `TCP_NODELAY` of the connections: whether small writes are sent at once, without Nagle's algorithm.
    ///
    /// Default: `true`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::net::TcpStream;
    /// # use ebbtide::{Connection, ListenOptions, Server};
    /// let server = Server::bind_with("127.0.0.1:0", &ListenOptions::new().nodelay(false)).await?;
    /// let handler = async |conn: Connection| assert!(!conn.tcp_stream().unwrap().nodelay().unwrap());
    /// let (_client, report) = server
    ///     .scope(handler, async |server| Ok(TcpStream::connect(server.local_addr().tcp()?).await?))
    ///     .await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "TCP_NODELAY")]
    #[doc(alias = "Nagle")]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Sets `SO_KEEPALIVE` of the connections: how the kernel notices that an idle peer has vanished.
    ///
    /// A [`Keepalive`], or a `Duration`: the silence after which the peer is probed. Default: [`Keepalive::default`],
    /// which notices a vanished peer after 2 minutes. [`Keepalive::OFF`] switches it off.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Keepalive, ListenOptions, Server};
    /// # use std::time::Duration;
    /// let options = ListenOptions::new().keepalive(Duration::from_secs(20));
    /// let server = Server::bind_with("127.0.0.1:0", &options).await?;
    /// assert!(server.local_addr().port().is_some());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "SO_KEEPALIVE")]
    pub fn keepalive(mut self, keepalive: impl Into<Keepalive>) -> Self {
        self.keepalive = keepalive.into();
        self
    }

    /// Makes the connections encrypted: see [`Tls`] (feature `tls`).
    ///
    /// Default: they are not. For listeners that are not bound with options there is
    /// [`Listener::tls`](crate::Listener::tls).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> std::io::Result<()> {
    /// use ebbtide::{ListenOptions, Server, Tls};
    ///
    /// let tls = Tls::from_pem_files("cert.pem", "key.pem")?;
    /// let server = Server::bind_with("127.0.0.1:4433", &ListenOptions::new().tls(&tls)).await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &Tls) -> Self {
        self.protocols.tls = Some(tls.clone());
        self
    }

    /// Makes the connections begin with a header of the PROXY protocol: see [`ProxyProtocol`] (feature
    /// `proxy-protocol`).
    ///
    /// Default: they do not. For listeners that are not bound with options there is
    /// [`Listener::proxy_protocol`](crate::Listener::proxy_protocol).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ListenOptions, ProxyProtocol, Server};
    ///
    /// let proxy = ProxyProtocol::required().trust("10.0.0.0/8")?;
    /// let server = Server::bind_with("127.0.0.1:0", &ListenOptions::new().proxy_protocol(proxy)).await?;
    /// assert!(server.local_addr().port().is_some());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_protocol(mut self, proxy: ProxyProtocol) -> Self {
        self.protocols.proxy = Some(Arc::new(proxy));
        self
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self::new()
    }
}
