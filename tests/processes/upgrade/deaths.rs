//! Processes that are killed, that stop, or that withdraw, at each moment of a hand-over: one generation serves on.
//!
//! In some tests this process is the old generation, with messages of its own ([`Old`]), so that the moment is exact.

use super::{First, KillGroup, line, program, tcp, unix, until_there};
use crate::support::files::Folder;
use crate::support::process::{Ended, PATIENCE, Process, send};
use async_std::task;
use nix::sys::signal::Signal;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{BufReader, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

const GO: &[u8] = b"eb\x01\x06\0\0";
const STOP: &[u8] = b"eb\x01\x08\0\0";
const READY: u8 = 5;
const TAKEN: u8 = 7;

/// The old generation, played by the test: it passes one TCP socket, and never accepts.
struct Old {
    channel: UnixStream,
    address: SocketAddr,
    successor: Process,
    /// The successor goes on when this file is gone.
    file: PathBuf,
    _folder: Folder,
}

impl Old {
    /// Starts the successor, and passes the socket.
    fn start(part: &str) -> Self {
        let folder = Folder::new();
        let file = folder.write("wait", "");
        let (mut channel, theirs) = UnixStream::pair().unwrap();
        channel.set_read_timeout(Some(PATIENCE)).unwrap();
        let found = rustix::fs::fstat(&theirs).unwrap();
        let mut command = program(part, &file);
        command.env("EBBTIDE_UPGRADE", format!("1:{}:{}", found.st_dev, found.st_ino));
        let successor = Process::start_with(&mut command, OwnedFd::from(theirs));
        drop(command);
        channel.read_exact(&mut [0; 6]).unwrap(); // HELLO
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let key = b"T127.0.0.1:0";
        pass(&channel, b"eb\x01\x02\0\0", std::fs::File::open("/dev/null").unwrap());
        pass(&channel, &[b"eb\x01\x03\0", &[u8::try_from(key.len()).unwrap()][..], key].concat(), socket);
        channel.write_all(b"eb\x01\x04\0\x02\0\x01").unwrap();
        successor.wait_for("the successor waits");
        Self { channel, address, successor, file, _folder: folder }
    }

    /// Lets the successor go on.
    fn go_on(&self) {
        std::fs::remove_file(&self.file).unwrap();
    }

    fn receive(&mut self, kind: u8) {
        let mut header = [0; 6];
        self.channel.read_exact(&mut header).unwrap_or_else(|error| panic!("{error}: {}", self.successor));
        assert_eq!(header, [b'e', b'b', 1, kind, 0, 0]);
    }

    /// Checks that the successor serves the clients, and ends it.
    fn ends_served_by_the_successor(self, waiting: Vec<TcpStream>) -> Ended {
        for client in waiting.into_iter().chain([TcpStream::connect(self.address).unwrap()]) {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut client = BufReader::new(client);
            client.get_mut().write_all(b"there?\n").unwrap();
            assert_eq!(line(&mut client), format!("{} there?", self.successor.id()));
        }
        self.successor.send(Signal::SIGTERM);
        self.successor.wait()
    }

    /// Checks that the successor has ended with this error, and has served no client.
    fn ends_without_the_successor(self, error: &str) {
        let ended = self.successor.wait();
        assert!(ended.stdout.iter().any(|line| line.contains(error)), "no `{error}`: {ended:?}");
        assert_eq!(ended.status.code(), Some(1));
    }
}

fn pass(channel: &UnixStream, bytes: &[u8], descriptor: impl AsFd) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = sendmsg(channel, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

fn clients(address: SocketAddr) -> Vec<TcpStream> {
    (0..8).map(|_| TcpStream::connect(address).unwrap()).collect()
}

#[test]
fn if_the_old_process_ends_before_it_is_asked_or_before_it_answers_the_successor_takes_over() {
    for ends_first in [true, false] {
        let mut old = Old::start("waits");
        let waiting = clients(old.address);
        if ends_first {
            old.channel = UnixStream::pair().unwrap().0;
            old.go_on();
        } else {
            old.go_on();
            old.receive(READY);
            old.channel = UnixStream::pair().unwrap().0;
        }
        let ended = old.ends_served_by_the_successor(waiting);
        let warning = "WARN the previous generation has ended without a shutdown: this process has taken over";
        assert!(ended.stdout.iter().any(|line| line == warning), "{ended:?}");
    }
}

#[test]
fn if_the_old_process_ends_after_it_has_stopped_accepting_the_successor_takes_over() {
    let mut old = Old::start("waits");
    let waiting = clients(old.address);
    old.go_on();
    old.receive(READY);
    old.channel.write_all(GO).unwrap();
    old.channel = UnixStream::pair().unwrap().0;
    old.ends_served_by_the_successor(waiting);
}

#[test]
fn r12_ready_is_not_polled_while_the_old_generation_does_not_answer() {
    let mut old = Old::start("waits");
    old.go_on();
    old.receive(READY);
    thread::sleep(Duration::from_millis(300));
    old.channel.write_all(GO).unwrap();
    old.receive(TAKEN);
    let line = old.successor.wait_for("`ready` was polled ");
    let polls: usize = line.split(' ').nth_back(1).unwrap().parse().unwrap();
    assert!(polls <= 5, "{line}");
    old.ends_served_by_the_successor(Vec::new());
}

#[test]
fn if_the_old_generation_withdraws_the_successor_does_not_take_over() {
    for (stops_first, closes) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut old = Old::start("waits");
        let client = TcpStream::connect(old.address).unwrap();
        if stops_first {
            old.channel.write_all(STOP).unwrap();
        } else {
            old.go_on();
            old.receive(READY);
            old.channel.write_all(STOP).unwrap();
        }
        if closes {
            old.channel = UnixStream::pair().unwrap().0;
        }
        if stops_first {
            old.go_on();
        }
        old.ends_without_the_successor("it has withdrawn the hand-over");
        drop(client);
    }
}

#[test]
fn a_dropped_ready_either_has_taken_over_or_cannot_any_more() {
    // The old generation answers before the drop.
    let mut old = Old::start("drops ready");
    let waiting = clients(old.address);
    old.receive(READY);
    old.channel.write_all(GO).unwrap();
    old.go_on();
    old.receive(TAKEN);
    old.ends_served_by_the_successor(waiting);
    // The old generation answers after the drop.
    let mut old = Old::start("drops ready");
    old.receive(READY);
    old.go_on();
    old.successor.wait_for("dropped");
    assert_eq!(old.channel.write_all(GO).unwrap_err().kind(), ErrorKind::BrokenPipe);
    old.ends_without_the_successor("an earlier call of `ready` has failed, was dropped, or still waits");
}

#[test]
fn a_successor_that_is_shut_down_before_it_is_ready_does_not_take_over() {
    task::block_on(async {
        let first = First::start().await;
        let error = first.hand_over_fails(program("shuts down first", &first.path), PATIENCE).await;
        assert!(error.to_string().contains("it ended before it was ready (exit status: 1)"), "{error}");
        assert!(first.path.exists(), "the file is still that of the old generation");
        first.serves();
        first.end().await;
    });
}

#[test]
fn a_successor_that_stops_before_it_confirms_is_killed_and_the_clients_of_that_time_are_served() {
    task::block_on(async {
        let first = First::start().await;
        let (other, started) = (first.upgrade.clone(), first.path.with_extension("started"));
        let stops = program("stops before it takes over", &started);
        let handing = task::spawn(async move { other.hand_over(stops).await.unwrap_err() });
        until_there(&started).await;
        let waiting = [tcp(first.address), unix(&first.path)];
        let error = handing.await;
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("has not taken over within 3s; it was killed"), "{error}");
        for mut client in waiting.map(BufReader::new) {
            client.get_mut().write_all(b"late\n").unwrap();
            assert_eq!(line(&mut client), format!("{} late", std::process::id()));
        }
        first.serves();
        first.end().await;
    });
}

#[test]
fn a_generation_that_is_closed_after_it_was_asked_keeps_its_clients_and_its_file() {
    task::block_on(async {
        let first = First::start().await;
        let (other, started) = (first.upgrade.clone(), first.path.with_extension("started"));
        let stops = program("stops before it takes over", &started);
        let handing = task::spawn(async move { other.hand_over(stops).await.unwrap_err() });
        until_there(&started).await;
        let mut waiting = BufReader::new(tcp(first.address));
        waiting.get_mut().write_all(b"last\n").unwrap();
        let report = first.handle.shutdown().await;
        assert_eq!(line(&mut waiting), format!("{} last", std::process::id()), "the sweep accepts it: {report}");
        let error = handing.await;
        assert!(error.to_string().contains("a listener of this generation was closed meanwhile"), "{error}");
        first.end().await;
    });
}

#[test]
fn a_generation_of_processes_survives_sigkill_of_the_old_one_with_the_clients_in_the_backlog() {
    for is_asked in [false, true] {
        let folder = Folder::new();
        let path = folder.path("service.sock");
        let first = Process::start(&mut program("generation before one that waits", &path));
        let listening = first.wait_for("listens on 127.0.0.1:");
        let address = SocketAddr::from(([127, 0, 0, 1], listening.rsplit(':').next().unwrap().parse().unwrap()));
        let group = KillGroup(first.id());
        first.send(Signal::SIGHUP);
        let waits = first.wait_for("the successor waits, process ");
        let successor: u32 = waits.rsplit(' ').next().unwrap().parse().unwrap();
        first.send(Signal::SIGSTOP); // so that it accepts none of these clients
        until_stopped(first.id());
        let mut waiting: Vec<_> = (0..8).map(|_| tcp(address)).collect();
        waiting.extend((0..8).map(|_| unix(&path)));
        if is_asked {
            std::fs::remove_file(path.with_extension("wait")).unwrap();
        }
        first.send(Signal::SIGKILL);
        if !is_asked {
            std::fs::remove_file(path.with_extension("wait")).unwrap();
        }
        for mut client in waiting.into_iter().chain([tcp(address), unix(&path)]).map(BufReader::new) {
            client.get_mut().write_all(b"there?\n").unwrap();
            assert_eq!(line(&mut client), format!("{successor} there?"));
        }
        send(successor, Signal::SIGTERM);
        let ended = first.wait(); // all generations have closed the output
        std::mem::forget(group);
        assert!(ended.stdout.iter().any(|line| line.contains("the successor has ended: ")), "{ended:?}");
        assert!(!path.exists());
    }
}

/// Waits until a process is stopped.
fn until_stopped(id: u32) {
    let over = Instant::now() + PATIENCE;
    let is_stopped = || std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| stat.contains(") T "));
    while cfg!(target_os = "linux") && !is_stopped() {
        assert!(Instant::now() < over, "process {id} does not stop");
        thread::sleep(Duration::from_millis(1));
    }
}
