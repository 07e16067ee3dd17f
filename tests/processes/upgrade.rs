//! One generation of a program hands its listening sockets over to the next (feature `upgrade`).
//!
//! `fifty_upgrades…` counts exactly: each request gets its answer, and the generations have accepted as many clients as
//! have connected. The other tests give the sockets to successors that fail or lie, and see the old generation serve on.
#![cfg(all(unix, feature = "upgrade"))]

use crate::support::files::Folder;
use crate::support::process::{PATIENCE, Process, part_to_play, print_log, send, this_binary};
use async_std::io::prelude::*;
use async_std::task;
use ebbtide::upgrade::Upgrade;
use ebbtide::{Connection, Handle, ListenOptions, signal};
use futures_lite::StreamExt;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How many upgrades there are in a row. `EBBTIDE_TEST_UPGRADES` sets another number.
const UPGRADES: usize = 50;

/// How many clients of each kind there are.
const CLIENTS: usize = 3;

/// The least number of short connections that each generation serves.
const BETWEEN: usize = 20;

/// The pause between two requests on a long connection.
const NOW_AND_THEN: Duration = Duration::from_millis(15);

/// Names the file that some of the programs use.
const FILE: &str = "EBBTIDE_TEST_FILE";

/// The number of a generation, from 0.
const GENERATION: &str = "EBBTIDE_TEST_GENERATION";

const GOODBYE: &str = "goodbye";

fn program(part: &str, file: &Path) -> Command {
    let mut command = this_binary(module_path!(), "the_program", part);
    command.env(FILE, file);
    command
}

#[test]
fn fifty_upgrades_in_a_row_lose_no_client_and_no_request() {
    let upgrades = std::env::var("EBBTIDE_TEST_UPGRADES").map_or(UPGRADES, |number| number.parse().unwrap());
    let folder = Folder::new();
    let path = folder.path("service.sock");
    let first = Process::start(&mut program("generation", &path));
    let listening = first.wait_for("listens on 127.0.0.1:");
    let address = SocketAddr::from(([127, 0, 0, 1], listening.rsplit(':').next().unwrap().parse().unwrap()));
    let group = KillGroup(first.id());
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (connected, answered) = thread::scope(|scope| {
        let (over, served, path) = (&over, &served, &path);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(scope.spawn(move || short_connections(|| tcp(address), over, served)));
            clients.push(scope.spawn(move || long_connections(|| tcp(address), over)));
        }
        clients.push(scope.spawn(move || short_connections(|| unix(path), over, served)));
        clients.push(scope.spawn(move || long_connections(|| unix(path), over)));
        let ends = EndClients(over);
        let mut running = first.id();
        for upgrade in 1..=upgrades {
            let before = served.load(Ordering::SeqCst);
            while served.load(Ordering::SeqCst) < before + BETWEEN && !clients.iter().any(|one| one.is_finished()) {
                thread::sleep(Duration::from_millis(1));
            }
            send(running, Signal::SIGHUP);
            let line = first.wait_for(&format!("generation {upgrade} is ready, process "));
            running = line.rsplit(' ').next().unwrap().parse().unwrap();
        }
        drop(ends);
        let sums = clients.into_iter().map(|client| client.join().unwrap());
        let sums = sums.fold((0, 0), |sum, one: (usize, usize)| (sum.0 + one.0, sum.1 + one.1));
        send(running, Signal::SIGTERM);
        sums
    });
    let ended = first.wait(); // all generations have closed the output
    std::mem::forget(group);
    let reports: Vec<_> = ended.stdout.iter().filter(|line| line.contains(" has ended: ")).collect();
    assert_eq!(reports.len(), upgrades + 1, "{ended:?}");
    let mut accepted = 0;
    for report in reports {
        assert!(report.contains(", 0 failed, 0 panicked, 0 cancelled"), "{report}");
        let (_, reason) = report.split_once(" because ").unwrap();
        let (_, counts) = reason.split_once(": ").unwrap();
        accepted += counts.split(' ').next().unwrap().parse::<usize>().unwrap();
    }
    println!("{upgrades} upgrades, {connected} connections, {answered} answers");
    assert_eq!(accepted, connected, "the generations must have accepted every client, and no other");
    assert!(!path.exists(), "the last generation must remove the socket's file");
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

fn tcp(address: SocketAddr) -> Box<dyn Stream> {
    let client = TcpStream::connect(address).expect("each client can connect");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    Box::new(client)
}

fn unix(path: &Path) -> Box<dyn Stream> {
    let client = UnixStream::connect(path).expect("each client can connect");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    Box::new(client)
}

/// Connects, asks once, and closes, until the test is over. Returns the numbers of connections and of answers.
fn short_connections(connect: impl Fn() -> Box<dyn Stream>, over: &AtomicBool, served: &AtomicUsize) -> (usize, usize) {
    let mut count = 0;
    while !over.load(Ordering::SeqCst) {
        let mut client = BufReader::new(connect());
        let question = format!("short {count}");
        client.get_mut().write_all(format!("{question}\n").as_bytes()).unwrap();
        assert!(line(&mut client).ends_with(&question), "a short connection must get its answer");
        served.fetch_add(1, Ordering::SeqCst);
        count += 1;
    }
    (count, count)
}

/// Keeps a connection open, and asks now and then, until the server says goodbye; then it connects again.
fn long_connections(connect: impl Fn() -> Box<dyn Stream>, over: &AtomicBool) -> (usize, usize) {
    let (mut connections, mut answers) = (0, 0);
    while !over.load(Ordering::SeqCst) {
        let mut client = BufReader::new(connect());
        connections += 1;
        let mut server = None;
        for turn in 0.. {
            if over.load(Ordering::SeqCst) {
                break;
            }
            let question = format!("long {turn}");
            // It fails only if the server has said goodbye and closed, which is read next.
            let _is_gone = client.get_mut().write_all(format!("{question}\n").as_bytes());
            let answer = line(&mut client);
            if answer == GOODBYE {
                assert!(turn > 0, "the first request of a connection must be answered");
                break;
            }
            let (process, echo) = answer.split_once(' ').unwrap_or_else(|| panic!("no answer: `{answer}`"));
            assert_eq!(echo, question);
            let process = process.to_owned();
            assert_eq!(*server.get_or_insert(process.clone()), process, "a connection stays with its generation");
            answers += 1;
            thread::sleep(NOW_AND_THEN);
        }
    }
    (connections, answers)
}

/// Reads a line, without its end. EOF and errors fail the test: the connection was lost.
fn line(client: &mut impl BufRead) -> String {
    let mut line = String::new();
    let read = client.read_line(&mut line).unwrap_or_else(|error| panic!("a connection is lost: {error}"));
    assert!(read > 0, "a connection ended without a goodbye");
    line.trim_end().to_owned()
}

/// Ends the test's clients, on a panic too.
struct EndClients<'a>(&'a AtomicBool);

impl Drop for EndClients<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Kills all generations when a test fails.
struct KillGroup(u32);

impl Drop for KillGroup {
    fn drop(&mut self) {
        let _gone = killpg(Pid::from_raw(i32::try_from(self.0).unwrap()), Signal::SIGKILL);
    }
}

/// A first generation in this process, with TCP and a Unix socket.
struct First {
    upgrade: Upgrade,
    handle: Handle,
    address: SocketAddr,
    path: PathBuf,
    serving: task::JoinHandle<ebbtide::Report>,
    _folder: Folder,
}

impl First {
    async fn start() -> Self {
        let folder = Folder::new();
        let path = folder.path("service.sock");
        let upgrade = Upgrade::from_env().unwrap().timeout(PATIENCE);
        let local = upgrade.listen_unix(&path, &ListenOptions::new()).await.unwrap();
        let server = upgrade.bind("127.0.0.1:0").await.unwrap().add_listener(local).grace(Duration::from_secs(5));
        let (handle, address) = (server.handle(), server.local_addr().tcp().unwrap());
        let serving = task::spawn(async { server.serve(answer).await.unwrap() });
        Self { upgrade, handle, address, path, serving, _folder: folder }
    }

    /// Checks that this process serves both sockets.
    fn serves(&self) {
        for stream in [tcp(self.address), unix(&self.path)] {
            let mut client = BufReader::new(stream);
            client.get_mut().write_all(b"there?\n").unwrap();
            assert_eq!(line(&mut client), format!("{} there?", std::process::id()));
        }
    }

    async fn hand_over_fails(&self, command: Command, limit: Duration) -> io::Error {
        let error = self.upgrade.clone().timeout(limit).hand_over(command).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(" failed, and this generation goes on serving: "), "{text}");
        error
    }

    async fn end(self) {
        self.handle.shutdown().await;
        let report = self.serving.await;
        assert_eq!(report.failed() + report.panicked() + report.cancelled(), 0, "{report}");
        assert!(!self.path.exists());
        // The kernel closes sockets that were on their way to a process that was killed a moment after its end.
        let over = Instant::now() + PATIENCE;
        let error = loop {
            match TcpStream::connect(self.address) {
                Ok(_) if Instant::now() < over => task::sleep(Duration::from_millis(1)).await,
                Ok(_) => panic!("a socket of this generation is still open"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

/// Far less than the limit of a hand-over that is expected to end sooner.
const SOON: Duration = Duration::from_millis(400);

#[test]
fn a_successor_that_fails_or_lies_leaves_the_old_generation_serving() {
    task::block_on(async {
        let first = First::start().await;
        let file = first.path.clone();
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        let mut closes = Command::new("sh");
        closes.args(["-c", "exec sleep 60 <&-"]);
        let mut fails = Command::new("sh");
        fails.args(["-c", "exit 3"]);
        let table = [
            (Command::new("true"), PATIENCE, "it ended before it was ready (exit status: 0)"),
            (fails, PATIENCE, "it ended before it was ready (exit status: 3)"),
            (closes, PATIENCE, "it closed its connection before it was ready; it was killed"),
            (sleep, SOON, "it was not ready within 400ms; it was killed"),
            (program("dies after hello", &file), PATIENCE, "it ended before it was ready (exit status: 7)"),
            (program("dies with the sockets", &file), PATIENCE, "it ended before it was ready (exit status: 8)"),
            (program("is never ready", &file), SOON, "it was not ready within 400ms; it was killed"),
            (program("garbage", &file), PATIENCE, "`GET /` is no message of the hand-over"),
            (program("flood", &file), PATIENCE, "is no message of the hand-over"),
            (program("version 9", &file), PATIENCE, "the other generation speaks version 9"),
            (program("long message", &file), PATIENCE, "expected the message Hello, got Hello with 8000 bytes"),
            (program("ready first", &file), PATIENCE, "expected the message Hello, got Ready"),
            (program("hello twice", &file), PATIENCE, "expected the message Ready, got Hello"),
            (program("makes blocking", &file), PATIENCE, "it ended before it was ready (exit status: 9)"),
            (program("does not bind", &file), PATIENCE, "it ended before it was ready (exit status: 10)"),
        ];
        for (command, limit, text) in table {
            let shown = format!("{command:?}");
            let error = first.hand_over_fails(command, limit).await;
            assert!(error.to_string().contains(text), "{shown}: no `{text}` in `{error}`");
            first.serves();
        }
        // It serves, and does not say that it is ready: no client gets to it.
        let upgrade = first.upgrade.clone().timeout(SOON);
        let serves = program("serves without being ready", &file);
        let failing = task::spawn(async move { upgrade.hand_over(serves).await.unwrap_err() });
        let over = Instant::now() + SOON;
        while Instant::now() < over {
            first.serves();
        }
        let error = failing.await.to_string();
        assert!(error.contains("it was not ready within 400ms; it was killed"), "{error}");
        first.serves();
        let error = first.upgrade.hand_over(Command::new("/no/such/program")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().starts_with("cannot start the next generation, `/no/such/program`: give"), "{error}");
        first.serves();
        first.end().await;
    });
}

#[test]
fn a_second_hand_over_while_one_runs_is_an_error_and_a_dropped_one_kills_its_process() {
    task::block_on(async {
        let first = First::start().await;
        let started = first.path.with_extension("started");
        let other = first.upgrade.clone();
        let slow = other.hand_over(program("is never ready", &started));
        let second = async {
            until_there(&started).await;
            let error = first.upgrade.hand_over(Command::new("true")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
            first.serves();
        };
        futures_lite::future::or(second, async { drop(slow.await) }).await;
        // The drop has killed and waited for it.
        let id: i32 = std::fs::read_to_string(&started).unwrap().parse().unwrap();
        assert!(nix::sys::signal::kill(Pid::from_raw(id), None).is_err(), "process {id} still runs");
        first.serves();
        first.hand_over_fails(Command::new("true"), PATIENCE).await;
        first.end().await;
    });
}

/// Waits until a program has written a file.
async fn until_there(file: &Path) {
    while std::fs::read(file).map_or(true, |text| text.is_empty()) {
        task::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_generation_that_is_closed_while_a_hand_over_runs_hands_nothing_over_and_removes_its_file() {
    task::block_on(async {
        let first = First::start().await;
        let file = first.path.with_extension("file");
        let other = first.upgrade.clone();
        let successor = program("is ready when its file is gone", &file);
        let handing = task::spawn(async move { other.hand_over(successor).await });
        until_there(&file).await;
        first.handle.shutdown().await;
        assert!(!first.path.exists(), "the file is still that of the old generation");
        std::fs::remove_file(&file).unwrap();
        let error = handing.await.unwrap_err();
        assert!(error.to_string().contains("a listener of this generation was closed meanwhile"), "{error}");
        let error = first.upgrade.hand_over(Command::new("true")).await.unwrap_err();
        assert!(error.to_string().contains("no socket is open"), "{error}");
        first.end().await;
    });
}

#[test]
fn a_successor_that_says_ready_twice_has_taken_over_once() {
    task::block_on(async {
        let first = First::start().await;
        let mut client = BufReader::new(tcp(first.address));
        client.get_mut().write_all(b"one\n").unwrap();
        line(&mut client);
        let successor = first.upgrade.hand_over(program("ready twice", &first.path)).await.unwrap();
        // The old one accepts no client any more; it drains the one it has.
        let waiting = TcpStream::connect(first.address).unwrap();
        let error = first.upgrade.hand_over(Command::new("true")).await.unwrap_err();
        let text = format!("process {} has taken over already", successor.id());
        assert!(error.to_string().contains(&text), "{error}");
        client.get_mut().write_all(b"two\n").unwrap();
        assert_eq!(line(&mut client), format!("{} two", std::process::id()));
        first.handle.shutdown().await;
        assert_eq!(line(&mut client), GOODBYE);
        assert_eq!(first.serving.await.accepted(), 1);
        assert!(first.path.exists(), "the file is the successor's");
        waiting.set_nonblocking(true).unwrap();
        let error = (&waiting).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "the client must wait in the backlog, which the successor has");
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(successor.id()).unwrap()), Signal::SIGKILL).unwrap();
    });
}

#[test]
fn a_socket_that_the_successor_does_not_bind_is_closed_with_a_warning_and_its_file_removed() {
    task::block_on(async {
        let first = First::start().await;
        let output = first.path.with_extension("output");
        let mut successor = program("binds TCP only", &output);
        successor.stdout(std::fs::File::create(&output).unwrap());
        first.upgrade.hand_over(successor).await.unwrap();
        let (path, handle) = (first.path.display().to_string(), first.handle.clone());
        handle.shutdown().await;
        let mut client = BufReader::new(tcp(first.address));
        client.get_mut().write_all(b"exit\n").unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap(); // EOF: it has ended
        let output = std::fs::read_to_string(&output).unwrap();
        let warning = format!("WARN closed the socket `{path}`: the generation before has passed it, and this one has");
        assert!(output.contains(&warning), "{output}");
        assert!(output.contains("its child is a successor: false"), "{output}");
        assert!(output.contains("its standard input is that of the generation before: true"), "{output}");
        assert!(!first.path.exists());
        first.serving.await;
    });
}

#[test]
fn garbage_in_the_variable_is_an_error_that_shows_it_and_a_value_for_another_process_means_nothing() {
    let run = |value: &str| {
        let mut command = program("is it a successor", Path::new(""));
        let ended = Process::start(command.env("EBBTIDE_UPGRADE", value)).wait();
        ended.stdout.into_iter().find(|line| line.contains("successor")).unwrap()
    };
    for garbage in ["", "yes", "1:2", "1:2:x", "\u{1b}[2J"] {
        let line = run(garbage);
        let shown = garbage.escape_default();
        assert!(line.contains(&format!("successor: InvalidData `EBBTIDE_UPGRADE` is `{shown}`, which no")), "{line}");
    }
    let line = run("2:8:4242");
    assert!(line.contains("successor: InvalidData the generation before speaks version 2"), "{line}");
    assert_eq!(run("1:8:4242"), "successor: false");
}

async fn answer(mut conn: Connection) -> io::Result<()> {
    let mut lines = conn.lines().max_len(4096);
    while let Some(line) = lines.next().await? {
        if line == "exit" {
            exit(0);
        }
        conn.write_all(format!("{} {line}\n", std::process::id()).as_bytes()).await?;
    }
    if conn.is_draining() {
        conn.write_all(format!("{GOODBYE}\n").as_bytes()).await?;
    }
    Ok(())
}

/// Not a test by itself: the programs that the tests start.
#[test]
fn the_program() {
    let Some(part) = part_to_play() else { return };
    let file = PathBuf::from(std::env::var_os(FILE).unwrap_or_default());
    print_log();
    let done = match part.as_str() {
        "generation" => task::block_on(generation(&file)),
        "binds TCP only" => task::block_on(tcp_only()),
        "serves without being ready" => task::block_on(async {
            let upgrade = Upgrade::from_env()?;
            let server = upgrade.bind("127.0.0.1:0").await?;
            server.serve(answer).await.map(drop).map_err(Into::into)
        }),
        "is it a successor" => match Upgrade::from_env() {
            Ok(upgrade) => {
                println!("successor: {}", upgrade.is_successor());
                Ok(())
            }
            Err(error) => {
                println!("successor: {:?} {error}", error.kind());
                Ok(())
            }
        },
        "dies with the sockets" => {
            let _upgrade = Upgrade::from_env().unwrap();
            exit(8)
        }
        "does not bind" => match task::block_on(async {
            let upgrade = Upgrade::from_env()?;
            let server = upgrade.bind("192.0.2.1:80").await?; // no address of this machine
            upgrade.ready().await.map(|()| server)
        }) {
            Ok(_) => Ok(()),
            Err(_) => exit(10),
        },
        lie => liar(lie, &file),
    };
    if let Err(error) = &done {
        println!("{error}");
    }
    exit(i32::from(done.is_err()));
}

/// A generation of the service, which hands over at each SIGHUP.
async fn generation(path: &Path) -> io::Result<()> {
    let number: usize = std::env::var(GENERATION).map_or(0, |number| number.parse().unwrap());
    let signals = signal::termination()?;
    let mut hangups = signal::hangup()?;
    let upgrade = Upgrade::from_env()?;
    let local = upgrade.listen_unix(path, &ListenOptions::new()).await?;
    let server = upgrade.bind("127.0.0.1:0").await?.add_listener(local).shutdown_on(signals);
    let server = server.grace(Duration::from_secs(60)).newcomer_time(Duration::from_secs(10));
    if number == 0 {
        println!("listens on {}", server.local_addrs().next().unwrap());
    }
    let (_, report) = server
        .scope(answer, async |server| {
            upgrade.ready().await?;
            println!("generation {number} is ready, process {}", std::process::id());
            while server.until_shutdown(hangups.next()).await.is_some() {
                let mut next = program("generation", path);
                next.env(GENERATION, (number + 1).to_string());
                match upgrade.hand_over(next).await {
                    Ok(_) => break,
                    Err(error) => println!("{error}"),
                }
            }
            Ok(())
        })
        .await?;
    println!("generation {number} has ended: {report}");
    Ok(())
}

async fn tcp_only() -> io::Result<()> {
    let upgrade = Upgrade::from_env()?;
    let own = std::fs::read_link("/proc/self/fd/0").ok();
    let parents = std::fs::read_link(format!("/proc/{}/fd/0", std::os::unix::process::parent_id())).ok();
    println!("its standard input is that of the generation before: {}", own == parents);
    let server = upgrade.bind("127.0.0.1:0").await?;
    let child = program("is it a successor", Path::new("")).output()?;
    let child = String::from_utf8_lossy(&child.stdout).into_owned();
    println!("its child is a {}", child.lines().find(|line| line.starts_with("successor")).unwrap_or(&child));
    server
        .scope(answer, async |handle| {
            upgrade.ready().await?;
            handle.closed().await;
            Ok(())
        })
        .await?;
    Ok(())
}

/// A successor that speaks the messages by itself, and wrongly.
fn liar(lie: &str, file: &Path) -> io::Result<()> {
    const HELLO: &[u8] = b"eb\x01\x01\0\0";
    const READY: &[u8] = b"eb\x01\x05\0\0";
    let mut channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let wait = |channel: &mut UnixStream| while channel.read(&mut [0; 512]).is_ok_and(|read| read > 0) {};
    let _sockets;
    match lie {
        "dies after hello" => {
            channel.write_all(HELLO)?;
            exit(7);
        }
        "is never ready" => {
            channel.write_all(HELLO)?;
            std::fs::write(file.with_extension("started"), std::process::id().to_string())?;
        }
        "garbage" => channel.write_all(b"GET / HTTP/1.1\r\n\r\n")?,
        "flood" => while channel.write_all(&[b'x'; 65_536]).is_ok() {},
        "version 9" => channel.write_all(b"eb\x09\x01\0\0")?,
        "long message" => channel.write_all(&[b"eb\x01\x01\x1f\x40", &[0; 8000][..]].concat())?,
        "ready first" => channel.write_all(READY)?,
        "hello twice" => channel.write_all(&[HELLO, HELLO].concat())?,
        "ready twice" => {
            channel.write_all(HELLO)?;
            _sockets = receive_all(&channel);
            channel.write_all(&[READY, READY].concat())?;
        }
        "makes blocking" => {
            channel.write_all(HELLO)?;
            for socket in receive_all(&channel) {
                TcpListener::from(socket).set_nonblocking(false)?; // for all of its holders
            }
            exit(9);
        }
        "is ready when its file is gone" => {
            channel.write_all(HELLO)?;
            channel.read_exact(&mut [0; 6])?;
            std::fs::write(file, "the sockets are here")?;
            while file.exists() {
                thread::sleep(Duration::from_millis(2));
            }
            channel.write_all(READY)?;
        }
        other => panic!("there is no program `{other}`"),
    }
    wait(&mut channel);
    thread::sleep(PATIENCE); // until it is killed
    Ok(())
}

/// Receives all messages, up to the last one, and returns the listening sockets.
fn receive_all(channel: &UnixStream) -> Vec<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut sockets = Vec::new();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"eb\x01\x04\0\x02\0\x02") {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buf = [0; 512];
        let received =
            recvmsg(channel, &mut [io::IoSliceMut::new(&mut buf)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert!(received.bytes > 0, "the old generation has closed the connection");
        bytes.extend_from_slice(&buf[..received.bytes]);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
    }
    sockets.remove(0); // the standard input
    sockets
}
