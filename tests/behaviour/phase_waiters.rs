//! `Handle::reached` and `Handle::phases` as a future and a stream: what they return, the wakers that they keep, and
//! their debug text.

use crate::support::test;
use async_std::prelude::*;
use ebbtide::{Connection, Handle, Listener, Phase, Phases, Server};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

/// Stand-in for a task. Its strong count shows how many of its wakers are kept.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Serves no client, and shuts down at once.
async fn serve_and_shut_down(server: Server) {
    server.scope(async |_: Connection| {}, async |server: Handle| drop(server.shutdown())).await.unwrap();
}

/// Takes each phase that is left.
async fn all(phases: &mut Phases) -> Vec<Phase> {
    let mut all = Vec::new();
    while let Some(phase) = phases.next().await {
        all.push(phase);
    }
    all
}

#[test]
fn the_stream_of_phases_has_each_phase_from_the_current_one_to_closed() {
    test(async {
        let server = Server::new(Listener::memory().0);
        let handle = server.handle();
        let (mut early, mut at_the_end) = (handle.phases(), handle.phases());
        assert_eq!(early.next().await, Some(Phase::Bound));
        serve_and_shut_down(server).await;
        let later = all(&mut early).await;
        assert_eq!(
            (later[0], later[1], later.last()),
            (Phase::Serving, Phase::Draining, Some(&Phase::Closed)),
            "{later:?}"
        );
        assert!(later.is_sorted_by(|one, next| one < next), "{later:?}");
        assert_eq!(early.next().await, None);
        // One that is first polled after the end has missed nothing.
        let whole = all(&mut at_the_end).await;
        assert_eq!((whole[0], &whole[1..]), (Phase::Bound, &later[..]));
    });
}

#[test]
fn a_wait_for_a_phase_is_woken_by_that_phase_and_leaves_no_waker_behind() {
    test(async {
        let server = Server::new(Listener::memory().0);
        let handle = server.handle();
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let cx = || Context::from_waker(&waker);
        {
            let (mut reached, mut phases) = (pin!(handle.reached(Phase::Draining)), handle.phases());
            assert!(reached.as_mut().poll(&mut cx()).is_pending());
            let mut next = pin!(phases.next());
            assert_eq!(next.as_mut().poll(&mut cx()), Poll::Ready(Some(Phase::Bound)));
            assert_eq!(Arc::strong_count(&task), 2 + 2, "each of the two keeps one waker");
        }
        assert_eq!(Arc::strong_count(&task), 2, "a waker stays although nothing waits");

        let mut draining = pin!(handle.reached(Phase::Draining));
        assert!(draining.as_mut().poll(&mut cx()).is_pending());
        serve_and_shut_down(server).await;
        assert!(task.0.load(SeqCst) > 0, "not woken");
        assert!(draining.as_mut().poll(&mut cx()).is_ready() && draining.as_mut().poll(&mut cx()).is_ready());
    });
}

#[test]
fn the_debug_text_of_a_wait_has_its_phase() {
    let server = Server::new(Listener::memory().0);
    let handle = server.handle();
    assert_eq!(format!("{:?}", handle.reached(Phase::Draining)), "Reached { phase: Draining, .. }");
    assert_eq!(format!("{:?}", handle.phases()), "Phases { phase: Bound, .. }");
    drop(server);
    assert_eq!(format!("{:?}", handle.phases()), "Phases { phase: Closed, .. }");
}
