//! Processes that are killed, that stop, or that withdraw, at each moment of a hand-over: one generation serves on.
//!
//! In some tests this process is the old generation, with messages of its own ([`Old`]), so that the moment is exact.

use super::{First, KillGroup, line, program, tcp, unix, until_there};
use crate::support::files::Folder;
use crate::support::process::{Ended, PATIENCE, Process, send};
use async_std::task;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// How many successors end at different moments. `EBBTIDE_TEST_UPGRADES` sets another number.
const MOMENTS: u32 = 24;

fn moments() -> u32 {
    std::env::var("EBBTIDE_TEST_UPGRADES").map_or(MOMENTS, |number| number.parse().unwrap())
}

/// Connects and asks, until it is over. Returns the answers, or why there was none.
fn ask_until(over: &AtomicBool, address: SocketAddr, path: &Path) -> Vec<io::Result<String>> {
    fn ask(mut client: impl Read + Write) -> io::Result<String> {
        client.write_all(b"there?\n")?;
        let mut answer = String::new();
        match BufReader::new(client).read_line(&mut answer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.split(' ').next().unwrap().to_owned()),
        }
    }
    let mut answers = Vec::new();
    while !over.load(Ordering::SeqCst) {
        answers.push(TcpStream::connect(address).and_then(|client| {
            client.set_read_timeout(Some(PATIENCE))?;
            ask(client)
        }));
        answers.push(UnixStream::connect(path).and_then(|client| {
            client.set_read_timeout(Some(PATIENCE))?;
            ask(client)
        }));
    }
    answers
}

/// Runs a hand-over beside clients. Returns its result, and the clients' answers.
fn beside_clients<T>(first: &First, hand_over: impl Future<Output = T>) -> (T, Vec<io::Result<String>>) {
    let (over, address, path) = (AtomicBool::new(false), first.address, &first.path);
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask_until(&over, address, path));
        let result = task::block_on(hand_over);
        thread::sleep(Duration::from_millis(3)); // some clients come afterwards
        over.store(true, Ordering::SeqCst);
        (result, asking.join().unwrap())
    })
}

/// Returns how long a hand-over takes here, roughly.
fn usual_time() -> Duration {
    let first = task::block_on(First::start());
    let began = Instant::now();
    let next = task::block_on(first.upgrade.hand_over(program("ends at some moment", &first.path))).unwrap();
    let took = began.elapsed();
    kill(pid(next.id()), Signal::SIGKILL).unwrap();
    task::block_on(async move { drop(first.handle.shutdown().await) });
    took
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

/// A successor that kills or stops itself after a part of the usual time. Most moments are early ones: the usual time
/// includes the start of the process.
fn ends_at(signal: &str, moment: u32, of: u32, usual: Duration, first: &First) -> Command {
    let mut command = program("ends at some moment", &first.path);
    command.env("EBBTIDE_TEST_SIGNAL", signal);
    command.env("EBBTIDE_TEST_DELAY", (usual * moment / of * moment / of).as_micros().to_string());
    command
}

#[test]
fn wherever_the_successor_is_killed_or_stopped_each_client_is_served_unless_the_successor_had_accepted_it() {
    let (usual, of) = (usual_time(), moments());
    let (mut failed, mut taken, mut served) = (0, 0, 0);
    let mut first = task::block_on(First::start());
    for moment in 0..of {
        let signal = if moment % 4 == 3 { "SIGSTOP" } else { "SIGKILL" };
        let command = ends_at(signal, moment, of, usual, &first);
        let upgrade = first.upgrade.clone().timeout(usual * 4 + Duration::from_millis(100));
        let (result, answers) = beside_clients(&first, async {
            let result = upgrade.hand_over(command).await;
            if let Ok(next) = &result {
                // The clients that it has accepted are lost with it; nobody serves the others.
                let _gone = kill(pid(next.id()), Signal::SIGKILL);
                drop(first.handle.shutdown().await);
            }
            result
        });
        match result {
            Ok(next) => {
                let own = std::process::id().to_string();
                let others = answers.iter().flatten().all(|by| *by == own || *by == next.id().to_string());
                assert!(others, "{answers:?}");
                first = task::block_on(First::start());
                taken += 1;
            }
            Err(error) => {
                for by in &answers {
                    let own = by.as_ref().is_ok_and(|by| *by == std::process::id().to_string());
                    assert!(own, "{signal} at {moment}/{of} of {usual:?}: {by:?}, and the hand-over failed: {error}");
                }
                failed += 1;
                served += answers.len();
            }
        }
    }
    println!(
        "{of} successors ended: {failed} hand-overs failed and all of {served} clients were served; {taken} took over"
    );
    task::block_on(first.end());
}

#[test]
fn wherever_a_hand_over_is_dropped_one_generation_serves_every_client() {
    let (usual, of) = (usual_time(), moments());
    let (mut dropped, mut taken, mut served) = (0, 0, 0);
    let mut first = task::block_on(First::start());
    for moment in 0..of {
        let command = program("ends at some moment", &first.path);
        let upgrade = first.upgrade.clone();
        let (_, answers) = beside_clients(&first, async {
            let limit = usual * moment * 5 / 4 / of;
            drop(async_std::future::timeout(limit, upgrade.hand_over(command)).await);
        });
        served += answers.len();
        // A hand-over that has succeeded, or that was dropped when its successor had confirmed, is the last one.
        let error = task::block_on(first.upgrade.hand_over(Command::new("true"))).unwrap_err().to_string();
        let next =
            error.split_once(" has taken over already").map(|(text, _)| text.rsplit(' ').next().unwrap().to_owned());
        let own = std::process::id().to_string();
        for by in answers {
            let by = by.unwrap_or_else(|lost| panic!("a client is lost, at {moment}/{of} of {usual:?}: {lost}"));
            assert!(by == own || Some(&by) == next.as_ref(), "{by} is neither this generation nor {next:?}");
        }
        match next {
            Some(next) => {
                let client = BufReader::new(tcp(first.address));
                let mut client = client;
                client.get_mut().write_all(b"there?\n").unwrap();
                assert_eq!(line(&mut client), format!("{next} there?"));
                kill(pid(next.parse().unwrap()), Signal::SIGKILL).unwrap();
                let old = std::mem::replace(&mut first, task::block_on(First::start()));
                task::block_on(async move { drop(old.handle.shutdown().await) });
                taken += 1;
            }
            None => {
                first.serves();
                dropped += 1;
            }
        }
    }
    println!("{of} hand-overs: {dropped} dropped, {taken} taken over, {served} clients served");
    task::block_on(first.end());
}
