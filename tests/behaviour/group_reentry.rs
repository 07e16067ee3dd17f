//! A group holds no lock while it runs user code: a child's poll, a destructor, the waker of a join. So each of these
//! may use the group in any way.

use crate::support::probe::{Live, Probe};
use async_std::task;
use ebbtide::TaskGroup;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Wake, Waker};

/// Calls every method of a group: in `meddle`, when it is woken, and when it is dropped.
struct Meddler {
    group: Weak<TaskGroup>,
    spawner: ebbtide::Spawner,
    /// How often it has called them.
    uses: Arc<AtomicUsize>,
    live: Live,
    _probe: Probe,
}

impl Meddler {
    fn new(group: &Arc<TaskGroup>, uses: &Arc<AtomicUsize>, live: &Live) -> Self {
        let (live, _probe) = (live.clone(), live.probe());
        Self { group: Arc::downgrade(group), spawner: group.spawner(), uses: Arc::clone(uses), live, _probe }
    }

    fn meddle(&self) {
        self.spawner.spawn(self.live.child(async {}));
        if let Some(group) = self.group.upgrade() {
            let _ = format!("{group:?} {:?} {} {}", self.spawner, group.len(), group.is_empty());
            group.spawn(self.live.child(async {}));
            let _ = pin!(group.join()).poll(&mut Context::from_waker(Waker::noop()));
            group.cancel();
        }
        self.uses.fetch_add(1, SeqCst);
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.meddle();
    }
}

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        self.meddle();
    }
}

#[test]
fn a_poll_and_a_destructor_may_use_their_group() {
    let live = Live::default();
    live.clone().within_net(move || {
        for ends in [true, false] {
            let (group, uses) = (Arc::new(TaskGroup::new()), Arc::new(AtomicUsize::new(0)));
            let meddler = Meddler::new(&group, &uses, &live);
            group.spawn(live.child(async move {
                meddler.meddle();
                if !ends {
                    pending().await
                }
            }));
            task::block_on(group.join()); // the child has cancelled its group
            assert_eq!((live.count(), uses.load(SeqCst)), (0, 2), "ends: {ends}");
        }
    });
}

#[test]
fn a_destructor_that_runs_in_the_drop_of_its_group_may_use_the_group() {
    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..100 {
            let (group, uses) = (Arc::new(TaskGroup::new()), Arc::new(AtomicUsize::new(0)));
            for _ in 0..10 {
                let meddler = Meddler::new(&group, &uses, &live);
                let child = group.spawn(live.child(async move {
                    let _meddler = meddler;
                    pending().await
                }));
                assert!(!child.is_finished());
            }
            drop(group);
            assert_eq!((live.count(), uses.load(SeqCst)), (0, 10));
        }
    });
}

#[test]
fn the_destructor_of_a_refused_future_may_use_its_group() {
    let live = Live::default();
    live.clone().within_net(move || {
        let (group, uses) = (Arc::new(TaskGroup::new()), Arc::new(AtomicUsize::new(0)));
        group.cancel();
        let (one, two) = (Meddler::new(&group, &uses, &live), Meddler::new(&group, &uses, &live));
        assert!(group.spawn(async move { drop(one) }).is_finished());
        assert!(group.spawner().spawn(async move { drop(two) }).is_finished());
        assert_eq!((live.count(), uses.load(SeqCst)), (0, 2));
    });
}

#[test]
fn the_waker_of_a_join_may_use_the_group_when_it_is_woken_replaced_or_dropped() {
    let live = Live::default();
    live.clone().within_net(move || {
        let (group, uses) = (Arc::new(TaskGroup::new()), Arc::new(AtomicUsize::new(0)));
        group.spawn(live.child(pending()));
        {
            let mut join = pin!(group.join());
            for _ in 0..2 {
                let waker = Waker::from(Arc::new(Meddler::new(&group, &uses, &live)));
                assert!(join.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
            // The first waker was replaced, and its drop has cancelled the group. So the second is woken and dropped.
            task::block_on(group.join());
        }
        live.wait_for(0);
        assert_eq!(uses.load(SeqCst), 3);

        let (group, uses) = (Arc::new(TaskGroup::new()), Arc::new(AtomicUsize::new(0)));
        group.spawn(live.child(pending()));
        {
            let mut join = Box::pin(group.join());
            let waker = Waker::from(Arc::new(Meddler::new(&group, &uses, &live)));
            assert!(join.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        } // the join is dropped, and its waker with it
        task::block_on(group.join());
        live.wait_for(0);
        assert_eq!(uses.load(SeqCst), 1);
    });
}

#[test]
fn a_waker_that_panics_does_not_prevent_the_wake_of_another_join() {
    struct Panics(OnceLock<()>);
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            let _ = self.0.set(());
            panic!("a waker that panics");
        }
    }

    let live = Live::default();
    live.clone().within_net(move || {
        let group = Arc::new(TaskGroup::new());
        group.spawn(live.child(pending()));
        let panics: Vec<_> = (0..2).map(|_| Arc::new(Panics(OnceLock::new()))).collect();
        let mut joins: Vec<_> = (0..3).map(|_| Box::pin(group.join())).collect();
        let good = Arc::new(AtomicUsize::new(0));
        let counts = Arc::new(Counts(Arc::clone(&good)));
        let wakers = [Waker::from(Arc::clone(&panics[0])), Waker::from(counts), Waker::from(Arc::clone(&panics[1]))];
        for (join, waker) in joins.iter_mut().zip(&wakers) {
            assert!(join.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        group.cancel();
        task::block_on(group.join());
        while panics.iter().any(|panics| panics.0.get().is_none()) {
            std::thread::yield_now();
        }
        assert_eq!(good.load(SeqCst), 1);
        assert!(joins.iter_mut().all(|join| join.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()));
    });
}

/// Waker that counts its wakes.
struct Counts(Arc<AtomicUsize>);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn a_child_that_joins_an_inner_group_is_destroyed_with_it_when_the_outer_group_is_dropped() {
    let live = Live::default();
    live.clone().within_net(move || {
        for _ in 0..100 {
            let outer = TaskGroup::new();
            for _ in 0..4 {
                let inner = TaskGroup::new();
                inner.spawn(live.runner());
                inner.spawn(live.sleeper());
                let mut join = Box::pin(async move { inner.join().await });
                outer.spawn(live.child(poll_fn(move |cx| match join.as_mut().poll(cx) {
                    Poll::Ready(()) => unreachable!("the inner group's children never end"),
                    Poll::Pending => Poll::Pending,
                })));
            }
            drop(outer);
            assert_eq!(live.count(), 0);
        }
    });
}
