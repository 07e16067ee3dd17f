//! The settings of a [`Server`], and the defaults with their reasons.

use super::Server;
use super::shutdown::{Once, shutdown_stream};
use crate::connection::open::Limits;
use crate::connection::task::Policy;
use crate::error::OnFailure;
use crate::group::{Executor, Job};
use crate::run::event::Event;
use crate::run::record::Watch;
use crate::signal::Trigger;
use futures_lite::Stream;
use std::borrow::Cow;
use std::future::Future;
use std::sync::PoisonError;
use std::time::Duration;

/// How long a drain may last. It ends inside Docker's 10 seconds and Kubernetes' 30: so this crate cancels the
/// remaining handlers before a SIGKILL ends the whole process.
pub(crate) const GRACE: Duration = Duration::from_secs(8);

/// Upper bound for the grace of one connection's drain: a year, which is as good as no limit, and can be added to any
/// `Instant` without overflow.
const LONGEST_OWN_GRACE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long a connection is a newcomer: its client is about to send.
const NEWCOMER_TIME: Duration = Duration::from_millis(500);

/// How long a peer may leave data on its way to it unacknowledged. A live peer whose receive window is closed
/// acknowledges the kernel's window probes, which are at most 2 minutes apart.
const ACK_TIMEOUT: Duration = Duration::from_secs(300);

/// How long tasks may run on when their handler has returned. Without this time their last bytes would be lost
/// silently, which is hard to find; a late end is bounded, and logged. With the whole grace instead, a task that never
/// ends, such as a heartbeat, would delay each exit by it.
const TASK_GRACE: Duration = Duration::from_secs(1);

/// A server's settings, frozen when it is served. (The connection limits are not here but in the run, because they can
/// be changed while it serves.)
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// How long a drain may last. `None`: no limit.
    pub(crate) grace: Option<Duration>,
    /// How long clients are still accepted after the request. Zero by default: the right value is the time that the
    /// load balancer takes to notice.
    pub(crate) lame_duck: Duration,
    /// Over how long a drain notifies its handlers.
    pub(crate) drain_spread: Duration,
    /// The settings that each connection needs.
    pub(crate) policy: Policy,
}

impl Config {
    /// Returns how long an exit may last: lame duck and grace. `None`: no limit.
    pub(crate) fn allowance(&self) -> Option<Duration> {
        self.grace.map(|grace| grace.saturating_add(self.lame_duck))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grace: Some(GRACE),
            lame_duck: Duration::ZERO,
            drain_spread: Duration::ZERO,
            policy: Policy {
                on_failure: OnFailure::default(),
                opening: Limits::default(),
                idle_timeout: None,
                write_timeout: None,
                ack_timeout: Some(ACK_TIMEOUT),
                max_age: None,
                own_grace: GRACE,
                newcomer_time: NEWCOMER_TIME,
                task_grace: TASK_GRACE,
                watch: Watch::default(),
            },
        }
    }
}

/// # Settings
///
/// Each method takes the server and returns it. The settings are frozen once the server serves.
impl Server {
    /// Sets the executor on which the server runs.
    ///
    /// `executor` is called with each [`Job`], and hands it to something that polls it to its end. It must not do that
    /// itself: a `block_on(job)` inside the call would hold up the server. To use tokio, capture a
    /// `tokio::runtime::Handle`, not the runtime: a job must not be the last owner of the runtime that runs it.
    ///
    /// Everything of the server runs there: accept loops, handlers, the tasks of
    /// [`Connection::spawn`](crate::Connection::spawn) and [`Handle::spawn`](crate::Handle::spawn), and the groups and
    /// servers that these make. The future of [`serve`](Self::serve) and the body of a [`scope`](Self::scope) stay
    /// where they are awaited.
    ///
    /// Default: if the server is made inside such a job, the executor of that job; otherwise async-std's, or smol's if
    /// only the feature `smol` is on. Call this right after the bind: tasks that were spawned before stay where they
    /// are.
    ///
    /// Sockets and timers need no runtime: they are async-io's, which has a thread of its own. On tokio's executor a
    /// handler can use tokio's timers, `spawn` and I/O, because tokio polls it. The guarantees do not depend on the
    /// executor: dropping the future of `serve` destroys the handlers even if the executor does not run.
    ///
    /// If the executor drops a job before its end, for example because its runtime shuts down, or if `executor` panics,
    /// the child is cancelled and its connection is closed. If that child is one that the server needs (an accept loop,
    /// the supervisor, a shutdown stream), the server closes, and `serve` returns an error of kind
    /// [`NoExecutor`](crate::ErrorKind::NoExecutor).
    ///
    /// # Examples
    ///
    /// On tokio:
    ///
    /// ```
    /// use ebbtide::{Connection, Listener, Server};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (listener, connector) = Listener::memory();
    /// let handler = async |_: Connection| tokio::time::sleep(Duration::from_millis(1)).await;
    /// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// runtime.block_on(async {
    ///     let tokio = tokio::runtime::Handle::current();
    ///     let server = Server::new(listener).executor(move |job| drop(tokio.spawn(job)));
    ///     let (_, report) = server.scope(handler, async |_| Ok(drop(connector.connect().await?))).await?;
    ///     assert_eq!(report.accepted(), 1);
    ///     Ok(())
    /// })
    /// # }
    /// ```
    #[doc(alias = "runtime")]
    #[doc(alias = "tokio")]
    #[doc(alias = "smol")]
    pub fn executor(self, executor: impl Fn(Job) + Send + Sync + 'static) -> Self {
        self.bound.run().set_executor(Executor::new(executor));
        self
    }

    /// Sets the server's name in log lines, for a process with several servers.
    ///
    /// Default: its first address.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, _connector) = Listener::memory();
    /// let (names, seen) = async_std::channel::unbounded();
    /// let server = Server::new(listener)
    ///     .name("echo")
    ///     .on_event(move |event| drop(names.try_send(event.server_name())));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(seen.recv().await, Ok("echo".to_owned()));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn name(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.bound.run().name.give(&name.into());
        self
    }

    /// Sets how long a drain may last before the remaining handlers are cancelled.
    ///
    /// A `Duration`, or `None` for no limit. Zero cancels at once. Default: 8 seconds, which ends inside Docker's 10
    /// seconds and Kubernetes' 30.
    ///
    /// # Examples
    ///
    /// A handler that ignores the drain is cancelled:
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let stubborn = async |_: Connection| std::future::pending::<()>().await;
    /// let (_client, report) = Server::new(listener)
    ///     .grace(Duration::from_millis(10))
    ///     .scope(stubborn, async |_| Ok(connector.connect().await?))
    ///     .await?;
    /// assert_eq!(report.cancelled(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "graceful_shutdown")]
    #[doc(alias = "graceful_timeout")]
    #[doc(alias = "shutdown_timeout")]
    #[doc(alias = "grace_period")]
    pub fn grace(
        mut self,
        grace: impl Into<Option<Duration>>, // such as `Duration::from_secs(8)`; `None`: no limit
    ) -> Self {
        self.config.grace = grace.into();
        self.config.policy.own_grace = self.config.grace.map_or(GRACE, |grace| grace.min(LONGEST_OWN_GRACE));
        self
    }

    /// Sets how long clients are still accepted after a shutdown was requested (the *lame duck* phase).
    ///
    /// [`Handle::is_ready`](crate::Handle::is_ready) is already false then, so this is the time in which a load
    /// balancer can notice. Default: zero, no such phase. A second request (`shutdown`, or another stream) skips the
    /// rest of it; the return of a [scope](Self::scope)'s body does not.
    ///
    /// The whole exit has one deadline, which is fixed at the request: lame duck plus [grace](Self::grace).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let server = Server::new(listener).lame_duck(Duration::from_millis(20));
    /// let (is_ready, report) = server
    ///     .scope(async |_: Connection| {}, async |server| {
    ///         server.shutdown();
    ///         connector.connect().await?; // still accepted
    ///         Ok(server.is_ready())
    ///     })
    ///     .await?;
    /// assert!(!is_ready);
    /// assert_eq!(report.accepted(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "preStop")]
    #[doc(alias = "readiness")]
    pub fn lame_duck(mut self, duration: Duration) -> Self {
        self.config.lame_duck = duration;
        self
    }

    /// Sets how long a connection is a *newcomer*, which is notified of a drain later than the others.
    ///
    /// A client that has just connected is about to send, and should get an answer and not EOF. A newcomer is a
    /// connection from which the handler has read no byte yet. Its handler is notified of a drain with its first read,
    /// or when this time is over, counted from the accept or from the end of the handshake. A greeting that the server
    /// sends does not end it.
    ///
    /// Default: 500 milliseconds, but never more than a quarter of what is left of the [grace period](Self::grace).
    /// Zero switches it off.
    ///
    /// An exit with a silent newcomer takes this much longer. Outside of a drain it costs nothing. Until the newcomer
    /// is notified its own [`Connection::is_draining`](crate::Connection::is_draining) is false, although the server's
    /// [phase](crate::Handle::phase) is `Draining`.
    ///
    /// When a new process takes over the address of an old one, this keeps the restart from losing the clients that
    /// connect at that moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let (_client, report) = Server::new(listener)
    ///     .newcomer_time(Duration::ZERO) // a silent client does not delay the exit
    ///     .scope(async |conn: Connection| conn.draining().await, async |_| Ok(connector.connect().await?))
    ///     .await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn newcomer_time(mut self, time: Duration) -> Self {
        self.config.policy.newcomer_time = time;
        self
    }

    /// Sets how long the tasks of a connection may run on after its handler has returned.
    ///
    /// These are the tasks of [`Connection::spawn`](crate::Connection::spawn), and this is their time to finish what
    /// they write. Default: 1 second, and never beyond the deadline of a shutdown. Zero cancels them at once.
    ///
    /// Tasks that still run then are cancelled. A warning names the line of code that spawned them, once for each line,
    /// and [`Report::undelivered`](crate::Report::undelivered) counts.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let leaves_a_task = async |conn: Connection| drop(conn.spawn(std::future::pending::<()>()));
    /// let (_client, report) = Server::new(listener)
    ///     .task_grace(Duration::from_millis(10))
    ///     .scope(leaves_a_task, async |_| Ok(connector.connect().await?))
    ///     .await?;
    /// assert_eq!((report.completed(), report.undelivered()), (1, 1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn task_grace(mut self, time: Duration) -> Self {
        self.config.policy.task_grace = time;
        self
    }

    /// Sets how many connections may be open at a time; further clients wait in the backlog.
    ///
    /// A connection that lingers counts. The limit can be changed while the server serves:
    /// [`Handle::set_max_connections`](crate::Handle::set_max_connections).
    ///
    /// Default: the soft limit on open files, minus a part for the rest of the program (a tenth, at least 64, at most
    /// half), so that accepting never runs out of descriptors. (A clone of a connection that a detached task keeps
    /// holds a descriptor, but no permit.) Two servers of one process share its table of open files: give each its own
    /// limit.
    ///
    /// A server that is shut down while it is full closes the clients in the backlog unserved. They count as
    /// [`refused`](crate::Report::refused), and a warning has their number.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # use async_std::io::{ReadExt, WriteExt};
    /// let greet = async |mut conn: Connection| -> std::io::Result<()> {
    ///     conn.write_all(b"hello").await?;
    ///     conn.peer_closed().await;
    ///     Ok(())
    /// };
    /// let ((), report) = Server::new(listener)
    ///     .max_connections(1)
    ///     .scope(greet, async |server| {
    ///         let (mut first, mut second) = (connector.connect().await?, connector.connect().await?);
    ///         first.read_exact(&mut [0; 5]).await?;
    ///         assert_eq!(server.connection_count(), 1); // the second client waits in the backlog
    ///         drop(first);
    ///         second.read_exact(&mut [0; 5]).await?;
    ///         Ok(())
    ///     })
    ///     .await?;
    /// assert_eq!(report.completed(), 2);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "LimitListener")]
    #[doc(alias = "semaphore")]
    pub fn max_connections(self, max: usize) -> Self {
        self.bound.run().limit.set_max(max);
        self
    }

    /// Sets how many connections one client may have at a time.
    ///
    /// One more is closed at once and counted as [`refused`](crate::Report::refused). Default: no limit.
    ///
    /// A client is an IPv4 address (even if it connects to an IPv6 socket), or an IPv6 network of the size that
    /// [`ipv6_prefix`](Self::ipv6_prefix) sets: a client with IPv6 can choose from at least 2^64 addresses.
    ///
    /// Behind a proxy all clients have the proxy's address, and would be counted together. If the proxy names them
    /// (`ProxyProtocol`, feature `proxy-protocol`), each of their addresses is counted on its own once the proxy's
    /// header has been read. A connection above the limit is closed then, before its handler is called, and counted as
    /// [`rejected`](crate::Counts::rejected), because it was accepted.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{net::TcpStream, prelude::*};
    /// # use ebbtide::{Connection, Server};
    /// let (_, report) = Server::bind("127.0.0.1:0")
    ///     .await?
    ///     .max_connections_per_ip(1)
    ///     .scope(async |conn: Connection| conn.peer_closed().await, async |server| {
    ///         let first = TcpStream::connect(server.local_addr().tcp()?).await?;
    ///         let mut second = TcpStream::connect(server.local_addr().tcp()?).await?;
    ///         assert_eq!(second.read(&mut [0]).await?, 0); // EOF: it was refused
    ///         drop(first);
    ///         Ok(())
    ///     })
    ///     .await?;
    /// assert_eq!((report.accepted(), report.refused()), (1, 1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "limit_conn")]
    pub fn max_connections_per_ip(self, max: usize) -> Self {
        self.bound.run().limit.set_max_per_client(max);
        self
    }

    /// Sets how many bits of an IPv6 address identify a client, for
    /// [`max_connections_per_ip`](Self::max_connections_per_ip).
    ///
    /// Default: 64, the smallest network that a subscriber gets. 56 or 48 count a site with many such networks as one
    /// client. 128, and every larger number, counts each address on its own.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?.max_connections_per_ip(20).ipv6_prefix(56);
    /// let (_, report) = server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.refused(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn ipv6_prefix(self, bits: u8) -> Self {
        self.bound.run().limit.set_ipv6_prefix(bits);
        self
    }

    /// Sets how long a client may be silent before its first byte.
    ///
    /// A `Duration`, or `None` for no limit. Default: no limit. In a drain it is at most 1 second, or 2 if bytes
    /// have arrived that were not read yet. A client that sends
    /// nothing in this time is closed and counted as [`rejected`](crate::Counts::rejected), and no handler is called.
    /// The first byte is not consumed: the handler reads it.
    ///
    /// Not for protocols in which the server speaks first. (Go's `ReadHeaderTimeout` is similar.)
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::io::ReadExt;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let (_, report) = Server::new(listener)
    ///     .first_byte_timeout(Duration::from_millis(10))
    ///     .scope(async |_: Connection| {}, async |_| {
    ///         let mut silent = connector.connect().await?;
    ///         assert_eq!(silent.read(&mut [0]).await?, 0); // EOF
    ///         Ok(())
    ///     })
    ///     .await?;
    /// assert_eq!(report.rejected(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "ReadHeaderTimeout")]
    #[doc(alias = "TCP_DEFER_ACCEPT")]
    pub fn first_byte_timeout(
        mut self,
        timeout: impl Into<Option<Duration>>, // such as `Duration::from_secs(30)`; `None`: no limit
    ) -> Self {
        self.config.policy.opening.first_byte = timeout.into();
        self
    }

    /// Sets how long a client may take for its TLS handshake (feature `tls`).
    ///
    /// A `Duration`, or `None` for no limit. Default: 10 seconds. In a drain it is at most 1 second, or 2 if bytes
    /// have arrived that were not read yet. A client that
    /// takes longer is closed and counted as [`rejected`](crate::Counts::rejected), and no handler is called.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Server};
    /// # use std::time::Duration;
    /// let server = Server::bind("127.0.0.1:0").await?.handshake_timeout(Duration::from_secs(5));
    /// let (_, report) = server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.rejected(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "tls")]
    pub fn handshake_timeout(
        mut self,
        timeout: impl Into<Option<Duration>>, // such as `Duration::from_secs(10)`; `None`: no limit
    ) -> Self {
        self.config.policy.opening.handshake = timeout.into();
        self
    }

    /// Sets how long a connection may be idle: no byte in either direction.
    ///
    /// A `Duration`, or `None` for no limit. Default: no limit. After this time the connection is closed, its handler
    /// is dropped, and it is counted as [`disconnected`](crate::Counts::disconnected). So idle clients cannot fill
    /// [`max_connections`](Self::max_connections) forever.
    ///
    /// A handler that works for longer than this without reading or writing is ended too. The bytes of a TLS handshake
    /// do not count, so set it longer than a handshake takes.
    ///
    /// If the time is over while bytes of the client are still unread in the socket, the handler gets another second to
    /// read them: they may have arrived in time, while the process was stopped. The limits on the first byte, on a
    /// handshake and on HTTP do the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::io::ReadExt;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let (_, report) = Server::new(listener)
    ///     .idle_timeout(Duration::from_millis(10))
    ///     .scope(async |conn: Connection| conn.peer_closed().await, async |_| {
    ///         let mut idle = connector.connect().await?;
    ///         assert_eq!(idle.read(&mut [0]).await?, 0); // EOF
    ///         Ok(())
    ///     })
    ///     .await?;
    /// assert_eq!(report.disconnected(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "IdleTimeout")]
    #[doc(alias = "SetDeadline")]
    #[doc(alias = "read_timeout")]
    pub fn idle_timeout(
        mut self,
        timeout: impl Into<Option<Duration>>, // such as `Duration::from_secs(60)`; `None`: no limit
    ) -> Self {
        self.config.policy.idle_timeout = timeout.into();
        self.config.policy.watch.set(Watch::IDLE, self.config.policy.idle_timeout.is_some());
        self
    }

    /// Sets how long a write may wait while the peer accepts no bytes.
    ///
    /// A `Duration`, or `None` for no limit. Default: no limit, because a client that reads nothing for long may be
    /// busy or paused. After this time, at the latest after twice this time, the connection is closed, its handler is
    /// dropped, and it is counted as [`disconnected`](crate::Counts::disconnected). It ends peers that take a byte a
    /// minute, which the [`idle_timeout`](Self::idle_timeout) does not end.
    ///
    /// The kernel buffers some megabytes before a write waits, and reports room again when a third of that is free. So
    /// a slow peer that does read may need many seconds between two steps.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::io::WriteExt;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let send_much = async |mut conn: Connection| conn.write_all(&[0; 1_000_000]).await;
    /// let (_reads_nothing, report) = Server::new(listener)
    ///     .write_timeout(Duration::from_millis(10))
    ///     .scope(send_much, async |_| Ok(connector.connect().await?))
    ///     .await?;
    /// assert_eq!(report.disconnected(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "WriteTimeout")]
    #[doc(alias = "SetWriteDeadline")]
    #[doc(alias = "SO_SNDTIMEO")]
    pub fn write_timeout(
        mut self,
        timeout: impl Into<Option<Duration>>, // such as `Duration::from_secs(60)`; `None`: no limit
    ) -> Self {
        self.config.policy.write_timeout = timeout.into();
        self.config.policy.watch.set(Watch::WRITES, self.config.policy.write_timeout.is_some());
        self
    }

    /// Sets how long a peer may leave data on its way to it unacknowledged before it counts as vanished.
    ///
    /// A `Duration`, or `None` for no limit. Default: 5 minutes. A peer vanishes when a cable is cut or its machine
    /// loses power. The connection is closed, its handler is dropped, and it is counted as
    /// [`disconnected`](crate::Counts::disconnected). Connections are checked once a minute, or every fifth of a
    /// shorter time. For TCP, and TLS over it, on Linux; elsewhere only the kernel's own limit holds, about 15 minutes.
    ///
    /// [`Keepalive`](crate::Keepalive) finds peers that vanish while nothing is on its way to them, and does not work
    /// while something is. Neither ends a live client that reads nothing: its kernel acknowledges the window probes of
    /// this machine's, at most 2 minutes apart. A time below 3 minutes therefore also ends such clients, as
    /// `TCP_USER_TIMEOUT` does.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Server};
    /// # use std::time::Duration;
    /// let server = Server::bind("127.0.0.1:0").await?.ack_timeout(Duration::from_secs(10 * 60));
    /// let (_, report) = server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.disconnected(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "TCP_USER_TIMEOUT")]
    pub fn ack_timeout(
        mut self,
        timeout: impl Into<Option<Duration>>, // such as `Duration::from_secs(300)`; `None`: no limit
    ) -> Self {
        self.config.policy.ack_timeout = timeout.into();
        self
    }

    /// Sets how old a connection may become before it is drained.
    ///
    /// A `Duration`, or `None` for no limit. Default: no limit. Only this connection is drained: its handler is
    /// notified as in a shutdown ([`Connection::until_draining`](crate::Connection::until_draining),
    /// [`more`](crate::Connection::more)), has the [grace period](Self::grace) (8 seconds if that has no limit), and is
    /// then cut, with a warning. The age of each connection varies by up to a tenth, so that clients that connected
    /// together do not have to reconnect together.
    ///
    /// It is for clients behind a load balancer: they reconnect, and reach the instance that has the fewest
    /// connections. Counted from the accept, for every protocol, upgraded connections included. (gRPC's
    /// `MAX_CONNECTION_AGE` and its grace.)
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::io::ReadExt;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let (_, report) = Server::new(listener)
    ///     .max_connection_age(Duration::from_millis(10))
    ///     .scope(async |conn: Connection| conn.draining().await, async |_| {
    ///         let mut client = connector.connect().await?;
    ///         assert_eq!(client.read(&mut [0]).await?, 0); // EOF
    ///         Ok(())
    ///     })
    ///     .await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "max_connection_lifetime")]
    #[doc(alias = "MaxConnectionAge")]
    pub fn max_connection_age(
        mut self,
        age: impl Into<Option<Duration>>, // such as `Duration::from_secs(3600)`; `None`: no limit
    ) -> Self {
        self.config.policy.max_age = age.into();
        self
    }

    /// Sets over how long a drain notifies its handlers.
    ///
    /// Default: zero, all at once. Otherwise evenly over this time, the oldest connection first, so that thousands of
    /// clients do not reconnect at the same moment. Never more than half of what is left of the
    /// [grace period](Self::grace).
    ///
    /// The listeners are still closed at once. A drain with idle clients takes this much longer. A connection
    /// that has not been notified yet works as before. (HAProxy's `close-spread-time`.)
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// let (_client, report) = Server::new(listener)
    ///     .drain_spread(Duration::from_millis(10))
    ///     .newcomer_time(Duration::ZERO)
    ///     .scope(async |conn: Connection| conn.draining().await, async |_| Ok(connector.connect().await?))
    ///     .await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "close-spread-time")]
    #[doc(alias = "jitter")]
    pub fn drain_spread(mut self, time: Duration) -> Self {
        self.config.drain_spread = time;
        self
    }

    /// Calls a function with each event of the server, for metrics, an access log, or a test.
    ///
    /// The events: a connection is accepted, or has ended, with the reason, its age, and its bytes if they are
    /// [counted](Self::count_bytes); a client is refused; a phase begins. It costs nothing if it is not set. It can be
    /// set several times: the functions are called in that order.
    ///
    /// The function is called from the accept loop, from the connections' tasks, and from the task that carries out a
    /// shutdown. They all wait for it: keep it short, never block, and send longer work to a channel. Its panic is
    /// caught, and the first one is logged. It is dropped once the server is closed.
    ///
    /// The end of a connection is reported when it is closed, after its last bytes;
    /// [`Handle::counts`](crate::Handle::counts) counts it when its handler ends.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, EventKind, Listener, Server};
    /// # use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    /// # let (listener, connector) = Listener::memory();
    /// let ended = Arc::new(AtomicU64::new(0));
    /// let counter = Arc::clone(&ended);
    /// let server = Server::new(listener).on_event(move |event| {
    ///     if event.kind() == EventKind::Ended {
    ///         counter.fetch_add(1, Ordering::Relaxed);
    ///         println!("{event}"); // connection 0 from memory:0 ended after 1.5s: completed
    ///     }
    /// });
    /// server.scope(async |_: Connection| {}, async |_| Ok(connector.connect().await?)).await?;
    /// assert_eq!(ended.load(Ordering::Relaxed), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "metrics")]
    #[doc(alias = "ConnState")]
    #[doc(alias = "access_log")]
    pub fn on_event(self, observe: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.bound.run().observer.add(Box::new(observe));
        self
    }

    /// Sets whether the bytes that each handler reads and writes are counted.
    ///
    /// They are shown by [`ConnectionInfo`](crate::ConnectionInfo) and by [events](Self::on_event). Default: `false`,
    /// which saves some time with each read and write.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::io::WriteExt;
    /// # use ebbtide::{Connection, EventKind, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// let (bytes, written) = async_std::channel::unbounded();
    /// let server = Server::new(listener).count_bytes(true).on_event(move |event| {
    ///     if event.kind() == EventKind::Ended {
    ///         drop(bytes.try_send(event.bytes_written()));
    ///     }
    /// });
    /// let greet = async |mut conn: Connection| conn.write_all(b"hello").await;
    /// server.scope(greet, async |_| Ok(connector.connect().await?)).await?;
    /// assert_eq!(written.recv().await, Ok(Some(5)));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn count_bytes(mut self, count: bool) -> Self {
        self.config.policy.watch.set(Watch::BYTES, count);
        self
    }

    /// Sets what the failure of a handler means for the server.
    ///
    /// Default: [`OnFailure::Isolate`], the other connections are not affected.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, ErrorKind, Listener, OnFailure, Server};
    /// # let (listener, connector) = Listener::memory();
    /// let error = Server::new(listener)
    ///     .on_failure(OnFailure::Shutdown)
    ///     .scope(async |_: Connection| Err::<(), _>("the disk is full"), async |server| {
    ///         connector.connect().await?;
    ///         Ok(server.closed().await)
    ///     })
    ///     .await
    ///     .unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Handler);
    /// # });
    /// ```
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.config.policy.on_failure = on_failure;
        self
    }

    /// Stops the server on the items of a stream: the first shuts down gracefully, the second cancels.
    ///
    /// The items are signals ([`signal::termination`](crate::signal::termination)), or `()` from any other stream
    /// (`stream.map(|_| ())`). The method can be called several times; each stream counts its own items. The stream is
    /// polled while the server serves, in a task of its own. A stream that ends without an item does nothing.
    ///
    /// `termination` returns a `Result`, so write `shutdown_on(signal::termination()?)`. For a future there is
    /// [`shutdown_when`](Self::shutdown_when).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> std::io::Result<()> {
    /// use ebbtide::{Connection, Server, signal};
    ///
    /// let signals = signal::termination()?; // before the bind: a signal that arrives in between is remembered
    /// Server::bind("127.0.0.1:8888").await?.shutdown_on(signals).serve(|_: Connection| async {}).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Any stream of `()`, here a channel:
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Cause, Connection, Listener, Server};
    /// # let (listener, _connector) = Listener::memory();
    /// let (stop, requests) = async_std::channel::unbounded();
    /// let serving = Server::new(listener).shutdown_on(requests).serve(async |_: Connection| {});
    /// stop.send(()).await.unwrap();
    /// assert_eq!(serving.await?.cause(), Cause::Stream);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "graceful_shutdown")]
    #[doc(alias = "with_graceful_shutdown")]
    #[doc(alias = "ctrl_c")]
    #[doc(alias = "SIGTERM")]
    #[doc(alias = "NotifyContext")]
    pub fn shutdown_on<S>(mut self, stream: S) -> Self
    where
        S: Stream<Item: Trigger> + Send + 'static, // `signal::termination()` is a `Result`: add `?`
    {
        self.shutdown_streams.get_mut().unwrap_or_else(PoisonError::into_inner).push(shutdown_stream(stream));
        self
    }

    /// Shuts the server down gracefully when a future is ready.
    ///
    /// The future is polled while the server serves, in a task of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Cause, Connection, Server};
    /// use std::time::Duration;
    ///
    /// let report = Server::bind("127.0.0.1:0")
    ///     .await?
    ///     .shutdown_when(async_std::task::sleep(Duration::from_millis(10)))
    ///     .serve(async |_: Connection| {})
    ///     .await?;
    /// assert_eq!(report.cause(), Cause::Stream);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "graceful_shutdown")]
    #[doc(alias = "with_graceful_shutdown")]
    #[doc(alias = "CancellationToken")]
    pub fn shutdown_when<F>(self, future: F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shutdown_on(Once::new(future))
    }
}
