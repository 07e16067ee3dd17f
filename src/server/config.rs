//! The settings of a [`Server`], and the defaults with their reasons.

use super::Server;
use super::shutdown::Once;
use crate::connection::open::Limits;
use crate::connection::task::Policy;
use crate::error::OnFailure;
use crate::panic::Kept;
use crate::run::event::Event;
use crate::run::record::Watch;
use crate::signal::sealed::Trigger as _;
use crate::signal::{Signals, Trigger};
use async_std::stream::{Stream, StreamExt};
use std::any::Any;
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::time::Duration;

/// How long a drain may last. Ends inside Docker's 10 seconds and Kubernetes' 30, so that what is left is cancelled by
/// us, and not the whole process by SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_secs(8);

/// Of the drain of one connection: as good as none, and a time that can be added to any other.
const LONGEST_OWN_GRACE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long a connection is a newcomer: the client is about to send.
const NEWCOMER_TIME: Duration = Duration::from_millis(500);

/// How long a peer may acknowledge nothing of what is on its way to it. A live one whose window is shut acknowledges
/// the kernel's probes, which are at most 2 minutes apart.
const ACK_TIMEOUT: Duration = Duration::from_secs(300);

/// How long tasks may go on when their handler has returned. A loss cannot be found, and a late end is bounded and
/// seen; with the whole grace, a heartbeat would hold each exit for it.
const TASK_GRACE: Duration = Duration::from_secs(1);

/// A server's settings. Its limits can be changed while it serves, and live with the run.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// `None`: no limit.
    pub(crate) grace: Option<Duration>,
    /// None by default: set it to the time that the load balancer takes to notice.
    pub(crate) lame_duck: Duration,
    pub(crate) drain_spread: Duration,
    pub(crate) policy: Policy,
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

/// # Config
///
/// Each takes the server and gives it back. They are frozen when it is served.
impl Server {
    /// Sets what the server is called in log lines, where a process has several. Default: its first address.
    pub fn name(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.bound.run().name.give(&name.into());
        self
    }

    /// Sets how long a drain may last before what is left of it is cancelled: a `Duration`, or `None` for no limit.
    /// Zero cancels at once. Default: 8 seconds, which ends inside Docker's 10 seconds and Kubernetes' 30.
    #[doc(alias = "graceful_shutdown")]
    pub fn grace(mut self, grace: impl Into<Option<Duration>>) -> Self {
        self.config.grace = grace.into();
        self.config.policy.own_grace = self.config.grace.map_or(GRACE, |grace| grace.min(LONGEST_OWN_GRACE));
        self
    }

    /// Sets how long clients are still accepted after a shutdown was requested, while
    /// [`Handle::is_ready`](crate::Handle::is_ready) is already false: the time that a load balancer takes to notice.
    /// Default: 0. A second request (`shutdown`, or another stream) skips the rest of it.
    ///
    /// There is one deadline for the whole exit, fixed at the request: lame duck plus grace.
    pub fn lame_duck(mut self, duration: Duration) -> Self {
        self.config.lame_duck = duration;
        self
    }

    /// Sets how long a connection is a *newcomer*: a client that has just connected is about to send, and should get an
    /// answer, not an end. The handler of a newcomer, of which it has read no byte yet, is notified of a drain with its
    /// first read, or when this time is over, counted from the accept or from the end of the handshake. A greeting
    /// that the server sends does not end it. Default: 500 milliseconds; never more than a quarter of what is left of
    /// the grace period. Zero switches it off.
    ///
    /// An exit with a silent newcomer lasts so much longer; there is no cost outside a drain. Until it is notified its
    /// own [`Connection::is_draining`](crate::Connection::is_draining) is false, although the server's
    /// [phase](crate::Handle::phase) is `Draining`.
    ///
    /// Between two generations of a server on one address this is what keeps the restart from losing the clients that
    /// connect in its moment.
    pub fn newcomer_time(mut self, time: Duration) -> Self {
        self.config.policy.newcomer_time = time;
        self
    }

    /// Sets how long the tasks of a connection ([`Connection::spawn`](crate::Connection::spawn)) may go on when its
    /// handler has returned, so that they can finish what they write. Default: 1 second, and never beyond the deadline
    /// of a shutdown. What is left then is cancelled, with a warning that names the line that spawned it, once for each
    /// line; [`Report::undelivered`](crate::Report::undelivered) counts. Zero cancels at once.
    pub fn task_grace(mut self, time: Duration) -> Self {
        self.config.policy.task_grace = time;
        self
    }

    /// Sets how many connections there may be at a time; the kernel queues further clients. A connection that
    /// lingers counts. Can be changed while serving:
    /// [`Handle::set_max_connections`](crate::Handle::set_max_connections).
    ///
    /// A server that is shut down while it is full closes the queued clients unserved. They count as
    /// [`refused`](crate::Report::refused), and a warning has their number.
    ///
    /// Default: the soft limit on open files, less what is left to the rest of the program (a tenth, at least 64, at
    /// most half), so that accepting never runs out of descriptors. (A clone of a connection that a detached task keeps
    /// holds a descriptor, and no permit.) Two servers of one process share its table of open files:
    /// give each a limit of its own.
    pub fn max_connections(self, max: usize) -> Self {
        self.bound.run().limit.set_max(max);
        self
    }

    /// Sets how many connections there may be from one client at a time; one more is closed at once and counted as
    /// [`refused`](crate::Report::refused). Default: no limit.
    ///
    /// A client is an IPv4 address (also where it comes to an IPv6 socket), or an IPv6 network of the size that
    /// [`ipv6_prefix`](Self::ipv6_prefix) says: a client with IPv6 has at least 2^64 addresses to choose from.
    ///
    /// Behind a proxy all clients have the proxy's address, and would be counted together. If the proxy names them
    /// (`ProxyProtocol`, feature `proxy-protocol`), each of their addresses is counted for itself, from the moment when
    /// the proxy's header has been read: one more is closed then, before its handler is called, and counted as
    /// [`rejected`](crate::Counts::rejected), since it was accepted.
    pub fn max_connections_per_ip(self, max: usize) -> Self {
        self.bound.run().limit.set_max_per_client(max);
        self
    }

    /// Sets how many bits of an IPv6 address name a client for
    /// [`max_connections_per_ip`](Self::max_connections_per_ip). Default: 64, the network of one subscriber at least.
    /// 56 or 48 count a site with many such networks as one client; 128 counts each address for itself, and so does
    /// every larger number.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::Server;
    ///
    /// let server = Server::bind("127.0.0.1:0").await?.max_connections_per_ip(20).ipv6_prefix(56);
    /// # drop(server);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn ipv6_prefix(self, bits: u8) -> Self {
        self.bound.run().limit.set_ipv6_prefix(bits);
        self
    }

    /// Sets how long a client may be silent before its first byte: a `Duration`, or `None` for no limit. Then it is
    /// closed, counted as [`rejected`](crate::Counts::rejected), and no handler is called. The byte stays to be read.
    /// Default: no limit. In a drain it is at most 1 second.
    ///
    /// Not for protocols in which the server speaks first.
    pub fn first_byte_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.policy.opening.first_byte = timeout.into();
        self
    }

    /// Sets how long a client may take for its TLS handshake (feature `tls`): a `Duration`, or `None` for no limit.
    /// Then it is closed, counted as [`rejected`](crate::Counts::rejected), and no handler is called. Default: 10
    /// seconds. In a drain it is at most 1 second.
    #[cfg(feature = "tls")]
    pub fn handshake_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.policy.opening.handshake = timeout.into();
        self
    }

    /// Sets how long no byte may go either way: a `Duration`, or `None` for no limit. Then the connection is closed,
    /// its handler dropped, and counted as [`disconnected`](crate::Counts::disconnected), so that idle clients cannot
    /// fill [`max_connections`](Self::max_connections) for ever. Default: no limit.
    ///
    /// A handler that works for longer than this without reading or writing is ended too. The bytes of a TLS handshake
    /// do not count, so set it longer than a handshake takes.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.policy.idle_timeout = timeout.into();
        self.config.policy.watch.set(Watch::IDLE, self.config.policy.idle_timeout.is_some());
        self
    }

    /// Sets how long a write may wait without the peer taking anything of it: a `Duration`, or `None` for no limit.
    /// Then the connection is closed, its handler dropped, and counted as
    /// [`disconnected`](crate::Counts::disconnected): at the latest after twice this time. For peers that take a byte a
    /// minute, which the [`idle_timeout`](Self::idle_timeout) does not end. Default: no limit, since a client that
    /// reads nothing for long may be busy, or paused.
    ///
    /// The kernel takes some megabytes before a write waits, and says that there is room again when a third of that is
    /// free: so a slow peer that does read may need many seconds between two steps.
    pub fn write_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.policy.write_timeout = timeout.into();
        self.config.policy.watch.set(Watch::WRITES, self.config.policy.write_timeout.is_some());
        self
    }

    /// Sets how long a peer may acknowledge nothing of what is on its way to it: a `Duration`, or `None` for no limit.
    /// Then it has vanished (a cut cable, a machine that lost its power): the connection is closed, its handler
    /// dropped, and counted as [`disconnected`](crate::Counts::disconnected). Default: 5 minutes. Looked at once a
    /// minute, or every fifth of a shorter time. For TCP, and TLS over it, on Linux; elsewhere only the kernel's own
    /// limit holds, some 15 minutes.
    ///
    /// [`Keepalive`](crate::Keepalive) finds peers that vanish while nothing is on its way to them, and does not work
    /// while something is. A live client that reads nothing is not ended by either: its kernel acknowledges the probes
    /// of ours, at most 2 minutes apart. So a time below 3 minutes also ends such clients, as `TCP_USER_TIMEOUT` does.
    #[doc(alias = "TCP_USER_TIMEOUT")]
    pub fn ack_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.policy.ack_timeout = timeout.into();
        self
    }

    /// Sets how old a connection may be: a `Duration`, or `None` for no limit. Then it is drained, and no other: its
    /// handler is notified as in a shutdown ([`Connection::until_draining`](crate::Connection::until_draining),
    /// [`more`](crate::Connection::more)), has the [grace period](Self::grace) (8 seconds if that has no limit), and is
    /// cut after it, with a warning. Each connection's age is up to a tenth more or less than this, so that those that
    /// came together do not go together. Default: no limit.
    ///
    /// For clients behind a load balancer: they come again, and to the instance that now has the fewest. Counted from
    /// the accept, for any protocol, upgraded connections too. (gRPC's `MAX_CONNECTION_AGE` and its grace.)
    #[doc(alias = "max_connection_lifetime")]
    pub fn max_connection_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.config.policy.max_age = age.into();
        self
    }

    /// Sets over how long a drain notifies its handlers: evenly, the oldest connection first, so that thousands of
    /// clients do not all come again at once. Default: 0, all at once. Never more than half of what is left of the
    /// [grace period](Self::grace).
    ///
    /// The listeners are closed at once all the same, and a drain with idle clients lasts so much longer. A connection
    /// that has not been notified yet goes on as before. (HAProxy's `close-spread-time`.)
    pub fn drain_spread(mut self, time: Duration) -> Self {
        self.config.drain_spread = time;
        self
    }

    /// Calls `observe` with what happens to the server: each connection that is accepted or has ended, with the reason,
    /// its age, and its bytes if they are [counted](Self::count_bytes); each client that is refused; each phase. For
    /// metrics, an access log, or a test. Costs nothing where it is not set. Can be called several times; each function
    /// is called, in that order.
    ///
    /// It is called from the accept loop, from the connections' tasks, and from the task that carries out a shutdown,
    /// all of which wait for it: let it be quick, never block, and hand what takes longer to a channel. A panic of it
    /// is caught and logged, the first one. It is dropped once the server is closed.
    ///
    /// The connection's end is told when it is closed, after its last bytes; [`Handle::counts`](crate::Handle::counts)
    /// counts it when its handler ends.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, EventKind, Phase, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?.count_bytes(true).on_event(|event| {
    ///     if event.kind() == EventKind::Ended {
    ///         println!("{event}"); // connection 0 from 127.0.0.1:40312 ended after 1.5s: completed; 5 bytes read, …
    ///     }
    /// });
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn on_event(self, observe: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.bound.run().observer.add(Box::new(observe));
        self
    }

    /// Sets whether the bytes of each connection are counted, as its handler reads and writes them: for
    /// [`ConnectionInfo`](crate::ConnectionInfo) and for [events](Self::on_event). Default: they are not, which saves
    /// some time with each read and write.
    pub fn count_bytes(mut self, count: bool) -> Self {
        self.config.policy.watch.set(Watch::BYTES, count);
        self
    }

    /// Sets what the failure of a handler means for the server. Default: [`OnFailure::Isolate`].
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.config.policy.on_failure = on_failure;
        self
    }

    /// Stops on the items of a stream: the first shuts down, the second cancels. The items are signals
    /// ([`signal::termination`](crate::signal::termination)), or `()` from any other stream. Can be called several
    /// times; each stream counts for itself. The stream is polled while the server serves, in a task of its own.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> std::io::Result<()> {
    /// use ebbtide::{Connection, Server, signal};
    ///
    /// let signals = signal::termination()?; // before the bind: a signal that comes meanwhile is remembered
    /// Server::bind("127.0.0.1:8888").await?.shutdown_on(signals).serve(|_: Connection| async {}).await?;
    /// # Ok(()) }
    /// ```
    pub fn shutdown_on<S>(mut self, stream: S) -> Self
    where
        S: Stream<Item: Trigger> + Send + 'static,
    {
        if let Some(signals) = (&stream as &dyn Any).downcast_ref::<Signals>() {
            signals.ask_to_stop();
        }
        let stream = Kept::new(Box::pin(stream.map(|item| item.signal())) as Pin<Box<_>>);
        self.shutdown_streams.get_mut().unwrap_or_else(PoisonError::into_inner).push(stream);
        self
    }

    /// Shuts down when a future is ready. The future is polled while the server serves, in a task of its own.
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
    pub fn shutdown_when<F>(self, future: F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shutdown_on(Once::new(future))
    }
}
