//! Sockets that systemd has opened (feature `systemd`, on Linux).
//!
//! With [socket activation](https://www.freedesktop.org/software/systemd/man/latest/systemd.socket.html) the service
//! manager listens, and starts the service when the first client comes; or at once, or again after a crash. The socket
//! outlives the service: while no process serves it, clients wait in its backlog. `examples/socket_activation` is a
//! whole service, with its units.
//!
//! ```
//! # async_std::task::block_on(async {
//! use ebbtide::{Server, systemd};
//! use std::io;
//!
//! let server = match systemd::sockets() {
//!     Ok(sockets) => sockets.into_server()?,
//!     // Started by hand.
//!     Err(error) if error.kind() == io::ErrorKind::NotFound => Server::bind("127.0.0.1:0").await?,
//!     Err(error) => return Err(error),
//! };
//! # assert!(server.local_addr().tcp().is_ok());
//! # io::Result::Ok(()) }).unwrap();
//! ```
//!
//! # A restart that loses no client
//!
//! The sockets are [inherited](crate::Listener#sockets-that-are-inherited): they are left as they were found, and so is
//! their backlog. A server that is told to stop by SIGTERM
//! ([`signal::termination`](crate::signal::termination)) accepts no more clients and finishes what it has begun;
//! clients that come meanwhile are served by the next process. A client that was accepted a moment before, and has sent
//! nothing yet, is still served by the old one, for the [newcomer time](crate::Server::newcomer_time).
//! `TimeoutStopSec=` in the unit has to be longer than the [grace period](crate::Server::grace).
//!
//! A service needs to say that it is ready (`Type=notify`) only where others wait for more than its sockets, which are
//! there before it is. The crate [`sd-notify`](https://docs.rs/sd-notify) does it in one line.

mod variables;

use crate::listener::Listener;
use crate::server::Server;
use crate::text::explained;
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use variables::Variables;

/// Whether this process has had its sockets: a descriptor must not have two owners.
static TAKEN: Mutex<bool> = Mutex::new(false);

/// Takes the sockets that systemd has passed to this process: all of them, once.
///
/// Call it early, before the program opens descriptors of its own. The environment is left as it is: changing it is not
/// safe in a process with threads. Programs that this one starts inherit neither the sockets, which are closed when
/// another program is executed, nor the right to look for them, since `LISTEN_PID` is not theirs.
///
/// # Errors
///
/// Each says what was found, and what to do. Branch on the [kind](io::Error::kind):
///
/// - [`NotFound`](ErrorKind::NotFound): no sockets were passed to this process. `LISTEN_PID` and `LISTEN_FDS` are not
///   set, or name another process, or no socket.
/// - [`InvalidData`](ErrorKind::InvalidData): what they say cannot be true: no numbers, more or fewer names than
///   sockets, descriptors that are not open, or that this process has opened itself.
/// - [`ResourceBusy`](ErrorKind::ResourceBusy): they have been taken by an earlier call.
///
/// After an error nothing is taken, and nothing closed.
pub fn sockets() -> io::Result<Sockets> {
    take().map_err(|error| {
        let text = format!("cannot take the sockets of the service manager: {error}");
        explained(error.kind(), text)
    })
}

fn take() -> io::Result<Sockets> {
    let names = Variables::of_this_process().names(std::process::id())?;
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *taken {
        return Err(explained(ErrorKind::ResourceBusy, "they have been taken before; keep what the first call gave"));
    }
    let passed = sd_listen_fds::get().map_err(|error| explained(ErrorKind::InvalidData, error))?;
    let fds: Vec<_> = passed.into_iter().map(|(_, fd)| fd.into_std()).collect();
    let fds = adopt(fds)?;
    *taken = true;
    Ok(Sockets { left: names.into_iter().zip(fds).collect() })
}

/// All, or none: then they are let go as they are, since at least one is another's.
fn adopt(fds: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let checked = fds.iter().try_for_each(|fd| {
        let number = fd.as_raw_fd();
        check(fd).map_err(|text| explained(ErrorKind::InvalidData, format!("the descriptor {number} {text}")))
    });
    let marked = checked.and_then(|()| fds.iter().try_for_each(|fd| Ok(fcntl_setfd(fd, FdFlags::CLOEXEC)?)));
    match marked {
        Ok(()) => Ok(fds),
        Err(error) => {
            fds.into_iter().for_each(|fd| {
                let _not_ours = fd.into_raw_fd();
            });
            Err(error)
        }
    }
}

/// What was passed has survived an `exec`, so it is not marked to be closed there. What Rust programs open is marked,
/// and so is what has been taken by anybody's `sd_listen_fds`.
fn check(fd: &OwnedFd) -> Result<(), String> {
    match fcntl_getfd(fd) {
        Ok(flags) if flags.contains(FdFlags::CLOEXEC) => {
            Err("was not passed: this process has opened or taken it itself; call this before anything else does"
                .into())
        }
        Ok(_) => Ok(()),
        Err(Errno::BADF) => Err("is not open, though `LISTEN_FDS` counts it".into()),
        Err(error) => Err(format!("cannot be looked at: {error}")),
    }
}

/// What systemd has passed to this process, each with its name, in the order of the unit. Some may be missing: those
/// that were taken.
///
/// A name is what `FileDescriptorName=` in the socket unit says, by default the unit's own (`echo.socket`); one unit
/// with several `ListenStream=` gives several sockets of one name. Without names each is called `unknown`.
///
/// What is left when it is dropped is closed here, and clients wait in its queue until the service is started anew.
///
/// # Examples
///
/// Two servers of one process:
///
/// ```no_run
/// # fn example() -> std::io::Result<()> {
/// use ebbtide::systemd;
///
/// let mut sockets = systemd::sockets()?;
/// let public = sockets.server("http")?.max_connections(10_000);
/// let admin = sockets.server("admin")?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "the sockets that are not taken out of it are closed when it is dropped"]
pub struct Sockets {
    left: Vec<(String, OwnedFd)>,
}

impl Sockets {
    /// The names of those that are left, one for each socket.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.left.iter().map(|(name, _)| name.as_str())
    }

    /// A server on every socket of this name.
    ///
    /// # Errors
    ///
    /// As for [`listeners`](Self::listeners).
    pub fn server(&mut self, name: &str) -> io::Result<Server> {
        self.listeners(name).map(serve)
    }

    /// A server on every socket that is left.
    ///
    /// # Errors
    ///
    /// Where none is left, with the kind [`NotFound`](ErrorKind::NotFound); and as for [`listeners`](Self::listeners)
    /// where one is no stream socket that listens. All are closed then.
    pub fn into_server(self) -> io::Result<Server> {
        if self.left.is_empty() {
            return Err(explained(ErrorKind::NotFound, "all sockets of the service manager have been taken"));
        }
        listeners(self.left).map(serve)
    }

    /// Takes every socket of this name: at least one.
    ///
    /// # Errors
    ///
    /// With the kind [`NotFound`](ErrorKind::NotFound) where none is left of this name; the error lists the names that
    /// there are. With [`InvalidInput`](ErrorKind::InvalidInput) where one is no stream socket that listens: those of
    /// the name are closed then, and the others stay.
    pub fn listeners(&mut self, name: &str) -> io::Result<Vec<Listener>> {
        let (named, left) = std::mem::take(&mut self.left).into_iter().partition(|(other, _)| other == name);
        self.left = left;
        let named: Vec<_> = named;
        if named.is_empty() {
            return Err(self.unknown(name));
        }
        listeners(named)
    }

    fn unknown(&self, name: &str) -> io::Error {
        let names = match self.left.len() {
            0 => "none is left".to_owned(),
            _ => format!("there are {}", self.names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        let text = format!(
            "the service manager has passed no socket `{name}`: {names}; `FileDescriptorName=` in the socket unit names them"
        );
        explained(ErrorKind::NotFound, text)
    }
}

/// What is left, as it was passed: for sockets that are not for a server, such as datagrams.
impl IntoIterator for Sockets {
    type Item = (String, OwnedFd);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.left.into_iter()
    }
}

fn listeners(sockets: Vec<(String, OwnedFd)>) -> io::Result<Vec<Listener>> {
    let listener = |(name, fd)| {
        Listener::try_from(fd).map_err(|error: io::Error| {
            let text =
                format!("the socket `{name}`: {error} (a socket unit takes `ListenStream=`, without `Accept=yes`)");
            explained(error.kind(), text)
        })
    };
    sockets.into_iter().map(listener).collect()
}

/// There is at least one.
fn serve(listeners: Vec<Listener>) -> Server {
    let mut listeners = listeners.into_iter();
    let first = listeners.next().expect("the caller has at least one listener");
    listeners.fold(Server::new(first), Server::add_listener)
}
