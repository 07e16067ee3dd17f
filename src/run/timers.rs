//! [`Timers`]: the time limits of all connections of a run, on one timer of the reactor.
//!
//! To set a timer of the reactor interrupts the reactor's wait, so that it can take the new time into account: five
//! system calls. Nearly every connection sets a limit (of its handshake, of a request's head, of its linger), and nearly
//! all limits are dropped again before they pass. So they are kept here, in their order, and the reactor's timer is set
//! only if a limit is earlier than the time for which it is set. On a server with clients it rarely is. If a limit is
//! dropped, the timer stays set, and may fire for no task: about once in the time that a limit has.

use crate::sync::time::{self, Timer};
use crate::sync::waker_set::wake_all;
use crate::sync::{Mutex, identity, lock};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

/// Time limits that have not passed, of any number of tasks.
pub(crate) struct Timers {
    state: Mutex<TimersState>,
}

struct TimersState {
    /// The tasks, by their times. The number makes each key unique.
    waiting: BTreeMap<(Instant, u64), Waker>,
    /// The number of the next one.
    number: u64,
    timer: Timer,
    /// The time for which `timer` is set.
    armed: Option<Instant>,
    /// Wakes `Alarm`: the waker that the reactor gets.
    waker: Waker,
}

/// What the reactor wakes. It does not keep the run alive.
struct Alarm(Weak<Timers>);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if let Some(timers) = self.0.upgrade() {
            timers.fire();
        }
    }
}

impl Timers {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new_cyclic(|timers| {
            let waker = Waker::from(Arc::new(Alarm(Weak::clone(timers))));
            let state = TimersState { waiting: BTreeMap::new(), number: 0, timer: Timer::never(), armed: None, waker };
            Self { state: Mutex::new(state) }
        })
    }

    /// Returns a timer that is not set.
    pub(crate) fn timer(self: &Arc<Self>) -> RunTimer {
        RunTimer { timers: Arc::clone(self), at: None, number: None, waker: 0 }
    }

    /// Enters a task, to be woken at `at`. Returns its number.
    fn enter(&self, at: Instant, waker: Waker) -> u64 {
        let mut state = lock(&self.state);
        let number = state.number;
        state.number += 1;
        state.waiting.insert((at, number), waker);
        let has_passed = state.armed.is_none_or(|armed| at < armed) && state.arm(at);
        drop(state);
        if has_passed {
            self.fire();
        }
        number
    }

    fn remove(&self, at: Instant, number: u64) {
        let waker = lock(&self.state).waiting.remove(&(at, number));
        drop(waker); // user code, so without the lock
    }

    /// Wakes the tasks whose times have come, and sets the reactor's timer for the next.
    fn fire(&self) {
        loop {
            let mut state = lock(&self.state);
            let later = state.waiting.split_off(&(time::now(), u64::MAX));
            let due = std::mem::replace(&mut state.waiting, later);
            state.armed = None;
            let next = state.waiting.keys().next().map(|(at, _)| *at);
            let has_passed = next.is_some_and(|next| state.arm(next));
            drop(state);
            wake_all(due.into_values().collect());
            if !has_passed {
                return;
            }
        }
    }
}

impl TimersState {
    /// Sets the reactor's timer. Returns whether that time has passed already: then the reactor wakes nobody.
    fn arm(&mut self, at: Instant) -> bool {
        self.armed = Some(at);
        self.timer.set_at(at);
        Pin::new(&mut self.timer).poll(&mut Context::from_waker(&self.waker)).is_ready()
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Timers").field("waiting", &state.waiting.len()).field("armed", &state.armed).finish()
    }
}

/// One time limit: ready once its time has come. It may be set again at any moment.
#[derive(Debug)]
pub(crate) struct RunTimer {
    timers: Arc<Timers>,
    /// `None`: never.
    at: Option<Instant>,
    /// Its number among the waiting ones, if it was polled since it was set.
    number: Option<u64>,
    /// The identity of the waker that is entered.
    waker: usize,
}

impl RunTimer {
    /// Sets it to this time; `None`: never.
    pub(crate) fn set(&mut self, at: Option<Instant>) {
        if at != self.at {
            self.leave();
            self.at = at;
        }
    }

    /// Ready once the time has come. After that it is not set.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        if at <= time::now() {
            self.set(None);
            return Poll::Ready(());
        }
        if self.number.is_none() || self.waker != identity(cx.waker()) {
            self.leave();
            let waker = cx.waker().clone(); // user code, so before the lock
            self.waker = identity(&waker);
            self.number = Some(self.timers.enter(at, waker));
        }
        Poll::Pending
    }

    fn leave(&mut self) {
        if let (Some(at), Some(number)) = (self.at, self.number.take()) {
            self.timers.remove(at, number);
        }
    }
}

impl Drop for RunTimer {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(all(test, not(ebbtide_loom)))]
mod tests {
    use super::*;
    use crate::sync::waker_set::counting::Count;
    use std::thread;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A timer with a task of its own.
    struct Waiting {
        timer: RunTimer,
        task: Arc<Count>,
        at: Instant,
    }

    impl Waiting {
        fn until(timers: &Arc<Timers>, at: Instant) -> Self {
            let mut timer = timers.timer();
            timer.set(Some(at));
            Self { timer, task: Arc::default(), at }
        }

        fn poll(&mut self) -> bool {
            let is_ready = self.timer.poll(&mut Context::from_waker(&self.task.waker())).is_ready();
            assert!(!is_ready || self.at <= Instant::now(), "ready before its time");
            is_ready
        }

        /// Returns one whose time comes soon, and which was polled before that. A busy machine may stop this thread for
        /// longer than a short time: then the next one gets a longer time.
        fn soon(timers: &Arc<Timers>) -> Self {
            let mut time = Duration::from_millis(10);
            loop {
                let mut waiting = Self::until(timers, Instant::now() + time);
                if !waiting.poll() {
                    return waiting;
                }
                time *= 2;
            }
        }

        /// Waits until the task is woken, and then the timer is ready.
        fn wait(&mut self) {
            let start = Instant::now();
            while self.task.woken() == 0 {
                assert!(start.elapsed() < PATIENCE, "not woken");
                thread::sleep(Duration::from_millis(1));
            }
            assert!(self.poll(), "woken, and not ready");
        }
    }

    fn armed(timers: &Timers) -> Option<Instant> {
        lock(&timers.state).armed
    }

    fn waiting(timers: &Timers) -> usize {
        lock(&timers.state).waiting.len()
    }

    #[test]
    fn each_task_is_woken_at_its_time_whatever_the_order_in_which_they_wait() {
        let (timers, now) = (Timers::new(), Instant::now());
        let times = (0..300).map(|n| now + Duration::from_millis(n * 7919 % 150));
        let mut all: Vec<_> = times.map(|at| Waiting::until(&timers, at)).collect();
        all.retain_mut(|waiting| !waiting.poll());
        // Half of them stop waiting, the earliest among them.
        all.sort_by_key(|waiting| waiting.at);
        let mut left: Vec<_> = all.into_iter().enumerate().filter(|(n, _)| n % 2 == 1).map(|(_, it)| it).collect();
        left.iter_mut().for_each(Waiting::wait);
        assert_eq!((waiting(&timers), armed(&timers)), (0, None));
    }

    #[test]
    fn the_reactors_timer_is_set_only_for_an_earlier_time() {
        let (timers, now) = (Timers::new(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut all = Vec::new();
        for (seconds, set_for) in [(100, 100), (200, 100), (50, 50), (70, 50)] {
            let mut waiting = Waiting::until(&timers, at(seconds));
            assert!(!waiting.poll());
            all.push(waiting);
            assert_eq!(armed(&timers), Some(at(set_for)), "after one at {seconds} s");
        }
        all.clear();
        assert_eq!((waiting(&timers), armed(&timers)), (0, Some(at(50))), "it stays set, for no task");
        Waiting::soon(&timers).wait();
    }

    #[test]
    fn a_timer_that_fires_for_no_task_is_set_for_the_next_one() {
        let timers = Timers::new();
        let dropped = Waiting::soon(&timers);
        let mut next = Waiting::until(&timers, dropped.at + Duration::from_millis(20));
        let is_ready = next.poll(); // on a busy machine it may be
        drop(dropped);
        if !is_ready {
            next.wait();
        }
    }

    #[test]
    fn a_timer_that_is_set_again_forgets_its_earlier_time() {
        let timers = Timers::new();
        let mut one = Waiting::until(&timers, Instant::now() + Duration::from_secs(1000));
        assert!(!one.poll());
        one.timer.set(None);
        assert!(!one.poll());
        assert_eq!(waiting(&timers), 0);
        let mut time = Duration::from_millis(10);
        while {
            one.at = Instant::now() + time;
            one.timer.set(Some(one.at));
            one.poll() // on a busy machine it may be ready at once
        } {
            time *= 2;
        }
        one.wait();
        assert!(!one.poll(), "once it was ready it is not set any more");
        one.timer.set(Some(one.at));
        assert!(one.poll(), "a time that has passed needs no wait");
    }

    #[test]
    fn nothing_keeps_the_timers_or_a_task_alive() {
        let timers = Timers::new();
        let mut waiting = Waiting::until(&timers, Instant::now() + Duration::from_secs(1000));
        assert!(!waiting.poll());
        let (task, weak) = (Arc::clone(&waiting.task), Arc::downgrade(&timers));
        drop(waiting);
        assert_eq!(Arc::strong_count(&task), 1, "a waker stayed behind");
        drop(timers);
        assert!(weak.upgrade().is_none(), "the reactor keeps the timers");
    }

    #[test]
    fn a_task_that_polls_with_another_waker_is_woken_by_that_one() {
        let timers = Timers::new();
        // Far enough away that no busy machine stops this thread for so long.
        let mut waiting = Waiting::until(&timers, Instant::now() + Duration::from_secs(3));
        assert!(!waiting.poll());
        let first = std::mem::take(&mut waiting.task);
        assert!(!waiting.poll());
        waiting.wait();
        assert_eq!(first.woken(), 0);
    }
}
