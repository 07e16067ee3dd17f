//! A child's future, and its result, in one allocation.
//!
//! When a child ends, its result takes the place of its future. So a child with a [`JoinHandle`] costs no more than one
//! without, and the group needs no type parameters: it knows every child as a [`ChildFuture`].
//!
//! - [`Plain`]: a child without a result;
//! - [`WithResult`]: a child whose result is kept for its handle, and which holds a [`Guard`] until its end.
//!
//! [`JoinHandle`]: super::JoinHandle

use crate::panic::{self, Payload, drop_caught, log_line};
use pin_project_lite::pin_project;
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A child's future, as its [`Slot`](super::slot::Slot) uses it. Every method may run user code.
pub(super) trait ChildFuture: Send {
    /// Polls the future. Ready once it has ended. A child with a result has destroyed its future then. `keep`: a handle
    /// may ask for the result.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, keep: bool) -> Poll<()>;

    /// Destroys the future after a poll that panicked, and keeps the panic as the result.
    fn keep_panic(self: Pin<&mut Self>, panic: Box<Panic>);

    /// Moves the result into `into`, which is an `Option<Result<T, Box<Panic>>>`.
    fn take_result(self: Pin<&mut Self>, into: &mut dyn Any);

    /// Moves the result of a child that has ended to a smaller allocation, if that saves much.
    fn compact(self: Pin<Box<Self>>) -> BoxedFuture;

    /// Takes the result, if it is a panic.
    fn take_panic(self: Pin<&mut Self>) -> Option<Box<Panic>>;
}

pub(super) type BoxedFuture = Pin<Box<dyn ChildFuture>>;

/// The panic of a child, until its handle returns it or is dropped.
pub(super) struct Panic {
    pub(super) payload: Payload,
    /// Hands the payload to the child's group. Called if the handle is dropped without having returned the panic.
    pub(super) unobserved: Box<dyn FnOnce(Payload) + Send>,
}

/// Drops a result whose handle was dropped. A panic goes to the child's group.
pub(super) fn dispose(mut result: BoxedFuture) {
    if let Some(panic) = result.as_mut().take_panic() {
        (panic.unobserved)(panic.payload);
    }
    drop_caught(result);
}

pin_project! {
    /// A child without a result: exactly as large as its future.
    pub(super) struct Plain<F> {
        #[pin]
        future: F,
    }
}

impl<F> Plain<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future }
    }
}

/// It has no handle, so the slot calls only `poll`.
impl<F: Future<Output = ()> + Send + 'static> ChildFuture for Plain<F> {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, _: bool) -> Poll<()> {
        self.project().future.poll(cx)
    }

    fn keep_panic(self: Pin<&mut Self>, panic: Box<Panic>) {
        panic::discard(panic.payload);
    }

    fn take_result(self: Pin<&mut Self>, _: &mut dyn Any) {}

    fn compact(self: Pin<Box<Self>>) -> BoxedFuture {
        self
    }

    fn take_panic(self: Pin<&mut Self>) -> Option<Box<Panic>> {
        None
    }
}

/// Completion guard that a child holds while it runs. It is made unarmed, and armed when the child is admitted.
pub(crate) trait Guard: Send + Default {
    /// Whether it is noted when the child was spawned.
    const IS_TIMED: bool = false;

    /// Runs one poll of the child. A guard can set thread-local marks around it.
    fn during<T>(&self, poll: impl FnOnce() -> T) -> T;
}

impl Guard for () {
    fn during<T>(&self, poll: impl FnOnce() -> T) -> T {
        poll()
    }
}

pin_project! {
    /// A child whose result is kept for its handle.
    #[project = WithResultProjected]
    #[project_replace = WithResultReplaced]
    pub(super) enum WithResult<F, G>
    where
        F: Future,
    {
        // Fields are dropped in this order: first the future, then the guard.
        Running { #[pin] future: F, guard: G },
        Ended { result: Result<F::Output, Box<Panic>> },
        // No handle asked for the result, or the result was taken.
        Gone,
    }
}

impl<F: Future, G: Guard> WithResult<F, G> {
    pub(super) fn new(future: F) -> Self {
        Self::Running { future, guard: G::default() }
    }

    /// Arms the guard. Returns what `arm` returns.
    pub(super) fn arm(self: Pin<&mut Self>, arm: impl FnOnce(&mut G) -> bool) -> bool {
        match self.project() {
            WithResultProjected::Running { guard, .. } => arm(guard),
            _ => false, // not reached: the child has not been polled
        }
    }

    /// Destroys the future, puts `next` in its place, and returns the guard. If the future's destructor panics, `next`
    /// is still in place, and the guard is dropped.
    fn end(self: Pin<&mut Self>, next: Self) -> Option<G> {
        match panic::catch(|| self.project_replace(next)) {
            Ok(WithResultReplaced::Running { guard, .. }) => Some(guard),
            Ok(_) => None,
            Err(payload) => {
                log_line!(error, "a child's destructor panicked: {}", panic::message(&payload));
                panic::discard(payload);
                None
            }
        }
    }
}

impl<F, G> ChildFuture for WithResult<F, G>
where
    F: Future<Output: Send + 'static> + Send + 'static,
    G: Guard + 'static,
{
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, keep: bool) -> Poll<()> {
        let WithResultProjected::Running { future, guard } = self.as_mut().project() else {
            return Poll::Ready(()); // not reached: no child is polled after its end
        };
        let output = ready!(guard.during(|| future.poll(cx)));
        if keep {
            drop(self.end(Self::Ended { result: Ok(output) }));
        } else {
            let guard = self.end(Self::Gone);
            drop_caught(output); // user code, so the guard is held until it has returned
            drop(guard);
        }
        Poll::Ready(())
    }

    fn keep_panic(self: Pin<&mut Self>, panic: Box<Panic>) {
        drop(self.end(Self::Ended { result: Err(panic) }));
    }

    fn take_result(mut self: Pin<&mut Self>, into: &mut dyn Any) {
        if let (WithResultProjected::Ended { .. }, Some(into)) =
            (self.as_mut().project(), into.downcast_mut::<Option<Result<F::Output, Box<Panic>>>>())
        {
            if let WithResultReplaced::Ended { result } = self.project_replace(Self::Gone) {
                *into = Some(result);
            }
        }
    }

    fn compact(mut self: Pin<Box<Self>>) -> BoxedFuture {
        if size_of::<Self>() <= size_of::<ResultAlone<F::Output>>() + ROOM {
            return self;
        }
        let result = match self.as_mut().project_replace(Self::Gone) {
            WithResultReplaced::Ended { result } => Some(result),
            _ => None, // not reached: the child has ended
        };
        Box::pin(WithResult::<ResultAlone<F::Output>, ()>::of(result))
    }

    fn take_panic(mut self: Pin<&mut Self>) -> Option<Box<Panic>> {
        let WithResultProjected::Ended { result: Err(_) } = self.as_mut().project() else {
            return None;
        };
        match self.project_replace(Self::Gone) {
            WithResultReplaced::Ended { result } => result.err(),
            _ => None, // not reached: checked above
        }
    }
}

/// How many bytes a child that has ended may occupy beyond its result; above that [`ChildFuture::compact`] moves it.
const ROOM: usize = 128;

/// A future type that only names the type of a result.
type ResultAlone<T> = std::future::Ready<T>;

impl<T> WithResult<ResultAlone<T>, ()> {
    fn of(result: Option<Result<T, Box<Panic>>>) -> Self {
        match result {
            Some(result) => Self::Ended { result },
            None => Self::Gone,
        }
    }
}

#[cfg(all(test, not(ebbtide_loom)))]
mod tests {
    use super::*;
    use std::task::Waker;

    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("a destructor, on purpose");
        }
    }

    #[test]
    fn the_result_stands_although_the_futures_destructor_panics() {
        let holds = PanicsOnDrop;
        let future = std::future::poll_fn(move |_| {
            let _ = &holds; // moved into the future, and dropped with it
            Poll::Ready(7)
        });
        let mut child = Box::pin(WithResult::<_, ()>::new(future));
        assert!(child.as_mut().poll(&mut Context::from_waker(Waker::noop()), true).is_ready());
        let mut result: Option<Result<i32, Box<Panic>>> = None;
        child.as_mut().take_result(&mut result);
        assert_eq!(result.and_then(Result::ok), Some(7));
    }

    /// Sends its name when it is dropped, if it has a channel.
    #[derive(Default)]
    struct DropProbe(&'static str, Option<std::sync::mpsc::Sender<&'static str>>);

    impl Drop for DropProbe {
        fn drop(&mut self) {
            if let Some(dropped) = &self.1 {
                let _ = dropped.send(self.0);
            }
        }
    }

    impl Guard for DropProbe {
        fn during<T>(&self, poll: impl FnOnce() -> T) -> T {
            poll()
        }
    }

    #[test]
    fn the_guard_is_dropped_after_the_future_and_before_a_result_that_is_kept() {
        for (polls, keeps, order) in [
            (0, false, ["future", "guard", ""]), // never polled
            (1, false, ["future", "guard", ""]), // cancelled while it waits
            (2, false, ["future", "result", "guard"]),
            (2, true, ["future", "guard", "result"]),
        ] {
            let (sender, dropped) = std::sync::mpsc::channel();
            let (held, result) = (DropProbe("future", Some(sender.clone())), sender.clone());
            let mut polled = 0;
            let future = std::future::poll_fn(move |_| {
                let _ = &held;
                polled += 1;
                if polled < 2 { Poll::Pending } else { Poll::Ready(DropProbe("result", Some(result.clone()))) }
            });
            let mut child = Box::pin(WithResult::new(future));
            assert!(child.as_mut().arm(|guard| {
                *guard = DropProbe("guard", Some(sender));
                true
            }));
            for poll in 1..=polls {
                let ended = child.as_mut().poll(&mut Context::from_waker(Waker::noop()), keeps).is_ready();
                assert_eq!(ended, poll == 2);
            }
            drop(child);
            let expected: Vec<_> = order.into_iter().filter(|name| !name.is_empty()).collect();
            assert_eq!(dropped.iter().collect::<Vec<_>>(), expected, "{polls} polls, kept: {keeps}");
        }
    }

    /// Returns a child that has ended with the result 7. Its future had `SIZE` bytes.
    fn ended<const SIZE: usize>() -> BoxedFuture {
        let held = [7_u8; SIZE];
        let future = std::future::poll_fn(move |_| Poll::Ready(u32::from(held[SIZE / 2])));
        let mut child: BoxedFuture = Box::pin(WithResult::<_, ()>::new(future));
        assert!(child.as_mut().poll(&mut Context::from_waker(Waker::noop()), true).is_ready());
        child
    }

    #[test]
    fn a_result_leaves_the_place_of_a_large_future_and_stays_in_that_of_a_small_one() {
        for (child, moves) in
            [(ended::<16>(), false), (ended::<100>(), false), (ended::<200>(), true), (ended::<900>(), true)]
        {
            let before = std::ptr::from_ref(&*child).addr();
            let mut child = child.compact();
            assert_eq!(std::ptr::from_ref(&*child).addr() != before, moves, "{} bytes", size_of_val(&*child));
            assert!(size_of_val(&*child) <= 128 + size_of::<u32>() * 2, "{} bytes are kept", size_of_val(&*child));
            let mut result: Option<Result<u32, Box<Panic>>> = None;
            child.as_mut().take_result(&mut result);
            assert_eq!(result.and_then(Result::ok), Some(7));
            let mut again: Option<Result<u32, Box<Panic>>> = None;
            child.as_mut().take_result(&mut again);
            assert!(again.is_none(), "a result was taken twice");
        }
    }

    #[test]
    fn a_panic_is_a_result_that_can_be_taken_once() {
        let mut child = Box::pin(WithResult::<_, ()>::new(std::future::pending::<()>()));
        child.as_mut().keep_panic(Box::new(Panic { payload: Box::new("on purpose"), unobserved: Box::new(drop) }));
        let payload = child.as_mut().take_panic().expect("the panic is the result").payload;
        assert_eq!(panic::message(&payload), "on purpose");
        assert!(child.as_mut().take_panic().is_none());
    }
}
