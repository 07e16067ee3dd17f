//! What surrounds a server: accepts that fail for a while (R8), sockets that others hold too (R13), and the log (R14).

use super::witness::Witness;
use crate::support::dice::Dice;
use crate::support::logs::{self, Logs};
use ebbtide::{Connection, Counts, EndReason, Phase};
use log::Level;
use nix::errno::Errno;
use socket2::{SockRef, Socket};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Errors of one client: the next one is accepted at once.
const SKIPPED: &[Errno] = &[Errno::ECONNABORTED, Errno::EPERM, Errno::EINTR, Errno::EPROTO];
/// The system has run out of something, or the error is unknown: accepting goes on after a pause.
const PAUSED: &[Errno] = &[Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::ENOSPC, Errno::ENOTTY];

/// Accepts of one custom listener that fail before a client is accepted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    skipped: usize,
    paused: usize,
    first: usize,
}

impl Faults {
    pub fn new(dice: &mut Dice) -> Self {
        let mut some = |percent, most| if dice.chance(percent) { 1 + dice.below(most) } else { 0 };
        let (skipped, paused) = (some(20, 4), some(20, 3));
        Self { skipped, paused, first: dice.below(10) }
    }

    /// Whether a shutdown that finds them in the backlog leaves the clients behind them unserved.
    pub fn end_a_sweep(self) -> bool {
        self.paused > 0
    }

    /// Returns the errors.
    pub fn errors(self) -> impl Iterator<Item = io::Error> {
        let errors = |from: &'static [Errno], n| (0..n).map(move |it| from[(self.first + it) % from.len()]);
        errors(PAUSED, self.paused)
            .chain(errors(SKIPPED, self.skipped))
            .map(|errno| io::Error::from_raw_os_error(errno as i32))
    }
}

/// Another holder of an inherited socket, and what it was like before the server had it.
pub struct Held {
    socket: Socket,
    was: Found,
}

/// Options and blocking mode of a socket.
#[derive(Debug, PartialEq)]
struct Found {
    is_nonblocking: bool,
    keepalive: bool,
    linger: Option<Duration>,
    receive_buffer: usize,
    nodelay: Option<bool>,
    listens: bool,
}

impl Found {
    fn of(socket: SockRef<'_>) -> io::Result<Self> {
        Ok(Self {
            is_nonblocking: socket.nonblocking()?,
            keepalive: socket.keepalive()?,
            linger: socket.linger()?,
            receive_buffer: socket.recv_buffer_size()?,
            nodelay: socket.tcp_nodelay().ok(),
            listens: socket.is_listener()?,
        })
    }
}

impl Held {
    pub fn new(socket: &dyn AsFd, nonblocking: bool) -> Self {
        let socket = Socket::from(socket.as_fd().try_clone_to_owned().unwrap());
        socket.set_nonblocking(nonblocking).unwrap();
        let was = Found::of(SockRef::from(&socket)).unwrap();
        Self { socket, was }
    }

    /// Returns what the server has changed.
    pub fn changed(&self) -> Option<String> {
        let is = Found::of(SockRef::from(&self.socket)).unwrap();
        (is != self.was).then(|| format!("an inherited socket is {is:?}, it was {:?}", self.was))
    }
}

/// R13: a connection has the defaults of the crate, whatever its listening socket had.
pub fn check_defaults(conn: &Connection, witness: &Witness) {
    let Some(socket) = conn.tcp_stream().map(SockRef::from) else { return };
    let options = (socket.tcp_nodelay(), socket.keepalive());
    if !matches!(options, (Ok(true), Ok(true)) | (Err(_), _) | (_, Err(_))) {
        witness.violation(format!("R13: TCP_NODELAY and keep-alive of a connection are {options:?}"));
    }
}

/// The lines that one server logs.
pub struct Lines {
    logs: Logs,
    /// How each of them begins.
    name: String,
}

impl Lines {
    pub fn new(name: &str) -> Self {
        Self { logs: logs::remember(), name: format!("{name}: ") }
    }

    /// R14: each end that an operator has to know of has one line, which names the server and the connection, and none
    /// can forge another.
    pub fn check(&self, counts: &Counts, phases: &[Phase], witness: &Witness) {
        let lines: Vec<_> =
            self.logs.lines_with(&self.name).into_iter().filter(|it| it.1.starts_with(&self.name)).collect();
        let number = |level, parts: [&str; 2]| {
            let has = |(of, line): &&(Level, String)| *of == level && parts.iter().all(|part| line.contains(part));
            lines.iter().filter(has).count() as u64
        };
        let check = |what: &str, lines: u64, counted: u64| {
            if lines != counted {
                witness.violation(format!("R14: {lines} lines about {what}, {counted} are counted"));
            }
        };
        check("accepted connections", number(Level::Debug, [": opened connection ", " from "]), counts.accepted());
        let failed = number(Level::Warn, [": the handler of connection ", "failed: "]);
        check("handlers that failed", failed, counts.ended(EndReason::Failed));
        let panicked = number(Level::Error, [": the handler of connection ", "panicked: "]);
        check("handlers that panicked", panicked, counts.ended(EndReason::Panicked));
        // A connection that had not opened yet is the peer's: at debug.
        let aged = number(Level::Warn, ["because of its age, and its handler did not end", ": cut connection "])
            + number(Level::Debug, ["because of its age, and had not opened", ": cut connection "]);
        check("connections that were too old", aged, counts.ended(EndReason::Age));
        let skipped = number(Level::Debug, [": a client of ", "was gone before it could be accepted: "]);
        let paused = number(Level::Warn, [": cannot accept ", " error "]);
        if phases.contains(&Phase::Serving) && skipped + paused > counts.accept_errors() {
            witness.violation(format!("R8: {skipped} and {paused} lines, {} errors", counts.accept_errors()));
        }
        for (_, line) in &lines {
            if line.chars().any(char::is_control) {
                witness.violation(format!("R14: a line with control characters: {line:?}"));
            }
        }
    }
}
