//! Listening sockets that two generations of a program have: see `upgrade`.
//!
//! A [`BoundSocket`] can be handed over to the next generation, which gets it as a [`PassedSocket`]. [`Ownership`] is
//! what a generation may do with it.

mod ownership;

use super::inherited::check;
use super::unix::{self, SocketFile};
use super::{Inherited, ListenOptions, Listener, Source, check_origin, tcp};
use crate::address::Address;
use crate::bind_addrs::ToBindAddrs;
use crate::panic::log_line;
use crate::sync::{Mutex, lock};
use crate::text::explained;
pub(crate) use ownership::{EndHandOver, Ownership};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socket2::Domain;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// What the next generation needs to find a socket again: for which address it was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The address as it was given to `bind`: its port may be 0.
    Tcp(SocketAddr),
    Unix {
        /// The path of its file, with the folder resolved.
        path: PathBuf,
        /// Its device and inode.
        identity: (u64, u64),
    },
}

/// A listening socket that can be handed over, as long as its listener exists.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    pub(crate) key: Key,
    pub(crate) address: Address,
    pub(crate) ownership: Arc<Ownership>,
    /// The mode that the socket's file gets once this generation owns it.
    mode: Option<u32>,
    socket: WeakSocket,
}

/// Does not keep the socket open: it is closed with its listener.
#[derive(Debug)]
enum WeakSocket {
    Tcp(Weak<TcpListener>),
    Unix(Weak<UnixListener>),
}

impl BoundSocket {
    /// Returns a descriptor of the socket for the next generation; `None` if the socket is closed.
    pub(crate) fn descriptor(&self) -> io::Result<Option<OwnedFd>> {
        let copy = match &self.socket {
            WeakSocket::Tcp(socket) => socket.upgrade().map(|socket| socket.as_fd().try_clone_to_owned()),
            WeakSocket::Unix(socket) => socket.upgrade().map(|socket| socket.as_fd().try_clone_to_owned()),
        };
        copy.transpose()
    }

    /// Sets the mode of the socket's file, after this generation has taken it over. Until then it is the mode that the
    /// previous generation wants.
    pub(crate) fn set_mode(&self) -> io::Result<()> {
        let (Some(mode), Key::Unix { path, identity }) = (self.mode, &self.key) else { return Ok(()) };
        if !unix::is_in_place(path, *identity) {
            return Ok(());
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| {
            let path = path.display();
            explained(error.kind(), format_args!("cannot set the mode of `{path}` to 0o{mode:o}: {error}"))
        })
    }
}

/// A socket that the previous generation has passed, and that no `bind` has asked for yet.
#[derive(Debug)]
pub(crate) struct PassedSocket {
    pub(crate) key: Key,
    socket: OwnedFd,
    address: Address,
}

impl PassedSocket {
    /// Checks the descriptor.
    pub(crate) fn new(key: Key, socket: OwnedFd) -> io::Result<Self> {
        let domain = check(&socket)?;
        if (domain == Domain::UNIX) != matches!(key, Key::Unix { .. }) {
            return Err(explained(ErrorKind::InvalidData, format_args!("it is not a socket of the kind of {key:?}")));
        }
        fcntl_setfd(&socket, fcntl_getfd(&socket)? | FdFlags::CLOEXEC)?;
        let address = match &key {
            Key::Tcp(_) => Address::from(TcpListener::from(socket.try_clone()?).local_addr()?),
            Key::Unix { .. } => Address::from(UnixListener::from(socket.try_clone()?).local_addr()?),
        };
        Ok(Self { key, socket, address })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns whether this socket is the one for an address: the one that was given to the earlier `bind`, or the one
    /// that it got.
    fn is_for(&self, address: SocketAddr) -> bool {
        matches!(self.key, Key::Tcp(given) if given == address)
            || self.address.socket_addr().is_some_and(|own| own == canonical(address))
    }

    /// Closes the socket, and removes its file: no generation serves it any more.
    pub(crate) fn discard(self) {
        if let Key::Unix { path, identity } = self.key {
            drop(SocketFile::known(path, identity));
        }
    }

    /// Returns whether clients find this socket by its path.
    fn is_in_place(&self) -> bool {
        match &self.key {
            Key::Unix { path, identity } => unix::is_in_place(path, *identity),
            Key::Tcp(_) => true,
        }
    }

    /// Makes a listener of it.
    fn into_listener(self, options: &ListenOptions) -> io::Result<(Listener, BoundSocket)> {
        let inherited = Inherited::with(options);
        let mut listener = match self.key {
            Key::Tcp(_) => Listener::over_tcp(self.socket.into(), options, Some(inherited))?,
            Key::Unix { ref path, identity } => {
                let mut listener = Listener::over_unix(self.socket.into(), options, Some(inherited))?;
                listener.file = Some(SocketFile::known(path.clone(), identity));
                listener
            }
        };
        let mut bound = listener.enter(self.key, Ownership::of_passed(inherited));
        bound.mode = options.mode;
        Ok((listener, bound))
    }
}

/// Returns the address as `Address` has it: an IPv4-mapped IPv6 address is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Listener {
    /// Connects the listener with its entry in the list of what is handed over.
    fn enter(&mut self, key: Key, ownership: Arc<Ownership>) -> BoundSocket {
        let socket = match &self.source {
            Source::Tcp(socket) => WeakSocket::Tcp(socket.downgrade()),
            Source::Unix(socket) => WeakSocket::Unix(socket.downgrade()),
            Source::Custom(_) => unreachable!("only sockets are bound with an `Upgrade`"),
        };
        self.ownership = Some(Arc::clone(&ownership));
        BoundSocket { key, address: self.address.clone(), ownership, mode: None, socket }
    }
}

/// The sockets that the previous generation has passed, and whether this generation accepts at once from a socket that
/// it binds anew.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) passed: &'a Mutex<Vec<PassedSocket>>,
    pub(crate) is_ready: bool,
}

impl Found<'_> {
    /// Takes the first passed socket for which `wanted` is true.
    fn take(&self, wanted: impl Fn(&PassedSocket) -> bool) -> Option<PassedSocket> {
        let mut passed = lock(self.passed);
        passed.iter().position(wanted).map(|at| passed.remove(at))
    }

    fn ownership(&self, options: &ListenOptions) -> Arc<Ownership> {
        Ownership::of_new(self.is_ready, Inherited::with(options))
    }

    /// Connects a new listener with its entry, under the address that was given to `bind`.
    fn enter_tcp(
        &self,
        mut listener: Listener,
        given: &[SocketAddr],
        options: &ListenOptions,
    ) -> io::Result<(Listener, BoundSocket)> {
        let own = listener.local_addr().tcp()?;
        let given = given.iter().find(|given| canonical(**given).ip() == own.ip()).copied();
        let bound = listener.enter(Key::Tcp(given.unwrap_or(own)), self.ownership(options));
        Ok((listener, bound))
    }
}

/// Listens on every address that `addresses` resolves to: with the sockets that were passed, and with new ones for the
/// addresses that none was passed for.
pub(crate) async fn bind_or_take(
    addresses: impl ToBindAddrs,
    options: &ListenOptions,
    found: Found<'_>,
) -> io::Result<Vec<(Listener, BoundSocket)>> {
    let addresses = addresses.into_bind_addrs();
    check_origin()?;
    let resolved = addresses.resolve().await?;
    let mut distinct: Vec<SocketAddr> = Vec::new();
    for address in resolved {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    let (mut taken, mut others) = (Vec::new(), Vec::new());
    for address in &distinct {
        match found.take(|one| one.is_for(*address)) {
            Some(one) => taken.push(one),
            None => others.push(*address),
        }
    }
    let new = if taken.is_empty() {
        tcp::bind_each(&others, options)
    } else {
        bind_beside(&taken, &others, &distinct, options)
    };
    match new {
        Ok(new) => {
            let taken = taken.into_iter().map(|one| one.into_listener(options));
            taken.chain(new.into_iter().map(|listener| found.enter_tcp(listener, &others, options))).collect()
        }
        Err(error) => {
            lock(found.passed).splice(0..0, taken); // another bind may ask for them
            Err(error)
        }
    }
}

/// Binds those addresses of a list that no socket was passed for, beside the ones that were passed: with their port if
/// it is 0, and without an address family that this machine lacks.
fn bind_beside(
    taken: &[PassedSocket],
    others: &[SocketAddr],
    all: &[SocketAddr],
    options: &ListenOptions,
) -> io::Result<Vec<Listener>> {
    let port = taken.first().and_then(|one| one.address.port()).unwrap_or(0);
    let mut new = Vec::new();
    for other in others {
        let mut wanted = *other;
        if wanted.port() == 0 {
            wanted.set_port(port);
        }
        match tcp::bind_each(&[wanted], &tcp::for_one_of(all, *other, options)) {
            Ok(listeners) => new.extend(listeners),
            Err(error) if tcp::is_lacking_family(*other, original(&error)) => {
                log_line!(debug, "skipped an address that this machine lacks: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(new)
}

/// Returns the system's error, behind the one that explains it.
fn original(error: &io::Error) -> &io::Error {
    error.get_ref().and_then(|inner| inner.source()).and_then(|source| source.downcast_ref()).unwrap_or(error)
}

/// Listens on a Unix socket at a path: with the socket that was passed for this path, or with a new one.
pub(crate) async fn bind_unix_or_take(
    path: &Path,
    options: &ListenOptions,
    found: Found<'_>,
) -> io::Result<(Listener, BoundSocket)> {
    let full_path = unix::resolve(path)?;
    match found.take(|one| matches!(&one.key, Key::Unix { path, .. } if *path == full_path)) {
        Some(one) if one.is_in_place() => return one.into_listener(options),
        Some(_) => {
            let path = full_path.display();
            log_line!(warn, "the file of the socket that was passed for `{path}` is gone: binding a new socket there");
        }
        None => {}
    }
    let mut listener = super::bind_unix(path, options).await?;
    let file = listener.file.as_ref().expect("a Unix socket that was bound has a file");
    let key = Key::Unix { path: file.path().to_owned(), identity: file.identity() };
    let bound = listener.enter(key, found.ownership(options));
    Ok((listener, bound))
}
