//! A connected socket.

use async_io::Async;
use async_std::io::{IoSlice, IoSliceMut, Read, Write};
use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The bytes of one connection. Not async-std's own type, which panics where registering a socket fails and hides whether
/// it is ready.
pub(crate) struct Stream {
    socket: Async<TcpStream>,
}

impl Stream {
    /// Registers an accepted socket with the reactor, which can fail (out of memory, of watches).
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        Ok(Self { socket: Async::new(socket)? })
    }

    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        Some(self.socket.get_ref())
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.socket).poll_read(cx, buf)
    }

    pub(crate) fn poll_read_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.socket).poll_read_vectored(cx, bufs)
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.socket).poll_write(cx, buf)
    }

    pub(crate) fn poll_write_vectored(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.socket).poll_write_vectored(cx, bufs)
    }

    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &self.socket).poll_flush(cx)
    }

    /// Ends one or both directions. A peer that is gone already is fine.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self.socket.get_ref().shutdown(how) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.get_ref().fmt(f)
    }
}
