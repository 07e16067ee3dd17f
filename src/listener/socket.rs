//! [`Socket`]: a non-blocking listening socket, and its registration with the reactor.

use crate::origin::Origin;
use async_io::Async;
use socket2::SockRef;
use std::io;
#[cfg(unix)]
use std::os::fd::AsFd as AsSocket;
#[cfg(windows)]
use std::os::windows::io::AsSocket;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A listening socket. It is registered with the reactor by the first wait, and not when it is bound: a process that is
/// forked in between shares the reactor's epoll set with its parent, and would remove the parent's entry when it closes
/// its copy.
pub(super) struct Socket<T> {
    /// Shared with the registration.
    socket: Arc<T>,
    /// `None` before the first wait.
    registered: Option<Registered<T>>,
}

/// A registration with the reactor. Its drop removes the entry.
struct Registered<T> {
    /// `None` only in the drop.
    entry: Option<Async<Arc<T>>>,
    /// The process that has registered it.
    origin: Origin,
}

impl<T: AsSocket> Socket<T> {
    /// Makes the socket non-blocking, and takes it over.
    pub(super) fn new(socket: T) -> io::Result<Self> {
        SockRef::from(&socket).set_nonblocking(true)?;
        Ok(Self { socket: Arc::new(socket), registered: None })
    }

    #[cfg(all(unix, feature = "upgrade"))]
    pub(super) fn downgrade(&self) -> std::sync::Weak<T> {
        Arc::downgrade(&self.socket)
    }

    pub(super) fn get_ref(&self) -> &T {
        &self.socket
    }

    /// Polls until a client may be in the backlog. Registers the socket with the reactor first, if it is not yet.
    ///
    /// After an error the next poll registers the socket again: the reactor has kept the waker of the failed attempt, and
    /// would take the next one for registered.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let registered = match &mut self.registered {
            Some(registered) => registered,
            none => none.insert(Registered {
                entry: Some(Async::new_nonblocking(Arc::clone(&self.socket))?),
                origin: Origin::here(),
            }),
        };
        let poll = registered.entry.as_ref().expect("the entry is there until the drop").poll_readable(cx);
        if let Poll::Ready(Err(_)) = poll {
            self.registered = None;
        }
        poll
    }
}

impl<T> Drop for Registered<T> {
    fn drop(&mut self) {
        if self.origin.is_elsewhere() {
            // A forked process: the entry is the parent's. The descriptor stays open here until this process ends.
            std::mem::forget(self.entry.take());
        }
    }
}
