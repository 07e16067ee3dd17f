//! One connection of the load generator: sends bytes, receives them back, and compares each one.

use crate::tls;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, Stream};

/// At most this much is written or read at once.
pub(super) const CHUNK: usize = 64 * 1024;

/// The period of the pattern: a prime, so that no message or buffer has the same length, and a lost, doubled or moved
/// byte is detected.
const PERIOD: usize = 251;

/// The bytes that are sent: byte `k` is `k % PERIOD`. Long enough for a chunk from any position in the period.
pub(super) struct Pattern(Vec<u8>);

impl Pattern {
    pub(super) fn new() -> Self {
        Self((0..PERIOD + CHUNK).map(|k| (k % PERIOD) as u8).collect())
    }

    /// Returns `len` bytes of connection `seed` from `offset` on.
    fn at(&self, seed: usize, offset: u64, len: usize) -> &[u8] {
        let from = (seed + (offset % PERIOD as u64) as usize) % PERIOD;
        &self.0[from..from + len]
    }
}

pub(super) struct Conn {
    pub(super) stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// The position in the pattern at which it begins: no two neighbours send the same bytes.
    seed: usize,
    /// How many bytes are to be sent in all.
    pub(super) due: u64,
    /// How many of them are sent.
    sent: u64,
    /// How many of them have come back.
    pub(super) received: u64,
}

impl Conn {
    /// Connects, and does the handshake if there is to be TLS.
    pub(super) fn open(address: SocketAddr, seed: usize, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut tls = tls.map(tls::connection).transpose()?;
        if let Some(tls) = &mut tls {
            while tls.is_handshaking() {
                tls.complete_io(&mut &stream)?;
            }
        }
        stream.set_nonblocking(true)?;
        Ok(Self { stream, tls: tls.map(Box::new), seed, due: 0, sent: 0, received: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => (&self.stream).write(bytes),
            Some(tls) => Stream::new(&mut **tls, &mut &self.stream).write(bytes),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => (&self.stream).read(buf),
            Some(tls) => Stream::new(&mut **tls, &mut &self.stream).read(buf),
        }
    }

    /// Sends what is due, as far as the socket takes it.
    pub(super) fn send(&mut self, pattern: &Pattern) -> io::Result<()> {
        while self.sent < self.due {
            let len = (self.due - self.sent).min(CHUNK as u64) as usize;
            match self.write(pattern.at(self.seed, self.sent, len)) {
                Ok(n) => self.sent += n as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Receives and compares all bytes that are there. A read that did not fill the buffer has emptied the socket;
    /// epoll reports later bytes. (So has one of TLS, if the answer is shorter than rustls' reads, which are of 4 KiB.)
    pub(super) fn receive(&mut self, pattern: &Pattern, buf: &mut [u8]) -> io::Result<()> {
        loop {
            let n = match self.read(buf) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if self.received + n as u64 > self.sent || buf[..n] != *pattern.at(self.seed, self.received, n) {
                return Err(io::Error::new(ErrorKind::InvalidData, "the bytes received differ from the bytes sent"));
            }
            self.received += n as u64;
            if n < buf.len() {
                return Ok(());
            }
        }
    }

    /// Returns whether the connection stands: see [`stands`].
    pub(super) fn stands(&self) -> bool {
        stands(&self.stream)
    }
}

/// Returns whether a connection is open and has no more bytes: neither data nor EOF has arrived.
pub(super) fn stands(mut stream: &TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let conn = Conn::open(listener.local_addr().unwrap(), 250, None).unwrap();
        conn.stream.set_nonblocking(false).unwrap();
        (conn, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_that_come_back_unchanged_are_accepted() {
        let (mut conn, mut server) = pair();
        conn.due = 600;
        conn.send(&Pattern::new()).unwrap();
        let mut bytes = [0; 600];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[..3], [250, 0, 1]);
        server.write_all(&bytes).unwrap();
        conn.receive(&Pattern::new(), &mut [0; 1024]).unwrap();
        assert_eq!(conn.received, 600);
    }

    #[test]
    fn a_changed_byte_a_lost_one_and_one_too_many_are_detected() {
        let changes: [fn(&mut Vec<u8>); 3] =
            [|bytes| bytes[599] ^= 1, |bytes| bytes.truncate(599), |bytes| bytes.push(98)];
        for change in changes {
            let (mut conn, mut server) = pair();
            conn.due = 600;
            conn.send(&Pattern::new()).unwrap();
            let mut bytes = vec![0; 600];
            server.read_exact(&mut bytes).unwrap();
            change(&mut bytes);
            server.write_all(&bytes).unwrap();
            let received = conn.receive(&Pattern::new(), &mut [0; 1024]);
            // A byte that is only missing may still arrive: the loop that waits for it detects that.
            match received {
                Ok(()) => assert_eq!(conn.received, 599),
                Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidData),
            }
        }
    }

    #[test]
    fn a_server_that_hangs_up_is_an_error() {
        let (mut conn, server) = pair();
        drop(server);
        assert_eq!(conn.receive(&Pattern::new(), &mut [0; 8]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
