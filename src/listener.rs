//! Sockets that listen.

mod tcp;

use crate::address::Address;
use crate::stream::Stream;
use async_io::Async;
use async_std::net::ToSocketAddrs;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::task::{Context, Poll};

/// How many clients the kernel may queue for us. It clamps the number to its own limit (`somaxconn`). async-std's
/// listeners have 128, which drops connections in a burst.
pub(crate) const BACKLOG: i32 = 4096;

/// A bound, listening socket, for [`Server::new`](crate::Server::new) and [`Server::listen`](crate::Server::listen).
///
/// Most servers need none by name: [`Server::bind`](crate::Server::bind) makes its own.
pub struct Listener {
    socket: Async<TcpListener>,
    address: Address,
}

impl Listener {
    /// Listens on a TCP address; port 0 lets the kernel choose one.
    ///
    /// The socket has `SO_REUSEADDR` (on Unix, so that a restart can bind at once), a backlog of 4,096 (which the kernel
    /// clamps), and what the connections inherit from it: `TCP_NODELAY`, and keep-alive after 60 seconds of silence.
    ///
    /// # Errors
    ///
    /// Where the address is taken, not this machine's, or not permitted. The error names the address, and keeps the kind.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        tcp::bind(address).and_then(Self::over).map_err(|error| tcp::explain(address, error))
    }

    fn over(socket: TcpListener) -> io::Result<Self> {
        let address = Address::from(socket.local_addr()?);
        let socket = Async::new(socket)?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// A connection that is there, or the error in its place; pending where the kernel's queue is empty.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Address)>> {
        loop {
            if let Some(result) = self.accept() {
                return Poll::Ready(result);
            }
            match self.socket.poll_readable(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The same without waiting: `None` where the queue is empty.
    pub(crate) fn accept(&self) -> Option<io::Result<(Stream, Address)>> {
        match self.socket.get_ref().accept() {
            Ok((stream, peer)) => Some(Stream::new(stream).map(|stream| (stream, Address::from(peer)))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Listens on every address that `addresses` resolves to. If one fails, those already open are closed again.
pub(crate) async fn bind_all(addresses: impl ToSocketAddrs) -> io::Result<Vec<Listener>> {
    let resolved: Vec<_> = addresses.to_socket_addrs().await?.collect();
    tcp::bind_each(&resolved)
}

/// Takes over a socket that listens already. It becomes non-blocking, for every process and clone that shares it.
///
/// A clone of it that lives elsewhere keeps the port open after the server has closed its own.
impl TryFrom<TcpListener> for Listener {
    type Error = io::Error;

    fn try_from(socket: TcpListener) -> io::Result<Self> {
        tcp::check_listening(&socket)?;
        Self::over(socket)
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
