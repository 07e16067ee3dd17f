//! Classes of the errors of `accept`: a table of errnos, with the reason for each entry, and hints for the log.

use std::io;

/// What the accept loop does after an error of `accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptErrorClass {
    /// It concerns one client, which has left the backlog: accept the next.
    Skip,
    /// Something of the machine has run out. That may pass: try again after a pause.
    BackOff,
    /// It concerns the listening socket. Every further accept would fail.
    Fatal,
}

/// Returns the class of an error. An unknown error backs off: so it neither ends a server that could continue, nor
/// makes it spin.
pub(super) fn classify(error: &io::Error) -> AcceptErrorClass {
    #[cfg(unix)]
    if let Some(errno) = rustix::io::Errno::from_io_error(error) {
        return unix::classify(errno);
    }
    #[cfg(windows)]
    if let Some(code) = error.raw_os_error() {
        return winsock(code);
    }
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {
            AcceptErrorClass::Skip
        }
        io::ErrorKind::InvalidInput => AcceptErrorClass::Fatal,
        _ => AcceptErrorClass::BackOff,
    }
}

/// The same table for Windows, by Winsock's numbers.
#[cfg(any(windows, test))]
fn winsock(code: i32) -> AcceptErrorClass {
    match code {
        // WSAEBADF, WSAEFAULT, WSAEINVAL, WSAENOTSOCK: the socket itself.
        10009 | 10014 | 10022 | 10038 => AcceptErrorClass::Fatal,
        // WSAEINTR, WSAENETDOWN, WSAENETUNREACH, WSAENETRESET, WSAECONNABORTED, WSAECONNRESET, WSAETIMEDOUT,
        // WSAEHOSTDOWN, WSAEHOSTUNREACH: one client's.
        10004 | 10050..=10054 | 10060 | 10064 | 10065 => AcceptErrorClass::Skip,
        // WSAEMFILE and WSAENOBUFS: exhaustion. And whatever is unknown.
        _ => AcceptErrorClass::BackOff,
    }
}

/// Returns what an operator can do about an error, as the end of a log line; empty if nothing is known.
pub(super) fn hint(error: &io::Error) -> &'static str {
    #[cfg(unix)]
    if let Some(errno) = rustix::io::Errno::from_io_error(error) {
        return unix::hint(errno);
    }
    let _ = error;
    ""
}

#[cfg(unix)]
mod unix {
    use super::AcceptErrorClass;
    use rustix::io::Errno;

    pub(super) fn classify(errno: Errno) -> AcceptErrorClass {
        match errno {
            // Fatal errors are a closed list.
            Errno::BADF => AcceptErrorClass::Fatal, // not a descriptor: other code has closed it
            Errno::INVAL => AcceptErrorClass::Fatal, // the socket does not listen
            Errno::NOTSOCK => AcceptErrorClass::Fatal, // the descriptor is reused for something else
            Errno::FAULT => AcceptErrorClass::Fatal, // a bad pointer, which this crate never passes

            // The client gave up between its handshake and the accept.
            Errno::CONNABORTED | Errno::CONNRESET | Errno::PIPE => AcceptErrorClass::Skip,
            Errno::PROTO => AcceptErrorClass::Skip, // the same, on older systems
            Errno::PERM => AcceptErrorClass::Skip,  // a firewall rule forbids this client
            Errno::INTR => AcceptErrorClass::Skip,  // interrupted by a signal: nothing was accepted
            // accept(2), Linux: accept returns errors that are pending on the new socket.
            Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::NETRESET
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NOPROTOOPT
            | Errno::TIMEDOUT => AcceptErrorClass::Skip,
            #[cfg(target_os = "linux")]
            Errno::NONET => AcceptErrorClass::Skip,

            // accept(2) lists it among those, but a socket of the wrong type also returns it, each time: skipping would
            // spin.
            Errno::OPNOTSUPP => AcceptErrorClass::BackOff,
            // Exhaustion: descriptors of the process (MFILE) or of the system (NFILE), memory for sockets (NOBUFS,
            // NOMEM), watches of the reactor (NOSPC). And every unknown error.
            _ => AcceptErrorClass::BackOff,
        }
    }

    pub(super) fn hint(errno: Errno) -> &'static str {
        match errno {
            Errno::MFILE => {
                "; the process has reached its limit on open files: raise it (`ulimit -n`, systemd's `LimitNOFILE=`), \
                 or lower `max_connections`"
            }
            Errno::NFILE => {
                "; the system has reached its limit on open files: raise `fs.file-max`, or close other programs"
            }
            Errno::NOBUFS | Errno::NOMEM => "; the system is out of memory for sockets: lower `max_connections`",
            Errno::NOSPC => "; the user has reached the limit on epoll watches: raise `fs.epoll.max_user_watches`",
            _ => "",
        }
    }

    #[cfg(test)]
    mod tests {
        use super::super::{AcceptErrorClass, classify, hint};
        use rustix::io::Errno;
        use std::io;

        #[test]
        fn every_error_of_accept_has_its_class() {
            use AcceptErrorClass::{BackOff, Fatal, Skip};
            let table = [
                (Fatal, &[Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::FAULT][..]),
                (
                    Skip,
                    &[
                        Errno::CONNABORTED,
                        Errno::CONNRESET,
                        Errno::PIPE,
                        Errno::PROTO,
                        Errno::PERM,
                        Errno::INTR,
                        Errno::NETDOWN,
                        Errno::NETUNREACH,
                        Errno::NETRESET,
                        Errno::HOSTDOWN,
                        Errno::HOSTUNREACH,
                        Errno::NOPROTOOPT,
                        Errno::TIMEDOUT,
                    ],
                ),
                (BackOff, &[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::NOSPC]),
                // Unknown, or without a meaning for accept.
                (BackOff, &[Errno::XDEV, Errno::IO, Errno::ACCESS, Errno::OPNOTSUPP]),
            ];
            for (class, errnos) in table {
                for &errno in errnos {
                    assert_eq!(classify(&io::Error::from(errno)), class, "{errno:?}");
                }
            }
        }

        #[test]
        fn an_error_without_an_errno_is_classified_by_its_kind() {
            assert_eq!(classify(&io::Error::other("a custom listener's")), AcceptErrorClass::BackOff);
            assert_eq!(classify(&io::ErrorKind::ConnectionAborted.into()), AcceptErrorClass::Skip);
        }

        #[test]
        fn winsocks_errors_have_the_classes_of_their_unix_counterparts() {
            use AcceptErrorClass::{BackOff, Fatal, Skip};
            for (class, codes) in [
                (Fatal, &[10009, 10014, 10022, 10038][..]),
                (Skip, &[10004, 10053, 10054, 10060]),
                (BackOff, &[10024, 10055, 5]),
            ] {
                for &code in codes {
                    assert_eq!(super::super::winsock(code), class, "{code}");
                }
            }
        }

        #[test]
        fn every_error_of_exhaustion_has_a_hint() {
            for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::NOSPC] {
                assert!(!hint(&io::Error::from(errno)).is_empty(), "{errno:?}");
            }
        }
    }
}
