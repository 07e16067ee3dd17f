//! [`Measured`]: the results of one run, and their text form on the pipe to the parent: lines of `name value`.

use crate::kernel::Cpu;
use crate::stats::percentile;
use std::time::Duration;

/// Results of one run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Measured {
    /// Operations that were done and checked: messages, connections, children, or stops.
    pub(crate) ops: u64,
    pub(crate) wall_ns: u64,
    /// The server's processor time, user and system.
    pub(crate) cpu_ns: u64,
    /// The user time in ticks, for the split.
    pub(crate) user_ns: u64,
    /// The system time in ticks, for the split.
    pub(crate) system_ns: u64,
    /// How long the server's threads were ready to run, and waited for a core: the sum over its threads.
    pub(crate) queued_ns: u64,
    /// 1 if the two times of the kernel differ too much.
    pub(crate) doubtful: u64,
    /// The load generator's processor time.
    pub(crate) load_ns: u64,
    /// How long the load generator waited for its core, because something else ran there.
    pub(crate) waited_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    /// Open loop: the 99th percentile of how much later than intended a message was sent.
    pub(crate) late_ns: u64,
    /// The peak of the server's resident set.
    pub(crate) peak_bytes: u64,
    /// Connections that ended as they should.
    pub(crate) closed: u64,
    /// Growth of the heap for each connection; 0 if the allocator does not count.
    pub(crate) heap_bytes: u64,
    /// Growth of the resident set for each connection.
    pub(crate) resident_bytes: u64,
}

impl Measured {
    fn fields(&mut self) -> [(&'static str, &mut u64); 16] {
        [
            ("ops", &mut self.ops),
            ("wall_ns", &mut self.wall_ns),
            ("cpu_ns", &mut self.cpu_ns),
            ("user_ns", &mut self.user_ns),
            ("system_ns", &mut self.system_ns),
            ("queued_ns", &mut self.queued_ns),
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

    /// Parses the printed form. An unknown line is an error.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut measured = Self::default();
        let mut left = measured.fields().len();
        for line in text.lines() {
            let (name, value) = line.split_once(' ').ok_or_else(|| format!("`{line}` is not a result"))?;
            let mut fields = measured.fields();
            let (_, field) = fields
                .iter_mut()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| format!("`{name}` is not a result"))?;
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

    /// Sets the processor time: the scheduler's, or the coarse one if threads have ended. The scheduler's lacks the
    /// time of these threads.
    pub(crate) fn set_cpu(&mut self, cpu: Cpu) {
        (self.user_ns, self.system_ns) = (cpu.user_ns, cpu.system_ns);
        self.queued_ns = cpu.queued_ns;
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

/// Returns a latency in 32 bits: up to 4 seconds; a longer one counts as 4 seconds.
pub(crate) fn short_nanos(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_results_can_be_parsed() {
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
