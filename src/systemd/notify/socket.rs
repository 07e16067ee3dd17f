//! [`NotifySocket`]: sends datagrams to systemd, and never blocks.
//!
//! The crate `sd-notify` has the variables, but not this: its `notify` blocks while the socket is full, and takes `@`
//! for a part of a path.

use crate::text::explained_by;
use std::io::{self, ErrorKind};
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A datagram socket of this process, and the address to notify.
///
/// It is not connected: if the socket at the address is made anew, for example by a supervisor that restarts, the next
/// datagram goes to the new one.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The value of `NOTIFY_SOCKET`, for messages.
    shown: String,
}

impl NotifySocket {
    pub(super) fn open((address, shown): (SocketAddr, String)) -> io::Result<Self> {
        let open = || {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        match open() {
            Ok(socket) => Ok(Self { socket, address, shown }),
            Err(error) => {
                let text = format!(
                    "cannot make a socket to send to `{shown}` (`NOTIFY_SOCKET`): {error}; \
                     `RestrictAddressFamilies=` of the unit has to allow AF_UNIX"
                );
                Err(explained_by(error, text))
            }
        }
    }

    /// The value of `NOTIFY_SOCKET`.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Sends one datagram, or returns at once why it cannot be sent, with what to do.
    pub(super) fn send(&self, datagram: &str) -> Result<(), String> {
        match self.socket.send_to_addr(datagram.as_bytes(), &self.address) {
            Ok(_) => Ok(()), // a datagram is sent as a whole, or not at all
            Err(error) => Err(format!("{error}; {}", remedy(error.kind()))),
        }
    }
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            "nothing listens there: start this program from a unit with `Type=notify`, or unset `NOTIFY_SOCKET`"
        }
        ErrorKind::WouldBlock => "its receiver does not read, and the socket is full: look at the service manager",
        ErrorKind::PermissionDenied => "this process may not write to it: see its mode, and the unit's sandbox",
        _ => "look at the service manager, and at the sandbox of the unit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::time::{Duration, Instant};

    /// An abstract socket of this test's own: it leaves no file.
    fn address(name: &str) -> (SocketAddr, String) {
        let name = format!("ebbtide-{name}-{}", std::process::id());
        (SocketAddr::from_abstract_name(&name).unwrap(), format!("@{name}"))
    }

    #[test]
    fn a_datagram_to_an_abstract_socket_arrives_and_to_a_new_one_of_that_name_too() {
        let address = address("arrives");
        let systemd = UnixDatagram::bind_addr(&address.0).unwrap();
        let socket = NotifySocket::open(address.clone()).unwrap();
        let mut buf = [0; 64];
        socket.send("READY=1\n").unwrap();
        assert_eq!(systemd.recv(&mut buf).unwrap(), 8);
        drop(systemd);
        let error = socket.send("READY=1\n").unwrap_err();
        assert!(error.contains("refused") && error.contains("nothing listens there"), "{error}");
        let systemd = UnixDatagram::bind_addr(&address.0).unwrap();
        socket.send("STOPPING=1\n").unwrap();
        assert_eq!(systemd.recv(&mut buf).unwrap(), 11);
    }

    #[test]
    fn a_full_socket_is_an_error_at_once() {
        let address = address("full");
        let _never_read = UnixDatagram::bind_addr(&address.0).unwrap();
        let socket = NotifySocket::open(address).unwrap();
        let start = Instant::now();
        let error = (0..1_000_000).find_map(|_| socket.send(&"x".repeat(1000)).err()).expect("it has a limit");
        assert!(error.contains("the socket is full"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
