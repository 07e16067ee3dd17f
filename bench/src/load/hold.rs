//! Idle connections: holds them until the parent process has measured or stopped the server.

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
    /// Close each connection at the server's EOF.
    close: bool,
    /// Close all connections while the server still runs.
    keep: bool,
    /// Send one more byte each way over all connections, when the last is open: then none has been idle for long.
    speak: bool,
}

impl Plan {
    pub(super) fn parse(args: &Args) -> Result<Self, String> {
        Ok(Self {
            connections: args.value_or("connections", 64)?,
            close: args.flag("close"),
            keep: args.flag("keep"),
            speak: args.flag("speak"),
        })
    }
}

pub(super) fn run(address: SocketAddr, plan: &Plan) -> io::Result<Measured> {
    let mut load = Messages::connect(address, plan.connections, false)?;
    if plan.speak {
        load.greet(0)?;
    }
    println!("ready");
    let closed = match plan {
        Plan { keep: true, .. } => {
            wait_for_parent()?;
            load.conns.iter().filter(|conn| conn.stands()).count()
        }
        Plan { close: true, .. } => close_at_eof(load)?,
        Plan { .. } => {
            wait_for_parent()?;
            check_that_all_ended(&load)?
        }
    };
    Ok(Measured { ops: plan.connections as u64, closed: closed as u64, ..Measured::default() })
}

/// Waits for a line on the standard input, which the parent writes when it is done with the server.
fn wait_for_parent() -> io::Result<()> {
    stdin().read_line(&mut String::new()).map(drop)
}

/// Closes each connection at its EOF.
fn close_at_eof(mut load: Messages) -> io::Result<usize> {
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
    wait_for_parent()?;
    Ok(closed)
}

/// Checks, after the server is closed, that each connection has ended. The clients have kept them open.
fn check_that_all_ended(load: &Messages) -> io::Result<usize> {
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
