//! A listener for operators: is the server ready, does it run, what is it doing (feature `admin`).
//!
//! ```no_run
//! use ebbtide::admin::Admin;
//! use ebbtide::{Connection, Server, ServiceGroup, signal};
//! # async fn echo(conn: Connection) {}
//!
//! #[async_std::main]
//! async fn main() -> std::io::Result<()> {
//!     let main = Server::bind("0.0.0.0:8888").await?.name("echo");
//!     let admin = Admin::bind("127.0.0.1:9999").await?.watch(main.handle());
//!     let services = ServiceGroup::new()
//!         .shutdown_on(signal::termination()?)
//!         .server(admin.serve()) // first: it ends last, so it can be asked while the other one drains
//!         .server(main.serve(echo));
//!     println!("{}", services.run().await?);
//!     Ok(())
//! }
//! ```
//!
//! | path | answer |
//! |---|---|
//! | `/ready`, `/readyz` | 200 if all servers are [ready](Handle::is_ready), otherwise 503. For load balancers, and readiness probes of Kubernetes |
//! | `/live`, `/livez` | 200 if the executor of each server runs a task within 2 s, otherwise 503. All are asked at the same time. For liveness probes (Kubernetes waits 1 s, unless `timeoutSeconds` is longer). It is 200 during a drain |
//! | `/metrics` | the numbers of [`Counts`](crate::Counts) and the state of each server, for [Prometheus](https://prometheus.io). [`Admin::add_metrics`] adds those of the program |
//! | `/` | a page that shows it all live: phase, rates, connections and tasks, and what a drain waits for |
//! | `/events` | what the page shows, as server-sent events of JSON, one a second |
//! | `/tree` | [`Handle::task_tree`] as text |
//! | `/connections` | the open connections, the oldest first, as a table, or as JSON if `Accept` has `application/json`. `?limit=N` lists up to N of each server (default: 1,000, at most 10,000) |
//! | `/connections.json` | the same, always as JSON |
//!
//! [`agent_check`] is a handler for HAProxy's agent check, which is not HTTP.
//!
//! `docs/admin.md` in the repository has each metric, three alerts, the fields of the JSON, and what probes need.
//! Numbers of bytes are there with [`Server::count_bytes`].
//!
//! # A server of its own
//!
//! The listener is a [`Server`]: its connections have their own limits, and are not in the numbers of the servers that
//! it watches. It must outlive them: an operator looks at it while they drain. A
//! [`ServiceGroup`](crate::ServiceGroup) stops its services in the right order.
//!
//! It runs on a thread of its own (`ebbtide-admin`). So it answers although all threads of the executor are blocked:
//! `/live` then reports that, and `/tree` shows what was running. The thread ends with the server.
//!
//! # Safety
//!
//! - [`Admin::bind`] listens on loopback addresses only, and [`Admin::bind_unix`] on a socket file that only this user
//!   may open. What other machines can reach ([`Admin::bind_public`]) shows no connections and tasks, but `/ready`,
//!   `/live` and `/metrics` alone, unless [`Admin::show_connections`] is set.
//! - There is no authentication and no encryption: every local process may ask. [`Admin::new`] takes a listener with
//!   TLS; for more put a reverse proxy in front.
//! - GET and HEAD only: nothing can be changed.
//! - The header `Host` must be an address, `localhost`, or a name of [`Admin::allow_host`]. Otherwise a page of
//!   the Web could read the listener through an operator's browser, by a name that resolves to this machine (DNS
//!   rebinding). The answer is 421. On a Unix socket any host is answered.
//! - Text that strangers choose, such as labels and the paths of Unix sockets, is escaped for each format: tables,
//!   JSON, Prometheus's text. The page shows it as text and never as HTML, and its Content-Security-Policy allows no
//!   other script.
//! - At most 64 connections, 16 of them live pages. A client that does not complete a request within 5 s, or whose
//!   unread answer has not moved for 10 s, is disconnected; an idle one after 15 s.
//! - HTTP/1 only: a client of HTTP/2 could keep hundreds of answers waiting on one connection. With TLS leave `h2` out
//!   of the protocols (`TlsFiles::alpn`).
//!
//! # Costs
//!
//! Nothing between requests. A response looks at all connections of the servers: about a millisecond for 10,000.

mod agent_check;
pub(crate) mod host;
mod lists;
mod live;
mod metrics;
mod names;
mod own_thread;
mod probes;
mod service;

use crate::address::Address;
use crate::bind_addrs::ToBindAddrs;
use crate::http::Http;
#[cfg(unix)]
use crate::listener::ListenOptions;
use crate::listener::Listener;
use crate::run::handle::Handle;
use crate::run::name::run_line;
use crate::server::{Serve, Server};
use crate::text::explained;
pub use agent_check::{AgentCheck, agent_check};
use probes::Pulse;
use service::{AdminService, MoreMetrics, Shared};
use std::fmt;
use std::io;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How many connections are accepted at a time.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may be idle: longer than the usual interval of probes (10 s), and as long as that of
/// Prometheus.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long an answer may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Listener for operators, bound and not served yet. See the [module](self).
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::{net::TcpStream, prelude::*};
/// use ebbtide::admin::Admin;
/// use ebbtide::{Connection, Server};
///
/// let main = Server::bind("127.0.0.1:0").await?.name("echo");
/// let admin = Admin::bind("127.0.0.1:0").await?.watch(main.handle());
/// let (address, admin_handle) = (admin.local_addr().tcp()?, admin.handle());
/// let serving = async_std::task::spawn(admin.serve());
/// let (answer, _) = main
///     .scope(async |_: Connection| {}, async |_| {
///         let mut client = TcpStream::connect(address).await?;
///         client.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await?;
///         let mut answer = String::new();
///         client.read_to_string(&mut answer).await?;
///         Ok(answer)
///     })
///     .await?;
/// assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
/// assert!(answer.contains("\r\n\r\nready\n`echo` on 127.0.0.1:"), "{answer}");
/// admin_handle.shutdown().await;
/// serving.await?;
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "health")]
#[doc(alias = "healthz")]
#[doc(alias = "readyz")]
#[doc(alias = "livez")]
#[doc(alias = "prometheus")]
#[doc(alias = "pprof")]
#[doc(alias = "metrics")]
#[doc(alias = "management")]
#[must_use = "an admin listener answers nothing before `serve` is awaited"]
pub struct Admin {
    server: Server,
    watched: Vec<Handle>,
    hosts: Vec<String>,
    /// `None`: only if it is known that no other machine can reach the listener.
    shows_connections: Option<bool>,
    more_metrics: Vec<MoreMetrics>,
}

impl Admin {
    /// Listens on loopback addresses, such as `127.0.0.1:9999` or `localhost:9999`.
    ///
    /// # Errors
    ///
    /// As [`Server::bind`]; and if an address is not a loopback address, so that other machines could reach it.
    ///
    /// # Cancel safety
    ///
    /// As [`Server::bind`].
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    ///
    /// let admin = Admin::bind("localhost:0").await?;
    /// assert!(admin.local_addr().ip().unwrap().is_loopback());
    ///
    /// let error = Admin::bind("0.0.0.0:0").await.unwrap_err();
    /// assert!(error.to_string().contains("other machines can reach it"), "{error}");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn bind(addresses: impl ToBindAddrs) -> io::Result<Self> {
        let admin = Self::bind_public(addresses).await?;
        let public = admin.server.local_addrs().find(|address| !is_private(address)).cloned();
        match public {
            None => Ok(admin),
            Some(address) => Err(explained(
                io::ErrorKind::InvalidInput,
                format_args!(
                    "cannot open the admin listener on `{address}`: other machines can reach it, and it shows the \
                     clients of this one; take a loopback address (`127.0.0.1:{}`), a Unix socket (`Admin::bind_unix`), \
                     or, if that is meant, `Admin::bind_public`",
                    address.port().unwrap_or_default()
                ),
            )),
        }
    }

    /// Listens on addresses that other machines may reach.
    ///
    /// If an address is not a loopback address, only `/ready`, `/live` and `/metrics` are answered, unless
    /// [`show_connections`](Self::show_connections) is set. The probes of Kubernetes need such an address.
    ///
    /// # Errors
    ///
    /// As [`Server::bind`].
    ///
    /// # Cancel safety
    ///
    /// As [`Server::bind`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    ///
    /// let admin = Admin::bind_public("0.0.0.0:9999").await?;
    /// # drop(admin);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn bind_public(addresses: impl ToBindAddrs) -> io::Result<Self> {
        Ok(Self::of(Server::bind(addresses).await?))
    }

    /// Listens on a Unix socket that only this user may connect to (mode 0600).
    ///
    /// With curl: `curl --unix-socket /run/echo/admin.sock http://admin/tree`. Any `Host` is answered.
    ///
    /// # Errors
    ///
    /// As [`Server::bind_unix`].
    ///
    /// # Cancel safety
    ///
    /// As [`Server::bind_unix`].
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    ///
    /// let path = std::env::temp_dir().join(format!("ebbtide-doc-admin-{}.sock", std::process::id()));
    /// let admin = Admin::bind_unix(&path).await?;
    /// assert_eq!(admin.local_addr().path(), Some(&*path));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(unix)]
    pub async fn bind_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::of(Server::bind_unix_with(path, &ListenOptions::new().mode(0o600)).await?))
    }

    /// Creates an admin listener from a listener: inherited, with TLS, in memory, or one of your own.
    ///
    /// It shows connections only if its address is a loopback address or that of a Unix socket, as with
    /// [`bind_public`](Self::bind_public).
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::Listener;
    /// use ebbtide::admin::Admin;
    ///
    /// let (listener, _connector) = Listener::memory();
    /// let admin = Admin::new(listener);
    /// assert_eq!(admin.local_addr().to_string(), "memory");
    /// ```
    pub fn new(listener: Listener) -> Self {
        Self::of(Server::new(listener))
    }

    fn of(server: Server) -> Self {
        let server = server.name("admin").max_connections(MAX_CONNECTIONS).write_timeout(WRITE_TIMEOUT);
        Self { server, watched: Vec::new(), hosts: Vec::new(), shows_connections: None, more_metrics: Vec::new() }
    }

    /// Watches a server. Several can be watched; `/ready` and `/live` are about all of them.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::Server;
    /// use ebbtide::admin::Admin;
    ///
    /// let (http, smtp) = (Server::bind("127.0.0.1:0").await?, Server::bind("127.0.0.1:0").await?);
    /// let admin = Admin::bind("127.0.0.1:0").await?.watch(http.handle()).watch(smtp.handle());
    /// # drop(admin);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn watch(mut self, server: Handle) -> Self {
        self.watched.push(server);
        self
    }

    /// Answers requests for this host, too: its name in URLs, without a port, such as the name of a container or a
    /// service that Prometheus asks by. By default requests must name an address or `localhost`, and others get 421.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    ///
    /// let admin = Admin::bind("127.0.0.1:0").await?.allow_host("admin.example.org");
    /// # drop(admin);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn allow_host(mut self, name: impl Into<String>) -> Self {
        self.hosts.push(name.into());
        self
    }

    /// Sets whether connections and tasks are shown. Default: only if it listens on loopback addresses or Unix sockets.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    ///
    /// let admin = Admin::bind("127.0.0.1:0").await?.show_connections(false); // only `/ready`, `/live`, `/metrics`
    /// # drop(admin);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn show_connections(mut self, shows: bool) -> Self {
        self.shows_connections = Some(shows);
        self
    }

    /// Adds metrics of the program to `/metrics`: the function appends them, in Prometheus's text format.
    ///
    /// The function runs for each request, on the thread of the listener, so it must not block. If it panics, its
    /// metrics are left out, and the panic is logged. All crates for Prometheus write this format:
    /// `prometheus_client::encoding::prometheus_text::encode`, `prometheus::TextEncoder::encode_utf8`,
    /// `PrometheusHandle::render` of metrics-exporter-prometheus.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// static JOBS: AtomicU64 = AtomicU64::new(0);
    ///
    /// let admin = Admin::bind("127.0.0.1:0").await?.add_metrics(|text| {
    ///     text.push_str("# HELP jobs_total Jobs that were done.\n# TYPE jobs_total counter\n");
    ///     text.push_str(&format!("jobs_total {}\n", JOBS.load(Ordering::Relaxed)));
    /// });
    /// # drop(admin);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn add_metrics(mut self, append: impl Fn(&mut String) + Send + Sync + 'static) -> Self {
        self.more_metrics.push(Box::new(append));
        self
    }

    /// Changes the settings of the listener's own server: its limits, its grace, its name, a shutdown stream.
    ///
    /// An [executor](Server::executor) is used only if the listener's own thread cannot be started.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    ///
    /// let admin = Admin::bind("127.0.0.1:0").await?.configure(|server| server.name("health").max_connections(16));
    /// # drop(admin);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn configure(mut self, change: impl FnOnce(Server) -> Server) -> Self {
        self.server = change(self.server);
        self
    }

    /// Returns a handle of the listener's own server.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    ///
    /// let admin = Admin::bind("127.0.0.1:0").await?;
    /// let handle = admin.handle();
    /// let serving = async_std::task::spawn(admin.serve());
    /// handle.shutdown().await;
    /// assert_eq!(serving.await?.accepted(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn handle(&self) -> Handle {
        self.server.handle()
    }

    /// Returns the address that it listens on.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    ///
    /// let admin = Admin::bind("127.0.0.1:0").await?;
    /// println!("http://{}/", admin.local_addr());
    /// # assert_ne!(admin.local_addr().port(), Some(0));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn local_addr(&self) -> &Address {
        self.server.local_addr()
    }

    /// Answers requests until a shutdown is requested: by a [handle](Self::handle), or by the
    /// [`ServiceGroup`](crate::ServiceGroup) that it is given to. Live pages then get a last event, and end.
    ///
    /// # Errors
    ///
    /// As [`Server::serve`].
    ///
    /// # Cancel safety
    ///
    /// As [`Server::serve`]: if the future is dropped, the listener is closed.
    ///
    /// # Examples
    ///
    /// See [`Admin`].
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::admin::Admin;
    ///
    /// let admin = Admin::bind("127.0.0.1:0").await?;
    /// let handle = admin.handle();
    /// let serving = admin.serve();
    /// # handle.shutdown();
    /// let report = serving.await?;
    /// # assert_eq!(report.accepted(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn serve(self) -> Serve {
        let is_private = self.server.local_addrs().all(is_private);
        let service = AdminService(Arc::new(Shared {
            pulses: self.watched.iter().cloned().map(Pulse::new).collect(),
            watched: self.watched,
            hosts: self.hosts,
            shows_connections: self.shows_connections.unwrap_or(is_private),
            more_metrics: self.more_metrics,
            pages: Arc::default(),
        }));
        let server = match own_thread::executor() {
            Ok(executor) => self.server.executor(executor),
            Err(error) => {
                let handle = self.server.handle();
                let run = handle.run();
                run_line!(
                    warn,
                    run,
                    [],
                    "cannot start a thread for the admin listener: {error}; it runs on the usual executor, and cannot \
                     answer while that is blocked"
                );
                self.server
            }
        };
        // Not HTTP/2: there a client could leave hundreds of answers unread, and nothing limits the time of one.
        let http = Http::new().http1_only().header_timeout(HEADER_TIMEOUT).keep_alive_timeout(KEEP_ALIVE);
        server.serve(http.handler(service))
    }
}

/// Returns whether it is known that no other machine can reach an address.
fn is_private(address: &Address) -> bool {
    address.is_unix() || address.ip().is_some_and(|ip| ip.to_canonical().is_loopback())
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("server", &self.server).field("watched", &self.watched).finish_non_exhaustive()
    }
}
