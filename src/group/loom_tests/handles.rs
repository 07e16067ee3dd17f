//! Models of handles: their waits, and where a result or a panic goes when a handle is dropped.
//!
//! `tests/behaviour/join_handles.rs` has tests of handles on the real executor.

use super::*;
use crate::group::JoinHandle;

/// Enters a child with a handle. Returns its shell, the handle, and the count of its destructions.
fn enter_joinable(
    children: &Arc<Children>,
    poll: impl FnMut() -> Poll<()> + Unpin + Send + 'static,
) -> (Shell, JoinHandle<()>, Arc<AtomicUsize>) {
    let at = Location::caller();
    let dropped = Arc::new(AtomicUsize::new(0));
    let probe = Probe { poll, step: Default::default(), dropped: Arc::clone(&dropped), wake_in_drop: None };
    let (shell, _) = children.enter_with_result(Label::At(at), probe, |(): &mut ()| true).unwrap();
    let handle = JoinHandle::new(Some(Arc::clone(shell.child())), at);
    (shell, handle, dropped)
}

#[test]
fn a_handle_that_waits_is_woken_by_the_childs_end() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, handle, dropped) = enter_joinable(&children, || Poll::Ready(()));
        let executor = thread::spawn(move || Task::run(child));
        let result = loom::future::block_on(handle);
        assert!(result.is_ok());
        assert_eq!(dropped.load(SeqCst), 1, "the handle was ready before the child's future was gone");
        assert_eq!(children.len(), 0, "the handle was ready before the child had left the list");
        executor.join().unwrap();
    });
}

#[test]
fn a_handle_that_waits_is_woken_by_the_drop_of_the_group() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, handle, dropped) = enter_joinable(&children, pending);
        let executor = thread::spawn(move || Task::run(child));
        let dropper = {
            let children = Arc::clone(&children);
            thread::spawn(move || children.cancel_and_destroy())
        };
        assert!(loom::future::block_on(handle).is_err_and(|error| error.is_cancelled()));
        assert_eq!(dropped.load(SeqCst), 1, "the handle was ready before the child's future was gone");
        dropper.join().unwrap();
        executor.join().unwrap();
    });
}

#[test]
fn a_handle_that_cancels_loses_no_wakeup() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, handle, dropped) = enter_joinable(&children, pending);
        let executor = thread::spawn(move || Task::run(child));
        handle.cancel();
        assert!(loom::future::block_on(handle).is_err_and(|error| error.is_cancelled()));
        assert_eq!((dropped.load(SeqCst), children.len()), (1, 0));
        executor.join().unwrap();
    });
}

#[test]
fn after_a_join_of_the_group_every_handle_has_ended() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, handle, _) = enter_joinable(&children, || Poll::Ready(()));
        let executor = thread::spawn(move || Task::run(child));
        let mut key = None;
        loom::future::block_on(std::future::poll_fn(|cx| children.poll_empty(cx, &mut key)));
        children.forget_joiner(key);
        assert!(handle.is_finished());
        executor.join().unwrap();
    });
}

#[test]
fn a_panic_goes_to_the_group_once_if_the_handle_is_dropped_at_any_moment() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, handle, dropped) = enter_joinable(&children, || std::panic::resume_unwind(Box::new("unseen")));
        let executor = thread::spawn(move || Task::run(child));
        drop(handle);
        executor.join().unwrap();
        assert_eq!((dropped.load(SeqCst), children.len()), (1, 0));
        let kept = || children.poll_empty(&mut Context::from_waker(Waker::noop()), &mut None);
        assert!(matches!(kept(), Poll::Ready(Some(_))), "the panic was lost");
        assert!(matches!(kept(), Poll::Ready(None)), "the panic was counted twice");
    });
}

#[test]
fn a_drop_of_the_group_against_an_end_with_a_handle_leaves_nothing() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, handle, dropped) = enter_joinable(&children, || Poll::Ready(()));
        let executor = thread::spawn(move || Task::run(child));
        children.cancel_and_destroy();
        assert_eq!(dropped.load(SeqCst), 1, "the drop returned before the child was gone");
        assert_eq!(children.len(), 0, "the drop returned before the child had left the list");
        assert!(handle.is_finished());
        drop(handle);
        executor.join().unwrap();
    });
}

/// Waits, without sleeping, until the child of the handle has ended.
fn until_finished<T>(handle: &JoinHandle<T>) {
    while !handle.is_finished() {
        thread::yield_now();
    }
}

#[test]
fn a_handle_that_has_ended_is_ready() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, mut handle, _) = enter_joinable(&children, || Poll::Ready(()));
        let executor = thread::spawn(move || Task::run(child));
        until_finished(&handle);
        assert!(Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(children.len(), 0, "the handle had ended before the child had left the list");
        executor.join().unwrap();
    });
}

#[test]
fn a_handle_that_is_dropped_once_it_has_ended_leaves_its_panic_to_the_next_join() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, handle, _) = enter_joinable(&children, || std::panic::resume_unwind(Box::new("unseen")));
        let executor = thread::spawn(move || Task::run(child));
        until_finished(&handle);
        drop(handle);
        let kept = children.poll_empty(&mut Context::from_waker(Waker::noop()), &mut None);
        assert!(matches!(kept, Poll::Ready(Some(_))), "the panic was not there for the join");
        executor.join().unwrap();
    });
}

#[test]
fn a_drop_of_the_handle_against_the_end_has_dropped_the_future_and_its_panic_is_there_when_the_group_is_joined() {
    model(|| {
        let children = Arc::new(Children::new(Executor::default(), None));
        let (child, handle, dropped) = enter_joinable(&children, || std::panic::resume_unwind(Box::new("unseen")));
        let executor = thread::spawn(move || Task::run(child));
        drop(handle);
        let mut key = None;
        let kept = loom::future::block_on(std::future::poll_fn(|cx| children.poll_empty(cx, &mut key)));
        children.forget_joiner(key);
        assert!(kept.is_some(), "the join was ready before it had the panic");
        assert_eq!(dropped.load(SeqCst), 1);
        executor.join().unwrap();
    });
}
