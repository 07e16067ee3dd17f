//! HTTP: connections that send the next request when the last is answered, and the client of one connection, which is
//! as cheap as the echo's: fixed requests, and answers that are compared.

mod http1;
mod http2;

use super::conn::stands;
use super::poll::Poll;
use super::{End, NET, Subject, in_time};
use crate::args::Args;
use crate::http::{Answer, Version};
use crate::measured::{Measured, short_nanos};
use rustix::event::epoll::EventFlags;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    version: Version,
    connections: usize,
    /// Requests at a time on each connection.
    streams: usize,
    warm_up: Duration,
    time: Duration,
}

impl Plan {
    pub(super) fn parse(args: &Args) -> Result<Self, String> {
        let plan = Self {
            version: args.value("http")?.ok_or("`--http` is missing")?,
            connections: args.value_or("connections", 64)?,
            streams: args.value_or("streams", 1)?,
            warm_up: Duration::from_millis(args.value_or("warm-up", 100)?),
            time: Duration::from_millis(args.value_or("time", 500)?),
        };
        match plan {
            Plan { connections: 0, .. } | Plan { streams: 0, .. } => {
                Err("`--connections` and `--streams` must be at least 1".to_owned())
            }
            Plan { version: Version::Http1, streams: 2.., .. } => Err("HTTP/1 has one stream".to_owned()),
            plan => Ok(plan),
        }
    }
}

pub(super) fn run(address: SocketAddr, subject: &Subject, plan: &Plan) -> io::Result<Measured> {
    let poll = Poll::new()?;
    let mut conns = Vec::with_capacity(plan.connections);
    for index in 0..plan.connections {
        let conn = Conn::open(address, plan.version, Answer { streaming: false }, false)?;
        poll.add(&conn.stream, index, EventFlags::IN | EventFlags::ET)?;
        conns.push(conn);
    }
    let mut load = Requests { conns, poll };
    load.send_for(plan, plan.warm_up)?;
    let begin = subject.begin()?;
    let mut latencies = load.send_for(plan, plan.time)?;
    let mut measured = subject.end(&begin, &End::now(), latencies.len() as u64)?;
    measured.set_latencies(&mut latencies);
    measured.closed = load.conns.iter().filter(|conn| stands(&conn.stream)).count() as u64;
    Ok(measured)
}

struct Requests {
    conns: Vec<Conn>,
    poll: Poll,
}

impl Requests {
    /// Sends requests for `time` and waits for every answer. Returns the latencies.
    fn send_for(&mut self, plan: &Plan, time: Duration) -> io::Result<Vec<u32>> {
        let mut latencies = Vec::with_capacity(1 << 20);
        let (mut buf, mut answered) = (vec![0; BUFFER], Vec::new());
        let start = Instant::now();
        let (until, net) = (start + time, start + time + NET);
        for conn in &mut self.conns {
            (0..plan.streams).for_each(|_| conn.request(start));
            conn.send()?;
        }
        let mut under_way = plan.connections * plan.streams;
        while under_way > 0 {
            self.poll.wait(net)?;
            in_time(net)?;
            for (index, _) in self.poll.events() {
                let conn = &mut self.conns[index];
                if !conn.receive(&mut buf, &mut answered)? {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                let now = Instant::now();
                for sent in answered.drain(..) {
                    latencies.push(short_nanos(now - sent));
                    if now < until {
                        conn.request(now);
                    } else {
                        under_way -= 1;
                    }
                }
                conn.send()?;
            }
        }
        Ok(latencies)
    }
}

/// The length of the buffer for received bytes: more than the answers to all requests of a connection.
pub(super) const BUFFER: usize = 16 * 1024;

/// One connection, with its requests under way.
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    client: Client,
    /// Bytes that are to be sent.
    out: Vec<u8>,
    /// EOF may follow an answer: a read that did not fill the buffer is not the last one.
    pub(super) may_end: bool,
}

enum Client {
    Http1(http1::Client),
    Http2(http2::Client),
}

impl Conn {
    /// Connects. With `close` each request asks for the end of the connection, which HTTP/2 has no word for.
    pub(super) fn open(address: SocketAddr, version: Version, answer: Answer, close: bool) -> io::Result<Self> {
        // The loopback interface answers at once, so this does not block.
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut out = Vec::with_capacity(1024);
        let client = match version {
            Version::Http1 => Client::Http1(http1::Client::new(answer, close)),
            Version::Http2 => Client::Http2(http2::Client::new(answer, &mut out)),
        };
        Ok(Self { stream, client, out, may_end: close })
    }

    /// Adds a request, which `send` sends.
    pub(super) fn request(&mut self, now: Instant) {
        match &mut self.client {
            Client::Http1(client) => client.request(now, &mut self.out),
            Client::Http2(client) => client.request(now, &mut self.out),
        }
    }

    /// Sends what there is to send. There are never many bytes, so a socket that does not take them is an error.
    pub(super) fn send(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            (&self.stream).write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// Receives and compares all bytes that are there. Adds to `answered` when each request was sent whose answer is
    /// complete now. Returns false at EOF.
    pub(super) fn receive(&mut self, buf: &mut [u8], answered: &mut Vec<Instant>) -> io::Result<bool> {
        loop {
            let n = match (&self.stream).read(buf) {
                Ok(0) => return Ok(false),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            match &mut self.client {
                Client::Http1(client) => client.receive(&buf[..n], answered)?,
                Client::Http2(client) => client.receive(&buf[..n], answered, &mut self.out)?,
            }
            // A read that did not fill the buffer has emptied the socket; epoll reports later bytes.
            if n < buf.len() && !self.may_end {
                return Ok(true);
            }
        }
    }

    /// Returns whether the server has announced the end of the connection, so that no request may follow.
    pub(super) fn is_ending(&self) -> bool {
        match &self.client {
            Client::Http1(client) => client.is_ending,
            Client::Http2(client) => client.is_ending,
        }
    }

    /// Returns how many requests have no whole answer.
    pub(super) fn under_way(&self) -> usize {
        match &self.client {
            Client::Http1(client) => usize::from(client.sent.is_some()),
            Client::Http2(client) => client.streams.len(),
        }
    }
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}
