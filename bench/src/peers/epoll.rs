//! The limit: a bare epoll loop in each thread.

use crate::control::Control;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use slab::Slab;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

/// The token of the listener. The tokens of connections are keys of the slab.
const LISTENER: u64 = u64::MAX;

struct Conn {
    stream: TcpStream,
    /// Bytes that the socket did not take. While there are any, the loop does not read.
    unsent: Vec<u8>,
}

pub(super) fn serve(threads: usize, size: usize, control: &Control) -> io::Result<()> {
    let listener = super::listener()?;
    control.listening(listener.local_addr()?);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // With fewer threads the server would be slow, and the reason would not show.
            scope.spawn(|| run(&listener, size).expect("a thread of the loop"));
        }
        run(&listener, size)
    })
}

fn run(listener: &TcpListener, size: usize) -> io::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    // Exclusive: a connection wakes only one of the threads.
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::EXCLUSIVE)?;
    let mut conns = Slab::new();
    let mut events = Vec::with_capacity(1024);
    let mut buf = vec![0; size];
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let token = event.data.u64();
            if token == LISTENER {
                accept(listener, &epoll, &mut conns)?;
                continue;
            }
            let index = usize::try_from(token).expect("a key of the slab");
            // An error ends the connection as EOF does.
            if !matches!(echo(&epoll, token, &mut conns[index], &mut buf), Ok(true)) {
                // The close removes it from epoll.
                conns.remove(index);
            }
        }
    }
}

fn accept(listener: &TcpListener, epoll: &OwnedFd, conns: &mut Slab<Conn>) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        let entry = conns.vacant_entry();
        epoll::add(epoll, &stream, EventData::new_u64(entry.key() as u64), EventFlags::IN)?;
        entry.insert(Conn { stream, unsent: Vec::new() });
    }
}

/// Handles one event. Returns whether the connection stays open.
fn echo(epoll: &OwnedFd, token: u64, conn: &mut Conn, buf: &mut [u8]) -> io::Result<bool> {
    if !conn.unsent.is_empty() {
        let n = conn.stream.write(&conn.unsent)?;
        conn.unsent.drain(..n);
        if conn.unsent.is_empty() {
            epoll::modify(epoll, &conn.stream, EventData::new_u64(token), EventFlags::IN)?;
        }
        return Ok(true);
    }
    let n = match conn.stream.read(buf) {
        Ok(0) => return Ok(false),
        Ok(n) => n,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
        Err(error) => return Err(error),
    };
    let sent = match conn.stream.write(&buf[..n]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        sent => sent?,
    };
    if sent < n {
        conn.unsent.extend_from_slice(&buf[sent..n]);
        epoll::modify(epoll, &conn.stream, EventData::new_u64(token), EventFlags::OUT)?;
    }
    Ok(true)
}
