//! The ways out: each leaves the server of a case at its moment, and returns what came out.

use super::case::{Case, Exit, Moment};
use super::clients;
use super::doors::OpenDoor;
use super::handlers::{Handler, handler};
use super::witness::Witness;
use crate::support::scripted::Step;
use async_io::Timer;
use async_std::channel::{Receiver, unbounded};
use async_std::task;
use ebbtide::{ErrorKind, Handle, OnFailure, Phase, Report, Server};
use futures_concurrency::prelude::*;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What came out of the scope.
#[derive(Debug, Default)]
pub struct Outcome {
    /// `None`: this way out gives no report.
    pub report: Option<Report>,
    pub error: Option<ErrorKind>,
    /// What `main` prints of the error.
    pub text: Option<String>,
    pub panicked: bool,
    /// How many futures of the server were alive when control returned.
    pub alive: usize,
    /// How long it took from the moment of leaving until control returned.
    pub took: Duration,
}

/// The server of a case, which is about to be left.
pub struct Scene<'a> {
    pub case: &'a Case,
    pub doors: &'a [OpenDoor],
    pub witness: &'a Arc<Witness>,
    pub handle: &'a Handle,
    /// Closed when every client is done that the server does not have to end.
    pub all_done: &'a Receiver<()>,
}

/// Applies the settings of a case.
pub fn configure(case: &Case, server: Server, witness: &Arc<Witness>) -> Server {
    let set = &case.settings;
    let mut server = server
        .grace(set.grace)
        .lame_duck(set.lame_duck)
        .newcomer_time(set.newcomer_time)
        .drain_spread(set.drain_spread)
        .task_grace(set.task_grace)
        .max_connections(set.max_connections)
        .idle_timeout(set.idle)
        .write_timeout(set.write)
        .first_byte_timeout(set.first_byte)
        .max_connection_age(set.age)
        .count_bytes(set.count_bytes);
    if let Some(limit) = set.per_ip {
        server = server.max_connections_per_ip(limit);
    }
    if set.stops_on_failure {
        server = server.on_failure(OnFailure::Shutdown);
    }
    for n in 0..case.tasks {
        let (guard, handle) = (witness.live.guard(), server.handle());
        let task = async move {
            let _guard = guard;
            match n {
                0 => drop(handle.until_draining(pending::<()>()).await),
                _ => pending::<()>().await,
            }
        };
        drop(if n == 0 { server.handle().spawn(task) } else { server.handle().spawn_background(task) });
    }
    witness.watch(server)
}

impl Scene<'_> {
    /// Waits for the moment to leave. From then on the server is asked to stop.
    async fn moment(&self) -> Instant {
        match self.case.moment {
            Moment::AtOnce => {}
            Moment::Yields(n) => {
                for _ in 0..n {
                    task::yield_now().await;
                }
            }
            Moment::After(time) => {
                Timer::after(time).await;
            }
            Moment::Handlers(n) => {
                let begun = async {
                    for _ in 0..n {
                        let _ = self.witness.has_begun.recv().await;
                    }
                };
                let patience = async {
                    Timer::after(Duration::from_millis(50)).await;
                };
                (begun, patience).race().await;
            }
            Moment::AllDone => drop(self.all_done.recv().await),
        }
        self.witness.stop();
        Instant::now()
    }

    /// Leaves the server, and notes what is alive at once.
    pub fn leave(&self, server: Server) -> Outcome {
        let handler = handler(self.case, self.witness);
        let mut start = None;
        let leave = AssertUnwindSafe(|| async_io::block_on(self.by_exit(server, handler, &mut start)));
        let mut outcome = match catch_unwind(leave) {
            Ok(outcome) => outcome,
            Err(_) => Outcome { panicked: true, ..Outcome::default() },
        };
        outcome.alive = self.witness.live.count();
        outcome.took = start.map_or(Duration::ZERO, |start| start.elapsed());
        self.witness.leave();
        outcome
    }

    async fn by_exit(&self, server: Server, handler: Handler, start: &mut Option<Instant>) -> Outcome {
        let handle = self.handle;
        let guard = self.witness.live.guard();
        match self.case.exit {
            Exit::BodyOk | Exit::BodyErr | Exit::BodyPanics => {
                let body = async |_: Handle| {
                    let _guard = guard;
                    *start = Some(self.moment().await);
                    match self.case.exit {
                        Exit::BodyOk => Ok(7),
                        Exit::BodyErr => Err("as ordered".into()),
                        _ => panic!("as ordered"),
                    }
                };
                let left: Result<(i32, Report), _> = server.scope(handler, body).await;
                finish(left.map(|(_, report)| report))
            }
            Exit::Shutdown | Exit::Within(_) | Exit::Cancel | Exit::ShutdownThenCancel => {
                drop(guard);
                let serving = task::spawn(server.serve(handler));
                *start = Some(self.moment().await);
                let report = match self.case.exit {
                    Exit::Shutdown => handle.shutdown().await,
                    Exit::Within(time) => handle.shutdown_within(time).await,
                    Exit::Cancel => handle.cancel().await,
                    _ => {
                        drop(handle.shutdown());
                        task::yield_now().await;
                        handle.cancel().await
                    }
                };
                let alive = self.witness.live.count();
                if alive > 0 {
                    self.witness.violation(format!("the server says it is closed, and {alive} futures are alive"));
                }
                let outcome = finish(serving.await);
                if outcome.report.as_ref() != Some(&report) {
                    self.witness.violation(format!("two reports: {report}, and {outcome:?}"));
                }
                outcome
            }
            Exit::Stream | Exit::StreamTwice => {
                drop(guard);
                let (ask, asked) = unbounded();
                let serving = server.shutdown_on(asked).serve(handler);
                let asks = async {
                    *start = Some(self.moment().await);
                    let _ = ask.try_send(());
                    if self.case.exit == Exit::StreamTwice {
                        task::yield_now().await;
                        let _ = ask.try_send(());
                    }
                };
                finish((serving, asks).join().await.0)
            }
            Exit::Future => {
                let (ask, asked) = unbounded::<()>();
                let future = async move {
                    let _guard = guard;
                    let _ = asked.recv().await;
                };
                let asks = async {
                    *start = Some(self.moment().await);
                    drop(ask);
                };
                finish((server.shutdown_when(future).serve(handler), asks).join().await.0)
            }
            Exit::ListenerFails | Exit::ListenerPanics => {
                drop(guard);
                let asks = async {
                    *start = Some(self.moment().await);
                    let custom = self.doors.last().expect("the custom listener is the last one");
                    custom.fail(match self.case.exit {
                        Exit::ListenerFails => {
                            Step::Fail(std::io::Error::from_raw_os_error(nix::errno::Errno::EBADF as i32))
                        }
                        _ => Step::Panic("as ordered"),
                    });
                };
                finish((server.serve(handler), asks).join().await.0)
            }
            Exit::HandlerFails => {
                drop(guard);
                let n = self.case.clients.len();
                let asks = async {
                    *start = Some(self.moment().await);
                    loop {
                        clients::fail(n, &self.doors[n % self.doors.len()], self.witness, handle).await;
                        task::yield_now().await;
                    }
                };
                finish((server.serve(handler), asks).race().await)
            }
            Exit::Timeout | Exit::Unwinds | Exit::DropInDrain => {
                drop(guard);
                let mut serving = Box::pin(async { Some(finish(server.serve(handler).await)) });
                let asks = async {
                    *start = Some(self.moment().await);
                    match self.case.exit {
                        Exit::Unwinds => panic!("as ordered"),
                        Exit::DropInDrain => {
                            drop(handle.shutdown());
                            handle.reached(Phase::Draining).await;
                        }
                        _ => {}
                    }
                    None
                };
                let outcome = (serving.as_mut(), asks).race().await;
                drop(serving);
                outcome.unwrap_or_default()
            }
            Exit::TaskCancelled => {
                drop(guard);
                let serving = task::spawn(server.serve(handler));
                *start = Some(self.moment().await);
                serving.cancel().await.map(finish).unwrap_or_default()
            }
            Exit::NeverServed | Exit::NeverPolled => {
                drop(guard);
                *start = Some(self.moment().await);
                match self.case.exit {
                    Exit::NeverPolled => drop(server.serve(handler)),
                    _ => drop(server),
                }
                Outcome::default()
            }
        }
    }
}

fn finish(result: Result<Report, ebbtide::Error>) -> Outcome {
    match result {
        Ok(report) => Outcome { report: Some(report), ..Outcome::default() },
        Err(error) => {
            let (kind, text) = (error.kind(), format!("{error:?}"));
            Outcome { error: Some(kind), text: Some(text), report: Some(error.into_report()), ..Outcome::default() }
        }
    }
}
