//! [`Event`]: happens once; wakes all tasks that wait for it, and every later look finds that it has happened.

use super::coop::{refusals, yields};
use super::waker_set::{WakerSet, wake};
use super::{Mutex, identity, lock};
use pin_project_lite::pin_project;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

/// A one-time event with any number of waiters: the drain has begun, the server is closed.
///
/// A look costs one atomic load. Waiting costs a short lock of the event's own, so events that are waited for on the
/// path of a message (a connection's) are not shared between connections. And one task may be *primary*: it is woken in
/// any case, so it waits, as often as it likes, without registering; and it can be woken alone, for other reasons
/// ([`wake_primary`](Self::wake_primary)). A connection's own task is the primary one for the event of its drain.
///
/// (Why not the crate event-listener: its listeners are entries of a list under a lock, one for each wait, and each
/// message of a connection waits for its drain. Here that costs two loads.)
#[derive(Debug, Default)]
#[repr(C)] // what is looked at with every message comes first
pub(crate) struct Event {
    /// The identity of the primary task's waker, or 0. True as long as the waker is kept, since it keeps its address.
    primary: AtomicUsize,
    /// Set under the lock of `waiters`, so that no task registers after the last waker was taken.
    signalled: AtomicBool,
    waiters: Mutex<EventWaiters>,
}

#[derive(Debug, Default)]
struct EventWaiters {
    primary: Option<Waker>,
    /// Made for the first: most notices have none.
    others: Option<Box<WakerSet>>,
}

impl Event {
    /// Lets it happen. Returns whether it had not happened before.
    pub(crate) fn signal(&self) -> bool {
        let mut waiters = lock(&self.waiters);
        let first = !self.signalled.swap(true, Ordering::Release);
        // First, since it may have to be woken again while others, which are user code, are being woken.
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

    /// Wakes the primary task alone. What it looks at after `set_primary` must be set before.
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

    /// Ready once it has happened. A waiter keeps its `key`, and hands it to [`forget`](Self::forget) in the end.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, key: &mut Option<usize>) -> Poll<()> {
        match self.register(cx, key) {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        }
    }

    /// The identity of the waker that is kept; 0 for the primary task's, which needs no place. `None`: the event has
    /// happened.
    fn register(&self, cx: &Context<'_>, key: &mut Option<usize>) -> Option<usize> {
        if self.is_signalled() {
            return None;
        }
        if self.is_primary(cx.waker()) {
            // If it happens after this look, the primary task is woken.
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

    /// A waiter waits no more.
    pub(crate) fn forget(&self, key: &mut Option<usize>) {
        if let Some(key) = key.take() {
            let waker = lock(&self.waiters).others.as_mut().and_then(|others| others.remove(key));
            drop(waker);
        }
    }

    /// A waiter that forgets itself.
    pub(crate) fn listen(&self) -> EventListener<'_> {
        EventListener { event: self, place: EventPlace::default() }
    }

    /// Waits until it has happened.
    pub(crate) async fn wait(&self) {
        let mut watch = self.listen();
        poll_fn(|cx| watch.poll(cx)).await;
    }

    /// Polls `future` first; `None` if it is pending and the event has happened.
    pub(crate) fn until<F: Future>(&self, future: F) -> Until<'_, F> {
        Until { future, watch: self.listen() }
    }

    /// The same for what is no future: `poll` is polled first; `None` if it is pending and the event has happened.
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
            // It may have happened after that poll, which knew nothing of it: a read tries its socket only from then
            // on.
            if let Poll::Ready(output) = poll(cx) {
                return Poll::Ready(Some(output));
            }
        }
        if yields() == before {
            return Poll::Ready(None);
        }
        // It has yielded: its `Pending` says nothing. (It is woken for that, but what has yielded may be a part of it
        // that is over. What was refused its turn is woken at the end of that, and would spin until then.)
        if yields().wrapping_sub(before) != refusals().wrapping_sub(refused_before) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

pin_project! {
    /// See [`Event::until`]. Not an async function, which would keep the future twice: a handler waits in it most of
    /// its life.
    pub(crate) struct Until<'a, F> {
        #[pin]
        future: F,
        watch: EventListener<'a>,
    }
}

impl<F: Future> Future for Until<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let EventListener { event, place } = this.watch;
        event.poll_until(cx, place, |cx| this.future.as_mut().poll(cx))
    }
}

/// A waiter that forgets itself when dropped.
#[derive(Debug)]
pub(crate) struct EventListener<'a> {
    event: &'a Event,
    place: EventPlace,
}

/// One waiter's place, for a waiter that cannot borrow the event. To be given up in the end.
#[derive(Debug, Default)]
pub(crate) struct EventPlace {
    key: Option<usize>,
    /// The identity of the waker that is registered, or 0. True, since the event keeps that waker until it has
    /// happened; and that of the clone that it keeps, since a waker that is borrowed may lie elsewhere than its clones,
    /// and where another task's lies later. A task that polls again, as it does for each message, need not register
    /// again.
    registered: usize,
}

impl EventPlace {
    #[inline]
    pub(crate) fn poll(&mut self, event: &Event, cx: &mut Context<'_>) -> Poll<()> {
        if self.registered == identity(cx.waker()) {
            // If it happens after this look, the registered waker is woken.
            return if event.is_signalled() { Poll::Ready(()) } else { Poll::Pending };
        }
        let kept = event.register(cx, &mut self.key);
        self.registered = kept.unwrap_or(0);
        if kept.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }

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
    fn every_waiter_is_woken_once_and_a_later_look_finds_it() {
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
    fn a_waiter_whose_task_was_primary_meanwhile_is_woken_all_the_same() {
        let event = Event::default();
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let wakers = [first.waker(), second.waker()];
        let mut watch = event.listen();
        assert!(watch.poll(&mut Context::from_waker(&wakers[0])).is_pending());
        event.set_primary(&wakers[1]);
        assert!(watch.poll(&mut Context::from_waker(&wakers[1])).is_pending());
        event.wake_primary();
        assert!(watch.poll(&mut Context::from_waker(&wakers[1])).is_pending());
        event.signal();
        assert_eq!((first.woken(), second.woken()), (0, 2));
    }

    #[test]
    fn the_primary_task_is_woken_before_others_whose_wakers_may_take_their_time() {
        struct Late {
            primary: Arc<Count>,
            /// How often the primary had been woken when this was; a panic in here would only be logged.
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
        let mut watch = event.listen();
        assert!(watch.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&late)))).is_pending());
        event.signal();
        assert_eq!(late.found.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_primary_task_may_be_set_again_after_it_was_woken_and_after_the_event() {
        let event = Event::default();
        let (primary, other) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (waker, others) = (primary.waker(), other.waker());
        let mut watch = event.listen();
        assert!(watch.poll(&mut Context::from_waker(&others)).is_pending());
        for woken in 1..=2 {
            event.set_primary(&waker);
            event.wake_primary();
            event.wake_primary();
            assert_eq!((primary.woken(), other.woken()), (woken, 0), "once each time, and no other task");
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
}
