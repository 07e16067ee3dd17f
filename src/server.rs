//! [`Server`]: bind it, set it up, serve.

mod accept;
mod accept_error;
pub(crate) mod body;
mod config;
mod progress;
mod scope;
mod shutdown;
mod vanished;

use crate::address::Address;
use crate::bind_addrs::ToBindAddrs;
use crate::connection::Connection;
use crate::error::Error;
use crate::handler::HandlerOutput;
use crate::listener::{self, ListenOptions, Listener};
use crate::run::Run;
use crate::run::handle::Handle;
use crate::run::report::{Cause, Report};
use body::BodyOutput;
use config::Config;
use scope::RunGuard;
use shutdown::ShutdownStream;
use std::fmt;
use std::future::Future;
use std::io;
#[cfg(unix)]
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// Listening sockets and settings; not accepting yet.
///
/// Clients that connect before the server serves wait in the kernel's queue. [`serve`](Self::serve) and
/// [`scope`](Self::scope) consume the server, so it cannot be served twice; it is not `Clone`, for the same reason.
/// Dropped before it is served, it is closed.
///
/// # Errors of accept
///
/// Accepting a client can fail, for one of three reasons:
///
/// - The client gave up meanwhile, or a firewall forbids it: the next client is accepted.
/// - Something has run out (descriptors, memory), or the error is not known: accepting pauses for 5 milliseconds, twice
///   as long with each further error, up to 1 second, with a line in the log each.
/// - The listening socket itself is broken (EBADF, EINVAL, ENOTSOCK, EFAULT): the server ends, after a drain, with an
///   error of kind [`Listener`](crate::ErrorKind::Listener).
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
///         let mut client = TcpStream::connect(server.local_addr().tcp()?).await?;
///         let mut greeting = String::new();
///         client.read_to_string(&mut greeting).await?;
///         Ok(greeting)
///     })
///     .await?;
/// assert_eq!(greeting, "hello");
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
#[must_use = "a server accepts no client before `serve` or `scope` is awaited, and is closed when it is dropped"]
pub struct Server {
    bound: Bound,
    config: Config,
    /// In a lock so that the server is `Sync`: streams need not be.
    shutdown_streams: Mutex<Vec<ShutdownStream>>,
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
    /// If the name does not resolve, or if one of the addresses is taken, not this machine's, or not permitted; the
    /// addresses bound before it are closed again. The error names the address and says what to do.
    ///
    /// That sentence is its `Display` text. `fn main() -> io::Result<()>` prints it within the standard library's form
    /// for every such error, which no crate can change: `Error: Custom { kind: AddrInUse, error: cannot listen on … }`.
    /// For the sentence alone print it yourself, and return an `ExitCode`; or return `anyhow::Result`.
    pub async fn bind(addresses: impl ToBindAddrs) -> io::Result<Self> {
        Self::bind_with(addresses, &ListenOptions::new()).await
    }

    /// Listens like [`bind`](Self::bind), with other options for the sockets.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    pub async fn bind_with(addresses: impl ToBindAddrs, options: &ListenOptions) -> io::Result<Self> {
        let mut listeners = listener::bind_all(addresses, options).await?.into_iter();
        let first = listeners.next().expect("binding gives at least one listener, or an error");
        Ok(listeners.fold(Self::new(first), Self::add_listener))
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
    ///     .scope(async |_: Connection| {}, async |_| Ok(path.exists()))
    ///     .await?;
    /// assert!(is_there);
    /// assert!(!path.exists());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(unix)]
    pub async fn bind_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::bind_unix_with(path, &ListenOptions::new()).await
    }

    /// Listens like [`bind_unix`](Self::bind_unix), with other options, such as the file's [mode](ListenOptions::mode).
    ///
    /// # Errors
    ///
    /// As for [`Listener::unix`].
    #[cfg(unix)]
    pub async fn bind_unix_with(path: impl AsRef<Path>, options: &ListenOptions) -> io::Result<Self> {
        listener::bind_unix(path.as_ref(), options).await.map(Self::new)
    }

    /// Makes a server of a listener.
    pub fn new(listener: Listener) -> Self {
        Self { bound: Bound(Some(Run::new(listener))), config: Config::default(), shutdown_streams: Mutex::default() }
    }

    /// Adds a listener.
    pub fn add_listener(self, listener: Listener) -> Self {
        self.bound.run().add_listener(listener);
        self
    }

    /// Returns a handle, which stops the server and looks at it, from anywhere.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(self.bound.run()))
    }

    /// Returns the address that the server listens on: the first of [`local_addrs`](Self::local_addrs).
    pub fn local_addr(&self) -> &Address {
        self.bound.run().name.addresses.first()
    }

    /// Returns the addresses that the server listens on, in the order in which the listeners were added.
    pub fn local_addrs(&self) -> impl Iterator<Item = &Address> {
        self.bound.run().name.addresses.iter()
    }

    /// Accepts connections, and gives each to `handler` in a child of its own, until a shutdown is requested. Then
    /// drains, closes, and returns the report.
    ///
    /// A handler is an async function or closure of a [`Connection`] that returns `()` or a `Result<(), E>`. To share
    /// state, clone it for each call. (An `async move |conn|` closure that captures something does not compile: "async
    /// closure does not implement `Fn`".)
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
    /// A closure that ends with `Ok(())` names its error type: `async |conn: Connection| -> io::Result<()> { … }`.
    ///
    /// A handler that panics or fails ends its own connection and nothing else, unless
    /// [`on_failure`](Self::on_failure) says otherwise.
    ///
    /// The future must be awaited to its end. Returning from `main` while it lives in a spawned task ends
    /// the process with every connection in it, and nothing of what this crate promises can happen: see
    /// `examples/commonest_mistake.rs`.
    ///
    /// # Errors
    ///
    /// If a listener fails for good, or a handler fails under [`OnFailure::Shutdown`](crate::OnFailure::Shutdown):
    /// after the drain, with the report in the error. And in a process that was forked after the bind: the threads of
    /// the runtime are not in it. A forked process that drops its copy of the server, or of this future, closes nothing
    /// of its parent's, and removes no socket file.
    ///
    /// # Large handlers
    ///
    /// A handler may hold up to 512 KiB across an `.await`, such as `let mut buf = [0; 64 * 1024]`. A future of more
    /// than 16 KiB is moved to the heap before anything else, so it is not copied onto the stacks of the executor's
    /// threads, which have 2 MiB each unless `RUST_MIN_STACK` (in bytes) says otherwise. Beyond 512 KiB an unoptimised
    /// program may overflow such a stack, which ends the process. A `Vec` or a `Box` has no such limit, and costs a
    /// connection its memory only once it is made.
    ///
    /// The same holds for the body of [`scope`](Self::scope) on such a thread, and for the tasks of
    /// [`Connection::spawn`], [`Handle::spawn`], [`TaskGroup::spawn`](crate::TaskGroup::spawn) and
    /// [`TaskSet::spawn`](crate::TaskSet::spawn). Unoptimised, a function that makes such a future has it on its own
    /// stack until then: one that starts several of them is better split.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels: when the drop returns, every handler's future has been dropped, every connection is
    /// shut down, and the port refuses. [`TaskGroup`](crate::TaskGroup#drop) names the rare exceptions.
    /// [`Handle::closed`] gives the report. Dropped before it is first polled, it closes the server, and resets its
    /// queued clients.
    pub fn serve<H, Fut>(self, handler: H) -> Serve
    where
        H: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: HandlerOutput> + Send + 'static,
    {
        Serve { future: Box::pin(async move { RunGuard::start(self, handler)?.finish().await }) }
    }

    /// Serves while `body` runs: Python's `async with server:`. The body ends the server by returning.
    ///
    /// The body runs in the caller's task, so it may borrow from the caller. However it ends, the connections are
    /// drained before this returns; a panic of the body goes on after the drain. What it may return, and what comes of
    /// that, is a table at [`BodyOutput`].
    ///
    /// If others stop the server, the body runs on during the drain, to watch or to help. If the server closes first,
    /// the body has the rest of the grace period (at most 8 seconds if that has no limit; one more poll after a cancel,
    /// or if it returns `!`), with a warning in the log after 1 second. Then it is dropped. [`Handle::closed`] does not
    /// wait for the body.
    ///
    /// # Errors
    ///
    /// As for [`serve`](Self::serve); the error of the body, of kind [`Body`](crate::ErrorKind::Body); and kind
    /// [`Stopped`](crate::ErrorKind::Stopped) if a body that returns a `Result` was dropped. The first failure wins: a
    /// body's error that comes after the failure of a listener or handler is logged, and a value that it returns then
    /// is dropped. A failure that comes after the body has returned is logged and counted, and the value stands.
    ///
    /// # Panics
    ///
    /// With the body's panic, after the drain.
    ///
    /// # Large bodies
    ///
    /// The body's future is on the heap, so that of `scope` is small. How large it may be: see "Large
    /// handlers" at [`serve`](Self::serve).
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
    ///     .scope(async |_: Connection| {}, async |server| {
    ///         println!("{} with {} connections", server.local_addr(), server.connection_count());
    ///         Ok(42)
    ///     })
    ///     .await?;
    /// assert_eq!(value, 42);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn scope<H, Fut, B, O, T>(self, handler: H, body: B) -> Result<(T, Report), Error>
    where
        H: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: HandlerOutput> + Send + 'static,
        B: AsyncFnOnce(Handle) -> O,
        O: BodyOutput<T>,
    {
        let guard = RunGuard::start(self, handler)?;
        let end = guard.drive::<_, O, T>(|| body(guard.handle())).await;
        guard.finish_with::<O, T>(end).await
    }

    fn into_parts(self) -> (Arc<Run>, Config, Vec<ShutdownStream>) {
        let Self { bound, config, shutdown_streams } = self;
        (bound.served(), config, shutdown_streams.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Future of a server that serves: see [`Server::serve`].
///
/// Accepting begins with its first poll. Dropped at any time, it closes the server synchronously.
// A type of its own, and not an async function: the compiler then checks the handler once, and reports an error in it
// once.
#[must_use = "a server accepts no client before this is awaited, and is closed when it is dropped"]
pub struct Serve {
    future: Pin<Box<dyn Future<Output = Result<Report, Error>> + Send>>,
}

impl Future for Serve {
    type Output = Result<Report, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").finish_non_exhaustive()
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
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A run that is not served yet; dropped like that, it is closed.
struct Bound(Option<Arc<Run>>);

impl Bound {
    fn run(&self) -> &Arc<Run> {
        self.0.as_ref().expect("it is there until the server is served or dropped")
    }

    /// Hands the run over, to be served.
    fn served(mut self) -> Arc<Run> {
        self.0.take().expect("it is there until the server is served or dropped")
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run.cancel(Cause::Dropped);
        }
    }
}
