//! Servers and groups on an executor that the user gives: tokio's two schedulers, async-executor, a thread for each
//! job.

use crate::support::{FOR_EVER, Live, NET, on_thread, test, until};
use async_std::prelude::*;
use async_std::{io, task};
use ebbtide::{Connection, ErrorKind, Job, Listener, OnFailure, Phase, Server, TaskGroup, TaskSet};
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Handle as Tokio, Runtime};

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The test on each of tokio's schedulers.
fn on_each_tokio(test: impl Fn(Runtime) + Copy + Send + 'static) {
    on_thread(move || {
        test(current_thread());
        test(multi_thread());
    });
}

/// Gives jobs to the tokio runtime of the caller.
fn here() -> impl Fn(Job) + Send + Sync + 'static {
    let tokio = Tokio::current();
    move |job| drop(tokio.spawn(job))
}

#[test]
fn a_handler_inside_tokio_uses_its_timers_spawn_and_sockets() {
    on_each_tokio(|runtime| {
        runtime.block_on(async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = peer.local_addr().unwrap();
            tokio::spawn(async move {
                while let Ok((mut client, _)) = peer.accept().await {
                    client.write_all(b"from tokio").await.unwrap();
                }
            });
            let handler = move |mut conn: Connection| async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let text = tokio::spawn(async move {
                    let mut text = String::new();
                    tokio::net::TcpStream::connect(address).await?.read_to_string(&mut text).await?;
                    io::Result::Ok(text)
                });
                // A task of the connection is polled there too.
                let text = conn.spawn(async move { tokio::time::timeout(NET, text).await }).await;
                let text = text.unwrap().unwrap().unwrap().unwrap();
                conn.write_all(text.as_bytes()).await
            };
            let server = Server::bind("127.0.0.1:0").await.unwrap().executor(here());
            let (text, report) = server
                .scope(handler, async |server| {
                    let mut client = async_std::net::TcpStream::connect(server.local_addr().tcp()?).await?;
                    let mut text = String::new();
                    client.read_to_string(&mut text).await?;
                    Ok(text)
                })
                .await
                .unwrap();
            assert_eq!((text.as_str(), report.completed()), ("from tokio", 1), "{report}");
        });
    });
}

#[test]
fn everything_of_a_server_runs_on_the_given_executor_and_so_do_groups_and_servers_within() {
    on_thread(|| {
        let jobs = Arc::new(AtomicUsize::new(0));
        let (count, runtime) = (Arc::clone(&jobs), multi_thread());
        let tokio = runtime.handle().clone();
        let name = "ours";
        let is_ours = move || Tokio::try_current().is_ok_and(|here| here.id() == tokio.id());
        let tokio = runtime.handle().clone();
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).name(name).executor(move |job| {
            count.fetch_add(1, Ordering::Relaxed);
            tokio.spawn(job);
        });
        let handler = move |conn: Connection| {
            let is_ours = is_ours.clone();
            async move {
                assert!(is_ours(), "the handler");
                let ours = is_ours.clone();
                assert!(conn.spawn(async move { ours() }).await.unwrap(), "a task of the connection");
                let ours = is_ours.clone();
                assert!(conn.spawn_background(async move { ours() }).await.unwrap(), "a background task");
                let ours = is_ours.clone();
                assert!(conn.server().spawn(async move { ours() }).await.unwrap(), "a task of the server");
                let ours = is_ours.clone();
                let nested = TaskGroup::new();
                let result = nested.spawn(async move { (ours(), TaskGroup::new().spawn(async move { ours() }).await) });
                assert!(matches!(result.await.unwrap(), (true, Ok(true))), "a group in a group");
                let mut set = TaskSet::new();
                let ours = is_ours.clone();
                set.spawn(async move { ours() });
                assert!(set.next().await.unwrap().unwrap(), "a set");
                let (listener, connector) = Listener::memory();
                let inner = Server::new(listener).scope(
                    move |_| {
                        let is_ours = is_ours.clone();
                        async move { assert!(is_ours(), "a handler of a server in a handler") }
                    },
                    async |_| {
                        drop(connector.connect().await?);
                        Ok(())
                    },
                );
                let (_, report) = inner.await.unwrap();
                assert_eq!(report.completed(), 1, "{report}");
            }
        };
        let before = server.handle().spawn(async { Tokio::try_current().is_ok() });
        let serving = server.on_failure(OnFailure::Shutdown).scope(handler, async |_| {
            let mut client = connector.connect().await?;
            client.read_to_end(&mut Vec::new()).await?;
            Ok(())
        });
        // The body is driven where the scope is awaited: here.
        let (_, report) = task::block_on(serving).unwrap();
        assert_eq!(report.completed(), 1, "{report}");
        assert!(task::block_on(before).unwrap(), "a task that was spawned before the server served");
        assert!(jobs.load(Ordering::Relaxed) > 8, "{jobs:?}");
    });
}

#[test]
fn a_serve_that_is_dropped_inside_tokio_leaves_no_handler_alive() {
    on_each_tokio(|runtime| {
        runtime.block_on(async {
            let live = Live::default();
            let (listener, connector) = Listener::memory();
            let server = Server::new(listener).executor(here());
            let guarded = live.clone();
            let serving = server.serve(move |_conn| {
                let guard = guarded.guard();
                async move {
                    let _guard = guard;
                    tokio::time::sleep(FOR_EVER).await;
                }
            });
            let clients = async {
                let mut clients = Vec::new();
                for _ in 0..200 {
                    clients.push(connector.connect().await.unwrap());
                }
                while live.count() < 200 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                clients
            };
            let mut serving = Box::pin(serving);
            let clients = tokio::select! {
                _ = &mut serving => unreachable!("nothing ends the server"),
                clients = clients => clients,
            };
            drop(tokio::time::timeout(Duration::ZERO, serving).await);
            assert_eq!(live.count(), 0, "handlers are alive after the drop");
            for mut client in clients {
                assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            }
        });
    });
}

#[test]
fn children_are_dropped_with_their_group_while_their_executor_does_not_run() {
    on_thread(|| {
        let executor = Arc::new(async_executor::Executor::new());
        let spawning = Arc::clone(&executor);
        let group = TaskGroup::on(move |job| spawning.spawn(job).detach());
        let live = Live::default();
        for started in [true, false] {
            for _ in 0..1000 {
                let guard = live.guard();
                group.spawn(async move {
                    let _guard = guard;
                    pending::<()>().await;
                });
            }
            if started {
                while executor.try_tick() {}
            }
        }
        assert_eq!(live.count(), 2000);
        drop(group);
        assert_eq!(live.count(), 0, "children are alive after the drop");
        while executor.try_tick() {}
        assert!(executor.is_empty(), "the executor is rid of its tasks");
    });
}

#[test]
fn a_thread_for_each_job_is_an_executor() {
    test(async {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).executor(|job| drop(thread::spawn(|| async_io::block_on(job))));
        let handler = async |mut conn: Connection| {
            let name = format!("{:?}", thread::current().id());
            conn.write_all(name.as_bytes()).await
        };
        let (names, report) = server
            .scope(handler, async |_| {
                let mut names = Vec::new();
                for _ in 0..3 {
                    let mut name = String::new();
                    connector.connect().await?.read_to_string(&mut name).await?;
                    names.push(name);
                }
                Ok(names)
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 3, "{report}");
        assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
    });
}

#[test]
fn an_executor_that_drops_a_job_cancels_the_child_and_joins_end() {
    test(async {
        let refusing = TaskGroup::on(drop::<Job>);
        assert!(refusing.spawn(async { 1 }).await.unwrap_err().is_cancelled());
        refusing.spawn(pending::<()>());
        refusing.join().await;

        // Later: with the runtime.
        let (give, jobs) = mpsc::channel();
        let group = TaskGroup::on(move |job| drop(give.send(job)));
        let live = Live::default();
        let guard = live.guard();
        let child = group.spawn(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        let mut job = jobs.recv().unwrap();
        assert!(futures_lite::future::poll_once(&mut job).await.is_none());
        assert_eq!((live.count(), group.len()), (1, 1));
        drop(job);
        assert_eq!((live.count(), group.len()), (0, 0));
        assert!(child.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn an_executor_that_panics_costs_the_child_and_nothing_else() {
    test(async {
        let group = TaskGroup::on(|_job| panic!("no executor today"));
        assert!(group.spawn(async { 1 }).await.unwrap_err().is_cancelled());
        group.join().await;

        // A server's supervisor cannot start: it closes at once.
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).executor(|_job| panic!("no executor today"));
        let error = server.serve(async |_: Connection| {}).await.unwrap_err();
        assert_eq!((error.kind(), error.report().accepted()), (ErrorKind::NoExecutor, 0), "{error}");
        assert!(connector.connect().await.is_err());
    });
}

#[test]
fn a_server_whose_runtime_shuts_down_is_closed() {
    on_thread(|| {
        let live = Live::default();
        let runtime = multi_thread();
        let tokio = runtime.handle().clone();
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).executor(move |job| drop(tokio.spawn(job)));
        let handle = server.handle();
        let guarded = live.clone();
        let serving = task::spawn(server.serve(move |_conn| {
            let guard = guarded.guard();
            async move {
                let _guard = guard;
                pending::<()>().await;
            }
        }));
        let clients: Vec<_> = (0..10).map(|_| task::block_on(connector.connect()).unwrap()).collect();
        task::block_on(until(|| live.count() == 10));
        runtime.shutdown_timeout(NET);
        let error = task::block_on(serving).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoExecutor, "{error}");
        assert!(error.to_string().starts_with("the executor has dropped the accept loop of "), "{error}");
        let report = error.report();
        assert_eq!((report.accepted(), report.cancelled(), live.count()), (10, 10, 0), "{report}");
        assert!(!handle.is_serving());
        for mut client in clients {
            assert_eq!(task::block_on(client.read(&mut [0])).unwrap(), 0);
        }
        // What is spawned now is refused by the runtime, which drops it.
        assert!(task::block_on(handle.spawn(async {})).unwrap_err().is_cancelled());
    });
}

#[cfg(feature = "async-std")]
#[test]
fn the_default_is_async_stds_spawn_with_its_task_locals() {
    task_local! {
        static SEEN: std::cell::Cell<u32> = std::cell::Cell::new(0);
    }
    use async_std::task_local;
    if crate::support::chosen::is_tokio() {
        return;
    }
    test(async {
        let group = TaskGroup::new();
        let child = group.spawn(async {
            SEEN.with(|seen| seen.set(7));
            task::yield_now().await;
            (SEEN.with(|seen| seen.get()), task::current().id())
        });
        let (seen, id) = child.await.unwrap();
        assert_eq!(seen, 7);
        assert_ne!(id, task::current().id());
    });
}

/// On smol the default is smol's own executor, which its programs share.
#[cfg(all(feature = "smol", not(feature = "async-std")))]
#[test]
fn the_default_is_smols_executor() {
    if crate::support::chosen::is_tokio() {
        return;
    }
    test(async {
        let name = || thread::current().name().map(ToOwned::to_owned);
        let group = TaskGroup::new();
        let ours = group.spawn(async move { name() }).await.unwrap();
        assert!(ours.as_deref().is_some_and(|name| name.starts_with("smol-")), "{ours:?}");
    });
}

/// The function that was given ran under a lock, and its call deadlocked.
#[test]
fn the_function_may_use_the_server_that_is_closed_without_being_served() {
    on_thread(|| {
        let called = Arc::new(AtomicUsize::new(0));
        let (listener, _connector) = Listener::memory();
        let server = Server::new(listener);
        let (handle, count) = (server.handle(), Arc::clone(&called));
        let server = server.executor(move |job| {
            count.fetch_add(1, Ordering::Relaxed);
            drop(handle.shutdown());
            thread::spawn(|| async_io::block_on(job));
        });
        let handle = server.handle();
        drop(server);
        assert_eq!(handle.phase(), Phase::Closed);
        // The function is dropped at the close, although it holds a handle of the server.
        assert_eq!(Arc::strong_count(&called), 1);

        // And at once, if the server is closed before.
        let (listener, _connector) = Listener::memory();
        let server = Server::new(listener);
        let (handle, count) = (server.handle(), Arc::clone(&called));
        drop(handle.cancel());
        drop(server.executor(move |_job| drop((handle.phase(), Arc::clone(&count)))));
        assert_eq!(Arc::strong_count(&called), 1);
    });
}

/// Each end of a child started the next one, so the stack grew with the number of children that waited.
#[test]
fn a_set_with_a_limit_survives_an_executor_that_ends_children_inside_the_call() {
    test(async {
        let mut dropped = TaskSet::on(drop::<Job>).limit(4);
        let mut polled = TaskSet::on(|mut job: Job| {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(std::pin::Pin::new(&mut job).poll(&mut cx).is_ready());
        })
        .limit(1);
        for n in 0..20_000 {
            dropped.spawn(pending::<()>());
            polled.spawn(async move { n });
        }
        while let Some(result) = dropped.next().await {
            assert!(result.unwrap_err().is_cancelled());
        }
        for n in 0..20_000 {
            assert_eq!(polled.next().await.unwrap().unwrap(), n);
        }
    });
    on_thread(|| {
        let runtime = multi_thread();
        let tokio = runtime.handle().clone();
        let mut set = TaskSet::on(move |job| drop(tokio.spawn(job))).limit(4);
        for _ in 0..20_000 {
            set.spawn(pending::<()>());
        }
        runtime.shutdown_timeout(NET);
        assert!(task::block_on(set.next()).unwrap().unwrap_err().is_cancelled());
    });
}

/// Runs each job on a thread of its own, except the job with this number, which `then` gets.
fn all_but(number: usize, then: impl Fn(Job) + Send + Sync + 'static) -> impl Fn(Job) + Send + Sync + 'static {
    let jobs = AtomicUsize::new(0);
    move |job| match jobs.fetch_add(1, Ordering::Relaxed) == number {
        true => then(job),
        false => drop(thread::spawn(|| async_io::block_on(job))),
    }
}

/// Without the accept loop clients would wait forever; without the shutdown stream no request would be heard.
#[test]
fn a_server_closes_with_an_error_if_the_executor_drops_a_task_that_it_needs() {
    test(async {
        // The first job is the one that logs: without it the server goes on.
        let needed = ["the accept loop of `memory`", "the task of a shutdown stream", "the accept loop of `memory`"];
        for (number, task) in needed.into_iter().enumerate() {
            let (listener, _connector) = Listener::memory();
            let server = Server::new(listener).ack_timeout(None).executor(all_but(number + 1, drop));
            let server = server.shutdown_when(pending::<()>());
            let error = server.serve(async |_: Connection| {}).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoExecutor, "{error}");
            assert!(error.to_string().contains(task), "{number}: {error}");
        }
    });
}

/// The supervisor owned the handlers. When it was dropped within the poll of one of them, a drop of `serve` on another
/// thread found nothing to join.
#[test]
fn a_drop_of_serve_joins_also_if_the_executor_has_dropped_the_supervisor_in_a_handler() {
    test(async {
        let live = Live::default();
        let supervisor = Arc::new(std::sync::Mutex::new(None));
        let keep = Arc::clone(&supervisor);
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).ack_timeout(None).executor(all_but(2, move |job| {
            *keep.lock().unwrap() = Some(job);
        }));
        let handle = server.handle();
        let (dropped, is_dropped) = async_std::channel::bounded(1);
        let guarded = live.clone();
        let serving = server.serve(move |_conn| {
            let (guard, supervisor, dropped) = (guarded.guard(), Arc::clone(&supervisor), dropped.clone());
            async move {
                let _guard = guard;
                drop(supervisor.lock().unwrap().take());
                let _ = dropped.try_send(());
                thread::sleep(Duration::from_millis(200)); // within this poll, with which the drop has to wait
                pending::<()>().await;
            }
        });
        let mut serving = Box::pin(serving);
        assert!(futures_lite::future::poll_once(&mut serving).await.is_none());
        let _client = connector.connect().await.unwrap();
        is_dropped.recv().await.unwrap();
        drop(serving);
        assert_eq!((live.count(), handle.phase()), (0, Phase::Closed));
    });
}

#[test]
fn a_job_is_send_and_small() {
    fn is_send<T: Send + Unpin + 'static>() {}
    is_send::<Job>();
    assert!(size_of::<Job>() <= 40, "{}", size_of::<Job>());
}
