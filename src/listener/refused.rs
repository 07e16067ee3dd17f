//! [`explain`]: the error text when a TCP address cannot be listened on: the address, the reason, and what to do.

use super::ListenOptions;
#[cfg(target_os = "linux")]
use super::in_use::{self, Holder};
use crate::text::explained_by;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

/// Returns the error with a text that names what was attempted, the address, the reason, and what to do.
pub(super) fn explain(address: SocketAddr, options: &ListenOptions, source: io::Error) -> io::Error {
    let remedy = remedy(address, options, &source);
    let text = format!("cannot listen on `{address}`: {source}{}{remedy}", if remedy.is_empty() { "" } else { "; " });
    explained_by(source, text)
}

/// Returns what to do about an error; empty if nothing is known.
fn remedy(address: SocketAddr, options: &ListenOptions, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse if address.port() == 0 => {
            "no port is free: close other programs, or widen the system's range of ports \
             (`net.ipv4.ip_local_port_range` on Linux)"
                .into()
        }
        ErrorKind::AddrInUse => {
            #[cfg(target_os = "linux")]
            if let Some(holder) = in_use::holder(address, options.only_v6 == Some(true)) {
                return taken_by(address, options, &holder);
            }
            taken(options)
        }
        ErrorKind::AddrNotAvailable if address.is_ipv6() && is_every_machines(address) => {
            no_ipv6(address.port(), "IPv6 is switched off here")
        }
        ErrorKind::AddrNotAvailable => {
            "no network interface of this machine has this address; for all interfaces use `0.0.0.0` or `[::]`".into()
        }
        ErrorKind::PermissionDenied if (1..1024).contains(&address.port()) => {
            "ports below 1024 need a privilege: choose a higher one, or give the program `CAP_NET_BIND_SERVICE` \
             (Linux), or let the service manager open the socket"
                .into()
        }
        ErrorKind::PermissionDenied => {
            "the system's policy (a sandbox, SELinux) does not let this program listen".into()
        }
        _ => of_the_system(address, error),
    }
}

/// Returns what to do about an error that has no [`ErrorKind`] of its own.
fn of_the_system(address: SocketAddr, error: &io::Error) -> String {
    if is_unsupported_family(error) && address.is_ipv6() {
        return no_ipv6(address.port(), "this machine has no IPv6");
    }
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(error);
        match errno {
            Some(Errno::MFILE) => {
                let text =
                    "the process has reached its limit on open files: raise it (`ulimit -n`, systemd's `LimitNOFILE=`)";
                return text.into();
            }
            Some(Errno::NFILE) => {
                return "the system has reached its limit on open files: raise `fs.file-max`, or close other programs"
                    .into();
            }
            _ => {}
        }
        let SocketAddr::V6(v6) = address else { return String::new() };
        match (errno, v6.scope_id()) {
            (Some(Errno::INVAL), 0) if v6.ip().is_unicast_link_local() => {
                let (ip, port) = (v6.ip(), v6.port());
                return format!("a link-local address needs its interface (`ip link`), as in `[{ip}%eth0]:{port}`");
            }
            (Some(Errno::NODEV | Errno::NXIO), scope) if scope != 0 => {
                return format!("this machine has no interface with the number {scope} (`ip link`)");
            }
            _ => {}
        }
    }
    String::new()
}

pub(super) fn is_unsupported_family(error: &io::Error) -> bool {
    #[cfg(unix)]
    return rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT);
    #[cfg(not(unix))]
    return error.raw_os_error() == Some(10047) || error.kind() == ErrorKind::Unsupported; // WSAEAFNOSUPPORT
}

/// Returns whether every machine that has the address family has this address.
pub(super) fn is_every_machines(address: SocketAddr) -> bool {
    address.ip().is_loopback() || address.ip().is_unspecified()
}

fn no_ipv6(port: u16, reason: &str) -> String {
    format!("{reason}: listen on `0.0.0.0:{port}` (IPv4)")
}

/// Returns what to do if the address is in use, and the holder is not known.
fn taken(options: &ListenOptions) -> String {
    let reuse_port = reuse_port(options);
    format!("something listens there already: stop it, or choose another port (0: any free one){reuse_port}")
}

/// Returns what to do if the address is in use by this holder.
#[cfg(target_os = "linux")]
fn taken_by(address: SocketAddr, options: &ListenOptions, holder: &Holder) -> String {
    let program = if holder.is_own { "this program" } else { "another program" };
    let its = holder.address;
    let mapped = address.is_ipv6() && address.ip().to_canonical().is_ipv4();
    if address.is_ipv4() && its.is_ipv6() {
        let how = if holder.is_own {
            "bind that one with `ListenOptions::only_v6(true)`, or leave this one out"
        } else {
            "stop it, or choose another port"
        };
        return format!("{program} listens on `{its}`, which takes IPv4 clients too: {how}");
    }
    if address.is_ipv6() && its.is_ipv4() && !mapped {
        return format!(
            "{program} listens on `{its}`, and `[::]` takes IPv4 clients too: bind it with \
             `ListenOptions::only_v6(true)`"
        );
    }
    let itself = if its == address { String::new() } else { format!(" on `{its}`") };
    match holder.is_own {
        true if itself.is_empty() => {
            format!(
                "this program listens there itself already: bind it once, or choose another port{}",
                reuse_port(options)
            )
        }
        true => format!(
            "this program listens{itself} already: leave one of the two out, or choose another port{}",
            reuse_port(options)
        ),
        false if itself.is_empty() => taken(options),
        false => format!("another program listens{itself}: stop it, or choose another port{}", reuse_port(options)),
    }
}

/// Returns a hint for sockets with `SO_REUSEPORT`; empty for others.
fn reuse_port(options: &ListenOptions) -> &'static str {
    #[cfg(unix)]
    if options.reuse_port {
        return "; with `reuse_port` every socket on the address has to set it, and belong to one user";
    }
    let _ = options;
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(address: &str, error: io::Error) -> String {
        let text = explain(address.parse().unwrap(), &ListenOptions::new(), error).to_string();
        println!("{text}");
        text
    }

    #[cfg(unix)]
    #[test]
    fn each_reason_has_its_remedy() {
        use rustix::io::Errno;
        let table = [
            ("[::]:80", Errno::AFNOSUPPORT, "this machine has no IPv6: listen on `0.0.0.0:80`"),
            ("[2001:db8::1]:80", Errno::AFNOSUPPORT, "this machine has no IPv6: listen on `0.0.0.0:80`"),
            ("[::1]:80", Errno::ADDRNOTAVAIL, "IPv6 is switched off here: listen on `0.0.0.0:80`"),
            ("[2001:db8::1]:80", Errno::ADDRNOTAVAIL, "no network interface of this machine has this address"),
            ("192.0.2.1:80", Errno::ADDRNOTAVAIL, "no network interface of this machine has this address"),
            ("[fe80::1]:80", Errno::INVAL, "needs its interface (`ip link`), as in `[fe80::1%eth0]:80`"),
            ("[fe80::1%7]:80", Errno::NODEV, "no interface with the number 7"),
            ("0.0.0.0:80", Errno::ACCESS, "ports below 1024 need a privilege"),
            ("0.0.0.0:8080", Errno::ACCESS, "the system's policy"),
            ("0.0.0.0:80", Errno::MFILE, "; the process has reached its limit on open files: raise it"),
            ("[::]:80", Errno::NFILE, "raise `fs.file-max`"),
            ("[2001:db8::1]:80", Errno::INVAL, "`[2001:db8::1]:80`: Invalid argument (os error 22)"),
            ("192.0.2.1:80", Errno::AFNOSUPPORT, "`192.0.2.1:80`: Address family not supported"),
            ("[2001:db8::1]:80", Errno::NODEV, "`[2001:db8::1]:80`: No such device"),
            ("127.0.0.1:0", Errno::ADDRINUSE, "no port is free: close other programs"),
        ];
        for (address, errno, remedy) in table {
            let text = shown(address, errno.into());
            assert!(text.starts_with(&format!("cannot listen on `{address}`: ")) && text.contains(remedy), "{text}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_holder_of_the_port_is_named_only_if_it_is_known() {
        let table = [
            (
                "0.0.0.0:80",
                "[::]:80",
                true,
                "this program listens on `[::]:80`, which takes IPv4 clients too: bind that",
            ),
            (
                "127.0.0.1:80",
                "[::]:80",
                false,
                "another program listens on `[::]:80`, which takes IPv4 clients too: stop",
            ),
            ("[::]:80", "0.0.0.0:80", true, "listens on `0.0.0.0:80`, and `[::]` takes IPv4 clients too: bind it with"),
            ("127.0.0.1:80", "127.0.0.1:80", true, "this program listens there itself already"),
            ("127.0.0.1:80", "127.0.0.1:80", false, "something listens there already: stop it, or choose another port"),
            ("0.0.0.0:80", "127.0.0.1:80", false, "another program listens on `127.0.0.1:80`: stop it, or choose"),
            ("[::1]:80", "[::]:80", true, "this program listens on `[::]:80` already"),
        ];
        for (address, holder, is_own, expected) in table {
            let holder = Holder { address: holder.parse().unwrap(), is_own };
            let text = taken_by(address.parse().unwrap(), &ListenOptions::new(), &holder);
            println!("{text}");
            assert!(text.contains(expected), "{text}");
            assert_eq!(
                text.contains("only_v6"),
                address.contains('[') != holder.address.is_ipv6() && (is_own || address == "[::]:80")
            );
        }
    }
}
