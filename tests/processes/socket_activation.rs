//! Socket activation: sockets from systemd's own `systemd-socket-activate`, if it is installed, and from a launcher
//! that does the same. `cargo test --features systemd` also builds the example that the tests run.
#![cfg(all(feature = "systemd", target_os = "linux"))]

use crate::support::launcher::{ONE, launch, service};
use crate::support::process;
use crate::support::process::{ANY_PORT, Ended, PATIENCE, Process, this_binary};
use async_std::task;
use ebbtide::systemd;
use nix::sys::signal::Signal;
use socket2::SockRef;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;

/// The default number of executor threads, and one.
const EXECUTORS: [Option<&str>; 2] = [None, Some("1")];

#[test]
fn systemd_starts_the_service_with_the_first_client_and_passes_all_sockets() {
    if !has_systemd_socket_activate() {
        return;
    }
    for threads in EXECUTORS {
        let folder = Folder::new("activated");
        let path = folder.0.join("echo.sock");
        let address = free_address();
        let program = service(threads);
        let mut activate = Command::new("systemd-socket-activate");
        activate.arg("-l").arg(&address).arg("-l").arg(&path);
        if let Some(threads) = threads {
            for variable in ["ASYNC_STD_THREAD_COUNT", "SMOL_THREADS"] {
                activate.arg(format!("--setenv={variable}={threads}"));
            }
        }
        let service = Process::start(activate.arg(program.get_program()));
        service.wait_for_error(" as 4.");
        echoes(TcpStream::connect(&address).unwrap());
        service.wait_for(&format!("Server listening on {address}, {}", path.display()));
        echoes(UnixStream::connect(&path).unwrap());
        service.send(Signal::SIGTERM);
        assert_served(&service.wait(), 2);
        assert!(path.exists(), "systemd's socket file must not be removed");
    }
}

#[test]
fn sockets_of_systemd_are_taken_by_their_names() {
    if !has_systemd_socket_activate() {
        return;
    }
    let folder = Folder::new("named");
    let path = folder.0.join("admin.sock");
    let address = free_address();
    let program = program("serves admin");
    let mut activate = Command::new("systemd-socket-activate");
    activate.arg("-l").arg(&address).arg("-l").arg(&path).arg("--fdname=http:admin");
    for (name, value) in program.get_envs() {
        let value = value.expect("no variable is removed").to_str().expect("the test sets only UTF-8");
        activate.arg(format!("--setenv={}={value}", name.to_str().expect("the test sets only UTF-8")));
    }
    let service = Process::start(activate.arg(program.get_program()).args(program.get_args()));
    service.wait_for_error(" as 4.");
    echoes(UnixStream::connect(&path).unwrap());
    service.wait_for(&format!("left: http; Server listening on {}", path.display()));
    assert_eq!(service.wait().status.code(), Some(0));
}

#[test]
fn the_service_restores_the_sockets_mode_and_leaves_the_backlog_to_the_next_instance() {
    for (threads, blocking) in [(None, true), (None, false), (Some("1"), true), (Some("1"), false)] {
        let folder = Folder::new("left");
        let path = folder.0.join("echo.sock");
        let socket = UnixListener::bind(&path).unwrap();
        socket.set_nonblocking(!blocking).unwrap();
        let is_blocking = || !SockRef::from(&socket).nonblocking().unwrap();

        let first = launch(ONE, &service(threads), &socket);
        first.wait_for("Server listening on ");
        echoes(UnixStream::connect(&path).unwrap());
        assert!(!is_blocking(), "no accept may block the service");
        first.send(Signal::SIGTERM);
        assert_served(&first.wait(), 1);
        assert_eq!(is_blocking(), blocking);
        assert!(path.exists());

        let waits = UnixStream::connect(&path).expect("the socket still listens");
        let second = launch(ONE, &service(threads), &socket);
        echoes(waits);
        second.send(Signal::SIGTERM);
        assert_served(&second.wait(), 1);
        assert_eq!(is_blocking(), blocking);
    }
}

#[test]
fn all_sockets_of_one_name_are_returned_and_only_once() {
    let socket = TcpListener::bind(ANY_PORT).unwrap();
    let script = r#"LISTEN_FDNAMES=http:admin:http LISTEN_FDS=3 LISTEN_PID=$$ exec "$@" 3<&0 4<&0 5<&0 0</dev/null"#;
    let ended = launch(script, &program("takes all"), &socket).wait();
    let address = socket.local_addr().unwrap();
    let expected = [
        "names: http admin http".to_owned(),
        "again: resource busy: cannot take the sockets of the service manager: they have been taken before; \
         keep what the first call returned"
            .to_owned(),
        "missing: entity not found: the service manager has passed no socket `missing`: there are `http`, `admin`, \
         `http`; `FileDescriptorName=` in the socket unit names them"
            .to_owned(),
        format!("http: {address} {address}"),
        "http again: entity not found: the service manager has passed no socket `http`: there are `admin`; \
         `FileDescriptorName=` in the socket unit names them"
            .to_owned(),
        "left: admin, descriptor 4, closed on exec: true".to_owned(),
    ];
    let printed: Vec<_> = ended.stdout.iter().filter(|line| line.contains(": ")).cloned().collect();
    assert_eq!(printed, expected, "{ended:?}");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[test]
fn a_missing_or_wrong_variable_is_an_error_with_the_remedy() {
    let socket = TcpListener::bind(ANY_PORT).unwrap();
    let table = [
        (r#"exec "$@""#, "`LISTEN_PID` and `LISTEN_FDS` are not set; start this program from a socket unit, or try"),
        (r#"LISTEN_FDS=1 LISTEN_PID=1 exec "$@" 3<&0"#, "they were passed to process 1 (`LISTEN_PID`), and this is "),
        (r#"LISTEN_FDS=abc LISTEN_PID=$$ exec "$@" 3<&0"#, "`LISTEN_FDS` is `abc`, which is no number"),
        (
            r#"LISTEN_FDNAMES=a:b LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0"#,
            "`LISTEN_FDNAMES` is `a:b`: 2 names for the 1 of `LISTEN_FDS`",
        ),
        (r#"LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&-"#, "the descriptor 3 "),
        (r#"LISTEN_FDS=200 LISTEN_PID=$$ exec "$@" 3<&0"#, "the descriptor 4 "),
    ];
    for (script, text) in table {
        let ended = launch(script, &service(None), &socket).wait();
        assert_refuses(&ended, &format!("error: cannot take the sockets of the service manager: {text}"));
    }
}

#[test]
fn a_descriptor_that_is_no_listening_socket_is_an_error_that_names_it() {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let datagrams = UdpSocket::bind(ANY_PORT).unwrap();
    let script = r#"LISTEN_FDNAMES=echo LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 0</dev/null"#;
    let refused = |socket: std::os::fd::BorrowedFd<'_>, text: &str| {
        let ended = launch(script, &service(None), socket).wait();
        assert_refuses(
            &ended,
            &format!("error: the socket `echo`: cannot serve on the inherited descriptor 3: {text}"),
        );
    };
    use std::os::fd::AsFd;
    refused(File::open("/dev/null").unwrap().as_fd(), "it is no socket (a socket unit takes `ListenStream=`");
    refused(datagrams.as_fd(), "it is no stream socket");
    refused(connected.as_fd(), "it does not listen");
}

/// Not a test by itself: the programs that the tests run.
#[test]
fn the_program() {
    match process::part_to_play().as_deref() {
        None => return,
        Some("takes all") => takes_all(),
        Some("serves admin") => serves_admin(),
        Some(other) => panic!("no such part: {other}"),
    }
    std::process::exit(0);
}

fn program(part: &str) -> Command {
    this_binary(module_path!(), "the_program", part)
}

fn takes_all() {
    let mut sockets = systemd::sockets().unwrap();
    let print = |what: &str, error: std::io::Error| println!("{what}: {}: {error}", error.kind());
    println!("\nnames: {}", sockets.names().collect::<Vec<_>>().join(" "));
    print("again", systemd::sockets().unwrap_err());
    print("missing", sockets.listeners("missing").unwrap_err());
    let http: Vec<_> = sockets.listeners("http").unwrap().iter().map(ToString::to_string).collect();
    println!("http: {}", http.join(" "));
    print("http again", sockets.server("http").unwrap_err());
    for (name, fd) in sockets {
        let closed = rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC);
        println!("left: {name}, descriptor {}, closed on exec: {closed}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    }
}

/// Serves the socket `admin` until one client has had its echo.
fn serves_admin() {
    use async_std::prelude::*;
    let mut sockets = systemd::sockets().unwrap();
    let server = sockets.server("admin").unwrap();
    println!("\nleft: {}; {server}", sockets.names().collect::<Vec<_>>().join(" "));
    let handle = server.handle();
    let echo = move |mut conn: ebbtide::Connection| {
        let handle = handle.clone();
        async move {
            let mut message = [0; 5];
            conn.read_exact(&mut message).await?;
            conn.write_all(&message).await?;
            drop(handle.shutdown());
            std::io::Result::Ok(())
        }
    };
    task::block_on(server.serve(echo)).unwrap();
}

/// Checks that the client gets its echo, and then EOF.
fn echoes(mut client: impl Client) {
    client.set_timeout();
    client.write_all(b"hello").unwrap();
    let mut echoed = [0; 5];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello");
    client.half_close();
    assert_eq!(client.read(&mut echoed).expect("EOF and no reset"), 0);
}

trait Client: Read + Write {
    fn set_timeout(&self);
    fn half_close(&self);
}

impl Client for TcpStream {
    fn set_timeout(&self) {
        self.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    fn half_close(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Client for UnixStream {
    fn set_timeout(&self) {
        self.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    fn half_close(&self) {
        match self.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == ErrorKind::NotConnected => {} // the server has closed first
            shut => shut.unwrap(),
        }
    }
}

fn assert_served(ended: &Ended, clients: usize) {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let report = ended.stdout.last().map_or("", String::as_str);
    let counts = format!("{clients} accepted, {clients} completed, 0 failed");
    assert!(report.contains(&counts), "no `{counts}`: {ended:?}");
}

fn assert_refuses(ended: &Ended, text: &str) {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.len() == 1 && ended.stderr[0].contains(text), "no `{text}`: {ended:?}");
}

fn has_systemd_socket_activate() -> bool {
    let has_it = Command::new("systemd-socket-activate").arg("--version").output().is_ok_and(|it| it.status.success());
    if !has_it {
        println!("skipped: there is no systemd-socket-activate (Debian has it in the package `systemd`)");
    }
    has_it
}

/// Returns a free address. `systemd-socket-activate` does not report the port that the kernel chooses, so the test has
/// to choose one. It takes a loopback address of its own, on which no other process binds.
fn free_address() -> String {
    let [.., a, b] = std::process::id().to_be_bytes();
    let probe = TcpListener::bind((std::net::Ipv4Addr::new(127, a | 1, b, 1), 0)).unwrap();
    probe.local_addr().unwrap().to_string()
}

/// A folder of the test's own, which its drop removes.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ebbtide-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}
