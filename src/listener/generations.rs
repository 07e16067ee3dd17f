//! Listening sockets that one generation of a program hands over to the next: see `upgrade`.
//!
//! Both generations have a descriptor of the same socket for a while. [`Hold`] is what this generation may do with it:
//! while another one holds the socket as well, its backlog and its file are left alone.

use super::inherited::check;
use super::unix::{self, SocketFile};
use super::{Inherited, ListenOptions, Listener, Source, check_origin, tcp};
use crate::address::Address;
use crate::bind_addrs::ToBindAddrs;
use crate::panic::log_line;
use crate::sync::{Mutex, lock};
use crate::text::explained;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socket2::Domain;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

/// The socket is this generation's alone.
const OURS: u8 = 0;
/// The next generation is told at this moment that it may serve. Until that is certain this one still accepts.
const GIVING: u8 = 1;
/// The next generation accepts. This one does not any more.
const GIVEN: u8 = 2;
/// This generation has stopped to accept before it could hand the socket over.
const CLOSED: u8 = 3;
/// The socket is still that of the generation before, which has not been told that this one is ready. It accepts, and
/// this one does not.
const BORROWED: u8 = 4;

/// Which generation a listening socket belongs to, as this process sees it. Shared by the listener and its `Upgrade`.
#[derive(Debug)]
pub(crate) struct Hold {
    state: AtomicU8,
    /// Whether another process has been given a descriptor. It may change the blocking mode, by mistake.
    was_sent: AtomicBool,
    /// What the listener becomes then: it checks the blocking mode, as with every inherited socket.
    inherited: Inherited,
    /// The accept loop, while it waits until this generation may accept.
    waiting: Mutex<Option<Waker>>,
}

impl Hold {
    fn new(state: u8, inherited: Inherited) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(state),
            was_sent: AtomicBool::new(state == BORROWED),
            inherited,
            waiting: Mutex::new(None),
        })
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Returns whether another generation has the socket as well, so that its backlog and its file are left alone.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.state.load(Ordering::SeqCst), GIVING | GIVEN | BORROWED)
    }

    /// Returns whether this generation accepts: not before the one before has stopped, and not once the next one does.
    pub(super) fn accepts(&self) -> bool {
        !matches!(self.state.load(Ordering::SeqCst), GIVEN | BORROWED)
    }

    /// Waits until this generation accepts. That may be never.
    pub(super) fn poll_accepts(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.accepts() {
            return Poll::Ready(());
        }
        let _earlier = lock(&self.waiting).replace(cx.waker().clone());
        match self.accepts() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Returns what an accept has to do once another process has had the socket.
    pub(super) fn once_sent(&self) -> Option<Inherited> {
        self.was_sent.load(Ordering::Relaxed).then_some(self.inherited)
    }

    /// Notes that this generation stops accepting. From then on it can give nothing.
    pub(super) fn close(&self) {
        self.change(OURS, CLOSED);
    }

    /// Begins to give the socket to the next generation. Returns `false` if it is not this generation's to give.
    pub(crate) fn begin_giving(&self) -> bool {
        self.change(OURS, GIVING)
    }

    /// The next generation has the socket.
    pub(crate) fn give(&self) {
        self.change(GIVING, GIVEN);
    }

    /// The next generation could not be told: the socket is this one's again.
    pub(crate) fn keep(&self) {
        self.change(GIVING, OURS);
    }

    /// The generation before has been told that this one is ready.
    pub(crate) fn own(&self) {
        self.change(BORROWED, OURS);
        let waiting = lock(&self.waiting).take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

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
pub(crate) struct Heirloom {
    pub(crate) key: Key,
    pub(crate) address: Address,
    pub(crate) hold: Arc<Hold>,
    socket: WeakSocket,
}

/// Does not keep the socket open: it is closed with its listener.
#[derive(Debug)]
enum WeakSocket {
    Tcp(Weak<TcpListener>),
    Unix(Weak<UnixListener>),
}

impl Heirloom {
    /// Returns a descriptor of the socket for the next generation; `None` if the socket is closed.
    pub(crate) fn descriptor(&self) -> io::Result<Option<OwnedFd>> {
        let copy = match &self.socket {
            WeakSocket::Tcp(socket) => socket.upgrade().map(|socket| socket.as_fd().try_clone_to_owned()),
            WeakSocket::Unix(socket) => socket.upgrade().map(|socket| socket.as_fd().try_clone_to_owned()),
        };
        copy.transpose()
    }

    /// Notes that another process gets a descriptor.
    pub(crate) fn note_sent(&self) {
        self.hold.was_sent.store(true, Ordering::Relaxed);
    }

    /// Returns whether the listener is gone, or has been closed.
    pub(crate) fn is_closed(&self) -> bool {
        let is_gone = match &self.socket {
            WeakSocket::Tcp(socket) => socket.strong_count() == 0,
            WeakSocket::Unix(socket) => socket.strong_count() == 0,
        };
        is_gone || self.hold.state.load(Ordering::SeqCst) == CLOSED
    }
}

/// A socket that the generation before has passed, and that no `bind` has asked for yet.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) key: Key,
    socket: OwnedFd,
    address: Address,
}

impl Passed {
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
    pub(crate) fn is_for(&self, address: SocketAddr) -> bool {
        matches!(self.key, Key::Tcp(given) if given == address)
            || self.address.socket_addr().is_some_and(|own| own == canonical(address))
    }

    /// Closes the socket, and removes its file: no generation serves it any more.
    pub(crate) fn discard(self) {
        if let Key::Unix { path, identity } = self.key {
            drop(SocketFile::known(path, identity));
        }
    }

    /// Makes a listener of it.
    fn into_listener(self, options: &ListenOptions) -> io::Result<(Listener, Heirloom)> {
        let inherited = Inherited::with(options);
        let hold = Hold::new(BORROWED, inherited);
        let mut listener = match self.key {
            Key::Tcp(_) => Listener::over_tcp(self.socket.into(), options, Some(inherited))?,
            Key::Unix { ref path, identity } => {
                let mut listener = Listener::over_unix(self.socket.into(), options, Some(inherited))?;
                listener.file = Some(SocketFile::known(path.clone(), identity));
                listener
            }
        };
        let heirloom = listener.enter(self.key, hold);
        Ok((listener, heirloom))
    }
}

/// Returns the address as `Address` has it: an IPv4-mapped IPv6 address is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Listener {
    /// Connects the listener with its entry in the list of what is handed over.
    fn enter(&mut self, key: Key, hold: Arc<Hold>) -> Heirloom {
        let socket = match &self.source {
            Source::Tcp(socket) => WeakSocket::Tcp(socket.downgrade()),
            Source::Unix(socket) => WeakSocket::Unix(socket.downgrade()),
            Source::Custom(_) => unreachable!("only sockets are bound with an `Upgrade`"),
        };
        self.hold = Some(Arc::clone(&hold));
        Heirloom { key, address: self.address.clone(), hold, socket }
    }
}

/// Takes the first passed socket for which `wanted` is true.
fn take(passed: &Mutex<Vec<Passed>>, wanted: impl Fn(&Passed) -> bool) -> Option<Passed> {
    let mut passed = lock(passed);
    passed.iter().position(wanted).map(|at| passed.remove(at))
}

/// Listens on every address that `addresses` resolves to: with the sockets that were passed, and with new ones for the
/// addresses that none was passed for.
pub(crate) async fn bind_or_take(
    addresses: impl ToBindAddrs,
    options: &ListenOptions,
    passed: &Mutex<Vec<Passed>>,
) -> io::Result<Vec<(Listener, Heirloom)>> {
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
    for address in distinct {
        match take(passed, |one| one.is_for(address)) {
            Some(one) => taken.push(one),
            None => others.push(address),
        }
    }
    let mut listeners = taken.into_iter().map(|one| one.into_listener(options)).collect::<io::Result<Vec<_>>>()?;
    if others.is_empty() && !listeners.is_empty() {
        return Ok(listeners);
    }
    let port = listeners.first().and_then(|(listener, _)| listener.local_addr().port());
    let wanted: Vec<_> = others
        .iter()
        .map(|other| SocketAddr::new(other.ip(), if other.port() == 0 { port.unwrap_or(0) } else { other.port() }))
        .collect();
    match tcp::bind_each(if port.is_some() { &wanted } else { &others }, options) {
        Ok(new) => {
            for mut listener in new {
                let own = listener.local_addr().tcp()?;
                let given = others.iter().find(|other| canonical(**other).ip() == own.ip()).copied();
                let hold = Hold::new(OURS, Inherited::with(options));
                let heirloom = listener.enter(Key::Tcp(given.unwrap_or(own)), hold);
                listeners.push((listener, heirloom));
            }
        }
        // The first generation has skipped it, and so does this one.
        Err(error)
            if !listeners.is_empty() && others.iter().all(|other| tcp::is_lacking_family(*other, original(&error))) =>
        {
            log_line!(debug, "skipped an address that this machine lacks: {error}");
        }
        Err(error) => return Err(error),
    }
    Ok(listeners)
}

/// Returns the system's error, behind the one that explains it.
fn original(error: &io::Error) -> &io::Error {
    error.get_ref().and_then(|inner| inner.source()).and_then(|source| source.downcast_ref()).unwrap_or(error)
}

/// Listens on a Unix socket at a path: with the socket that was passed for this path, or with a new one.
pub(crate) async fn bind_unix_or_take(
    path: &Path,
    options: &ListenOptions,
    passed: &Mutex<Vec<Passed>>,
) -> io::Result<(Listener, Heirloom)> {
    let full_path = unix::resolve(path)?;
    match take(passed, |one| matches!(&one.key, Key::Unix { path, .. } if *path == full_path)) {
        Some(one) if one.is_in_place() => {
            let (listener, heirloom) = one.into_listener(options)?;
            if let Some(mode) = options.mode {
                fs::set_permissions(&full_path, Permissions::from_mode(mode)).map_err(|error| {
                    let path = full_path.display();
                    explained(error.kind(), format_args!("cannot set the mode of `{path}` to 0o{mode:o}: {error}"))
                })?;
            }
            return Ok((listener, heirloom));
        }
        Some(_) => {
            let path = full_path.display();
            log_line!(warn, "the file of the socket that was passed for `{path}` is gone: binding a new socket there");
        }
        None => {}
    }
    let mut listener = super::bind_unix(path, options).await?;
    let file = listener.file.as_ref().expect("a Unix socket that was bound has a file");
    let key = Key::Unix { path: file.path().to_owned(), identity: file.identity() };
    let heirloom = listener.enter(key, Hold::new(OURS, Inherited::with(options)));
    Ok((listener, heirloom))
}

impl Passed {
    /// Returns whether clients find this socket by its path.
    fn is_in_place(&self) -> bool {
        match &self.key {
            Key::Unix { path, identity } => unix::is_in_place(path, *identity),
            Key::Tcp(_) => true,
        }
    }
}
