//! `ServiceGroup`: several servers and tasks that start in order, stop in the reverse order, and have one deadline.

use crate::support::scripted::Script;
use crate::support::*;
use async_std::channel::{Receiver, Sender, unbounded};
use async_std::prelude::*;
use async_std::task;
use ebbtide::signal::Signal;
use ebbtide::{
    Cause, Connection, ErrorKind, Handle, Job, Listener, Phase, Serve, Server, ServiceError, ServiceGroup,
    ServiceReports, Stopping, TaskEnd,
};
use log::Level;
use std::error::Error as _;
use std::future::{pending, ready};
use std::io::{self, ErrorKind as Io};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Run = task::JoinHandle<Result<ServiceReports, ServiceError>>;

/// What happened, in order.
#[derive(Clone, Default)]
struct Story(Arc<Mutex<Vec<String>>>);

impl Story {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn so_far(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Returns a server that echoes, and its handle.
fn silent(name: &'static str) -> (Serve, Handle) {
    let server = Server::new(Listener::memory().0).name(name);
    let handle = server.handle();
    (server.serve(echo), handle)
}

/// Returns a server with one client whose handler never ends, its handle, and the client.
async fn stuck(server: Server) -> (Serve, Handle, std::net::TcpStream) {
    let handle = server.handle();
    let client = connect(server.local_addr());
    (server.serve(|_: Connection| pending::<()>()), handle, client)
}

async fn waits(stopping: Stopping) {
    stopping.await;
}

fn ends(reports: &ServiceReports) -> Vec<(&str, TaskEnd)> {
    reports.tasks().collect()
}

#[test]
fn services_start_in_order_and_stop_in_the_reverse_order_each_after_the_end_of_the_one_behind_it() {
    test(async {
        let story = Story::default();
        let (first, second) = (silent("first"), silent("second"));
        let (serving, all_serve) = unbounded();
        let task = |name: &'static str, before: Vec<Handle>, after: Vec<Handle>| {
            let (story, serving) = (story.clone(), serving.clone());
            async move |stopping: Stopping| {
                assert!(before.iter().all(Handle::is_serving), "{name} was started before a server in front of it");
                serving.send(()).await.unwrap();
                stopping.await;
                assert!(before.iter().all(Handle::is_serving), "{name} was asked after a server in front of it");
                let closed = |server: &Handle| server.phase() == Phase::Closed;
                assert!(after.iter().all(closed), "{name} was asked before a server behind it had ended");
                story.add(name);
            }
        };
        let group = ServiceGroup::new()
            .task("a", task("a", vec![], vec![first.1.clone(), second.1.clone()]))
            .server(first.0)
            .task("b", task("b", vec![first.1.clone()], vec![second.1.clone()]))
            .server(second.0)
            .task("c", task("c", vec![first.1.clone(), second.1.clone()], vec![]));
        let handle = group.handle();
        let running: Run = task::spawn(group.run());
        for _ in 0..3 {
            all_serve.recv().await.unwrap();
        }
        handle.shutdown();
        let reports = running.await.unwrap();
        assert_eq!(story.so_far(), ["c", "b", "a"]);
        assert_eq!(reports.servers().map(|(name, _)| name).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(ends(&reports), ["a", "b", "c"].map(|name| (name, TaskEnd::Completed)));
        assert!(reports.servers().all(|(_, report)| report.cause() == Cause::Shutdown));
        assert_eq!(reports.to_string().lines().count(), 5, "{reports}");
    });
}

#[test]
fn a_server_that_was_added_first_answers_until_the_main_server_has_drained() {
    test(async {
        let (admin, main) = (bind().await.name("admin"), bind().await.name("main"));
        let (admin_handle, main_handle) = (admin.handle(), main.handle());
        let (end, may_end) = unbounded::<()>();
        let handler = move |_: Connection| {
            let may_end = may_end.clone();
            async move { _ = may_end.recv().await }
        };
        let (signals, stream) = unbounded();
        let _client = connect(main.local_addr());
        let group = ServiceGroup::new().shutdown_on(stream).server(admin.serve(speaks)).server(main.serve(handler));
        let running: Run = task::spawn(group.run());
        until(|| main_handle.connection_count() == 1).await;
        signals.send(Signal::Terminate).await.unwrap();
        main_handle.reached(Phase::Draining).await;
        for _ in 0..3 {
            assert!(admin_handle.is_ready());
            let mut health = order(admin_handle.local_addr(), b'?');
            assert_eq!(task::spawn_blocking(move || rest(&mut health)).await, "whole reply");
        }
        drop(end);
        let reports = running.await.unwrap();
        let (admin, main) = (reports.report("admin").unwrap(), reports.report("main").unwrap());
        assert_eq!((admin.completed(), main.completed(), main.drained()), (3, 1, 1), "{reports}");
        assert_eq!([admin.cause(), main.cause()], [Cause::Signal(Signal::Terminate); 2]);
        assert!(refuses(admin_handle.local_addr()) && refuses(main_handle.local_addr()));
    });
}

#[test]
fn all_services_have_one_deadline_together() {
    test(async {
        const LIMIT: Duration = Duration::from_millis(200);
        let (first, last) = (bind().await.name("first"), bind().await.name("last"));
        let (first, one, _client) = stuck(first.grace(FOR_EVER)).await;
        let (last, other, _other) = stuck(last.grace(None)).await;
        let live = Live::default();
        let guard = live.guard();
        let group = ServiceGroup::new()
            .grace(LIMIT)
            .server(first)
            .task("between", async move |_: Stopping| {
                let _guard = guard;
                pending::<()>().await;
            })
            .server(last);
        let handle = group.handle();
        let running: Run = task::spawn(group.run());
        until(|| one.connection_count() + other.connection_count() == 2).await;
        handle.shutdown();
        let reports = running.await.unwrap();
        assert!(reports.elapsed() >= LIMIT && reports.elapsed() < LIMIT + Duration::from_secs(8), "{reports:?}");
        assert_eq!(ends(&reports), [("between", TaskEnd::Cancelled)]);
        assert!(reports.servers().all(|(_, report)| report.cancelled() == 1), "{reports}");
        assert_eq!(reports.failures().count() + live.count(), 0);
    });
}

#[test]
fn the_limit_of_a_server_itself_still_applies() {
    test(async {
        let (serve, handle, _client) = stuck(bind().await.name("main").grace(Duration::from_millis(50))).await;
        let group = ServiceGroup::new().grace(FOR_EVER).task("waits", waits).server(serve);
        let stop = group.handle();
        let running: Run = task::spawn(group.run());
        until(|| handle.connection_count() == 1).await;
        stop.shutdown();
        let reports = running.await.unwrap();
        assert_eq!(ends(&reports), [("waits", TaskEnd::Completed)]);
        assert_eq!(reports.report("main").unwrap().cancelled(), 1);
    });
}

#[test]
fn without_a_limit_of_its_own_the_group_has_the_longest_one_of_its_servers() {
    test(async {
        const LONGEST: Duration = Duration::from_millis(300);
        let (short, handle, _client) = stuck(bind().await.name("short").grace(Duration::from_millis(10))).await;
        let long = bind().await.grace(LONGEST / 3).lame_duck(LONGEST * 2 / 3).serve(echo);
        let group =
            ServiceGroup::new().server(long).server(short).task("stuck", async |_: Stopping| pending::<()>().await);
        let stop = group.handle();
        let running: Run = task::spawn(group.run());
        until(|| handle.connection_count() == 1).await;
        stop.shutdown();
        let reports = running.await.unwrap();
        assert_eq!(ends(&reports), [("stuck", TaskEnd::Cancelled)]);
        assert!(reports.elapsed() >= LONGEST && reports.elapsed() < LONGEST + Duration::from_secs(7), "{reports:?}");
        assert_eq!(reports.report("short").unwrap().cancelled(), 1); // nothing was left for it
    });
}

#[test]
fn a_lame_duck_keeps_its_time_under_the_deadline_of_a_group() {
    test(async {
        const LAME_DUCK: Duration = Duration::from_millis(300);
        let server = bind().await.name("main").lame_duck(LAME_DUCK).grace(Duration::from_millis(20));
        let handle = server.handle();
        let group = ServiceGroup::new().server(server.serve(echo));
        let stop = group.handle();
        let running: Run = task::spawn(group.run());
        until(|| handle.is_serving()).await;
        stop.shutdown();
        let reports = running.await.unwrap();
        // The group's deadline began a moment before the server's request.
        let elapsed = reports.report("main").unwrap().elapsed();
        assert!(elapsed + Duration::from_millis(20) >= LAME_DUCK, "{reports}");
    });
}

#[test]
fn the_first_item_of_another_stream_ends_the_lame_duck_of_the_server_that_is_asked() {
    test(async {
        let server = bind().await.name("main").lame_duck(FOR_EVER).grace(None);
        let handle = server.handle();
        let ((one, first), (other, second)) = (unbounded(), unbounded());
        let group = ServiceGroup::new().shutdown_on(first).shutdown_on(second).server(server.serve(echo));
        let running: Run = task::spawn(group.run());
        one.send(()).await.unwrap();
        handle.reached(Phase::LameDuck).await;
        assert_eq!(handle.phase(), Phase::LameDuck);
        other.send(Signal::Terminate).await.unwrap();
        let reports = running.await.unwrap();
        assert_eq!(reports.report("main").unwrap().cause(), Cause::Stream);
    });
}

#[test]
fn the_first_failure_stops_all_services_and_is_the_error_with_the_reports_of_all() {
    test(async {
        let logs = logs::remember();
        let (serve, handle) = silent("main");
        let (fail, fails) = unbounded::<()>();
        let group = ServiceGroup::new()
            .task("fails later", async |stopping: Stopping| {
                stopping.await;
                Err::<(), _>("could not flush what was left")
            })
            .server(serve)
            .task("fails first", async move |_: Stopping| -> io::Result<()> {
                _ = fails.recv().await;
                Err(io::Error::new(Io::StorageFull, "the disk of this test is full"))
            });
        let running: Run = task::spawn(group.run());
        until(|| handle.is_serving()).await;
        drop(fail);
        let error = running.await.unwrap_err();
        assert_eq!((error.service(), error.to_string().as_str()), ("fails first", "the task `fails first` failed"));
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.kind(), Io::StorageFull);
        let shown = format!("{error:?}");
        assert!(shown.starts_with("the task `fails first` failed: the disk of this test is full (all services "));
        assert!(shown.contains("; main: closed in ") && !shown.contains('\n'), "{shown}");
        let failures: Vec<_> = error.reports().failures().collect();
        let (first, later) = ("the disk of this test is full", "could not flush what was left");
        assert_eq!(failures, [("fails first", first), ("fails later", later)]);
        for text in [first, later] {
            let lines = logs.lines_with(text);
            assert_eq!((lines.len(), lines[0].0), (1, Level::Warn), "{lines:?}");
        }
        let reports = error.into_reports();
        assert_eq!(reports.report("main").unwrap().cause(), Cause::Shutdown);
        assert_eq!(ends(&reports), [("fails later", TaskEnd::Failed), ("fails first", TaskEnd::Failed)]);
    });
}

#[test]
fn the_failure_of_a_listener_stops_all_services_and_is_the_error() {
    test(async {
        let (listener, script) = Script::listener();
        let broken = Server::new(listener).name("broken");
        let (main, handle) = silent("main");
        let group = ServiceGroup::new().task("waits", waits).server(broken.serve(echo)).server(main);
        let running: Run = task::spawn(group.run());
        until(|| handle.is_serving()).await;
        script.fail(io::Error::from_raw_os_error(22)); // EINVAL
        let error = running.await.unwrap_err();
        assert_eq!((error.service(), error.to_string().as_str()), ("broken", "the server `broken` failed"));
        let server = error.source().unwrap().downcast_ref::<ebbtide::Error>().unwrap();
        assert_eq!(server.kind(), ErrorKind::Listener);
        assert!(format!("{error:?}").contains("cannot accept connections on `scripted` any more"), "{error:?}");
        assert_eq!(error.reports().servers().count(), 2);
        assert_eq!(error.reports().report("broken").unwrap().cause(), Cause::ListenerFailed);
        assert_eq!(ends(error.reports()), [("waits", TaskEnd::Completed)]);
        let error = io::Error::from(error);
        assert_eq!(error.kind(), Io::InvalidInput);
    });
}

#[test]
fn a_server_whose_failure_stops_the_group_has_failed_first_although_it_drains_before_it_returns() {
    test(async {
        let (listener, script) = Script::listener();
        let (release, released) = unbounded::<()>();
        let broken = Server::new(listener).name("broken");
        let server = broken.handle();
        let handler = move |_: Connection| {
            let released = released.clone();
            async move { _ = released.recv().await }
        };
        let logs = logs::remember();
        let later = "this came later than the listener's failure";
        let group = ServiceGroup::new().server(broken.serve(handler)).task("later", async move |stopping: Stopping| {
            stopping.await;
            Err::<(), _>(later)
        });
        let running: Run = task::spawn(group.run());
        let _client = script.client();
        until(|| server.connection_count() == 1).await;
        script.fail(io::Error::from_raw_os_error(22));
        until(|| !logs.lines_with(later).is_empty()).await;
        drop(release);
        let error = running.await.unwrap_err();
        assert_eq!(error.service(), "broken");
        assert_eq!(error.reports().failures().map(|(name, _)| name).collect::<Vec<_>>(), ["broken", "later"]);
    });
}

#[test]
fn a_panic_of_a_task_is_logged_stops_all_services_and_is_the_error() {
    test(async {
        let logs = logs::remember();
        let (serve, handle) = silent("main");
        let panics = async |_: Stopping| panic!("this worker is out of cheese");
        let group = ServiceGroup::new().server(serve).task("cheese shop", panics);
        let error = group.run().await.unwrap_err();
        assert_eq!(error.to_string(), "the task `cheese shop` panicked: this worker is out of cheese");
        assert_eq!((error.service(), error.source().is_none()), ("cheese shop", true));
        assert_eq!(ends(error.reports()), [("cheese shop", TaskEnd::Panicked)]);
        assert_eq!(handle.phase(), Phase::Closed);
        let lines = logs.lines_with("this worker is out of cheese");
        assert_eq!((lines.len(), lines[0].0), (1, Level::Error), "{lines:?}");
    });
}

#[test]
fn a_panic_of_the_function_that_makes_a_tasks_future_is_the_tasks_panic() {
    test(async {
        let (serve, handle) = silent("main");
        let panics = |_: Stopping| -> std::future::Ready<()> { panic!("this function is out of cheese") };
        let error = ServiceGroup::new().server(serve).task("cheese maker", panics).run().await.unwrap_err();
        assert_eq!(error.to_string(), "the task `cheese maker` panicked: this function is out of cheese");
        assert_eq!(ends(error.reports()), [("cheese maker", TaskEnd::Panicked)]);
        assert_eq!(handle.phase(), Phase::Closed);
    });
}

#[test]
fn a_task_that_returns_ok_has_ended_and_changes_nothing() {
    test(async {
        let (serve, handle) = silent("main");
        let (ended, has_ended) = unbounded::<()>();
        let group = ServiceGroup::new()
            .task("ok", async |_: Stopping| io::Result::Ok(()))
            .server(serve)
            .task("unit", async move |_: Stopping| drop(ended));
        let stop = group.handle();
        let running: Run = task::spawn(group.run());
        assert!(has_ended.recv().await.is_err());
        for _ in 0..100 {
            task::yield_now().await;
        }
        assert!(handle.is_ready(), "a task that returned stopped the group");
        stop.shutdown();
        let reports = running.await.unwrap();
        assert_eq!(ends(&reports), [("ok", TaskEnd::Completed), ("unit", TaskEnd::Completed)]);
    });
}

#[test]
fn a_group_of_tasks_ends_with_the_last_of_them_and_an_empty_one_at_once() {
    test(async {
        let empty = ServiceGroup::new().shutdown_when(pending()).run();
        let reports = poll_once(empty).expect("an empty group is ready at once").unwrap();
        assert_eq!(reports.to_string(), "");
        let (one, other) = unbounded::<()>();
        let group = ServiceGroup::new()
            .task("first", async move |_: Stopping| drop(one))
            .task("second", async move |_: Stopping| assert!(other.recv().await.is_err()));
        let reports = group.run().await.unwrap();
        assert_eq!((reports.tasks().count(), reports.elapsed()), (2, Duration::ZERO));
        assert_eq!(reports.to_string(), "first: completed\nsecond: completed");
    });
}

/// Polls a future once.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn the_second_item_of_a_stream_cancels_all_services_and_so_does_a_handle() {
    test(async {
        for by_stream in [true, false] {
            let live = Live::default();
            let guard = live.guard();
            let (main, handle, _client) = stuck(bind().await.name("main").grace(None)).await;
            let (admin, _) = silent("admin");
            let (items, stream) = unbounded();
            let group = ServiceGroup::new()
                .grace(None)
                .shutdown_on(stream)
                .server(admin)
                .task("stuck", async move |_: Stopping| {
                    let _guard = guard;
                    pending::<()>().await;
                })
                .server(main);
            let stop = group.handle();
            let running: Run = task::spawn(group.run());
            until(|| handle.connection_count() == 1).await;
            let cause = match by_stream {
                true => {
                    items.send(Signal::Interrupt).await.unwrap();
                    handle.reached(Phase::Draining).await;
                    items.send(Signal::Terminate).await.unwrap();
                    [Cause::Signal(Signal::Terminate), Cause::Signal(Signal::Interrupt)]
                }
                false => {
                    stop.cancel();
                    [Cause::Cancel; 2]
                }
            };
            let reports = running.await.unwrap();
            let (admin, main) = (reports.report("admin").unwrap(), reports.report("main").unwrap());
            assert_eq!([admin.cause(), main.cause()], cause);
            assert_eq!((main.cancelled(), live.count()), (1, 0));
            assert_eq!(ends(&reports), [("stuck", TaskEnd::Cancelled)]);
        }
    });
}

#[test]
fn a_server_that_stops_by_its_own_handle_or_stream_stops_the_group() {
    test(async {
        for which in 0..3 {
            let (first, main) = (Server::new(Listener::memory().0), Server::new(Listener::memory().0));
            let (items, stream) = unbounded();
            let (one, two) = (first.handle(), main.handle());
            let group = ServiceGroup::new()
                .server(first.name("first").serve(echo))
                .server(main.name("main").shutdown_on(stream).serve(echo));
            let running: Run = task::spawn(group.run());
            until(|| one.is_serving() && two.is_serving()).await;
            let causes = match which {
                0 => {
                    drop(one.shutdown());
                    [Cause::Shutdown, Cause::Shutdown]
                }
                1 => {
                    drop(two.cancel());
                    [Cause::Shutdown, Cause::Cancel]
                }
                _ => {
                    items.send(Signal::Hangup).await.unwrap();
                    [Cause::Signal(Signal::Hangup); 2]
                }
            };
            let reports = running.await.unwrap();
            assert_eq!(reports.servers().map(|(_, report)| report.cause()).collect::<Vec<_>>(), causes);
        }
    });
}

#[test]
fn what_stops_the_group_at_once_keeps_the_services_behind_it_from_starting() {
    test(async {
        let (closed, handle) = silent("closed");
        handle.shutdown().await;
        let (behind, behind_handle) = silent("behind");
        let group = ServiceGroup::new()
            .server(closed)
            .task("never called", async |_: Stopping| panic!("it was called"))
            .server(behind);
        let reports = group.run().await.unwrap();
        assert_eq!(ends(&reports), [("never called", TaskEnd::Cancelled)]);
        assert_eq!((reports.servers().count(), behind_handle.phase()), (2, Phase::Closed));
    });
}

#[test]
fn a_group_is_a_service_of_another_group() {
    test(async {
        let story = Story::default();
        let (outer_server, outer_handle) = silent("outer");
        let (inner_server, inner_handle) = silent("inner");
        let note = |name: &'static str, server: &Handle| {
            let (story, server) = (story.clone(), server.clone());
            async move |stopping: Stopping| {
                stopping.await;
                assert!(server.is_serving());
                story.add(name);
            }
        };
        let inner_task = note("inner task", &inner_handle);
        let group = ServiceGroup::new()
            .server(outer_server)
            .task("inner group", async move |stopping: Stopping| {
                let inner = ServiceGroup::new().shutdown_when(stopping);
                inner.server(inner_server).task("inner task", inner_task).run().await.map(drop)
            })
            .task("outer task", note("outer task", &inner_handle));
        let stop = group.handle();
        let running: Run = task::spawn(group.run());
        until(|| inner_handle.is_serving()).await;
        stop.shutdown();
        running.await.unwrap();
        assert_eq!(story.so_far(), ["outer task", "inner task"]);
        assert!([outer_handle, inner_handle].iter().all(|server| server.phase() == Phase::Closed));

        let group = ServiceGroup::new().task("outer", async |_: Stopping| {
            ServiceGroup::new().task("inner", async |_: Stopping| Err::<(), _>("deep down")).run().await.map(drop)
        });
        let shown = format!("{:?}", group.run().await.unwrap_err());
        assert!(shown.starts_with("the task `outer` failed: the task `inner` failed: deep down (all "), "{shown}");
    });
}

#[test]
fn a_drop_of_the_group_joins_its_services_in_the_reverse_order_without_the_executors_help() {
    alone(|| {
        let story = Story::default();
        struct Note(Story, &'static str, Vec<Handle>);
        impl Drop for Note {
            fn drop(&mut self) {
                let Self(story, name, servers) = self;
                let phases: Vec<_> = servers.iter().map(|server| server.phase().to_string()).collect();
                story.add(format!("{name}: {}", phases.join(" ")));
            }
        }
        let ((first, one), (last, two)) = (silent("first"), silent("last"));
        let task = |name| {
            let note = Note(story.clone(), name, vec![one.clone(), two.clone()]);
            async move |_: Stopping| {
                let _note = note;
                pending::<()>().await;
            }
        };
        let (a, b, c) = (task("a"), task("b"), task("c"));
        let group = ServiceGroup::new().task("a", a).server(first).task("b", b).server(last).task("c", c);
        let mut run = Box::pin(group.run());
        assert!(poll_once(run.as_mut()).is_none());
        let held = hold_executor();
        drop(run);
        assert_eq!(story.so_far(), ["c: serving serving", "b: serving closed", "a: closed closed"]);
        drop(held);
    });
}

#[test]
fn a_group_that_never_runs_closes_its_servers_when_it_is_dropped() {
    test(async {
        let ((first, one), (last, two)) = (silent("first"), silent("last"));
        let live = Live::default();
        let guard = live.guard();
        let group = ServiceGroup::new().server(first).task("never", async move |_: Stopping| drop(guard)).server(last);
        assert!(format!("{group:?}").contains("server `first`, task `never`, server `last`"), "{group:?}");
        drop(group.run());
        assert_eq!((one.phase(), two.phase(), live.count()), (Phase::Closed, Phase::Closed, 0));
    });
}

#[test]
fn a_failure_that_a_dropped_group_could_not_return_is_logged() {
    test(async {
        let logs = logs::remember();
        let (failed, has_failed) = unbounded::<()>();
        let (go, gate) = unbounded::<()>();
        let group = ServiceGroup::new().task("fails", async move |_: Stopping| {
            let _failed = failed;
            let _ = gate.recv().await; // after the only poll of the group, which would log the failure, too
            Err::<(), _>("nobody polls this group")
        });
        let mut run = Box::pin(group.run());
        assert!(poll_once(run.as_mut()).is_none());
        drop(go);
        assert!(has_failed.recv().await.is_err());
        drop(run);
        assert_eq!(logs.lines_with("nobody polls this group").len(), 1);
    });
}

#[test]
fn a_shutdown_stream_that_panics_stops_the_group() {
    test(async {
        let group = ServiceGroup::new().task("waits", waits);
        let reports = group.shutdown_when(async { panic!("a stream of this group") }).run().await.unwrap();
        assert_eq!(ends(&reports), [("waits", TaskEnd::Completed)]);
    });
}

/// It was neither logged nor a request: the panic of a stream was only looked at if it was the first reason to stop.
#[test]
fn a_shutdown_stream_that_panics_while_the_group_stops_is_a_second_request_and_logged() {
    test(async {
        let logs = logs::remember();
        let server = bind().await.name("main").lame_duck(FOR_EVER).grace(None);
        let handle = server.handle();
        let (panics, stream) = unbounded::<()>();
        let stream = stream.map(|()| -> () { panic!("a stream of a group that stops") });
        let lines = move || logs.lines_with("a shutdown stream panicked: a stream of a group that stops");
        let logged = lines.clone();
        let until_logged = async move |stopping: Stopping| {
            stopping.await;
            until(|| !logged().is_empty()).await; // a group that has ended waits for its lines for 1 s only
        };
        let group = ServiceGroup::new().shutdown_on(stream).task("logged", until_logged).server(server.serve(echo));
        let stop = group.handle();
        let running: Run = task::spawn(group.run());
        handle.reached(Phase::Serving).await;
        stop.shutdown();
        handle.reached(Phase::LameDuck).await;
        panics.send(()).await.unwrap();
        running.await.unwrap(); // the lame duck has ended
        assert!(matches!(&lines()[..], [(Level::Error, _)]), "{:?}", lines());
    });
}

/// The line about the panic was in a queue that the drop has dropped, too.
#[test]
fn the_panic_of_a_servers_future_that_a_dropped_group_could_not_continue_is_logged() {
    test(async {
        let logs = logs::remember();
        let ((mut ended, handle), (main, main_handle)) = (silent("a server that has ended"), silent("main"));
        drop(handle.shutdown());
        (&mut ended).await.unwrap(); // a further poll panics
        let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
        let kept = Arc::clone(&jobs); // so that nothing is logged by the queue
        let group = ServiceGroup::on(move |job| kept.lock().unwrap().push(job)).task("waits", waits);
        let mut run = Box::pin(group.server(main).server(ended).run());
        assert!(poll_once(run.as_mut()).is_none());
        drop(run);
        jobs.lock().unwrap().clear();
        assert_eq!(main_handle.phase(), Phase::Closed);
        let lines = logs.lines_with("the server `a server that has ended` panicked, and its group was dropped");
        assert!(matches!(&lines[..], [(Level::Error, _)]), "{lines:?}");
    });
}

#[test]
fn the_panic_of_a_servers_future_continues_once_all_services_have_ended() {
    test(async {
        let (mut ended, handle) = silent("ended");
        let (main, main_handle) = silent("main");
        drop(handle.shutdown());
        (&mut ended).await.unwrap(); // a further poll panics
        let group = ServiceGroup::new().server(main).server(ended);
        let raised = catch_unwind(AssertUnwindSafe(|| futures_lite::future::block_on(group.run())));
        assert!(raised.is_err());
        assert_eq!(main_handle.phase(), Phase::Closed);
    });
}

#[test]
fn a_task_that_the_executor_drops_is_a_failure() {
    test(async {
        let (serve, handle) = silent("main");
        let group = ServiceGroup::on(drop).server(serve).task("lost", waits);
        let error = group.run().await.unwrap_err();
        assert!(error.to_string().starts_with("the executor has dropped the task `lost`"), "{error}");
        assert_eq!(ends(error.reports()), [("lost", TaskEnd::Cancelled)]);
        assert_eq!(handle.phase(), Phase::Closed);
    });
}

#[test]
fn a_task_that_blocks_its_thread_is_waited_for_and_named_once_a_second() {
    test(async {
        let logs = logs::remember();
        let (free, is_free) = std::sync::mpsc::channel::<()>();
        let (blocks, is_blocked) = unbounded();
        // A thread for each task, so that the line can be logged although a task blocks its thread.
        let group = ServiceGroup::on(|job| drop(std::thread::spawn(|| async_io::block_on(job))));
        let (serve, handle) = silent("before");
        let group = group.grace(Duration::ZERO).server(serve).task("blocker", async move |_: Stopping| {
            blocks.send(()).await.unwrap();
            let _ = is_free.recv_timeout(NET);
            pending::<()>().await
        });
        let stop = group.handle();
        let running: Run = task::spawn(group.run());
        is_blocked.recv().await.unwrap();
        stop.shutdown();
        until(|| !logs.lines_with("still waiting for the task `blocker`, which blocks its thread").is_empty()).await;
        assert!(handle.is_ready(), "a service was asked before the one behind it had ended");
        drop(free);
        let reports = running.await.unwrap();
        assert_eq!(ends(&reports), [("blocker", TaskEnd::Cancelled)]);
        assert!(reports.elapsed() >= Duration::from_secs(1), "{reports:?}");
    });
}

#[test]
fn stopping_polls_its_future_first_is_fused_and_outlives_its_task() {
    fn is_send<T: Send + 'static>(value: T) -> T {
        value
    }
    fn is_unpin<T: Unpin + Send + Sync + Clone + 'static>(_: &T) {}
    test(async {
        let (give, taken): (Sender<Stopping>, Receiver<Stopping>) = unbounded();
        let group = ServiceGroup::new().task("gives", async move |mut stopping: Stopping| {
            is_unpin(&stopping);
            assert!(!stopping.is_stopping());
            assert_eq!(stopping.until(ready(7)).await, Some(7));
            give.send(stopping.clone()).await.unwrap();
            assert_eq!(stopping.until(pending::<()>()).await, None);
            (&mut stopping).await;
            (&mut stopping).await;
            assert!(stopping.is_stopping());
            assert_eq!(stopping.until(ready(7)).await, Some(7));
        });
        let stop = group.handle();
        let running: Run = task::spawn(is_send(group.run()));
        let clone = taken.recv().await.unwrap();
        stop.shutdown();
        running.await.unwrap();
        clone.await;

        let (give, taken) = unbounded();
        let group = ServiceGroup::new().task("ends", async move |stopping: Stopping| {
            give.send(stopping).await.unwrap();
        });
        group.run().await.unwrap();
        taken.recv().await.unwrap().await; // the group never stopped, but the task has ended
    });
}

#[test]
fn the_log_names_what_stops_the_group_and_each_service_that_is_asked() {
    test(async {
        let logs = logs::remember();
        let (serve, _) = silent("log-test-server");
        let group = ServiceGroup::new().server(serve).task("log-test-task", waits).shutdown_when(async {});
        group.run().await.unwrap();
        assert_eq!(
            logs.lines_with("log-test-").iter().filter(|(_, line)| line.contains("asked the")).collect::<Vec<_>>(),
            [
                &(Level::Info, "asked the task `log-test-task` to stop service=log-test-task".to_owned()),
                &(Level::Info, "asked the server `log-test-server` to stop service=log-test-server".to_owned()),
            ]
        );
        let why = "stopping 2 services, one after the other, for at most 8s: a shutdown stream asked for it";
        assert!(!logs.lines_with(why).is_empty());
    });
}

/// A small random generator (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % sides
    }
}

/// One service of a random group, as its neighbours see it.
enum Seen {
    Server(Handle),
    /// How many futures of the task are alive, and whether it has been called.
    Task(Live),
}

impl Seen {
    fn is_gone(&self) -> bool {
        match self {
            Self::Server(handle) => handle.phase() == Phase::Closed,
            Self::Task(live) => live.count() == 0,
        }
    }
}

/// Makes a task that behaves at random, and checks the order when its turn to stop has come.
async fn random_task(kind: usize, behind: Vec<Arc<Seen>>, stopping: Stopping, _guard: LiveGuard) -> io::Result<()> {
    match kind {
        0 => return Ok(()),
        1 => {
            for _ in 0..20 {
                task::yield_now().await;
            }
            return Err(Io::Other.into());
        }
        2 => {
            task::yield_now().await;
            std::panic::resume_unwind(Box::new("at random"));
        }
        3 => return pending().await,
        _ => {}
    }
    stopping.await;
    assert!(behind.iter().all(|service| service.is_gone()), "the order: asked before a service behind it had ended");
    match kind {
        4 => pending().await,
        5 => Err(Io::Other.into()),
        _ => Ok(()),
    }
}

async fn random_group(dice: &mut Dice) {
    let handlers = Handlers::new();
    let grace = [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(30)][dice.roll(3)];
    let (items, stream) = unbounded();
    let mut group = ServiceGroup::new().grace(grace).shutdown_on(stream);
    let number = dice.roll(6);
    let (mut clients, mut seen, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..number {
        if dice.roll(2) == 0 {
            let (listener, connector) = Listener::memory();
            let server = Server::new(listener).newcomer_time(Duration::ZERO);
            for _ in 0..dice.roll(3) {
                let order = [POLITE, STUBBORN, FAILS, REPLIES][dice.roll(4)];
                let mut client = connector.connect().await.unwrap();
                client.write_all(&[order]).await.unwrap();
                clients.push(client);
            }
            seen.push(Arc::new(Seen::Server(server.handle())));
            services.push(Some(server));
        } else {
            seen.push(Arc::new(Seen::Task(Live::default())));
            services.push(None);
        }
    }
    let mut has_failing = false;
    for (index, service) in services.into_iter().enumerate() {
        match (service, &*seen[index]) {
            (Some(server), _) => group = group.server(server.serve(handlers.handler())),
            (None, Seen::Task(live)) => {
                let kind = [0, 3, 4, 6, 6, 6, [1, 2, 5][dice.roll(3)]][dice.roll(7)];
                has_failing |= [1, 2, 5].contains(&kind);
                let (guard, behind) = (live.guard(), seen[index + 1..].to_vec());
                group = group.task(format!("task {kind}"), move |stopping| random_task(kind, behind, stopping, guard));
            }
            (None, Seen::Server(_)) => unreachable!(),
        }
    }
    let stop = group.handle();
    let (way, after) = (dice.roll(6), dice.roll(40));
    let servers: Vec<_> = seen
        .iter()
        .filter_map(|service| match &**service {
            Seen::Server(handle) => Some(handle.clone()),
            Seen::Task(_) => None,
        })
        .collect();
    let end = async {
        for _ in 0..after {
            task::yield_now().await;
        }
        match way {
            0 => stop.shutdown(),
            1 => stop.cancel(),
            2 => items.send(()).await.unwrap_or_default(),
            3 => {
                let _ = items.send(()).await;
                task::yield_now().await;
                let _ = items.send(()).await;
            }
            4 => match servers.get(after % servers.len().max(1)) {
                Some(server) => drop(server.shutdown()),
                None => stop.shutdown(),
            },
            _ => return, // drops the group
        }
        pending().await
    };
    let ended = async { Some(group.run().await) };
    let dropped = async {
        end.await;
        None
    };
    if let Some(result) = futures_lite::FutureExt::race(ended, dropped).await {
        let reports = match result {
            Ok(reports) => {
                assert_eq!(reports.failures().count(), 0);
                reports
            }
            Err(error) => {
                assert!(has_failing, "{error:?}");
                assert!(!format!("{error:?}").contains("the order"), "{error:?}");
                error.into_reports()
            }
        };
        assert_eq!(reports.servers().count(), servers.len());
        assert_eq!(reports.servers().count() + reports.tasks().count(), number);
        assert!(reports.failures().all(|(_, why)| !why.contains("the order")), "{reports:?}");
        reports.servers().for_each(|(_, report)| assert_adds_up(report));
    }
    assert!(seen.iter().all(|service| service.is_gone()), "a service is left");
    assert_eq!(handlers.live.count(), 0, "a handler is left");
}

#[test]
fn random_groups_leave_nothing_behind_on_any_way_out() {
    test(async {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for _ in 0..300 {
            random_group(&mut dice).await;
        }
    });
}
