//! [`Server`] and [`Serve`]: bind listening sockets, set the server up, serve.
//!
//! This file has the public type and its life: bound ([`Bound`]), then served. The settings are in `config`; the run
//! itself begins and ends in `scope`.

mod accept;
mod accept_error;
pub(crate) mod body;
pub(crate) mod config;
pub(crate) mod progress;
pub(crate) mod scope;
pub(crate) mod shutdown;
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
use crate::sync::{Mutex, lock};
use body::BodyOutput;
use config::Config;
use scope::{RunGuard, SideTask};
use shutdown::ShutdownStream;
use std::fmt;
use std::future::Future;
use std::io;
#[cfg(unix)]
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// Server that is bound to its listening sockets and can be set up, but does not accept clients yet.
///
/// Clients that connect before the server serves wait in the kernel's backlog. [`serve`](Self::serve) and
/// [`scope`](Self::scope) consume the server, so it cannot be served twice. For the same reason it is not `Clone`.
/// Dropping a server that was never served closes it.
///
/// # Errors of accept
///
/// Accepting a client can fail for one of three reasons:
///
/// | reason | effect |
/// |---|---|
/// | the client has given up, or a firewall rule forbids it | the next client is accepted |
/// | something has run out (descriptors, memory), or the error is unknown | accepting pauses: 5 milliseconds, twice as long after each further error, at most 1 second; each pause is logged |
/// | the listening socket itself is broken (EBADF, EINVAL, ENOTSOCK, EFAULT) | the server drains and ends with an error of kind [`Listener`](crate::ErrorKind::Listener) |
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
/// Using the server before it is bound, a common mistake with Python's `asyncio.start_server`, does not compile:
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
#[doc(alias = "start_server")]
#[doc(alias = "TcpListener")]
#[must_use = "a server accepts no client before `serve` or `scope` is awaited, and is closed when it is dropped"]
pub struct Server {
    /// The run, with its listeners and limits.
    bound: Bound,
    /// The settings.
    config: Config,
    /// Streams that request a shutdown. They need not be `Sync`; the lock makes the server `Sync`.
    shutdown_streams: Mutex<Vec<ShutdownStream>>,
    /// Tasks of this crate that run beside the server until its end. [`Serve`] has them too, until its first poll.
    side_tasks: Arc<Mutex<Vec<SideTask>>>,
}

impl Server {
    /// Listens on every address that `addresses` resolves to, with the default [`ListenOptions`].
    ///
    /// With port 0 the kernel chooses a free port, the same one for all of the addresses;
    /// [`local_addr`](Self::local_addr) returns it. An address family that the machine lacks (`::1` without IPv6) is
    /// skipped if another address can be bound. What can be given as addresses is a table at [`ToBindAddrs`].
    ///
    /// # Errors
    ///
    /// - The name does not resolve.
    /// - One of the addresses is in use, is not an address of this machine, or is not permitted. The sockets that were
    ///   bound before it are closed again.
    /// - This process was forked after the runtime had started: the threads of the runtime are not in it.
    ///
    /// The `Display` text of the error is a sentence that names the address, the reason, and what to do.
    /// `fn main() -> io::Result<()>` prints it within the standard library's `Debug` form, which no crate can change:
    /// `Error: Custom { kind: AddrInUse, error: cannot listen on … }`. To print the sentence alone, print the error
    /// yourself and return an `ExitCode`, or return `anyhow::Result`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the sockets that were already bound. Nothing is left behind.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::Server;
    ///
    /// let server = Server::bind("127.0.0.1:0").await?; // port 0: the kernel chooses
    /// let port = server.local_addr().port().unwrap();
    ///
    /// let error = Server::bind(("127.0.0.1", port)).await.unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    /// assert!(error.to_string().starts_with("cannot listen on `127.0.0.1:"));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "start_server")]
    #[doc(alias = "listen")]
    #[doc(alias = "open_tcp_listeners")]
    pub async fn bind(addresses: impl ToBindAddrs) -> io::Result<Self> {
        Self::bind_with(addresses, &ListenOptions::new()).await
    }

    /// Listens like [`bind`](Self::bind), with other options for the sockets.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    ///
    /// # Cancel safety
    ///
    /// As for [`bind`](Self::bind).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ListenOptions, Server};
    ///
    /// let options = ListenOptions::new().backlog(128).nodelay(false);
    /// let server = Server::bind_with("127.0.0.1:0", &options).await?;
    /// assert_eq!(server.local_addrs().count(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "ListenConfig")]
    pub async fn bind_with(addresses: impl ToBindAddrs, options: &ListenOptions) -> io::Result<Self> {
        let mut listeners = listener::bind_all(addresses, options).await?.into_iter();
        let first = listeners.next().expect("binding returns at least one listener, or an error");
        Ok(listeners.fold(Self::new(first), Self::add_listener))
    }

    /// Listens on a Unix socket at a path, with the default [`ListenOptions`].
    ///
    /// The socket's file is created, and removed when the server is closed; a stale file is replaced.
    /// [`Listener::unix`] has the details. The bind runs on a thread for blocking work, and blocks no task.
    ///
    /// # Errors
    ///
    /// As for [`Listener::unix`], and in a process that was forked after the runtime had started. The error names the
    /// path and what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop a bind that has begun on its thread. The socket that it makes is then closed,
    /// and its file removed, on that thread a moment later.
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
    #[doc(alias = "start_unix_server")]
    #[doc(alias = "UnixListener")]
    #[cfg(unix)]
    pub async fn bind_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::bind_unix_with(path, &ListenOptions::new()).await
    }

    /// Listens like [`bind_unix`](Self::bind_unix), with other options, such as the file's [mode](ListenOptions::mode).
    ///
    /// # Errors
    ///
    /// As for [`bind_unix`](Self::bind_unix).
    ///
    /// # Cancel safety
    ///
    /// As for [`bind_unix`](Self::bind_unix).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ListenOptions, Server};
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// let path = std::env::temp_dir().join(format!("ebbtide-doc-mode-{}.sock", std::process::id()));
    /// let server = Server::bind_unix_with(&path, &ListenOptions::new().mode(0o600)).await?;
    /// assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o600);
    /// # drop(server);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(unix)]
    pub async fn bind_unix_with(path: impl AsRef<Path>, options: &ListenOptions) -> io::Result<Self> {
        listener::bind_unix(path.as_ref(), options).await.map(Self::new)
    }

    /// Creates a server from a listener: in memory, inherited, or one of your own.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Server};
    ///
    /// let (listener, connector) = Listener::memory();
    /// let (_client, report) = Server::new(listener)
    ///     .scope(async |_: Connection| {}, async |_| Ok(connector.connect().await?))
    ///     .await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn new(listener: Listener) -> Self {
        Self {
            bound: Bound(Some(Run::new(listener))),
            config: Config::default(),
            shutdown_streams: Mutex::default(),
            side_tasks: Arc::default(),
        }
    }

    /// Adds a listener: the server accepts the clients of all of its listeners.
    ///
    /// They share the handler, the limits and the report. When several have clients and few permits are free, they
    /// take turns.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Listener, Server};
    ///
    /// let (memory, _connector) = Listener::memory();
    /// let server = Server::bind("127.0.0.1:0").await?.add_listener(memory);
    /// assert_eq!(server.local_addrs().count(), 2);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "serve_listeners")]
    pub fn add_listener(self, listener: Listener) -> Self {
        self.bound.run().add_listener(listener);
        self
    }

    /// Returns a handle, which stops and observes the server from anywhere.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// let serving = async_std::task::spawn(server.serve(async |_: Connection| {}));
    /// handle.shutdown().await;
    /// assert_eq!(serving.await?.accepted(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(self.bound.run()))
    }

    /// Returns the address that the server listens on: the first of [`local_addrs`](Self::local_addrs).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::Server;
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let address = server.local_addr().tcp()?;
    /// assert_ne!(address.port(), 0); // the port that the kernel chose
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "getsockname")]
    pub fn local_addr(&self) -> &Address {
        self.bound.run().name.addresses.first()
    }

    /// Returns the addresses that the server listens on, in the order in which the listeners were added.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Listener, Server};
    /// # let (memory, _connector) = Listener::memory();
    /// let server = Server::bind("127.0.0.1:0").await?.add_listener(memory);
    /// let addresses: Vec<_> = server.local_addrs().collect();
    /// assert_eq!(addresses[1].to_string(), "memory");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn local_addrs(&self) -> impl Iterator<Item = &Address> {
        self.bound.run().name.addresses.iter()
    }

    /// Accepts connections and runs `handler` for each, until a shutdown is requested; then drains and closes.
    ///
    /// Each handler is a child of the server. The future returns the [`Report`] once the server is *closed*: no handler
    /// is running, and every socket is closed.
    ///
    /// A handler is an async function or closure that takes a [`Connection`] and returns `()` or a `Result<(), E>`. A
    /// closure that ends with `Ok(())` names its error type: `async |conn: Connection| -> io::Result<()> { … }`. To
    /// share state, clone it for each call, as in the second example. (An `async move |conn|` closure that captures
    /// something does not compile: "async closure does not implement `Fn`".)
    ///
    /// A handler that panics or fails ends its own connection and nothing else, unless
    /// [`on_failure`](Self::on_failure) is set otherwise.
    ///
    /// Await the future to its end. If `main` returns while the future lives in a spawned task, the process ends with
    /// every connection in it, and none of this crate's guarantees can hold: see `examples/common_mistake.rs`.
    ///
    /// # Errors
    ///
    /// - A listener failed for good, or a handler failed under [`OnFailure::Shutdown`](crate::OnFailure::Shutdown). The
    ///   error is returned after the drain, and has the report in it.
    /// - The process was forked after the bind: the threads of the runtime are not in it. A forked process that drops
    ///   its copy of the server, or of this future, closes nothing of its parent's, and removes no socket file.
    ///
    /// # Large handlers
    ///
    /// A handler may hold up to 512 KiB across an `.await`, such as `let mut buf = [0; 64 * 1024]`. A future of more
    /// than 16 KiB is moved to the heap before anything else. So it is not copied onto the stacks of the executor's
    /// threads, which have 2 MiB each unless `RUST_MIN_STACK` (in bytes) is set. Beyond 512 KiB an unoptimised program
    /// may overflow such a stack, which ends the process. A `Vec` or a `Box` has no such limit, and costs a connection
    /// no memory before it is made.
    ///
    /// The same holds for the body of [`scope`](Self::scope) on such a thread, and for the tasks of
    /// [`Connection::spawn`], [`Handle::spawn`], [`TaskGroup::spawn`](crate::TaskGroup::spawn) and
    /// [`TaskSet::spawn`](crate::TaskSet::spawn). In an unoptimised program, a function that makes such a future has it
    /// on its own stack until then: split a function that starts several of them.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the server synchronously. When the drop returns, every handler's future has been
    /// dropped, every connection is shut down, and the port refuses. [`TaskGroup`](crate::TaskGroup#drop) names the
    /// rare exceptions. [`Handle::closed`] returns the report. Dropping the future before its first poll closes the
    /// server and resets the clients in its backlog.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    ///
    /// async fn greet(mut conn: Connection) -> std::io::Result<()> {
    ///     conn.write_all(b"hello").await
    /// }
    ///
    /// let server = Server::new(listener);
    /// let handle = server.handle();
    /// let serving = async_std::task::spawn(server.serve(greet));
    ///
    /// let mut greeting = String::new();
    /// connector.connect().await?.read_to_string(&mut greeting).await?;
    /// assert_eq!(greeting, "hello");
    ///
    /// handle.shutdown().await;
    /// assert_eq!(serving.await?.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    ///
    /// State that all handlers share:
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::io::ReadExt;
    /// # use ebbtide::{Connection, Listener, Server};
    /// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    /// # let (listener, connector) = Listener::memory();
    /// # let server = Server::new(listener).shutdown_when(async move {
    /// #     let _eof = connector.connect().await.unwrap().read(&mut [0]).await;
    /// # });
    ///
    /// let visitors = Arc::new(AtomicU64::new(0));
    /// let counter = Arc::clone(&visitors);
    /// let handler = move |_conn: Connection| {
    ///     let counter = Arc::clone(&counter);
    ///     async move {
    ///         counter.fetch_add(1, Ordering::Relaxed);
    ///     }
    /// };
    /// server.serve(handler).await?;
    /// assert_eq!(visitors.load(Ordering::Relaxed), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "serve_forever")]
    #[doc(alias = "axum::serve")]
    #[doc(alias = "ListenAndServe")]
    #[doc(alias = "serve_tcp")]
    pub fn serve<H, Fut>(self, handler: H) -> Serve
    where
        H: Fn(Connection) -> Fut + Send + Sync + 'static, // shared state: move |conn| handler(conn, Arc::clone(&state))
        Fut: Future<Output: HandlerOutput> + Send + 'static,
    {
        Serve {
            handle: self.handle(),
            allowance: self.config.allowance(),
            #[cfg(all(feature = "systemd", target_os = "linux"))]
            side_tasks: Arc::clone(&self.side_tasks),
            future: Box::pin(async move { RunGuard::start(self, handler)?.finish().await }),
        }
    }

    /// Serves while `body` runs, and ends when it returns: Python's `async with server:`.
    ///
    /// The body runs in the caller's task, so it may borrow from the caller. However it ends, the connections are
    /// drained before `scope` returns. If the body panics, the panic continues after the drain. What a body may return,
    /// and what `scope` then returns, is a table at [`BodyOutput`].
    ///
    /// If something else stops the server, the body runs on during the drain, to watch or to help. If the server closes
    /// first, the body has the rest of the grace period, with a warning in the log after 1 second; then it is dropped.
    /// The rest is at most 8 seconds if the grace period has no limit, and one more poll after a cancel, or if the body
    /// returns `!`. [`Handle::closed`] does not wait for the body.
    ///
    /// # Errors
    ///
    /// - As for [`serve`](Self::serve).
    /// - Kind [`Body`](crate::ErrorKind::Body): the error that the body returned.
    /// - Kind [`Stopped`](crate::ErrorKind::Stopped): the body returns a `Result`, and was dropped before it ended.
    ///
    /// The first failure wins. If a listener or handler has failed before the body ends, a body's error is logged, and
    /// a body's value is dropped. A failure after the body has returned is logged and counted, and the value stands.
    ///
    /// # Panics
    ///
    /// With the body's panic, after the drain.
    ///
    /// # Large bodies
    ///
    /// The body's future is on the heap, so the future of `scope` is small. How large a body may be: see "Large
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
    #[doc(alias = "async_with")]
    #[doc(alias = "nursery")]
    pub async fn scope<H, Fut, B, O, T>(self, handler: H, body: B) -> Result<(T, Report), Error>
    where
        H: Fn(Connection) -> Fut + Send + Sync + 'static, // shared state: move |conn| handler(conn, Arc::clone(&state))
        Fut: Future<Output: HandlerOutput> + Send + 'static,
        B: AsyncFnOnce(Handle) -> O,
        O: BodyOutput<T>,
    {
        let guard = RunGuard::start(self, handler)?;
        let end = guard.drive::<_, O, T>(|| body(guard.handle())).await;
        guard.finish_with::<O, T>(end).await
    }

    /// Adds a task that runs beside the server until its end.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    pub(crate) fn beside(self, task: SideTask) -> Self {
        lock(&self.side_tasks).push(task);
        self
    }

    /// Takes the server apart, to be served.
    fn into_parts(self) -> (Arc<Run>, Config, Vec<ShutdownStream>, Vec<SideTask>) {
        let Self { bound, config, shutdown_streams, side_tasks } = self;
        let streams = shutdown_streams.into_inner().unwrap_or_else(PoisonError::into_inner);
        let side_tasks = std::mem::take(&mut *lock(&side_tasks));
        (bound.served(), config, streams, side_tasks)
    }
}

/// Future that serves: returned by [`Server::serve`].
///
/// Accepting begins with its first poll. The output is the [`Report`], or the [`Error`] that ended the server.
///
/// # Cancel safety
///
/// Dropping it at any time closes the server synchronously.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, Listener, Serve, Server};
///
/// let (listener, _connector) = Listener::memory();
/// let server = Server::new(listener);
/// let handle = server.handle();
/// let serving: Serve = server.serve(async |_: Connection| {});
/// drop(serving);
/// assert_eq!(handle.closed().await.accepted(), 0); // it is closed
/// # });
/// ```
// A named type, and not an async function: so the compiler checks the handler once, and reports an error in it once.
#[must_use = "a server accepts no client before this is awaited, and is closed when it is dropped"]
pub struct Serve {
    /// Its drop closes the server.
    future: Pin<Box<dyn Future<Output = Result<Report, Error>> + Send>>,
    handle: Handle,
    /// How long the server's exit may last by its settings. `None`: no limit.
    allowance: Option<Duration>,
    /// Those of the server, which takes them with the first poll.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    side_tasks: Arc<Mutex<Vec<SideTask>>>,
}

impl Serve {
    /// Returns a handle of the server, as [`Server::handle`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let serving = Server::bind("127.0.0.1:0").await?.serve(async |_: Connection| {});
    /// let handle = serving.handle();
    /// let serving = async_std::task::spawn(serving);
    /// handle.shutdown().await;
    /// assert_eq!(serving.await?.accepted(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(crate) fn allowance(&self) -> Option<Duration> {
        self.allowance
    }

    /// Adds a task that runs beside the server until its end. Before the first poll.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    pub(crate) fn beside(&self, task: SideTask) {
        lock(&self.side_tasks).push(task);
    }
}

impl Future for Serve {
    type Output = Result<Report, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("server", &format_args!("{}", self.handle.run().name)).finish_non_exhaustive()
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

/// Drop guard of a run that is not served yet: its drop closes the run.
///
/// `None` only while the server is taken apart or dropped.
struct Bound(Option<Arc<Run>>);

impl Bound {
    fn run(&self) -> &Arc<Run> {
        self.0.as_ref().expect("the run is there until the server is served or dropped")
    }

    /// Disarms the guard and returns the run, to be served.
    fn served(mut self) -> Arc<Run> {
        self.0.take().expect("the run is there until the server is served or dropped")
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run.cancel(Cause::Dropped);
        }
    }
}
