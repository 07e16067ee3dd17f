//! Which socket is found for which address, and what becomes of the others.

use super::{First, line, program, tcp, unix, until_there};
use crate::support::process::{PATIENCE, Process};
use async_std::task;
use ebbtide::Connection;
use ebbtide::upgrade::{Successor, Upgrade};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

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
        let warning =
            format!("WARN closed the socket `{path}`: the previous generation has passed it, and this one has not");
        let text = || std::fs::read_to_string(&output).unwrap();
        let over = Instant::now() + PATIENCE;
        while !text().contains(&warning) {
            assert!(Instant::now() < over, "{}", text());
            task::sleep(Duration::from_millis(2)).await;
        }
        let mut client = BufReader::new(tcp(first.address));
        client.get_mut().write_all(b"exit\n").unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap(); // EOF: it has ended
        let output = text();
        let second =
            "a second one: Err(\"the sockets of the previous generation have been taken already: clone the first";
        assert!(output.contains(second), "{output}");
        assert!(output.contains("its child is a successor: false"), "{output}");
        assert!(output.contains("its standard input is that of the previous generation: true"), "{output}");
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
    assert!(line.contains("successor: InvalidData the previous generation has version 2"), "{line}");
    assert_eq!(run("1:8:4242"), "successor: false");
}

/// Kills the successor at the end of a test.
struct Killed(Successor);

impl Drop for Killed {
    fn drop(&mut self) {
        let _gone = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGKILL);
    }
}

/// Returns the process that answers.
fn who_serves(stream: impl Read + Write) -> u32 {
    let mut client = BufReader::new(stream);
    client.get_mut().write_all(b"there?\n").unwrap();
    line(&mut client).split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_file_of_a_socket_gets_the_mode_of_the_next_generation_when_that_one_accepts() {
    task::block_on(async {
        let first = First::start().await;
        let (other, started) = (first.upgrade.clone(), first.path.with_extension("started"));
        let mode = || first.path.metadata().unwrap().permissions().mode() & 0o777;
        let before = mode();
        assert_ne!(before, 0o600);
        let next = program("has another mode", &first.path);
        let handing = task::spawn(async move { other.hand_over(next).await.unwrap() });
        until_there(&started).await;
        assert_eq!(mode(), before, "the old generation still serves it");
        std::fs::remove_file(started).unwrap();
        let next = Killed(handing.await);
        let over = Instant::now() + PATIENCE;
        while mode() != 0o600 {
            assert!(Instant::now() < over);
            task::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(who_serves(unix(&first.path)), next.0.id());
        drop(first.handle.shutdown().await);
    });
}

#[test]
fn a_socket_is_found_again_after_a_bind_that_failed() {
    task::block_on(async {
        let first = First::start().await;
        let next = Killed(first.upgrade.hand_over(program("binds again after an error", &first.path)).await.unwrap());
        assert_eq!(who_serves(tcp(first.address)), next.0.id());
        drop(first.handle.shutdown().await);
    });
}

#[test]
fn the_next_generation_can_add_ipv6_to_a_port_of_all_ipv4_addresses() {
    if TcpStream::connect("[::1]:9").is_err_and(|error| error.kind() != ErrorKind::ConnectionRefused) {
        return println!("skipped: this machine has no IPv6");
    }
    task::block_on(async {
        let folder = crate::support::files::Folder::new();
        let upgrade = Upgrade::from_env().unwrap();
        let server = upgrade.bind("0.0.0.0:0").await.unwrap();
        let (handle, port) = (server.handle(), server.local_addr().port().unwrap());
        let serving = task::spawn(server.serve(async |_: Connection| {}));
        let file = folder.write("port", &port.to_string());
        let next = Killed(upgrade.hand_over(program("adds IPv6", &file)).await.unwrap());
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            assert_eq!(who_serves(tcp(address.parse().unwrap())), next.0.id());
        }
        drop(handle.shutdown().await);
        serving.await.unwrap();
    });
}

#[test]
fn a_new_address_of_the_next_generation_accepts_no_client_before_it_is_ready() {
    task::block_on(async {
        let first = First::start().await;
        let (other, started) = (first.upgrade.clone(), first.path.with_extension("started"));
        let next = program("adds an address", &first.path);
        let handing = task::spawn(async move { other.hand_over(next).await.unwrap() });
        until_there(&started).await;
        let address: SocketAddr = std::fs::read_to_string(&started).unwrap().parse().unwrap();
        let mut client = BufReader::new(TcpStream::connect(address).unwrap());
        client.get_mut().write_all(b"early\n").unwrap();
        client.get_mut().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let error = client.get_mut().read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "it must not be served yet");
        std::fs::remove_file(started).unwrap();
        let next = Killed(handing.await);
        client.get_mut().set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(line(&mut client), format!("{} early", next.0.id()));
        drop(first.handle.shutdown().await);
    });
}

#[test]
fn a_hand_over_of_a_program_that_ignores_sigchld_fails_with_the_reason_and_without_the_exit_status() {
    const IGNORING: &str = "--ignore-signal=CHLD"; // of GNU's `env`
    if !Command::new("env").args([IGNORING, "true"]).status().is_ok_and(|status| status.success()) {
        return println!("skipped: `env` cannot ignore signals here");
    }
    let program = program("hands over twice", Path::new(""));
    let mut ignoring = Command::new("env");
    ignoring.arg(IGNORING).arg(program.get_program()).args(program.get_args());
    ignoring.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ended = Process::start(&mut ignoring).wait();
    let has = |text: &str| ended.stdout.iter().any(|line| line.contains(text));
    assert!(
        has("it ended before it was ready (its exit status is not known, because this process ignores"),
        "{ended:?}"
    );
    assert!(has("it was not ready within 300ms (`Upgrade::ready`); it has ended"), "{ended:?}");
}
