//! The numbers of a run: [`Counters`], atomics that change while it runs, and [`Counts`], a snapshot of them.
//!
//! Each accepted connection ends with one [`EndReason`], and each reason belongs to one [`Bucket`]. So the buckets add
//! up to the accepted connections.

use super::end_reason::{Bucket, EndReason};
use super::record::ConnectionRecord;
use super::registry::ConnectionInfo;
use super::state::ConnectionState;
use crate::sync::{Mutex, lock};
use std::array;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many of the cancelled connections a report lists.
const CUT_LISTED: usize = 32;

/// Numbers of a server: how many connections were accepted, are open, and how the others ended.
///
/// [`Handle::counts`](crate::Handle::counts) returns them at any time, [`Report::counts`](crate::Report::counts) when
/// the server is closed. `Display` is one line for a person.
///
/// Every connection that was accepted and has ended is in exactly one of six numbers. Once no connection is open:
/// `accepted == completed + failed + panicked + disconnected + rejected + cancelled`. While the server runs, the
/// difference is the connections whose handlers have not ended yet. (The numbers are read one after the other while
/// they change, so the difference may be too large for a moment.)
///
/// # Examples
///
/// ```
/// use ebbtide::{Connection, EndReason, Server};
///
/// # async_std::task::block_on(async {
/// let (counts, _) = Server::bind("127.0.0.1:0")
///     .await?
///     .scope(async |_: Connection| {}, async |server| Ok(server.counts()))
///     .await?;
/// assert_eq!((counts.accepted(), counts.open()), (0, 0));
/// for (reason, connections) in counts.by_reason() {
///     println!("ended{{reason=\"{reason}\"}} {connections}");
/// }
/// assert_eq!(counts.ended(EndReason::IdleTimeout), 0);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "metrics")]
#[doc(alias = "statistics")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub(super) accepted: u64,
    /// Connections that ended, by reason: indexed by `EndReason as usize`.
    pub(super) ended: [u64; EndReason::ALL.len()],
    /// Includes `refused_by_address`.
    pub(super) refused: u64,
    pub(super) refused_by_address: u64,
    pub(super) accept_errors: u64,
    pub(super) drained: u64,
    pub(super) undelivered: u64,
    pub(super) requests: u64,
    pub(super) requests_failed: u64,
    pub(super) requests_panicked: u64,
    /// Open connections, by state: indexed by `ConnectionState as usize`.
    pub(super) open: [usize; ConnectionState::ALL.len()],
    /// Listeners that accept no client because of the limit or a pause.
    pub(super) at_limit: usize,
    /// Listeners that are in the back-off.
    pub(super) resting: usize,
}

impl Counts {
    /// Returns how many connections were accepted.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.counts().accepted(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Returns how many connections have ended for this reason.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, EndReason, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.counts().ended(EndReason::Completed), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn ended(&self, reason: EndReason) -> u64 {
        self.ended[reason as usize]
    }

    /// Returns each reason for which a connection can end, and how many connections ended for it. For metrics.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// let sum: u64 = report.counts().by_reason().map(|(_reason, connections)| connections).sum();
    /// assert_eq!(sum, report.accepted());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn by_reason(&self) -> impl Iterator<Item = (EndReason, u64)> + '_ {
        EndReason::ALL.into_iter().map(|reason| (reason, self.ended(reason)))
    }

    fn sum(&self, bucket: Bucket) -> u64 {
        self.by_reason().filter(|(reason, _)| reason.bucket() == bucket).map(|(_, number)| number).sum()
    }

    /// Returns how many handlers returned `()` or `Ok(())`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.counts().completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn completed(&self) -> u64 {
        self.sum(Bucket::Completed)
    }

    /// Returns how many handlers returned an error that their own stream did not give them.
    ///
    /// Such an error is the fault of the program, or of something that it depends on.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let handler = async |_: Connection| Err::<(), _>("disk full");
    /// let (_, report) = Server::new(listener).scope(handler, async |_| ()).await?;
    /// assert_eq!(report.counts().failed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn failed(&self) -> u64 {
        self.sum(Bucket::Failed)
    }

    /// Returns how many handlers panicked, or were ended because a task of their connection panicked.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let handler = async |_: Connection| { panic!("a bug") };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| ()).await?;
    /// assert_eq!(report.counts().panicked(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn panicked(&self) -> u64 {
        self.sum(Bucket::Panicked)
    }

    /// Returns how many connections the peer ended, or a limit on a peer that does nothing.
    ///
    /// Examples are an error that the handler's own stream gave it, and the idle timeout.
    /// [`EndReason`] lists all reasons.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # use async_std::prelude::*;
    /// drop(connector.connect().await?); // a client that leaves without a word
    /// let handler = async |mut conn: Connection| conn.read_exact(&mut [0; 8]).await;
    /// let (_, report) = Server::new(listener).scope(handler, async |_| ()).await?;
    /// assert_eq!(report.counts().disconnected(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn disconnected(&self) -> u64 {
        self.sum(Bucket::Disconnected)
    }

    /// Returns how many connections ended before their handlers were called.
    ///
    /// The peer sent nothing in time, its handshake or PROXY header was wrong, or its address had too many connections.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::task;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # use std::time::Duration;
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let server = Server::new(listener).first_byte_timeout(Duration::from_millis(10));
    /// let (_, report) = server
    ///     .scope(async |_: Connection| {}, async |server| {
    ///         while server.counts().rejected() == 0 {
    ///             task::sleep(Duration::from_millis(1)).await;
    ///         }
    ///     })
    ///     .await?;
    /// assert_eq!(report.counts().rejected(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn rejected(&self) -> u64 {
        self.sum(Bucket::Rejected)
    }

    /// Returns how many handlers were dropped before they ended: by a cancel, a drop, or the end of the grace period.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let server = Server::new(listener);
    /// let (_, report) = server
    ///     .scope(|_: Connection| std::future::pending::<()>(), async |server| {
    ///         while server.connection_count() == 0 {
    ///             async_std::task::yield_now().await;
    ///         }
    ///         server.cancel();
    ///     })
    ///     .await?;
    /// assert_eq!(report.counts().cancelled(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn cancelled(&self) -> u64 {
        self.sum(Bucket::Cancelled)
    }

    /// Returns how many clients a limit turned away before they became a connection.
    ///
    /// Either their address had too many connections, or they were in the backlog when the listeners were closed, and
    /// [`max_connections`](crate::Server::max_connections) left no room for them. They are not among the accepted.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let server = Server::new(listener);
    /// server.handle().pause();
    /// let (_, report) = server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!((report.counts().accepted(), report.counts().refused()), (0, 1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns how many of the [`refused`](Self::refused) clients were one too many from their address
    /// ([`Server::max_connections_per_ip`](crate::Server::max_connections_per_ip)).
    ///
    /// The others were in the backlog when the listeners were closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{net::TcpStream, task};
    /// # use ebbtide::{Connection, Server};
    /// # use std::time::Duration;
    /// let server = Server::bind("127.0.0.1:0").await?.max_connections_per_ip(1);
    /// # let server = server.newcomer_time(Duration::ZERO);
    /// let address = server.local_addr().tcp()?;
    /// let (_, report) = server
    ///     .scope(async |conn: Connection| conn.draining().await, async |server| {
    ///         let clients = (TcpStream::connect(address).await?, TcpStream::connect(address).await?);
    ///         while server.counts().refused_by_address_limit() == 0 {
    ///             task::sleep(Duration::from_millis(1)).await;
    ///         }
    ///         Ok(clients)
    ///     })
    ///     .await?;
    /// assert_eq!((report.accepted(), report.counts().refused_by_address_limit()), (1, 1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn refused_by_address_limit(&self) -> u64 {
        self.refused_by_address
    }

    /// Returns how often accepting a client failed, because of the client or because resources ran out.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.counts().accept_errors(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors
    }

    /// Returns how many handlers ended by themselves during the drain, with success or not: they were not cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let handler = async |conn: Connection| conn.draining().await;
    /// let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let (_, report) = server.scope(handler, async |_| ()).await?;
    /// assert_eq!(report.counts().drained(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn drained(&self) -> u64 {
        self.drained
    }

    /// Returns how many connections were closed before their peers had received everything.
    ///
    /// - The peer took nothing for too long, or the grace period ended (known on Linux, for TCP and for TLS over it). A
    ///   warning names the connection.
    /// - Tasks were cut after their handler had returned by itself: at the end of the
    ///   [task grace](crate::Server::task_grace), or by the exit of the server. A warning names each line of code whose
    ///   tasks outlived their grace.
    ///
    /// These connections are also counted by what their handlers returned.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.counts().undelivered(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn undelivered(&self) -> u64 {
        self.undelivered
    }

    /// Returns how many connections are open. 0 in a report.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.counts().open(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn open(&self) -> usize {
        self.open.iter().sum()
    }

    /// Returns how many of the open connections are in this state.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, ConnectionState, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let server = Server::new(listener);
    /// let (counts, _) = server
    ///     .scope(|_: Connection| std::future::pending::<()>(), async |server| {
    ///         while server.counts().in_state(ConnectionState::Serving) == 0 {
    ///             async_std::task::yield_now().await;
    ///         }
    ///         let counts = server.counts();
    ///         server.cancel();
    ///         Ok(counts)
    ///     })
    ///     .await?;
    /// assert_eq!(counts.in_state(ConnectionState::Serving), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn in_state(&self, state: ConnectionState) -> usize {
        self.open[state as usize]
    }

    /// Returns each state that a connection can be in, and how many connections are in it. For metrics.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert!(report.counts().by_state().all(|(_state, connections)| connections == 0));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn by_state(&self) -> impl Iterator<Item = (ConnectionState, usize)> + '_ {
        ConnectionState::ALL.into_iter().map(|state| (state, self.in_state(state)))
    }

    /// Returns how many HTTP requests were given to the service, those in progress included (feature `http`).
    ///
    /// Requests that are refused before are not counted: a malformed head, or an announced body that is too large.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// use ebbtide::http::{Http, hyper::{Request, Response, body::Incoming, service::service_fn}};
    /// use ebbtide::{Listener, Server};
    /// use std::convert::Infallible;
    ///
    /// let hello = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
    /// let (_, report) = Server::new(listener).scope(Http::new().handler(hello), async |_| {}).await?;
    /// assert_eq!((report.counts().requests(), report.completed()), (1, 1)); // one request, on one connection
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "http")]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Returns how many of the [`requests`](Self::requests) failed because the service, or the body of its answer,
    /// returned an error that was not the client's fault (feature `http`).
    ///
    /// An answer with an error status, such as 500, is not a failure in this sense.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// use ebbtide::http::{Http, hyper::{Request, Response, body::Incoming, service::service_fn}};
    /// use ebbtide::{Listener, Server};
    ///
    /// let service = service_fn(async |_: Request<Incoming>| Err::<Response<String>, _>("disk full"));
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    /// let (_, report) = Server::new(listener).scope(Http::new().handler(service), async |_| {}).await?;
    /// assert_eq!((report.counts().requests_failed(), report.failed()), (1, 1)); // on HTTP/1 the connection fails, too
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "http")]
    pub fn requests_failed(&self) -> u64 {
        self.requests_failed
    }

    /// Returns how many of the [`requests`](Self::requests) ended because the service, or the body of its answer,
    /// panicked (feature `http`).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::{io, prelude::*};
    /// use ebbtide::http::{Http, hyper::{Request, Response, body::Incoming, service::service_fn}};
    /// use ebbtide::{Listener, Server};
    /// use std::convert::Infallible;
    ///
    /// let service = service_fn(async |_: Request<Incoming>| -> Result<Response<String>, Infallible> { panic!("a bug") });
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
    /// let (_, report) = Server::new(listener).scope(Http::new().handler(service), async |_| {}).await?;
    /// // The client gets 500, and the connection completes.
    /// assert_eq!((report.counts().requests_panicked(), report.completed()), (1, 1));
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "http")]
    pub fn requests_panicked(&self) -> u64 {
        self.requests_panicked
    }

    /// Returns how many listeners accept no client because all of
    /// [`max_connections`](crate::Server::max_connections) are in use, or because accepting is
    /// [paused](crate::Handle::pause).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (counts, _) = Server::new(listener)
    ///     .scope(async |_: Connection| {}, async |server| {
    ///         server.pause();
    ///         Ok(server.counts())
    ///     })
    ///     .await?;
    /// assert_eq!(counts.listeners_at_limit(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn listeners_at_limit(&self) -> usize {
        self.at_limit
    }

    /// Returns how many listeners are in the back-off after an error of accept, such as the limit on open files.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (_, report) = Server::new(listener).scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(report.counts().listeners_resting(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn listeners_resting(&self) -> usize {
        self.resting
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, self.drained > 0)
    }
}

impl Counts {
    /// Writes one line for a person. `has_drained`: with the number that ended during the drain, even if it is 0.
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>, has_drained: bool) -> fmt::Result {
        let ends = (self.completed(), self.failed(), self.panicked(), self.cancelled());
        let (completed, failed, panicked, cancelled) = ends;
        write!(
            f,
            "{} accepted, {completed} completed, {failed} failed, {panicked} panicked, {cancelled} cancelled",
            self.accepted
        )?;
        let nouns = |one, several, number| if number == 1 { one } else { several };
        let others = [
            (self.disconnected(), ", ", "disconnected", false),
            (self.rejected(), ", ", "rejected", false),
            (self.drained, "; of these, ", "ended during the drain", has_drained),
            (self.undelivered, "; ", "undelivered", false),
            (self.refused, "; ", "refused", false),
            (self.accept_errors, "; ", nouns("accept error", "accept errors", self.accept_errors), false),
            (self.requests, "; ", nouns("request", "requests", self.requests), false),
            (self.requests_failed, ", ", nouns("request failed", "requests failed", self.requests_failed), false),
            (
                self.requests_panicked,
                ", ",
                nouns("request panicked", "requests panicked", self.requests_panicked),
                false,
            ),
            (self.open() as u64, "; ", "open", false),
        ];
        for (number, before, what, always) in others {
            if number > 0 || always {
                write!(f, "{before}{number} {what}")?;
            }
        }
        Ok(())
    }
}

/// The numbers of a run while they change.
#[derive(Debug)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    /// Indexed by `EndReason as usize`.
    ended: [AtomicU64; EndReason::ALL.len()],
    /// Includes `refused_by_address`.
    refused: AtomicU64,
    refused_by_address: AtomicU64,
    accept_errors: AtomicU64,
    drained: AtomicU64,
    undelivered: AtomicU64,
    /// Requests of HTTP that were given to the service.
    requests: AtomicU64,
    requests_failed: AtomicU64,
    requests_panicked: AtomicU64,
    /// Listeners that are in the back-off: the number of live [`Resting`] guards.
    resting: AtomicUsize,
    /// The first [`CUT_LISTED`] connections that the exit has cut, for the report.
    cut: Mutex<Vec<ConnectionInfo>>,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            accepted: zero(),
            ended: array::from_fn(|_| zero()),
            refused: zero(),
            refused_by_address: zero(),
            accept_errors: zero(),
            drained: zero(),
            undelivered: zero(),
            requests: zero(),
            requests_failed: zero(),
            requests_panicked: zero(),
            resting: AtomicUsize::default(),
            cut: Mutex::default(),
        }
    }
}

impl Counters {
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused_by_address(&self) {
        self.refused_by_address.fetch_add(1, Ordering::Relaxed);
        self.refused();
    }

    /// Counts a connection that was closed before its peer had received everything.
    pub(crate) fn undelivered(&self) {
        self.undelivered.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "http")]
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "http")]
    pub(crate) fn request_failed(&self) {
        self.requests_failed.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "http")]
    pub(crate) fn request_panicked(&self) {
        self.requests_panicked.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept_failed(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Counts a listener as resting until the returned guard is dropped.
    pub(crate) fn rest(&self) -> Resting<'_> {
        self.resting.fetch_add(1, Ordering::Relaxed);
        Resting(&self.resting)
    }

    /// Remembers a connection that the exit has cut, for the report.
    pub(crate) fn cut(&self, record: &ConnectionRecord) {
        if lock(&self.cut).len() < CUT_LISTED {
            let info = ConnectionInfo::of(record); // may take a system call, so not under the lock
            let mut cut = lock(&self.cut);
            if cut.len() < CUT_LISTED {
                cut.push(info);
            }
        }
    }

    pub(crate) fn take_cut(&self) -> Vec<ConnectionInfo> {
        std::mem::take(&mut *lock(&self.cut))
    }

    /// Counts the end of a connection. `drained`: its handler ended by itself, after the drain had begun.
    pub(crate) fn ended(&self, reason: EndReason, drained: bool) {
        self.ended[reason as usize].fetch_add(1, Ordering::Release); // see `read`
        if drained {
            self.drained.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a snapshot, without the open connections. It is exact once every connection has ended: whatever ended the
    /// last one also ordered these counts before the reader.
    pub(crate) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            // Read before `accepted`: while the numbers change, the sum of the ends then never exceeds it.
            ended: array::from_fn(|reason| self.ended[reason].load(Ordering::Acquire)),
            accepted: read(&self.accepted),
            refused: read(&self.refused),
            refused_by_address: read(&self.refused_by_address),
            accept_errors: read(&self.accept_errors),
            drained: read(&self.drained),
            undelivered: read(&self.undelivered),
            requests: read(&self.requests),
            requests_failed: read(&self.requests_failed),
            requests_panicked: read(&self.requests_panicked),
            resting: self.resting.load(Ordering::Relaxed),
            ..Counts::default()
        }
    }
}

/// Guard of a listener that rests: see [`Counters::rest`].
pub(crate) struct Resting<'a>(&'a AtomicUsize);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_in_one_bucket_and_only_an_end_during_the_drain_is_drained() {
        let counters = Counters::default();
        for (n, reason) in EndReason::ALL.into_iter().enumerate() {
            for _ in 0..=n {
                counters.accepted();
                counters.ended(reason, reason == EndReason::Completed);
            }
        }
        let counts = counters.read();
        assert!(counts.by_reason().enumerate().all(|(n, (_, number))| number == n as u64 + 1));
        let buckets = [counts.completed(), counts.failed(), counts.panicked(), counts.disconnected()];
        let sum = buckets.iter().sum::<u64>() + counts.rejected() + counts.cancelled();
        assert_eq!((sum, counts.drained()), (counts.accepted(), 1));
        assert_eq!(buckets[..3], [1, 2, 3 + 4]);
    }

    #[test]
    fn display_leaves_out_most_numbers_that_are_zero() {
        let counters = Counters::default();
        counters.accepted();
        counters.ended(EndReason::IdleTimeout, false);
        assert_eq!(
            counters.read().to_string(),
            "1 accepted, 0 completed, 0 failed, 0 panicked, 0 cancelled, 1 disconnected"
        );
    }

    #[test]
    fn display_has_the_singular_of_one() {
        let counts =
            Counts { accept_errors: 1, requests: 1, requests_failed: 1, requests_panicked: 1, ..Counts::default() };
        let text = counts.to_string();
        assert!(text.ends_with("; 1 accept error; 1 request, 1 request failed, 1 request panicked"), "{text}");
        let counts = Counts { accept_errors: 2, requests: 2, requests_failed: 2, requests_panicked: 2, ..counts };
        let text = counts.to_string();
        assert!(text.ends_with("; 2 accept errors; 2 requests, 2 requests failed, 2 requests panicked"), "{text}");
    }
}
