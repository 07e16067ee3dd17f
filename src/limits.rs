//! Permits: how many connections may be open at a time, in all and for each client.
//!
//! [`ConnectionLimit`] is the semaphore that the accept loops share. A loop first takes a permit *on trial*
//! ([`Trial`]), and keeps it ([`Permit`]) if its listener has a client. `turns` decides which loop is next; `clients`
//! counts the connections of each client.

mod clients;
#[cfg(all(test, ebbtide_loom))]
mod loom_tests;
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

/// The default limit if the limit on open files is unknown: none.
const UNKNOWN: usize = usize::MAX;

/// The connection limits of one server. All can be changed while it serves.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    state: Mutex<LimitState>,
}

#[derive(Debug)]
struct LimitState {
    /// `max_connections`.
    max: usize,
    /// `max_connections_per_ip`; `usize::MAX`: no limit.
    max_per_client: usize,
    /// No permit is given while accepting is paused.
    paused: bool,
    /// Permits in use, those on trial included.
    used: usize,
    /// Permits on trial: in use until a listener has found whether it has a client.
    on_trial: usize,
    /// Connections of each client; counted only while there is a limit for it.
    clients: Clients,
    /// Accept loops that wait for a permit.
    turns: Turns,
}

impl LimitState {
    /// Returns whether a permit is free.
    fn admits(&self) -> bool {
        !self.paused && self.used < self.max
    }

    /// Returns whether a permit is free, or may be in a moment although no connection ends: one on trial may come back.
    fn may_admit(&self) -> bool {
        !self.paused && self.used - self.on_trial < self.max
    }
}

/// Result of an attempt to get a permit without waiting.
pub(crate) enum Attempt {
    Permit(Permit),
    /// All are in use, but some only on trial: try again in a moment.
    Undecided,
    /// All are in use, or accepting is paused.
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

    /// Polls for a permit on trial: ready when one is free and it is this loop's turn. A loop that stops waiting has to
    /// [leave](Self::leave).
    pub(crate) fn poll_acquire(self: &Arc<Self>, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Trial> {
        let mut state = lock(&self.state);
        if let Some(trial) = self.try_on_trial(&mut state, turn) {
            let waker = state.turns.leave(turn); // the loop waits no longer
            drop(state);
            drop(waker);
            return Poll::Ready(trial);
        }
        drop(state);
        let waker = cx.waker().clone(); // runs user code, so without the lock
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

    /// Tries to get a permit for a client that is already accepted.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Attempt {
        let mut state = lock(&self.state);
        if state.admits() {
            state.used += 1;
            return Attempt::Permit(Permit { limit: Arc::clone(self) });
        }
        if state.may_admit() { Attempt::Undecided } else { Attempt::Full }
    }

    /// Takes a permit on trial, if one is free and it is this loop's turn.
    fn try_on_trial(self: &Arc<Self>, state: &mut LimitState, turn: &Turn) -> Option<Trial> {
        if !state.admits() || state.turns.stands_back(turn) {
            return None;
        }
        state.used += 1;
        state.on_trial += 1;
        Some(Trial { limit: Some(Arc::clone(self)) })
    }

    /// Counts a connection of the client with this address. `None`: there is no limit for each client.
    ///
    /// # Errors
    ///
    /// If the client has as many connections as it may.
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

    /// Returns how many permits are in use.
    pub(crate) fn used(&self) -> usize {
        lock(&self.state).used
    }

    /// Returns whether a client that connects now is accepted at once, or as soon as a permit on trial is back.
    pub(crate) fn admits(&self) -> bool {
        lock(&self.state).may_admit()
    }

    /// Gives up a loop's place: it no longer waits.
    pub(crate) fn leave(&self, turn: &mut Turn) {
        if turn.is_waiting() {
            let waker = self.change(|state| state.turns.leave(turn)); // other loops may stand back for it
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

    /// Sets how many bits of an IPv6 address identify a client.
    pub(crate) fn set_ipv6_prefix(&self, bits: u8) {
        self.change(|state| state.clients.set_prefix(bits));
    }

    pub(crate) fn is_paused(&self) -> bool {
        lock(&self.state).paused
    }

    /// Pauses or resumes accepting. Returns whether it was paused before.
    pub(crate) fn set_paused(&self, paused: bool) -> bool {
        let mut before = false;
        self.change(|state| before = std::mem::replace(&mut state.paused, paused));
        before
    }

    /// Changes the state and wakes the waiting loops. Every change that may free a permit, or make it another loop's
    /// turn, uses this, so no wake-up is lost. All waiting loops are called: there are only as many as listeners, and
    /// any of them may have a client.
    fn change<T>(&self, change: impl FnOnce(&mut LimitState) -> T) -> T {
        let mut state = lock(&self.state);
        let result = change(&mut state);
        let called = if state.admits() { state.turns.call() } else { Vec::new() };
        drop(state);
        wake_all(called);
        result
    }
}

/// The right to one connection. Its drop returns it.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Arc<ConnectionLimit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.change(|state| state.used -= 1);
    }
}

/// A permit on trial, until a listener has found whether it has a client. Its drop returns it.
#[derive(Debug)]
pub(crate) struct Trial {
    /// `None` once it is kept.
    limit: Option<Arc<ConnectionLimit>>,
}

impl Trial {
    /// Keeps the permit for a client. Returns it with the client's number, which the loop's next [`Turn`] needs.
    pub(crate) fn keep(mut self) -> (Permit, u64) {
        let limit = self.limit.take().expect("a trial is kept once, since that consumes it");
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

/// One counted connection of a client. Its drop uncounts it.
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

/// Error: a client has as many connections as it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) max: usize,
    pub(crate) client: Client,
}

/// Returns the default limit, with which accept never reaches the limit on open files: a tenth of the files is left to
/// the rest of the program; at least 64, but never more than half.
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
    fn the_default_leaves_a_part_of_the_open_files_to_the_rest_of_the_program() {
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
                    let Poll::Ready(trial) = poll(limit, other) else {
                        panic!("it must get a permit, it is its turn: {limit:?}")
                    };
                    Some(trial.keep().0)
                },
                |limit, other| {
                    assert!(poll(limit, other).is_ready(), "its turn: it gets a permit on trial, and returns it");
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
            assert!(limit.admits(), "the loop with the permit on trial accepts a new client");
            limit.set_paused(true);
            assert!(matches!(limit.try_acquire(), Attempt::Full));
            limit.set_paused(false);
            let _kept = keeps.then(|| tried.keep().0); // otherwise the trial is dropped
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
        assert!(limit.count([127, 0, 0, 2].into()).is_ok(), "other clients are not limited by it");
        drop(one);
        let again = limit.count(ip).unwrap();
        drop((again, two));
        assert_eq!(format!("{:?}", lock(&limit.state).clients), format!("{:?}", Clients::default()));
    }
}
