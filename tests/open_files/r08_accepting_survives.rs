//! R8: a server that is out of descriptors waits without spinning, says what to do, recovers, and stops promptly.
//! Behaviours 28 and 29.
//!
//! The server runs as a process of its own (this test binary once more) with a low limit on open files; the clients are
//! here, so that their descriptors do not count.
#![cfg(target_os = "linux")]

use crate::support::{NET, echo, on_thread};
use async_std::task;
use ebbtide::Server;
use nix::sys::resource::{Resource, setrlimit};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const AS_SERVER: &str = "EBBTIDE_TEST_AS_SERVER";
const OPEN_FILES: u64 = 40;

/// Not a test by itself: the program that the tests run.
#[test]
fn the_server_program() {
    if std::env::var_os(AS_SERVER).is_none() {
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).unwrap();
    log::set_logger(&ToStandardOutput).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    task::block_on(async {
        // Beyond what the open files allow: the mistake that the default avoids.
        let server = Server::bind("127.0.0.1:0").await.unwrap().max_connections(10_000);
        println!("LISTENING {}", server.local_addr());
        let handle = server.handle();
        let stop = async_std::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap(); // the end of input says stop, too
        });
        let started = std::sync::Arc::new(std::sync::Mutex::new(Instant::now()));
        let begin = started.clone();
        let server = server.shutdown_when(async move {
            stop.await;
            *begin.lock().unwrap() = Instant::now();
        });
        let report = server.serve(echo).await.unwrap();
        println!("CLOSED after {} ms", started.lock().unwrap().elapsed().as_millis());
        println!("ERRORS {} {}", report.accept_errors(), handle.accept_errors());
        let (completed, accepted) = (report.completed(), report.accepted());
        println!("SERVED {completed} of {accepted}");
    });
}

struct ToStandardOutput;

impl log::Log for ToStandardOutput {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("{} {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

struct Program {
    child: Child,
    lines: Receiver<String>,
    address: SocketAddr,
}

impl Program {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "r08_accepting_survives::the_server_program", "--nocapture"])
            .env(AS_SERVER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut program = Self { child, lines, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        program.address = program.line_with("LISTENING ").rsplit(' ').next().unwrap().parse().unwrap();
        program
    }

    /// The next line that contains `what`.
    fn line_with(&self, what: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(NET).unwrap_or_else(|error| panic!("no line with `{what}`: {error}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(NET)).unwrap();
        client
    }

    /// Processor time so far, in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Asks for a shutdown, and gives what the program says about it.
    fn stop(&mut self) -> (u64, String, String) {
        drop(self.child.stdin.take());
        let closed = self.line_with("CLOSED after ");
        let ms = closed.split_whitespace().nth(2).unwrap().parse().unwrap();
        let (errors, served) = (self.line_with("ERRORS"), self.line_with("SERVED"));
        assert!(self.child.wait().unwrap().success());
        (ms, errors, served)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answers(mut client: &TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn r08_out_of_descriptors_it_says_so_once_a_step_rests_and_recovers() {
    on_thread(|| {
        let mut program = Program::start();
        // More than it has descriptors for: the kernel takes them, and it cannot.
        let mut clients: Vec<_> = (0..OPEN_FILES).map(|_| program.connect()).collect();
        let mut pauses = Vec::new();
        while pauses.last().is_none_or(|pause| pause != "1s") {
            let line = program.line_with("trying again in ");
            assert!(
                line.starts_with("WARN ") && line.contains("ulimit -n") && line.contains("max_connections"),
                "{line}"
            );
            let pause = line.split("trying again in ").nth(1).unwrap().split(':').next().unwrap();
            pauses.push(pause.to_owned());
        }
        // One line a step, from 5 ms doubling to 1 s.
        assert_eq!(pauses, ["5ms", "10ms", "20ms", "40ms", "80ms", "160ms", "320ms", "640ms", "1s"]);

        // It rests meanwhile, and goes on serving those whom it has.
        let before = program.ticks();
        std::thread::sleep(Duration::from_secs(2));
        let ticks = program.ticks() - before;
        assert!(ticks <= 20, "{ticks} ticks of 10 ms in 2 s: it spins");
        println!("{ticks} ticks of 10 ms in 2 s of exhaustion");
        answers(&clients[0]);

        // Descriptors come free, and everybody who waits is served.
        clients.drain(..20);
        clients.iter().for_each(answers);
        let (_, errors, served) = program.stop();
        let errors: Vec<u64> = errors.split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
        assert!(errors[0] >= 9 && errors[0] == errors[1], "counted, in the report and through the handle: {errors:?}");
        assert_eq!(served, format!("SERVED {OPEN_FILES} of {OPEN_FILES}"));
    });
}

#[test]
fn r08_a_shutdown_during_the_pause_does_not_wait_for_it_and_nothing_fires_later() {
    on_thread(|| {
        let mut program = Program::start();
        let _clients: Vec<_> = (0..OPEN_FILES).map(|_| program.connect()).collect();
        let _ = program.line_with("trying again in 1s");
        let (ms, _, _) = program.stop();
        assert!(ms < 900, "it has waited for the end of the pause: {ms} ms");
        println!("closed {ms} ms after the request");
        let late: Vec<_> = program.lines.iter().filter(|line| line.contains("trying again")).collect();
        assert!(late.is_empty(), "{late:?}");
    });
}
