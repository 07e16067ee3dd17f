//! Checks what is read from `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, on any values, against a reference that works
//! on bytes: for the tests and for the fuzzer.

use super::{MOST, Variables};
use crate::text::escape;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;

/// The process that reads the variables.
const OWN: u32 = 42;

/// Reads the bytes as values of the three variables, one in each line. A line that is missing is a variable that is not
/// set, and so is a line that begins with a zero byte.
///
/// # Panics
///
/// If the result differs from that of the reference, or if an error does not show the variable that is wrong.
pub(crate) fn check(bytes: &[u8]) -> &'static str {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n').map(|line| (line.first() != Some(&0)).then_some(line));
    let [pid, fds, names] = [(); 3].map(|()| lines.next().flatten());
    let value = |line: Option<&[u8]>| line.map(|line| OsString::from(OsStr::from_bytes(line)));
    let result = Variables { pid: value(pid), fds: value(fds), names: value(names) }.names(OWN);
    match (result, expected(pid, fds, names)) {
        (Ok(names), Expected::Names(expected)) => {
            assert_eq!(names, expected);
            assert!((1..=MOST).contains(&names.len()));
            "names"
        }
        (Err(error), Expected::Nothing) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(!error.to_string().contains(char::is_control), "{error}");
            "none"
        }
        (Err(error), Expected::Wrong(variable, value)) => {
            let shown = error.to_string();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{shown}");
            let begins = format!("`{variable}` is `{}`", escape(&String::from_utf8_lossy(value)));
            assert!(shown.starts_with(&begins) && !shown.contains(char::is_control), "no `{begins}` in `{shown}`");
            "wrong"
        }
        (result, _) => panic!("{result:?}"),
    }
}

enum Expected<'a> {
    Names(Vec<String>),
    Nothing,
    /// The value of this variable is wrong.
    Wrong(&'static str, &'a [u8]),
}

fn expected<'a>(pid: Option<&'a [u8]>, fds: Option<&'a [u8]>, names: Option<&'a [u8]>) -> Expected<'a> {
    let (Some(pid), Some(fds)) = (pid, fds) else { return Expected::Nothing };
    match number(pid).filter(|pid| *pid <= u128::from(u32::MAX)) {
        None => return Expected::Wrong("LISTEN_PID", pid),
        Some(pid) if pid != u128::from(OWN) => return Expected::Nothing,
        Some(_) => {}
    }
    let count = match number(fds) {
        Some(0) => return Expected::Nothing,
        Some(count @ 1..=65_536) => count as usize,
        _ => return Expected::Wrong("LISTEN_FDS", fds),
    };
    match names.unwrap_or_default() {
        b"" => Expected::Names(vec!["unknown".to_owned(); count]),
        names => {
            let parts = names.split(|byte| *byte == b':');
            let parts: Result<Vec<_>, _> = parts.map(|name| String::from_utf8(name.to_vec())).collect();
            match parts {
                Ok(parts) if parts.len() == count => Expected::Names(parts),
                _ => Expected::Wrong("LISTEN_FDNAMES", names),
            }
        }
    }
}

/// Reads digits, after a plus sign or none.
fn number(bytes: &[u8]) -> Option<u128> {
    let digits = bytes.strip_prefix(b"+").unwrap_or(bytes);
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all.then(|| digits.iter().fold(0, |n: u128, digit| n.saturating_mul(10).saturating_add((digit - b'0').into())))
}

#[cfg(test)]
mod tests {
    use crate::random_bytes::{Inputs, run};

    #[test]
    fn random_bytes_in_the_variables_of_passed_sockets_are_read_as_by_the_reference() {
        let seeds: [&[u8]; 7] = [
            b"42\n1\necho",
            b"42\n3\nhttp:admin:http",
            b"42\n2\n\0",
            b"42\n65537\n",
            b"41\n1\nx",
            b"\0\n1\nx",
            b"42\n2\na\xff:b",
        ];
        let parts: &[&[u8]] = &[
            b"\n",
            b":",
            b"42",
            b"4294967296",
            b"18446744073709551616",
            b"+",
            b"-1",
            b"0",
            b" ",
            b"\xff",
            b"\x1b[31m",
        ];
        run(
            5_000,
            &Inputs { seeds: seeds.map(<[u8]>::to_vec).into(), parts },
            &["names", "none", "wrong"],
            super::check,
        );
    }
}
