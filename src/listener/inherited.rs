//! Inherited listening sockets: taking them over, accepting from them, and restoring their blocking mode.
//!
//! Other processes may hold the same socket. All holders share its blocking mode, so it is checked before each accept
//! ([`has_client`]).

use super::{Inherited, ListenOptions, Listener, Source};
use crate::address::Address;
use crate::panic::log_line;
use crate::text::explained;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd, retry_on_intr};
use socket2::{Domain, SockRef, Type};
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Takes over a socket that listens already, TCP or Unix: see [inherited sockets](Listener#sockets-that-are-inherited).
///
/// # Errors
///
/// `InvalidInput` if the descriptor is not a socket, is not a TCP or Unix stream socket, or does not listen. The error
/// names the reason and the descriptor's number. The descriptor is closed.
///
/// # Examples
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::{net::UdpSocket, os::fd::OwnedFd};
///
/// let datagrams = OwnedFd::from(UdpSocket::bind("127.0.0.1:0")?);
/// let error = ebbtide::Listener::try_from(datagrams).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
/// # Ok(()) }
/// ```
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
/// `InvalidInput` if it does not listen. The socket is closed then.
///
/// # Examples
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let path = std::env::temp_dir().join(format!("ebbtide-doc-inherited-{}.sock", std::process::id()));
/// let socket = std::os::unix::net::UnixListener::bind(&path)?;
/// let listener = ebbtide::Listener::try_from(socket)?;
/// assert!(listener.local_addr().is_unix());
/// drop(listener);
/// std::fs::remove_file(path)?; // an inherited socket's file is left in place
/// # Ok(()) }
/// ```
impl TryFrom<UnixListener> for Listener {
    type Error = io::Error;

    fn try_from(socket: UnixListener) -> io::Result<Self> {
        Self::try_from(OwnedFd::from(socket))
    }
}

impl Listener {
    /// Returns the descriptor of its TCP or Unix socket, to read or set an option; `None` if it has none.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use ebbtide::Listener;
    /// use socket2::SockRef;
    ///
    /// let listener = Listener::tcp(([127, 0, 0, 1], 0).into())?;
    /// let socket = listener.socket_fd().expect("a TCP listener has a socket");
    /// assert!(SockRef::from(&socket).reuse_address()?);
    ///
    /// let (in_memory, _connector) = Listener::memory();
    /// assert!(in_memory.socket_fd().is_none());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "as_fd")]
    #[doc(alias = "as_raw_fd")]
    pub fn socket_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Tcp(socket) => Some(socket.get_ref().as_fd()),
            Source::Unix(socket) => Some(socket.get_ref().as_fd()),
            Source::Custom(_) => None,
        }
    }

    /// Returns a copy of its socket's descriptor, for another process that is to accept from the same backlog.
    ///
    /// The other process makes a listener of it with `Listener::try_from`. From now on this listener treats its socket
    /// as [shared](Listener#sockets-that-are-inherited): at its end it leaves the backlog and a socket file to the other
    /// holders, and each accept costs two system calls more.
    ///
    /// The copy is closed on exec: pass it as the standard input of a child, or over a Unix socket. The feature
    /// `upgrade` does all of this for a program that starts its own next version.
    ///
    /// # Errors
    ///
    /// The listener has no socket (`Unsupported`), or the process may open no more files.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io::ReadExt, net::TcpStream};
    /// use ebbtide::{Connection, Listener, Server};
    ///
    /// let mut listener = Listener::tcp(([127, 0, 0, 1], 0).into())?;
    /// let address = listener.local_addr().tcp()?;
    /// let copy = listener.try_clone_fd()?; // as if another process had it
    /// let mut client = TcpStream::connect(address).await?;
    /// drop(listener);
    ///
    /// let server = Server::new(Listener::try_from(copy)?);
    /// let (_, report) = server
    ///     .scope(async |_: Connection| {}, async |_| {
    ///         assert_eq!(client.read(&mut [0]).await?, 0); // it waited in the backlog, and has been served
    ///         Ok(())
    ///     })
    ///     .await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "try_clone")]
    pub fn try_clone_fd(&mut self) -> io::Result<OwnedFd> {
        let Some(socket) = self.socket_fd() else {
            let text =
                format_args!("cannot copy the descriptor of the listener `{}`: it is not a socket", self.address);
            return Err(explained(ErrorKind::Unsupported, text));
        };
        let copy = socket.try_clone_to_owned().map_err(|error| {
            let text = format_args!("cannot copy the descriptor of the listener `{}`: {error}", self.address);
            explained(error.kind(), text)
        })?;
        self.is_copied = true;
        self.inherited.get_or_insert(Inherited { was_blocking: false, of_connections: None });
        Ok(copy)
    }
}

/// Makes a listener from the descriptor.
fn adopt(fd: OwnedFd) -> io::Result<Listener> {
    let domain = check(&fd)?;
    // Programs that this one starts must not inherit this descriptor: they would keep the port open after this process.
    fcntl_setfd(&fd, fcntl_getfd(&fd)? | FdFlags::CLOEXEC)?;
    let options = ListenOptions::new(); // the kernel does not show its backlog
    let inherited = Inherited { was_blocking: !SockRef::from(&fd).nonblocking()?, ..Inherited::with(&options) };
    match domain {
        Domain::UNIX => Listener::over_unix(UnixListener::from(fd), &options, Some(inherited)),
        _ => Listener::over_tcp(TcpListener::from(fd), &options, Some(inherited)),
    }
}

/// Checks that it is a listening stream socket. Accepting from any other descriptor would fail only later, with an
/// unclear error.
pub(super) fn check(fd: &OwnedFd) -> io::Result<Domain> {
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

/// Returns `true`: this system does not report it (`SO_ACCEPTCONN`). If the socket does not listen, the first accept
/// fails.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn listens(_: &SockRef<'_>) -> io::Result<bool> {
    Ok(true)
}

/// Returns whether a client is in the backlog, so that an accept does not block.
///
/// All holders of the socket share its blocking mode. A holder that restores the mode that it found makes the socket
/// blocking for this process too, and the next accept would block a thread of the executor until a client connects. So
/// before each accept:
///
/// 1. The mode is checked, and set to non-blocking.
/// 2. The backlog is polled for a client. A holder may make the socket blocking between step 1 and the accept; but it
///    has stopped accepting then, so it takes no client away, and the accept does not block.
///
/// That costs two system calls, and only for inherited sockets.
///
/// If another holder has made the socket blocking, it is made blocking again when this process leaves, whatever mode
/// this process found first.
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
    // An error of the socket counts as readable too: the accept returns it.
    Ok(retry_on_intr(|| poll(&mut [PollFd::new(&*socket, PollFlags::IN)], Some(&at_once)))? > 0)
}

/// Restores the blocking mode, for the other holders of the socket.
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
