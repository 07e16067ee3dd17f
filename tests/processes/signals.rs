//! Signals to a server in a process of its own. The first one drains, the second one cancels, and the third one exits
//! with status 128 + its number. A signal that the environment ignores stays ignored, one that it blocks is received,
//! and SIGHUP belongs to the program.
//!
//! The programs are in this file, too: the test binary runs once more in their parts. Requests within 100 milliseconds
//! count once, so a test waits until the last request has had its effect, and 150 milliseconds more.
#![cfg(unix)]

use crate::support::NET;
use crate::support::files::Folder;
use crate::support::process;
use crate::support::process::{ANY_PORT, Ended, PATIENCE, Process, print_log, this_binary, with_each_executor};
use async_std::prelude::*;
use async_std::{io, task};
use ebbtide::signal::{self, Signals};
use ebbtide::{Connection, Server};
use nix::sys::signal::{SigSet, Signal};
use std::future::pending;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A grace that ends in no test: a server that closes earlier did not wait for it.
const GRACE: Duration = Duration::from_secs(60);

/// How long a busy handler goes on after the drain has begun.
const WORK: Duration = Duration::from_millis(300);

/// More than the kernel buffers, so the server is still writing while the client reads.
static REPLY: [u8; 8 << 20] = [b'r'; 8 << 20];

/// After this time the next signal counts as another request.
const APART: Duration = Duration::from_millis(150);

/// Much longer than a close without a grace takes, and much shorter than the grace.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn on_sigint_a_busy_client_gets_its_whole_reply_and_an_idle_one_gets_eof() {
    drains_at("server", Signal::SIGINT);
}

#[test]
fn on_sigterm_a_busy_client_gets_its_whole_reply_and_an_idle_one_gets_eof() {
    drains_at("server", Signal::SIGTERM);
}

#[test]
fn sighup_stops_a_server_that_has_it_as_its_shutdown_signal() {
    drains_at("server until SIGHUP", Signal::SIGHUP);
}

#[test]
fn three_signals_at_once_are_one_request() {
    drains_after("server", Signal::SIGTERM, |server| {
        for signal in [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGTERM] {
            server.send(signal);
        }
    });
}

fn drains_at(part: &str, signal: Signal) {
    drains_after(part, signal, |server| server.send(signal));
}

fn drains_after(part: &str, signal: Signal, ask: impl Fn(&Process) + Sync) {
    with_each_executor(|start| {
        let server = start(&mut program(part));
        let port = server.port();
        let (busy, idle) = (client(port, BUSY), client(port, IDLE));
        server.wait_for("busy");
        server.wait_for("idle");
        ask(&server);
        assert_eq!(read_to_end(idle), b"", "{server}");
        assert!(read_to_end(busy) == REPLY, "the reply is not whole: {server}");
        server.wait_for(&format!(": received {signal}: shutting down"));
        server.wait_for("; a second signal stops now");
        assert_closed(
            &server.wait(),
            signal,
            "2 accepted, 2 completed, 0 failed, 0 panicked, 0 cancelled; of these, 2 ended",
        );
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
            assert!(server.is_running(), "one signal has ended the server: {server}");

            let asked = Instant::now();
            server.send(second);
            assert_eq!(read_to_end(endless), b"", "{server}");
            server.wait_for(&format!(": received {second}, the second signal: stopping now"));
            let ended = server.wait();
            assert_closed(
                &ended,
                first,
                "1 accepted, 0 completed, 0 failed, 0 panicked, 1 cancelled; of these, 0 ended",
            );
            assert!(asked.elapsed() < SOON, "closed after {:.1?}", asked.elapsed());
        });
    }
}

#[test]
fn a_third_signal_exits_with_its_status_although_a_handler_blocks_its_thread() {
    for (first, second, status) in [(Signal::SIGINT, Signal::SIGTERM, 130), (Signal::SIGTERM, Signal::SIGINT, 143)] {
        with_each_executor(|start| {
            let server = start(&mut program("watched server"));
            exits_at_the_third(server, [first, second, first], ["signal 1", "signal 2"], status);
        });
    }
}

#[test]
fn a_third_sighup_exits_with_its_status_if_it_is_the_shutdown_signal() {
    let server =
        Process::start(program("server until SIGHUP").env("ASYNC_STD_THREAD_COUNT", "2").env("SMOL_THREADS", "2"));
    exits_at_the_third(server, [Signal::SIGHUP; 3], ["shutting down", "stopping now"], 129);
}

fn exits_at_the_third(mut server: Process, signals: [Signal; 3], effects: [&str; 2], status: i32) {
    let _blocking = client(server.port(), BLOCKING);
    server.wait_for("blocking");
    for (signal, effect) in signals.into_iter().zip(effects) {
        server.send(signal);
        server.wait_for(effect);
        server.wait_for("blocked");
        thread::sleep(APART);
    }
    assert!(server.is_running(), "two signals have ended the server: {server}");

    let asked = Instant::now();
    server.send(signals[2]);
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
    assert!(asked.elapsed() < SOON, "ended after {:.1?}", asked.elapsed());
    let last =
        format!("WARN received {} after an earlier request to stop: exiting now with status {status}", signals[2]);
    assert!(ended.stdout.contains(&last), "{ended:?}");
    assert!(!ended.stdout.iter().any(|line| line.starts_with("closed in")), "{ended:?}");
}

#[test]
fn under_nohup_a_closing_terminal_has_no_effect() {
    with_each_executor(|start| {
        let server = start(&mut inside("nohup", &[], program("server and reload")));
        server.wait_for("INFO SIGHUP stays ignored: ");
        serves_after(&server, server.id(), Signal::SIGHUP); // `nohup` has become the program, so this is its id
        server.send(Signal::SIGTERM);
        let ended = server.wait();
        assert!(!ended.stdout.iter().any(|line| line == "reload"), "{ended:?}");
        assert_closed(&ended, Signal::SIGTERM, "1 accepted, 1 completed");
    });
}

#[test]
fn in_the_background_of_a_shell_script_ctrl_c_has_no_effect() {
    with_each_executor(|start| {
        let script = r#""$@" & echo "process $!"; wait "$!""#;
        let shell = start(&mut inside("sh", &["-c", script, "sh"], program("server")));
        let line = shell.wait_for("process ");
        let id = line.trim_start_matches("process ").parse().expect("the shell prints its child's id");
        shell.wait_for("INFO SIGINT stays ignored: the program that started this one has set it so");
        serves_after(&shell, id, Signal::SIGINT);
        process::send(id, Signal::SIGTERM);
        assert_closed(&shell.wait(), Signal::SIGTERM, "1 accepted, 1 completed"); // the shell has the program's status
    });
}

/// Nothing usual ignores SIGTERM, so this is a warning.
#[test]
fn an_ignored_sigterm_has_no_effect_and_is_warned_of() {
    with_each_executor(|start| {
        let script = r#"trap "" TERM; exec "$@""#;
        let server = start(&mut inside("sh", &["-c", script, "sh"], program("server")));
        server
            .wait_for("WARN SIGTERM stays ignored: the program that started this one has set it so (`trap '' TERM`?)");
        serves_after(&server, server.id(), Signal::SIGTERM);
        server.send(Signal::SIGINT);
        assert_closed(&server.wait(), Signal::SIGINT, "1 accepted, 1 completed");
    });
}

/// A signal cannot be given back, so the crate decides what one does whose stream was dropped.
#[test]
fn after_its_stream_was_dropped_sighup_has_no_effect_and_sigterm_exits_with_its_status() {
    with_each_executor(|start| {
        let mut program = start(&mut program("dropped streams"));
        program.wait_for("dropped");
        program.send(Signal::SIGHUP);
        program.wait_for("INFO received SIGHUP, but its stream was dropped: no effect");
        assert!(program.is_running(), "{program}");
        program.send(Signal::SIGTERM);
        let ended = program.wait();
        assert_eq!(ended.status.code(), Some(128 + 15), "{ended:?}");
        let line = "WARN received SIGTERM whose stream was dropped: exiting now with status 143";
        assert!(ended.stdout.iter().any(|printed| printed.contains(line)), "{ended:?}");
    });
}

/// Sends the signal, and checks that a client that connects afterwards is served.
fn serves_after(server: &Process, id: u32, signal: Signal) {
    let port = server.port();
    process::send(id, signal);
    let mut client = client(port, GREET);
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).unwrap_or_else(|error| panic!("{error}: {server}"));
    assert_eq!(&greeting, b"hello");
}

/// When a session's terminal closes, the kernel sends SIGHUP to the session's leader, which is the server here.
#[test]
fn a_terminal_that_closes_ends_a_server_that_has_not_taken_sighup() {
    let Some((terminal, _leader, server)) = in_a_terminal(program("server")) else { return };
    server.port();
    drop(terminal);
    let ended = server.wait();
    assert!(!ended.stdout.iter().any(|line| line.contains("SIGHUP")), "{ended:?}");
    assert!(!ended.status.success(), "{ended:?}");
    assert!(!ended.stdout.iter().any(|line| line.starts_with("closed in")), "{ended:?}");
}

#[test]
fn a_terminal_that_closes_makes_a_server_reload_that_has_taken_sighup() {
    let Some((terminal, leader, server)) = in_a_terminal(program("server and reload")) else { return };
    let port = server.port();
    drop(terminal);
    server.wait_for("reload");
    let _idle = client(port, IDLE);
    server.wait_for("idle");
    process::send(leader.0, Signal::SIGTERM);
    assert_closed(&server.wait(), Signal::SIGTERM, "1 accepted, 1 completed");
}

#[test]
fn under_nohup_a_server_outlives_its_terminal() {
    let Some((terminal, leader, server)) = in_a_terminal(inside("nohup", &[], program("server"))) else { return };
    let port = server.port();
    drop(terminal);
    let _idle = client(port, IDLE);
    server.wait_for("idle");
    process::send(leader.0, Signal::SIGTERM);
    let ended = server.wait();
    assert!(
        ended.stdout.last().unwrap().contains("because SIGTERM was received: 1 accepted, 1 completed"),
        "{ended:?}"
    );
}

/// Starts the program as the leader of a session with a terminal of its own. The terminal hangs up when the first value
/// is dropped.
fn in_a_terminal(program: Command) -> Option<(impl Sized, Leader, Process)> {
    use nix::fcntl::OFlag;
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
    use std::os::unix::fs::OpenOptionsExt;
    let found = Command::new("setsid").arg("--version").output();
    if !cfg!(target_os = "linux") || !found.is_ok_and(|found| found.status.success()) {
        println!("skipped: there is no `setsid` (util-linux)");
        return None;
    }
    // Closed on exec: a program that another test starts at this moment would inherit it and keep it open.
    let terminal =
        posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a pseudoterminal can be opened");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("the terminal is this process's");
    let slave = ptsname_r(&terminal).expect("the terminal has a name");
    let open = std::fs::OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(slave);
    let server = Process::start_with(
        &mut inside("setsid", &["--ctty", "--wait"], program),
        open.expect("the terminal can be opened"),
    );
    let leader = server.wait_for("process ").trim_start_matches("process ").parse().unwrap();
    Some((terminal, Leader(leader), server))
}

/// The id of a program that is not in the process group of the one that has started it. The drop kills it if the test
/// fails.
struct Leader(u32);

impl Drop for Leader {
    fn drop(&mut self) {
        if thread::panicking() {
            let id = i32::try_from(self.0).expect("process ids are small");
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

#[test]
fn sighup_ends_a_server_that_has_not_taken_it() {
    with_each_executor(|start| {
        let server = start(&mut program("server"));
        server.port();
        server.send(Signal::SIGHUP);
        let ended = server.wait();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(1), "{ended:?}");
    });
}

#[test]
fn a_programs_own_handler_for_sighup_is_still_called() {
    with_each_executor(|start| {
        let server = start(&mut program("server with a handler for SIGHUP"));
        server.port();
        for n in 1..=3 {
            server.send(Signal::SIGHUP);
            server.wait_for(&format!("own SIGHUP {n}"));
        }
        serves_after(&server, server.id(), Signal::SIGHUP);
        server.send(Signal::SIGTERM);
        assert_closed(&server.wait(), Signal::SIGTERM, "1 accepted, 1 completed");
    });
}

#[test]
fn each_sighup_is_one_reload_and_stops_nothing() {
    with_each_executor(|start| {
        let server = start(&mut program("server and reload"));
        server.port();
        for n in 1..=5 {
            server.send(Signal::SIGHUP);
            server.wait_for_nth(n, "reload");
        }
        server.send(Signal::SIGTERM);
        assert_closed(&server.wait(), Signal::SIGTERM, "0 accepted");
    });
}

#[test]
fn every_stream_of_a_signal_receives_it() {
    with_each_executor(|start| {
        let program = start(&mut program("three streams"));
        program.wait_for("waiting");
        program.send(Signal::SIGUSR1);
        let ended = program.wait();
        assert_eq!(ended.stdout[2..], ["waiting", "User1 SIGUSR1", "User1 SIGUSR1", "User1 SIGUSR1"], "{ended:?}");
    });
}

/// Every program that a process starts inherits its signal mask.
#[test]
fn signals_that_the_parent_has_blocked_are_received() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        with_each_executor(|start| {
            let server = start(&mut program("a parent that blocks signals"));
            server.port();
            let line = format!(
                "WARN {signal} was blocked, by the program that started this one, or by this thread, and would have \
                 had no effect: a thread unblocks it and listens"
            );
            assert_eq!(server.wait_for(&format!("WARN {signal}")), line);
            server.send(signal);
            assert_closed(&server.wait(), signal, "0 accepted");
        });
    }
}

#[test]
fn a_programs_own_handler_for_sigint_is_called_too() {
    for part in ["own handler by ctrlc", "own handler"] {
        with_each_executor(|start| {
            let server = start(&mut program(part));
            if cfg!(target_os = "linux") {
                let text = "INFO SIGINT has a handler already, of another part of this program: it is called first";
                assert_eq!(server.wait_for("INFO SIGINT"), text);
            }
            server.port();
            server.send(Signal::SIGINT);
            server.wait_for("own SIGINT");
            assert_closed(&server.wait(), Signal::SIGINT, "0 accepted");
        });
    }
}

/// A terminal may send a signal twice. If that counted as two requests, the next signal would end the process.
#[test]
fn two_signals_within_100_ms_count_once() {
    with_each_executor(|start| {
        for _ in 0..20 {
            let counter = start(&mut program("counter"));
            if !two_signals_count_once(&counter) {
                continue;
            }
            thread::sleep(APART);
            counter.send(Signal::SIGTERM);
            let ended = counter.wait();
            assert_eq!(ended.status.code(), Some(143), "{ended:?}");
            return;
        }
        panic!("in 20 attempts this machine never handled two signals within 100 ms");
    });
}

/// Returns `false` if the machine was too slow for the test.
fn two_signals_count_once(program: &Process) -> bool {
    program.wait_for("counting");
    let first = Instant::now();
    program.send(Signal::SIGTERM);
    program.wait_for("signal 1"); // otherwise the kernel may merge the two signals
    program.send(Signal::SIGTERM);
    if program.prints_within(APART, "signal 2") {
        let both = first.elapsed();
        assert!(both >= Duration::from_millis(100), "two signals within {both:.1?} count twice: {program}");
        return false;
    }
    program.send(Signal::SIGINT);
    program.wait_for("signal 2");
    true
}

#[test]
fn a_signal_between_the_bind_and_serve_leaves_no_socket_file() {
    with_each_executor(|start| {
        let folder = Folder::new();
        let path = folder.path("between.sock");
        let mut server = start(program("bound").env(SOCKET, &path));
        server.wait_for("bound");
        assert!(path.exists());
        server.send(Signal::SIGTERM);
        server.say("go on");
        assert_closed(&server.wait(), Signal::SIGTERM, "0 accepted");
        assert!(!path.exists());
    });
}

/// The kernel delivers to process 1 of a container only signals for which it has a handler.
#[cfg(target_os = "linux")]
#[test]
fn as_process_1_a_signal_before_the_bind_is_not_lost() {
    let tries: [&[&str]; 2] =
        [&["--pid", "--fork", "--mount-proc"], &["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]];
    let may = |arguments: &&&[&str]| {
        Command::new("unshare").args(**arguments).arg("true").output().is_ok_and(|output| output.status.success())
    };
    let Some(arguments) = tries.iter().find(may) else {
        return println!("skipped: the kernel, or the container of this test, allows no `unshare --pid`");
    };
    with_each_executor(|start| {
        let folder = Folder::new();
        let path = folder.path("process-1.sock");
        let arguments: Vec<_> = arguments.iter().copied().chain(["--kill-child"]).collect();
        let mut server = start(inside("unshare", &arguments, program("taken")).env(SOCKET, &path));
        assert_eq!(server.wait_for("process "), "process 1");
        server.wait_for("taken");
        let children = format!("/proc/{0}/task/{0}/children", server.id());
        let id = std::fs::read_to_string(children).unwrap().trim().parse().expect("`unshare` has one child");
        process::send(id, Signal::SIGTERM);
        server.say("go on");
        assert_closed(&server.wait(), Signal::SIGTERM, "0 accepted");
        assert!(!path.exists());
    });
}

/// Not a test by itself: the programs that the tests run.
#[test]
fn the_program() {
    let Some(part) = process::part_to_play() else { return };
    print_log();
    let played = match part.as_str() {
        "server" => serve_until(signal::termination),
        "server until SIGHUP" => serve_until(signal::hangup),
        "watched server" => {
            count_signals();
            serve_until(signal::termination)
        }
        "server and reload" => {
            reload_on_sighup();
            serve_until(signal::termination)
        }
        "server with a handler for SIGHUP" => {
            let _called = handle("SIGHUP", signal_hook::consts::SIGHUP);
            serve_until(signal::termination)
        }
        "own handler" => {
            let called = handle("SIGINT", signal_hook::consts::SIGINT);
            serve_and_wait_for(&called, signal::termination)
        }
        "own handler by ctrlc" => {
            let (called, is_called) = mpsc::channel();
            let own = move || {
                println!("own SIGINT 1");
                let _ = called.send(());
            };
            ctrlc::set_handler(own).expect("`ctrlc` has no handler yet");
            serve_and_wait_for(&is_called, signal::ctrl_c)
        }
        "a parent that blocks signals" => {
            let blocked: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
            blocked.thread_block().unwrap();
            become_program("server")
        }
        "three streams" => three_streams(),
        "dropped streams" => {
            drop((signal::hangup().unwrap(), signal::termination().unwrap()));
            println!("dropped");
            park()
        }
        "counter" => {
            count_signals();
            println!("counting");
            park()
        }
        "bound" => task::block_on(serve_at_a_socket(false)),
        "taken" => task::block_on(serve_at_a_socket(true)),
        other => panic!("there is no part `{other}`"),
    };
    if let Err(error) = &played {
        println!("{:?}: {error}", error.kind());
    }
    std::process::exit(i32::from(played.is_err()));
}

fn program(part: &str) -> Command {
    this_binary(module_path!(), "the_program", part)
}

/// Replaces this process by another program, which inherits its signal mask. (`Command` would empty the mask.)
fn become_program(part: &str) -> ! {
    use std::ffi::CString;
    let text = |text: &std::ffi::OsStr| CString::new(text.as_encoded_bytes()).unwrap();
    let program = program(part);
    let arguments: Vec<_> = [program.get_program()].into_iter().chain(program.get_args()).map(text).collect();
    let new = program.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let variables = std::env::vars_os().filter(|(name, _)| program.get_envs().all(|(new, _)| new != name)).chain(new);
    let variables: Vec<_> = variables
        .map(|(name, value)| [&text(&name).into_string().unwrap(), "=", &text(&value).into_string().unwrap()].concat())
        .map(|pair| CString::new(pair).unwrap())
        .collect();
    let Err(error) = nix::unistd::execve(&arguments[0], &arguments, &variables);
    panic!("cannot become {program:?}: {error}");
}

fn serve_until(signals: fn() -> io::Result<Signals>) -> io::Result<()> {
    println!("process {}", std::process::id());
    task::block_on(async {
        let signals = signals()?;
        let server = Server::bind(ANY_PORT).await?.grace(GRACE).shutdown_on(signals);
        println!("{server}");
        let report = server.serve(as_ordered).await?;
        println!("{report}");
        Ok(())
    })
}

/// The program's own handler runs on another thread, which may be slower than the server. So the process waits for it.
fn serve_and_wait_for(own_handler: &mpsc::Receiver<()>, signals: fn() -> io::Result<Signals>) -> io::Result<()> {
    let served = serve_until(signals);
    own_handler.recv_timeout(NET).expect("the program's own handler is called");
    served
}

/// Takes the signals, binds, and serves, with a pause before the bind or before `serve`.
async fn serve_at_a_socket(before_the_bind: bool) -> io::Result<()> {
    let pause = |what| {
        println!("{what}");
        std::io::stdin().lines().next();
    };
    println!("process {}", std::process::id());
    let signals = signal::termination()?;
    if before_the_bind {
        pause("taken");
    }
    let server = Server::bind_unix(std::env::var_os(SOCKET).expect("the test sets it")).await?.shutdown_on(signals);
    if !before_the_bind {
        pause("bound");
    }
    let report = server.serve(as_ordered).await?;
    println!("{report}");
    Ok(())
}

fn reload_on_sighup() {
    let mut hangups = signal::hangup().unwrap();
    thread::spawn(move || {
        while async_io::block_on(hangups.next()).is_some() {
            println!("reload");
        }
    });
}

/// Installs a signal handler that does not belong to this crate.
fn handle(name: &'static str, number: i32) -> mpsc::Receiver<()> {
    let mut signals = signal_hook::iterator::Signals::new([number]).unwrap();
    let (called, is_called) = mpsc::channel();
    thread::spawn(move || {
        for (n, _) in signals.forever().enumerate() {
            println!("own {name} {}", n + 1);
            let _ = called.send(());
        }
    });
    is_called
}

fn three_streams() -> io::Result<()> {
    let streams: [_; 3] = std::array::from_fn(|_| signal::user1().unwrap());
    println!("waiting");
    task::block_on(async {
        for mut stream in streams {
            let signal = stream.next().await.expect("a stream of signals never ends");
            println!("{signal:?} {signal}");
        }
    });
    Ok(())
}

/// The environment variable with the path at which a program listens.
const SOCKET: &str = "EBBTIDE_TEST_SOCKET";

// The first byte of a client chooses what its handler does.
const BUSY: u8 = b'b';
const IDLE: u8 = b'i';
const ENDLESS: u8 = b'e';
const BLOCKING: u8 = b't';
const GREET: u8 = b'g';

async fn as_ordered(conn: Connection) -> io::Result<()> {
    let mut stream = &conn;
    let mut asked = [0];
    stream.read_exact(&mut asked).await?;
    match asked[0] {
        BUSY => {
            println!("busy");
            conn.until_draining(pending::<()>()).await; // so the drain begins during the work, on a slow machine too
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
        GREET => stream.write_all(b"hello").await,
        BLOCKING => {
            println!("blocking");
            conn.until_draining(pending::<()>()).await;
            println!("blocked");
            park()
        }
        other => panic!("asked for {other}"),
    }
}

/// Prints each request that counts, from a thread that no handler can block.
fn count_signals() {
    let mut signals = signal::termination().expect("the signals can be taken");
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

/// Returns the command for the same program, started by the program `outer`.
fn inside(outer: &str, arguments: &[&str], program: Command) -> Command {
    let mut command = Command::new(outer);
    command.args(arguments).arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Checks that the status is 0, and that the last line is the report.
fn assert_closed(ended: &Ended, cause: Signal, counts: &str) {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stderr, [""; 0], "{ended:?}");
    // A handler of the program's own may print after it.
    let report = ended.stdout.iter().rfind(|line| line.starts_with("closed in ")).map_or("", String::as_str);
    assert!(report.contains(&format!("because {cause} was received: {counts}")), "{ended:?}");
}

fn client(port: u16, ask: u8) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(&[ask]).unwrap();
    client
}

/// Reads to EOF. A reset fails the test.
fn read_to_end(mut client: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the client reads EOF");
    rest
}
