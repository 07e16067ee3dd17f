//! What the process does with the signals so far: a look before the handler is installed.
//!
//! The system call that asks is the one that sets, and `ctrlc` gives its answer only as "not the default". Linux
//! writes it down in a file as well.

use std::fs;

/// Numbers as in `kill -1`: the same on every Unix.
const SIGNALS: [(&str, u32); 3] = [("SIGHUP", 1), ("SIGINT", 2), ("SIGTERM", 15)];

/// What SIGHUP, SIGINT and SIGTERM would do, taken together.
#[derive(Debug, PartialEq)]
pub(super) enum Disposition {
    /// Each ends the process.
    Default,
    /// At least one is ignored (`nohup`, a script's `&`), and none has a handler.
    Ignored,
    /// These have a handler.
    Caught(Vec<&'static str>),
}

/// The process' own, or `None` where there is no way to know.
pub(super) fn current() -> Option<Disposition> {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        parse(&fs::read_to_string("/proc/self/status").ok()?)
    } else {
        None
    }
}

fn parse(status: &str) -> Option<Disposition> {
    let (caught, ignored) = (mask(status, "SigCgt:")?, mask(status, "SigIgn:")?);
    let within = |mask: u128| SIGNALS.into_iter().filter(move |(_, n)| mask >> (n - 1) & 1 == 1);
    let names: Vec<_> = within(caught).map(|(name, _)| name).collect();
    Some(if !names.is_empty() {
        Disposition::Caught(names)
    } else if within(ignored).next().is_some() {
        Disposition::Ignored
    } else {
        Disposition::Default
    })
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
            // Taken from running programs: ignored, caught, what that is.
            ("0000000000000000", "0000000000000400", Default, "grep, which has a handler for SIGSEGV"),
            ("0000000000001000", "0000000000000440", Default, "a Rust program, which ignores SIGPIPE"),
            ("0000000000000001", "0000000000000400", Ignored, "the same under nohup"),
            ("0000000000000006", "0000000000000400", Ignored, "with & from a script: SIGINT and SIGQUIT"),
            ("0000000001001000", "0000000000004002", Caught(vec!["SIGINT", "SIGTERM"]), "Python"),
            ("0000000000000004", "0000000000014003", Caught(vec!["SIGHUP", "SIGINT", "SIGTERM"]), "bash, trap"),
            // Made up.
            ("0000000000000002", "0000000000000001", Caught(vec!["SIGHUP"]), "one of each: not ours to take"),
            ("fffffffffffffffffffffffffffffffe", "80000000000000000000000000000000", Ignored, "128 signals"),
        ];
        for (ignored, caught, expected, whose) in table {
            let status = format!(
                "Name:\tSigIgn: 1\nState:\tR (running)\nSigQ:\t0/96365\nSigPnd:\t0000000000000000\n\
                 ShdPnd:\t0000000000000000\nSigBlk:\t0000000000000003\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n\
                 CapInh:\t0000000000000000\n"
            );
            assert_eq!(parse(&status), Some(expected), "{whose}");
        }
    }

    #[test]
    fn a_status_page_without_the_masks_tells_nothing() {
        for status in ["", "Name:\tx\n", "SigCgt:\t0000000000000000\n", "SigIgn:\t-\nSigCgt:\t0\n"] {
            assert_eq!(parse(status), None, "{status:?}");
        }
    }
}
