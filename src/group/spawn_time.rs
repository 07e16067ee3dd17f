//! [`SpawnTime`]: when a child was spawned, in four bytes.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a unit is.
const UNIT: Duration = Duration::from_millis(10);

/// When a child was spawned: in hundredths of a second since the first time that was noted in this process, from 1.
/// 0: it was not noted. After 497 days no later time is noted, so such ages are too large.
///
/// It lies beside the child in the group's list, where four bytes cost nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpawnTime(u32);

static FIRST: OnceLock<Instant> = OnceLock::new();

impl SpawnTime {
    pub(super) const UNKNOWN: Self = Self(0);

    pub(super) fn now() -> Self {
        let now = Instant::now();
        Self::after(now.saturating_duration_since(*FIRST.get_or_init(|| now)))
    }

    fn after(first: Duration) -> Self {
        let units = first.as_millis() / UNIT.as_millis() + 1;
        Self(u32::try_from(units).unwrap_or(u32::MAX))
    }

    /// Returns how long ago it was.
    pub(super) fn age(self) -> Option<Duration> {
        let since = self.since_first()?;
        Some(FIRST.get()?.elapsed().saturating_sub(since)) // it may not have passed yet
    }

    fn since_first(self) -> Option<Duration> {
        (self.0 > 0).then(|| UNIT * self.0) // the end of its unit: a child is never older than what spawned it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_kept_to_a_hundredth_of_a_second_and_never_wraps() {
        assert_eq!(SpawnTime::UNKNOWN.since_first(), None);
        for (after, kept) in [(0, 10), (9, 10), (10, 20), (12_345, 12_350), (42_949_672_950, 42_949_672_950)] {
            let kept = Some(Duration::from_millis(kept));
            assert_eq!(SpawnTime::after(Duration::from_millis(after)).since_first(), kept);
        }
        assert_eq!(SpawnTime::after(Duration::MAX).0, u32::MAX);
        assert!(SpawnTime::now().age().is_some_and(|age| age < Duration::from_secs(60)));
    }

    #[test]
    fn a_child_grows_older() {
        let (start, spawned) = (Instant::now(), SpawnTime::now());
        while spawned.age().is_none_or(|age| age < 2 * UNIT) {
            assert!(start.elapsed() < Duration::from_secs(60), "its age stays {:?}", spawned.age());
            std::thread::yield_now();
        }
        assert!(start.elapsed() >= 2 * UNIT, "it is older than what spawned it");
        assert_eq!(SpawnTime::UNKNOWN.age(), None);
    }
}
