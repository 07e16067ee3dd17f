//! [`Listener`]: a source of connections, for a server to accept from.
//!
//! A listener is a TCP or Unix socket (`tcp`, `unix`; `inherited`, if it was opened elsewhere), or any type that
//! implements [`Accept`] (`custom`, `memory`). The accept loop sees only [`Listener::poll_accept`] and
//! [`Listener::accept_now`]. [`Protocols`] are the protocols that its connections begin with, such as TLS.

mod custom;
#[cfg(all(unix, feature = "upgrade"))]
pub(crate) mod generations;
#[cfg(target_os = "linux")]
mod in_use;
#[cfg(unix)]
mod inherited;
mod keepalive;
mod memory;
mod options;
mod refused;
mod socket;
mod tcp;
#[cfg(unix)]
mod unix;

use crate::address::Address;
use crate::bind_addrs::ToBindAddrs;
use crate::origin::{self, Origin};
#[cfg(feature = "proxy-protocol")]
use crate::panic::log_line;
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyProtocol;
#[cfg(unix)]
use crate::runtime;
use crate::text::explained;
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::transport::Transport;
pub use custom::Accept;
use custom::Custom;
pub use keepalive::Keepalive;
pub use memory::{Connector, MemoryStream};
pub use options::ListenOptions;
use socket::Socket;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
#[cfg(unix)]
use std::path::Path;
#[cfg(any(feature = "proxy-protocol", all(unix, feature = "upgrade")))]
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

/// Source of connections for a server: a TCP or Unix socket, [memory](Self::memory), or
/// [a type of your own](Self::custom).
///
/// Most servers never name one: [`Server::bind`](crate::Server::bind) and
/// [`Server::bind_unix`](crate::Server::bind_unix) create their own. Give others to
/// [`Server::new`](crate::Server::new) and [`Server::add_listener`](crate::Server::add_listener). One server can have
/// any number of listeners, in any mixture. All of them have the same handler and the same guarantees.
///
/// Dropping a listener closes it, and disconnects the clients in its backlog (for an inherited socket see
/// below).
///
/// # Sockets that are inherited
///
/// `Listener::try_from` takes over a socket that listens already: from a [`TcpListener`] of the standard library, on
/// Unix also from a `UnixListener` or an [`OwnedFd`](std::os::fd::OwnedFd), and with the feature `systemd` from the
/// service manager. Other processes may hold the same socket: the one that opened it, or the next one after a restart.
/// So it is left as it was found:
///
/// - While it is served it is non-blocking for all holders; afterwards it is as it was before.
/// - It keeps listening, and a socket file stays in place.
/// - The clients in its backlog are left to the other holders. If there are none, these clients are reset when the
///   last descriptor is closed.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// # use async_std::{io::ReadExt, net::TcpStream};
/// use ebbtide::{Connection, Listener, Server};
///
/// let inherited = std::net::TcpListener::bind("127.0.0.1:0")?; // as from a parent process
/// let address = inherited.local_addr()?;
/// let server = Server::new(Listener::try_from(inherited)?);
/// let (_, report) = server
///     .scope(async |_: Connection| {}, async |_| {
///         let mut client = TcpStream::connect(address).await?;
///         assert_eq!(client.read(&mut [0]).await?, 0); // EOF: the handler has returned
///         Ok(())
///     })
///     .await?;
/// assert_eq!(report.completed(), 1);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
pub struct Listener {
    /// The file of a Unix socket that was bound here. `None`: there is none, or it has been removed.
    #[cfg(unix)]
    file: Option<unix::SocketFile>,
    source: Source,
    /// The address that it listens on, or a custom listener's name.
    address: Address,
    /// How many clients the kernel may queue.
    backlog: u32,
    /// `Some` if the socket was opened elsewhere, with its state when it was taken over; or if another process may have
    /// a copy of its descriptor.
    inherited: Option<Inherited>,
    /// `try_clone_fd` has returned a copy of its descriptor.
    #[cfg(unix)]
    is_copied: bool,
    /// `Some` if it was bound with an `Upgrade`: whose socket it is while two generations have it.
    #[cfg(all(unix, feature = "upgrade"))]
    ownership: Option<Arc<generations::Ownership>>,
    /// The protocols that its connections begin with.
    protocols: Protocols,
    /// The process that created it: a forked process has only a copy.
    origin: Origin,
}

enum Source {
    Tcp(Socket<TcpListener>),
    #[cfg(unix)]
    Unix(Socket<UnixListener>),
    Custom(Custom),
}

/// State of a socket that other processes may have, to be restored.
#[derive(Clone, Copy, Debug)]
struct Inherited {
    /// The socket was blocking before it was made non-blocking here, for all of its holders.
    #[cfg_attr(not(unix), expect(dead_code, reason = "only Unix reports it"))]
    was_blocking: bool,
    /// TCP_NODELAY and SO_KEEPALIVE of its connections. `None`: they have those of the socket.
    #[cfg(unix)]
    of_connections: Option<(bool, Keepalive)>,
}

#[cfg(unix)]
impl Inherited {
    /// A non-blocking socket, whose connections get these options.
    fn with(options: &ListenOptions) -> Self {
        Self { was_blocking: false, of_connections: Some((options.nodelay, options.keepalive)) }
    }
}

/// An accepted client.
pub(crate) struct Accepted {
    pub(crate) transport: Transport,
    pub(crate) peer: Address,
    /// The address that it has connected to, if that is the same for all clients. `None`: its socket knows.
    pub(crate) local: Option<Address>,
    /// The protocols that the connection begins with.
    pub(crate) protocols: Protocols,
}

impl Listener {
    /// Listens on a TCP address, with the default [`ListenOptions`]. With port 0 the kernel chooses a free port.
    ///
    /// # Errors
    ///
    /// The address is in use (`AddrInUse`), is not an address of this machine (`AddrNotAvailable`), or is not permitted
    /// (`PermissionDenied`). The error names the address and what to do.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use ebbtide::{Listener, Server};
    ///
    /// let listener = Listener::tcp(([127, 0, 0, 1], 0).into())?;
    /// assert_ne!(listener.local_addr().port(), Some(0));
    /// let server = Server::new(listener);
    /// # Ok(()) }
    /// ```
    #[doc(alias = "TcpListener")]
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        Self::tcp_with(address, &ListenOptions::new())
    }

    /// Listens like [`tcp`](Self::tcp), with other options.
    ///
    /// # Errors
    ///
    /// As for [`tcp`](Self::tcp).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use ebbtide::{ListenOptions, Listener};
    ///
    /// let listener = Listener::tcp_with(([127, 0, 0, 1], 0).into(), &ListenOptions::new().backlog(16))?;
    /// assert!(listener.local_addr().to_string().starts_with("127.0.0.1:"));
    /// # Ok(()) }
    /// ```
    pub fn tcp_with(address: SocketAddr, options: &ListenOptions) -> io::Result<Self> {
        tcp::bind(address, options)
            .and_then(|socket| Self::over_tcp(socket, options, None))
            .map_err(|error| refused::explain(address, options, error))
    }

    /// Listens on a Unix socket at a path, with the default [`ListenOptions`].
    ///
    /// # The socket's file
    ///
    /// The file is created, and removed when the listener is closed, before its backlog is emptied: so a client
    /// finds either a server that serves it, or no file. It is removed only if it is still the file that was created,
    /// and not one that another program has put in its place. It is found again even if the program changes its working
    /// directory, or a symbolic link above the file is changed.
    ///
    /// # Stale files
    ///
    /// A file that an earlier run has left behind, because it was killed, is removed first, if no server listens on it.
    /// To find out, this connects to it; a live server sees a client that leaves at once.
    ///
    /// Programs that use this crate and start at the same moment do not remove each other's files: each holds a lock
    /// (`flock`) on the folder for a moment. Another program that keeps this lock does not prevent the start: after 100
    /// milliseconds it continues without the lock, with a warning, and takes up to 200 more milliseconds to be sure
    /// that a file is stale. The thread is blocked during that time;
    /// [`Server::bind_unix`](crate::Server::bind_unix) does the same on a thread for blocking work.
    ///
    /// # Errors
    ///
    /// - Something listens there already, or another file than a socket is there (`AddrInUse`).
    /// - The folder is missing (`NotFound`), or may not be written to (`PermissionDenied`).
    /// - The path is empty, or longer than the system allows (107 bytes on Linux) (`InvalidInput`).
    ///
    /// The error names the path and what to do.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use ebbtide::Listener;
    ///
    /// let path = std::env::temp_dir().join(format!("ebbtide-doc-unix-{}.sock", std::process::id()));
    /// let listener = Listener::unix(&path)?;
    /// assert_eq!(listener.local_addr().path(), Some(path.as_path()));
    /// drop(listener);
    /// assert!(!path.exists());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "UnixListener")]
    #[cfg(unix)]
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::unix_with(path, &ListenOptions::new())
    }

    /// Listens like [`unix`](Self::unix), with other options, such as the file's [mode](ListenOptions::mode).
    ///
    /// # Errors
    ///
    /// As for [`unix`](Self::unix).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use ebbtide::{ListenOptions, Listener};
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// let path = std::env::temp_dir().join(format!("ebbtide-doc-unix-with-{}.sock", std::process::id()));
    /// let listener = Listener::unix_with(&path, &ListenOptions::new().mode(0o660))?;
    /// assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o660);
    /// # drop(listener);
    /// # Ok(()) }
    /// ```
    #[cfg(unix)]
    pub fn unix_with(path: impl AsRef<Path>, options: &ListenOptions) -> io::Result<Self> {
        let path = path.as_ref();
        unix::bind(path, options)
            .and_then(|(socket, file)| {
                let mut listener = Self::over_unix(socket, options, None)?;
                listener.file = Some(file);
                Ok(listener)
            })
            .map_err(|error| unix::explain(&Address::unix(path), error))
    }

    /// Listens on a Unix socket with a name in Linux's abstract namespace.
    ///
    /// Such a name needs no file and vanishes with the socket. Every process in the same network namespace may connect,
    /// whatever its permissions: [`Connection::peer_credentials`](crate::Connection::peer_credentials) returns its user
    /// and process.
    ///
    /// # Errors
    ///
    /// The name is in use (`AddrInUse`), empty, or longer than 107 bytes (`InvalidInput`). The error shows the name
    /// with an `@` in front.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use ebbtide::Listener;
    ///
    /// let name = format!("ebbtide-doc-{}", std::process::id());
    /// let listener = Listener::unix_abstract(&name)?;
    /// assert_eq!(listener.local_addr().to_string(), format!("@{name}"));
    /// # Ok(()) }
    /// ```
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> io::Result<Self> {
        let (name, options) = (name.as_ref(), ListenOptions::new());
        unix::bind_abstract(name, &options)
            .and_then(|socket| Self::over_unix(socket, &options, None))
            .map_err(|error| unix::explain(&Address::unix_abstract(name), error))
    }

    /// Creates a listener in memory and the [`Connector`] for its clients.
    ///
    /// For tests without sockets, and for clients in the same process. Its backlog holds 128 clients, and each
    /// direction of a stream 64 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::io::{ReadExt, WriteExt};
    /// use ebbtide::{Connection, Listener, Server};
    ///
    /// let (listener, connector) = Listener::memory();
    /// let shout = async |conn: Connection| {
    ///     let mut text = String::new();
    ///     (&conn).read_to_string(&mut text).await?;
    ///     (&conn).write_all(text.to_uppercase().as_bytes()).await
    /// };
    /// let (reply, report) = Server::new(listener)
    ///     .scope(shout, async |_| {
    ///         let mut client = connector.connect().await?;
    ///         client.write_all(b"hello").await?;
    ///         client.close().await?;
    ///         let mut reply = String::new();
    ///         client.read_to_string(&mut reply).await?;
    ///         Ok(reply)
    ///     })
    ///     .await?;
    /// assert_eq!(reply, "HELLO");
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "bufconn")]
    #[doc(alias = "duplex")]
    #[doc(alias = "socketpair")]
    pub fn memory() -> (Self, Connector) {
        let (accept, close_queue, connector) = memory::listener();
        let mut listener = Self::custom(Address::named("memory"), accept);
        if let Source::Custom(custom) = &mut listener.source {
            custom.set_close_queue(close_queue);
        }
        (listener, connector)
    }

    /// Creates a listener from a type of your own.
    ///
    /// For a transport that this crate does not know, or one that fails in the way a test needs. `address` is its name
    /// in logs and lists. The server closes it by dropping `accept`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Accept, Address, Connection, ErrorKind, Listener, MemoryStream, Server};
    /// use std::io;
    ///
    /// struct Broken;
    ///
    /// impl Accept for Broken {
    ///     type Io = MemoryStream;
    ///     async fn accept(&mut self) -> io::Result<(MemoryStream, Address)> {
    ///         Err(io::Error::new(io::ErrorKind::InvalidInput, "the cable is cut"))
    ///     }
    /// }
    ///
    /// let listener = Listener::custom(Address::named("cable"), Broken);
    /// let error = Server::new(listener).serve(async |_: Connection| {}).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Listener);
    /// # });
    /// ```
    pub fn custom(address: Address, accept: impl Accept) -> Self {
        Self {
            #[cfg(unix)]
            file: None,
            source: Source::Custom(Custom::new(accept)),
            address,
            backlog: ListenOptions::new().backlog,
            inherited: None,
            #[cfg(unix)]
            is_copied: false,
            #[cfg(all(unix, feature = "upgrade"))]
            ownership: None,
            protocols: Protocols::default(),
            origin: Origin::here(),
        }
    }

    fn over_tcp(socket: TcpListener, options: &ListenOptions, inherited: Option<Inherited>) -> io::Result<Self> {
        let address = Address::from(socket.local_addr()?);
        let source = Source::Tcp(Socket::new(socket)?);
        Ok(Self {
            #[cfg(unix)]
            file: None,
            source,
            address,
            backlog: options.backlog,
            inherited,
            #[cfg(unix)]
            is_copied: false,
            #[cfg(all(unix, feature = "upgrade"))]
            ownership: None,
            protocols: options.protocols.clone(),
            origin: Origin::here(),
        })
    }

    #[cfg(unix)]
    fn over_unix(socket: UnixListener, options: &ListenOptions, inherited: Option<Inherited>) -> io::Result<Self> {
        let address = Address::from(socket.local_addr()?);
        let source = Source::Unix(Socket::new(socket)?);
        let (backlog, protocols) = (options.backlog, options.protocols.clone());
        Ok(Self {
            file: None,
            source,
            address,
            backlog,
            inherited,
            is_copied: false,
            #[cfg(feature = "upgrade")]
            ownership: None,
            protocols,
            origin: Origin::here(),
        })
    }

    /// Makes the connections of this listener encrypted: see [`Tls`] (feature `tls`). Works with every listener.
    ///
    /// Default: they are not.
    ///
    /// # Examples
    ///
    /// A socket that listens already:
    ///
    /// ```no_run
    /// # fn example(inherited: std::net::TcpListener) -> std::io::Result<ebbtide::Server> {
    /// use ebbtide::{Listener, Server, Tls};
    ///
    /// let tls = Tls::from_pem_files("cert.pem", "key.pem")?;
    /// let server = Server::new(Listener::try_from(inherited)?.tls(&tls));
    /// # Ok(server) }
    /// ```
    #[cfg(feature = "tls")]
    #[must_use = "this returns the listener; give it to `Server::new` or `Server::add_listener`"]
    pub fn tls(mut self, tls: &Tls) -> Self {
        self.protocols.tls = Some(tls.clone());
        self
    }

    /// Makes the connections of this listener begin with a header of the PROXY protocol: see [`ProxyProtocol`] (feature
    /// `proxy-protocol`). Works with every listener.
    ///
    /// Default: they do not.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// use ebbtide::{Connection, Listener, ProxyProtocol, Server};
    ///
    /// let (listener, connector) = Listener::memory();
    /// let listener = listener.proxy_protocol(ProxyProtocol::required().trust_local());
    /// let tell_peer = async |mut conn: Connection| {
    ///     let peer = conn.peer_addr().to_string();
    ///     conn.write_all(peer.as_bytes()).await
    /// };
    /// let (peer, _report) = Server::new(listener)
    ///     .scope(tell_peer, async |_| {
    ///         let mut proxy = connector.connect().await?;
    ///         proxy.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n").await?;
    ///         let mut peer = String::new();
    ///         proxy.read_to_string(&mut peer).await?;
    ///         Ok(peer)
    ///     })
    ///     .await?;
    /// assert_eq!(peer, "192.0.2.1:40000");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "proxy-protocol")]
    #[must_use = "this returns the listener; give it to `Server::new` or `Server::add_listener`"]
    pub fn proxy_protocol(mut self, proxy: ProxyProtocol) -> Self {
        if proxy.is_required() && !proxy.trusts_any() {
            log_line!(
                warn,
                "`ProxyProtocol::required` trusts no proxy, so every client of `{}` will be closed: name the proxy's \
                 network with `ProxyProtocol::trust`, or `trust_local` for a Unix socket",
                self.address
            );
        }
        self.protocols.proxy = Some(Arc::new(proxy));
        self
    }

    /// Returns the address that it listens on, or the name of a custom listener.
    ///
    /// # Examples
    ///
    /// ```
    /// let (listener, _connector) = ebbtide::Listener::memory();
    /// assert_eq!(listener.local_addr().to_string(), "memory");
    /// ```
    pub fn local_addr(&self) -> &Address {
        &self.address
    }

    /// Returns the process that created it.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    pub(crate) fn backlog(&self) -> u32 {
        self.backlog
    }

    /// Returns whether other processes may hold the same socket, so that the clients in its backlog can be left to
    /// them.
    pub(crate) fn is_shared(&self) -> bool {
        #[cfg(all(unix, feature = "upgrade"))]
        if let (Some(ownership), false) = (&self.ownership, self.is_copied) {
            return ownership.is_shared();
        }
        self.inherited.is_some()
    }

    /// Polls for the next client, or the error in its place.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        if let Source::Custom(custom) = &mut self.source {
            return custom.poll_accept(cx).map(|accepted| self.receive(accepted));
        }
        #[cfg(all(unix, feature = "upgrade"))]
        if let Some(ownership) = &self.ownership {
            ready!(ownership.poll_accepts(cx));
        }
        loop {
            if let Some(accepted) = self.accept_now() {
                return Poll::Ready(accepted);
            }
            match &mut self.source {
                Source::Tcp(socket) => ready!(socket.poll_readable(cx))?,
                #[cfg(unix)]
                Source::Unix(socket) => ready!(socket.poll_readable(cx))?,
                Source::Custom(_) => unreachable!("a custom listener was polled above"),
            }
        }
    }

    /// Accepts without waiting: `None` if no client is in the backlog.
    pub(crate) fn accept_now(&mut self) -> Option<io::Result<Accepted>> {
        #[cfg(all(unix, feature = "upgrade"))]
        let _owner = match &self.ownership {
            Some(ownership) => {
                let accepting = ownership.accepting()?; // `None`: the clients in the backlog are another generation's
                self.inherited = self.inherited.or_else(|| ownership.once_sent());
                Some(accepting)
            }
            None => None,
        };
        #[cfg(unix)]
        if let Some(inherited) = &mut self.inherited {
            match inherited::has_client(&self.source, inherited) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        let accepted = match &mut self.source {
            Source::Tcp(socket) => tcp::accept(socket.get_ref()),
            #[cfg(unix)]
            Source::Unix(socket) => unix::accept(socket.get_ref()),
            Source::Custom(custom) => match custom.poll_accept(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(accepted) => accepted,
                Poll::Pending => return None,
            },
        };
        #[cfg(unix)]
        if let (Some(inherited), Ok((transport, _))) = (&self.inherited, &accepted) {
            let _ended = tcp::set_options(transport, inherited); // fails if the peer has reset the connection
        }
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            accepted => Some(self.receive(accepted)),
        }
    }

    fn receive(&self, accepted: io::Result<(Transport, Address)>) -> io::Result<Accepted> {
        let (transport, peer) = accepted?;
        let local = match self.source {
            Source::Tcp(_) => None,
            _ => Some(self.address.clone()),
        };
        Ok(Accepted { transport: self.protocols.prepare(transport), peer, local, protocols: self.protocols.clone() })
    }

    /// Keeps new clients out, as far as that is possible before it is closed: removes the socket's file, or closes the
    /// queue of a listener in memory.
    pub(crate) fn retire(&mut self) {
        #[cfg(all(unix, feature = "upgrade"))]
        let is_given = self.ownership.as_ref().is_some_and(|ownership| ownership.close());
        #[cfg(all(unix, not(feature = "upgrade")))]
        let is_given = false;
        #[cfg(unix)]
        if let Some(file) = self.file.take() {
            // While other processes may have the socket, the file is theirs.
            match is_given || self.is_copied {
                true => file.leave(),
                false => drop(file),
            }
        }
        if let Source::Custom(custom) = &mut self.source {
            custom.close_queue();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.retire(); // before the socket is closed: as long as it is open, no other file can get its inode
        #[cfg(unix)]
        if let (Some(Inherited { was_blocking: true, .. }), false) = (self.inherited, self.origin.is_elsewhere()) {
            inherited::make_blocking(&self.source, &self.address);
        }
    }
}

/// Binds a Unix socket on a thread for blocking work: another program may hold the folder's lock for a moment.
#[cfg(unix)]
pub(crate) async fn bind_unix(path: &Path, options: &ListenOptions) -> io::Result<Listener> {
    check_origin()?;
    let (path, options) = (path.to_owned(), options.clone());
    runtime::unblock(move || Listener::unix_with(path, &options)).await
}

/// Checks that the runtime's threads, which have to work for a bind, run in this process: a fork does not copy them.
fn check_origin() -> io::Result<()> {
    if let Some(why) = Origin::here().why_not_here() {
        return Err(explained(io::ErrorKind::Unsupported, format_args!("cannot bind here: {why}")));
    }
    origin::runtime_is_here();
    Ok(())
}

/// Listens on every address that `addresses` resolves to. If one fails, the sockets that are already open are closed.
pub(crate) async fn bind_all(addresses: impl ToBindAddrs, options: &ListenOptions) -> io::Result<Vec<Listener>> {
    let addresses = addresses.into_bind_addrs(); // before the await: so the future is `Send` for every such type
    check_origin()?;
    let resolved = addresses.resolve().await?;
    tcp::bind_each(&resolved, options)
}

/// The protocols that a listener's connections begin with, before the handler is called. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Protocols {
    /// The PROXY protocol, which comes first.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxy: Option<Arc<ProxyProtocol>>,
    /// TLS, which comes after it.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
}

impl Protocols {
    /// Returns whether there are none: the handler gets the socket's own bytes, from the first on.
    pub(crate) fn is_empty(&self) -> bool {
        #[cfg(feature = "proxy-protocol")]
        if self.proxy.is_some() {
            return false;
        }
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return false;
        }
        true
    }

    /// Prepares an accepted stream for the protocols on top of it.
    pub(crate) fn prepare(&self, stream: Transport) -> Transport {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return stream.awaiting_tls();
        }
        stream
    }

    /// Returns whether this peer is a proxy that will name its client, so that the client is not known yet.
    pub(crate) fn name_client_of(&self, peer: &Address) -> bool {
        #[cfg(feature = "proxy-protocol")]
        if let Some(proxy) = &self.proxy {
            return proxy.trusts(peer);
        }
        let _ = peer;
        false
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .field("inherited", &self.is_shared())
            .finish_non_exhaustive()
    }
}
