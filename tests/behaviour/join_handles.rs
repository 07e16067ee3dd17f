//! `JoinHandle`: it returns the child's result by value, cancels one child alone, and receives the child's panic. If
//! the handle is dropped, the panic goes to the group.

use crate::support::bomb::Bomb;
use crate::support::logs;
use crate::support::probe::{Gate, Live, NET, Probe};
use crate::support::{assert_adds_up, bind, connect, rest, test};
use async_std::channel::bounded;
use async_std::{prelude::*, task};
use ebbtide::{Connection, Handle, JoinError, JoinHandle, TaskGroup};
use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// How often each race is tried.
const ROUNDS: usize = 300;

/// Polls once, with a waker that does nothing.
fn poll<T: 'static>(handle: &mut JoinHandle<T>) -> Poll<Result<T, JoinError>> {
    Pin::new(handle).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits, by polling, for something that follows soon after an event and has no event of its own.
fn wait_until(holds: impl Fn() -> bool) {
    let end = Instant::now() + NET;
    while !holds() {
        assert!(Instant::now() < end, "the awaited condition is still false after {NET:?}");
        std::thread::yield_now();
    }
}

/// Joins the group, and returns the text with which the join panics.
fn raised(group: &TaskGroup) -> Option<&'static str> {
    let join = || task::block_on(group.join());
    let payload = std::thread::scope(|scope| scope.spawn(join).join()).err()?;
    Some(payload.downcast_ref::<&'static str>().copied().unwrap_or("not a text"))
}

/// Returns the text of the panic in an error.
fn text(error: JoinError) -> &'static str {
    error.into_panic().expect("it panicked").downcast_ref::<&'static str>().copied().unwrap_or("not a text")
}

/// Returns a future that is ready with `value` at once. Its destructor panics.
fn bomb<T: Send>(value: T, text: &'static str) -> impl Future<Output = T> + Send {
    let (bomb, mut value) = (Bomb(text), Some(value));
    poll_fn(move |_| {
        let _held = &bomb;
        Poll::Ready(value.take().unwrap())
    })
}

/// Returns a future that holds a probe, waits for the gate, and then calls `end`.
fn behind<T, F>(gate: &Gate, live: &Live, end: F) -> impl Future<Output = T> + Send + use<T, F>
where
    F: FnOnce() -> T + Send,
{
    let (gate, probe) = (gate.clone(), live.probe());
    async move {
        let _probe = probe;
        gate.opened().await;
        end()
    }
}

#[test]
fn a_handle_returns_its_childs_result_by_value() {
    test(async {
        let group = TaskGroup::new();
        let at_once = group.spawn(async { Cell::new(7) });
        let later = group.spawner().spawn(async {
            task::yield_now().await;
            String::from("its own")
        });
        assert_eq!((at_once.await.unwrap().into_inner(), later.await.unwrap()), (7, "its own".to_owned()));
        assert!(group.is_empty());
    });
}

#[test]
fn a_child_whose_handle_is_dropped_runs_on_in_its_group() {
    let live = Live::default();
    live.clone().within_net(move || {
        let (group, gate, ends) = (TaskGroup::new(), Gate::new(), Arc::new(AtomicUsize::new(0)));
        let counts = Arc::clone(&ends);
        let mut child = group.spawn(behind(&gate, &live, move || counts.fetch_add(1, SeqCst)));
        assert!(poll(&mut child).is_pending());
        drop(child);
        assert_eq!((live.count(), group.len()), (1, 1));
        gate.open();
        task::block_on(group.join());
        assert_eq!((live.count(), ends.load(SeqCst)), (0, 1));
    });
}

#[test]
fn the_cancel_of_one_child_does_not_affect_its_siblings_or_the_group() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        let (first, second, third) =
            (group.spawn(live.sleeper()), group.spawn(live.sleeper()), group.spawn(live.runner()));
        second.cancel();
        assert!(task::block_on(second).unwrap_err().is_cancelled());
        assert_eq!((live.count(), group.len()), (2, 2));
        assert!(!first.is_finished() && !third.is_finished());
        task::block_on(group.spawn(live.child(async {}))).expect("the group goes on");
    });
}

#[test]
fn a_cancelled_child_that_was_awaited_is_destroyed_and_its_group_does_not_count_it() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        for round in 0..ROUNDS {
            let polls = live.polls();
            let child = if round % 2 == 0 { group.spawn(live.runner()) } else { group.spawn(live.sleeper()) };
            live.wait_for_polls(polls + round % 2); // some were never polled
            child.cancel();
            child.cancel();
            let error = task::block_on(child).unwrap_err();
            assert!(error.is_cancelled() && !error.is_panic() && error.into_panic().is_none());
            assert_eq!((live.count(), group.len()), (0, 0));
        }
        assert_eq!(raised(&group), None);
    });
}

#[test]
fn a_cancel_against_the_end_gives_the_result_or_a_cancelled_error() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        for round in 0..ROUNDS {
            let polls = live.polls();
            let (probe, child) = (live.probe(), live.child(task::yield_now()));
            let child = group.spawn(async move {
                child.await;
                probe
            });
            live.wait_for_polls(polls + round % 3);
            child.cancel();
            match task::block_on(child) {
                Ok(probe) => drop(probe),
                Err(error) => assert!(error.is_cancelled()),
            }
            assert_eq!((live.count(), group.len()), (0, 0));
        }
    });
}

#[test]
fn a_child_cancelled_in_its_last_poll_returns_its_result_and_in_an_earlier_poll_does_not() {
    test(async {
        for last in [true, false] {
            let (group, (give, take)) = (TaskGroup::new(), bounded::<Arc<JoinHandle<i32>>>(1));
            let child = Arc::new(group.spawn(async move {
                take.recv().await.unwrap().cancel();
                if !last {
                    task::yield_now().await;
                }
                7
            }));
            give.send(Arc::clone(&child)).await.unwrap();
            group.join().await;
            assert!(child.is_finished());
            let result = Arc::into_inner(child).expect("the child's own handle was dropped with it").await;
            assert_eq!(result.ok(), last.then_some(7));
        }
    });
}

#[test]
fn a_child_is_finished_once_it_has_returned_panicked_or_been_cancelled() {
    let live = Live::default();
    live.clone().within_net(move || {
        let (group, gate) = (TaskGroup::new(), Gate::new());
        let returns = group.spawn(behind(&gate, &live, || ()));
        let panics = group.spawn(behind(&gate, &live, || panic!("as ordered")));
        let cancelled = group.spawn(live.sleeper());
        let children = [&returns, &panics, &cancelled];
        assert!(children.iter().all(|child| !child.is_finished()));
        assert!(format!("{returns:?}").ends_with(", finished: false }"), "{returns:?}");
        gate.open();
        cancelled.cancel();
        wait_until(|| children.iter().all(|child| child.is_finished()));
        assert!(format!("{returns:?}").ends_with(", finished: true }"), "{returns:?}");
        assert_eq!(live.count(), 0);
        returns.cancel(); // too late to have an effect
        task::block_on(returns).unwrap();
    });
}

#[test]
fn after_a_join_of_the_group_every_handle_is_finished_and_returns_its_value() {
    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..ROUNDS {
            let group = TaskGroup::new();
            let children: Vec<_> = (0..4)
                .map(|n| {
                    let child = live.child(task::yield_now());
                    group.spawn(async move {
                        child.await;
                        n
                    })
                })
                .collect();
            task::block_on(group.join());
            assert!(children.iter().all(JoinHandle::is_finished));
            let values: Vec<_> = children.into_iter().map(|child| task::block_on(child).unwrap()).collect();
            assert_eq!(values, [0, 1, 2, 3]);
        }
    });
}

#[test]
fn a_dropped_await_of_a_handle_does_not_lose_the_result() {
    let live = Live::default();
    live.clone().within_net(move || {
        let (group, gate) = (TaskGroup::new(), Gate::new());
        let mut child = group.spawn(behind(&gate, &live, || 7));
        task::block_on(async {
            for _ in 0..10 {
                async_std::future::timeout(Duration::ZERO, &mut child).await.unwrap_err();
            }
            gate.open();
            group.join().await;
            assert_eq!(child.await.unwrap(), 7);
        });
    });
}

#[test]
fn a_handle_wakes_the_task_that_polled_it_last() {
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    let live = Live::default();
    live.clone().within_net(move || {
        let (group, gate) = (TaskGroup::new(), Gate::new());
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut child = group.spawn(behind(&gate, &live, || 7));
        for count in [&first, &second] {
            let waker = Waker::from(Arc::clone(count));
            assert!(Pin::new(&mut child).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(Arc::strong_count(&first), 1, "the waker of the first poll is still held");
        gate.open();
        wait_until(|| second.0.load(SeqCst) == 1);
        assert!(matches!(poll(&mut child), Poll::Ready(Ok(7))));
        assert_eq!(first.0.load(SeqCst), 0);

        let mut child = group.spawn(pending::<()>());
        let waker = Waker::from(Arc::clone(&first));
        assert!(Pin::new(&mut child).poll(&mut Context::from_waker(&waker)).is_pending());
        drop((waker, child));
        assert_eq!(Arc::strong_count(&first), 1, "the waker of a dropped handle is still held");
    });
}

#[test]
fn a_handle_that_is_polled_after_it_was_ready_panics() {
    test(async {
        let group = TaskGroup::new();
        group.cancel();
        let refused = group.spawn(async {});
        let group = TaskGroup::new();
        let returns = group.spawn(async {});
        for mut child in [refused, returns] {
            let _ = (&mut child).await;
            assert!(child.is_finished());
            let again = catch_unwind(AssertUnwindSafe(|| poll(&mut child).is_ready())).unwrap_err();
            assert_eq!(again.downcast_ref(), Some(&"a `JoinHandle` was polled after it was ready"));
        }
    });
}

#[test]
fn a_refused_child_is_cancelled_at_once() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        let spawner = group.spawner();
        group.cancel();
        let mut refused = vec![group.spawn(live.runner()), spawner.spawn(live.runner())];
        drop(group);
        refused.push(spawner.spawn(live.runner()));
        for mut child in refused {
            assert!(child.is_finished());
            child.cancel();
            assert!(matches!(poll(&mut child), Poll::Ready(Err(error)) if error.is_cancelled()));
        }
        assert_eq!((live.count(), live.polls()), (0, 0));
    });
}

#[test]
fn the_handles_of_a_dropped_groups_children_return_a_cancelled_error() {
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        let children = [group.spawn(live.sleeper()), group.spawn(live.runner())];
        let awaited = task::spawn(group.spawn(live.sleeper()));
        drop(group);
        assert_eq!(live.count(), 0);
        for mut child in children {
            assert!(child.is_finished());
            assert!(matches!(poll(&mut child), Poll::Ready(Err(error)) if error.is_cancelled()));
        }
        assert!(task::block_on(awaited).unwrap_err().is_cancelled());
    });
}

#[test]
fn a_result_lives_as_long_as_its_handle_and_is_dropped_once() {
    let (live, results) = (Live::default(), Live::default());
    live.clone().within_net(move || {
        let probe = |results: &Live| {
            let results = results.clone();
            move || results.probe()
        };
        // The handle is dropped before the child's end.
        let (group, gate) = (TaskGroup::new(), Gate::new());
        drop(group.spawn(behind(&gate, &live, probe(&results))));
        gate.open();
        task::block_on(group.join());
        results.wait_for(0);

        // One handle is dropped after the child's end; the other outlives its group.
        let (dropped, kept) =
            (group.spawn(behind(&gate, &live, probe(&results))), group.spawn(behind(&gate, &live, probe(&results))));
        task::block_on(group.join());
        wait_until(|| results.count() == 2);
        assert_eq!(live.count(), 0, "futures are alive after their end");
        drop(dropped);
        results.wait_for(1);
        drop(group);
        assert_eq!(results.count(), 1);
        let result: Probe = task::block_on(kept).unwrap();
        assert_eq!(results.count(), 1);
        drop(result);
        assert_eq!(results.count(), 0);
    });
}

#[test]
fn a_handle_that_is_dropped_while_its_child_ends_drops_the_result_once() {
    let (live, results) = (Live::default(), Live::default());
    live.clone().within_net(move || {
        for round in 0..ROUNDS {
            let (group, polls) = (TaskGroup::new(), live.polls());
            let (child, results) = (live.child(task::yield_now()), results.clone());
            let made = results.clone();
            let child = group.spawn(async move {
                child.await;
                made.probe()
            });
            live.wait_for_polls(polls + round % 3);
            drop(child);
            task::block_on(group.join());
            results.wait_for(0);
        }
    });
}

#[test]
fn the_panic_of_a_results_destructor_is_logged() {
    struct Bomb(#[allow(dead_code)] Probe);
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a result that nobody wants");
        }
    }

    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let (group, gate) = (TaskGroup::new(), Gate::new());
        let result = |live: &Live| {
            let probe = live.probe();
            move || Bomb(probe)
        };
        drop(group.spawn(behind(&gate, &live, result(&live))));
        let child = group.spawn(behind(&gate, &live, result(&live)));
        gate.open();
        task::block_on(group.join());
        drop(child);
        live.wait_for(0);
        wait_until(|| logs.lines_with("a result that nobody wants").len() == 2);
    });
}

#[test]
fn the_panic_of_a_child_whose_handle_is_alive_goes_to_the_handle_only() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let (group, gate) = (TaskGroup::new(), Gate::new());
        let child = group.spawn(behind(&gate, &live, || -> () { panic_any("the handle's alone") }));
        let sibling = group.spawn(behind(&gate, &live, || 7));
        gate.open();
        assert_eq!(raised(&group), None);
        assert_eq!((live.count(), task::block_on(sibling).unwrap()), (0, 7));
        let error = task::block_on(child).unwrap_err();
        assert!(error.is_panic() && !error.is_cancelled());
        assert_eq!(text(error), "the handle's alone");
        assert_eq!(raised(&group), None);
        drop(group);
        assert!(logs.lines_with("the handle's alone").is_empty());
    });
}

#[test]
fn the_panic_of_a_child_whose_handle_is_dropped_is_raised_by_the_next_join_of_the_group() {
    let live = Live::default();
    live.clone().within_net(move || {
        let (group, gate) = (TaskGroup::new(), Gate::new());
        let (before, after) = (
            group.spawn(behind(&gate, &live, || panic_any("dropped before"))),
            group.spawn(behind(&gate, &live, || -> () { panic_any("dropped after") })),
        );
        drop::<JoinHandle<()>>(before);
        gate.open();
        assert_eq!(raised(&group), Some("dropped before"));
        assert_eq!(raised(&group), None, "the other panic still belongs to its handle");
        drop(after);
        assert_eq!(raised(&group), Some("dropped after"));
    });
}

#[test]
fn a_panic_whose_handle_is_dropped_after_the_group_is_logged() {
    let logs = logs::remember();
    let live = Live::default();
    live.clone().within_net(move || {
        let group = TaskGroup::new();
        let child = group.spawn(live.child(async { panic!("left to nobody") }));
        task::block_on(group.join());
        drop(group);
        assert!(logs.lines_with("left to nobody").is_empty());
        drop(child);
        let lines = logs.lines_with("left to nobody");
        assert!(matches!(&lines[..], [(log::Level::Error, line)] if line.contains(file!())), "{lines:?}");
    });
}

/// Waker of a join that reports to the test that it was woken, and then blocks until the test goes on. So the test sees
/// the state at the wake, before anything that the child's end does after it.
struct BlocksInWake(mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>);

impl Wake for BlocksInWake {
    fn wake(self: Arc<Self>) {
        self.0.send(()).unwrap();
        self.1.lock().unwrap().recv_timeout(NET).unwrap();
    }
}

/// Runs a child that drops its own handle in its last poll. Calls `look` with the result of the join at the moment when
/// the child's end wakes the join.
fn when_joined<T>(end: impl FnOnce() -> T + Send + 'static, look: impl FnOnce(Result<(), &'static str>))
where
    T: Send + 'static,
{
    let (group, (give, take)) = (TaskGroup::new(), bounded::<JoinHandle<T>>(1));
    let child = group.spawn(async move {
        drop(take.recv().await.unwrap());
        end()
    });
    let (woken, is_woken) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let waker = Waker::from(Arc::new(BlocksInWake(woken, goes_on.into())));
    let mut join = Box::pin(group.join());
    assert!(join.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    give.send_blocking(child).unwrap_or_else(|_| panic!("the child does not wait for its handle"));
    is_woken.recv_timeout(NET).unwrap();
    let joined = catch_unwind(AssertUnwindSafe(|| {
        assert!(join.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }));
    look(joined.map_err(|payload| payload.downcast_ref::<&'static str>().copied().unwrap_or("not a text")));
    go_on.send(()).unwrap();
}

#[test]
fn a_handle_dropped_in_its_childs_last_poll_has_left_the_panic_to_the_join_that_is_woken() {
    let live = Live::default();
    live.clone().within_net(move || {
        let look = |joined| assert_eq!(joined, Err("nobody's but the group's"));
        when_joined(|| -> () { panic_any("nobody's but the group's") }, look);
    });
}

#[test]
fn a_handle_dropped_in_its_childs_last_poll_has_dropped_the_result_when_the_join_is_woken() {
    let live = Live::default();
    live.clone().within_net(move || {
        let result = live.probe();
        when_joined(
            move || result,
            |joined| {
                joined.unwrap();
                assert_eq!(live.count(), 0);
            },
        );
    });
}

#[test]
fn a_handle_that_is_dropped_while_its_child_panics_leaves_the_panic_to_the_join_that_follows() {
    let live = Live::default();
    live.clone().within_net(move || {
        for round in 0..ROUNDS {
            let (group, polls) = (TaskGroup::new(), live.polls());
            let child = group.spawn(live.child(async { panic_any("met the drop of its handle") }));
            live.wait_for_polls(polls + round % 2);
            drop(child);
            assert_eq!(raised(&group), Some("met the drop of its handle"), "round {round}");
        }
    });
}

#[test]
fn an_error_shows_where_its_child_was_spawned_and_how_it_ended() {
    test(async {
        let group = TaskGroup::new();
        let (line, cancelled) = (line!(), group.spawn(pending::<()>()));
        let place = format!("{}:{line}:", file!());
        assert!(format!("{cancelled:?}").starts_with(&format!("JoinHandle {{ spawned_at: {place}")), "{cancelled:?}");
        cancelled.cancel();
        let error = cancelled.await.unwrap_err();
        let shown = error.to_string();
        assert!(
            shown.starts_with(&format!("the task spawned at {place}")) && shown.ends_with(" was cancelled"),
            "{shown}"
        );
        assert_eq!(format!("{error:?}"), shown);

        let (line, panics) = (line!(), group.spawner().spawn(async { panic_any(String::from("as ordered")) }));
        let error: JoinError = panics.await.unwrap_err();
        let shown = error.to_string();
        let place = format!("{}:{line}:", file!());
        assert!(shown.starts_with(&format!("the task spawned at {place}")), "{shown}");
        assert!(shown.ends_with(" panicked: as ordered"), "{shown}");
        assert_eq!(format!("{error:?}"), shown);

        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::Other, shown));
        let inner = error.into_inner().unwrap().downcast::<JoinError>().unwrap();
        assert_eq!(inner.into_panic().unwrap().downcast_ref::<String>().unwrap(), "as ordered");
    });
}

#[test]
fn an_error_may_be_formatted_while_it_is_being_formatted() {
    /// Formats the error once more for each piece that is written to it.
    struct Reentrant<'a>(&'a JoinError, String);
    impl std::fmt::Write for Reentrant<'_> {
        fn write_str(&mut self, piece: &str) -> std::fmt::Result {
            assert!(self.0.to_string().ends_with(" panicked: shown twice"));
            self.1 += piece;
            Ok(())
        }
    }

    test(async {
        let group = TaskGroup::new();
        let error: JoinError = group.spawn(async { panic_any("shown twice") }).await.unwrap_err();
        let mut shown = Reentrant(&error, String::new());
        std::fmt::write(&mut shown, format_args!("{error}")).unwrap();
        assert_eq!(shown.1, error.to_string());
    });
}

#[test]
fn handles_and_errors_are_send_and_sync_whatever_the_result_is() {
    fn check<T: Send + Sync + Unpin + 'static>() {}
    check::<JoinHandle<Cell<i32>>>();
    check::<JoinHandle<std::rc::Rc<i32>>>();
    check::<JoinError>();
}

#[test]
fn a_future_whose_destructor_panics_after_it_has_returned_still_gives_its_result() {
    let logs = logs::remember();
    test(async move {
        let group = TaskGroup::new();
        let child = group.spawn(bomb(7, "after the result"));
        assert_eq!(child.await.unwrap(), 7);
        group.join().await;
        assert_eq!(logs.lines_with("after the result").len(), 1);

        // The same for tasks of a connection and of a server, which the server waits for.
        let server = bind().await;
        let client = connect(server.local_addr());
        let handler =
            |conn: Connection| async move { assert_eq!(conn.spawn(bomb(8, "of a connection")).await.unwrap(), 8) };
        let body = async |server: Handle| {
            crate::support::until(|| server.connection_count() > 0).await;
            server.spawn(bomb(9, "of a server")).await.map_err(Into::into)
        };
        let (result, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((result, report.completed()), (9, 1), "{report}");
        drop(client);
    });
}

#[test]
fn a_handler_can_await_the_results_of_its_connections_tasks() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = |mut conn: Connection| async move {
            let mut writer = conn.clone();
            let writing = conn.spawn(async move {
                writer.write_all(b"from a task, ").await?;
                io::Result::Ok(13)
            });
            let written = writing.await??;
            conn.write_all(format!("{written} bytes").as_bytes()).await
        };
        let (_, report) = server.scope(handler, async |_| ()).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
        assert_eq!(rest(&mut client), "from a task, 13 bytes");
    });
}

#[test]
fn a_task_that_panics_ends_its_connection_only_if_its_handle_is_dropped() {
    let logs = logs::remember();
    test(async move {
        for dropped in [false, true] {
            let server = bind().await;
            let mut client = connect(server.local_addr());
            let handler = move |mut conn: Connection| async move {
                let panics = conn.spawn(async { panic!("of a task with a handle") });
                while !panics.is_finished() {
                    task::yield_now().await;
                }
                if dropped {
                    drop(panics);
                    return pending::<io::Result<()>>().await;
                }
                let error: JoinError = panics.await.unwrap_err();
                assert!(error.is_panic());
                conn.write_all(b"still here").await
            };
            let (_, report) = server.scope(handler, async |_| ()).await.unwrap();
            assert_adds_up(&report);
            assert_eq!(
                (report.completed(), report.panicked()),
                (1 - u64::from(dropped), u64::from(dropped)),
                "{report}"
            );
            assert_eq!(rest(&mut client), if dropped { "" } else { "still here" });
            assert_eq!(logs.lines_with("of a task with a handle").len(), usize::from(dropped));
        }
    });
}

#[test]
fn a_task_of_a_connection_is_cancelled_by_its_handle_and_by_the_end_of_the_handler() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let (send, handles) = bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let task = conn.spawn(pending::<()>());
                task.cancel();
                assert!(task.await.unwrap_err().is_cancelled());
                send.send(conn.spawn(pending::<()>())).await.unwrap();
            }
        };
        let body = async |_| Ok(handles.recv().await?.await.unwrap_err().is_cancelled());
        let (is_cancelled, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((is_cancelled, report.completed()), (true, 1), "{report}");
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn tasks_that_a_servers_handle_spawns_return_their_results_and_panics() {
    let logs = logs::remember();
    test(async move {
        let server = bind().await;
        let before = server.handle().spawn(async { 6 });
        let body = async |server: Handle| {
            let panics = server.spawn(async { panic_any("of a server's task with a handle") });
            let error: JoinError = panics.await.unwrap_err();
            assert_eq!(text(error), "of a server's task with a handle");
            assert!(server.is_serving());
            Ok(before.await? * server.spawn(async { 7 }).await?)
        };
        let (product, _) = server.scope(async |_: Connection| {}, body).await.unwrap();
        assert_eq!(product, 42);
        assert!(logs.lines_with("of a server's task with a handle").is_empty());
    });
}
