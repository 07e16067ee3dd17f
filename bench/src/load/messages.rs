//! Echo over open connections: closed-loop (each message after the answer to the last) or open-loop (at a fixed rate).

use super::conn::{CHUNK, Conn, Pattern};
use super::poll::Poll;
use super::{End, NET, Subject, in_time};
use crate::args::Args;
use crate::measured::{Measured, short_nanos};
use crate::tls;
use rustix::event::epoll::EventFlags;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    connections: usize,
    /// How many of them are used; the others are idle after their first message.
    active: usize,
    message: u64,
    warm_up: Duration,
    time: Duration,
    /// Messages a second over all connections; `None`: closed-loop.
    rate: Option<f64>,
    /// Poll without sleeping.
    spin: bool,
    tls: bool,
}

impl Plan {
    pub(super) fn parse(args: &Args) -> Result<Self, String> {
        let connections = args.value_or("connections", 64)?;
        let plan = Self {
            connections,
            active: args.value_or("active", connections)?,
            message: args.value_or("message", 64)?,
            warm_up: Duration::from_millis(args.value_or("warm-up", 100)?),
            time: Duration::from_millis(args.value_or("time", 500)?),
            rate: args.value("rate")?,
            spin: args.flag("spin"),
            tls: args.flag("tls"),
        };
        let sensible = (1..=plan.connections).contains(&plan.active) && plan.message > 0;
        if sensible {
            Ok(plan)
        } else {
            Err("`--message` must be at least 1, and `--active` from 1 to `--connections`".to_owned())
        }
    }
}

pub(super) fn run(address: SocketAddr, subject: &Subject, plan: &Plan) -> io::Result<Measured> {
    let mut load = Messages::open(address, plan)?;
    load.time(plan, plan.warm_up)?;
    let begin = subject.begin()?;
    let (mut latencies, mut lateness) = load.time(plan, plan.time)?;
    let mut measured = subject.end(&begin, &End::now(), latencies.len() as u64)?;
    measured.set_latencies(&mut latencies);
    lateness.sort_unstable();
    measured.late_ns = crate::stats::percentile(&lateness, 99.0).into();
    measured.closed = load.finish()?;
    Ok(measured)
}

/// The connections, and what they share.
pub(super) struct Messages {
    pub(super) conns: Vec<Conn>,
    pub(super) poll: Poll,
    /// The bytes that are sent.
    pattern: Pattern,
    /// The buffer for received bytes.
    buf: Vec<u8>,
}

/// How many connections are opened at a time. Each has its first message answered before the next batch is opened, so
/// the backlog does not overflow, whatever its length, and each handler runs.
const BATCH: usize = 128;

impl Messages {
    fn open(address: SocketAddr, plan: &Plan) -> io::Result<Self> {
        let mut load = Self::connect(address, plan.connections, plan.tls)?;
        load.poll.spin = plan.spin;
        // Room for a little more than one message, so that a read of one message is short: it has emptied the socket.
        load.buf.truncate((plan.message as usize + 1).clamp(4096, CHUNK));
        Ok(load)
    }

    pub(super) fn connect(address: SocketAddr, connections: usize, tls: bool) -> io::Result<Self> {
        let tls = tls.then(tls::client).transpose()?;
        let (poll, pattern) = (Poll::new()?, Pattern::new());
        let mut load = Self { conns: Vec::with_capacity(connections), poll, pattern, buf: vec![0; CHUNK] };
        while load.conns.len() < connections {
            let from = load.conns.len();
            for index in from..connections.min(from + BATCH) {
                let conn = Conn::open(address, index, tls.as_ref())?;
                load.poll.add(&conn.stream, index, EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
                load.conns.push(conn);
            }
            load.greet(from)?;
        }
        Ok(load)
    }

    /// Sends one byte each way over the connections from `from` on.
    pub(super) fn greet(&mut self, from: usize) -> io::Result<()> {
        for conn in &mut self.conns[from..] {
            conn.due += 1;
            conn.send(&self.pattern)?;
        }
        let net = Instant::now() + NET;
        let mut left = self.conns.len() - from;
        while left > 0 {
            self.poll.wait(net)?;
            in_time(net)?;
            for (index, _) in self.poll.events() {
                let conn = &mut self.conns[index];
                let before = conn.received;
                conn.receive(&self.pattern, &mut self.buf)?;
                left -= usize::from(conn.received > before);
            }
        }
        Ok(())
    }

    /// Sends for `time` and waits for every answer. Returns the latencies, and how late each message was sent.
    fn time(&mut self, plan: &Plan, time: Duration) -> io::Result<(Vec<u32>, Vec<u32>)> {
        match plan.rate {
            None => Ok((self.closed_loop(plan, time)?, Vec::new())),
            Some(rate) => self.open_loop(plan, time, rate),
        }
    }

    /// Sends closed-loop: each active connection sends its next message as soon as the last one is back.
    fn closed_loop(&mut self, plan: &Plan, time: Duration) -> io::Result<Vec<u32>> {
        let Self { conns, poll, pattern, buf } = self;
        let mut latencies = Vec::with_capacity(1 << 20);
        let start = Instant::now();
        let (until, net) = (start + time, start + time + NET);
        let mut sent_at = vec![start; plan.active];
        for conn in &mut conns[..plan.active] {
            conn.due = conn.received + plan.message;
            conn.send(pattern)?;
        }
        let mut under_way = plan.active;
        while under_way > 0 {
            poll.wait(net)?;
            for (index, flags) in poll.events() {
                let conn = &mut conns[index];
                if flags.contains(EventFlags::IN) {
                    conn.receive(pattern, buf)?;
                    if conn.received == conn.due && index < plan.active {
                        let now = Instant::now();
                        latencies.push(short_nanos(now - sent_at[index]));
                        if now >= until {
                            under_way -= 1;
                            continue;
                        }
                        sent_at[index] = now;
                        conn.due += plan.message;
                    }
                }
                conn.send(pattern)?;
            }
            in_time(net)?;
        }
        Ok(latencies)
    }

    /// Sends message `k` at `start + k / rate`, on the active connections in turn, without waiting for answers. The
    /// latency counts from that intended time.
    fn open_loop(&mut self, plan: &Plan, time: Duration, rate: f64) -> io::Result<(Vec<u32>, Vec<u32>)> {
        let Self { conns, poll, pattern, buf } = self;
        let total = (time.as_secs_f64() * rate) as usize;
        let (mut latencies, mut lateness) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let base: Vec<u64> = conns.iter().map(|conn| conn.received).collect();
        let start = Instant::now();
        let net = start + time + NET;
        let intended = |k: usize| start + Duration::from_secs_f64(k as f64 / rate);
        let mut next = 0;
        while latencies.len() < total {
            let now = Instant::now();
            while next < total && intended(next) <= now {
                let conn = &mut conns[next % plan.active];
                lateness.push(short_nanos(now - intended(next)));
                conn.due += plan.message;
                conn.send(pattern)?;
                next += 1;
            }
            poll.wait(if next < total { intended(next) } else { net })?;
            let now = Instant::now();
            for (index, flags) in poll.events() {
                let conn = &mut conns[index];
                if flags.contains(EventFlags::IN) {
                    let before = (conn.received - base[index]) / plan.message;
                    conn.receive(pattern, buf)?;
                    let after = (conn.received - base[index]) / plan.message;
                    for round in before..after {
                        let k = index + usize::try_from(round).unwrap_or(usize::MAX) * plan.active;
                        latencies.push(short_nanos(now.saturating_duration_since(intended(k))));
                    }
                }
                conn.send(pattern)?;
            }
            in_time(net)?;
        }
        Ok((latencies, lateness))
    }

    /// Checks that all bytes are back and that each connection is open. Returns how many connections there are.
    fn finish(self) -> io::Result<u64> {
        let whole = self.conns.iter().filter(|conn| conn.received == conn.due && conn.stands()).count();
        if whole < self.conns.len() {
            return Err(io::Error::other(format!("{} connections lost bytes, or ended", self.conns.len() - whole)));
        }
        Ok(whole as u64)
    }
}
