//! Permits: how many connections there may be at a time, in all and from one address.

use crate::sync::waker_set::{WakerSet, wake_all};
use crate::sync::{Mutex, lock};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Where the system does not tell how many files may be open.
const UNKNOWN: usize = usize::MAX;

/// The limits of one server. All can be moved while it serves.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    state: Mutex<LimitState>,
}

#[derive(Debug)]
struct LimitState {
    max: usize,
    max_per_ip: usize,
    paused: bool,
    /// Permits that are out.
    used: usize,
    /// Those of them that are out on trial: only until a listener has said whether it has a client.
    on_trial: usize,
    /// Permits that are out, by address; only while there is a limit on that.
    by_ip: HashMap<IpAddr, usize>,
    /// Accept loops that wait for a permit.
    waiters: WakerSet,
}

impl LimitState {
    fn admits(&self) -> bool {
        !self.paused && self.used < self.max
    }

    /// Whether there may be a permit in a moment, although no connection ends.
    fn may_admit(&self) -> bool {
        !self.paused && self.used - self.on_trial < self.max
    }
}

/// What became of an attempt to have a permit.
pub(crate) enum Attempt {
    Permit(Permit),
    /// All are out, but some on trial: ask again in a moment.
    Undecided,
    Full,
}

impl ConnectionLimit {
    pub(crate) fn new() -> Arc<Self> {
        let state = LimitState {
            max: from_open_file_limit(open_file_limit()),
            max_per_ip: usize::MAX,
            paused: false,
            used: 0,
            on_trial: 0,
            by_ip: HashMap::new(),
            waiters: WakerSet::default(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// A permit on trial, as soon as there is one. A waiter keeps its `key`, and hands it to [`forget`](Self::forget)
    /// in the end.
    pub(crate) fn poll_acquire(self: &Arc<Self>, cx: &mut Context<'_>, key: &mut Option<usize>) -> Poll<Trial> {
        if let Some(trial) = self.try_on_trial(&mut lock(&self.state)) {
            return Poll::Ready(trial);
        }
        let waker = cx.waker().clone(); // user code, so before the lock
        let mut state = lock(&self.state);
        if let Some(trial) = self.try_on_trial(&mut state) {
            return Poll::Ready(trial);
        }
        let displaced = state.waiters.register(key, waker);
        drop(state);
        drop(displaced);
        Poll::Pending
    }

    /// A permit for a client that is already there.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Attempt {
        let mut state = lock(&self.state);
        if state.admits() {
            state.used += 1;
            return Attempt::Permit(Permit { limit: Arc::clone(self) });
        }
        if state.may_admit() { Attempt::Undecided } else { Attempt::Full }
    }

    fn try_on_trial(self: &Arc<Self>, state: &mut LimitState) -> Option<Trial> {
        if !state.admits() {
            return None;
        }
        state.used += 1;
        state.on_trial += 1;
        Some(Trial { limit: Some(Arc::clone(self)) })
    }

    /// Counts a connection of a client's address; `None` if there is no such limit. Refused if there are as many from
    /// it as may be.
    pub(crate) fn count(self: &Arc<Self>, ip: IpAddr) -> Result<Option<Box<Counted>>, TooMany> {
        let ip = ip.to_canonical(); // an IPv4 client of an IPv6 socket is the same client
        let mut state = lock(&self.state);
        let max = state.max_per_ip;
        if max == usize::MAX {
            return Ok(None);
        }
        let count = state.by_ip.entry(ip).or_insert(0);
        if *count >= max {
            if *count == 0 {
                state.by_ip.remove(&ip); // a limit of none at all
            }
            return Err(TooMany { max });
        }
        *count += 1;
        drop(state);
        Ok(Some(Box::new(Counted { limit: Arc::clone(self), ip })))
    }

    /// How many permits are out.
    pub(crate) fn used(&self) -> usize {
        lock(&self.state).used
    }

    /// Whether a client that comes now is accepted.
    pub(crate) fn admits(&self) -> bool {
        lock(&self.state).admits()
    }

    pub(crate) fn forget(&self, key: &mut Option<usize>) {
        if let Some(key) = key.take() {
            let waker = lock(&self.state).waiters.remove(key);
            drop(waker);
        }
    }

    pub(crate) fn max(&self) -> usize {
        lock(&self.state).max
    }

    pub(crate) fn set_max(&self, max: usize) {
        self.change(|state| state.max = max);
    }

    pub(crate) fn set_max_per_ip(&self, max: usize) {
        self.change(|state| state.max_per_ip = max);
    }

    pub(crate) fn is_paused(&self) -> bool {
        lock(&self.state).paused
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.change(|state| state.paused = paused);
    }

    /// Every change that may free a permit goes through here, so no wake-up is lost. All waiters are woken: there are
    /// only as many as listeners, and any of them may have a client.
    fn change(&self, change: impl FnOnce(&mut LimitState)) {
        let mut state = lock(&self.state);
        change(&mut state);
        let waiters = if state.admits() { state.waiters.take() } else { Vec::new() };
        drop(state);
        wake_all(waiters);
    }
}

/// The right to one connection. Given back by its drop.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Arc<ConnectionLimit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.change(|state| state.used -= 1);
    }
}

/// A permit until a listener has said whether it has a client. Given back by its drop.
#[derive(Debug)]
pub(crate) struct Trial {
    /// `None` once it was kept.
    limit: Option<Arc<ConnectionLimit>>,
}

impl Trial {
    /// There is a client for it.
    pub(crate) fn keep(mut self) -> Permit {
        let limit = self.limit.take().expect("it is kept once");
        lock(&limit.state).on_trial -= 1;
        Permit { limit }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(limit) = self.limit.take() {
            limit.change(|state| {
                state.used -= 1;
                state.on_trial -= 1;
            });
        }
    }
}

/// One of the connections that an address has. Given back by its drop.
#[derive(Debug)]
pub(crate) struct Counted {
    limit: Arc<ConnectionLimit>,
    ip: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = lock(&self.limit.state);
        if let Some(count) = state.by_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                state.by_ip.remove(&self.ip);
            }
        }
    }
}

/// There are as many connections from one address as may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) max: usize,
}

/// So many connections that accept never meets the limit on open files: a tenth of them is left to the rest of the
/// program, but at least 64, but never more than half.
fn from_open_file_limit(files: Option<u64>) -> usize {
    let Some(files) = files else {
        return UNKNOWN;
    };
    let spared = (files / 10).max((files / 2).min(64));
    usize::try_from(files - spared).unwrap_or(UNKNOWN).max(1)
}

#[cfg(unix)]
fn open_file_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
fn open_file_limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::waker_set::counting::Count;
    use std::task::Waker;

    #[test]
    fn the_default_leaves_a_part_of_the_open_files_to_the_rest() {
        let table = [
            (Some(20_000), 18_000),
            (Some(1024), 922),
            (Some(256), 192),
            (Some(100), 50),
            (Some(3), 2),
            (Some(1), 1),
            (Some(0), 1),
            (None, usize::MAX),
        ];
        for (files, connections) in table {
            assert_eq!(from_open_file_limit(files), connections, "{files:?} open files");
        }
    }

    #[test]
    fn every_way_to_free_a_permit_wakes_the_waiting_loops() {
        type Admit = fn(&Arc<ConnectionLimit>, &mut Vec<Permit>);
        let ways: [Admit; 4] = [
            |_, out| drop(out.pop()),
            |limit, _| limit.set_max(2),
            |limit, out| {
                limit.set_paused(true);
                out.clear();
                limit.set_paused(false);
            },
            |limit, _| {
                limit.set_max(0);
                limit.set_max(5);
            },
        ];
        for admit in ways {
            let limit = ConnectionLimit::new();
            limit.set_max(1);
            let mut out = vec![permit(&limit)];
            let count = Arc::new(Count::default());
            let waker = count.waker();
            let mut cx = Context::from_waker(&waker);
            let mut key = None;
            assert!(limit.poll_acquire(&mut cx, &mut key).is_pending());
            admit(&limit, &mut out);
            assert_eq!(count.woken(), 1);
            assert!(limit.poll_acquire(&mut cx, &mut key).is_ready());
            limit.forget(&mut key);
        }
    }

    fn permit(limit: &Arc<ConnectionLimit>) -> Permit {
        match limit.try_acquire() {
            Attempt::Permit(permit) => permit,
            Attempt::Undecided | Attempt::Full => panic!("{limit:?}"),
        }
    }

    #[test]
    fn a_limit_is_undecided_as_long_as_the_last_permit_is_on_trial() {
        let limit = ConnectionLimit::new();
        limit.set_max(2);
        let _kept = permit(&limit);
        for keeps in [false, true] {
            let Poll::Ready(tried) = limit.poll_acquire(&mut Context::from_waker(Waker::noop()), &mut None) else {
                panic!("{limit:?}");
            };
            assert!(matches!(limit.try_acquire(), Attempt::Undecided));
            limit.set_paused(true);
            assert!(matches!(limit.try_acquire(), Attempt::Full));
            limit.set_paused(false);
            let _kept = keeps.then(|| tried.keep()); // otherwise it is given back
            assert_eq!(matches!(limit.try_acquire(), Attempt::Full), keeps);
            assert_eq!(matches!(limit.try_acquire(), Attempt::Permit(_)), !keeps);
        }
    }

    #[test]
    fn a_lowered_limit_gives_no_permit_until_enough_are_back() {
        let limit = ConnectionLimit::new();
        limit.set_max(3);
        let mut out: Vec<_> = (0..3).map(|_| permit(&limit)).collect();
        limit.set_max(1);
        out.truncate(1);
        assert!(matches!(limit.try_acquire(), Attempt::Full));
        out.clear();
        assert!(matches!(limit.try_acquire(), Attempt::Permit(_)));
    }

    #[test]
    fn an_address_is_counted_only_as_long_as_it_has_connections() {
        let limit = ConnectionLimit::new();
        limit.set_max_per_ip(2);
        let ip: IpAddr = [127, 0, 0, 1].into();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let (one, two) = (limit.count(ip).unwrap(), limit.count(mapped).unwrap());
        assert_eq!(limit.count(ip).unwrap_err(), TooMany { max: 2 });
        assert!(limit.count([127, 0, 0, 2].into()).is_ok(), "others are not concerned");
        drop(one);
        let again = limit.count(ip).unwrap();
        drop((again, two));
        assert!(lock(&limit.state).by_ip.is_empty());
    }
}
