//! A connected socket.

use async_io::Async;
use async_std::io::{IoSlice, IoSliceMut, Read, Write};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

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

    /// Ready once there is something to read, the peer's end (0) and errors included. Takes nothing.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if let Some(result) = self.peek() {
                return Poll::Ready(result);
            }
            ready!(self.socket.poll_readable(cx))?;
        }
    }

    /// The same without waiting: `None` where there is nothing.
    pub(crate) fn peek(&self) -> Option<io::Result<usize>> {
        loop {
            match self.socket.get_ref().peek(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Some(result),
            }
        }
    }

    /// Waits until there is something to read, beside whoever else waits for that.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Reads, and throws away what it has read.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // The thread's and not the connection's: a thousand that linger at a time need no memory for it.
        thread_local!(static WASTE: RefCell<Vec<u8>> = RefCell::new(vec![0; 16 * 1024]));
        WASTE.with_borrow_mut(|waste| self.poll_read(cx, waste))
    }

    /// Whether the peer has closed or reset the connection, as far as can be told without reading.
    ///
    /// Bytes that nobody has read yet hide the end from a reader; the system can tell all the same, where it has the means.
    pub(crate) fn is_hung_up(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let mut fds = [PollFd::new(self.socket.get_ref(), PollFlags::RDHUP)];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
        }
        #[cfg(not(target_os = "linux"))]
        false
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
