//! [`Listener`]: where connections come from.

mod custom;
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
#[cfg(feature = "proxy-protocol")]
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

/// Where connections come from, for [`Server::new`](crate::Server::new) and
/// [`Server::add_listener`](crate::Server::add_listener): a TCP or Unix
/// socket that listens, [memory](Self::memory), or [anything else](Self::custom).
///
/// Most servers need none by name: [`Server::bind`](crate::Server::bind) and
/// [`Server::bind_unix`](crate::Server::bind_unix) make their own. One server can have any number of listeners, of any
/// mixture; all have the same handler, and the same guarantees.
///
/// # Sockets that are inherited
///
/// A socket that listens already is taken over with `Listener::try_from`: from a [`TcpListener`] of the standard
/// library, on Unix also from a `UnixListener` or an [`OwnedFd`](std::os::fd::OwnedFd); with the feature `systemd` from
/// the service manager. Others may have it too: the process that it came from, or the next one after a restart. So it
/// is left as it was found. While it is served it is non-blocking for all of them; afterwards it is what it was before.
/// It goes on to listen, its file stays where it is, and the clients in its queue are left to the others: where there
/// are none, those clients are reset when the last descriptor is closed.
pub struct Listener {
    /// The socket file that we made; gone once it was removed.
    #[cfg(unix)]
    file: Option<unix::SocketFile>,
    source: Source,
    address: Address,
    /// How many clients the kernel may queue.
    backlog: u32,
    /// It was taken over, and how it was.
    inherited: Option<Inherited>,
    /// The protocols that its connections begin with.
    protocols: Protocols,
    /// Where it was made.
    origin: Origin,
}

enum Source {
    Tcp(Socket<TcpListener>),
    #[cfg(unix)]
    Unix(Socket<UnixListener>),
    Custom(Custom),
}

#[derive(Clone, Copy, Debug)]
struct Inherited {
    /// Accepting from it blocked, before we made that otherwise for all who have it.
    was_blocking: bool,
}

/// A client.
pub(crate) struct Accepted {
    pub(crate) transport: Transport,
    pub(crate) peer: Address,
    /// Where it has connected to, if that is always the same; else its stream tells.
    pub(crate) local: Option<Address>,
    pub(crate) protocols: Protocols,
}

impl Listener {
    /// Listens on a TCP address, with the default [`ListenOptions`]; port 0 lets the kernel choose one.
    ///
    /// # Errors
    ///
    /// Where the address is taken, not this machine's, or not permitted. The error names the address, and keeps the
    /// kind.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        Self::tcp_with(address, &ListenOptions::new())
    }

    /// Listens like [`tcp`](Self::tcp), with other options.
    ///
    /// # Errors
    ///
    /// As for [`tcp`](Self::tcp).
    pub fn tcp_with(address: SocketAddr, options: &ListenOptions) -> io::Result<Self> {
        tcp::bind(address, options)
            .and_then(|socket| Self::over_tcp(socket, options, None))
            .map_err(|error| refused::explain(address, options, error))
    }

    /// Listens on a Unix socket, with the default [`ListenOptions`].
    ///
    /// The file is made, and removed again when the listener is closed, before its queue is emptied: so a client finds
    /// either a server that serves it or no file at all. It is removed only if it is still the one that was made, and
    /// not another's that has taken its place.
    ///
    /// A file that an earlier run has left behind, because it was killed, is removed first, if nothing answers behind
    /// it: it is tried, which a server that lives sees as a client that left at once. Programs that use this crate and
    /// start at the same moment do not remove each other's: each holds a lock (`flock`) on the folder for a moment.
    /// Another program that keeps this lock keeps no server from starting: after 100 milliseconds it goes on without,
    /// with a warning, and takes up to 200 more to be sure that a file is stale. The thread is blocked meanwhile.
    ///
    /// The file is found again, to be removed, though the program changes its folder or a symbolic link above it is
    /// moved on.
    ///
    /// # Errors
    ///
    /// Where something listens there already, where a file that is no socket lies there, where the folder is missing or
    /// may not be written to, and where the path is longer than the system takes (107 bytes on Linux). The error names
    /// the path.
    #[cfg(unix)]
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::unix_with(path, &ListenOptions::new())
    }

    /// Listens like [`unix`](Self::unix), with other options.
    ///
    /// # Errors
    ///
    /// As for [`unix`](Self::unix).
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

    /// Listens on a Unix socket with a name in Linux's abstract namespace: it needs no file, and is gone with the
    /// socket. Anybody in the same network namespace may connect, whatever their rights:
    /// [`Connection::peer_credentials`](crate::Connection::peer_credentials) tells who it was.
    ///
    /// # Errors
    ///
    /// Where the name is taken, empty, or longer than 107 bytes. The error shows it with an `@`.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> io::Result<Self> {
        let (name, options) = (name.as_ref(), ListenOptions::new());
        unix::bind_abstract(name, &options)
            .and_then(|socket| Self::over_unix(socket, &options, None))
            .map_err(|error| unix::explain(&Address::unix_abstract(name), error))
    }

    /// Makes a listener in memory, and the connector for its clients: for tests without sockets, and for clients in the
    /// same process.
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
    pub fn memory() -> (Self, Connector) {
        let (accept, close_queue, connector) = memory::listener();
        let mut listener = Self::custom(Address::named("memory"), accept);
        if let Source::Custom(custom) = &mut listener.source {
            custom.set_close_queue(close_queue);
        }
        (listener, connector)
    }

    /// Makes a listener of your own: a transport that this crate does not know, or one that fails as a test wants it
    /// to. It is closed by its drop; `address` is its name in logs and lists.
    pub fn custom(address: Address, accept: impl Accept) -> Self {
        Self {
            #[cfg(unix)]
            file: None,
            source: Source::Custom(Custom::new(accept)),
            address,
            backlog: ListenOptions::new().backlog,
            inherited: None,
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
            protocols: options.protocols.clone(),
            origin: Origin::here(),
        })
    }

    #[cfg(unix)]
    fn over_unix(socket: UnixListener, options: &ListenOptions, inherited: Option<Inherited>) -> io::Result<Self> {
        let address = Address::from(socket.local_addr()?);
        let source = Source::Unix(Socket::new(socket)?);
        let (backlog, protocols) = (options.backlog, options.protocols.clone());
        Ok(Self { file: None, source, address, backlog, inherited, protocols, origin: Origin::here() })
    }

    /// Its connections are encrypted: see [`Tls`] (feature `tls`). For any listener, also one in memory.
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
    #[must_use = "it gives the listener back"]
    pub fn tls(mut self, tls: &Tls) -> Self {
        self.protocols.tls = Some(tls.clone());
        self
    }

    /// Its connections come through proxies that say who the client is: see [`ProxyProtocol`] (feature
    /// `proxy-protocol`). For any listener, also an inherited one, one of your own, or one in memory.
    #[cfg(feature = "proxy-protocol")]
    #[must_use = "it gives the listener back"]
    pub fn proxy_protocol(mut self, proxy: ProxyProtocol) -> Self {
        if proxy.is_required() && !proxy.trusts_any() {
            log_line!(
                warn,
                "`ProxyProtocol::required` trusts no proxy, so every client of `{}` will be closed: name the proxy's network \
                 with `ProxyProtocol::trust`, or `trust_local` for a Unix socket",
                self.address
            );
        }
        self.protocols.proxy = Some(Arc::new(proxy));
        self
    }

    /// Returns the address that it listens on.
    pub fn local_addr(&self) -> &Address {
        &self.address
    }

    /// Where it was made.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    pub(crate) fn backlog(&self) -> u32 {
        self.backlog
    }

    /// Whether other processes may listen on the same socket, so that the clients in its backlog can be left to them.
    pub(crate) fn is_shared(&self) -> bool {
        self.inherited.is_some()
    }

    /// A client, or the error in its place, as soon as there is one.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        if let Source::Custom(custom) = &mut self.source {
            return custom.poll_accept(cx).map(|accepted| self.receive(accepted));
        }
        loop {
            if let Some(accepted) = self.accept_now() {
                return Poll::Ready(accepted);
            }
            match &mut self.source {
                Source::Tcp(socket) => ready!(socket.poll_readable(cx))?,
                #[cfg(unix)]
                Source::Unix(socket) => ready!(socket.poll_readable(cx))?,
                Source::Custom(_) => unreachable!("it was seen above that it is a socket"),
            }
        }
    }

    /// The same without waiting: `None` if no client is there.
    pub(crate) fn accept_now(&mut self) -> Option<io::Result<Accepted>> {
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
        if let (Some(_), Ok((transport, _))) = (&self.inherited, &accepted) {
            let _gone = tcp::set_defaults(transport); // it fails for a connection that is over
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

    /// Keeps new clients from finding it, as far as that is possible before it is closed.
    pub(crate) fn retire(&mut self) {
        #[cfg(unix)]
        drop(self.file.take());
        if let Source::Custom(custom) = &mut self.source {
            custom.close_queue();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.retire(); // before the socket is closed: until then no other file can have its inode
        #[cfg(unix)]
        if let (Some(Inherited { was_blocking: true }), false) = (self.inherited, self.origin.is_elsewhere()) {
            inherited::make_blocking(&self.source, &self.address);
        }
    }
}

/// Binds on a thread for blocking work: another program may keep the folder locked for a moment.
#[cfg(unix)]
pub(crate) async fn bind_unix(path: &Path, options: &ListenOptions) -> io::Result<Listener> {
    check_origin()?;
    let (path, options) = (path.to_owned(), options.clone());
    async_std::task::spawn_blocking(move || Listener::unix_with(path, &options)).await
}

/// The runtime's threads, which are to work for a bind, are those of this process.
fn check_origin() -> io::Result<()> {
    if let Some(why) = Origin::here().why_not_here() {
        return Err(explained(io::ErrorKind::Unsupported, format_args!("cannot bind here: {why}")));
    }
    origin::runtime_is_here();
    Ok(())
}

/// Listens on every address that `addresses` resolves to. If one fails, those already open are closed again.
pub(crate) async fn bind_all(addresses: impl ToBindAddrs, options: &ListenOptions) -> io::Result<Vec<Listener>> {
    let addresses = addresses.into_bind_addrs(); // before the await: a future of the whole is `Send` whatever they are
    check_origin()?;
    let resolved = addresses.resolve().await?;
    tcp::bind_each(&resolved, options)
}

/// What the connections of a listener begin with, before the handler is called. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Protocols {
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxy: Option<Arc<ProxyProtocol>>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
}

impl Protocols {
    /// Whether the handler gets the socket's own bytes, from the first on.
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

    /// Makes an accepted stream ready for what is to be laid over it.
    pub(crate) fn prepare(&self, stream: Transport) -> Transport {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return stream.awaiting_tls();
        }
        stream
    }

    /// Whether who the client is will be known only once a proxy, which is this peer, has said it.
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
