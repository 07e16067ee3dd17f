//! [`Timeouts`]: the time limits of one connection: idle timeout, write timeout, greatest age, and the deadline of a
//! drain of this connection alone.

use super::task::Policy;
use crate::handler::TimedOut;
use crate::run::Run;
use crate::run::end_reason::EndReason;
use crate::run::record::{ConnectionRecord, DrainAlone};
use crate::run::state::ConnectionState;
use crate::run::timers::RunTimer;
use crate::sync::time;
use crate::transport::ExtraTime;
use std::hash::{BuildHasher, RandomState};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The time between two checks if a limit is zero.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);

/// Time limits of a connection, with one timer for all.
///
/// A read or write does not touch the timer. When the timer fires, the limits are checked, and it is set to the next
/// time at which one may have passed. On the heap, and only for connections that have a limit.
#[derive(Debug)]
pub(super) struct Timeouts {
    /// The idle timeout.
    idle: Option<Duration>,
    /// The write timeout.
    write: Option<Duration>,
    /// The time at which its age drains it.
    old_at: Option<Instant>,
    /// The drain of this connection alone, once that has begun.
    alone: Option<DrainAlone>,
    /// The end of its newcomer time: then it is notified of its drain.
    notify_at: Option<Instant>,
    /// The extra time of the idle timeout.
    extra: ExtraTime,
    /// Fires at the next check.
    timer: RunTimer,
}

/// A limit that has passed.
#[derive(Debug)]
pub(super) enum Passed {
    TimedOut(TimedOut),
    /// The deadline of a drain of this connection alone.
    Cut(EndReason),
}

impl Timeouts {
    /// Returns the limits of a new connection; `None` if there is none.
    pub(super) fn new(policy: &Policy, record: &ConnectionRecord, run: &Run) -> Option<Box<Self>> {
        let (idle, write) = (policy.idle_timeout, policy.write_timeout);
        let old_at = policy.max_age.and_then(|age| record.since.checked_add(jittered(age, record.id.as_u64())));
        if idle.is_none() && write.is_none() && old_at.is_none() {
            return None;
        }
        let mut limits = Self { idle, write, old_at, ..Self::none(run) };
        limits.timer.set(Some(time::now())); // the first poll finds the times to wait for
        Some(Box::new(limits))
    }

    /// Returns the limits of a connection that has none yet, and is to be drained alone.
    pub(super) fn none(run: &Run) -> Self {
        let timer = run.timers.timer();
        let extra = ExtraTime::default();
        Self { idle: None, write: None, old_at: None, alone: None, notify_at: None, extra, timer }
    }

    /// Begins the drain of this connection alone. Notifies it at once; a newcomer at the end of its newcomer time.
    pub(super) fn begin_drain(&mut self, record: &ConnectionRecord, policy: &Policy) {
        if self.alone.is_some() {
            return;
        }
        self.alone = record.alone();
        if !record.spare() && !record.is_spared() {
            record.notify_of_drain();
        } else if record.state() != ConnectionState::Opening {
            self.be_newcomer(record, record.opened_at(), policy);
        } // else it is still opening: when its handler begins
        self.timer.set(Some(time::now()));
    }

    /// Makes it a newcomer from `start`, when its handler begins or has begun. If it is drained alone, it is notified
    /// at the end of its newcomer time.
    pub(super) fn be_newcomer(&mut self, record: &ConnectionRecord, start: Instant, policy: &Policy) {
        if let Some(DrainAlone { deadline, .. }) = self.alone.filter(|_| record.is_spared()) {
            let now = time::now();
            let quarter = now + deadline.saturating_duration_since(now) / 4; // three quarters are left for the answer
            self.notify_at = Some(start.checked_add(policy.newcomer_time).map_or(quarter, |end| end.min(quarter)));
            self.timer.set(Some(now));
        }
    }

    /// Returns since when a write has waited. A write that waited may have been dropped: if the limit has passed and
    /// the socket is writable, no write waits.
    fn write_waits_since(&self, record: &ConnectionRecord, now: Instant) -> Option<Instant> {
        let since = record.write_waits_since()?;
        let is_passed = self.write.is_some_and(|limit| since.checked_add(limit).is_some_and(|end| end <= now));
        if is_passed && record.transport.is_writable() {
            record.note_write_done();
            return None;
        }
        Some(since)
    }

    /// Ready once a limit has passed.
    pub(super) fn poll(&mut self, record: &ConnectionRecord, policy: &Policy, cx: &mut Context<'_>) -> Poll<Passed> {
        while self.timer.poll(cx).is_ready() {
            match self.check(record, policy) {
                Ok(next) => self.timer.set(next),
                Err(passed) => return Poll::Ready(passed),
            }
        }
        Poll::Pending
    }

    /// Checks all limits. Returns when to check again, or the limit that has passed.
    fn check(&mut self, record: &ConnectionRecord, policy: &Policy) -> Result<Option<Instant>, Passed> {
        let now = time::now();
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
        // A write that begins to wait does not set the timer: the next check finds it, within twice the limit.
        let limits = [
            self.idle.map(|limit| (Some(record.last_byte()), limit, TimedOut::Idle(limit))),
            self.write.map(|limit| (self.write_waits_since(record, now), limit, TimedOut::Write(limit))),
        ];
        for (start, limit, passed) in limits.into_iter().flatten() {
            let end = start.unwrap_or(now).checked_add(limit);
            let extra = match (end, &passed) {
                (Some(end), TimedOut::Idle(_)) if end <= now => self.extra.after(end, now, &record.transport),
                _ => None,
            };
            match extra.or(end) {
                Some(end) if end <= now && start.is_some() => return Err(Passed::TimedOut(passed)),
                Some(end) if end <= now => at(now + SHORTEST_LOOK),
                Some(end) => at(end),
                None => {}
            }
        }
        Ok(next)
    }
}

/// Returns `age`, up to a tenth longer or shorter, so that connections that began together do not end together.
fn jittered(age: Duration, id: u64) -> Duration {
    let random = RandomState::new().hash_one(id) as f64 / u64::MAX as f64;
    Duration::try_from_secs_f64(age.as_secs_f64() * (0.9 + 0.2 * random)).unwrap_or(Duration::MAX)
}

/// Returns the log text for a connection that was cut at the deadline of its own drain.
pub(super) fn cut_text(reason: EndReason, was_opening: bool) -> &'static str {
    match (reason, was_opening) {
        (EndReason::Age, false) => {
            "it was drained because of its age, and its handler did not end within the grace period"
        }
        (EndReason::Age, true) => "it was drained because of its age, and had not opened within the grace period",
        (_, false) => "it was drained on request, and its handler did not end within the grace period",
        (_, true) => "it was drained on request, and had not opened within the grace period",
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
        assert!(ages.iter().any(|age| *age < 92.0) && ages.iter().any(|age| *age > 108.0), "they fill that range");
        assert_eq!(jittered(Duration::ZERO, 1), Duration::ZERO);
        assert!(jittered(Duration::MAX, 1) > Duration::MAX / 2, "and no panic");
    }
}
