//! Sockets that listen.

mod options;
mod tcp;

use crate::address::Address;
use crate::stream::Stream;
use async_io::Async;
use async_std::net::ToSocketAddrs;
pub use options::ListenOptions;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::task::{Context, Poll};

/// A bound, listening socket, for [`Server::new`](crate::Server::new) and [`Server::listen`](crate::Server::listen).
///
/// Most servers need none by name: [`Server::bind`](crate::Server::bind) makes its own.
pub struct Listener {
    socket: Async<TcpListener>,
    address: Address,
    /// How many clients the kernel may queue.
    backlog: u32,
}

impl Listener {
    /// Listens on a TCP address, with the default [`ListenOptions`]; port 0 lets the kernel choose one.
    ///
    /// # Errors
    ///
    /// Where the address is taken, not this machine's, or not permitted. The error names the address, and keeps the kind.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        Self::tcp_with(address, &ListenOptions::new())
    }

    /// The same with other options.
    ///
    /// # Errors
    ///
    /// As for [`tcp`](Self::tcp).
    pub fn tcp_with(address: SocketAddr, options: &ListenOptions) -> io::Result<Self> {
        tcp::bind(address, options)
            .and_then(|socket| Self::over(socket, options.backlog))
            .map_err(|error| tcp::explain(address, error))
    }

    fn over(socket: TcpListener, backlog: u32) -> io::Result<Self> {
        let address = Address::from(socket.local_addr()?);
        let socket = Async::new(socket)?;
        Ok(Self { socket, address, backlog })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn backlog(&self) -> u32 {
        self.backlog
    }

    /// A client, or the error in its place; `None` where the kernel's queue is empty.
    pub(crate) fn accept(&self) -> Option<io::Result<(Stream, Address)>> {
        match self.socket.get_ref().accept() {
            Ok((stream, peer)) => Some(Stream::new(stream).map(|stream| (stream, Address::from(peer)))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Ready once it is worth to try [`accept`](Self::accept) again.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_readable(cx)
    }
}

/// Listens on every address that `addresses` resolves to. If one fails, those already open are closed again.
pub(crate) async fn bind_all(addresses: impl ToSocketAddrs, options: &ListenOptions) -> io::Result<Vec<Listener>> {
    let resolved: Vec<_> = addresses.to_socket_addrs().await.map_err(tcp::explain_resolving)?.collect();
    tcp::bind_each(&resolved, options)
}

/// Takes over a socket that listens already. It becomes non-blocking, for every process and clone that shares it.
///
/// A clone of it that lives elsewhere keeps the port open after the server has closed its own.
impl TryFrom<TcpListener> for Listener {
    type Error = io::Error;

    fn try_from(socket: TcpListener) -> io::Result<Self> {
        tcp::check_listening(&socket)?;
        Self::over(socket, ListenOptions::new().backlog) // its own is not to be had
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish()
    }
}
