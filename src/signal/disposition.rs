//! What the process does with each signal so far: a look before one is taken.
//!
//! The system call that asks is the one that sets, which takes `unsafe`. Linux writes it down in a file as well.

use super::Signal;
use std::fs;

/// What one signal does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Disposition {
    /// It ends the process.
    Default,
    /// Nothing (`nohup`, a script's `&`).
    Ignored,
    /// It has a handler.
    Caught,
}

/// Masks: signal 1 is the lowest bit.
#[derive(Debug, PartialEq)]
pub(super) struct Dispositions {
    caught: u128,
    ignored: u128,
}

impl Dispositions {
    /// The process' own, or `None` where there is no way to know.
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

/// A line like `SigIgn:\t0000000000000001`: hexadecimal, signal 1 lowest. 64 signals; MIPS has 128.
fn mask(status: &str, label: &str) -> Option<u128> {
    let digits = status.lines().find_map(|line| line.strip_prefix(label))?;
    u128::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_page_tells_caught_from_ignored_from_default() {
        use Disposition::{Caught, Default, Ignored};
        let table = [
            // Taken from running programs: ignored, caught, what SIGHUP, SIGINT and SIGTERM do, and whose it is.
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
        for (ignored, caught, expected, whose) in table {
            let status = format!(
                "Name:\tSigIgn: 1\nState:\tR (running)\nSigQ:\t0/96365\nSigPnd:\t0000000000000000\n\
                 ShdPnd:\t0000000000000000\nSigBlk:\t0000000000000003\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n\
                 CapInh:\t0000000000000000\n"
            );
            let found = Dispositions::parse(&status).expect(whose);
            let [hangup, interrupt, terminate] = expected;
            assert_eq!(found.of(Signal::Hangup), hangup, "{whose}");
            assert_eq!(found.of(Signal::Interrupt), interrupt, "{whose}");
            assert_eq!(found.of(Signal::Terminate), terminate, "{whose}");
        }
    }

    #[test]
    fn a_status_page_without_the_masks_tells_nothing() {
        for status in ["", "Name:\tx\n", "SigCgt:\t0000000000000000\n", "SigIgn:\t-\nSigCgt:\t0\n"] {
            assert_eq!(Dispositions::parse(status), None, "{status:?}");
        }
    }
}
