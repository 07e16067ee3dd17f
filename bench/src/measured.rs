//! What one run of the load generator measured, and how it says so to who started it: lines of `name value`.

use crate::kernel::Cpu;
use crate::stats::percentile;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Measured {
    /// What was done and checked: messages, connections.
    pub(crate) ops: u64,
    pub(crate) wall_ns: u64,
    /// The server's processor time, user and system.
    pub(crate) cpu_ns: u64,
    /// The same in ticks, for the split.
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
    /// 1 if the two accounts of the kernel did not agree.
    pub(crate) doubtful: u64,
    /// The load generator's own, and how long it had to wait for its core because something else ran there.
    pub(crate) load_ns: u64,
    pub(crate) waited_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    /// Open loop: how much later than intended the 99th percentile of the messages was sent.
    pub(crate) late_ns: u64,
    /// The peak of the server's resident set.
    pub(crate) peak_bytes: u64,
    /// Connections that were seen to end as they should.
    pub(crate) closed: u64,
    /// For each connection: what the heap has grown by, where the allocator counts, and the resident set.
    pub(crate) heap_bytes: u64,
    pub(crate) resident_bytes: u64,
}

impl Measured {
    fn fields(&mut self) -> [(&'static str, &mut u64); 15] {
        [
            ("ops", &mut self.ops),
            ("wall_ns", &mut self.wall_ns),
            ("cpu_ns", &mut self.cpu_ns),
            ("user_ns", &mut self.user_ns),
            ("system_ns", &mut self.system_ns),
            ("doubtful", &mut self.doubtful),
            ("load_ns", &mut self.load_ns),
            ("waited_ns", &mut self.waited_ns),
            ("p50_ns", &mut self.p50_ns),
            ("p99_ns", &mut self.p99_ns),
            ("late_ns", &mut self.late_ns),
            ("peak_bytes", &mut self.peak_bytes),
            ("closed", &mut self.closed),
            ("heap_bytes", &mut self.heap_bytes),
            ("resident_bytes", &mut self.resident_bytes),
        ]
    }

    pub(crate) fn print(mut self) {
        for (name, value) in self.fields() {
            println!("{name} {value}");
        }
    }

    /// Lines that are none of ours are an error: something was not understood.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut measured = Self::default();
        let mut left = measured.fields().len();
        for line in text.lines() {
            let (name, value) = line.split_once(' ').ok_or_else(|| format!("`{line}` is no result"))?;
            let mut fields = measured.fields();
            let (_, field) =
                fields.iter_mut().find(|(known, _)| *known == name).ok_or_else(|| format!("`{name}` is no result"))?;
            **field = value.parse().map_err(|_| format!("`{line}` has no number"))?;
            left = left.checked_sub(1).ok_or("too many results")?;
        }
        if left == 0 { Ok(measured) } else { Err(format!("{left} results are missing")) }
    }

    pub(crate) fn cpu_us_per_op(&self) -> f64 {
        self.cpu_ns as f64 / 1000.0 / self.ops.max(1) as f64
    }

    pub(crate) fn ops_per_second(&self) -> f64 {
        self.ops as f64 * 1e9 / self.wall_ns.max(1) as f64
    }

    /// The scheduler's account, or the coarse one if threads have ended and taken their share of the other with them.
    pub(crate) fn set_cpu(&mut self, cpu: Cpu) {
        (self.user_ns, self.system_ns) = (cpu.user_ns, cpu.system_ns);
        self.doubtful = u64::from(!cpu.agrees());
        self.cpu_ns = if cpu.agrees() { cpu.exact_ns } else { cpu.exact_ns.max(cpu.user_ns + cpu.system_ns) };
    }

    /// Sets the percentiles from single latencies.
    pub(crate) fn set_latencies(&mut self, latencies: &mut [u32]) {
        latencies.sort_unstable();
        self.p50_ns = percentile(latencies, 50.0).into();
        self.p99_ns = percentile(latencies, 99.0).into();
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A latency as it is kept: up to four seconds, and what is longer counts as that.
pub(crate) fn short_nanos(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_again() {
        let mut measured = Measured::default();
        for (number, (_, field)) in measured.fields().into_iter().enumerate() {
            *field = number as u64 + 7;
        }
        let text: String = measured.fields().iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        assert_eq!(Measured::parse(&text), Ok(measured));
        let without_the_last = text.trim_end().rsplit_once('\n').unwrap().0;
        assert!(Measured::parse(without_the_last).unwrap_err().contains("1 results are missing"));
        assert!(Measured::parse(&format!("{text}ops 1\n")).is_err());
        assert!(Measured::parse("thread panicked at").is_err());
    }

    #[test]
    fn costs_are_per_operation() {
        let measured = Measured { ops: 1000, cpu_ns: 4_650_000, wall_ns: 10_000_000, ..Measured::default() };
        assert!((measured.cpu_us_per_op() - 4.65).abs() < 1e-9);
        assert!((measured.ops_per_second() - 100_000.0).abs() < 1e-6);
    }
}
