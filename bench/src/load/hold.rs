//! Connections that stand idle until who started us has done something to the server.

use super::messages::Messages;
use super::{NET, in_time};
use crate::args::Args;
use crate::measured::Measured;
use std::io::{self, ErrorKind, Read, stdin};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    connections: usize,
    /// Close as soon as the server does.
    close: bool,
    /// Leave while the server still serves.
    keep: bool,
}

impl Plan {
    pub(super) fn parse(args: &Args) -> Result<Self, String> {
        Ok(Self { connections: args.value_or("connections", 64)?, close: args.flag("close"), keep: args.flag("keep") })
    }
}

pub(super) fn run(address: SocketAddr, plan: &Plan) -> io::Result<Measured> {
    let load = Messages::connect(address, plan.connections)?;
    println!("ready");
    let closed = match plan {
        Plan { keep: true, .. } => {
            told()?;
            load.conns.iter().filter(|conn| conn.stands()).count()
        }
        Plan { close: true, .. } => close_when_it_does(load)?,
        Plan { .. } => {
            told()?;
            look_afterwards(&load)?
        }
    };
    Ok(Measured { ops: plan.connections as u64, closed: closed as u64, ..Measured::default() })
}

/// A line comes when the server is closed.
fn told() -> io::Result<()> {
    stdin().read_line(&mut String::new()).map(drop)
}

/// Clients that close when they see the end.
fn close_when_it_does(mut load: Messages) -> io::Result<usize> {
    let mut open: Vec<Option<TcpStream>> = load.conns.drain(..).map(|conn| Some(conn.stream)).collect();
    let mut closed = 0;
    let net = Instant::now() + 2 * NET;
    while closed < open.len() {
        load.poll.wait(net)?;
        in_time(net)?;
        for (index, _) in load.poll.events() {
            if open[index].as_ref().is_some_and(has_ended) {
                open[index] = None;
                closed += 1;
            }
        }
    }
    told()?;
    Ok(closed)
}

/// Clients that keep theirs open whatever the server does: each must find that it has ended.
fn look_afterwards(load: &Messages) -> io::Result<usize> {
    let net = Instant::now() + Duration::from_secs(5);
    for conn in &load.conns {
        while !has_ended(&conn.stream) {
            in_time(net)?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(load.conns.len())
}

fn has_ended(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}
