//! System calls that fail, or take long. `strace` makes chosen calls of the server return an error, or delays them, again
//! and again, while clients come and go.
//!
//! What it found: a listening socket whose wait could not be registered (`epoll_ctl`) was never waited for again, and no
//! client was accepted any more, because async-io takes the waker for registered after the error. A connection that
//! ended because the system had no memory for it counted as the peer's fault, and no line above debug named it. A socket
//! option that could not be set was an error that did not name the option, and a bind without descriptors had no remedy.

use super::{Numbers, assert_ends, connect, id, is_end, say_and_hear, server, ticks};
use crate::support::dice::Dice;
use crate::support::files::Folder;
use crate::support::process::Process;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What becomes of a server and of its clients.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// No client notices.
    Serves,
    /// Some connections end early, and others do not. The server counts them as this.
    Loses(&'static str),
    /// No message is echoed, but all connections end with the server.
    Stalls,
    /// `serve` returns an error that names the operation.
    Stops,
    /// The server cannot be bound: an error that names the operation.
    Fails,
}
use Expected::{Fails, Loses, Serves, Stalls, Stops};

struct Row {
    calls: &'static str,
    /// Or a delay of 1 to 50 ms, before ([`ENTER`]) or after ([`EXIT`]) the call.
    error: &'static str,
    /// The first call of each thread that fails, and how many calls later the next one does; 0: every call fails.
    when: (usize, usize),
    expected: Expected,
    /// A part of what the server prints.
    prints: &'static str,
}

const fn row(
    calls: &'static str,
    error: &'static str,
    when: (usize, usize),
    expected: Expected,
    prints: &'static str,
) -> Row {
    Row { calls, error, when, expected, prints }
}

const ENTER: &str = "delay_enter";
const EXIT: &str = "delay_exit";

const WAIT: &str = "epoll_wait,epoll_pwait,epoll_pwait2";

/// The threads of signals also use `recvfrom` and `sendto`, a few times: so these calls fail from the third and the
/// second of a thread on, and never two in a row except where a row is about that.
const ROWS: &[Row] = &[
    row("accept4", "EMFILE", (1, 2), Serves, "Too many open files (os error 24); the process has reached its limit"),
    row("accept4", "ENFILE", (1, 3), Serves, "`fs.file-max`"),
    row("accept4", "ENOBUFS", (1, 3), Serves, "the system is out of memory for sockets"),
    row("accept4", "ENOMEM", (1, 2), Serves, "the system is out of memory for sockets"),
    row("accept4", "ECONNABORTED", (1, 2), Serves, ""),
    row("accept4", "EPERM", (1, 2), Serves, ""),
    row("accept4", "EINTR", (1, 2), Serves, ""),
    row("accept4", "EBADF", (3, 1000), Stops, "cannot accept connections on `127.0.0.1:"),
    row("recvfrom", "ECONNRESET", (3, 7), Loses("disconnected"), ""),
    row("recvfrom", "ETIMEDOUT", (3, 7), Loses("disconnected"), ""),
    row("recvfrom", "ENOMEM", (3, 7), Loses("failed"), "failed: Cannot allocate memory"),
    row("recvfrom", "EINTR", (3, 2), Serves, ""),
    row("recvfrom", "EAGAIN", (3, 2), Serves, ""),
    row("recvfrom", "EAGAIN", (3, 1), Stalls, ""),
    row("sendto", "EPIPE", (2, 5), Loses("disconnected"), ""),
    row("sendto", "ENOBUFS", (2, 5), Loses("failed"), "failed: No buffer space available"),
    row("sendto", "EINTR", (2, 2), Serves, ""),
    row("sendto", "EAGAIN", (2, 2), Serves, ""),
    row("sendto", "EAGAIN", (2, 1), Stalls, ""),
    row("shutdown", "ENOTCONN", (1, 1), Serves, ""),
    row("shutdown", "EIO", (1, 1), Serves, ""),
    row("close", "EIO", (1, 2), Serves, ""),
    row("close", "EINTR", (1, 2), Serves, ""),
    row("getsockopt", "ENOPROTOOPT", (1, 1), Serves, ""),
    row("getsockopt", "EINVAL", (1, 2), Serves, ""),
    row(WAIT, "EINTR", (1, 2), Serves, ""),
    row(WAIT, "ENOMEM", (2, 3), Serves, ""),
    row("timerfd_settime", "EINVAL", (2, 3), Serves, ""),
    row("timerfd_create", "EMFILE", (1, 1), Serves, ""),
    row("eventfd2", "EMFILE", (1, 1), Serves, ""),
    row("accept4", ENTER, (1, 2), Serves, ""),
    row("accept4", EXIT, (1, 2), Serves, ""),
    row("recvfrom", ENTER, (3, 3), Serves, ""),
    row("recvfrom", EXIT, (3, 2), Serves, ""),
    row("sendto", ENTER, (2, 2), Serves, ""),
    row("sendto", EXIT, (2, 3), Serves, ""),
    row("epoll_ctl", ENTER, (1, 3), Serves, ""),
    row("epoll_ctl", EXIT, (1, 2), Serves, ""),
    row("shutdown", ENTER, (1, 1), Serves, ""),
    row("shutdown", EXIT, (1, 1), Serves, ""),
    row("close", ENTER, (1, 2), Serves, ""),
    row("close", EXIT, (1, 2), Serves, ""),
    row("accept4,recvfrom,sendto,epoll_ctl,shutdown,close", ENTER, (3, 4), Serves, ""),
    row("accept4,recvfrom,sendto,epoll_ctl,shutdown,close", EXIT, (3, 4), Serves, ""),
    row("socket", "EMFILE", (1, 1), Fails, "Too many open files (os error 24); the process has reached its limit"),
    row("bind", "EADDRINUSE", (1, 1), Fails, "no port is free"),
    row("bind", "EACCES", (1, 1), Fails, "Permission denied"),
    row("listen", "EADDRINUSE", (1, 1), Fails, "no port is free"),
    row("getsockname", "ENOBUFS", (1, 1), Fails, "No buffer space available"),
    row("setsockopt", "EINVAL", (1, 1), Fails, "cannot set SO_REUSEADDR: Invalid argument"),
    row("setsockopt", "ENOPROTOOPT", (2, 1), Fails, "cannot set TCP_NODELAY: Protocol not available"),
    row("setsockopt", "ENOPROTOOPT", (4, 1), Fails, "cannot set the keep-alive: Protocol not available"),
];

/// How many conversations a server that loses connections gets at most until it has lost one and served one.
const MOST: usize = 200;

/// How often a server may call what fails while nothing happens, in [`QUIET`]. A server that spins calls it thousands
/// of times.
const CALLS: usize = 100;
const QUIET: Duration = Duration::from_millis(250);

/// Returns whether `strace` is there and permitted.
fn can_trace() -> bool {
    let output = Command::new("strace").args(["-f", "--seccomp-bpf", "-o", "/dev/null", "true"]).output();
    let works = output.is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: there is no `strace`, or it is not permitted");
    }
    works
}

/// Short: each row once. Long: `EBBTIDE_TEST_FAULTS=20` tries each row so many times, at random calls, with one and with
/// two executor threads.
#[test]
fn system_calls_that_fail_neither_stop_a_server_nor_its_end() {
    if !can_trace() {
        return;
    }
    let times = std::env::var("EBBTIDE_TEST_FAULTS").map_or(1, |text| text.parse().expect("a number"));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((n, row)) = {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    (n < times * ROWS.len()).then(|| (n, &ROWS[n % ROWS.len()]))
                } {
                    let turn = n / ROWS.len();
                    let mut dice = Dice::new(n as u64);
                    let (first, step) = row.when;
                    let is_random = turn > 0 && step > 1;
                    let more = |dice: &mut Dice| if is_random { dice.below(10) } else { 0 };
                    let when = (first + more(&mut dice), step + more(&mut dice));
                    let delay = 1 + dice.below(50);
                    assert_row(row, when, delay, 1 + (n + turn) % 2);
                }
            });
        }
    });
}

fn assert_row(row: &Row, (first, step): (usize, usize), delay: usize, threads: usize) {
    let folder = Folder::new();
    let trace = folder.path("trace");
    let grace = if row.expected == Stalls { "grace=300" } else { "grace=20000" };
    let fault = match row.error {
        ENTER | EXIT => format!("{}={}", row.error, delay * 1000), // microseconds
        error => format!("error={error}"),
    };
    let inject = format!("inject={}:{fault}:when={first}+{step}", row.calls);
    let what = format!("{inject}, {threads} threads, expected {:?}", row.expected);
    let mut program = server(&[grace], threads);
    let (server, _tracer) = if row.calls == "close" {
        let server = Process::start(&mut program); // its start needs `close`
        let tracer = attach(&server, &trace, &["-e", &format!("trace={}", row.calls), "-e", &inject]);
        (server, Some(tracer))
    } else {
        let mut command = Command::new("strace");
        command.args(["-f", "--seccomp-bpf", "-qq", "-e", &format!("trace={}", row.calls), "-e", &inject, "-o"]);
        command.arg(&trace).arg(program.get_program()).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        (Process::start(&mut command), None)
    };
    if row.expected == Fails {
        let ended = server.wait();
        assert_eq!(ended.status.code(), Some(1), "{what}: {ended:?}");
        let error = ended.stderr.join("\n");
        assert!(error.contains("cannot listen on `127.0.0.1:0`: ") && error.contains(row.prints), "{what}: {ended:?}");
        return;
    }
    let (id, port) = (id(&server), server.port());
    let (mut connected, mut whole, mut lost) = (0, 0, 0);
    let talk = |messages: usize| {
        let mut client = connect(port)?;
        for n in 0..messages {
            say_and_hear(&mut client, &[n as u8; 100])?;
        }
        Ok(())
    };
    let is_enough = |whole, lost| match row.expected {
        Serves => whole == 6,
        Loses(_) => whole > 0 && lost > 0,
        Stops => lost > 0,
        Stalls | Fails => true,
    };
    while !is_enough(whole, lost) {
        assert!(connected < MOST, "{what}: of {connected} clients {whole} were served, and {lost} lost: {server}");
        connected += 1;
        match talk(3) {
            Ok(()) => whole += 1,
            Err(error) if row.expected == Serves => panic!("{what}: a client is not served: {error}: {server}"),
            Err(error) if is_end(&error) => lost += 1,
            Err(error) if row.expected == Stops && error.kind() == std::io::ErrorKind::ConnectionRefused => lost += 1,
            Err(error) => panic!("{what}: a client waits without end: {error}: {server}"),
        }
    }
    if row.expected != Stops {
        let mut held = connect(port).unwrap_or_else(|error| panic!("{what}: {error}: {server}"));
        connected += 1;
        let greeted = match row.expected {
            Serves => say_and_hear(&mut held, b"hello"),
            _ => std::io::Write::write_all(&mut held, b"hello"),
        };
        assert!(row.expected != Serves || greeted.is_ok(), "{what}: {greeted:?}: {server}");
        assert_quiet(id, &trace, &what);
        crate::support::process::send(id, Signal::SIGTERM);
        assert_ends(&mut held, &server);
    }
    let ended = server.wait();
    let numbers = Numbers::of(&ended);
    assert_eq!(ended.status.code(), Some(i32::from(row.expected == Stops)), "{what}: {ended:?}");
    let printed = ended.stdout.iter().chain(&ended.stderr);
    assert!(printed.clone().any(|line| line.contains(row.prints)), "{what}: no `{}`: {ended:?}", row.prints);
    let accepted = numbers.get("accepted");
    match row.expected {
        Serves => assert_eq!([accepted, numbers.get("completed")], [connected as u64; 2], "{what}: {ended:?}"),
        Loses(reason) => {
            assert_eq!(accepted, connected as u64, "{what}: {ended:?}");
            assert!(numbers.get(reason) >= lost, "{what}: {ended:?}");
            // The read that would find the EOF of a client that was served may fail too.
            assert_eq!(numbers.get("completed") + numbers.get(reason), accepted, "{what}: {ended:?}");
        }
        Stalls => assert_eq!(accepted, connected as u64, "{what}: {ended:?}"),
        Stops | Fails => {}
    }
    if row.expected == Serves {
        // No panic. (strace itself says so if it is told twice of a call that it delays.)
        let others: Vec<_> = ended.stderr.iter().filter(|line| !line.contains("has delayed wait data set")).collect();
        assert_eq!(others, [""; 0], "{what}");
    }
}

/// Starts `strace` for a server that runs already.
fn attach(server: &Process, trace: &Path, arguments: &[&str]) -> Process {
    server.port();
    let mut command = Command::new("strace");
    command.args(["-f", "-p", &id(server).to_string(), "-o"]).arg(trace).args(arguments);
    let tracer = Process::start(&mut command);
    tracer.wait_for_error("attached");
    tracer
}

/// Checks that the server does nothing while nothing happens.
fn assert_quiet(id: u32, trace: &Path, what: &str) {
    let calls = || std::fs::read(trace).unwrap().iter().filter(|byte| **byte == b'\n').count();
    let before = (calls(), ticks(id));
    std::thread::sleep(QUIET);
    let after = (calls(), ticks(id));
    assert!(after.0 - before.0 <= CALLS, "{what}: it spins: {} calls in {QUIET:?}", after.0 - before.0);
    assert!(after.1 - before.1 <= 15, "{what}: it spins: {} ticks of 10 ms in {QUIET:?}", after.1 - before.1);
}

/// Registrations with the reactor fail, of the listening socket alone.
#[test]
fn a_listening_socket_that_cannot_be_waited_for_is_tried_again() {
    if !can_trace() {
        return;
    }
    let folder = Folder::new();
    let server = Process::start(&mut server(&[], 1));
    let inode = listening_inode(server.port());
    let trace = folder.path("trace");
    let socket = format!("socket:[{inode}]");
    let inject = ["-P", &socket, "-e", "trace=epoll_ctl", "-e", "inject=epoll_ctl:error=ENOMEM:when=1+2"];
    let tracer = attach(&server, &trace, &inject);
    for n in 0..5 {
        let mut client = connect(server.port()).unwrap();
        let echo = say_and_hear(&mut client, b"hello");
        echo.unwrap_or_else(|error| panic!("client {n} is not served: {error}: {server}"));
    }
    let failed = std::fs::read_to_string(&trace).unwrap().matches("INJECTED").count();
    assert!(failed > 0, "no registration has failed");
    server.send(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(Numbers::of(&ended).get("completed"), 5, "{ended:?}");
    assert!(ended.stdout.iter().any(|line| line.contains("out of memory for sockets")), "{ended:?}");
    tracer.wait();
}

/// Returns the inode of the socket that listens on this port of 127.0.0.1.
fn listening_inode(port: u16) -> String {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let is_it = |fields: &Vec<&str>| fields[1] == format!("0100007F:{port:04X}") && fields[3] == "0A";
    let found = lines.skip(1).find(is_it).expect("the server's socket is in the list");
    found[9].to_owned()
}
