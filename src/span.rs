//! [`Span`]: formats a duration for people.

use std::fmt;
use std::time::Duration;

/// Shows a duration in log lines and reports: `0s`, `35ms`, `1.5s`, `8s`, `3m 20s`, `2h 5m`. It rounds down.
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    /// Rounds to the nearest instead: a limit of which a few microseconds have passed is shown as it was set.
    pub(crate) fn nearest(duration: Duration) -> Self {
        let half = match duration.as_millis() {
            0 => Duration::ZERO,
            1..1_000 => Duration::from_micros(500),
            1_000..60_000 => Duration::from_millis(50),
            60_000..3_600_000 => Duration::from_millis(500),
            _ => Duration::from_secs(30),
        };
        Self(duration.saturating_add(half))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (duration, seconds) = (self.0, self.0.as_secs());
        match duration.as_micros() {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{}µs", duration.as_micros()),
            1_000..1_000_000 => write!(f, "{}ms", duration.as_millis()),
            1_000_000..60_000_000 if duration.subsec_millis() < 100 => write!(f, "{seconds}s"),
            1_000_000..60_000_000 => write!(f, "{seconds}.{}s", duration.subsec_millis() / 100),
            60_000_000..3_600_000_000 => write!(f, "{}m {}s", seconds / 60, seconds % 60),
            _ => write!(f, "{}h {}m", seconds / 3600, seconds / 60 % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_shown_in_one_or_two_units() {
        for (micros, text) in [
            (0, "0s"),
            (237, "237µs"),
            (1_000, "1ms"),
            (999_999, "999ms"),
            (1_000_000, "1s"),
            (1_550_000, "1.5s"),
            (8_000_000, "8s"),
            (59_999_999, "59.9s"),
            (60_000_000, "1m 0s"),
            (200_000_000, "3m 20s"),
            (3_599_000_000, "59m 59s"),
            (7_500_000_000, "2h 5m"),
        ] {
            assert_eq!(Span(Duration::from_micros(micros)).to_string(), text);
        }
        assert_eq!(Span(Duration::MAX).to_string(), "5124095576030431h 0m");
    }

    #[test]
    fn a_limit_of_which_a_moment_has_passed_is_shown_as_it_was_set() {
        for limit in [5, 400, 1_000, 1_500, 8_000, 59_900, 60_000, 200_000, 7_500_000] {
            let limit = Duration::from_millis(limit);
            let left = Span::nearest(limit - Duration::from_micros(80)).to_string();
            assert_eq!(left, Span(limit).to_string());
        }
        for (millis, text) in [(0, "0s"), (949, "949ms"), (1_949, "1.9s"), (1_951, "2s"), (7_200, "7.2s")] {
            assert_eq!(Span::nearest(Duration::from_millis(millis)).to_string(), text);
        }
        assert_eq!(Span::nearest(Duration::MAX).to_string(), Span(Duration::MAX).to_string());
    }
}
