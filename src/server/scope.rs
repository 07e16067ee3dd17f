//! [`RunGuard`]: starts a run, and ends it. Every way out of `serve` and `scope` passes through it and leaves the
//! server closed.
//!
//! ```text
//! serve, scope ── RunGuard ── TaskGroup ── supervisor ── RunTasks ─┬─ accept loops: one for each listening socket
//!   (its drop cancels             (a task)                         ├─ connections, and tasks of the server
//!    and joins)                                                    └─ shutdown streams
//! ```
//!
//! A drop of the future of `serve` or `scope` drops the guard, then its group, then the supervisor's future, then the
//! tasks of the run: each of them cancels and joins what is below it. On the orderly ways out the tasks have ended
//! before.

use super::Server;
use super::accept::AcceptLoop;
use super::body::{self, BodyEnd, BodyOutput};
use super::config::Config;
use super::progress::Progress;
use super::shutdown::{RunTasks, ShutdownStream, follow_shutdown_stream};
use super::vanished::end_vanished;
use crate::connection::Connection;
use crate::connection::task::Service;
use crate::error::Error;
use crate::group::{LargeFuture, Name, TaskGroup, is_large};
use crate::handler::HandlerOutput;
use crate::origin::{self, Origin};
use crate::panic::{self, Kept, catch_future, drop_caught};
use crate::run::completion::OpenListener;
use crate::run::handle::Handle;
use crate::run::name::run_line;
use crate::run::phase::Phase;
use crate::run::report::{Cause, Failure, Report};
use crate::run::{Run, Unserved};
use crate::sync::event::Event;
use crate::text::explained;
use log::Level;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

/// Drop guard in the future of `serve` or `scope`: its drop cancels and joins the run.
#[derive(Debug)]
pub(super) struct RunGuard {
    run: Arc<Run>,
    /// The process in which the run was started.
    origin: Origin,
    /// The supervisor's group. Its drop joins everything.
    group: TaskGroup,
}

impl RunGuard {
    /// Starts to serve, unless the server is already closed.
    ///
    /// # Errors
    ///
    /// In a process that was forked after the bind: no thread of the runtime would poll the tasks.
    pub(super) fn start<H, Fut>(server: Server, handler: H) -> Result<Self, Error>
    where
        H: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: HandlerOutput> + Send + 'static,
    {
        if const { is_large::<Fut>() } {
            let boxed = move |conn| -> LargeFuture<Fut::Output> { Box::pin(handler(conn)) };
            Self::start_unboxed(server, Box::new(boxed) as LargeHandler<Fut::Output>)
        } else {
            Self::start_unboxed(server, handler)
        }
    }

    /// Starts to serve with a handler that returns small futures, or boxed ones.
    fn start_unboxed<H, Fut>(server: Server, handler: H) -> Result<Self, Error>
    where
        H: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: HandlerOutput> + Send + 'static,
    {
        let (run, config, streams, side_tasks) = server.into_parts();
        if let Some(failure) = run.why_not_here() {
            drop_caught(streams);
            run.fail(Cause::ListenerFailed, failure);
            let source = run.take_failure().map(Kept::into_inner);
            return Err(Error::new(source.unwrap_or(Failure::Stopped), run.report()));
        }
        origin::runtime_is_here();
        // A run that is closed has given its executor back, and needs none.
        if !run.closed.is_signalled() && !run.executor().exists() {
            drop_caught(streams);
            run.fail(Cause::Dropped, Failure::NoExecutor);
            let source = run.take_failure().map(Kept::into_inner);
            return Err(Error::new(source.unwrap_or(Failure::Stopped), run.report()));
        }
        let group = TaskGroup::with_executor(run.executor());
        let guard = Self { run, origin: Origin::here(), group };
        if let Some((unserved, listeners)) = guard.run.start((config.grace, config.policy.own_grace), config.lame_duck)
        {
            let progress = Progress::new(&guard.run);
            let addresses: Vec<_> = guard.run.name.addresses.iter().map(ToString::to_string).collect();
            let addresses = addresses.join(", ");
            progress.call(Level::Info, move |run| {
                run_line!(info, run, [phase:% = Phase::Serving], "serving on {addresses}");
            });
            let sources = (unserved, listeners);
            let tasks = spawn_all(&guard.run, progress, sources, &config, (streams, side_tasks), handler);
            guard.group.spawn(tasks.supervise());
        }
        Ok(guard)
    }

    pub(super) fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.run))
    }

    /// Polls the body to its end, then requests the shutdown of the server.
    pub(super) async fn drive<F, O, T>(&self, body: impl FnOnce() -> F) -> BodyEnd<T>
    where
        F: Future<Output = O>,
        O: BodyOutput<T>,
    {
        let end = body::drive::<F, O, T>(&self.run, body).await;
        end.request(&self.run);
        end
    }

    /// Waits until the server of a scope is closed. The first failure wins; a panic of the body continues in any case.
    pub(super) async fn finish_with<O: BodyOutput<T>, T>(self, end: BodyEnd<T>) -> Result<(T, Report), Error> {
        let finished = self.finish().await;
        match end {
            BodyEnd::Panicked(payload) => {
                drop_caught(finished); // before the panic continues: a second one would abort the process
                payload.resume()
            }
            BodyEnd::Returned(value) => match finished {
                Ok(report) => Ok((value, report)),
                Err(error) => {
                    drop_caught(value);
                    Err(error)
                }
            },
            BodyEnd::Failed(error) => finished.and_then(|report| match error.take() {
                Some(source) => Err(Error::new(Failure::Body { source }, report)),
                None => Err(Error::new(Failure::Stopped, report)), // not reached: only this line takes the error
            }),
            BodyEnd::Dropped => finished.and_then(|report| match O::of_dropped() {
                Some(value) => Ok((value, report)),
                None => Err(Error::new(Failure::Stopped, report)),
            }),
        }
    }

    /// Waits until the server is closed, and returns its report, or the failure that stopped it.
    pub(super) async fn finish(self) -> Result<Report, Error> {
        self.run.over.wait().await;
        self.group.join().await; // the supervisor has ended; this raises its panic, if it had one
        let report = self.run.report();
        match self.run.take_failure() {
            Some(failure) => Err(Error::new(failure.into_inner(), report)),
            None => Ok(report),
        }
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        if self.origin.is_elsewhere() {
            // A copy in a forked process. The connections are the parent's: a shutdown here would act on them too.
            let nothing = TaskGroup::with_executor(self.run.executor());
            std::mem::forget(std::mem::replace(&mut self.group, nothing));
            return;
        }
        if !self.run.over.is_signalled() {
            self.run.cancel(Cause::Dropped);
            self.run.advance(Phase::Cancelling);
        }
        // The drop of the group cancels and joins everything. A failure that `serve` would have returned is dropped
        // with the last handle.
        let nothing = TaskGroup::with_executor(self.run.executor());
        drop(std::mem::replace(&mut self.group, nothing));
        // Usually there is nothing left. But an executor may have dropped the supervisor before, on another thread,
        // which still destroys what it owned.
        for tasks in [&self.run.connections, &self.run.tasks, &self.run.background] {
            tasks.cancel_and_join();
        }
    }
}

/// A handler that returns large futures, and therefore boxed ones.
type LargeHandler<T> = Box<dyn Fn(Connection) -> LargeFuture<T> + Send + Sync>;

/// Spawns all tasks of a run except the supervisor.
fn spawn_all<H, Fut>(
    run: &Arc<Run>,
    progress: Progress,
    (unserved, listeners): (Unserved, Vec<OpenListener>),
    config: &Config,
    (streams, side_tasks): (Vec<ShutdownStream>, Vec<SideTask>),
    handler: H,
) -> RunTasks
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: HandlerOutput> + Send + 'static,
{
    let Unserved { connections, tasks, background, completion } = unserved;
    let group = || TaskGroup::with_executor(run.executor());
    let all = RunTasks {
        newcomer_time: config.policy.newcomer_time,
        drain_spread: config.drain_spread,
        accept_loops: group(),
        connections,
        tasks,
        background,
        to_the_end: group(),
        progress,
        stop_accepting: Arc::new(Event::default()),
        run: Arc::clone(run),
        completion,
    };
    let service = Arc::new(Service { handler: Kept::new(handler), policy: config.policy });
    for listener in listeners {
        let accept_loop = AcceptLoop {
            listener,
            service: Arc::clone(&service),
            run: Arc::clone(run),
            stop: Arc::clone(&all.stop_accepting),
            progress: all.progress.clone(),
            completion: all.completion.clone(),
        };
        // Made before the task: the executor may drop that before its first poll.
        let needed = Needed::new(run, format!("the accept loop of `{}`", accept_loop.listener.get().local_addr()));
        all.accept_loops.spawn(watch(Arc::clone(run), accept_loop, needed));
    }
    if let (true, Some(limit)) = (cfg!(any(target_os = "linux", target_os = "android")), config.policy.ack_timeout) {
        all.to_the_end.spawn(end_vanished(Arc::clone(run), limit));
    }
    for stream in streams {
        let name = Arc::new("a shutdown stream");
        let follow = follow_shutdown_stream(Arc::clone(run), all.progress.clone(), stream);
        let needed = Needed::new(run, "the task of a shutdown stream".to_owned());
        all.to_the_end.spawner().spawn_own(Arc::downgrade(&name) as Name, async move {
            let _name = name;
            follow.await;
            needed.ended();
        });
    }
    for SideTask { name, start } in side_tasks {
        let (progress, of_run) = (all.progress.clone(), Arc::clone(run));
        let log: SideLog =
            Box::new(move |level, text| progress.log(level, of_run.phase(), of_run.registry.len(), text));
        let (task, needed) = (start(log), Needed::new(run, name.to_owned()));
        all.to_the_end.spawn(async move {
            task.await;
            needed.ended();
        });
    }
    all
}

/// A task of this crate that runs beside a server until its end. A module above this one has made it.
pub(crate) struct SideTask {
    /// Its name in an error.
    name: &'static str,
    start: Box<dyn FnOnce(SideLog) -> SideFuture + Send + Sync>,
}

/// Logs a line of a server, without waiting for the logger.
pub(crate) type SideLog = Box<dyn Fn(Level, String) + Send + Sync>;

/// Future of a [`SideTask`].
pub(crate) type SideFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

#[cfg(all(feature = "systemd", target_os = "linux"))]
impl SideTask {
    pub(crate) fn new<F>(name: &'static str, start: impl FnOnce(SideLog) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, start: Box::new(|log| Box::pin(start(log))) }
    }
}

/// A task that the server needs. If the executor drops it while the server serves, the server shuts down with an error.
/// Without an accept loop clients would wait forever, and without a shutdown stream no request would be heard.
struct Needed {
    run: Arc<Run>,
    /// Its name in the error. `None` once the task has ended by itself.
    task: Option<String>,
}

impl Needed {
    fn new(run: &Arc<Run>, task: String) -> Self {
        Self { run: Arc::clone(run), task: Some(task) }
    }

    fn ended(mut self) {
        self.task = None;
    }
}

impl Drop for Needed {
    fn drop(&mut self) {
        // Once the end is requested, the crate itself drops such tasks.
        if let (Some(task), false) = (self.task.take(), self.run.requested.is_signalled()) {
            run_line!(error, self.run, [], "the executor has dropped {task}, so the server shuts down");
            self.run.fail(Cause::Dropped, Failure::TaskDropped { task });
        }
    }
}

/// Runs an accept loop. A panic counts as a listener that has failed for good: otherwise its clients would wait
/// forever.
async fn watch<H, Fut>(run: Arc<Run>, accept_loop: AcceptLoop<H>, needed: Needed)
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: HandlerOutput> + Send + 'static,
{
    let address = accept_loop.listener.get().local_addr().clone();
    let ended = catch_future(|| accept_loop.run()).await;
    needed.ended();
    if let Err(payload) = ended {
        let text = format!("its accept loop panicked: {}", panic::message(&payload));
        panic::discard(payload);
        let source = explained(io::ErrorKind::Other, &text);
        run.fail(Cause::ListenerFailed, Failure::Listener { address: address.clone(), source });
        run_line!(error, run, [listener:% = address], "cannot accept connections on `{address}` any more: {text}");
    }
}

/// Without the features that bring an executor. `cargo test --no-default-features --lib` runs it.
#[cfg(all(test, not(any(feature = "async-std", feature = "smol"))))]
mod tests {
    use crate::{Connection, ErrorKind, Listener, Server};
    use futures_lite::future::block_on;
    use futures_lite::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_server_without_an_executor_is_closed_with_an_error_that_names_the_remedy() {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener);
        let handle = server.handle();
        assert!(block_on(handle.spawn(async {})).unwrap_err().is_cancelled());
        let error = block_on(server.serve(async |_: Connection| {})).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoExecutor);
        assert!(error.to_string().contains("Server::executor"), "{error}");
        assert_eq!(block_on(handle.closed()).accepted(), 0);
        assert!(block_on(connector.connect()).is_err());
    }

    #[test]
    fn a_server_that_was_closed_before_it_serves_needs_no_executor() {
        let server = Server::new(Listener::memory().0).executor(|job| drop(std::thread::spawn(|| block_on(job))));
        block_on(server.handle().shutdown());
        assert_eq!(block_on(server.serve(async |_: Connection| {})).unwrap().accepted(), 0);
    }

    #[test]
    fn a_service_group_on_a_given_executor_is_enough() {
        let group = crate::ServiceGroup::on(|job| drop(std::thread::spawn(|| block_on(job))));
        let server = Server::new(Listener::memory().0).executor(|job| drop(std::thread::spawn(|| block_on(job))));
        let handle = server.handle();
        let group = group.server(server.serve(async |_: Connection| {})).task("stops all", async move |_| {
            assert!(handle.is_serving());
            handle.shutdown();
        });
        assert_eq!(block_on(group.run()).unwrap().servers().count(), 1);
    }

    #[test]
    fn a_given_executor_is_enough() {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).executor(|job| drop(std::thread::spawn(|| block_on(job))));
        let greet = async |mut conn: Connection| conn.write_all(b"hello").await;
        let serving = server.scope(greet, async |_| {
            let mut greeting = String::new();
            connector.connect().await?.read_to_string(&mut greeting).await?;
            Ok(greeting)
        });
        let (greeting, report) = block_on(serving).unwrap();
        assert_eq!((greeting.as_str(), report.completed()), ("hello", 1));
    }
}
