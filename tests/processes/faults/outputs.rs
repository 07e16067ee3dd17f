//! The outputs of a server cannot be written to: the disk is full, or nobody reads the pipe. The logger is femme, which
//! prints to standard output; on an error it panics, and on a full pipe it waits for ever.

use super::{Numbers, connect, say_and_hear, server};
use crate::support::files::Folder;
use crate::support::process::PATIENCE;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A server whose outputs the test has made. It is killed at the end of its test at the latest.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(folder: &Folder, threads: usize, outputs: [Stdio; 2]) -> Self {
        let [stdout, stderr] = outputs;
        let files = format!("files={}", folder.itself().display());
        let mut command = server(&[&files, "log=femme"], threads);
        Self(command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap())
    }

    fn wait(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the server does not end");
            sleep(Duration::from_millis(2));
        }
    }
}

/// Waits until the server has written this file.
fn text(path: &Path) -> String {
    let start = Instant::now();
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) => return text,
            Err(error) => assert!(start.elapsed() < PATIENCE, "no `{}`: {error}", path.display()),
        }
        sleep(Duration::from_millis(2));
    }
}

/// Checks that a server with these outputs serves, drains at SIGTERM, and counts.
fn serves_and_drains(outputs: impl Fn() -> [Stdio; 2]) {
    for threads in [1, 2] {
        let folder = Folder::new();
        let server = Server::start(&folder, threads, outputs());
        let address = text(&folder.path("address"));
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        let mut clients: Vec<_> = (0..10).map(|_| connect(port).unwrap()).collect();
        for client in &mut clients {
            say_and_hear(client, b"hello").unwrap_or_else(|error| panic!("a client is not served: {error}"));
        }
        crate::support::process::send(server.0.id(), Signal::SIGTERM);
        for client in &mut clients {
            let read = std::io::Read::read(client, &mut [0]);
            assert!(matches!(read, Ok(0)), "{read:?}");
        }
        let numbers = Numbers::from_line(&text(&folder.path("numbers")));
        assert_eq!([numbers.get("accepted"), numbers.get("completed")], [10, 10], "{numbers:?}");
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_server_whose_log_is_on_a_full_disk_serves_and_drains() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    serves_and_drains(|| [full(), Stdio::null()]);
    serves_and_drains(|| [full(), full()]);
}

/// Returns one end of a full pipe, and the other end, which nobody reads.
fn full_pipe() -> (Stdio, UnixStream) {
    let (mut full, unread) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    loop {
        match full.write(&[b'x'; 1 << 16]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    full.set_nonblocking(false).unwrap();
    (Stdio::from(OwnedFd::from(full)), unread)
}

#[test]
fn a_server_whose_log_is_a_full_pipe_serves_and_drains() {
    let kept = std::cell::RefCell::new(Vec::new());
    let full = || {
        let (full, unread) = full_pipe();
        kept.borrow_mut().push(unread);
        full
    };
    serves_and_drains(|| [full(), Stdio::null()]);
    serves_and_drains(|| [full(), full()]);
}
