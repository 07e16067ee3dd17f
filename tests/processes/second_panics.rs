//! Destructors that panic one after the other, or during another panic. A panic that unwinds into another one aborts
//! the process, so each test runs in a process of its own.

use crate::support::executor::alone_with_threads;
use crate::support::probe::Gate;
use crate::support::*;
use async_std::task;
use ebbtide::{Connection, Handle, OnFailure, Phase, TaskSet};
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// Silences the panics of bombs: there are thousands of them.
fn silence_bombs() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.to_string().contains("in a destructor") {
            usual(info);
        }
    }));
}

/// A waker that records that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// The end of the first child starts the second one, while the first one's destructor panics. In some rounds the cancel
/// falls between that start and the second child's entry into the group, so the child is refused.
#[test]
fn a_child_that_is_refused_while_the_destructor_of_another_panics_has_a_result() {
    const ROUNDS: usize = 5_000;
    alone_with_threads(2, || {
        silence_bombs();
        on_thread(|| {
            let mut refused = 0;
            for round in 0..ROUNDS {
                let (mut set, gate) = (TaskSet::new().limit(1), Gate::new());
                for n in 0..2 {
                    let (gate, bomb) = (gate.clone(), Bomb("in a destructor"));
                    let mut opened = Box::pin(async move { gate.opened().await });
                    set.spawn(poll_fn(move |cx| {
                        let _held = &bomb; // dropped with the future, not in its last poll
                        opened.as_mut().poll(cx).map(|()| n)
                    }));
                }
                let woken = Arc::new(Woken::default());
                let waker = Waker::from(Arc::clone(&woken));
                assert!(pin!(set.next()).poll(&mut Context::from_waker(&waker)).is_pending());
                gate.open();
                while !woken.0.load(SeqCst) {
                    std::hint::spin_loop();
                }
                (0..round % 50).for_each(|_| std::hint::spin_loop());
                set.cancel();
                let results: Vec<_> = std::iter::from_fn(|| task::block_on(set.next())).collect();
                match &results[..] {
                    [Ok(0), Ok(1)] => {}
                    [Ok(0), Err(error)] if error.is_cancelled() => refused += 1,
                    _ => panic!("{results:?}"),
                }
            }
            println!("{refused} of {ROUNDS} were cancelled");
        });
    });
}

#[test]
fn dropping_a_set_catches_the_panics_of_several_results() {
    alone_with_threads(2, || {
        silence_bombs();
        test(async {
            let mut set = TaskSet::new();
            (0..3).for_each(|_| set.spawn(async { Bomb("in a destructor") }));
            until(|| format!("{set:?}").contains("results: 3")).await;
            assert!(catch_unwind(AssertUnwindSafe(|| drop(set))).is_ok());
        });
    });
}

#[test]
fn a_bodys_panic_goes_on_although_the_destructor_of_a_handlers_error_panics() {
    alone_with_threads(2, || {
        silence_bombs();
        on_thread(|| {
            let server = task::block_on(bind()).on_failure(OnFailure::Shutdown);
            let handle = server.handle();
            let _client = connect(server.local_addr());
            let body = async |server: Handle| {
                until(|| server.phase() != Phase::Serving).await; // the handler has failed
                panic!("the body's own");
            };
            let scope = server.scope(async |_: Connection| Err::<(), _>(Bomb("in a destructor")), body);
            let payload = catch_unwind(AssertUnwindSafe(|| task::block_on(scope).is_ok())).unwrap_err();
            assert_eq!(payload.downcast_ref(), Some(&"the body's own"));
            assert_eq!(handle.phase(), Phase::Closed);
        });
    });
}

#[test]
fn the_last_handle_may_drop_the_error_of_a_dropped_serve_future_during_a_panic() {
    alone_with_threads(2, || {
        silence_bombs();
        on_thread(|| {
            for _ in 0..5 {
                let server = task::block_on(bind()).on_failure(OnFailure::Shutdown);
                let handle = server.handle();
                let stays = AtomicBool::new(true); // the first connection, so that the drain lasts
                let handler = move |_: Connection| {
                    let stays = stays.swap(false, SeqCst);
                    async move { if stays { pending().await } else { Err::<(), _>(Bomb("in a destructor")) } }
                };
                let _clients = [connect(server.local_addr()), connect(server.local_addr())];
                let mut serve = Box::pin(server.serve(handler));
                assert!(serve.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                task::block_on(until(|| handle.phase() == Phase::Draining));
                assert!(catch_unwind(AssertUnwindSafe(|| drop(serve))).is_ok());
                std::thread::sleep(Duration::from_millis(50)); // until the executor has freed the last task
                let unwinding = AssertUnwindSafe(move || {
                    let _last = handle;
                    panic!("its own");
                });
                assert_eq!(catch_unwind(unwinding).unwrap_err().downcast_ref(), Some(&"its own"));
            }
        });
    });
}
