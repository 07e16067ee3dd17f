//! Parses `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`: how many sockets were passed to this process, and their
//! names.
//!
//! Each variable that is missing or wrong gives an error with its value and what to do.

#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;

use crate::text::explained;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};

/// No service manager passes more descriptors than this: a number above it is a mistake, and no memory is reserved for
/// it.
const MOST: usize = 65_536;

/// The name of a socket for which none was passed, as in systemd's own libraries.
const UNKNOWN: &str = "unknown";

/// The advice for a program to which no sockets were passed.
const HOW: &str =
    "start this program from a socket unit, or try it with `systemd-socket-activate -l 127.0.0.1:8888 PROGRAM`";

/// The variables as they are set; each may be missing.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// `LISTEN_PID`: the process to which the descriptors were passed.
    pid: Option<OsString>,
    /// `LISTEN_FDS`: how many descriptors were passed, from number 3.
    fds: Option<OsString>,
    /// `LISTEN_FDNAMES`: their names, separated by colons.
    names: Option<OsString>,
}

impl Variables {
    pub(super) fn of_this_process() -> Self {
        let [pid, fds, names] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(env::var_os);
        Self { pid, fds, names }
    }

    /// Returns the name of each socket that was passed to the process with the id `own`: at least one.
    pub(super) fn names(&self, own: u32) -> io::Result<Vec<String>> {
        let (pid, fds) = match (&self.pid, &self.fds) {
            (Some(pid), Some(fds)) => (pid, fds),
            (None, None) => return none(format!("`LISTEN_PID` and `LISTEN_FDS` are not set; {HOW}")),
            (None, Some(_)) => return none(format!("`LISTEN_PID` is not set; {HOW}")),
            (Some(_), None) => return none(format!("`LISTEN_FDS` is not set; {HOW}")),
        };
        let pid: u32 = number("LISTEN_PID", pid)?;
        if pid != own {
            return none(format!(
                "they were passed to process {pid} (`LISTEN_PID`), and this is {own}; \
                 a script that starts this program has to `exec` it"
            ));
        }
        match number("LISTEN_FDS", fds)? {
            0 => none(format!("`LISTEN_FDS` is `0`; {HOW}")),
            count if count > MOST => {
                let shown = fds.to_string_lossy();
                wrong(format!("`LISTEN_FDS` is `{shown}`, and no service manager passes more than {MOST}"))
            }
            count => self.split_names(count),
        }
    }

    fn split_names(&self, count: usize) -> io::Result<Vec<String>> {
        let Some(names) = self.names.as_ref().filter(|names| !names.is_empty()) else {
            return Ok(vec![UNKNOWN.to_owned(); count]);
        };
        let shown = names.to_string_lossy();
        let Some(text) = names.to_str() else {
            return wrong(format!("`LISTEN_FDNAMES` is `{shown}`, which is not UTF-8"));
        };
        let names: Vec<_> = text.split(':').map(str::to_owned).collect();
        if names.len() != count {
            let found = names.len();
            return wrong(format!("`LISTEN_FDNAMES` is `{shown}`: {found} names for the {count} of `LISTEN_FDS`"));
        }
        Ok(names)
    }
}

fn number<T: std::str::FromStr>(variable: &str, value: &OsStr) -> io::Result<T> {
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(number) => Ok(number),
        None => wrong(format!("`{variable}` is `{}`, which is no number", value.to_string_lossy())),
    }
}

fn none<T>(text: String) -> io::Result<T> {
    Err(explained(ErrorKind::NotFound, text))
}

fn wrong<T>(text: String) -> io::Result<T> {
    Err(explained(ErrorKind::InvalidData, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pid: Option<&str>, fds: Option<&str>, names: Option<&str>) -> io::Result<Vec<String>> {
        Variables { pid: pid.map(Into::into), fds: fds.map(Into::into), names: names.map(Into::into) }.names(42)
    }

    #[test]
    fn sockets_have_their_names_in_order() {
        let table: [(&str, Option<&str>, &[&str]); 6] = [
            ("1", Some("echo"), &["echo"]),
            ("3", Some("http:admin:http"), &["http", "admin", "http"]),
            ("3", Some("x::z"), &["x", "", "z"]),
            ("2", None, &["unknown", "unknown"]),
            ("1", Some(""), &["unknown"]),
            ("65536", None, &["unknown"; MOST]),
        ];
        for (fds, given, expected) in table {
            assert_eq!(names(Some("42"), Some(fds), given).unwrap(), expected, "{fds} {given:?}");
        }
    }

    #[test]
    fn variables_that_are_missing_or_for_another_process_are_not_found() {
        let table = [
            (None, None, "`LISTEN_PID` and `LISTEN_FDS` are not set"),
            (None, Some("1"), "`LISTEN_PID` is not set"),
            (Some("42"), None, "`LISTEN_FDS` is not set"),
            (Some("42"), Some("0"), "`LISTEN_FDS` is `0`"),
            (Some("41"), Some("1"), "passed to process 41 (`LISTEN_PID`), and this is 42"),
            (Some("41"), Some("abc"), "passed to process 41"),
        ];
        for (pid, fds, text) in table {
            let error = names(pid, fds, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(error.to_string().contains(text), "no `{text}` in `{error}`");
        }
    }

    #[test]
    fn variables_that_cannot_be_right_are_shown_in_the_error() {
        let table = [
            ("me", "1", None, "`LISTEN_PID` is `me`, which is no number"),
            ("", "1", None, "`LISTEN_PID` is ``"),
            ("42", "abc", None, "`LISTEN_FDS` is `abc`, which is no number"),
            ("42", "-1", None, "`LISTEN_FDS` is `-1`"),
            ("42", "65537", None, "`LISTEN_FDS` is `65537`"),
            ("42", "4294967295", None, "`LISTEN_FDS` is `4294967295`"),
            ("42", "+065537", None, "`LISTEN_FDS` is `+065537`"),
            ("42", "99999999999999999999", None, "which is no number"),
            ("42", "2", Some("one"), "`LISTEN_FDNAMES` is `one`: 1 names for the 2 of `LISTEN_FDS`"),
            ("42", "1", Some("one:two"), "2 names for the 1"),
        ];
        for (pid, fds, given, text) in table {
            let error = names(Some(pid), Some(fds), given).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            assert!(error.to_string().contains(text), "no `{text}` in `{error}`");
        }
    }
}
