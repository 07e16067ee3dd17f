//! R8: a server that is out of descriptors backs off without spinning, logs what to do, recovers, and stops promptly.
//!
//! The server runs in a process of its own (this test binary again) with a low limit on open files. The clients are in
//! this process, so that their descriptors do not count for that limit.
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

/// Not a test: the program that the tests start.
#[test]
fn the_server_program() {
    if std::env::var_os(AS_SERVER).is_none() {
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).unwrap();
    log::set_logger(&ToStandardOutput).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    task::block_on(async {
        // More than the limit on open files allows. The default of `max_connections` avoids this mistake.
        let server = Server::bind("127.0.0.1:0").await.unwrap().max_connections(10_000);
        println!("LISTENING {}", server.local_addr());
        let handle = server.handle();
        let stop = async_std::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap(); // EOF also asks for the shutdown
        });
        let requested_at = std::sync::Arc::new(std::sync::Mutex::new(Instant::now()));
        let set = requested_at.clone();
        let server = server.shutdown_when(async move {
            stop.await;
            *set.lock().unwrap() = Instant::now();
        });
        let report = server.serve(echo).await.unwrap();
        println!("CLOSED after {} ms", requested_at.lock().unwrap().elapsed().as_millis());
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

    /// Waits for the next line that contains `what`, and returns it.
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

    /// Returns the processor time that the program has used, in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Asks for a shutdown. Returns the milliseconds that it took, and the program's lines `ERRORS` and `SERVED`.
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

/// Asserts that the server echoes this client's message.
fn assert_echo(mut client: &TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn r08_out_of_descriptors_a_server_logs_once_a_step_does_not_spin_and_recovers() {
    on_thread(|| {
        let mut program = Program::start();
        // More clients than the server has descriptors for: the kernel completes their connections, but the server
        // cannot accept them.
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
        // One line for each step of the back-off, which doubles from 5 ms to 1 s.
        assert_eq!(pauses, ["5ms", "10ms", "20ms", "40ms", "80ms", "160ms", "320ms", "640ms", "1s"]);

        // It uses no processor time during the back-off, and goes on serving the clients that it has accepted.
        let before = program.ticks();
        std::thread::sleep(Duration::from_secs(2));
        let ticks = program.ticks() - before;
        assert!(ticks <= 20, "the server spins: {ticks} ticks of 10 ms in 2 s");
        println!("{ticks} ticks of 10 ms in 2 s of exhaustion");
        assert_echo(&clients[0]);

        // Descriptors become free, and every client in the backlog is served.
        clients.drain(..20);
        clients.iter().for_each(assert_echo);
        let (_, errors, served) = program.stop();
        let errors: Vec<u64> = errors.split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
        assert!(
            errors[0] >= 9 && errors[0] == errors[1],
            "the errors are counted in the report and by the handle: {errors:?}"
        );
        assert_eq!(served, format!("SERVED {OPEN_FILES} of {OPEN_FILES}"));
    });
}

#[test]
fn r08_a_shutdown_during_a_back_off_does_not_wait_for_its_end_and_no_retry_follows() {
    on_thread(|| {
        let mut program = Program::start();
        let _clients: Vec<_> = (0..OPEN_FILES).map(|_| program.connect()).collect();
        let _ = program.line_with("trying again in 1s");
        let (ms, _, _) = program.stop();
        assert!(ms < 900, "the shutdown waited for the end of the back-off: {ms} ms");
        println!("closed {ms} ms after the request");
        let late: Vec<_> = program.lines.iter().filter(|line| line.contains("trying again")).collect();
        assert!(late.is_empty(), "retried after the shutdown: {late:?}");
    });
}
