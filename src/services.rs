//! [`ServiceGroup`]: several servers and tasks that start in order, and stop in the reverse order.
//!
//! This file has the public types. The logic is below:
//!
//! - `running`: a group from its start to its end;
//! - `service`: one server or task of it;
//! - `stopping`: tells a task that its turn to stop has come;
//! - `observer`: how a module above this one follows a group;
//! - `reports`, `error`: what `run` returns.

mod error;
#[cfg_attr(
    not(all(feature = "systemd", target_os = "linux")),
    allow(dead_code, reason = "only `systemd` follows groups")
)]
pub(crate) mod observer;
mod reports;
mod running;
mod service;
mod stopping;

use crate::group::{Executor, Job};
use crate::handler::{HandlerOutput, Outcome};
use crate::panic::Kept;
use crate::server::Serve;
use crate::server::shutdown::{Once, shutdown_stream};
use crate::signal::Trigger;
use crate::sync::event::Event;
pub use error::ServiceError;
use futures_core::Stream;
use observer::GroupObserver;
pub use reports::{ServiceReports, TaskEnd};
use running::{Following, Running, Services};
use service::{Service, Work};
use std::borrow::Cow;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
pub use stopping::Stopping;

/// Several servers and tasks that run as one unit: they start in the order in which they were added, stop in the
/// reverse order, and have one deadline.
///
/// Add what others need first. A health server that is added first answers while the main server, added last, drains.
///
/// # Stop
///
/// The last service is asked to stop; when it has ended, the one before it is asked, and so on. A server is shut down
/// as by [`Handle::shutdown`](crate::Handle::shutdown). For a task its [`Stopping`] is ready.
///
/// | the group stops because | what happens | [`run`](Self::run) returns |
/// |---|---|---|
/// | of the first item of a [shutdown stream](Self::shutdown_on) (Ctrl-C, SIGTERM), or [`ServiceGroupHandle::shutdown`] | all stop, one after the other | the reports |
/// | one of its servers was asked to stop by something else: its own handle, its own shutdown stream | the same | the reports |
/// | a server or a task failed, or a task panicked | the same | the first failure, with the reports in it |
/// | of the second item of a shutdown stream, or [`ServiceGroupHandle::cancel`] | all are cancelled at once | the reports, or the first failure |
/// | the future of `run` is dropped | all are cancelled and joined **synchronously, inside the drop**, one after the other, the last first | |
///
/// A task that returns `()` or `Ok(())` has ended, and nothing else happens. A group ends when all its services have:
/// one without servers when its last task ends, and an empty one at once.
///
/// # Deadline
///
/// The exit has one limit, counted from the request: [`grace`](Self::grace). The server that is asked has what is left
/// of it, lame duck included, or its own limit if that is shorter. Then it is cancelled; so is a task. The services
/// before it have what is left: after the deadline, nothing, so they are cancelled as soon as they are asked. As ever,
/// *closed* counts more than the limit: a handler or a task that blocks its thread is waited for, with a warning once a
/// second.
///
/// With the feature `systemd`, `ServiceGroup::notify_systemd` asks systemd for that time.
///
/// # Compared with
///
/// | | there | here |
/// |---|---|---|
/// | [`TaskGroup`](crate::TaskGroup) | tasks that are equal, and stop at the same time | an order, a deadline, and servers; the first failure stops all |
/// | swift-service-lifecycle's `ServiceGroup` | a service that returns stops the group, unless set otherwise; a limit for each shutdown | a task may return; one deadline for all |
/// | oklog's `run.Group` | the first actor that returns interrupts all, at the same time | in order |
/// | Go's `errgroup`, trio's nursery | the first failure cancels all, at the same time | asked to stop, in order; cancelled at the deadline |
///
/// # Examples
///
/// ```no_run
/// use async_std::task::sleep;
/// use ebbtide::{Connection, Server, ServiceGroup, Stopping, signal};
/// use std::io;
/// use std::time::Duration;
///
/// # async fn echo(_: Connection) {}
/// # async fn health(_: Connection) {}
/// #[async_std::main]
/// async fn main() -> io::Result<()> {
///     let signals = signal::termination()?;
///     let admin = Server::bind("127.0.0.1:9999").await?.name("admin");
///     let main = Server::bind("127.0.0.1:8888").await?.name("echo");
///     let reports = ServiceGroup::new()
///         .shutdown_on(signals)
///         .server(admin.serve(health)) // starts first, stops last
///         .task("cleaner", async |stopping: Stopping| {
///             while stopping.until(sleep(Duration::from_secs(60))).await.is_some() {
///                 // remove what is old
///             }
///         })
///         .server(main.serve(echo)) // stops first
///         .run()
///         .await?;
///     println!("{reports}");
///     Ok(())
/// }
/// ```
///
/// Its handle stops it:
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Cause, Connection, Server, ServiceGroup};
///
/// let server = Server::bind("127.0.0.1:0").await?.name("echo");
/// let group = ServiceGroup::new().server(server.serve(async |_: Connection| {}));
/// let handle = group.handle();
/// let running = async_std::task::spawn(group.run());
/// handle.shutdown();
/// let reports = running.await?;
/// assert_eq!(reports.report("echo").unwrap().cause(), Cause::Shutdown);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "run.Group")]
#[doc(alias = "errgroup")]
#[doc(alias = "nursery")]
#[doc(alias = "supervisor")]
#[must_use = "its services start when `run` is awaited, and are closed when it is dropped"]
pub struct ServiceGroup {
    services: Services,
    streams: Vec<Following>,
    control: Arc<Control>,
    /// `None`: the longest of the servers' own.
    grace: Option<Option<Duration>>,
    executor: Executor,
    observer: Option<Box<dyn GroupObserver>>,
}

/// Requests of handles.
#[derive(Debug, Default)]
struct Control {
    shutdown: Event,
    cancel: Event,
}

impl ServiceGroup {
    /// Makes an empty group. Its tasks run on the default executor, as those of
    /// [`TaskGroup::new`](crate::TaskGroup::new) do.
    ///
    /// With neither feature `async-std` nor `smol` this function does not exist.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::ServiceGroup;
    ///
    /// let reports = ServiceGroup::new().run().await?; // nothing to wait for
    /// assert_eq!(reports.servers().count() + reports.tasks().count(), 0);
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    #[cfg(any(feature = "async-std", feature = "smol"))]
    pub fn new() -> Self {
        Self::with_executor(Executor::current())
    }

    /// Makes an empty group that runs its tasks on an executor of yours, as [`TaskGroup::on`](crate::TaskGroup::on)
    /// does.
    ///
    /// Its servers keep their own: see [`Server::executor`](crate::Server::executor).
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::{Job, ServiceGroup, Stopping};
    /// use std::thread;
    ///
    /// # async_std::task::block_on(async {
    /// let group = ServiceGroup::on(|job: Job| {
    ///     thread::spawn(|| async_std::task::block_on(job));
    /// });
    /// let reports = group.task("once", async |_: Stopping| {}).run().await?;
    /// assert_eq!(reports.tasks().count(), 1);
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    #[doc(alias = "spawn_on")]
    pub fn on(executor: impl Fn(Job) + Send + Sync + 'static) -> Self {
        Self::with_executor(Executor::new(executor))
    }

    fn with_executor(executor: Executor) -> Self {
        let (services, streams, control) = Default::default();
        Self { services, streams, control, grace: None, executor, observer: None }
    }

    /// Adds a server: the future that [`Server::serve`](crate::Server::serve), or `Server::serve_http`, returns.
    ///
    /// The server starts when its turn comes. Until then its clients wait in the backlog. In logs and reports its name
    /// is [`Server::name`](crate::Server::name).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server, ServiceGroup, Stopping};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let handle = server.handle();
    /// let group = ServiceGroup::new()
    ///     .server(server.serve(async |_: Connection| {}))
    ///     .task("client", async move |_: Stopping| {
    ///         assert!(handle.is_serving()); // it was added before
    ///         handle.shutdown();
    ///     });
    /// assert_eq!(group.run().await?.servers().count(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn server(mut self, serve: Serve) -> Self {
        self.services.0.push(Service::server(serve));
        self
    }

    /// Adds a task, with its name in logs and reports.
    ///
    /// The task is an async function or closure that takes a [`Stopping`], and returns what a handler may return: `()`,
    /// `!`, or `Result<(), E>`. A closure that ends with `Ok(())` names its error type:
    /// `async |stopping: Stopping| -> io::Result<()> { … }`. It may own what it captures: `async move |stopping| …`.
    ///
    /// A task that does not end when its `Stopping` is ready is cancelled at the deadline, and a warning is logged:
    /// its future is dropped. An error that the task returns, and a panic of it, stops the group.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping};
    /// use std::io;
    ///
    /// async fn import(_: Stopping) -> io::Result<()> {
    ///     Err(io::ErrorKind::NotFound.into())
    /// }
    ///
    /// let group = ServiceGroup::new()
    ///     .task("waits", async |stopping: Stopping| stopping.await)
    ///     .task("import", import);
    /// assert_eq!(group.run().await.unwrap_err().service(), "import"); // both have ended
    /// # });
    /// ```
    #[doc(alias = "spawn")]
    #[doc(alias = "start_soon")]
    #[doc(alias = "Go")]
    #[doc(alias = "worker")]
    #[track_caller]
    pub fn task<F, Fut>(mut self, name: impl Into<Cow<'static, str>>, task: F) -> Self
    where
        F: FnOnce(Stopping) -> Fut + Send + 'static,
        Fut: Future<Output: HandlerOutput> + Send + 'static,
    {
        let work: Work = Box::new(|stopping| Box::pin(run_task(task, stopping)));
        self.services.0.push(Service::task(name.into(), work, Location::caller()));
        self
    }

    /// Stops the group at the first item of a stream, and cancels all services at the second, as
    /// [`Server::shutdown_on`](crate::Server::shutdown_on) does with one server.
    ///
    /// The stream is polled while the group runs, by the future of [`run`](Self::run). A group may have several
    /// streams: the first item of another one ends the [lame duck](crate::Server::lame_duck) of the server that is
    /// asked to stop at that moment. A stream that panics counts as a request.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping, signal};
    ///
    /// let signals = signal::termination()?; // Ctrl-C and SIGTERM
    /// let group = ServiceGroup::new()
    ///     .shutdown_on(signals)
    ///     .task("waits", async |stopping: Stopping| stopping.await);
    /// println!("{}", group.run().await?);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "graceful_shutdown")]
    #[doc(alias = "SIGTERM")]
    pub fn shutdown_on<S>(mut self, stream: S) -> Self
    where
        S: Stream<Item: Trigger> + Send + 'static, // `signal::termination()` is a `Result`: add `?`
    {
        self.streams.push(Following::new(shutdown_stream(stream)));
        self
    }

    /// Stops the group when a future is ready: for example the [`Stopping`] of a group around it.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping};
    /// use std::time::Duration;
    ///
    /// let timeout = async_std::task::sleep(Duration::from_millis(10));
    /// let group = ServiceGroup::new().shutdown_when(timeout).task("outer", async |stopping: Stopping| {
    ///     let inner = ServiceGroup::new().shutdown_when(stopping);
    ///     inner.task("inner", async |stopping: Stopping| stopping.await).run().await.map(drop)
    /// });
    /// group.run().await?;
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    #[doc(alias = "with_graceful_shutdown")]
    pub fn shutdown_when<F>(self, future: F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shutdown_on(Once::new(future))
    }

    /// Sets how long the exit of all services together may last, counted from the request, lame ducks included.
    ///
    /// `None` means no limit; zero cancels each service when it is asked. Default: the longest lame duck and grace of
    /// the group's servers, no limit if one of them has none, and 8 seconds if there is no server.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping, TaskEnd};
    /// use std::future::pending;
    /// use std::time::Duration;
    ///
    /// let group = ServiceGroup::new()
    ///     .grace(Duration::from_millis(50))
    ///     .shutdown_when(async {})
    ///     .task("stuck", async |_: Stopping| pending::<()>().await);
    /// assert_eq!(group.run().await?.tasks().next(), Some(("stuck", TaskEnd::Cancelled)));
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    #[doc(alias = "timeout")]
    pub fn grace(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.grace = Some(limit.into());
        self
    }

    /// Sets the observer, which `make` makes, unless there is one.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    pub(crate) fn observe(mut self, make: impl FnOnce() -> Option<Box<dyn GroupObserver>>) -> Self {
        self.observer = self.observer.or_else(make);
        self
    }

    /// Returns a handle, which stops the group from anywhere.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping};
    ///
    /// let group = ServiceGroup::new().task("waits", async |stopping: Stopping| stopping.await);
    /// let handle = group.handle();
    /// let running = async_std::task::spawn(group.run());
    /// handle.shutdown();
    /// running.await?;
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    pub fn handle(&self) -> ServiceGroupHandle {
        ServiceGroupHandle { control: Arc::clone(&self.control) }
    }

    /// Starts the services in order, and waits until all have ended.
    ///
    /// A server has started when its accept loops are running, and a task when it was given to the executor. If a
    /// service stops the group at once, for example because a server was closed before, the services behind it are not
    /// started: a server is closed, a task is dropped.
    ///
    /// This future carries the stop out: await it, and do not block its thread. The phases and deadlines of a server
    /// that was asked to stop work even if it is not polled.
    ///
    /// # Errors
    ///
    /// The first failure, once all services have ended: the error of a server, the error that a task returned, or the
    /// panic of a task. Each failure was logged, a panic at error, the others at warn.
    ///
    /// # Panics
    ///
    /// If the future of a server panics, the panic continues once all services have ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels and joins all services synchronously, one after the other, the last first. When the
    /// drop returns, every server is closed and the future of every task has been dropped.
    /// [`TaskGroup`](crate::TaskGroup#drop) names the rare exceptions.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Server, ServiceGroup, Stopping};
    ///
    /// let server = Server::bind("127.0.0.1:0").await?.name("echo");
    /// let error = ServiceGroup::new()
    ///     .server(server.serve(async |_: Connection| {}))
    ///     .task("cleaner", async |_: Stopping| Err::<(), _>("disk full"))
    ///     .run()
    ///     .await
    ///     .unwrap_err();
    /// assert_eq!(error.service(), "cleaner");
    /// assert!(error.reports().report("echo").is_some()); // it was drained
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "wait")]
    #[doc(alias = "join")]
    pub async fn run(self) -> Result<ServiceReports, ServiceError> {
        let Self { services, streams, control, grace, executor, observer } = self;
        let mut running = Running::new((services, streams), control, grace, executor, observer);
        poll_fn(|cx| running.poll(cx)).await;
        running.finish().await
    }
}

/// Runs a task of the user's. Its panics are caught, in its call, its polls and its destructor.
async fn run_task<F, Fut>(task: F, stopping: Stopping) -> Outcome
where
    F: FnOnce(Stopping) -> Fut,
    Fut: Future<Output: HandlerOutput>,
{
    match crate::panic::catch(|| Kept::new(Box::pin(task(stopping)))) {
        Ok(mut future) => poll_fn(|cx| Outcome::poll(Pin::as_mut(future.get_mut()), cx)).await,
        Err(payload) => Outcome::panicked(payload),
    }
}

#[cfg(any(feature = "async-std", feature = "smol"))]
impl Default for ServiceGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ServiceGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceGroup").field("services", &self.services.0).finish_non_exhaustive()
    }
}

/// Handle that stops a [`ServiceGroup`]. It is cheap to clone, and keeps nothing alive.
///
/// The future of [`ServiceGroup::run`] carries its requests out. What was requested before the first poll of that
/// future ends the group before a service has started.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{ServiceGroup, ServiceGroupHandle, Stopping};
///
/// let group = ServiceGroup::new();
/// let handle: ServiceGroupHandle = group.handle();
/// let group = group.task("stops all", async move |_: Stopping| handle.shutdown());
/// group.run().await?;
/// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct ServiceGroupHandle {
    control: Arc<Control>,
}

impl ServiceGroupHandle {
    /// Requests that all services stop, one after the other. Returns at once; a further call changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping};
    ///
    /// let group = ServiceGroup::new().task("waits", async |stopping: Stopping| stopping.await);
    /// group.handle().shutdown();
    /// group.run().await?;
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    #[doc(alias = "triggerGracefulShutdown")]
    pub fn shutdown(&self) {
        self.control.shutdown.signal();
    }

    /// Requests the immediate end of all services. Returns at once.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping, TaskEnd};
    ///
    /// let group = ServiceGroup::new().task("stuck", async |_: Stopping| std::future::pending::<()>().await);
    /// group.handle().cancel();
    /// assert_eq!(group.run().await?.tasks().next(), Some(("stuck", TaskEnd::Cancelled)));
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    #[doc(alias = "abort")]
    pub fn cancel(&self) {
        self.control.cancel.signal();
    }
}

impl fmt::Debug for ServiceGroupHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceGroupHandle")
            .field("shutdown", &self.control.shutdown.is_signalled())
            .field("cancel", &self.control.cancel.is_signalled())
            .finish()
    }
}
