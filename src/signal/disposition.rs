//! Reads each signal's disposition (default, ignored or caught) before the signal is taken.
//!
//! The system call for it is `sigaction`, which also sets the disposition and needs `unsafe`. Linux shows the same in
//! `/proc/self/status`.

use super::Signal;
use std::fs;

/// Effect of one signal on the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Disposition {
    /// The signal ends the process.
    Default,
    /// The signal has no effect (`nohup`, `&` in a script).
    Ignored,
    /// The signal has a handler.
    Caught,
}

/// The dispositions of all signals, as bit masks: signal 1 is the lowest bit.
#[derive(Debug, PartialEq)]
pub(super) struct Dispositions {
    caught: u128,
    ignored: u128,
}

impl Dispositions {
    /// Reads the dispositions of this process; `None` on systems that do not show them.
    pub(super) fn now() -> Option<Self> {
        if cfg!(any(target_os = "linux", target_os = "android")) {
            Self::parse(&fs::read_to_string("/proc/self/status").ok()?)
        } else {
            None
        }
    }

    fn parse(status: &str) -> Option<Self> {
        Some(Self { caught: mask(status, "SigCgt:")?, ignored: mask(status, "SigIgn:")? })
    }

    pub(super) fn of(&self, signal: Signal) -> Disposition {
        let is_in = |mask: u128| mask >> (signal.number() - 1) & 1 == 1;
        if is_in(self.caught) {
            Disposition::Caught
        } else if is_in(self.ignored) {
            Disposition::Ignored
        } else {
            Disposition::Default
        }
    }
}

/// Parses a line like `SigIgn:\t0000000000000001`: hexadecimal, signal 1 lowest. 64 signals; MIPS has 128.
fn mask(status: &str, label: &str) -> Option<u128> {
    let digits = status.lines().find_map(|line| line.strip_prefix(label))?;
    u128::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_page_shows_which_signals_are_caught_ignored_or_default() {
        use Disposition::{Caught, Default, Ignored};
        let table = [
            // From running programs: ignored, caught, dispositions of SIGHUP, SIGINT and SIGTERM, and the program.
            ("0000000000000000", "0000000000000400", [Default; 3], "grep, which has a handler for SIGSEGV"),
            ("0000000000001000", "0000000000000440", [Default; 3], "a Rust program, which ignores SIGPIPE"),
            ("0000000000000001", "0000000000000400", [Ignored, Default, Default], "the same under nohup"),
            ("0000000000000006", "0000000000000400", [Default, Ignored, Default], "with & from a script"),
            ("0000000001001000", "0000000000004002", [Default, Caught, Caught], "Python"),
            ("0000000000000004", "0000000000014003", [Caught; 3], "bash, trap"),
            // Made up.
            ("0000000000000002", "0000000000000001", [Caught, Ignored, Default], "one of each"),
            (
                "fffffffffffffffffffffffffffffffe",
                "80000000000000000000000000000000",
                [Default, Ignored, Ignored],
                "128",
            ),
        ];
        for (ignored, caught, expected, program) in table {
            let status = format!(
                "Name:\tSigIgn: 1\nState:\tR (running)\nSigQ:\t0/96365\nSigPnd:\t0000000000000000\n\
                 ShdPnd:\t0000000000000000\nSigBlk:\t0000000000000003\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n\
                 CapInh:\t0000000000000000\n"
            );
            let found = Dispositions::parse(&status).expect(program);
            let [hangup, interrupt, terminate] = expected;
            assert_eq!(found.of(Signal::Hangup), hangup, "{program}");
            assert_eq!(found.of(Signal::Interrupt), interrupt, "{program}");
            assert_eq!(found.of(Signal::Terminate), terminate, "{program}");
        }
    }

    #[test]
    fn a_status_page_without_the_masks_gives_no_dispositions() {
        for status in ["", "Name:\tx\n", "SigCgt:\t0000000000000000\n", "SigIgn:\t-\nSigCgt:\t0\n"] {
            assert_eq!(Dispositions::parse(status), None, "{status:?}");
        }
    }
}
