//! Reads a process' processor time, memory and sockets from the kernel, and sets its cores and its limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::io;
use std::time::Duration;

/// Processor time of another process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cpu {
    /// From the scheduler (`schedstat`), in nanoseconds, summed over the live threads: exact, but without the threads
    /// that have ended.
    pub(crate) exact_ns: u64,
    /// From the same file: how long the threads were ready to run, and waited in the run queue of a core.
    pub(crate) queued_ns: u64,
    /// From `stat`, in ticks of 10 ms, threads that have ended included: coarse, and the check of `exact_ns`.
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
}

/// The tick of `stat`: `USER_HZ` is 100 on Linux, whatever the kernel's own tick is.
const TICK_NS: u64 = 10_000_000;

impl Cpu {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let (mut exact_ns, mut queued_ns) = (0, 0);
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end while this reads: not an error, since `stat` still counts it.
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                exact_ns += number(&text, 0).unwrap_or(0);
                queued_ns += number(&text, 1).unwrap_or(0);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user, system) = ticks(&stat).ok_or_else(|| io::Error::other("/proc/PID/stat has changed its form"))?;
        Ok(Self { exact_ns, queued_ns, user_ns: user * TICK_NS, system_ns: system * TICK_NS })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            exact_ns: self.exact_ns.saturating_sub(before.exact_ns),
            queued_ns: self.queued_ns.saturating_sub(before.queued_ns),
            user_ns: self.user_ns.saturating_sub(before.user_ns),
            system_ns: self.system_ns.saturating_sub(before.system_ns),
        }
    }

    /// Returns whether the two times are equal within the precision of the coarse one.
    pub(crate) fn agrees(self) -> bool {
        let coarse = self.user_ns + self.system_ns;
        self.exact_ns.abs_diff(coarse) <= 3 * TICK_NS + coarse / 33
    }
}

fn number(text: &str, index: usize) -> Option<u64> {
    text.split_whitespace().nth(index)?.parse().ok()
}

/// Returns `utime` and `stime` of `/proc/PID/stat`. The second field is the program's name, which may contain anything.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Returns the processor time of this process, all threads.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Returns how long this process, which has one thread, was ready to run while others used its core. 0 if the kernel
/// does not report it.
pub(crate) fn own_waits() -> u64 {
    let text = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    number(&text, 1).unwrap_or(0)
}

/// Returns the load average of the last minute: how many tasks were running or ready to run.
pub(crate) fn load_average() -> io::Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split_whitespace().next().and_then(|first| first.parse().ok());
    first.ok_or_else(|| io::Error::other("/proc/loadavg has changed its form"))
}

/// Returns `VmHWM` (the peak of the resident set) or `VmRSS`, in bytes.
pub(crate) fn memory(pid: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    status_kib(&status, field).map(|kib| kib * 1024).ok_or_else(|| io::Error::other(format!("no `{field}` of {pid}")))
}

fn status_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    number(line, 0)
}

/// Counts the sockets of a process. Other files do not count: a runtime opens and closes them as it needs them.
pub(crate) fn open_sockets(pid: u32) -> io::Result<usize> {
    let is_socket = |file: io::Result<fs::DirEntry>| {
        // A file that was closed since the listing does not count.
        let target = file.and_then(|file| fs::read_link(file.path()));
        target.is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
    };
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(|file| is_socket(file).then_some(())).count())
}

/// Returns the cores that this process may use.
pub(crate) fn cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return vec![0] };
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// Restricts this process to these cores. Call it before the first thread is started: threads inherit the setting.
pub(crate) fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// Raises the soft limit of open files to the hard limit. Returns the limit.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // An error leaves the limit as it is.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_name_of_a_program_does_not_confuse_its_times() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 321 123 0 0 20 0";
        assert_eq!(ticks(stat), Some((321, 123)));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_found_by_its_whole_name() {
        let status = "VmHWMx:\t1 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 12 kB\n";
        assert_eq!(status_kib(status, "VmHWM"), Some(2048));
        assert_eq!(status_kib(status, "VmRSS"), Some(12));
        assert_eq!(status_kib(status, "VmSwap"), None);
    }

    #[test]
    fn the_two_times_of_a_busy_process_agree() {
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let mut spent = Cpu::default();
        while spent.exact_ns < 300_000_000 {
            std::thread::sleep(Duration::from_millis(10));
            spent = Cpu::of(busy.id()).unwrap();
        }
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(spent.agrees(), "{spent:?}");
    }

    #[test]
    fn a_process_that_shares_its_core_waits_in_the_run_queue() {
        let start = || {
            pin(&cores()[..1]).unwrap();
            [0, 1].map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
        };
        // In a thread of its own, which is the only one that is pinned. Its children inherit that.
        let mut busy = std::thread::spawn(start).join().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let mut waited = [0, 0];
        while waited.contains(&0) && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            waited = [0, 1].map(|index: usize| Cpu::of(busy[index].id()).unwrap().queued_ns / 50_000_000);
        }
        for child in &mut busy {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(!waited.contains(&0), "{waited:?}");
    }

    #[test]
    fn sockets_are_counted_and_other_files_are_not() {
        // Other tests open sockets too, but not as many.
        let before = open_sockets(std::process::id()).unwrap();
        let sockets: Vec<_> = (0..100).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let _files: Vec<_> = (0..100).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        let more = open_sockets(std::process::id()).unwrap() - before;
        assert!((sockets.len() - 20..sockets.len() + 20).contains(&more), "{more} more");
    }

    #[test]
    fn times_that_differ_by_more_than_the_ticks_disagree() {
        let coarse = Cpu { user_ns: 300_000_000, system_ns: 180_000_000, ..Cpu::default() };
        assert!(Cpu { exact_ns: 500_000_000, ..coarse }.agrees());
        assert!(!Cpu { exact_ns: 400_000_000, ..coarse }.agrees());
    }
}
