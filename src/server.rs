//! The server: bind it, set it up, serve.

mod accept;
mod scope;
mod settings;
mod stop;
mod supervise;

use crate::address::Address;
use crate::connection::Connection;
use crate::control::Control;
use crate::control::handle::Handle;
use crate::control::report::{Cause, Report};
use crate::error::Error;
use crate::handler::HandlerOutput;
use crate::listener::{self, ListenOptions, Listener};
use async_std::net::ToSocketAddrs;
use scope::Run;
use settings::Settings;
use std::fmt;
use std::future::Future;
use std::io;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;
use stop::Stop;

/// Listening sockets and settings; not accepting yet.
///
/// Clients that connect before the server serves wait in the kernel's queue. [`serve`](Self::serve) and
/// [`scope`](Self::scope) consume the server, so it cannot be served twice; and it is not `Clone`, for the same reason.
/// Dropped before it is served, it is closed.
///
/// # Errors of accept
///
/// Accepting a client can fail, and whoever it concerns is treated accordingly. Where the client gave up meanwhile, or a
/// firewall forbids it, the next one is accepted. Where something has run out (descriptors, memory), or the error is not
/// known, accepting rests for 5 milliseconds, and twice as long each time that follows, up to 1 second, with a line in the log
/// each. Only what the listening socket itself is to blame for (EBADF, EINVAL, ENOTSOCK, EFAULT) ends the server, after a drain, with
/// [`Error::Listener`].
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::{net::TcpStream, prelude::*};
/// use ebbtide::{Connection, Server};
///
/// async fn greet(mut conn: Connection) -> std::io::Result<()> {
///     conn.write_all(b"hello").await
/// }
///
/// let (greeting, report) = Server::bind("127.0.0.1:0")
///     .await?
///     .scope(greet, async |server| {
///         let mut client = TcpStream::connect(server.local_addr().as_tcp().unwrap()).await?;
///         let mut greeting = String::new();
///         client.read_to_string(&mut greeting).await?;
///         std::io::Result::Ok(greeting)
///     })
///     .await?;
/// assert_eq!(greeting.unwrap()?, "hello");
/// assert_eq!(report.completed(), 1);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
///
/// Using the server before it is bound, the common error of Python's `asyncio.start_server`, does not compile:
///
/// ```compile_fail,E0599
/// # use ebbtide::{Connection, Server};
/// # async fn example(handler: fn(Connection) -> std::future::Ready<()>) -> std::io::Result<()> {
/// let server = Server::bind("127.0.0.1:8888"); // not awaited
/// server.serve(handler).await?;
/// # Ok(()) }
/// ```
///
/// The correct form:
///
/// ```no_run
/// # use ebbtide::{Connection, Server};
/// # async fn example(handler: fn(Connection) -> std::future::Ready<()>) -> std::io::Result<()> {
/// let server = Server::bind("127.0.0.1:8888").await?;
/// server.serve(handler).await?;
/// # Ok(()) }
/// ```
#[must_use = "a server accepts nobody before `serve` or `scope` is awaited, and is closed when it is dropped"]
pub struct Server {
    bound: Bound,
    settings: Settings,
    stops: Vec<Stop>,
}

impl Server {
    /// Listens on every address that `addresses` resolves to. The sockets have the default
    /// [`ListenOptions`].
    ///
    /// With port 0 the kernel chooses a free port, the same for all of the addresses;
    /// [`local_addr`](Self::local_addr) tells which. A kind of address that the machine lacks (`::1` without IPv6) is
    /// passed over if another can be bound.
    ///
    /// # Errors
    ///
    /// Where the name does not resolve, or one of the addresses is taken, not this machine's, or not permitted; the
    /// addresses bound before it are closed again. The error names the address and says what to do.
    pub async fn bind(addresses: impl ToSocketAddrs) -> io::Result<Self> {
        Self::bind_with(addresses, &ListenOptions::new()).await
    }

    /// The same with other options for the sockets.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    pub async fn bind_with(addresses: impl ToSocketAddrs, options: &ListenOptions) -> io::Result<Self> {
        let mut listeners = listener::bind_all(addresses, options).await?.into_iter();
        let first = listeners.next().expect("binding gives at least one listener, or an error");
        Ok(listeners.fold(Self::new(first), Self::listen))
    }

    /// Listens on a Unix socket: see [`Listener::unix`] for its file, and for what becomes of one that was left behind.
    ///
    /// # Errors
    ///
    /// As for [`Listener::unix`]. The error names the path and says what to do.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let path = std::env::temp_dir().join(format!("ebbtide-doc-{}.sock", std::process::id()));
    /// let (is_there, _report) = Server::bind_unix(&path)
    ///     .await?
    ///     .scope(|_: Connection| async {}, async |_| std::fs::metadata(&path).is_ok())
    ///     .await?;
    /// assert_eq!(is_there, Some(true));
    /// assert!(!path.exists());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(unix)]
    pub async fn bind_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::bind_unix_with(path, &ListenOptions::new()).await
    }

    /// The same with other options, such as the file's [mode](ListenOptions::mode).
    ///
    /// # Errors
    ///
    /// As for [`Listener::unix`].
    #[cfg(unix)]
    pub async fn bind_unix_with(path: impl AsRef<Path>, options: &ListenOptions) -> io::Result<Self> {
        Listener::unix_with(path, options).map(Self::new)
    }

    /// A server on a listener that was made before.
    pub fn new(listener: Listener) -> Self {
        Self { bound: Bound(Some(Control::new(listener))), settings: Settings::default(), stops: Vec::new() }
    }

    /// Adds one more listener.
    pub fn listen(self, listener: Listener) -> Self {
        self.bound.control().add_listener(listener);
        self
    }

    /// A handle to stop the server and to look at it, from anywhere.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(self.bound.control()))
    }

    /// Where the server listens: the first of [`local_addrs`](Self::local_addrs).
    pub fn local_addr(&self) -> &Address {
        self.bound.control().addresses.first()
    }

    /// Where the server listens, in the order in which the listeners were added.
    pub fn local_addrs(&self) -> impl Iterator<Item = &Address> {
        self.bound.control().addresses.iter()
    }

    /// Accepts connections, and hands each to `handler` in a child of its own, until the server is told to stop; drains,
    /// closes, and reports.
    ///
    /// A handler is an async function or closure of a [`Connection`] that returns `()` or a `Result<(), E>`. To share
    /// state, clone it for each call:
    ///
    /// ```
    /// # use ebbtide::{Connection, Server};
    /// # use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    /// # async fn example(server: Server) -> Result<(), ebbtide::Error> {
    /// let visitors = Arc::new(AtomicU64::new(0));
    /// let counting = move |_conn: Connection| {
    ///     let visitors = Arc::clone(&visitors);
    ///     async move {
    ///         visitors.fetch_add(1, Ordering::Relaxed);
    ///     }
    /// };
    /// server.serve(counting).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// A handler that panics or fails ends its own connection and nothing else, unless
    /// [`on_failure`](Self::on_failure) says otherwise.
    ///
    /// The future has to be held by somebody until it ends. Returning from `main` while it lives in a spawned task ends
    /// the process with every connection in it, and nothing of what this crate promises can happen: see
    /// `examples/commonest_mistake.rs`.
    ///
    /// # Errors
    ///
    /// Where a listener fails for good, or a handler fails under [`OnFailure::Shutdown`](crate::OnFailure::Shutdown): after the drain, and with the
    /// report in the error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels: when the drop returns, every handler's future has been destroyed, every connection is
    /// shut down, and the port refuses. What this needs in rare cases is said at [`TaskGroup`](crate::TaskGroup#drop).
    /// The report is had from [`Handle::closed`]. Dropped before it is first polled, it closes the server, whose queued
    /// clients are then reset.
    pub async fn serve<H, Fut>(self, handler: H) -> Result<Report, Error>
    where
        H: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: HandlerOutput> + Send + 'static,
    {
        Run::start(self, handler).finish().await
    }

    /// Serves while `body` runs: Python's `async with server:`. The body ends the server by returning.
    ///
    /// The body runs in the caller's task, so it may borrow from the caller. However it ends, the connections are drained
    /// before this returns: its value is handed on as `Some(value)` (also where it is an `Err`), its panic goes on after
    /// the drain. It lives as long as the server: when the server is told to stop by others, the body runs on during the
    /// drain, to watch or to help; where the server closes first, it is polled once more, so that what follows a
    /// `server.shutdown().await` in it may finish, and then dropped, and the value is `None`.
    ///
    /// # Errors
    ///
    /// As for [`serve`](Self::serve). The first cause wins: a failure that comes after the body has returned is logged and
    /// counted, and its value stands; where a failure has stopped the server, that is returned, and a value that the body
    /// returns during the drain is dropped.
    ///
    /// # Panics
    ///
    /// With the body's panic, after the drain.
    ///
    /// # Cancel safety
    ///
    /// As for [`serve`](Self::serve). The body is dropped first.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let (value, report) = Server::bind("127.0.0.1:0")
    ///     .await?
    ///     .scope(|_: Connection| async {}, async |server| {
    ///         println!("{} with {} connections", server.local_addr(), server.connection_count());
    ///         42
    ///     })
    ///     .await?;
    /// assert_eq!(value, Some(42));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn scope<H, Fut, B, T>(self, handler: H, body: B) -> Result<(Option<T>, Report), Error>
    where
        H: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: HandlerOutput> + Send + 'static,
        B: AsyncFnOnce(Handle) -> T,
    {
        let run = Run::start(self, handler);
        let end = run.drive(|| body(run.handle())).await;
        let finished = run.finish().await;
        let value = end.into_value();
        finished.map(|report| (value, report))
    }

    fn into_parts(self) -> (Arc<Control>, Settings, Vec<Stop>) {
        let Self { bound, settings, stops } = self;
        (bound.served(), settings, stops)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server listening on ")?;
        for (n, address) in self.local_addrs().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addrs", &self.local_addrs().collect::<Vec<_>>())
            .field("settings", &self.settings)
            .field("shutdown_streams", &self.stops.len())
            .finish()
    }
}

/// A run that nobody serves yet; dropped like that, it is closed.
struct Bound(Option<Arc<Control>>);

impl Bound {
    fn control(&self) -> &Arc<Control> {
        self.0.as_ref().expect("it is there until the server is served or dropped")
    }

    /// Hands the run over to whoever serves it.
    fn served(mut self) -> Arc<Control> {
        self.0.take().expect("it is there until the server is served or dropped")
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(control) = self.0.take() {
            control.cancel(Cause::Dropped);
        }
    }
}
