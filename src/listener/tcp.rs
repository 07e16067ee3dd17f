//! Listening TCP sockets: binding them with their options, one or several, and accepting from them.

use super::refused::{explain, is_every_machines, is_unsupported_family};
use super::{Inherited, ListenOptions, Listener};
use crate::address::Address;
use crate::panic::log_line;
use crate::text::{explained, explained_by};
use crate::transport::Transport;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

/// How often a bind of several addresses with port 0 starts again: the port that the kernel chose for the first address
/// may be in use on a later one.
const SAME_PORT_TRIES: usize = 32;

/// Accepts a client: its stream and address. accept4 makes the socket non-blocking, which saves a system call.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn accept(socket: &TcpListener) -> io::Result<(Transport, Address)> {
    use rustix::net::{SocketFlags, acceptfrom_with};
    let (stream, peer) = acceptfrom_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let peer = peer.ok_or(ErrorKind::ConnectionAborted)?; // not reached: a TCP client has an address
    let peer = SocketAddr::try_from(peer)?;
    Ok((Transport::nonblocking_tcp(stream.into())?, Address::from(peer)))
}

/// Accepts a client: its stream and address.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn accept(socket: &TcpListener) -> io::Result<(Transport, Address)> {
    let (stream, peer) = socket.accept()?;
    stream.set_nonblocking(true)?;
    Ok((Transport::nonblocking_tcp(stream)?, Address::from(peer)))
}

/// Sets the options on a connection of an inherited socket. The options of the socket itself do not change.
#[cfg(unix)]
pub(super) fn set_options(transport: &Transport, options: &Inherited) -> io::Result<()> {
    let (Some(stream), Some((nodelay, keepalive))) = (transport.as_tcp(), options.of_connections) else {
        return Ok(());
    };
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(nodelay)?;
    keepalive.set(&socket)
}

/// Opens a socket, sets its options, binds it and listens.
pub(super) fn bind(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Windows the option has another meaning: other programs may take the port.
    #[cfg(unix)]
    named("SO_REUSEADDR", socket.set_reuse_address(options.reuse_address))?;
    #[cfg(unix)]
    if options.reuse_port {
        named("SO_REUSEPORT", socket.set_reuse_port(true))?;
    }
    let is_mapped = matches!(address, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some());
    if let (SocketAddr::V6(_), false, Some(only_v6)) = (address, is_mapped, options.only_v6) {
        named("IPV6_V6ONLY", socket.set_only_v6(only_v6))?;
    }
    // Set once here instead of on each connection: connections inherit it from the kernel.
    named("TCP_NODELAY", socket.set_tcp_nodelay(options.nodelay))?;
    named("the keep-alive", options.keepalive.set(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Adds to an error which option of the socket could not be set.
fn named(option: &str, result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| {
        let text = format!("cannot set {option}: {error}");
        explained_by(error, text)
    })
}

/// Binds every address; those with port 0 get the same port. An address family that the machine lacks is skipped if
/// another address can be bound.
pub(super) fn bind_each(addresses: &[SocketAddr], options: &ListenOptions) -> io::Result<Vec<Listener>> {
    let mut distinct: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !distinct.contains(address) {
            distinct.push(*address); // a name may resolve to the same address twice
        }
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match try_bind_each(&distinct, options) {
            Err(Taken::ByChance(_)) if tries < SAME_PORT_TRIES => {}
            Err(Taken::ByChance(error) | Taken::Truly(error)) => return Err(error),
            Ok(listeners) => return Ok(listeners),
        }
    }
}

/// Why the addresses could not be bound.
enum Taken {
    /// The port that the kernel chose for the first address is in use on a later one: another port may work.
    ByChance(io::Error),
    /// Any other error: trying again would not help.
    Truly(io::Error),
}

fn try_bind_each(addresses: &[SocketAddr], options: &ListenOptions) -> Result<Vec<Listener>, Taken> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut chosen = None;
    let mut lacking = None;
    for &address in addresses {
        let options = &for_one_of(addresses, address, options);
        let mut wanted = address;
        if let (0, Some(port)) = (address.port(), chosen) {
            wanted.set_port(port);
        }
        match bind(wanted, options).and_then(|socket| Listener::over_tcp(socket, options, None)) {
            Ok(listener) => {
                if address.port() == 0 {
                    chosen = listener.local_addr().port();
                }
                listeners.push(listener);
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse && wanted != address => {
                return Err(Taken::ByChance(explain(wanted, options, error)));
            }
            Err(error) if addresses.len() > 1 && is_lacking_family(address, &error) => {
                let error = explain(wanted, options, error);
                log_line!(debug, "skipped an address that this machine lacks: {error}");
                lacking = Some(error);
            }
            Err(error) => return Err(Taken::Truly(explain(wanted, options, error))),
        }
    }
    match (listeners.is_empty(), lacking) {
        (false, _) => Ok(listeners),
        (true, Some(error)) => Err(Taken::Truly(error)),
        (true, None) => Err(Taken::Truly(explained(
            ErrorKind::InvalidInput,
            "cannot listen: the list of addresses is empty; give one as `host:port`, such as `127.0.0.1:8888`",
        ))),
    }
}

/// Returns the options for one address of a list. On most systems `[::]` accepts IPv4 clients too, so it would take the
/// port of a `0.0.0.0` beside it. A list with both means one socket for each family.
pub(super) fn for_one_of(all: &[SocketAddr], address: SocketAddr, options: &ListenOptions) -> ListenOptions {
    let has_ipv4_beside = all.iter().any(|other| other.is_ipv4() && other.port() == address.port());
    ListenOptions { only_v6: options.only_v6.or(has_ipv4_beside.then_some(true)), ..options.clone() }
}

/// Returns whether the machine lacks this address family: a machine without IPv6 has no `::1`. The address of another
/// machine is not a missing family but a mistake.
pub(super) fn is_lacking_family(address: SocketAddr, error: &io::Error) -> bool {
    let is_absent = error.kind() == ErrorKind::AddrNotAvailable && address.is_ipv6() && is_every_machines(address);
    is_unsupported_family(error) || is_absent
}

/// Takes over a socket that listens already: see [inherited sockets](Listener#sockets-that-are-inherited).
///
/// # Errors
///
/// `InvalidInput` if it does not listen. The socket is closed then.
///
/// # Examples
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = socket.local_addr()?;
/// let listener = ebbtide::Listener::try_from(socket)?;
/// assert_eq!(listener.local_addr().tcp()?, address);
/// # Ok(()) }
/// ```
impl TryFrom<TcpListener> for Listener {
    type Error = io::Error;

    #[cfg(unix)]
    fn try_from(socket: TcpListener) -> io::Result<Self> {
        Self::try_from(std::os::fd::OwnedFd::from(socket))
    }

    #[cfg(not(unix))]
    fn try_from(socket: TcpListener) -> io::Result<Self> {
        Self::over_tcp(socket, &ListenOptions::new(), Some(Inherited { was_blocking: false }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn several_addresses_with_port_0_get_the_same_port() {
        let two = [port(0), SocketAddr::from(([127, 0, 0, 2], 0))];
        let listeners = bind_each(&two, &ListenOptions::new()).unwrap();
        let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().port().unwrap()).collect();
        assert_eq!(ports.len(), 2);
        assert_eq!(ports[0], ports[1]);
    }

    #[test]
    fn if_one_address_fails_the_earlier_ones_are_closed_and_the_error_names_it() {
        let taken = TcpListener::bind(port(0)).unwrap();
        let address = taken.local_addr().unwrap();
        let free = SocketAddr::from(([127, 0, 0, 2], address.port()));
        let error = bind_each(&[free, address], &ListenOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&format!("`{address}`")), "{error}");
        drop(TcpListener::bind(free).expect("the earlier socket must be closed"));
    }

    #[test]
    fn only_an_address_family_that_the_machine_lacks_is_skipped() {
        let lacking = io::Error::from(ErrorKind::AddrNotAvailable);
        let table = [("[::1]:80", true), ("[::]:80", true), ("[2001:db8::1]:80", false), ("192.0.2.1:80", false)];
        for (address, skipped) in table {
            assert_eq!(is_lacking_family(address.parse().unwrap(), &lacking), skipped, "{address}");
        }
        #[cfg(unix)]
        assert!(is_lacking_family("[2001:db8::1]:80".parse().unwrap(), &rustix::io::Errno::AFNOSUPPORT.into()));
        assert!(!is_lacking_family("[::1]:80".parse().unwrap(), &ErrorKind::AddrInUse.into()));
    }

    #[test]
    fn an_address_of_another_machine_is_an_error_also_beside_a_good_one() {
        // 192.0.2.0/24 is reserved for documentation: no address of this machine.
        let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = bind_each(&[port(0), foreign], &ListenOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        assert!(error.to_string().contains("`192.0.2.1:"), "{error}");
    }

    #[test]
    fn an_address_that_is_given_twice_is_bound_once() {
        assert_eq!(bind_each(&[port(0), port(0)], &ListenOptions::new()).unwrap().len(), 1);
    }
}
