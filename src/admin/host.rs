//! Which `Host` a request may name. A page of the Web that has its own name resolve to this machine (DNS rebinding)
//! could otherwise read the admin listener through a browser on this machine.

#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;

use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::{Request, Version};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHost {
    /// There is none, more than one, or one that is not a host.
    Malformed,
    /// The name is not one of those that are allowed.
    Unknown(String),
}

/// Returns whether a request may be answered: it names an address, `localhost`, or one of the names in `allowed`.
///
/// A page can make the browser send no other Host than that of its own address, and that is a name: an attack by DNS
/// needs one. HTTP/1.0 has no Host; no browser speaks it.
pub(super) fn check<B>(request: &Request<B>, allowed: &[String]) -> Result<(), BadHost> {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (_, Some(_)) => return Err(BadHost::Malformed),
        (Some(value), None) => match value.to_str().ok().map(str::parse::<Authority>) {
            Some(Ok(authority)) => Some(authority),
            _ => return Err(BadHost::Malformed),
        },
        (None, None) => None,
    };
    let both = [field.as_ref(), request.uri().authority()];
    if both == [None, None] && request.version() > Version::HTTP_10 {
        return Err(BadHost::Malformed);
    }
    for authority in both.into_iter().flatten() {
        let host = authority.host();
        if !is_address(host) && !is_localhost(host) && !allowed.iter().any(|name| name.eq_ignore_ascii_case(host)) {
            return Err(BadHost::Unknown(host.to_owned()));
        }
    }
    Ok(())
}

fn is_address(host: &str) -> bool {
    let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.parse::<Ipv4Addr>().is_ok() || ipv6.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

/// Browsers resolve `localhost`, and every name below it, to this machine alone.
fn is_localhost(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(version: Version, uri: &str, hosts: &[&[u8]]) -> Result<(), BadHost> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check(&request.body(()).unwrap(), &["admin.example.org".to_owned()])
    }

    #[test]
    fn only_addresses_localhost_and_the_allowed_names_are_answered() {
        let unknown = |name: &str| Err(BadHost::Unknown(name.to_owned()));
        for host in [
            "127.0.0.1",
            "127.0.0.1:9999",
            "10.0.0.5:80",
            "[::1]",
            "[::1]:9999",
            "localhost",
            "LOCALHOST:1",
            "a.localhost",
        ] {
            assert_eq!(checked(Version::HTTP_11, "/", &[host.as_bytes()]), Ok(()), "{host}");
        }
        assert_eq!(checked(Version::HTTP_11, "/", &[b"Admin.Example.org:9999"]), Ok(()));
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost", "2130706433", "0x7f.1"]
        {
            assert_eq!(checked(Version::HTTP_11, "/", &[host.as_bytes()]), unknown(host), "{host}");
        }
        // The request line may name a host, too: each must be allowed.
        assert_eq!(checked(Version::HTTP_11, "http://evil.example/", &[b"localhost"]), unknown("evil.example"));
        assert_eq!(checked(Version::HTTP_11, "http://localhost/", &[b"evil.example"]), unknown("evil.example"));
        assert_eq!(checked(Version::HTTP_2, "http://localhost/", &[]), Ok(()));
        assert_eq!(checked(Version::HTTP_2, "http://evil.example/", &[]), unknown("evil.example"));
        assert_eq!(checked(Version::HTTP_10, "/", &[]), Ok(()));
        let malformed: [&[&[u8]]; 5] = [&[], &[b"localhost", b"localhost"], &[b"\xff"], &[b""], &[b"local host"]];
        for malformed in malformed {
            assert_eq!(checked(Version::HTTP_11, "/", malformed), Err(BadHost::Malformed), "{malformed:?}");
        }
    }
}
