//! Short connections: connect, one byte each way, and a close by FIN or by RST; the same with TLS; or one HTTP request.

use super::conn::Conn;
use super::http;
use super::messages::Messages;
use super::poll::Poll;
use super::{End, NET, Subject, in_time};
use crate::args::Args;
use crate::http::{Answer, Version};
use crate::measured::{Measured, short_nanos};
use crate::tls;
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::set_socket_linger;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How many connections in all. It must be less than the number of ports, since each leaves one in TIME_WAIT.
    count: usize,
    /// How many are open at a time.
    at_a_time: usize,
    /// Close by RST.
    reset: bool,
    /// How many other connections are idle all the time.
    beside: usize,
    /// A request of HTTP in place of the byte.
    http: Option<Version>,
    tls: bool,
}

impl Plan {
    pub(super) fn parse(args: &Args) -> Result<Self, String> {
        let plan = Self {
            count: args.value_or("count", 4000)?,
            at_a_time: args.value_or("at-a-time", 64)?,
            reset: args.flag("reset"),
            beside: args.value_or("beside", 0)?,
            http: args.value("http")?,
            tls: args.flag("tls"),
        };
        let other_than_a_byte = usize::from(plan.http.is_some()) + usize::from(plan.tls);
        match (other_than_a_byte, plan.reset, plan.beside) {
            _ if plan.at_a_time == 0 => Err("`--at-a-time` must be at least 1".to_owned()),
            (0, _, _) | (1, false, 0) => Ok(plan),
            _ => Err("`--http` and `--tls` exclude each other, `--reset` and `--beside`".to_owned()),
        }
    }
}

pub(super) fn run(address: SocketAddr, subject: &Subject, plan: &Plan) -> io::Result<Measured> {
    let beside = Messages::connect(address, plan.beside, false)?;
    let sockets = subject.open_sockets()?;
    let (poll, buf) = (Poll::new()?, vec![0; http::BUFFER]);
    let tls = plan.tls.then(tls::client).transpose()?;
    let mut churn = Churn { address, plan: *plan, tls, poll, slots: Vec::new(), latencies: Vec::new(), buf };
    churn.go(plan.count / 8)?;
    subject.wait_until_closed(sockets)?;
    churn.latencies.clear();
    let begin = subject.begin()?;
    churn.go(plan.count)?;
    let end = End::now();
    subject.wait_until_closed(sockets)?;
    let mut measured = subject.end(&begin, &end, churn.latencies.len() as u64)?;
    measured.closed = measured.ops;
    measured.set_latencies(&mut churn.latencies);
    // The idle connections must still be open.
    let standing = beside.conns.iter().filter(|conn| Conn::stands(conn)).count();
    if standing < plan.beside {
        return Err(io::Error::other(format!("{} idle connections ended", plan.beside - standing)));
    }
    Ok(measured)
}

struct Churn {
    address: SocketAddr,
    plan: Plan,
    tls: Option<Arc<ClientConfig>>,
    poll: Poll,
    slots: Vec<Slot>,
    /// How long each connection took, in nanoseconds.
    latencies: Vec<u32>,
    /// The buffer for received answers.
    buf: Vec<u8>,
}

/// One of the connections that are open at the same time.
struct Slot {
    visit: Option<Visit>,
    since: Instant,
    /// The answer is back, and the write side is shut down.
    ending: bool,
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// What a short connection does.
enum Visit {
    /// Sends a byte, which has to come back.
    Byte(TcpStream, u8),
    Tls(Box<Tls>, u8),
    Http(Box<http::Conn>, Version),
}

impl Churn {
    fn go(&mut self, count: usize) -> io::Result<()> {
        let net = Instant::now() + NET;
        let mut opened = self.plan.at_a_time.min(count);
        self.slots.clear();
        for index in 0..opened {
            self.slots.push(self.open(index, index as u8)?);
        }
        let mut ended = 0;
        while ended < count {
            self.poll.wait(net)?;
            in_time(net)?;
            for (index, _) in self.poll.events() {
                let slot = &mut self.slots[index];
                if !slot.goes_on(self.plan.reset, &mut self.buf)? {
                    slot.visit = None;
                    self.latencies.push(short_nanos(slot.since.elapsed()));
                    ended += 1;
                    if opened < count {
                        self.slots[index] = self.open(index, opened as u8)?;
                        opened += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn open(&self, index: usize, byte: u8) -> io::Result<Slot> {
        let since = Instant::now();
        let visit = match (&self.tls, self.plan.http) {
            (Some(tls), _) => {
                let stream = tls_hello(tls::connection(tls)?, TcpStream::connect(self.address)?, byte)?;
                self.poll.add(&stream.sock, index, EventFlags::IN | EventFlags::ET)?;
                Visit::Tls(Box::new(stream), byte)
            }
            (None, None) => {
                // The loopback interface answers at once, so this does not block.
                let mut stream = TcpStream::connect(self.address)?;
                stream.write_all(&[byte])?;
                stream.set_nonblocking(true)?;
                self.poll.add(&stream, index, EventFlags::IN | EventFlags::ET)?;
                Visit::Byte(stream, byte)
            }
            (None, Some(version)) => {
                let mut conn = http::Conn::open(self.address, version, Answer { streaming: false }, true)?;
                conn.request(since);
                conn.send()?;
                self.poll.add(&conn.stream, index, EventFlags::IN | EventFlags::ET)?;
                Visit::Http(Box::new(conn), version)
            }
        };
        Ok(Slot { visit: Some(visit), since, ending: false })
    }
}

impl Slot {
    /// Reads and closes as far as possible. Returns false when the connection has ended as it should.
    fn goes_on(&mut self, reset: bool, buf: &mut [u8]) -> io::Result<bool> {
        match &mut self.visit {
            None => Ok(true),
            Some(Visit::Byte(stream, byte)) => byte_goes_on(stream, *byte, &mut self.ending, reset),
            Some(Visit::Tls(stream, byte)) => tls_goes_on(stream, *byte, &mut self.ending),
            Some(Visit::Http(conn, version)) => http_goes_on(conn, *version, &mut self.ending, buf),
        }
    }
}

fn byte_goes_on(mut stream: &TcpStream, byte: u8, ending: &mut bool, reset: bool) -> io::Result<bool> {
    let mut buf = [0; 8];
    loop {
        match stream.read(&mut buf) {
            Ok(0) if *ending => return Ok(false),
            Ok(1) if !*ending && buf[0] == byte => {}
            Ok(n) => return Err(io::Error::other(format!("{n} bytes where one was sent"))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
        *ending = true;
        if reset {
            set_socket_linger(stream, Some(Duration::ZERO))?;
            return Ok(false);
        }
        stream.shutdown(Shutdown::Write)?;
    }
}

/// Sends the first message of the handshake, and queues the byte behind the last.
fn tls_hello(tls: ClientConnection, socket: TcpStream, byte: u8) -> io::Result<Tls> {
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let mut stream = StreamOwned::new(tls, socket);
    stream.conn.writer().write_all(&[byte])?;
    match stream.conn.complete_io(&mut stream.sock) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(stream),
    }
}

/// Both sides send `close_notify`: rustls returns an error if the server's is missing.
fn tls_goes_on(stream: &mut Tls, byte: u8, ending: &mut bool) -> io::Result<bool> {
    let mut buf = [0; 8];
    loop {
        match stream.read(&mut buf) {
            Ok(0) if *ending => return Ok(false),
            Ok(1) if !*ending && buf[0] == byte => {}
            Ok(n) => return Err(io::Error::other(format!("{n} bytes where one was sent"))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
        *ending = true;
        stream.conn.send_close_notify();
        stream.conn.complete_io(&mut stream.sock)?;
        stream.sock.shutdown(Shutdown::Write)?;
    }
}

/// The server closes a connection of HTTP/1, as its request asks for. The client closes one of HTTP/2.
fn http_goes_on(conn: &mut http::Conn, version: Version, ending: &mut bool, buf: &mut [u8]) -> io::Result<bool> {
    let mut answered = Vec::new();
    let open = conn.receive(buf, &mut answered)?;
    *ending |= !answered.is_empty();
    if !open {
        return if *ending { Ok(false) } else { Err(ErrorKind::UnexpectedEof.into()) };
    }
    conn.send()?;
    if !answered.is_empty() && version == Version::Http2 {
        conn.stream.shutdown(Shutdown::Write)?;
    }
    Ok(true)
}
