//! One generation of a program hands its listening sockets over to the next (feature `upgrade`).
//!
//! - `load` counts exactly: each request gets its answer, and the generations have accepted as many clients as have
//!   connected.
//! - `failures` has successors that fail or lie, `deaths` processes that are killed or stopped, and `moments` ends at
//!   many moments: one generation serves on, and no client is lost.
//! - `sockets` tests which socket is found for which address, and what becomes of the others.
//! - `programs` has the programs that the tests start, `liar` those that send messages of their own.
#![cfg(all(unix, feature = "upgrade"))]

mod deaths;
mod failures;
mod liar;
mod load;
mod moments;
mod programs;
mod sockets;

use crate::support::files::Folder;
use crate::support::process::{PATIENCE, this_binary};
use async_std::io::prelude::*;
use async_std::task;
use ebbtide::upgrade::Upgrade;
use ebbtide::{Connection, Handle, ListenOptions};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::time::{Duration, Instant};

/// Names the file that some of the programs use.
const FILE: &str = "EBBTIDE_TEST_FILE";

const GOODBYE: &str = "goodbye";

fn program(part: &str, file: &Path) -> Command {
    let mut command = this_binary(module_path!(), "programs::the_program", part);
    command.env(FILE, file);
    command
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

/// Reads a line, without its end. EOF and errors fail the test: the connection was lost.
fn line(client: &mut impl BufRead) -> String {
    let mut line = String::new();
    let read = client.read_line(&mut line).unwrap_or_else(|error| panic!("a connection is lost: {error}"));
    assert!(read > 0, "a connection ended without a goodbye");
    line.trim_end().to_owned()
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
        // Another test of this binary may start a process at this moment. Between fork and exec that child has copies
        // of all descriptors, and the port is open for so long.
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

/// Waits until a program has written a file.
async fn until_there(file: &Path) {
    while std::fs::read(file).map_or(true, |text| text.is_empty()) {
        task::sleep(Duration::from_millis(2)).await;
    }
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
