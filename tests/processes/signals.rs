//! Signals to a server, as a process: the first drains, the second cancels, the third exits with status 130.
//!
//! The programs are in this file too: the test binary, run once more, plays their parts. Signals within 100
//! milliseconds count once, so a test waits until the last one has shown its effect, and 150 milliseconds more.
#![cfg(unix)]

use crate::support::process;
use crate::support::process::{ANY_PORT, Ended, PATIENCE, Process, this_binary, with_each_executor};
use async_std::prelude::*;
use async_std::{io, task};
use ebbtide::{Connection, Server, signal};
use nix::sys::signal::Signal;
use std::future::pending;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// So long that no test sees it end: what closes earlier was not waiting for it.
const GRACE: Duration = Duration::from_secs(60);

/// How long a busy handler goes on after the drain has begun.
const WORK: Duration = Duration::from_millis(300);

/// More than the kernel buffers, so that it is written as the client reads.
static REPLY: [u8; 8 << 20] = [b'r'; 8 << 20];

/// After this the next signal counts for itself.
const APART: Duration = Duration::from_millis(150);

/// Far above what a close without a grace takes, far below the grace.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn sigint_lets_a_busy_client_have_its_whole_reply_and_an_idle_one_the_end() {
    drains_at(Signal::SIGINT);
}

#[test]
fn sigterm_lets_a_busy_client_have_its_whole_reply_and_an_idle_one_the_end() {
    drains_at(Signal::SIGTERM);
}

#[test]
fn sighup_lets_a_busy_client_have_its_whole_reply_and_an_idle_one_the_end() {
    drains_at(Signal::SIGHUP);
}

fn drains_at(signal: Signal) {
    with_each_executor(|start| {
        let server = start(&mut program("server"));
        let port = server.port();
        let (busy, idle) = (client(port, BUSY), client(port, IDLE));
        server.wait_for("busy");
        server.wait_for("idle");
        server.send(signal);
        assert_eq!(read_to_end(idle), b"", "{server}");
        assert!(read_to_end(busy) == REPLY, "the reply is not whole: {server}");
        assert_closed(&server.wait(), "2 accepted, 2 completed, 0 failed, 0 panicked, 0 cancelled; 2 ended");
    });
}

#[test]
fn a_second_signal_cancels_a_handler_that_never_ends() {
    for (first, second) in [(Signal::SIGINT, Signal::SIGINT), (Signal::SIGTERM, Signal::SIGINT)] {
        with_each_executor(|start| {
            let mut server = start(&mut program("server"));
            let endless = client(server.port(), ENDLESS);
            server.wait_for("endless");
            server.send(first);
            server.wait_for("draining");
            thread::sleep(APART);
            assert!(server.is_running(), "one signal was enough: {server}");

            let asked = Instant::now();
            server.send(second);
            assert_eq!(read_to_end(endless), b"", "{server}");
            assert_closed(&server.wait(), "1 accepted, 0 completed, 0 failed, 0 panicked, 1 cancelled; 0 ended");
            assert!(asked.elapsed() < SOON, "closed after {:.1?}", asked.elapsed());
        });
    }
}

#[test]
fn a_third_signal_exits_with_status_130_though_a_handler_blocks_its_thread() {
    with_each_executor(|start| {
        let mut server = start(&mut program("watched server"));
        let _blocking = client(server.port(), BLOCKING);
        server.wait_for("blocking");
        server.send(Signal::SIGINT);
        server.wait_for("signal 1");
        server.wait_for("blocked");
        thread::sleep(APART);
        server.send(Signal::SIGTERM);
        server.wait_for("signal 2");
        thread::sleep(APART);
        assert!(server.is_running(), "two signals were enough: {server}");

        let asked = Instant::now();
        server.send(Signal::SIGINT);
        let ended = server.wait();
        assert_eq!(ended.status.code(), Some(130), "{ended:?}");
        assert!(asked.elapsed() < SOON, "ended after {:.1?}", asked.elapsed());
        assert!(!ended.stdout.iter().any(|line| line.starts_with("closed in")), "{ended:?}");
    });
}

#[test]
fn under_nohup_a_closing_terminal_drains_all_the_same() {
    with_each_executor(|start| {
        let server = start(&mut inside("nohup", &[], program("server")));
        let idle = client(server.port(), IDLE);
        server.wait_for("idle");
        server.send(Signal::SIGHUP); // `nohup` has become the program, so this is its id
        assert_eq!(read_to_end(idle), b"", "{server}");
        assert_closed(&server.wait(), "1 accepted, 1 completed");
    });
}

#[test]
fn in_the_background_of_a_shell_script_ctrl_c_drains_all_the_same() {
    with_each_executor(|start| {
        let script = r#""$@" & echo "process $!"; wait "$!""#;
        let shell = start(&mut inside("sh", &["-c", script, "sh"], program("server")));
        let line = shell.wait_for("process ");
        let id = line.trim_start_matches("process ").parse().expect("the shell says its child's id");
        let idle = client(shell.port(), IDLE);
        shell.wait_for("idle");
        process::send(id, Signal::SIGINT);
        assert_eq!(read_to_end(idle), b"", "{shell}");
        assert_closed(&shell.wait(), "1 accepted, 1 completed"); // the shell ends with the program's status
    });
}

#[test]
fn a_program_with_a_handler_of_its_own_is_told_so() {
    with_each_executor(|start| {
        let ended = start(&mut program("own handler")).wait();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let error = ended.stdout.last().map_or("", String::as_str);
        assert!(error.starts_with("AlreadyExists: could not handle SIGINT, SIGTERM and SIGHUP"), "{ended:?}");
        assert!(error.contains("the program already has a handler for"), "{ended:?}");
        if cfg!(target_os = "linux") {
            assert!(error.contains("`SIGHUP`, `SIGINT`, `SIGTERM`"), "{ended:?}");
        }
        assert!(error.contains("remove it, or let it feed a stream of your own"), "{ended:?}");
    });
}

/// A terminal that closes sends SIGHUP twice. If they counted as two, the next signal would end the process.
#[test]
fn two_sighups_within_100_ms_count_once() {
    with_each_executor(|start| {
        for _ in 0..20 {
            let counter = start(&mut program("counter"));
            if !two_sighups_count_once(&counter) {
                continue;
            }
            thread::sleep(APART);
            counter.send(Signal::SIGTERM);
            let ended = counter.wait();
            assert_eq!(ended.status.code(), Some(130), "{ended:?}");
            return;
        }
        panic!("in 20 tries this machine never handled two signals within 100 ms");
    });
}

/// `false` where the machine was too slow to tell.
fn two_sighups_count_once(program: &Process) -> bool {
    program.wait_for("counting");
    let first = Instant::now();
    program.send(Signal::SIGHUP);
    program.wait_for("signal 1"); // or the kernel may make one of the two
    program.send(Signal::SIGHUP);
    if program.prints_within(APART, "signal 2") {
        let both = first.elapsed();
        assert!(both >= Duration::from_millis(100), "two signals within {both:.1?} count twice: {program}");
        return false;
    }
    program.send(Signal::SIGINT);
    program.wait_for("signal 2");
    true
}

/// Plays a part, if this process is one of the programs above. As a test of its own it has nothing to say.
#[test]
fn plays_its_part() {
    let played = match process::part_to_play().as_deref() {
        None => return,
        Some("server") => task::block_on(serve_until_told()),
        Some("watched server") => {
            watch_signals();
            task::block_on(serve_until_told())
        }
        Some("counter") => {
            watch_signals();
            println!("counting");
            park()
        }
        Some("own handler") => {
            ctrlc::set_handler(|| ()).expect("it is the first");
            signal::ctrl_c().map(drop)
        }
        Some(other) => panic!("there is no part `{other}`"),
    };
    if let Err(error) = &played {
        println!("{:?}: {error}", error.kind());
    }
    std::process::exit(i32::from(played.is_err()));
}

fn program(part: &str) -> Command {
    this_binary(module_path!(), "plays_its_part", part)
}

async fn serve_until_told() -> io::Result<()> {
    let server = Server::bind(ANY_PORT).await?.grace(GRACE).shutdown_on(signal::ctrl_c()?);
    println!("{server}");
    let report = server.serve(as_asked).await?;
    println!("{report}");
    Ok(())
}

// What a client asks for, with its first byte.
const BUSY: u8 = b'b';
const IDLE: u8 = b'i';
const ENDLESS: u8 = b'e';
const BLOCKING: u8 = b't';

async fn as_asked(conn: Connection) -> io::Result<()> {
    let mut stream = &conn;
    let mut asked = [0];
    stream.read_exact(&mut asked).await?;
    match asked[0] {
        BUSY => {
            println!("busy");
            conn.until_draining(pending::<()>()).await; // so it is in the middle of its work, however slow the test is
            task::sleep(WORK).await;
            stream.write_all(&REPLY).await
        }
        IDLE => {
            println!("idle");
            conn.until_draining(stream.read(&mut asked)).await.transpose().map(drop)
        }
        ENDLESS => {
            println!("endless");
            conn.until_draining(pending::<()>()).await;
            println!("draining");
            pending().await
        }
        BLOCKING => {
            println!("blocking");
            conn.until_draining(pending::<()>()).await;
            println!("blocked");
            park()
        }
        other => panic!("asked for {other}"),
    }
}

/// Says which signals have counted, from a thread that no handler can block.
fn watch_signals() {
    let mut signals = signal::ctrl_c().expect("there is no other handler");
    thread::spawn(move || {
        for n in 1.. {
            async_io::block_on(signals.next());
            println!("signal {n}");
        }
    });
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

/// The same program, started by another one.
fn inside(outer: &str, arguments: &[&str], program: Command) -> Command {
    let mut command = Command::new(outer);
    command.args(arguments).arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Status 0, and the report as the last line.
fn assert_closed(ended: &Ended, counts: &str) {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stderr, [""; 0], "{ended:?}");
    let report = ended.stdout.last().map_or("", String::as_str);
    assert!(report.contains(&format!("because a shutdown stream asked for it: {counts}")), "{ended:?}");
}

fn client(port: u16, ask: u8) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(&[ask]).unwrap();
    client
}

/// What is still to come, until the server closes. A reset is a failure here.
fn read_to_end(mut client: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the client reads the end");
    rest
}
