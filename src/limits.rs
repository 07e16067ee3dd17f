//! Permits: how many connections there may be at a time, in all and from one client.

mod clients;
mod turns;

use crate::sync::waker_set::wake_all;
use crate::sync::{Mutex, lock};
pub(crate) use clients::Client;
use clients::Clients;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
pub(crate) use turns::Turn;
use turns::Turns;

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
    max_per_client: usize,
    paused: bool,
    /// Permits that are out.
    used: usize,
    /// Those of them that are out on trial: only until a listener has said whether it has a client.
    on_trial: usize,
    /// Permits that are out, by client; only while there is a limit on that.
    clients: Clients,
    /// Accept loops that wait for a permit.
    turns: Turns,
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
            max_per_client: usize::MAX,
            paused: false,
            used: 0,
            on_trial: 0,
            clients: Clients::default(),
            turns: Turns::default(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// A permit on trial, as soon as there is one and it is this loop's turn. In the end the loop
    /// [leaves](Self::leave).
    pub(crate) fn poll_acquire(self: &Arc<Self>, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Trial> {
        let mut state = lock(&self.state);
        if let Some(trial) = self.try_on_trial(&mut state, turn) {
            let waker = state.turns.leave(turn); // it has come
            drop(state);
            drop(waker);
            return Poll::Ready(trial);
        }
        drop(state);
        let waker = cx.waker().clone(); // user code, so without the lock
        let mut state = lock(&self.state);
        let trial = self.try_on_trial(&mut state, turn);
        let displaced = match trial {
            Some(_) => state.turns.leave(turn),
            None => state.turns.wait(turn, waker),
        };
        drop(state);
        drop(displaced);
        trial.map_or(Poll::Pending, Poll::Ready)
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

    fn try_on_trial(self: &Arc<Self>, state: &mut LimitState, turn: &Turn) -> Option<Trial> {
        if !state.admits() || state.turns.stands_back(turn) {
            return None;
        }
        state.used += 1;
        state.on_trial += 1;
        Some(Trial { limit: Some(Arc::clone(self)) })
    }

    /// Counts a connection of a client's address; `None` if there is no such limit. Refused if there are as many from
    /// that client as may be.
    pub(crate) fn count(self: &Arc<Self>, ip: IpAddr) -> Result<Option<Box<Counted>>, TooMany> {
        let mut state = lock(&self.state);
        let max = state.max_per_client;
        if max == usize::MAX {
            return Ok(None);
        }
        let client = state.clients.add(ip, max).map_err(|client| TooMany { max, client })?;
        drop(state);
        Ok(Some(Box::new(Counted { limit: Arc::clone(self), client })))
    }

    /// How many permits are out.
    pub(crate) fn used(&self) -> usize {
        lock(&self.state).used
    }

    /// Whether a client that comes now is accepted: now, or as soon as a permit on trial is back.
    pub(crate) fn admits(&self) -> bool {
        lock(&self.state).may_admit()
    }

    /// Gives a loop's place up: it is not waiting any more.
    pub(crate) fn leave(&self, turn: &mut Turn) {
        if turn.is_waiting() {
            let waker = self.change(|state| state.turns.leave(turn)); // others may have stood back for it
            drop(waker);
        }
    }

    pub(crate) fn max(&self) -> usize {
        lock(&self.state).max
    }

    pub(crate) fn set_max(&self, max: usize) {
        self.change(|state| state.max = max);
    }

    pub(crate) fn set_max_per_client(&self, max: usize) {
        self.change(|state| state.max_per_client = max);
    }

    /// How many bits of an IPv6 address name a client.
    pub(crate) fn set_ipv6_prefix(&self, bits: u8) {
        self.change(|state| state.clients.set_prefix(bits));
    }

    pub(crate) fn is_paused(&self) -> bool {
        lock(&self.state).paused
    }

    /// Returns whether it was before.
    pub(crate) fn set_paused(&self, paused: bool) -> bool {
        let mut before = false;
        self.change(|state| before = std::mem::replace(&mut state.paused, paused));
        before
    }

    /// Every change that may free a permit, or make it another loop's turn, goes through here, so no wake-up is lost.
    /// All who wait are called: there are only as many as listeners, and any of them may have a client.
    fn change<T>(&self, change: impl FnOnce(&mut LimitState) -> T) -> T {
        let mut state = lock(&self.state);
        let result = change(&mut state);
        let called = if state.admits() { state.turns.call() } else { Vec::new() };
        drop(state);
        wake_all(called);
        result
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
    /// There is a client for it, whose number comes with the permit: the loop's next [`Turn`] is since that one.
    pub(crate) fn keep(mut self) -> (Permit, u64) {
        let limit = self.limit.take().expect("it is kept once");
        let number = limit.change(|state| {
            state.on_trial -= 1;
            state.turns.count()
        });
        (Permit { limit }, number)
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

/// One of the connections that a client has. Given back by its drop.
#[derive(Debug)]
pub(crate) struct Counted {
    limit: Arc<ConnectionLimit>,
    client: Client,
}

impl Drop for Counted {
    fn drop(&mut self) {
        lock(&self.limit.state).clients.remove(self.client);
    }
}

/// There are as many connections from one client as may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) max: usize,
    pub(crate) client: Client,
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
            let mut turn = Turn::default();
            assert!(limit.poll_acquire(&mut cx, &mut turn).is_pending());
            admit(&limit, &mut out);
            assert_eq!(count.woken(), 1);
            assert!(limit.poll_acquire(&mut cx, &mut turn).is_ready());
            limit.leave(&mut turn);
        }
    }

    fn poll(limit: &Arc<ConnectionLimit>, turn: &mut Turn) -> Poll<Trial> {
        limit.poll_acquire(&mut Context::from_waker(Waker::noop()), turn)
    }

    #[test]
    fn a_loop_that_stands_back_is_woken_whatever_the_other_does() {
        for permits in [1, 2] {
            type Other = fn(&Arc<ConnectionLimit>, &mut Turn) -> Option<Permit>;
            let ways: [Other; 3] = [
                |limit, other| {
                    let Poll::Ready(trial) = poll(limit, other) else { panic!("it is its turn: {limit:?}") };
                    Some(trial.keep().0)
                },
                |limit, other| {
                    assert!(poll(limit, other).is_ready(), "it has no client, and gives it back");
                    None
                },
                |limit, other| {
                    limit.leave(other);
                    None
                },
            ];
            for other_does in ways {
                let limit = ConnectionLimit::new();
                limit.set_max(0);
                let (mut old, mut new) = (Turn::since(1), Turn::since(2));
                let count = Arc::new(Count::default());
                let waker = count.waker();
                let mut cx = Context::from_waker(&waker);
                assert!(poll(&limit, &mut old).is_pending());
                assert!(limit.poll_acquire(&mut cx, &mut new).is_pending());
                limit.set_max(permits);
                assert_eq!(count.woken(), 1);
                assert!(limit.poll_acquire(&mut cx, &mut new).is_pending(), "it stands back");
                let kept = other_does(&limit, &mut old);
                limit.leave(&mut old);
                let admits = kept.is_none() || permits == 2;
                assert_eq!(count.woken(), 1 + usize::from(admits));
                assert_eq!(limit.poll_acquire(&mut cx, &mut new).is_ready(), admits);
                limit.leave(&mut new);
            }
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
            let Poll::Ready(tried) = poll(&limit, &mut Turn::default()) else {
                panic!("{limit:?}");
            };
            assert!(matches!(limit.try_acquire(), Attempt::Undecided));
            assert!(limit.admits(), "a client that comes is accepted by the loop that tries");
            limit.set_paused(true);
            assert!(matches!(limit.try_acquire(), Attempt::Full));
            limit.set_paused(false);
            let _kept = keeps.then(|| tried.keep().0); // otherwise it is given back
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
    fn a_client_is_counted_only_as_long_as_it_has_connections() {
        let limit = ConnectionLimit::new();
        limit.set_max_per_client(2);
        let ip: IpAddr = [127, 0, 0, 1].into();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let (one, two) = (limit.count(ip).unwrap(), limit.count(mapped).unwrap());
        assert_eq!(limit.count(ip).unwrap_err().max, 2);
        assert!(limit.count([127, 0, 0, 2].into()).is_ok(), "others are not concerned");
        drop(one);
        let again = limit.count(ip).unwrap();
        drop((again, two));
        assert_eq!(format!("{:?}", lock(&limit.state).clients), format!("{:?}", Clients::default()));
    }
}
