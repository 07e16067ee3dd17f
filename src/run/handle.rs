//! [`Handle`], the public view of a run, and [`Closed`], the future of its report.
//!
//! Both only hold the run: each method is a call of [`Run`], its registry, its limit or its counters.

use super::completion::{TaskGuard, is_inside};
use super::counts::Counts;
use super::drain_progress::DrainProgress;
use super::end_reason::EndReason;
use super::name::run_line;
use super::phases::{Phases, Reached};
use super::record::{AbortReason, DrainAlone, Named};
use super::registry::{ConnectionId, ConnectionInfo};
use super::report::{Cause, Report};
use super::task_tree::{self, TaskTree};
use super::{Run, phase::Phase};
use crate::address::Address;
use crate::group::{JoinHandle, Label, Spawner, boxed_if_large, named};
use crate::sync::time;
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Handle of a running server: requests its shutdown, waits for its end, observes it, and starts tasks in it.
///
/// You get one from [`Server::handle`](crate::Server::handle), from
/// [`Connection::server`](crate::Connection::server), and as the argument of the body of
/// [`Server::scope`](crate::Server::scope). It is cheap to clone, and works from any thread and any task. It does not
/// keep the server open: a server of which only handles are left is closed.
///
/// | to | use |
/// |---|---|
/// | stop | [`shutdown`](Self::shutdown), [`shutdown_within`](Self::shutdown_within), [`cancel`](Self::cancel) |
/// | wait for the end | [`closed`](Self::closed) |
/// | follow the phases | [`phase`](Self::phase), [`reached`](Self::reached), [`phases`](Self::phases), [`until_shutdown`](Self::until_shutdown), [`until_draining`](Self::until_draining) |
/// | answer a health check | [`is_ready`](Self::is_ready), [`is_serving`](Self::is_serving) |
/// | limit the load | [`set_max_connections`](Self::set_max_connections), [`pause`](Self::pause), [`resume`](Self::resume) |
/// | see and stop single connections | [`connections`](Self::connections), [`drain_connection`](Self::drain_connection), [`cancel_connection`](Self::cancel_connection) |
/// | get the numbers | [`counts`](Self::counts), [`connection_count`](Self::connection_count), [`accept_errors`](Self::accept_errors) |
/// | start a task | [`spawn`](Self::spawn), [`spawn_named`](Self::spawn_named), [`spawn_background`](Self::spawn_background) |
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Cause, Connection, Server};
///
/// let server = Server::bind("127.0.0.1:0").await?;
/// let handle = server.handle();
/// let serving = async_std::task::spawn(server.serve(async |_: Connection| {}));
/// let report = handle.shutdown().await; // from anywhere
/// assert_eq!(report.cause(), Cause::Shutdown);
/// serving.await?;
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone)]
#[doc(alias = "CancellationToken")]
pub struct Handle {
    run: Arc<Run>,
}

impl Handle {
    pub(crate) fn new(run: Arc<Run>) -> Self {
        Self { run }
    }

    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// Requests a graceful shutdown: the server stops accepting, notifies its handlers, gives them the
    /// [grace period](crate::Server::grace), and cancels what is left.
    ///
    /// The call makes the request; awaiting the returned [`Closed`] is optional. A second request skips the rest of a
    /// [lame duck](crate::Server::lame_duck), and changes nothing else. If the server does not serve yet, the call
    /// closes it on the spot and cancels its tasks.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future does not withdraw the request.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// let serving = async_std::task::spawn(server.serve(|_: Connection| async {}));
    /// handle.shutdown().await;
    /// assert!(!handle.is_serving());
    /// let report = serving.await?;
    /// assert_eq!(report.accepted(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "Shutdown")]
    #[doc(alias = "graceful_shutdown")]
    #[doc(alias = "stop")]
    #[doc(alias = "close")]
    pub fn shutdown(&self) -> Closed {
        self.run.request(Cause::Shutdown);
        self.closed()
    }

    /// Requests a graceful shutdown that ends within `limit` from now: a `Duration` for lame duck and grace together,
    /// or `None` for no limit. What is left at its end is cancelled.
    ///
    /// - As the first request it replaces the server's own limits, with a longer or a shorter time. A
    ///   [lame duck](crate::Server::lame_duck) then lasts at most half of `limit`.
    /// - After another request it can only bring the deadline nearer. It also skips the rest of the lame duck.
    /// - A `limit` of zero cancels.
    ///
    /// The call makes the request; awaiting the returned [`Closed`] is optional.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future does not withdraw the request.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    /// use std::future::pending;
    /// use std::time::Duration;
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// let serving = async_std::task::spawn(server.serve(|_: Connection| pending::<()>()));
    /// let report = handle.shutdown_within(Duration::from_millis(50)).await;
    /// assert!(report.elapsed() < Duration::from_secs(8)); // the default grace period
    /// # serving.await?;
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "timeout")]
    #[doc(alias = "SetDeadline")]
    pub fn shutdown_within(&self, limit: impl Into<Option<Duration>>) -> Closed {
        self.run.request_within(limit.into());
        self.closed()
    }

    /// Requests the immediate end: the future of every handler and task is dropped, without a grace period.
    ///
    /// During a drain it ends the grace period. The call makes the request; awaiting the returned [`Closed`] is
    /// optional.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future does not withdraw the request.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Server};
    /// use std::future::pending;
    ///
    /// let (listener, connector) = Listener::memory();
    /// let server = Server::new(listener);
    /// let handle = server.handle();
    /// let serving = async_std::task::spawn(server.serve(|_: Connection| pending::<()>()));
    /// let client = connector.connect().await?;
    /// while handle.connection_count() == 0 {
    ///     async_std::task::yield_now().await;
    /// }
    /// assert_eq!(handle.cancel().await.cancelled(), 1);
    /// # serving.await?;
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "abort")]
    #[doc(alias = "kill")]
    pub fn cancel(&self) -> Closed {
        self.run.cancel(Cause::Cancel);
        self.closed()
    }

    /// Waits until the server is closed. It requests nothing.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Cause, Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let closed = server.handle().closed();
    /// drop(server.serve(async |_: Connection| {})); // as a timeout around `serve` does
    /// assert_eq!(closed.await.cause(), Cause::Dropped);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "wait_closed")]
    #[doc(alias = "wait")]
    #[doc(alias = "join")]
    #[doc(alias = "WaitGroup")]
    #[must_use = "await it: `closed` only waits; `shutdown` and `cancel` request the end"]
    pub fn closed(&self) -> Closed {
        Closed { run: Arc::clone(&self.run), key: None, warned: false }
    }

    /// Returns whether clients can get in: true from the first poll of `serve` until the last listening socket is
    /// closed.
    ///
    /// When it is false again, the port refuses.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// assert!(!handle.is_serving());
    /// let (was_serving, _) =
    ///     server.scope(async |_: Connection| {}, async |server| Ok(server.is_serving())).await?;
    /// assert!(was_serving && !handle.is_serving());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn is_serving(&self) -> bool {
        self.run.is_serving()
    }

    /// Returns whether a load balancer should send clients: the server accepts, is not [paused](Self::pause), and no
    /// shutdown was requested.
    ///
    /// During a [lame duck](crate::Server::lame_duck) it is false, though clients are still accepted. Use it for the
    /// readiness probe of Kubernetes and for the health check of HAProxy.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Server};
    ///
    /// let server = Server::new(Listener::memory().0);
    /// server
    ///     .scope(async |_: Connection| {}, async |server| {
    ///         assert!(server.is_ready());
    ///         server.pause();
    ///         assert!(!server.is_ready());
    ///     })
    ///     .await?;
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "health")]
    #[doc(alias = "readiness")]
    pub fn is_ready(&self) -> bool {
        self.run.is_ready()
    }

    /// Returns how many connections may be open at a time. See
    /// [`Server::max_connections`](crate::Server::max_connections).
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::{Listener, Server};
    ///
    /// let server = Server::new(Listener::memory().0).max_connections(100);
    /// assert_eq!(server.handle().max_connections(), 100);
    /// ```
    pub fn max_connections(&self) -> usize {
        self.run.limit.max()
    }

    /// Changes the limit on open connections, also while serving.
    ///
    /// A lower limit closes no connection. The server accepts no client until enough connections have closed. With 0
    /// it accepts no client at all.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::{Listener, Server};
    ///
    /// let server = Server::new(Listener::memory().0).max_connections(100);
    /// let handle = server.handle();
    /// handle.set_max_connections(20);
    /// assert_eq!(handle.max_connections(), 20);
    /// ```
    pub fn set_max_connections(&self, max: usize) {
        let before = self.run.limit.max();
        self.run.limit.set_max(max);
        if max != before {
            run_line!(info, self.run, [], "`max_connections` changed from {before} to {max}");
        }
    }

    /// Stops accepting until [`resume`](Self::resume). New clients wait in the backlog; open connections continue.
    ///
    /// If the server shuts down while it is paused, it closes the clients in the backlog. They count as
    /// [`refused`](crate::Report::refused).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Server};
    ///
    /// let (listener, connector) = Listener::memory();
    /// let server = Server::new(listener);
    /// server.handle().pause();
    /// let client = connector.connect().await?; // waits in the backlog
    /// let (_, report) = server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!((report.accepted(), report.refused()), (0, 1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn pause(&self) {
        if !self.run.limit.set_paused(true) {
            run_line!(info, self.run, [], "accepting is paused");
        }
    }

    /// Returns whether accepting is [paused](Self::pause).
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::{Listener, Server};
    ///
    /// let handle = Server::new(Listener::memory().0).handle();
    /// assert!(!handle.is_paused());
    /// handle.pause();
    /// assert!(handle.is_paused());
    /// ```
    pub fn is_paused(&self) -> bool {
        self.run.limit.is_paused()
    }

    /// Accepts again after a [`pause`](Self::pause). The clients in the backlog are accepted first.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::{Listener, Server};
    ///
    /// let handle = Server::new(Listener::memory().0).handle();
    /// handle.pause();
    /// handle.resume();
    /// assert!(!handle.is_paused());
    /// ```
    pub fn resume(&self) {
        if self.run.limit.set_paused(false) {
            run_line!(info, self.run, [], "accepting is resumed");
        }
    }

    /// Returns the current numbers: those of a [`Report`], and how many connections are in which state.
    ///
    /// It looks at each open connection: call it for a metrics page, not for each request. The numbers of a closed
    /// server are final, and equal those of its report.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// let (_, report) = server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(handle.counts(), *report.counts());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "metrics")]
    #[doc(alias = "stats")]
    #[doc(alias = "statistics")]
    pub fn counts(&self) -> Counts {
        self.run.counts()
    }

    /// Returns how often accepting a client has failed, because of the client or because resources ran out.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::{Listener, Server};
    ///
    /// let handle = Server::new(Listener::memory().0).handle();
    /// assert_eq!(handle.accept_errors(), 0);
    /// ```
    pub fn accept_errors(&self) -> u64 {
        self.run.counters.accept_errors()
    }

    /// Cancels one connection: its handler is dropped without a grace period, and counted as
    /// [`cancelled`](crate::Report::cancelled). Returns whether the connection was open.
    ///
    /// It cuts at once: the handler runs no further, and bytes that were written but not yet sent may be lost. For a
    /// last word use [`drain_connection`](Self::drain_connection).
    ///
    /// It searches all connections: call it for an operator's request, not for each client's.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::prelude::*;
    /// use ebbtide::{Connection, Listener, Server};
    /// use std::future::pending;
    ///
    /// let (listener, connector) = Listener::memory();
    /// let cancel_all = async |server: ebbtide::Handle| {
    ///     let mut client = connector.connect().await?;
    ///     while server.connection_count() == 0 {
    ///         async_std::task::yield_now().await;
    ///     }
    ///     for connection in server.connections() {
    ///         assert!(server.cancel_connection(connection.id()));
    ///     }
    ///     Ok(client.read(&mut [0]).await?) // EOF
    /// };
    /// let (read, report) = Server::new(listener).scope(|_: Connection| pending::<()>(), cancel_all).await?;
    /// assert_eq!((read, report.cancelled()), (0, 1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "kill")]
    #[doc(alias = "disconnect")]
    pub fn cancel_connection(&self, id: ConnectionId) -> bool {
        match self.run.registry.find(id) {
            Some(record) => {
                record.abort(AbortReason::CancelledById);
                true
            }
            None => false,
        }
    }

    /// Drains one connection: its handler is notified as in a shutdown, and is cancelled at the end of the
    /// [grace period](crate::Server::grace), with a warning. Returns whether the connection was open.
    ///
    /// - The grace period is 8 seconds if the server's has no limit. It never extends beyond the deadline of a
    ///   shutdown.
    /// - A [newcomer](crate::Server::newcomer_time) is notified with its first read, as in a shutdown.
    /// - A client that still opens (PROXY header, handshake, first byte) has one second for that, as in a shutdown.
    /// - If the handler has ended already, and the connection is only sending its last bytes, nothing changes.
    /// - The handler can tell that it alone is drained: [`Connection::is_draining`](crate::Connection::is_draining) is
    ///   true, and [`phase`](Self::phase) of [`Connection::server`](crate::Connection::server) is still
    ///   [`Phase::Serving`], or [`Phase::LameDuck`] after a request with a [lame duck](crate::Server::lame_duck).
    ///
    /// For a last word use `drain_connection`; to cut at once use [`cancel_connection`](Self::cancel_connection).
    ///
    /// It searches all connections: call it for an operator's request, not for each client's.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::prelude::*;
    /// use ebbtide::{Connection, Listener, Phase, Server};
    ///
    /// let (listener, connector) = Listener::memory();
    /// let handler = async |mut conn: Connection| {
    ///     conn.draining().await;
    ///     match conn.server().phase() < Phase::Draining {
    ///         true => conn.write_all(b"you were kicked").await,
    ///         false => conn.write_all(b"the server closes").await,
    ///     }
    /// };
    /// let kick = async |server: ebbtide::Handle| {
    ///     let mut client = connector.connect().await?;
    ///     while server.connection_count() == 0 {
    ///         async_std::task::yield_now().await;
    ///     }
    ///     assert!(server.drain_connection(server.connections()[0].id()));
    ///     let mut text = String::new();
    ///     client.read_to_string(&mut text).await?;
    ///     Ok(text)
    /// };
    /// let server = Server::new(listener).newcomer_time(std::time::Duration::ZERO);
    /// let (text, report) = server.scope(handler, kick).await?;
    /// assert_eq!((text.as_str(), report.completed()), ("you were kicked", 1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "kick")]
    pub fn drain_connection(&self, id: ConnectionId) -> bool {
        match self.run.registry.find(id) {
            Some(record) => {
                if !record.has_returned() {
                    let deadline = time::now() + self.run.own_grace();
                    record.drain_alone(DrainAlone { deadline, reason: EndReason::DrainedById });
                    let (id, peer) = (record.id.as_u64(), record.peer());
                    run_line!(
                        info,
                        self.run,
                        [connection = id, peer:% = peer],
                        "draining {} on request",
                        Named(&record)
                    );
                }
                true
            }
            None => false,
        }
    }

    /// Returns a future that is ready once the server is in this phase, or in a later one.
    ///
    /// The future owns what it needs: it fits into a `select` or a `race`, a struct, or another task.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping it, or by polling a reference to it.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Phase, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// let serving = async_std::task::spawn(server.serve(async |_: Connection| {}));
    /// handle.reached(Phase::Serving).await; // clients are accepted
    /// handle.shutdown();
    /// handle.reached(Phase::Draining).await; // the port refuses
    /// assert!(!handle.is_serving());
    /// # serving.await?;
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn reached(&self, phase: Phase) -> Reached {
        Reached::new(Arc::clone(&self.run), phase)
    }

    /// Returns the phases of the server as a stream: the current phase, and then each phase that the server enters.
    ///
    /// The last item is [`Closed`](Phase::Closed). No phase is missed, however late the stream is polled.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future of `next`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::prelude::*;
    /// use ebbtide::{Connection, Phase, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let mut phases = server.handle().phases();
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// for phase in [Phase::Bound, Phase::Serving, Phase::Draining, Phase::Closed] {
    ///     assert_eq!(phases.next().await, Some(phase));
    /// }
    /// assert_eq!(phases.next().await, None);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "watch")]
    pub fn phases(&self) -> Phases {
        Phases::new(Arc::clone(&self.run))
    }

    /// Runs `future` until a shutdown or a cancel is requested. Returns `None` if one was, and `future` is pending.
    ///
    /// The future is polled first, so a result that is ready is never discarded. The request comes before the drain by
    /// the [lame duck](crate::Server::lame_duck), if there is one.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `future`, which is dropped at the request.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    /// use std::future::{pending, ready};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// assert_eq!(handle.until_shutdown(ready(7)).await, Some(7));
    /// handle.shutdown();
    /// assert_eq!(handle.until_shutdown(pending::<u8>()).await, None);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "CancellationToken")]
    #[doc(alias = "run_until_cancelled")]
    pub fn until_shutdown<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        self.run.requested.until(future)
    }

    /// Returns the current phase of the server.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Phase, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// assert_eq!(handle.phase(), Phase::Bound);
    /// let (phase, _) = server.scope(async |_: Connection| {}, async |server| Ok(server.phase())).await?;
    /// assert_eq!((phase, handle.phase()), (Phase::Serving, Phase::Closed));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn phase(&self) -> Phase {
        self.run.phase()
    }

    /// Returns the address that the server listens on: the first of [`local_addrs`](Self::local_addrs).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::Server;
    ///
    /// let handle = Server::bind("127.0.0.1:0").await?.handle();
    /// assert_ne!(handle.local_addr().port(), Some(0)); // the port that the system chose
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn local_addr(&self) -> &Address {
        self.run.name.addresses.first()
    }

    /// Returns all addresses that the server listens on, in the order in which the listeners were added.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Listener, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?.add_listener(Listener::memory().0);
    /// let handle = server.handle();
    /// let addresses: Vec<_> = handle.local_addrs().collect();
    /// assert_eq!((addresses.len(), addresses[0]), (2, handle.local_addr()));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn local_addrs(&self) -> impl Iterator<Item = &Address> {
        self.run.name.addresses.iter()
    }

    /// Returns how many connections are open.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Server};
    /// use std::future::pending;
    ///
    /// let (listener, connector) = Listener::memory();
    /// let body = async |server: ebbtide::Handle| {
    ///     let client = connector.connect().await?;
    ///     while server.connection_count() < 1 {
    ///         async_std::task::yield_now().await; // it is accepted in a moment
    ///     }
    ///     server.cancel();
    ///     Ok(client)
    /// };
    /// let server = Server::new(listener);
    /// let handle = server.handle();
    /// server.scope(|_: Connection| pending::<()>(), body).await?;
    /// assert_eq!(handle.connection_count(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "len")]
    pub fn connection_count(&self) -> usize {
        self.run.registry.len()
    }

    /// Returns the open connections, in the order of acceptance.
    ///
    /// It looks at each of them: call it for an operator's request, not for each client's.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Server};
    ///
    /// let (listener, connector) = Listener::memory();
    /// let client = connector.connect().await?;
    /// let handler = async |conn: Connection| {
    ///     let all = conn.server().connections();
    ///     assert_eq!(all[0].id(), conn.id());
    ///     println!("{}", all[0]); // connection 0 from memory:0, serving, 1ms old
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| ()).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.run.registry.all().iter().map(|record| ConnectionInfo::of(record)).collect()
    }

    /// Returns a snapshot of what runs in the server: connections, their tasks, and the server's own tasks, as a tree.
    ///
    /// Its `Display` is a text for a terminal: see [`TaskTree`]. It looks at all connections, so it costs about a
    /// millisecond for 10,000.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?.name("echo");
    /// let (tree, _) = server
    ///     .scope(async |_: Connection| {}, async |server| {
    ///         server.spawn_background(std::future::pending::<()>());
    ///         Ok(server.task_tree().to_string())
    ///     })
    ///     .await?;
    /// assert!(tree.contains("└─ background task at "), "{tree}");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "pstree")]
    pub fn task_tree(&self) -> TaskTree {
        TaskTree::of(&self.run, task_tree::MOST)
    }

    /// Returns a tree with at most so many connections.
    #[cfg(feature = "admin")]
    pub(crate) fn task_tree_of(&self, most: usize) -> TaskTree {
        TaskTree::of(&self.run, most)
    }

    /// Returns how far the drain has come. `None` before it begins.
    ///
    /// After the end of the server nothing is left, and [`elapsed`](DrainProgress::elapsed) goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// assert!(handle.drain_progress().is_none());
    /// server.scope(async |_: Connection| {}, async |_| {}).await?;
    /// assert_eq!(handle.drain_progress().unwrap().connections_left(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "progress")]
    pub fn drain_progress(&self) -> Option<DrainProgress> {
        self.run.drain_progress()
    }

    /// Runs `future` until the drain begins. Returns `None` if `future` is pending, and the drain has begun or the
    /// server has closed without one.
    ///
    /// The future is polled first, so a result that is ready is never discarded. In a handler use
    /// [`Connection::until_draining`](crate::Connection::until_draining), which is cheaper.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `future`, which is dropped when the drain begins.
    /// [`Connection::until_draining`](crate::Connection::until_draining) lists what the futures of streams lose.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::task::sleep;
    /// use ebbtide::{Connection, Server};
    /// use std::time::Duration;
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// let cleaner = handle.clone().spawn(async move {
    ///     while handle.until_draining(sleep(Duration::from_secs(60))).await.is_some() {
    ///         // remove what is old
    ///     }
    /// });
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert!(cleaner.await.is_ok()); // it ended by itself
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "CancellationToken")]
    #[doc(alias = "run_until_cancelled")]
    pub fn until_draining<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        self.run.draining.until(future)
    }

    /// Starts a task as a child of the server: a drain waits for it, for at most the grace period, and then cancels
    /// and joins it with the handlers.
    ///
    /// So a task that loops must end itself ([`until_draining`](Self::until_draining)), or be started with
    /// [`spawn_background`](Self::spawn_background).
    ///
    /// - A server that does not serve yet accepts tasks too.
    /// - A server that is cancelling or closed refuses the task: it drops `future` without polling it, and the handle
    ///   returns a [cancelled](crate::JoinError::is_cancelled) error.
    /// - Dropping the [`JoinHandle`] leaves the task in the server. A panic of a task whose handle is gone is logged,
    ///   and ends nothing else.
    ///
    /// # Large futures
    ///
    /// As for a handler: see "Large handlers" at [`Server::serve`](crate::Server::serve).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let task = server.handle().spawn(async { 6 * 7 });
    /// server.scope(async |_: Connection| {}, async |_| ()).await?; // joins the task
    /// assert_eq!(task.await.unwrap(), 42);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "TaskTracker")]
    #[doc(alias = "nursery")]
    #[doc(alias = "start_soon")]
    #[doc(alias = "create_task")]
    #[doc(alias = "errgroup")]
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_in(&self.run.tasks, (Label::At(at), at), future))
    }

    /// Starts a task with a name. Log lines show the name beside the line of this call, for example when a drain waits
    /// for the task.
    ///
    /// Everything else is as with [`spawn`](Self::spawn).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let task = server.handle().spawn_named("warm the cache", async { "warm" });
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(task.await.unwrap(), "warm");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[track_caller]
    pub fn spawn_named<F>(&self, name: impl Into<Cow<'static, str>>, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => {
            let (label, future) = named(name.into(), at, future);
            self.spawn_in(&self.run.tasks, (label, at), future)
        })
    }

    /// Starts a task that no drain waits for. It is cancelled and joined when the last connection and the last task of
    /// [`spawn`](Self::spawn) have ended.
    ///
    /// For loops that run as long as the server: a reporter, a cleaner, a reload of certificates. A cancel of the
    /// server cancels it with everything else. Everything else is as with [`spawn`](Self::spawn).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use async_std::task;
    /// use ebbtide::{Connection, Server};
    /// use std::time::Duration;
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// handle.clone().spawn_background(async move {
    ///     loop {
    ///         println!("{} connections", handle.connection_count());
    ///         task::sleep(Duration::from_secs(60)).await;
    ///     }
    /// });
    /// let (_, report) = server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert!(report.elapsed() < Duration::from_secs(1));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "daemon")]
    #[track_caller]
    pub fn spawn_background<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_in(&self.run.background, (Label::At(at), at), future))
    }

    /// Spawns in one of the run's groups. The task holds a completion guard, so the run is not closed before it ends.
    fn spawn_in<F>(
        &self,
        group: &Spawner,
        (label, at): (Label, &'static Location<'static>),
        future: F,
    ) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        group.spawn_guarded(label, at, future, |guard: &mut TaskGuard| guard.arm(&self.run))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("local_addr", self.local_addr())
            .field("phase", &self.phase())
            .field("connections", &self.connection_count())
            .field("paused", &self.is_paused())
            .finish()
    }
}

/// Future of a server's [`Report`]: ready once the server is closed.
///
/// Returned by [`Handle::closed`], [`Handle::shutdown`] and [`Handle::cancel`]. *Closed* means:
///
/// - no handler or task is running, and the future of each has been dropped;
/// - every listening socket is closed;
/// - every accepted socket is shut down both ways.
///
/// # Do not wait for yourself
///
/// A handler that awaits it waits for itself: the server is closed after its handlers. Such a handler is cancelled at
/// the end of the grace period, and a warning is logged.
///
/// Do not block on it in a destructor (`block_on(handle.shutdown())`). In a handler's future it waits for itself; in a
/// drop of the server it waits for that same drop. Neither ends.
///
/// # Cancel safety
///
/// Dropping it loses nothing and withdraws nothing: a requested shutdown continues.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, Report, Server};
///
/// let server = Server::bind("127.0.0.1:0").await?;
/// let closed = server.handle().closed();
/// server.scope(async |_: Connection| {}, async |_| ()).await?;
/// let report: Report = closed.await;
/// assert_eq!(report.accepted(), 0);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "wait_closed")]
#[doc(alias = "Waiter")]
pub struct Closed {
    run: Arc<Run>,
    /// Its place among the waiters of `run.closed`. `None`: not registered.
    key: Option<usize>,
    /// The warning about a task that waits for itself was logged.
    warned: bool,
}

impl Future for Closed {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let this = &mut *self;
        if this.run.closed.poll(cx, &mut this.key).is_pending() {
            if !this.warned && is_inside(&this.run) && this.run.requested.is_signalled() {
                this.warned = true;
                run_line!(
                    warn,
                    this.run,
                    [],
                    "a handler or a task of the server awaits the end of its own server, and so waits for itself. Drop \
                     the `Closed` and return. A task that awaits it is cancelled at the end of the grace period. A \
                     task that blocks its thread on it (`block_on`) can never be cancelled, and the server never closes"
                );
            }
            return Poll::Pending;
        }
        Poll::Ready(this.run.report())
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.run.closed.forget(&mut self.key);
    }
}

impl fmt::Debug for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closed").field("phase", &self.run.phase()).finish()
    }
}
