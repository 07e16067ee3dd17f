//! [`Event`]: a one-time event. Signalling it wakes all tasks that wait; every later wait is ready at once.
//!
//! - [`Event::wait`] waits; [`EventListener`] and [`EventPlace`] are waiters that can be polled;
//! - [`Event::until`] and [`Event::poll_until`] poll other work first, until the event is signalled.

#[cfg(all(test, ebbtide_loom))]
mod loom_tests;

use super::atomic::{AtomicBool, AtomicUsize, Ordering};
use super::coop::{refusals, yields};
use super::waker_set::{WakerSet, wake};
use super::{Mutex, identity, lock};
use pin_project_lite::pin_project;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

/// One-time event with any number of waiters: the drain has begun, the server is closed.
///
/// A check costs one atomic load. A registration takes the event's own lock for a short time. So an event that every
/// message waits for is not shared between connections.
///
/// One task may be *primary*. It is woken in any case, so it can wait any number of times without registering. It can
/// also be woken alone, for other reasons ([`wake_primary`](Self::wake_primary)). The task of a connection is the
/// primary one for the event of its drain.
///
/// (Why not the crate event-listener: each of its waits adds an entry to a list under a lock, and each message of a
/// connection waits for its drain. Here such a wait costs two loads.)
#[derive(Debug, Default)]
#[repr(C)] // the fields that every message reads come first
pub(crate) struct Event {
    /// The identity of the primary task's waker, or 0. Unique while `waiters.primary` keeps that waker.
    primary: AtomicUsize,
    /// Set under the lock of `waiters`, so that no task registers after the wakers were taken. Never reset.
    signalled: AtomicBool,
    waiters: Mutex<EventWaiters>,
}

#[derive(Debug, Default)]
struct EventWaiters {
    /// The waker of the primary task, until it is woken.
    primary: Option<Waker>,
    /// The wakers of the other tasks. Made for the first one: most events have none.
    others: Option<Box<WakerSet>>,
}

impl Event {
    /// Signals the event. Returns whether this was the first time.
    pub(crate) fn signal(&self) -> bool {
        let mut waiters = lock(&self.waiters);
        let first = !self.signalled.swap(true, Ordering::Release);
        // Taken and woken first: waking the others runs user code and may take long, and in that time the primary task
        // may be set, and have to be woken, again.
        let primary = self.take_primary(&mut waiters);
        let others = waiters.others.as_mut().map_or_else(Vec::new, |others| others.take());
        drop(waiters);
        primary.into_iter().for_each(wake);
        others.into_iter().for_each(wake);
        first
    }

    pub(crate) fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::Acquire)
    }

    /// Makes the task of this waker the primary one, until it is woken.
    #[inline]
    pub(crate) fn set_primary(&self, waker: &Waker) {
        if !self.is_primary(waker) {
            self.store_primary(waker.clone()); // user code, so before the lock
        }
    }

    fn store_primary(&self, waker: Waker) {
        let mut waiters = lock(&self.waiters);
        self.primary.store(identity(&waker), Ordering::Relaxed);
        let displaced = waiters.primary.replace(waker);
        drop(waiters);
        drop(displaced);
    }

    /// Wakes only the primary task. The caller must first store whatever that task checks after `set_primary`.
    pub(crate) fn wake_primary(&self) {
        let primary = self.take_primary(&mut lock(&self.waiters));
        primary.into_iter().for_each(wake);
    }

    fn take_primary(&self, waiters: &mut EventWaiters) -> Option<Waker> {
        self.primary.store(0, Ordering::Relaxed);
        waiters.primary.take()
    }

    #[inline]
    fn is_primary(&self, waker: &Waker) -> bool {
        self.primary.load(Ordering::Relaxed) == identity(waker)
    }

    /// Ready once the event is signalled. A waiter keeps its `key`, and passes it to [`forget`](Self::forget) when it
    /// stops waiting.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, key: &mut Option<usize>) -> Poll<()> {
        match self.register(cx, key) {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        }
    }

    /// Registers the task. Returns the identity of the waker that is kept, or 0 for the primary task, which needs no
    /// registration; `None` if the event is signalled.
    fn register(&self, cx: &Context<'_>, key: &mut Option<usize>) -> Option<usize> {
        if self.is_signalled() {
            return None;
        }
        if self.is_primary(cx.waker()) {
            // If the event is signalled after this check, the primary task is woken.
            return if self.is_signalled() { None } else { Some(0) };
        }
        let waker = cx.waker().clone(); // user code, so before the lock
        let kept = identity(&waker);
        let mut waiters = lock(&self.waiters);
        if self.is_signalled() {
            return None;
        }
        let displaced = waiters.others.get_or_insert_default().register(key, waker);
        drop(waiters);
        drop(displaced);
        Some(kept)
    }

    /// Removes a waiter's waker.
    pub(crate) fn forget(&self, key: &mut Option<usize>) {
        if let Some(key) = key.take() {
            let waker = lock(&self.waiters).others.as_mut().and_then(|others| others.remove(key));
            drop(waker);
        }
    }

    /// Returns a waiter that removes its waker when it is dropped.
    pub(crate) fn listen(&self) -> EventListener<'_> {
        EventListener { event: self, place: EventPlace::default() }
    }

    /// Waits until the event is signalled.
    pub(crate) async fn wait(&self) {
        let mut listener = self.listen();
        poll_fn(|cx| listener.poll(cx)).await;
    }

    /// Polls `future` first. Ready with its output, or with `None` if it is pending and the event is signalled.
    pub(crate) fn until<F: Future>(&self, future: F) -> Until<'_, F> {
        Until { future, listener: self.listen() }
    }

    /// Does the same as [`until`](Self::until) for a poll function.
    #[inline]
    pub(crate) fn poll_until<T>(
        &self,
        cx: &mut Context<'_>,
        place: &mut EventPlace,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Option<T>> {
        let (before, refused_before) = (yields(), refusals());
        if let Poll::Ready(output) = poll(cx) {
            return Poll::Ready(Some(output));
        }
        ready!(place.poll(self, cx));
        if yields() == before {
            // Poll once more: the event may have been signalled after the first poll. Only from the signal on does a
            // read try its socket before it returns `Pending`.
            if let Poll::Ready(output) = poll(cx) {
                return Poll::Ready(Some(output));
            }
        }
        if yields() == before {
            return Poll::Ready(None);
        }
        // A part of it has yielded, so its `Pending` does not mean that nothing has arrived: poll again later. That
        // part has woken its own waker, which may be gone, so this task wakes itself. It does not if the yields were
        // refusals of a turn at a stream: the end of that turn wakes it, and until then it would spin.
        if yields().wrapping_sub(before) != refusals().wrapping_sub(refused_before) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

pin_project! {
    /// The future of [`Event::until`]. Not an async function, which would store `future` twice: a handler waits in this
    /// future most of its life.
    pub(crate) struct Until<'a, F> {
        #[pin]
        future: F,
        listener: EventListener<'a>,
    }
}

impl<F: Future> Future for Until<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let EventListener { event, place } = this.listener;
        event.poll_until(cx, place, |cx| this.future.as_mut().poll(cx))
    }
}

/// Waiter that removes its waker when it is dropped.
#[derive(Debug)]
pub(crate) struct EventListener<'a> {
    event: &'a Event,
    place: EventPlace,
}

/// Registration of one waiter, for a waiter that cannot borrow the event. The waiter must call
/// [`give_up`](Self::give_up) when it stops waiting.
#[derive(Debug, Default)]
pub(crate) struct EventPlace {
    /// The key of its waker in the event's set.
    key: Option<usize>,
    /// The identity of the registered waker, or 0. A task that polls again with the same waker, as it does for each
    /// message, need not register again.
    ///
    /// The identity is unique, because the event keeps that waker until it is signalled. It is the identity of the
    /// clone that the event keeps: a borrowed waker may have another address than its clones, and another task's waker
    /// may have that address later.
    registered: usize,
}

impl EventPlace {
    /// Ready once the event is signalled.
    #[inline]
    pub(crate) fn poll(&mut self, event: &Event, cx: &mut Context<'_>) -> Poll<()> {
        if self.registered == identity(cx.waker()) {
            // If the event is signalled after this check, the registered waker is woken.
            return if event.is_signalled() { Poll::Ready(()) } else { Poll::Pending };
        }
        let kept = event.register(cx, &mut self.key);
        self.registered = kept.unwrap_or(0);
        if kept.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Removes the waker from the event.
    pub(crate) fn give_up(&mut self, event: &Event) {
        event.forget(&mut self.key);
        self.registered = 0;
    }
}

impl EventListener<'_> {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.place.poll(self.event, cx)
    }
}

impl Drop for EventListener<'_> {
    fn drop(&mut self) {
        self.place.give_up(self.event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::waker_set::counting::Count;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Wake;

    #[test]
    fn every_waiter_is_woken_once_and_a_later_wait_is_ready() {
        let event = Event::default();
        let count = Arc::new(Count::default());
        let waker = count.waker();
        let mut cx = Context::from_waker(&waker);
        let (mut one, mut two) = (event.listen(), event.listen());
        assert!(one.poll(&mut cx).is_pending() && two.poll(&mut cx).is_pending() && two.poll(&mut cx).is_pending());
        assert!(event.signal() && !event.signal());
        assert_eq!(count.woken(), 2);
        assert!(one.poll(&mut cx).is_ready() && event.listen().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_waiter_that_is_dropped_leaves_nothing_behind() {
        let event = Event::default();
        let count = Arc::new(Count::default());
        let waker = count.waker();
        for _ in 0..3 {
            assert!(event.listen().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1, "a waker stayed behind");
    }

    #[test]
    fn a_waiter_whose_task_was_primary_for_a_while_is_woken_all_the_same() {
        let event = Event::default();
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let wakers = [first.waker(), second.waker()];
        let mut listener = event.listen();
        assert!(listener.poll(&mut Context::from_waker(&wakers[0])).is_pending());
        event.set_primary(&wakers[1]);
        assert!(listener.poll(&mut Context::from_waker(&wakers[1])).is_pending());
        event.wake_primary();
        assert!(listener.poll(&mut Context::from_waker(&wakers[1])).is_pending());
        event.signal();
        assert_eq!((first.woken(), second.woken()), (0, 2));
    }

    #[test]
    fn the_primary_task_is_woken_before_others_whose_wakers_may_be_slow() {
        struct Late {
            primary: Arc<Count>,
            /// How often the primary task had been woken before this one was. (An assertion in `wake` would only be
            /// logged.)
            found: AtomicUsize,
        }
        impl Wake for Late {
            fn wake(self: Arc<Self>) {
                self.found.store(self.primary.woken(), Ordering::SeqCst);
            }
        }
        let event = Event::default();
        let primary = Arc::new(Count::default());
        let late = Arc::new(Late { primary: Arc::clone(&primary), found: AtomicUsize::new(usize::MAX) });
        event.set_primary(&primary.waker());
        let mut listener = event.listen();
        assert!(listener.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&late)))).is_pending());
        event.signal();
        assert_eq!(late.found.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_primary_task_may_be_set_again_after_it_was_woken_and_after_the_event() {
        let event = Event::default();
        let (primary, other) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (waker, others) = (primary.waker(), other.waker());
        let mut listener = event.listen();
        assert!(listener.poll(&mut Context::from_waker(&others)).is_pending());
        for woken in 1..=2 {
            event.set_primary(&waker);
            event.wake_primary();
            event.wake_primary();
            assert_eq!((primary.woken(), other.woken()), (woken, 0), "woken once each time, and no other task is");
        }
        event.set_primary(&waker);
        event.signal();
        event.set_primary(&waker);
        event.wake_primary();
        assert_eq!((primary.woken(), other.woken()), (4, 1));
        drop(waker);
        assert_eq!(Arc::strong_count(&primary), 1, "a waker stayed behind");
    }

    #[test]
    fn a_future_that_is_ready_is_never_refused() {
        let event = Event::default();
        event.signal();
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(event.until(std::future::ready(1))).poll(&mut cx), Poll::Ready(Some(1)));
        assert_eq!(pin!(event.until(std::future::pending::<()>())).poll(&mut cx), Poll::Ready(None));
    }

    /// Polls `future` with the event signalled. Returns its output, how often it was polled, and how often its task was
    /// woken.
    fn after_the_event(mut future: impl FnMut() -> Poll<()>) -> (Poll<Option<()>>, usize, usize) {
        let event = Event::default();
        event.signal();
        let (task, mut polls) = (Arc::new(Count::default()), 0);
        let poll = event.poll_until(&mut Context::from_waker(&task.waker()), &mut EventPlace::default(), |_| {
            polls += 1;
            future()
        });
        (poll, polls, task.woken())
    }

    /// What has yielded may have more to read, and its own waker may be gone. The end of the turn at a stream wakes whom
    /// it has refused, and who wakes itself spins until then.
    #[test]
    fn after_the_event_a_future_that_yields_is_polled_again_and_one_that_is_refused_a_turn_waits_for_it() {
        use crate::sync::coop::{mark_refusal, mark_yield};
        assert_eq!(after_the_event(|| Poll::Pending), (Poll::Ready(None), 2, 0), "it waits");
        let yields = || {
            mark_yield();
            Poll::Pending
        };
        assert_eq!(after_the_event(yields), (Poll::Pending, 1, 1), "it yields");
        let is_refused = || {
            mark_refusal();
            Poll::Pending
        };
        assert_eq!(after_the_event(is_refused), (Poll::Pending, 1, 0), "it is refused");
        let does_both = || {
            mark_refusal();
            mark_yield();
            Poll::Pending
        };
        assert_eq!(after_the_event(does_both), (Poll::Pending, 1, 1), "one part is refused, another yields");
        let mut ready = [Poll::Ready(()), Poll::Pending].into_iter().rev();
        assert_eq!(after_the_event(|| ready.next().unwrap()), (Poll::Ready(Some(())), 2, 0), "ready the second time");
    }
}
