//! [`BroadcastWaker`]: one waker that wakes all tasks that wait for a connection.

use super::waker_set::wake_all;
use super::{Mutex, lock};
use std::sync::Arc;
use std::task::{Wake, Waker};

/// How many tasks are remembered before all of them are woken: those that went away without reading do not count for
/// ever. If so many really wait, twice as many are remembered from then on, until the next wake-up.
const FEW: usize = 16;

/// No program has so many tasks that wait for one stream. So most of these went away, and more are not remembered.
const MANY: usize = 1024;

/// A set of tasks that are woken as one: the waker of this set wakes them all.
#[derive(Debug, Default)]
pub(crate) struct BroadcastWaker(Mutex<Remembered>);

#[derive(Debug)]
struct Remembered {
    wakers: Vec<Waker>,
    most: usize,
}

impl Default for Remembered {
    fn default() -> Self {
        Self { wakers: Vec::new(), most: FEW }
    }
}

impl BroadcastWaker {
    /// Remembers a task until the next wake-up.
    pub(crate) fn add(&self, waker: &Waker) {
        if lock(&self.0).wakers.iter().any(|known| known.will_wake(waker)) {
            return;
        }
        let waker = waker.clone(); // user code, and so without the lock
        let mut state = lock(&self.0);
        let mut too_many = Vec::new();
        if state.wakers.len() >= state.most {
            state.most = (state.most * 2).min(MANY); // or those would wake each other for ever
            too_many = std::mem::take(&mut state.wakers);
        }
        state.wakers.push(waker);
        drop(state);
        wake_all(too_many);
    }

    /// Wakes and forgets them.
    pub(crate) fn wake_all(&self) {
        let wakers = std::mem::take(&mut *lock(&self.0)).wakers;
        wake_all(wakers);
    }
}

impl Wake for BroadcastWaker {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::waker_set::counting::Count;

    /// A combinator makes a waker for each of its futures, anew each time: a read with a time limit, say, again and
    /// again.
    #[test]
    fn those_that_went_away_do_not_count_for_ever_although_nothing_happens() {
        let waiters = Arc::new(BroadcastWaker::default());
        let waits = Arc::new(Count::default());
        let waiting = waits.waker();
        let gone: Vec<_> = (0..10_000).map(|_| Arc::new(Count::default())).collect();
        for task in &gone {
            waiters.add(&task.waker());
            waiters.add(&waiting);
        }
        let kept = gone.iter().filter(|task| Arc::strong_count(task) > 1).count();
        assert!(kept <= MANY, "{kept} are kept");
        waiters.wake_all();
        assert!(gone.iter().all(|task| Arc::strong_count(task) == 1), "they are forgotten");
        assert!(waits.woken() > 0);
    }

    #[test]
    fn each_is_woken_once_and_many_do_not_wake_each_other_for_ever() {
        let waiters = Arc::new(BroadcastWaker::default());
        let tasks: Vec<_> = (0..3 * FEW).map(|_| Arc::new(Count::default())).collect();
        let wakers: Vec<_> = tasks.iter().map(Count::waker).collect();
        let woken = || tasks.iter().map(|task| task.woken()).sum::<usize>();
        let mut before = None;
        // Each time one is woken they come again, as tasks do.
        while before != Some(woken()) {
            before = Some(woken());
            assert!(woken() < 10 * FEW, "they wake each other for ever");
            wakers.iter().for_each(|waker| waiters.add(waker));
        }
        waiters.wake_all();
        assert_eq!(woken(), before.unwrap() + tasks.len());
    }
}
