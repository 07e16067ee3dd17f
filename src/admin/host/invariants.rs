//! Checks which requests are answered, on any `Host` and any target: for the tests and for the fuzzer. The reference looks
//! at the bytes alone.

use super::{BadHost, check as check_host};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Uri, Version};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The name that is allowed beside addresses and `localhost`.
const ALLOWED: &str = "admin.example.org";

/// Makes a request of the bytes: its target, and then its `Host` fields, one in each line.
///
/// # Panics
///
/// If a request is answered that names another host, or one is refused that names only hosts that are allowed.
pub(crate) fn check(bytes: &[u8]) -> &'static str {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let Ok(uri) = Uri::try_from(target) else { return "no request" };
    let mut request = Request::builder().version(Version::HTTP_11).uri(uri.clone()).body(()).unwrap();
    let mut hosts = Vec::new();
    for line in lines.take(3) {
        let Ok(value) = HeaderValue::from_bytes(line) else { return "no request" };
        request.headers_mut().append(HOST, value);
        hosts.push(line.to_vec());
    }
    let in_target = uri.authority().map(|authority| authority.as_str().as_bytes().to_vec());
    let mut named = hosts.iter().chain(&in_target);
    match check_host(&request, &[ALLOWED.to_owned()]) {
        Ok(()) => {
            assert!(hosts.len() <= 1 && hosts.len() + usize::from(in_target.is_some()) > 0);
            assert!(named.all(|host| is_allowed(host)), "{}", bytes.escape_ascii());
            "answered"
        }
        Err(bad) => {
            let is_plain = hosts.len() == 1 && named.all(|host| is_allowed(host) && is_plain(host));
            assert!(!is_plain, "{bad:?}: {}", bytes.escape_ascii());
            match bad {
                BadHost::Malformed => "malformed",
                BadHost::Unknown(_) => "unknown",
            }
        }
    }
}

/// Returns whether a page of the Web cannot have this host. (Browsers send no user before it.)
fn is_allowed(authority: &[u8]) -> bool {
    let Ok(authority) = std::str::from_utf8(authority) else { return false };
    let host = authority.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
    if let Some((ip, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        return ip.parse::<Ipv6Addr>().is_ok();
    }
    let host = host.split(':').next().unwrap_or_default();
    host.parse::<Ipv4Addr>().is_ok() || host == "localhost" || host.ends_with(".localhost") || host == ALLOWED
}

/// Returns whether it is a host, and perhaps a port, without anything unusual.
fn is_plain(authority: &[u8]) -> bool {
    let (host, port) = match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !authority.ends_with(b"]") => (&authority[..colon], &authority[colon + 1..]),
        _ => (authority, &b"80"[..]),
    };
    let is_port = (1..=4).contains(&port.len()) && port.iter().all(u8::is_ascii_digit);
    let is_name = host.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(byte));
    let is_digit = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
    let inside = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let is_ipv6 = inside.is_some_and(|ip| ip.iter().all(is_digit));
    is_port && (is_name || is_ipv6)
}

#[cfg(test)]
mod tests {
    use crate::random_bytes::{Inputs, run};

    #[test]
    fn random_bytes_as_a_host_are_answered_only_if_no_page_of_the_web_can_have_it() {
        let seeds: [&[u8]; 10] = [
            b"/\n127.0.0.1:9999",
            b"/\n[::1]:80",
            b"/\nlocalhost",
            b"/ready\na.localhost:1",
            b"/\nadmin.example.org",
            b"/\nevil.example",
            b"http://localhost/\nlocalhost",
            b"http://evil.example/\nlocalhost:80",
            b"/\nlocalhost\nlocalhost",
            b"/\nuser@127.0.0.1",
        ];
        let parts: &[&[u8]] = &[
            b"\n",
            b":",
            b"@",
            b".",
            b"[",
            b"]",
            b"/",
            b"?",
            b"#",
            b"\\",
            b"%00",
            b" ",
            b"\t",
            b"localhost",
            b"127.0.0.1",
            b"::1",
            b"http://",
            b"evil.example",
            b"admin.example.org",
            b"\xff",
            b"80",
            b",",
        ];
        let inputs = Inputs { seeds: seeds.map(<[u8]>::to_vec).into(), parts };
        run(5_000, &inputs, &["answered", "malformed", "unknown", "no request"], super::check);
    }
}
