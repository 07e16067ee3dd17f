//! [`Handle`] and [`Closed`]: requests to a run, waiting for its end, and looking at it.

use super::completion::{TaskGuard, is_inside};
use super::counts::Counts;
use super::end_reason::EndReason;
use super::name::run_line;
use super::phases::{Phases, Reached};
use super::record::{AbortReason, DrainAlone, Named};
use super::registry::{ConnectionId, ConnectionInfo};
use super::report::{Cause, Report};
use super::{Run, phase::Phase};
use crate::address::Address;
use crate::group::{JoinHandle, Label, Spawner, boxed_if_large, named};
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Handle of a server: requests its end, waits for it, and looks at the server, from anywhere.
///
/// Made by [`Server::handle`](crate::Server::handle), [`Connection::server`](crate::Connection::server), and given to
/// the body of [`Server::scope`](crate::Server::scope). Cheap to clone. It keeps nothing open: a server of which only
/// handles are left is closed.
#[derive(Clone)]
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

    /// Requests a graceful shutdown: the server stops accepting, notifies its handlers, gives them the grace period,
    /// and cancels what is left.
    ///
    /// The request is made whether or not the returned [`Closed`] is awaited. A second request skips what is left of
    /// a [lame duck](crate::Server::lame_duck), and changes nothing else. A server that does not serve yet is closed on
    /// the spot, and its tasks are cancelled.
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
    #[doc(alias = "graceful_shutdown")]
    pub fn shutdown(&self) -> Closed {
        self.run.request(Cause::Shutdown);
        self.closed()
    }

    /// Requests a graceful shutdown that is over within `limit` from now, lame duck and grace together: a `Duration`,
    /// or `None` for no limit. What is left then is cancelled.
    ///
    /// It takes the place of the server's own limits if it is the first request, be it longer or shorter; then a
    /// [lame duck](crate::Server::lame_duck) lasts at most half of it. After another request it only brings the
    /// deadline nearer, and skips what is left of the lame duck. Zero cancels.
    ///
    /// The request is made whether or not the returned [`Closed`] is awaited.
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
    /// assert!(report.elapsed() < Duration::from_secs(8)); // the grace period
    /// # serving.await?;
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn shutdown_within(&self, limit: impl Into<Option<Duration>>) -> Closed {
        self.run.request_within(limit.into());
        self.closed()
    }

    /// Requests the end now: every handler's future is dropped, without a grace period.
    ///
    /// The request is made whether or not the returned [`Closed`] is awaited. During a drain it ends the grace period.
    pub fn cancel(&self) -> Closed {
        self.run.cancel(Cause::Cancel);
        self.closed()
    }

    /// Waits until the server is closed, without requesting it.
    #[must_use = "await it; `shutdown` and `cancel` request the end, this only waits"]
    pub fn closed(&self) -> Closed {
        Closed { run: Arc::clone(&self.run), key: None, warned: false }
    }

    /// Returns whether clients are accepted: from the first poll of `serve` until the last listening socket is closed.
    ///
    /// Once it is false again the port refuses.
    pub fn is_serving(&self) -> bool {
        self.run.is_serving()
    }

    /// Returns whether a load balancer should send clients: the server accepts, is not [paused](Self::pause), and no
    /// shutdown was requested. During a [lame duck](crate::Server::lame_duck) it is false while clients are still
    /// accepted.
    pub fn is_ready(&self) -> bool {
        self.run.is_ready()
    }

    /// Returns how many connections there may be at a time. See
    /// [`Server::max_connections`](crate::Server::max_connections).
    pub fn max_connections(&self) -> usize {
        self.run.limit.max()
    }

    /// Changes the limit, also while serving. A lower limit closes no connection: no client is accepted until enough
    /// have left. With 0 no client is accepted at all.
    pub fn set_max_connections(&self, max: usize) {
        let before = self.run.limit.max();
        self.run.limit.set_max(max);
        if max != before {
            run_line!(info, self.run, [], "at most {max} connections at a time; before, {before}");
        }
    }

    /// Stops accepting until [`resume`](Self::resume); the kernel queues new clients. Open connections go on. A server
    /// that is shut down while it is paused closes its queued clients unserved; they count as
    /// [`refused`](crate::Report::refused).
    pub fn pause(&self) {
        if !self.run.limit.set_paused(true) {
            run_line!(info, self.run, [], "accepting is paused");
        }
    }

    /// Returns whether accepting is [paused](Self::pause).
    pub fn is_paused(&self) -> bool {
        self.run.limit.is_paused()
    }

    /// Accepts again.
    pub fn resume(&self) {
        if self.run.limit.set_paused(false) {
            run_line!(info, self.run, [], "accepting goes on");
        }
    }

    /// Returns the numbers of now: all that a [`Report`] has, and how many connections are in which state. It looks at
    /// each connection: meant for a metrics page, not for each request. See [`Counts`].
    ///
    /// Those of a closed server stay as they are in its report.
    #[doc(alias = "metrics")]
    #[doc(alias = "stats")]
    pub fn counts(&self) -> Counts {
        self.run.counts()
    }

    /// Returns how many times accepting a client has failed, whether the client or a lack of resources was the reason.
    pub fn accept_errors(&self) -> u64 {
        self.run.counters.accept_errors()
    }

    /// Cancels one connection now: its handler is dropped, and counted as cancelled. Returns whether there is such a
    /// connection.
    ///
    /// It searches all connections: meant for people, not for each request.
    pub fn cancel_connection(&self, id: ConnectionId) -> bool {
        match self.run.registry.find(id) {
            Some(record) => {
                record.abort(AbortReason::CancelledById);
                true
            }
            None => false,
        }
    }

    /// Drains one connection: its handler is notified as in a shutdown, has the
    /// [grace period](crate::Server::grace) (8 seconds if that has no limit), and is cut after it, with a warning. It
    /// never outlasts a shutdown of the server. Returns whether there is such a connection.
    ///
    /// As in a shutdown a [newcomer](crate::Server::newcomer_time) is notified with its first read. A handler that has
    /// ended, and whose last bytes are still on their way, is let be.
    ///
    /// It searches all connections: meant for people, not for each request.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(server: ebbtide::Handle) {
    /// // Let those go that have been here for a day.
    /// for connection in server.connections() {
    ///     if connection.age().as_secs() > 24 * 60 * 60 {
    ///         server.drain_connection(connection.id());
    ///     }
    /// }
    /// # }
    /// ```
    pub fn drain_connection(&self, id: ConnectionId) -> bool {
        match self.run.registry.find(id) {
            Some(record) => {
                if !record.has_returned() {
                    let deadline = Instant::now() + self.run.own_grace();
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

    /// Returns a future that is ready once the server is in this phase, or in a later one. It owns what it needs, so it
    /// fits into a `select` or a `race`, a struct, or another task.
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
    /// # serving.await?;
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn reached(&self, phase: Phase) -> Reached {
        Reached::new(Arc::clone(&self.run), phase)
    }

    /// Returns the phases of the server as a stream: the one that it is in, and then each that it enters, the last of
    /// which is [`Closed`](Phase::Closed). None that it enters is left out, however late the stream is polled.
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
    pub fn phases(&self) -> Phases {
        Phases::new(Arc::clone(&self.run))
    }

    /// Runs `future` until a shutdown or a cancel is requested: `None` if it is pending and one was. Comes before the
    /// drain by the [lame duck](crate::Server::lame_duck), if there is one.
    pub fn until_shutdown<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        self.run.requested.until(future)
    }

    /// Returns the phase that the server is in.
    pub fn phase(&self) -> Phase {
        self.run.phase()
    }

    /// Returns the address that the server listens on: the first of [`local_addrs`](Self::local_addrs).
    pub fn local_addr(&self) -> &Address {
        self.run.name.addresses.first()
    }

    /// Returns the addresses that the server listens on, in the order in which the listeners were added.
    pub fn local_addrs(&self) -> impl Iterator<Item = &Address> {
        self.run.name.addresses.iter()
    }

    /// Returns how many connections are open.
    pub fn connection_count(&self) -> usize {
        self.run.registry.len()
    }

    /// Returns the open connections, in the order of acceptance. It looks at each of them: meant for people, not for
    /// each request.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.run.registry.all().iter().map(|record| ConnectionInfo::of(record)).collect()
    }

    /// Runs `future` until the drain begins: `None` if it is pending and the drain has begun, or the server has closed
    /// without one.
    ///
    /// The future is polled first, so what is ready is never refused. See
    /// [`Connection::until_draining`](crate::Connection::until_draining) for what is lost with a dropped future;
    /// handlers use that one, which is cheaper.
    pub fn until_draining<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        self.run.draining.until(future)
    }

    /// Starts a task as a child of the server. It gets the grace period in a drain, and is cancelled and joined with
    /// the handlers; so a task that loops ends itself by [`until_draining`](Self::until_draining), or is started with
    /// [`spawn_background`](Self::spawn_background).
    ///
    /// Once the server is cancelling or closed the task is refused: `future` has been dropped without being polled,
    /// and the handle gives a [cancelled](crate::JoinError::is_cancelled) error.
    /// A server that does not serve yet takes tasks too. A panic of a task whose handle is gone is logged, and ends
    /// nothing else.
    ///
    /// # Large futures
    ///
    /// As for a handler: see "Large handlers" at [`Server::serve`](crate::Server::serve).
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_in(&self.run.tasks, (Label::At(at), at), future))
    }

    /// The same with a name, which log lines show beside the line of this call: so that a drain that waits for it says
    /// what it waits for.
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

    /// Starts a task that no drain waits for: it is cancelled and joined when the last connection and the last task of
    /// [`spawn`](Self::spawn) are gone, and with them at a cancel. For loops that run as long as the server: a
    /// reporter, a cleaner, a reload of certificates.
    ///
    /// Everything else is as with [`spawn`](Self::spawn).
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
    #[track_caller]
    pub fn spawn_background<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_in(&self.run.background, (Label::At(at), at), future))
    }

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

/// Future of the server's [`Report`]: ready once the server is closed.
///
/// *Closed* means: no handler or task is running, the future of each has been dropped, every listening socket is
/// closed, and every accepted socket is shut down both ways.
///
/// Awaited inside a handler of the same server it waits for that handler, among others. So the handler is cancelled at
/// the end of the grace period, and a warning is logged.
///
/// Do not block on it in a destructor (`block_on(handle.shutdown())`): in a handler's future that waits for itself, and
/// in a drop of the server for the very drop that it is in.
///
/// # Cancel safety
///
/// Dropping it takes nothing back: a shutdown that was asked for goes on.
pub struct Closed {
    run: Arc<Run>,
    /// The place among the tasks that wait.
    key: Option<usize>,
    /// The warning about waiting for oneself was given.
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
                    "a handler, or a task of the server, awaits the end of its own server, and so of itself. It should \
                     drop the `Closed` and return. One that awaits it is cancelled when the grace period is over; one \
                     that blocks its thread for it (`block_on`) can be ended by nothing, and the server never closes"
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
