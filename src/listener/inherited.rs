//! Sockets that listened before we had them, and that others may have too.

use super::{Inherited, ListenOptions, Listener, Source};
use crate::address::Address;
use crate::panic::log_line;
use crate::text::explained;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd, retry_on_intr};
use socket2::{Domain, SockRef, Type};
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Takes over a socket that listens already, TCP or Unix: see [inherited sockets](Listener#sockets-that-are-inherited).
///
/// # Errors
///
/// Where the descriptor is no socket, not a stream socket of one of these kinds, or does not listen. The error says
/// which, with the descriptor's number; and the descriptor is closed.
impl TryFrom<OwnedFd> for Listener {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Self> {
        let number = fd.as_raw_fd();
        adopt(fd).map_err(|error| {
            let text = format!("cannot serve on the inherited descriptor {number}: {error}");
            explained(error.kind(), text)
        })
    }
}

/// Takes over a socket that listens already: see [inherited sockets](Listener#sockets-that-are-inherited).
///
/// # Errors
///
/// Where it does not listen.
impl TryFrom<UnixListener> for Listener {
    type Error = io::Error;

    fn try_from(socket: UnixListener) -> io::Result<Self> {
        Self::try_from(OwnedFd::from(socket))
    }
}

fn adopt(fd: OwnedFd) -> io::Result<Listener> {
    let domain = check(&fd)?;
    // Ours is not for the programs that this one starts: it would keep the port open after us.
    fcntl_setfd(&fd, fcntl_getfd(&fd)? | FdFlags::CLOEXEC)?;
    let inherited = Inherited { was_blocking: !SockRef::from(&fd).nonblocking()? };
    let options = ListenOptions::new(); // its own backlog is not to be had
    match domain {
        Domain::UNIX => Listener::over_unix(UnixListener::from(fd), &options, Some(inherited)),
        _ => Listener::over_tcp(TcpListener::from(fd), &options, Some(inherited)),
    }
}

/// Accepting from another kind of descriptor would fail only later, and obscurely.
fn check(fd: &OwnedFd) -> io::Result<Domain> {
    let wrong = |text: &str| Err(explained(ErrorKind::InvalidInput, text));
    let socket = SockRef::from(fd);
    let kind = match socket.r#type() {
        Ok(kind) => kind,
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::NOTSOCK) => {
            return wrong("it is no socket");
        }
        Err(error) => return Err(error),
    };
    if kind != Type::STREAM {
        return wrong("it is no stream socket");
    }
    let domain = Domain::from(i32::from(socket.local_addr()?.family()));
    if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) {
        return wrong("it is neither a TCP nor a Unix socket");
    }
    if !listens(&socket)? {
        return wrong("it does not listen; call `listen` on it first");
    }
    Ok(domain)
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn listens(socket: &SockRef<'_>) -> io::Result<bool> {
    socket.is_listener()
}

/// Not every system tells; there accepting says it.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn listens(_: &SockRef<'_>) -> io::Result<bool> {
    Ok(true)
}

/// Whether a client is there, so that an accept does not block.
///
/// Whether accepting blocks is a property of the socket that all of its holders share: a holder that leaves it as it
/// was found makes it blocking under us, and the next accept would block a thread of the executor until a client comes.
/// So it is looked at before each accept; and then whether there is a client, since a holder that makes it blocking
/// between the look and the accept has stopped accepting, and takes no client away. That costs two system calls, and
/// for inherited sockets only.
///
/// Blocking is then what it is to be again when we leave, whatever we had found ourselves.
pub(super) fn has_client(source: &Source, inherited: &mut Inherited) -> io::Result<bool> {
    let socket = match source {
        Source::Tcp(socket) => SockRef::from(socket.get_ref()),
        Source::Unix(socket) => SockRef::from(socket.get_ref()),
        Source::Custom(_) => return Ok(true),
    };
    if !socket.nonblocking()? {
        inherited.was_blocking = true;
        socket.set_nonblocking(true)?;
    }
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // An error of the socket counts as well: accept says which.
    Ok(retry_on_intr(|| poll(&mut [PollFd::new(&*socket, PollFlags::IN)], Some(&at_once)))? > 0)
}

/// Gives the socket back as it was, to the others who have it.
pub(super) fn make_blocking(source: &Source, address: &Address) {
    let result = match source {
        Source::Tcp(socket) => socket.get_ref().set_nonblocking(false),
        Source::Unix(socket) => socket.get_ref().set_nonblocking(false),
        Source::Custom(_) => Ok(()),
    };
    if let Err(error) = result {
        log_line!(warn, "cannot make the inherited socket `{address}` blocking again: {error}");
    }
}
