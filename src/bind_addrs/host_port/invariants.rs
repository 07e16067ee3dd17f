//! Checks what is read as an address, on any text: for the tests and for the fuzzer.
//!
//! 1. What is accepted is read the same again after it was shown.
//! 2. An error is one line, and has the text. The address that it advises to write is accepted in the end.

use super::{check_host, join, split};
use crate::address::Address;
use crate::text::escape;
use std::io;
use std::net::SocketAddr;

/// How often an advice may lead to another one: a text may have several faults.
const ADVICES: usize = 8;

/// Reads the bytes as an address.
///
/// # Panics
///
/// If an invariant is broken.
pub(crate) fn check(bytes: &[u8]) -> &'static str {
    let text = &*String::from_utf8_lossy(bytes);
    if let Ok(address) = text.parse::<SocketAddr>() {
        let address = Address::from(address);
        assert_eq!(Address::from(address.to_string().parse::<SocketAddr>().unwrap()), address);
        assert_eq!(split(text).unwrap().1, address.port().unwrap());
    }
    check_named(text);
    check_pair(text);
    match split(text) {
        Ok((host, port)) => {
            let shown = join(&host, port);
            assert_eq!(split(&shown).ok(), Some((host.clone(), port)), "`{text}` is shown as `{shown}`");
            check_host(&host, port).unwrap();
            let (host_before, digits) = text.rsplit_once(':').unwrap();
            assert_eq!(digits.parse(), Ok(port));
            assert!(host_before == host || host_before == format!("[{host}]"), "`{host}` of `{text}`");
            "address"
        }
        Err(error) => {
            check_error(&error, text);
            follow(text, &error);
            "refused"
        }
    }
}

/// Checks a text as the host of a pair.
fn check_pair(host: &str) {
    match check_host(host, 80) {
        Ok(()) => assert!(!host.is_empty() && !host.contains(char::is_whitespace)),
        Err(error) => check_error(&error, host),
    }
}

/// Checks that a name is shown without what could forge a line of the log.
fn check_named(name: &str) {
    let shown = Address::named(name).to_string();
    assert!(!shown.contains(char::is_control), "{shown:?}");
}

fn check_error(error: &io::Error, text: &str) {
    let shown = error.to_string();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{shown}");
    assert!(shown.starts_with("cannot listen") && !shown.contains(char::is_control), "{shown:?}");
    assert!(text.trim().is_empty() || shown.contains(&*escape(text)), "no `{text}` in `{shown}`");
}

/// Follows the advice of an error, until an address is accepted.
fn follow(text: &str, error: &io::Error) {
    if escape(text) != text || text.contains('`') {
        return; // the advice shows it escaped, or it cannot be cut out
    }
    let mut error = error.to_string();
    for _ in 0..ADVICES {
        let Some(advice) = advice(&error) else { return };
        match split(advice) {
            Ok(_) => return,
            Err(next) => error = next.to_string(),
        }
    }
    panic!("the advice for `{text}` does not end: {error}");
}

/// Returns the address that an error advises to write.
fn advice(error: &str) -> Option<&str> {
    let (_, advice) = error.rsplit_once("write `").or_else(|| error.rsplit_once("alone, `"))?;
    advice.split('`').next().filter(|advice| !advice.starts_with('('))
}

#[cfg(test)]
mod tests {
    use crate::random_bytes::{Inputs, run};

    #[test]
    fn random_bytes_are_an_address_or_an_error_in_one_line_whose_advice_is_accepted() {
        let seeds = [
            "127.0.0.1:80",
            "localhost:0",
            "[::1]:65535",
            "[fe80::1%eth0]:1",
            "::1:80",
            "2001:db8:0:0:0:0:0:1:80",
            "127.0.0.1:80:90",
            "[::1]80",
            "http://localhost:8080/path",
            "https://[::1]/",
            "unix:/run/echo.sock",
            "127.0.0.1 : 80\n",
            "127.0.0.1;80",
            "8080",
            "*:80",
        ];
        let parts: &[&[u8]] = &[
            b":",
            b"[",
            b"]",
            b"::1",
            b"127.0.0.1",
            b"80",
            b"65536",
            b"%",
            b",",
            b";",
            b" ",
            b"\"",
            b"://",
            b"/",
            b"*",
            b"@",
            b"unix:",
            b"+1",
            b"\xe2\x80\xae",
            b"localhost",
            b".",
        ];
        let inputs = Inputs { seeds: seeds.map(|seed| seed.as_bytes().to_vec()).into(), parts };
        run(5_000, &inputs, &["address", "refused"], super::check);
    }
}
