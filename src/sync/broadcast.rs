//! [`BroadcastWaker`]: one waker that wakes all tasks that wait for a connection.

use super::waker_set::{wake_all, wake_by_ref};
use super::{Mutex, lock};
use std::sync::Arc;
use std::task::{Wake, Waker};

/// How many tasks are remembered before all of them are woken: those that went away without reading do not count for
/// ever. If half of the first that were woken so come back, they really wait, and twice as many are remembered from
/// then on, until the next wake-up.
const FEW: usize = 16;

/// A set of tasks that are woken as one: the waker of this set wakes them all.
#[derive(Debug, Default)]
pub(crate) struct BroadcastWaker(Mutex<Remembered>);

#[derive(Debug)]
struct Remembered {
    wakers: Vec<Waker>,
    most: usize,
    /// The first that were woken because there were too many, and have not come back. Kept, so that no other task's
    /// waker can be taken for one of them.
    away: Vec<Waker>,
    /// How many of those there were.
    woken: usize,
}

impl Default for Remembered {
    fn default() -> Self {
        Self { wakers: Vec::new(), most: FEW, away: Vec::new(), woken: 0 }
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
        let back = state.come_back(&waker);
        let too_many = match state.wakers.len() >= state.most {
            true => std::mem::take(&mut state.wakers),
            false => Vec::new(),
        };
        state.wakers.push(waker);
        drop(state);
        drop(back);
        if !too_many.is_empty() {
            too_many.iter().for_each(wake_by_ref);
            self.remember_away(too_many);
        }
    }

    /// They were woken because there were too many. Unless it is known already of others, it is to be seen whether they
    /// come back.
    fn remember_away(&self, woken: Vec<Waker>) {
        let mut state = lock(&self.0);
        let surplus = match state.away.is_empty() {
            true => {
                (state.woken, state.away) = (woken.len(), woken);
                Vec::new()
            }
            false => woken,
        };
        drop(state);
        drop(surplus);
    }

    /// Wakes and forgets them.
    pub(crate) fn wake_all(&self) {
        let before = std::mem::take(&mut *lock(&self.0));
        wake_all(before.wakers);
    }
}

impl Remembered {
    /// Notes that a task waits again. Gives back wakers that are to be dropped without the lock.
    fn come_back(&mut self, waker: &Waker) -> Vec<Waker> {
        let Some(at) = self.away.iter().position(|away| away.will_wake(waker)) else {
            return Vec::new();
        };
        let mut back = vec![self.away.swap_remove(at)];
        if 2 * self.away.len() <= self.woken {
            self.most *= 2; // or those would wake each other for ever
            back.append(&mut self.away);
        }
        back
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
        assert!(kept <= 64, "{kept} are kept");
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

    #[test]
    fn many_that_really_wait_come_to_rest() {
        let waiters = Arc::new(BroadcastWaker::default());
        let tasks: Vec<_> = (0..500).map(|_| Arc::new(Count::default())).collect();
        let wakers: Vec<_> = tasks.iter().map(Count::waker).collect();
        let woken = || tasks.iter().map(|task| task.woken()).sum::<usize>();
        let mut before = usize::MAX;
        for _round in 0..100 {
            let now = woken();
            if now == before {
                break;
            }
            before = now;
            wakers.iter().for_each(|waker| waiters.add(waker)); // each that was woken, and those that were not, come again
        }
        assert_eq!(woken(), before, "they wake each other for ever");
        waiters.wake_all();
        assert!(tasks.iter().all(|task| task.woken() > 0));
    }
}
