//! The main process of a systemd unit while a program upgrades itself. The notify socket of the test accepts datagrams
//! of the main process alone, by the sender's id that the kernel reports, and follows `MAINPID`, as systemd does with
//! `NotifyAccess=main`. (No test has systemd itself: that would have to be process 1.)
#![cfg(all(feature = "systemd", feature = "upgrade", target_os = "linux"))]

use crate::support::process::{Process, part_to_play, print_log, send, this_binary, with_each_executor};
use crate::support::systemd::{REFUSED, Systemd, connect, outside_systemd};
use async_std::prelude::*;
use async_std::task;
use ebbtide::systemd::Notifier;
use ebbtide::upgrade::Upgrade;
use ebbtide::{Connection, ServiceGroup, signal};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, exit};
use std::time::Duration;

/// The number of a generation, from 0.
const GENERATION: &str = "EBBTIDE_TEST_GENERATION";

#[test]
fn a_hand_over_names_the_new_main_process_and_the_old_one_sends_nothing_more() {
    for part in ["server", "group"] {
        with_each_executor(|start| {
            let systemd = Systemd::for_main();
            let first = start(&mut with_watchdog(systemd.service(program(part)), Duration::from_secs(2)));
            systemd.main_is(first.id());
            systemd.wait_for("READY=1");
            systemd.wait_for("WATCHDOG=1");
            let client = connect(&first); // the old generation drains until it leaves
            let (second, _guard) = upgrade(&first, first.id(), 1);
            systemd.wait_for("RELOADING=1");
            systemd.wait_for(&format!("MAINPID={second}"));
            systemd.wait_for("WATCHDOG=1"); // the old one's last
            systemd.wait_for("READY=1");
            assert!(systemd.wait_for("STATUS=").contains("serving, 0 connections"));
            for _ in 0..3 {
                systemd.wait_for("WATCHDOG=1"); // the new one's
            }
            client.shutdown(Shutdown::Write).unwrap();
            first.wait_for("generation 0 has ended");
            send(second, Signal::SIGTERM);
            systemd.wait_for("STOPPING=1");
            let (all, _) = systemd.all(first); // the second generation has the same output
            assert!(!all.iter().any(|line| line.starts_with(REFUSED)), "{all:#?}");
            assert_eq!(all.iter().filter(|line| *line == "STOPPING=1").count(), 1, "{all:#?}");
            assert!(all.last().unwrap().contains("SIGTERM was received"), "{all:#?}");
        });
    }
}

#[test]
fn several_upgrades_in_a_row_send_nothing_that_systemd_would_refuse() {
    let systemd = Systemd::for_main();
    let first = Process::start(&mut systemd.service(program("server")));
    systemd.main_is(first.id());
    systemd.wait_for("READY=1");
    let (mut main, mut guards) = (first.id(), Vec::new());
    for generation in 1..=5 {
        let (next, guard) = upgrade(&first, main, generation);
        guards.push(guard);
        systemd.wait_for(&format!("MAINPID={next}"));
        systemd.wait_for("READY=1");
        main = next;
    }
    send(main, Signal::SIGTERM);
    let (all, _) = systemd.all(first);
    assert!(!all.iter().any(|line| line.starts_with(REFUSED)), "{all:#?}");
    assert_eq!(all.iter().filter(|line| *line == "STOPPING=1").count(), 1, "{all:#?}");
}

#[test]
fn a_hand_over_that_fails_leaves_the_main_process_as_it_is() {
    let systemd = Systemd::for_main();
    let first = Process::start(&mut systemd.service(program("successor fails")));
    systemd.main_is(first.id());
    systemd.wait_for("READY=1");
    first.send(Signal::SIGHUP);
    systemd.wait_for("RELOADING=1");
    systemd.wait_for("READY=1"); // the reload has failed, and is over
    first.send(Signal::SIGTERM);
    systemd.wait_for("STOPPING=1");
    let (all, _) = systemd.all(first);
    assert!(!all.iter().any(|line| line.starts_with("MAINPID") || line.starts_with(REFUSED)), "{all:#?}");
}

/// The notify socket is full while the hand-over runs: nothing can be sent, and nothing waits for that.
#[test]
fn with_a_full_notify_socket_the_new_main_process_waits_until_it_is_named() {
    let systemd = Systemd::for_main(); // reads nothing yet
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"FILLED=1\n", &systemd.path).is_ok() {}
    let first = Process::start(&mut systemd.service(program("server")));
    let client = connect(&first);
    let (second, _guard) = upgrade(&first, first.id(), 1);
    systemd.main_is(first.id());
    systemd.wait_for(&format!("MAINPID={second}"));
    systemd.wait_for("READY=1");
    client.shutdown(Shutdown::Write).unwrap();
    first.wait_for("generation 0 has ended");
    send(second, Signal::SIGTERM);
    let (all, _) = systemd.all(first);
    let is_refused = |line: &&String| line.starts_with(REFUSED) && !line.ends_with("FILLED=1");
    assert_eq!(all.iter().find(is_refused), None, "{all:#?}");
    let sent: Vec<_> = all.iter().filter(|line| !line.starts_with(REFUSED)).collect();
    assert_eq!(sent[0], "READY=1", "what the old one could not send before comes first: {all:#?}");
}

/// Has the main process hand over, and returns the id of its successor, which is killed with the guard.
fn upgrade(first: &Process, main: u32, generation: u32) -> (u32, Killed) {
    send(main, Signal::SIGHUP);
    let line = first.wait_for(&format!("generation {generation} is ready, process "));
    let id = line.rsplit(' ').next().unwrap().parse().unwrap();
    (id, Killed(id))
}

/// A process that is killed at the end of a test that fails.
struct Killed(u32);

impl Drop for Killed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _gone = kill(Pid::from_raw(i32::try_from(self.0).unwrap()), Signal::SIGKILL);
        }
    }
}

fn program(part: &str) -> Command {
    outside_systemd(this_binary(module_path!(), "the_program", part))
}

/// Sets the watchdog's variables as systemd does: `WATCHDOG_PID` is the id of the program.
fn with_watchdog(program: Command, within: Duration) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#]).arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("WATCHDOG_USEC", within.as_micros().to_string());
    shell
}

/// Not a test by itself: the generations of a service.
#[test]
fn the_program() {
    let Some(part) = part_to_play() else { return };
    println!(); // behind the harness' line
    print_log();
    if let Err(error) = task::block_on(generation(&part)) {
        println!("error: {error}");
    }
    exit(0);
}

async fn generation(part: &str) -> io::Result<()> {
    let number: u32 = std::env::var(GENERATION).map_or(0, |number| number.parse().unwrap());
    let signals = signal::termination()?;
    let mut hangups = signal::hangup()?;
    let notifier = Notifier::from_env()?;
    let upgrade = Upgrade::from_env()?.notify_systemd(&notifier);
    if part == "successor fails" && number > 0 {
        exit(1);
    }
    let server = upgrade.bind("127.0.0.1:0").await?.grace(Duration::from_secs(60)).newcomer_time(Duration::ZERO);
    if number == 0 {
        println!("{server}");
    }
    let until_handed_over = async {
        upgrade.ready().await?;
        println!("generation {number} is ready, process {}", std::process::id());
        while hangups.next().await.is_some() {
            let _reloading = notifier.reloading();
            let mut next = this_binary(module_path!(), "the_program", part);
            next.env(GENERATION, (number + 1).to_string());
            match upgrade.hand_over(next).await {
                Ok(_) => break,
                Err(error) => println!("{error}"),
            }
        }
        io::Result::Ok(())
    };
    if part == "group" {
        let group = ServiceGroup::new().notify_systemd(&notifier).shutdown_on(signals).server(server.serve(greet));
        let stop = group.handle();
        let stopping = async {
            until_handed_over.await?;
            stop.shutdown();
            std::future::pending().await
        };
        let run = async { group.run().await.map(drop).map_err(io::Error::from) };
        futures_lite::future::or(run, stopping).await?;
    } else {
        let server = server.notify_systemd(&notifier).shutdown_on(signals);
        let body = async |server: ebbtide::Handle| {
            if let Some(result) = server.until_shutdown(until_handed_over).await {
                result?;
            }
            Ok(())
        };
        server.scope(greet, body).await?;
    }
    println!("generation {number} has ended");
    Ok(())
}

/// Greets, and waits for EOF.
async fn greet(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"hello").await?;
    while conn.read(&mut [0; 8]).await? > 0 {}
    Ok(())
}
