//! Parses `host:port`. The error for any other text names what is wrong with it and what to write.

#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;

use crate::text::explained;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Splits `host:port` into the host, without brackets, and the port.
pub(super) fn split(text: &str) -> io::Result<(String, u16)> {
    check(text)?;
    let wrong = |reason: String| Err(wrong(text, reason));
    if let Ok(ip) = text.parse::<IpAddr>() {
        return wrong(match ip {
            IpAddr::V4(ip) => format!("it has no port: write `{ip}:8888`"),
            IpAddr::V6(ip) => format!("an IPv6 address has brackets before its port: write {}", in_brackets(text, ip)),
        });
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, rest)) if !is_ipv6(host) => {
                let port = rest.strip_prefix(':').unwrap_or("8888");
                return wrong(match host.contains([':', '[']) || host.is_empty() {
                    true => format!("`{host}` in its brackets is no IPv6 address: write it as `[::1]:8888`"),
                    false => format!("only an IPv6 address has brackets: write `{host}:{port}`"),
                });
            }
            Some((host, "")) => return wrong(format!("it has no port: write `[{host}]:8888`")),
            Some((host, rest)) => match rest.strip_prefix(':') {
                Some(port) => (host, port),
                None => return wrong("between `]` and the port there has to be a `:`, as in `[::1]:8888`".to_owned()),
            },
            None => return wrong("its `[` has no `]`: write it as `[::1]:8888`".to_owned()),
        },
        None => match text.rsplit_once(':') {
            Some((host, port)) if host.split_once(':').is_some_and(|(ip, _)| ip.parse::<Ipv4Addr>().is_ok()) => {
                let ip = host.split(':').next().unwrap_or_default();
                return wrong(format!("it has two ports: write `{ip}:{port}`"));
            }
            Some((host, port)) if host.contains(':') => {
                return wrong(format!("an IPv6 address has brackets before its port: write `[{host}]:{port}`"));
            }
            Some(parts) => parts,
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                return wrong(format!("it is a port without a host: write {}", every_address(text)));
            }
            None => return wrong(format!("it has no port: write `{text}:8888`")),
        },
    };
    let number = match port.parse::<u16>() {
        Ok(number) if !port.starts_with('+') => number,
        _ if port.is_empty() => return wrong(format!("there is no port after its `:`: write `{host}:8888`")),
        _ => return wrong(format!("its port `{port}` is no number from 0 to 65535 (0: any free port)")),
    };
    match host {
        "" | "*" => wrong(format!("it has no host: write {}", every_address(port))),
        _ => Ok((host.to_owned(), number)),
    }
}

/// Checks the host of a pair `(host, port)`.
pub(super) fn check_host(host: &str, port: u16) -> io::Result<()> {
    let wrong = |reason: String| Err(wrong(&join(host, port), reason));
    if host.is_empty() || host == "*" {
        return wrong(format!("it has no host: write {}", every_address(&port.to_string())));
    }
    check(host)?;
    if let Some(inside) = host.strip_prefix('[') {
        let inside = inside.trim_end_matches(']');
        return wrong(format!("in a pair the host has no brackets: write `(\"{inside}\", {port})`"));
    }
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => {
            wrong(format!("its host has a port of its own: write `(\"{name}\", {port})`"))
        }
        _ => Ok(()),
    }
}

/// Returns whether the text is an IPv6 address, perhaps with its interface.
fn is_ipv6(host: &str) -> bool {
    host.split('%').next().unwrap_or_default().parse::<Ipv6Addr>().is_ok()
}

/// Joins a host and a port as they are shown.
pub(super) fn join(host: &str, port: u16) -> String {
    if host.matches(':').count() > 1 && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Rejects texts that are neither a host nor `host:port`: nothing, a path, a URL, a list, a text with spaces.
fn check(text: &str) -> io::Result<()> {
    let wrong = |reason: String| Err(wrong(text, reason));
    if text.trim().is_empty() {
        let text = "cannot listen: the address is empty; write a host and a port, such as `127.0.0.1:8888`";
        return Err(explained(io::ErrorKind::InvalidInput, text));
    }
    if text.starts_with(['/', '.', '@']) || text.starts_with("unix:") {
        let path = text.trim_start_matches("unix:").replacen("//", "", 1);
        return wrong(format!("it is the path of a Unix socket: use `Server::bind_unix(\"{path}\")`"));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let port = match (host.rsplit_once(':'), scheme) {
            (Some((_, port)), _) if !port.ends_with(']') => String::new(),
            (_, "https" | "wss") => ":443".to_owned(),
            _ => ":80".to_owned(),
        };
        return wrong(format!("it is a URL: write its host and port alone, `{host}{port}`"));
    }
    if let Some((host, port)) = text.rsplit_once(NO_COLONS) {
        let is_port = !port.is_empty() && !host.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit());
        return wrong(match is_port {
            true => format!("a `:` stands before its port: write `{host}:{port}`"),
            false => "there is a `,` or `;` in it: give several addresses as a list".to_owned(),
        });
    }
    let is_space_or_quote = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
    if text.contains(is_space_or_quote) {
        let clean = text.replace(is_space_or_quote, "");
        return wrong(format!("there is a space or a quotation mark in it: write `{clean}`"));
    }
    Ok(())
}

/// Characters that users put before a port instead of a colon.
const NO_COLONS: [char; 2] = [';', ','];

/// Returns the three common addresses with this port, as text.
fn every_address(port: &str) -> String {
    format!(
        "`0.0.0.0:{port}` for every IPv4 address of this machine, `[::]:{port}` for every address, `127.0.0.1:{port}` \
         for this machine alone"
    )
}

/// Returns the IPv6 address in brackets, with the port that the user probably means.
fn in_brackets(text: &str, ip: Ipv6Addr) -> String {
    match text.rsplit_once(':') {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok() => {
            format!("`[{host}]:{port}`, or `[{ip}]:8888`")
        }
        _ => format!("`[{ip}]:8888`"),
    }
}

/// Returns the error for a malformed address.
fn wrong(text: &str, reason: String) -> io::Error {
    explained(io::ErrorKind::InvalidInput, format_args!("cannot listen on `{text}`: {reason}"))
}

/// Returns the error for a name that could not be resolved.
pub(super) fn unresolved(host: &str, port: u16, error: &io::Error) -> io::Error {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source; // the innermost is the resolver's
    }
    let hint = if host.contains('%') {
        "is what follows the `%` an interface of this machine (`ip link`)?"
    } else if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        "an IPv4 address has four numbers from 0 to 255"
    } else {
        "is the name right, and does this machine know it (DNS, `/etc/hosts`)?"
    };
    let address = join(host, port);
    let text = format!("cannot listen on `{address}`: the name `{host}` cannot be resolved ({reason}); {hint}");
    explained(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_resolved_has_the_reason_and_a_hint_that_fits_the_name() {
        let reason = io::Error::new(io::ErrorKind::NotFound, io::Error::other("no such name"));
        for (host, hint) in [
            ("300.1.1.1", "an IPv4 address has four numbers from 0 to 255"),
            ("fe80::1%eth9", "is what follows the `%` an interface of this machine (`ip link`)?"),
            ("nowhere.invalid", "is the name right, and does this machine know it (DNS, `/etc/hosts`)?"),
        ] {
            let error = unresolved(host, 80, &reason);
            let end = format!("the name `{host}` cannot be resolved (no such name); {hint}");
            assert!(error.to_string().ends_with(&end), "{error}");
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn a_host_and_a_port_in_each_form() {
        let table = [
            ("127.0.0.1:80", ("127.0.0.1", 80)),
            ("localhost:0", ("localhost", 0)),
            ("[::1]:65535", ("::1", 65535)),
            ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
            ("xn--nxasmq6b.example:8888", ("xn--nxasmq6b.example", 8888)),
            ("127.1:80", ("127.1", 80)), // the resolver takes it
        ];
        for (text, (host, port)) in table {
            assert_eq!(split(text).unwrap(), (host.to_owned(), port), "{text}");
            check_host(host, port).unwrap();
        }
    }

    /// Each message names what is wrong, and what to write.
    #[test]
    fn a_malformed_address_is_an_error_that_names_the_fault_and_the_remedy() {
        let table = [
            ("", "is empty", "`127.0.0.1:8888`"),
            (" \t", "is empty", "`127.0.0.1:8888`"),
            ("localhost", "has no port", "`localhost:8888`"),
            ("127.0.0.1", "has no port", "`127.0.0.1:8888`"),
            ("::1", "has brackets", "`[::1]:8888`"),
            ("[::1]", "has no port", "`[::1]:8888`"),
            ("::1:80", "has brackets", "`[::1]:80`, or `[::1:80]:8888`"),
            ("::1:abcd", "has brackets", "`[::1:abcd]:8888`"),
            ("2001:db8:0:0:0:0:0:1:80", "has brackets", "`[2001:db8:0:0:0:0:0:1]:80`"),
            ("[::1:80", "no `]`", "`[::1]:8888`"),
            ("[::1]80", "has to be a `:`", "`[::1]:8888`"),
            ("[[::1]:80", "`[::1` in its brackets is no IPv6 address", "`[::1]:8888`"),
            ("[a:b]:80", "`a:b` in its brackets is no IPv6 address", "`[::1]:8888`"),
            ("[]:80", "`` in its brackets is no IPv6 address", "`[::1]:8888`"),
            ("[localhost]:80", "only an IPv6 address has brackets", "write `localhost:80`"),
            ("[127.0.0.1]", "only an IPv6 address has brackets", "write `127.0.0.1:8888`"),
            ("127.0.0.1:99999", "port `99999`", "0 to 65535"),
            ("127.0.0.1:-1", "port `-1`", "0 to 65535"),
            ("127.0.0.1:+80", "port `+80`", "0 to 65535"),
            ("localhost:http", "port `http`", "0 to 65535"),
            ("localhost:80/path", "port `80/path`", "0 to 65535"),
            ("localhost:", "no port after its `:`", "`localhost:8888`"),
            ("8080", "without a host", "`0.0.0.0:8080`"),
            (":8080", "has no host", "`[::]:8080` for every address"),
            ("*:8080", "has no host", "`0.0.0.0:8080`"),
            ("http://localhost:8080/path", "is a URL", "`localhost:8080`"),
            ("https://example.com", "is a URL", "`example.com:443`"),
            ("http://[::1]/", "is a URL", "`[::1]:80`"),
            ("tcp://0.0.0.0:80", "is a URL", "`0.0.0.0:80`"),
            ("/run/echo.sock", "path of a Unix socket", "bind_unix(\"/run/echo.sock\")"),
            ("unix:/run/echo.sock", "path of a Unix socket", "bind_unix(\"/run/echo.sock\")"),
            (" 127.0.0.1:80", "a space", "write `127.0.0.1:80`"),
            ("127.0.0.1 : 80\n", "a space", "write `127.0.0.1:80`"),
            ("\"127.0.0.1:80\"", "quotation mark", "write `127.0.0.1:80`"),
        ];
        for (text, wrong, write) in table {
            let error = split(text).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            let shown = error.to_string();
            assert!(shown.starts_with("cannot listen"), "{shown}");
            assert!(shown.contains(wrong) && shown.contains(write) && !shown.contains('\n'), "{shown}");
            println!("{shown}");
        }
    }

    #[test]
    fn the_host_of_a_pair_is_checked() {
        let table = [
            ("", "has no host", "`0.0.0.0:80`"),
            ("[::1]", "no brackets", "`(\"::1\", 80)`"),
            ("localhost:8080", "a port of its own", "`(\"localhost\", 80)`"),
            ("http://localhost", "is a URL", "`localhost:80`"),
            ("local host", "a space", "`localhost`"),
        ];
        for (host, wrong, write) in table {
            let shown = check_host(host, 80).unwrap_err().to_string();
            assert!(shown.contains(wrong) && shown.contains(write), "{shown}");
            println!("{shown}");
        }
    }
}
