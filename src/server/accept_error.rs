//! What an error of `accept` means: a table, with the reason of each entry.

use std::io;

/// What to do about an error of `accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptErrorClass {
    /// One client's, which was in the backlog and is gone: go on with the next.
    Skip,
    /// The machine's: something has run out. It may pass, so try again after a pause.
    BackOff,
    /// The socket's own. Trying again would fail for ever.
    Fatal,
}

/// The unknown backs off: it neither ends a server that could go on, nor makes it spin.
pub(super) fn classify(error: &io::Error) -> AcceptErrorClass {
    #[cfg(unix)]
    if let Some(errno) = rustix::io::Errno::from_io_error(error) {
        return unix::classify(errno);
    }
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {
            AcceptErrorClass::Skip
        }
        io::ErrorKind::InvalidInput => AcceptErrorClass::Fatal,
        _ => AcceptErrorClass::BackOff,
    }
}

/// What a person can do about it, as the end of a log line.
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
            // The closed list of what the socket itself is to blame for.
            Errno::BADF => AcceptErrorClass::Fatal, // no descriptor: it was closed by other code
            Errno::INVAL => AcceptErrorClass::Fatal, // does not listen (any more)
            Errno::NOTSOCK => AcceptErrorClass::Fatal, // the descriptor is something else by now
            Errno::FAULT => AcceptErrorClass::Fatal, // a bad address: ours is none

            // The client gave up between its handshake and our accept.
            Errno::CONNABORTED | Errno::CONNRESET | Errno::PIPE => AcceptErrorClass::Skip,
            Errno::PROTO => AcceptErrorClass::Skip, // the same, as older systems say it
            Errno::PERM => AcceptErrorClass::Skip,  // a firewall rule forbids this client
            Errno::INTR => AcceptErrorClass::Skip,  // a signal came; nothing happened
            // accept(2), Linux: errors that are pending on the new socket are reported as accept's own.
            Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::NETRESET
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NOPROTOOPT
            | Errno::TIMEDOUT => AcceptErrorClass::Skip,
            #[cfg(target_os = "linux")]
            Errno::NONET => AcceptErrorClass::Skip,

            // Also a wrong kind of socket, for which it never passes; so not among those that are skipped.
            Errno::OPNOTSUPP => AcceptErrorClass::BackOff,
            // Exhaustion: descriptors of the process (MFILE) or of the system (NFILE), memory for sockets (NOBUFS,
            // NOMEM), watches of the reactor (NOSPC). And whatever we do not know.
            _ => AcceptErrorClass::BackOff,
        }
    }

    pub(super) fn hint(errno: Errno) -> &'static str {
        match errno {
            Errno::MFILE => {
                "; the process has as many open files as it may: raise its limit (`ulimit -n`, systemd's `LimitNOFILE=`), or \
                 lower `max_connections`"
            }
            Errno::NFILE => {
                "; the system has as many open files as it may: raise `fs.file-max`, or close other programs"
            }
            Errno::NOBUFS | Errno::NOMEM => "; the system is out of memory for sockets: lower `max_connections`",
            Errno::NOSPC => "; the user may watch no more files: raise `fs.epoll.max_user_watches`",
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
                // Unknown to us, or of no meaning for accept.
                (BackOff, &[Errno::XDEV, Errno::IO, Errno::ACCESS, Errno::OPNOTSUPP]),
            ];
            for (fault, errnos) in table {
                for &errno in errnos {
                    assert_eq!(classify(&io::Error::from(errno)), fault, "{errno:?}");
                }
            }
        }

        #[test]
        fn an_error_without_a_number_backs_off() {
            assert_eq!(classify(&io::Error::other("a custom listener's")), AcceptErrorClass::BackOff);
            assert_eq!(classify(&io::ErrorKind::ConnectionAborted.into()), AcceptErrorClass::Skip);
        }

        #[test]
        fn exhaustion_says_what_to_do() {
            for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::NOSPC] {
                assert!(!hint(&io::Error::from(errno)).is_empty(), "{errno:?}");
            }
        }
    }
}
