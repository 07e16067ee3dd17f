//! Short connections: connect, one byte each way, and a close by FIN or by RST.

use super::conn::Conn;
use super::messages::Messages;
use super::poll::Poll;
use super::{End, NET, Subject, in_time};
use crate::args::Args;
use crate::measured::{Measured, short_nanos};
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::set_socket_linger;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

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
}

impl Plan {
    pub(super) fn parse(args: &Args) -> Result<Self, String> {
        let plan = Self {
            count: args.value_or("count", 4000)?,
            at_a_time: args.value_or("at-a-time", 64)?,
            reset: args.flag("reset"),
            beside: args.value_or("beside", 0)?,
        };
        if plan.at_a_time > 0 { Ok(plan) } else { Err("`--at-a-time` must be at least 1".to_owned()) }
    }
}

pub(super) fn run(address: SocketAddr, subject: &Subject, plan: &Plan) -> io::Result<Measured> {
    let beside = Messages::connect(address, plan.beside)?;
    let sockets = subject.open_sockets()?;
    let mut churn = Churn { address, plan: *plan, poll: Poll::new()?, slots: Vec::new(), latencies: Vec::new() };
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
    poll: Poll,
    slots: Vec<Slot>,
    /// How long each connection took, in nanoseconds.
    latencies: Vec<u32>,
}

/// One of the connections that are open at the same time.
struct Slot {
    stream: Option<TcpStream>,
    since: Instant,
    /// The byte that was sent, and has to come back.
    byte: u8,
    /// The byte is back, and the write side is shut down.
    ending: bool,
}

impl Churn {
    fn go(&mut self, count: usize) -> io::Result<()> {
        let net = Instant::now() + NET;
        let mut opened = self.plan.at_a_time.min(count);
        self.slots.clear();
        for index in 0..opened {
            self.slots.push(open(self.address, &self.poll, index, index as u8)?);
        }
        let mut ended = 0;
        while ended < count {
            self.poll.wait(net)?;
            in_time(net)?;
            for (index, _) in self.poll.events() {
                let slot = &mut self.slots[index];
                if !slot.goes_on(self.plan.reset)? {
                    slot.stream = None;
                    self.latencies.push(short_nanos(slot.since.elapsed()));
                    ended += 1;
                    if opened < count {
                        *slot = open(self.address, &self.poll, index, opened as u8)?;
                        opened += 1;
                    }
                }
            }
        }
        Ok(())
    }
}

fn open(address: SocketAddr, poll: &Poll, index: usize, byte: u8) -> io::Result<Slot> {
    let since = Instant::now();
    // The loopback interface answers at once, so this does not block.
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&[byte])?;
    stream.set_nonblocking(true)?;
    poll.add(&stream, index, EventFlags::IN | EventFlags::ET)?;
    Ok(Slot { stream: Some(stream), since, byte, ending: false })
}

impl Slot {
    /// Reads and closes as far as possible. Returns false when the connection has ended as it should.
    fn goes_on(&mut self, reset: bool) -> io::Result<bool> {
        let Some(mut stream) = self.stream.as_ref() else { return Ok(true) };
        let mut buf = [0; 8];
        loop {
            match stream.read(&mut buf) {
                Ok(0) if self.ending => return Ok(false),
                Ok(1) if !self.ending && buf[0] == self.byte => {}
                Ok(n) => return Err(io::Error::other(format!("{n} bytes where one was sent"))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
            self.ending = true;
            if reset {
                set_socket_linger(stream, Some(Duration::ZERO))?;
                return Ok(false);
            }
            stream.shutdown(Shutdown::Write)?;
        }
    }
}
