//! [`ExtraTime`]: a little more time for a peer whose bytes have arrived when its time limit has passed.

use super::Transport;
use std::time::{Duration, Instant};

/// How long bytes that have arrived may still be read after a limit. If they are not read within this time, the handler
/// does not want them, and the limit counts.
const EXTRA: Duration = Duration::from_secs(1);

/// The extra time of one kind of limit.
///
/// If unread bytes are in the socket when a limit has passed, they may have arrived in time: after a stop of the process
/// (SIGSTOP, a paused machine) all timers fire at once, and the reactor learns of the readable sockets one part after the
/// other. So the limit counts only after [`EXTRA`] more. A limit is known by the time at which it passes, and gets the
/// extra time once.
///
/// Only the socket is looked at. The reader must be polled before a limit counts, in the same poll: then bytes that
/// this process has already read (pushed back, decrypted, in a buffer of hyper's) have been offered to it, and if it has
/// left them it does not wait for them. If the peer has to answer what the reader makes of the bytes, as in a TLS
/// handshake, the socket must also be looked at before the reader is polled, which takes them away.
#[derive(Debug, Default)]
pub(crate) struct ExtraTime {
    /// The limit that has it, and its end.
    given: Option<(Instant, Instant)>,
}

impl ExtraTime {
    /// Returns until when bytes may still be read, if there are any and `limit` has passed; `None` if the limit counts.
    pub(crate) fn after(&mut self, limit: Instant, now: Instant, transport: &Transport) -> Option<Instant> {
        let is_given = self.given.is_some_and(|(of, _)| of == limit);
        if is_given || transport.is_readable() { self.give(limit, now) } else { None }
    }

    /// The same, for a limit that has passed while the bytes were read.
    pub(crate) fn give(&mut self, limit: Instant, now: Instant) -> Option<Instant> {
        let (_, end) = *match &mut self.given {
            Some(given) if given.0 == limit => given,
            other => other.insert((limit, now + EXTRA)),
        };
        (end > now).then_some(end)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_limit_is_extended_once_if_bytes_have_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = listener.accept().unwrap().0;
        socket.set_nonblocking(true).unwrap();
        let transport = Transport::nonblocking_tcp(socket).unwrap();
        let mut extra = ExtraTime::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(extra.after(at(0), at(10), &transport), None, "nothing has arrived");
        client.write_all(b"!").unwrap();
        assert_eq!(extra.after(at(0), at(20), &transport), Some(at(1020)));
        assert_eq!(extra.after(at(0), at(1000), &transport), Some(at(1020)), "it is given once");
        assert_eq!(extra.after(at(0), at(1020), &transport), None, "then the limit counts");
        assert_eq!(extra.after(at(2000), at(2000), &transport), Some(at(3000)), "another limit");
        assert_eq!(extra.after(at(2000), at(3001), &transport), None);
        assert_eq!(extra.give(at(4000), at(4010)), Some(at(5010)), "without a look at the socket");
        assert_eq!(extra.give(at(4000), at(4020)), Some(at(5010)));
        assert_eq!(extra.give(at(4000), at(5010)), None);
    }
}
