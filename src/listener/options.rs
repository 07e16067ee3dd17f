//! What can be set on a socket before it listens.

use super::{Keepalive, Protocols};
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyProtocol;
#[cfg(feature = "tls")]
use crate::tls::Tls;
#[cfg(feature = "proxy-protocol")]
use std::sync::Arc;

/// How many clients the kernel may queue for us. It clamps the number to its own limit (`somaxconn`). async-std's
/// listeners have 128, which drops connections in a burst.
const BACKLOG: u32 = 4096;

/// The options of a listening socket, for [`Server::bind_with`](crate::Server::bind_with),
/// [`Listener::tcp_with`](crate::Listener::tcp_with) and, on Unix, `Server::bind_unix_with` and `Listener::unix_with`.
///
/// What concerns connections is set on the listener, and the kernel lets them inherit it: no call for each of them.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{ListenOptions, Server};
///
/// let options = ListenOptions::new().backlog(128).nodelay(false);
/// let server = Server::bind_with("127.0.0.1:0", &options).await?;
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing before they are given to `Server::bind_with` or `Listener::tcp_with`"]
pub struct ListenOptions {
    pub(crate) backlog: u32,
    pub(crate) reuse_address: bool,
    pub(crate) nodelay: bool,
    pub(crate) keepalive: Keepalive,
    #[cfg(unix)]
    pub(crate) reuse_port: bool,
    /// The permissions of a Unix socket's file; `None`: what the process's umask leaves.
    #[cfg(unix)]
    pub(crate) mode: Option<u32>,
    /// Leave IPv4 to another socket. `None`: if one is bound beside; else as the system's default is.
    pub(crate) only_v6: Option<bool>,
    /// What its connections begin with.
    pub(crate) protocols: Protocols,
}

impl ListenOptions {
    /// The defaults.
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

    /// How many clients the kernel may queue before they are accepted. Default: 4,096. The kernel clamps it
    /// (`net.core.somaxconn` on Linux); at least 1.
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog.clamp(1, i32::MAX as u32);
        self
    }

    /// `SO_REUSEADDR`: bind although connections of an earlier run are still in TIME_WAIT. Default: on. Only on Unix;
    /// on Windows the option would let others take the port, and is never set.
    pub fn reuse_address(mut self, reuse: bool) -> Self {
        self.reuse_address = reuse;
        self
    }

    /// `SO_REUSEPORT`: several sockets, of several processes, listen on one TCP address, and the kernel spreads the
    /// clients among them (on Linux by a hash of their addresses). All of them must set it, and belong to one user.
    /// Default: off.
    ///
    /// Each socket has a queue of its own, and what is in the queue of a socket that closes is lost: the kernel resets
    /// those clients, though another process could have served them. A server of this crate empties its queue before it
    /// closes the socket, which leaves a gap of microseconds: in 400 hand-overs under load 11 of 52,000 clients were
    /// reset. Where that is too much: Linux 5.14 and later hand such clients over with `net.ipv4.tcp_migrate_req=1` (2
    /// of 52,000); or let the processes share one socket, as socket activation does (none).
    #[cfg(unix)]
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.reuse_port = reuse;
        self
    }

    /// The permissions of a Unix socket's file, such as `0o660`: who may connect is who may write to it. Default: what
    /// the umask leaves of `0o777`. They are set before anybody can connect. For TCP it means nothing.
    #[cfg(unix)]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode & 0o7777);
        self
    }

    /// `IPV6_V6ONLY`: whether an IPv6 socket on `[::]` leaves IPv4 clients to another socket. `true`: it takes IPv6
    /// clients alone, so that a listener with other options can have `0.0.0.0` and the same port. `false`: it takes
    /// both, also on systems whose default is not so. For IPv4 addresses it means nothing.
    ///
    /// Default: true for an address of a list that has an IPv4 address with the same port in it, as
    /// `["0.0.0.0:80", "[::]:80"]`; in all other cases the system's default, which is to take
    /// both on Linux (`net.ipv6.bindv6only`) and macOS, and IPv6 alone on Windows, FreeBSD and OpenBSD.
    /// (nginx's `ipv6only=on`, systemd's `BindIPv6Only=ipv6-only`.)
    ///
    /// # Examples
    ///
    /// One listener for each family, each with options of its own, on one port:
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
    pub fn only_v6(mut self, only_v6: bool) -> Self {
        self.only_v6 = Some(only_v6);
        self
    }

    /// `TCP_NODELAY` for the connections: send small writes at once. Default: on.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Sets `SO_KEEPALIVE` for the connections: how a peer that vanished without a word is noticed. A `Duration` is the
    /// silence after which it is probed. Default: [`Keepalive::default`], which notices it after 2 minutes.
    pub fn keepalive(mut self, keepalive: impl Into<Keepalive>) -> Self {
        self.keepalive = keepalive.into();
        self
    }

    /// The connections are encrypted: see [`Tls`] (feature `tls`). Default: they are not. For listeners that are not
    /// bound with options: [`Listener::tls`](crate::Listener::tls).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &Tls) -> Self {
        self.protocols.tls = Some(tls.clone());
        self
    }

    /// The connections come through proxies that say who the client is: see [`ProxyProtocol`] (feature
    /// `proxy-protocol`). Default: they do not. For listeners that are not bound with options:
    /// [`Listener::proxy_protocol`](crate::Listener::proxy_protocol).
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
