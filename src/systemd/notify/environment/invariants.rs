//! Checks what is read from `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, on any values: for the tests and for the
//! fuzzer.

use super::Environment;
use crate::text::escape;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;

/// The process that reads the variables.
const OWN: u32 = 42;
/// The longest path and the longest abstract name, without the zero byte of each.
const LONGEST: usize = 107;

/// Reads the bytes as values of the three variables, one in each line. A line that is missing is a variable that is not
/// set.
///
/// # Panics
///
/// If the address is another one than the variable has, if a time differs from that of the reference, or if an error
/// does not show the variable that is wrong.
pub(crate) fn check(bytes: &[u8]) -> &'static str {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let [socket, usec, pid] = [(); 3].map(|()| lines.next());
    let value = |line: Option<&[u8]>| line.map(|line| OsString::from(OsStr::from_bytes(line)));
    let environment = Environment { socket: value(socket), watchdog: value(usec), watchdog_pid: value(pid) };
    let result = check_watchdog(&environment, usec.unwrap_or_default(), pid.unwrap_or_default());
    check_address(&environment, socket.unwrap_or_default()).unwrap_or(result)
}

fn check_address(environment: &Environment, value: &[u8]) -> Option<&'static str> {
    match environment.address() {
        Ok(None) => {
            assert!(value.is_empty());
            None
        }
        Ok(Some((address, shown))) => {
            assert_eq!(shown, String::from_utf8_lossy(value));
            match address.as_pathname() {
                Some(path) => assert_eq!(path.as_os_str().as_bytes(), value),
                None => assert_eq!(address.as_abstract_name(), Some(&value[1..])),
            }
            assert!(matches!(value[0], b'/' | b'@') && value.len() <= 1 + LONGEST);
            Some("address")
        }
        Err(error) => {
            let fits = match value[0] {
                b'/' => value.len() <= LONGEST && !value.contains(&0),
                first => first == b'@' && value.len() <= 1 + LONGEST,
            };
            assert!(!fits, "an address was refused: {error}");
            check_error(&error, "NOTIFY_SOCKET", value);
            Some("no address")
        }
    }
}

fn check_watchdog(environment: &Environment, usec: &[u8], pid: &[u8]) -> &'static str {
    let (micros, process) = (number(usec), number(pid));
    match environment.watchdog(OWN) {
        Ok(None) => {
            assert!(usec.is_empty() || process.is_some_and(|process| process != u64::from(OWN)));
            "no watchdog"
        }
        Ok(Some(time)) => {
            assert_eq!(Some(time.as_micros()), micros.map(u128::from));
            assert!(!time.is_zero() && micros != Some(u64::MAX));
            assert!(pid.is_empty() || process == Some(u64::from(OWN)));
            "watchdog"
        }
        Err(error) if !pid.is_empty() && process.is_none() => {
            check_error(&error, "WATCHDOG_PID", pid);
            "wrong"
        }
        Err(error) => {
            assert!(matches!(micros, None | Some(0 | u64::MAX)), "{error}");
            check_error(&error, "WATCHDOG_USEC", usec);
            "wrong"
        }
    }
}

fn check_error(error: &io::Error, variable: &str, value: &[u8]) {
    let shown = error.to_string();
    assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::Unsupported), "{shown}");
    let begins = format!("`{variable}` is `{}`, ", escape(&String::from_utf8_lossy(value)));
    assert!(shown.starts_with(&begins) && !shown.contains(char::is_control), "no `{begins}` in `{shown}`");
}

/// Reads digits, after a plus sign or none.
fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.strip_prefix(b"+").unwrap_or(bytes);
    let mut number = (!digits.is_empty()).then_some(0_u64);
    for byte in digits {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
        number = number.zip(digit).and_then(|(number, digit)| number.checked_mul(10)?.checked_add(digit));
    }
    number
}

#[cfg(test)]
mod tests {
    use crate::random_bytes::{Inputs, run};

    #[test]
    fn random_bytes_in_the_variables_of_notifications_are_read_as_by_the_reference() {
        let long = [b"/".as_slice(), &[b'x'; 106], b"\n1000000"].concat();
        let name = [b"@".as_slice(), &[b'x'; 107]].concat();
        let seeds: [&[u8]; 9] = [
            b"/run/systemd/notify",
            b"@/org/freedesktop/notify",
            &long,
            &name,
            b"\n1000000\n42",
            b"\n1000000\n41",
            b"\n18446744073709551615",
            b"vsock:2:1234\n1\n",
            b"\n1\nme",
        ];
        let parts: &[&[u8]] = &[
            b"\n",
            b"@",
            b"/",
            b"vsock",
            b"42",
            b"0",
            b"+",
            b"-",
            b"18446744073709551615",
            b"\0",
            b"\xff",
            b"\x1b[31m",
        ];
        let inputs = Inputs { seeds: seeds.map(<[u8]>::to_vec).into(), parts };
        run(5_000, &inputs, &["address", "no address", "watchdog", "no watchdog", "wrong"], super::check);
    }
}
