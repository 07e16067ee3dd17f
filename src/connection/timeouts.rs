//! What ends one connection by time: the idle timeout, the limit on a write that does not get on, its greatest age, and
//! the deadline of a drain of it alone.

use super::task::Policy;
use crate::handler::TimedOut;
use crate::run::end_reason::EndReason;
use crate::run::record::{ConnectionRecord, DrainAlone};
use crate::run::state::ConnectionState;
use async_io::Timer;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// With a limit of zero, how far two looks are apart.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);

/// Looks when something may be over, not at every byte. On the heap, and only for connections that have a limit.
#[derive(Debug)]
pub(super) struct Timeouts {
    idle: Option<Duration>,
    write: Option<Duration>,
    /// When its age drains it.
    old_at: Option<Instant>,
    /// The drain of this connection alone, once that has begun.
    alone: Option<DrainAlone>,
    /// Until when it is a newcomer, and is not notified of that.
    notify_at: Option<Instant>,
    timer: Timer,
}

/// What is over.
#[derive(Debug)]
pub(super) enum Passed {
    TimedOut(TimedOut),
    /// The deadline of a drain of it alone.
    Cut(EndReason),
}

impl Timeouts {
    /// `None`: there is no limit.
    pub(super) fn new(policy: &Policy, record: &ConnectionRecord) -> Option<Box<Self>> {
        let (idle, write) = (policy.idle_timeout, policy.write_timeout);
        let old_at = policy.max_age.and_then(|age| record.since.checked_add(jittered(age, record.id.as_u64())));
        if idle.is_none() && write.is_none() && old_at.is_none() {
            return None;
        }
        Some(Box::new(Self { idle, write, old_at, alone: None, notify_at: None, timer: Timer::after(Duration::ZERO) }))
    }

    /// For a connection that is drained alone, and has no other limit.
    pub(super) fn none() -> Box<Self> {
        let timer = Timer::never();
        Box::new(Self { idle: None, write: None, old_at: None, alone: None, notify_at: None, timer })
    }

    /// The connection is to be drained alone: notifies it, or sees to it that this is done when it is no newcomer any
    /// more.
    pub(super) fn begin_drain(&mut self, record: &ConnectionRecord, policy: &Policy) {
        if self.alone.is_some() {
            return;
        }
        self.alone = record.alone();
        if !record.spare() && !record.is_spared() {
            record.notify_of_drain();
        } else if record.state() != ConnectionState::Opening {
            self.be_newcomer(record, record.opened_at(), policy);
        } // else when its handler begins
        self.timer.set_at(Instant::now());
    }

    /// Its handler begins, or has begun, at `start`: if it is drained alone, it is notified when its newcomer time is
    /// over.
    pub(super) fn be_newcomer(&mut self, record: &ConnectionRecord, start: Instant, policy: &Policy) {
        if let Some(DrainAlone { deadline, .. }) = self.alone.filter(|_| record.is_spared()) {
            let now = Instant::now();
            let quarter = now + deadline.saturating_duration_since(now) / 4; // most of it is left to answer in
            self.notify_at = Some(start.checked_add(policy.newcomer_time).map_or(quarter, |end| end.min(quarter)));
            self.timer.set_at(now);
        }
    }

    /// A write that has waited and was dropped says nothing if the socket has room again.
    fn write_waits_since(&self, record: &ConnectionRecord, now: Instant) -> Option<Instant> {
        let since = record.write_waits_since()?;
        let is_passed = self.write.is_some_and(|limit| since.checked_add(limit).is_some_and(|end| end <= now));
        if is_passed && record.transport.is_writable() {
            record.note_write_done();
            return None;
        }
        Some(since)
    }

    /// Ready once a limit is passed.
    pub(super) fn poll(&mut self, record: &ConnectionRecord, policy: &Policy, cx: &mut Context<'_>) -> Poll<Passed> {
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            match self.look(record, policy) {
                Ok(Some(next)) => self.timer.set_at(next),
                Ok(None) => self.timer = Timer::never(),
                Err(passed) => return Poll::Ready(passed),
            }
        }
        Poll::Pending
    }

    /// When to look again, or what is over.
    fn look(&mut self, record: &ConnectionRecord, policy: &Policy) -> Result<Option<Instant>, Passed> {
        let now = Instant::now();
        if self.old_at.is_some_and(|at| at <= now) {
            self.old_at = None;
            record.drain_alone(DrainAlone { deadline: now + policy.own_grace, reason: EndReason::Age });
            self.begin_drain(record, policy);
        }
        if self.notify_at.is_some_and(|at| at <= now) {
            self.notify_at = None;
            record.end_newcomer_time();
        }
        let mut next = [self.old_at, self.notify_at].into_iter().flatten().min();
        let mut at = |time: Instant| next = Some(next.map_or(time, |next| next.min(time)));
        if let Some(DrainAlone { deadline, reason }) = self.alone {
            if deadline <= now {
                return Err(Passed::Cut(reason));
            }
            at(deadline);
        }
        // A write that begins to wait sets no timer: it is found within twice the limit.
        let limits = [
            self.idle.map(|limit| (Some(record.last_byte()), limit, TimedOut::Idle(limit))),
            self.write.map(|limit| (self.write_waits_since(record, now), limit, TimedOut::Write(limit))),
        ];
        for (start, limit, passed) in limits.into_iter().flatten() {
            match start.unwrap_or(now).checked_add(limit) {
                Some(end) if end <= now && start.is_some() => return Err(Passed::TimedOut(passed)),
                Some(end) if end <= now => at(now + SHORTEST_LOOK),
                Some(end) => at(end),
                None => {}
            }
        }
        Ok(next)
    }
}

/// A tenth more or less, so that connections that came together do not go together.
fn jittered(age: Duration, id: u64) -> Duration {
    let random = RandomState::new().hash_one(id) as f64 / u64::MAX as f64;
    Duration::try_from_secs_f64(age.as_secs_f64() * (0.9 + 0.2 * random)).unwrap_or(Duration::MAX)
}

/// What is logged of a connection that was cut at the end of a drain of it alone.
pub(super) fn cut_text(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Age => "it was drained because of its age, and its handler did not end within the grace period",
        _ => "it was drained on request, and its handler did not end within the grace period",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        let age = Duration::from_secs(100);
        let ages: Vec<_> = (0..1000).map(|id| jittered(age, id).as_secs_f64()).collect();
        assert!(ages.iter().all(|age| (90.0..=110.0).contains(age)), "{ages:?}");
        assert!(ages.iter().any(|age| *age < 92.0) && ages.iter().any(|age| *age > 108.0), "all over that range");
        assert_eq!(jittered(Duration::ZERO, 1), Duration::ZERO);
        assert!(jittered(Duration::MAX, 1) > Duration::MAX / 2, "and no panic");
    }
}
