//! Something that is made known once, to all who wait and to all who will ask.

use crate::stream::put_off;
use crate::sync::{Mutex, lock};
use crate::wakers::{self, Wakers, wake};
use pin_project_lite::pin_project;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

/// A one-time event with any number of waiters: the drain has begun, the server is closed.
///
/// Asking costs one atomic load. Waiting costs a short lock of the notice's own, so notices that are waited for on the
/// path of a message (a connection's) are not shared between connections. And one task may be *resident*: it is woken in
/// any case, so it waits, as often as it likes, without registering; and it can be [roused](Self::rouse) for other reasons. A
/// connection's own task is, for the notice of its drain.
#[derive(Debug, Default)]
#[repr(C)] // what is looked at with every message comes first
pub(crate) struct Notice {
    /// The identity of the resident task's waker, or 0. True as long as the waker is kept, since it keeps its address.
    resident: AtomicUsize,
    /// Set under the lock of `waiters`, so that nobody registers after the last waker was taken.
    given: AtomicBool,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    resident: Option<Waker>,
    /// Made for the first: most notices have none.
    others: Option<Box<Wakers>>,
}

impl Notice {
    /// Makes it known. Says whether it is news.
    pub(crate) fn give(&self) -> bool {
        let mut waiters = lock(&self.waiters);
        let news = !self.given.swap(true, Ordering::Release);
        // First, since it may have to be roused while others, which are user code, are being woken.
        let resident = self.take_resident(&mut waiters);
        let others = waiters.others.as_mut().map_or_else(Vec::new, |others| others.take());
        drop(waiters);
        resident.into_iter().for_each(wake);
        others.into_iter().for_each(wake);
        news
    }

    pub(crate) fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    /// Makes the task of this waker the resident one, until it is woken.
    #[inline]
    pub(crate) fn move_in(&self, waker: &Waker) {
        if !self.is_resident(waker) {
            self.make_resident(waker.clone()); // user code, so before the lock
        }
    }

    fn make_resident(&self, waker: Waker) {
        let mut waiters = lock(&self.waiters);
        self.resident.store(wakers::identity(&waker), Ordering::Relaxed);
        let displaced = waiters.resident.replace(waker);
        drop(waiters);
        drop(displaced);
    }

    /// Wakes the resident task, and nobody else. What it looks at after it has moved in must be set before.
    pub(crate) fn rouse(&self) {
        let resident = self.take_resident(&mut lock(&self.waiters));
        resident.into_iter().for_each(wake);
    }

    fn take_resident(&self, waiters: &mut Waiters) -> Option<Waker> {
        self.resident.store(0, Ordering::Relaxed);
        waiters.resident.take()
    }

    #[inline]
    fn is_resident(&self, waker: &Waker) -> bool {
        self.resident.load(Ordering::Relaxed) == wakers::identity(waker)
    }

    /// Ready once it is given. A waiter keeps its `key`, and hands it to [`forget`](Self::forget) in the end.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, key: &mut Option<usize>) -> Poll<()> {
        match self.register(cx, key) {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        }
    }

    /// The identity of the waker that is kept; 0 for the resident task's, which needs no place. `None`: the notice is given.
    fn register(&self, cx: &Context<'_>, key: &mut Option<usize>) -> Option<usize> {
        if self.is_given() {
            return None;
        }
        if self.is_resident(cx.waker()) {
            // If it is given after this look, the resident task is woken.
            return if self.is_given() { None } else { Some(0) };
        }
        let waker = cx.waker().clone(); // user code, so before the lock
        let kept = wakers::identity(&waker);
        let mut waiters = lock(&self.waiters);
        if self.is_given() {
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
    pub(crate) fn watch(&self) -> Watch<'_> {
        Watch { notice: self, key: None, registered: 0 }
    }

    /// Waits until it is given.
    pub(crate) async fn given(&self) {
        let mut watch = self.watch();
        poll_fn(|cx| watch.poll(cx)).await;
    }

    /// Polls `future` first; `None` where it is pending and the notice has been given.
    pub(crate) fn until<F: Future>(&self, future: F) -> Until<'_, F> {
        Until { future, watch: self.watch() }
    }
}

pin_project! {
    /// See [`Notice::until`]. Not an async function, which would keep the future twice: a handler waits in it most of its life.
    pub(crate) struct Until<'a, F> {
        #[pin]
        future: F,
        watch: Watch<'a>,
    }
}

impl<F: Future> Future for Until<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let put_off = put_off::times();
        if let Poll::Ready(output) = this.future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        ready!(this.watch.poll(cx));
        if put_off::times() == put_off {
            // It may have been given after that poll, which knew nothing of it: a read tries its socket only from then on.
            if let Poll::Ready(output) = this.future.poll(cx) {
                return Poll::Ready(Some(output));
            }
        }
        if put_off::times() == put_off {
            return Poll::Ready(None);
        }
        // It could not be asked. (It is woken for that, but whoever has put off may have been something in it that is over.)
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// One waiter's place, given up when dropped.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    notice: &'a Notice,
    key: Option<usize>,
    /// The identity of the waker that is registered, or 0. True, since the notice keeps that waker until it is given; and that of
    /// the clone that it keeps, since a waker that is borrowed may lie elsewhere than its clones, and where another task's
    /// lies later. A task that polls again, as it does for each message, need not register again.
    registered: usize,
}

impl Watch<'_> {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.registered == wakers::identity(cx.waker()) {
            // If it is given after this look, the registered waker is woken.
            return if self.notice.is_given() { Poll::Ready(()) } else { Poll::Pending };
        }
        let kept = self.notice.register(cx, &mut self.key);
        self.registered = kept.unwrap_or(0);
        if kept.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.notice.forget(&mut self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wakers::counting::Count;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Wake;

    #[test]
    fn every_waiter_is_woken_once_and_latecomers_know_at_once() {
        let notice = Notice::default();
        let count = Arc::new(Count::default());
        let waker = count.waker();
        let mut cx = Context::from_waker(&waker);
        let (mut one, mut two) = (notice.watch(), notice.watch());
        assert!(one.poll(&mut cx).is_pending() && two.poll(&mut cx).is_pending() && two.poll(&mut cx).is_pending());
        assert!(notice.give() && !notice.give());
        assert_eq!(count.woken(), 2);
        assert!(one.poll(&mut cx).is_ready() && notice.watch().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_waiter_that_is_dropped_leaves_nothing_behind() {
        let notice = Notice::default();
        let count = Arc::new(Count::default());
        let waker = count.waker();
        for _ in 0..3 {
            assert!(notice.watch().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1, "a waker stayed behind");
    }

    #[test]
    fn a_waiter_whose_task_was_resident_meanwhile_is_woken_all_the_same() {
        let notice = Notice::default();
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let wakers = [first.waker(), second.waker()];
        let mut watch = notice.watch();
        assert!(watch.poll(&mut Context::from_waker(&wakers[0])).is_pending());
        notice.move_in(&wakers[1]);
        assert!(watch.poll(&mut Context::from_waker(&wakers[1])).is_pending());
        notice.rouse();
        assert!(watch.poll(&mut Context::from_waker(&wakers[1])).is_pending());
        notice.give();
        assert_eq!((first.woken(), second.woken()), (0, 2));
    }

    #[test]
    fn the_resident_task_is_woken_before_others_whose_wakers_may_take_their_time() {
        struct Late {
            resident: Arc<Count>,
            /// How often the resident had been woken when this was; a panic in here would only be logged.
            found: AtomicUsize,
        }
        impl Wake for Late {
            fn wake(self: Arc<Self>) {
                self.found.store(self.resident.woken(), Ordering::SeqCst);
            }
        }
        let notice = Notice::default();
        let resident = Arc::new(Count::default());
        let late = Arc::new(Late { resident: Arc::clone(&resident), found: AtomicUsize::new(usize::MAX) });
        notice.move_in(&resident.waker());
        let mut watch = notice.watch();
        assert!(watch.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&late)))).is_pending());
        notice.give();
        assert_eq!(late.found.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn who_is_roused_may_move_in_again_also_after_the_notice_was_given() {
        let notice = Notice::default();
        let (resident, other) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (waker, others) = (resident.waker(), other.waker());
        let mut watch = notice.watch();
        assert!(watch.poll(&mut Context::from_waker(&others)).is_pending());
        for woken in 1..=2 {
            notice.move_in(&waker);
            notice.rouse();
            notice.rouse();
            assert_eq!((resident.woken(), other.woken()), (woken, 0), "once each time, and nobody else");
        }
        notice.move_in(&waker);
        notice.give();
        notice.move_in(&waker);
        notice.rouse();
        assert_eq!((resident.woken(), other.woken()), (4, 1));
        drop(waker);
        assert_eq!(Arc::strong_count(&resident), 1, "a waker stayed behind");
    }

    #[test]
    fn a_future_that_is_ready_is_never_refused() {
        let notice = Notice::default();
        notice.give();
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(notice.until(std::future::ready(1))).poll(&mut cx), Poll::Ready(Some(1)));
        assert_eq!(pin!(notice.until(std::future::pending::<()>())).poll(&mut cx), Poll::Ready(None));
    }
}
