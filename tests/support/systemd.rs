//! The notify socket that systemd would have. It knows the sender of each datagram from the kernel (SCM_CREDENTIALS), as
//! systemd does.

use super::files::Folder;
use super::process::{Ended, PATIENCE, Process};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred};
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

pub struct Systemd {
    pub path: PathBuf,
    folder: Option<Folder>,
    /// Each line of each datagram.
    lines: mpsc::Receiver<String>,
    /// The lines that were received already, and how many of them `wait_for` has passed.
    seen: std::cell::RefCell<(Vec<String>, usize)>,
    /// Gets the id of the first main process.
    main: Option<mpsc::Sender<u32>>,
    reader: Option<thread::JoinHandle<()>>,
}

/// Ends the reader.
const END: &[u8] = b"END";

/// Begins a line of a process that is not the main process.
pub const REFUSED: &str = "refused: ";

impl Systemd {
    /// Accepts datagrams of each process (`NotifyAccess=all`).
    pub fn new() -> Self {
        Self::with(false)
    }

    /// Accepts datagrams of the main process alone (`NotifyAccess=main`), which is the one that `MAINPID` has named
    /// last. Reads nothing before [`main_is`](Self::main_is).
    pub fn for_main() -> Self {
        Self::with(true)
    }

    fn with(only_main: bool) -> Self {
        let folder = Folder::new();
        let path = folder.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        set_socket_passcred(&socket, true).unwrap();
        let (send, lines) = mpsc::channel();
        let (main, first) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut main = only_main.then(|| first.recv().unwrap());
            let mut buf = [0; 8192];
            loop {
                let (n, sender) = receive(&socket, &mut buf);
                if &buf[..n] == END {
                    return;
                }
                let text = std::str::from_utf8(&buf[..n]).unwrap();
                assert!(text.ends_with('\n') && n <= 4096, "{text}");
                let is_refused = main.is_some_and(|main| main != sender);
                for line in text.lines() {
                    match (line.strip_prefix("MAINPID="), &mut main) {
                        (Some(id), Some(main)) if !is_refused => *main = id.parse().unwrap(),
                        _ => {}
                    }
                    let line = if is_refused { format!("{REFUSED}{sender} {line}") } else { line.to_owned() };
                    let _ = send.send(line);
                }
            }
        });
        Self { path, folder: Some(folder), lines, seen: Default::default(), main: Some(main), reader: Some(reader) }
    }

    /// Sets the first main process.
    pub fn main_is(&self, id: u32) {
        self.main.as_ref().unwrap().send(id).unwrap();
    }

    /// Sets the variables of a program that systemd starts.
    pub fn service(&self, mut program: Command) -> Command {
        program.env("NOTIFY_SOCKET", &self.path);
        program
    }

    /// Waits for a line that begins so, behind the one that was found last, and returns it.
    pub fn wait_for(&self, beginning: &str) -> String {
        let (seen, passed) = &mut *self.seen.borrow_mut();
        loop {
            while *passed < seen.len() {
                *passed += 1;
                if seen[*passed - 1].starts_with(beginning) {
                    return seen[*passed - 1].clone();
                }
            }
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => seen.push(line),
                Err(error) => panic!("waited for `{beginning}`: {error}: {seen:#?}"),
            }
        }
    }

    /// Returns the lines that have arrived and that no wait has seen.
    pub fn forget(&self) -> Vec<String> {
        let lines: Vec<_> = self.lines.try_iter().collect();
        let (seen, passed) = &mut *self.seen.borrow_mut();
        seen.extend(lines.iter().cloned());
        *passed = seen.len();
        lines
    }

    /// Waits for the service's end, and returns all lines.
    pub fn all(mut self, service: Process) -> (Vec<String>, Ended) {
        let ended = service.wait();
        self.stop();
        self.forget();
        (self.seen.take().0, ended)
    }

    /// Closes the socket, and removes its file.
    pub fn remove(&mut self) {
        self.stop();
        self.folder = None;
    }

    fn stop(&mut self) {
        self.main = None;
        if let Some(reader) = self.reader.take() {
            UnixDatagram::unbound().unwrap().send_to(END, &self.path).unwrap();
            reader.join().unwrap();
        }
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stop();
        }
    }
}

/// Receives one datagram, and returns its length and the id of the process that has sent it.
fn receive(socket: &UnixDatagram, buf: &mut [u8]) -> (usize, u32) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buf)];
    let received = rustix::io::retry_on_intr(|| recvmsg(socket, &mut slices, &mut control, RecvFlags::empty()));
    let n = received.unwrap().bytes;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid.as_raw_nonzero().get()),
        _ => None,
    });
    (n, u32::try_from(sender.expect("the kernel names the sender")).unwrap())
}

/// Removes systemd's variables from the environment of a program.
pub fn outside_systemd(mut program: Command) -> Command {
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        program.env_remove(variable);
    }
    program
}

/// Connects a client to a service that greets with five bytes, and waits until its handler runs.
pub fn connect(service: &Process) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", service.port())).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    client
}
