//! Parses `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`: where systemd wants to be notified, and how often.
//!
//! Each value that is wrong gives an error with the value and what to do.

#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;

use crate::text::explained;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::time::Duration;

/// The variables as they are set; each may be missing.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// `NOTIFY_SOCKET`: the address of systemd's datagram socket.
    socket: Option<OsString>,
    /// `WATCHDOG_USEC`: within which time the process has to report that it is alive.
    watchdog: Option<OsString>,
    /// `WATCHDOG_PID`: the process that has to. Not set: any.
    watchdog_pid: Option<OsString>,
}

impl Environment {
    pub(super) fn of_this_process() -> Self {
        let [socket, watchdog, watchdog_pid] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].map(env::var_os);
        Self { socket, watchdog, watchdog_pid }
    }

    /// Returns the address to notify, and its text; `None` if systemd does not want to be notified.
    pub(super) fn address(&self) -> io::Result<Option<(SocketAddr, String)>> {
        // A shell can only empty a variable for one command, so an empty one counts as one that is not set.
        let Some(value) = self.socket.as_deref().filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let shown = value.to_string_lossy().into_owned();
        let wrong = |kind, why: &str| Err(explained(kind, format!("`NOTIFY_SOCKET` is `{shown}`, {why}")));
        let address = match value.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(value),
            bytes if bytes.starts_with(b"vsock") => {
                let why = "the host of a virtual machine, which is not supported: systemd in the machine gives its \
                           services a Unix socket; start this program from a unit there, or unset the variable";
                return wrong(ErrorKind::Unsupported, why);
            }
            _ => {
                let why = "which is neither an absolute path nor `@` and the name of an abstract socket; systemd sets \
                           it for units with `Type=notify`: correct it, or unset it";
                return wrong(ErrorKind::InvalidData, why);
            }
        };
        match address {
            Ok(address) => Ok(Some((address, shown))),
            Err(error) => {
                wrong(ErrorKind::InvalidData, &format!("which is no address of a Unix socket: {error}; correct it"))
            }
        }
    }

    /// Returns within which time the process `own` has to report that it is alive; `None` if it need not.
    pub(super) fn watchdog(&self, own: u32) -> io::Result<Option<Duration>> {
        let Some(value) = self.watchdog.as_deref().filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        if let Some(pid) = self.watchdog_pid.as_deref().filter(|pid| !pid.is_empty()) {
            if number("WATCHDOG_PID", pid, "the id of a process")? != u64::from(own) {
                return Ok(None); // another process has to
            }
        }
        match number("WATCHDOG_USEC", value, "a number of microseconds")? {
            // systemd's own library refuses these two values as well: none, and its infinity.
            0 | u64::MAX => Err(wrong("WATCHDOG_USEC", value, "a number of microseconds that can pass")),
            micros => Ok(Some(Duration::from_micros(micros))),
        }
    }
}

fn number(variable: &str, value: &OsStr, what: &str) -> io::Result<u64> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| wrong(variable, value, what))
}

fn wrong(variable: &str, value: &OsStr, what: &str) -> io::Error {
    let value = value.to_string_lossy();
    let text = format!(
        "`{variable}` is `{value}`, which is not {what}; systemd sets it for units with `WatchdogSec=`: correct it, or \
         unset it"
    );
    explained(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(value: Option<&str>) -> io::Result<Option<(SocketAddr, String)>> {
        Environment { socket: value.map(Into::into), ..Environment::default() }.address()
    }

    fn watchdog(usec: Option<&str>, pid: Option<&str>) -> io::Result<Option<Duration>> {
        let (watchdog, watchdog_pid) = (usec.map(Into::into), pid.map(Into::into));
        Environment { watchdog, watchdog_pid, ..Environment::default() }.watchdog(42)
    }

    #[test]
    fn paths_and_abstract_names_are_addresses_and_an_empty_value_is_none() {
        assert!(socket(None).unwrap().is_none());
        assert!(socket(Some("")).unwrap().is_none());
        let (path, shown) = socket(Some("/run/systemd/notify")).unwrap().unwrap();
        assert_eq!(path.as_pathname().unwrap().to_str(), Some("/run/systemd/notify"));
        assert_eq!(shown, "/run/systemd/notify");
        let (name, shown) = socket(Some("@/org/freedesktop/notify")).unwrap().unwrap();
        assert_eq!(name.as_abstract_name(), Some(b"/org/freedesktop/notify".as_slice()));
        assert_eq!(shown, "@/org/freedesktop/notify");
    }

    #[test]
    fn an_address_that_cannot_be_used_is_shown_in_the_error() {
        let long = format!("/{}", "x".repeat(200));
        let table = [
            (
                "vsock:2:1234",
                ErrorKind::Unsupported,
                "`NOTIFY_SOCKET` is `vsock:2:1234`, the host of a virtual machine",
            ),
            ("vsock-stream:2:1", ErrorKind::Unsupported, "which is not supported"),
            ("run/notify", ErrorKind::InvalidData, "`run/notify`, which is neither an absolute path nor `@`"),
            ("a\nb", ErrorKind::InvalidData, r"`a\nb`, which is neither"),
            (&long, ErrorKind::InvalidData, "which is no address of a Unix socket"),
        ];
        for (value, kind, text) in table {
            let error = socket(Some(value)).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "no `{text}` in `{error}`");
        }
    }

    #[test]
    fn the_watchdog_is_for_this_process_unless_another_one_is_named() {
        let second = Some(Duration::from_secs(1));
        let table = [
            (None, None, None),
            (None, Some("42"), None),
            (Some(""), None, None),
            (Some("1000000"), None, second),
            (Some("1000000"), Some(""), second),
            (Some("1000000"), Some("42"), second),
            (Some("1000000"), Some("41"), None),
            (Some("abc"), Some("41"), None), // its own affair
        ];
        for (usec, pid, expected) in table {
            assert_eq!(watchdog(usec, pid).unwrap(), expected, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn a_wrong_watchdog_variable_is_shown_in_the_error() {
        let table = [
            ("abc", None, "`WATCHDOG_USEC` is `abc`, which is not a number of microseconds; systemd sets it for"),
            ("-1", None, "`WATCHDOG_USEC` is `-1`"),
            ("1.5", None, "`WATCHDOG_USEC` is `1.5`"),
            ("0", None, "`WATCHDOG_USEC` is `0`, which is not a number of microseconds that can pass"),
            ("18446744073709551615", None, "`WATCHDOG_USEC` is `18446744073709551615`"),
            ("18446744073709551616", None, "`WATCHDOG_USEC` is `18446744073709551616`"),
            ("1000000", Some("me"), "`WATCHDOG_PID` is `me`, which is not the id of a process"),
        ];
        for (usec, pid, text) in table {
            let error = watchdog(Some(usec), pid).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            assert!(error.to_string().contains(text), "no `{text}` in `{error}`");
        }
    }
}
