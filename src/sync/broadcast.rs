//! [`BroadcastWaker`]: one waker that wakes all tasks that wait for a connection.
//!
//! A reactor or a stream keeps only one waker for each direction. If several tasks wait through clones of a connection,
//! that one is made of a `BroadcastWaker`, and the tasks register here.
//!
//! A task that stops waiting does not unregister. So the set bounds what it remembers: when it is full, it wakes and
//! forgets all tasks, and those that still wait register again.

use super::waker_set::{wake_all, wake_by_ref};
use super::{Mutex, lock};
use std::sync::Arc;
use std::task::{Wake, Waker};

/// How many tasks are remembered before all of them are woken, so that tasks which stopped waiting are forgotten.
///
/// If half of the tasks that were first woken so register again, they really wait. Then twice as many are remembered,
/// until the next wake-up.
const FEW: usize = 16;

/// Set of tasks that are woken together. A waker made of it wakes them all.
#[derive(Debug, Default)]
pub(crate) struct BroadcastWaker(Mutex<Remembered>);

#[derive(Debug)]
struct Remembered {
    /// The tasks that wait, or have waited.
    wakers: Vec<Waker>,
    /// How many of them are remembered: [`FEW`], doubled when half of those that were woken turn out to wait.
    limit: usize,
    /// The first tasks that were woken because the set was full, and have not registered again. Their wakers are kept,
    /// so that no other task's waker can be mistaken for one of them.
    away: Vec<Waker>,
    /// How many tasks `away` had at first.
    woken: usize,
}

impl Default for Remembered {
    fn default() -> Self {
        Self { wakers: Vec::new(), limit: FEW, away: Vec::new(), woken: 0 }
    }
}

impl BroadcastWaker {
    /// Registers a task until the next wake-up.
    pub(crate) fn add(&self, waker: &Waker) {
        if lock(&self.0).wakers.iter().any(|known| known.will_wake(waker)) {
            return;
        }
        let waker = waker.clone(); // user code, so without the lock
        let mut state = lock(&self.0);
        let returned = state.note_return(&waker);
        let surplus = match state.wakers.len() >= state.limit {
            true => std::mem::take(&mut state.wakers),
            false => Vec::new(),
        };
        state.wakers.push(waker);
        drop(state);
        drop(returned);
        if !surplus.is_empty() {
            surplus.iter().for_each(wake_by_ref);
            self.remember_away(surplus);
        }
    }

    /// Remembers the tasks that were woken because the set was full, to count how many of them register again. If
    /// others are remembered already, it drops these.
    fn remember_away(&self, woken: Vec<Waker>) {
        let mut state = lock(&self.0);
        let unused = match state.away.is_empty() {
            true => {
                (state.woken, state.away) = (woken.len(), woken);
                Vec::new()
            }
            false => woken,
        };
        drop(state);
        drop(unused);
    }

    /// Wakes and forgets all tasks.
    pub(crate) fn wake_all(&self) {
        let before = std::mem::take(&mut *lock(&self.0));
        wake_all(before.wakers);
    }
}

impl Remembered {
    /// Notes that a task registers. Doubles the limit if half of the tasks in `away` have registered again. Returns
    /// wakers, which the caller drops without the lock.
    fn note_return(&mut self, waker: &Waker) -> Vec<Waker> {
        let Some(at) = self.away.iter().position(|away| away.will_wake(waker)) else {
            return Vec::new();
        };
        let mut returned = vec![self.away.swap_remove(at)];
        if 2 * self.away.len() <= self.woken {
            self.limit *= 2; // otherwise these tasks would wake each other without end
            returned.append(&mut self.away);
        }
        returned
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

    /// A combinator makes a new waker for each of its futures: for each read with a time limit, for example.
    #[test]
    fn tasks_that_stopped_waiting_are_forgotten_although_no_event_happens() {
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
        assert!(gone.iter().all(|task| Arc::strong_count(task) == 1), "a waker stayed behind");
        assert!(waits.woken() > 0);
    }

    #[test]
    fn each_is_woken_once_and_many_do_not_wake_each_other_without_end() {
        let waiters = Arc::new(BroadcastWaker::default());
        let tasks: Vec<_> = (0..3 * FEW).map(|_| Arc::new(Count::default())).collect();
        let wakers: Vec<_> = tasks.iter().map(Count::waker).collect();
        let woken = || tasks.iter().map(|task| task.woken()).sum::<usize>();
        let mut before = None;
        // Each time one is woken, all register again, as tasks do.
        while before != Some(woken()) {
            before = Some(woken());
            assert!(woken() < 10 * FEW, "the tasks wake each other without end");
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
            wakers.iter().for_each(|waker| waiters.add(waker)); // all register again, woken or not
        }
        assert_eq!(woken(), before, "the tasks wake each other without end");
        waiters.wake_all();
        assert!(tasks.iter().all(|task| task.woken() > 0));
    }

    #[test]
    fn a_waker_made_of_it_wakes_all_tasks_whether_it_is_kept_or_not() {
        let waiters = Arc::new(BroadcastWaker::default());
        let tasks: Vec<_> = (0..3).map(|_| Arc::new(Count::default())).collect();
        let waker = Waker::from(Arc::clone(&waiters));
        let woken = |add: bool| {
            tasks.iter().filter(|_| add).for_each(|task| waiters.add(&task.waker()));
            tasks.iter().map(|task| task.woken()).collect::<Vec<_>>()
        };
        assert_eq!(woken(true), [0, 0, 0]);
        waker.wake_by_ref();
        assert_eq!(woken(true), [1, 1, 1]);
        waker.wake();
        assert_eq!(woken(false), [2, 2, 2]);
    }
}
