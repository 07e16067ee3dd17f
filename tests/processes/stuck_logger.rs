//! A logger that blocks delays no request, no second request, and no deadline. Any logger blocks if it writes to a pipe
//! that no process reads.
//!
//! The second signal was sent so long after the first was *sent*. A program that was slow to take the first took both at
//! one moment, as one request. (Seen once, on a machine with ten busy programs.) So the second one waits for the effect
//! of the first.
#![cfg(unix)]

use crate::support::process::{ANY_PORT, Process, part_to_play, this_binary, with_each_executor};
use async_std::task;
use ebbtide::{Connection, Server, signal};
use nix::sys::signal::Signal;
use std::future::pending;
use std::io::{self, Read};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// A server that closes within this time did not wait for the logger.
const SOON: Duration = Duration::from_secs(10);

/// So long after a signal was taken the next one counts as another request.
const APART: Duration = Duration::from_millis(150);

#[test]
fn a_stuck_logger_does_not_delay_the_deadline() {
    with_each_executor(|start| {
        let (server, client) = serve(start, Duration::from_millis(200));
        server.send(Signal::SIGINT);
        assert_ends(server, client);
    });
}

#[test]
fn a_stuck_logger_does_not_delay_a_second_signal() {
    with_each_executor(|start| {
        let (server, client) = serve(start, Duration::from_secs(3600));
        server.send(Signal::SIGINT);
        server.wait_for("draining");
        thread::sleep(APART);
        server.send(Signal::SIGINT);
        assert_ends(server, client);
    });
}

/// Starts the server, and connects a client whose handler never ends.
fn serve(start: fn(&mut std::process::Command) -> Process, grace: Duration) -> (Process, TcpStream) {
    let server = start(&mut this_binary(module_path!(), "the_program", &grace.as_millis().to_string()));
    let client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    server.wait_for("handling");
    (server, client)
}

/// Checks that the server has cut the client and exited in time.
fn assert_ends(server: Process, mut client: TcpStream) {
    let start = Instant::now();
    client.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(client.read(&mut [0]).expect("the client reads EOF"), 0, "{server}");
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let report = ended.stdout.last().map_or("", String::as_str);
    assert!(report.contains("1 accepted, 0 completed, 0 failed, 0 panicked, 1 cancelled;"), "{ended:?}");
    assert!(start.elapsed() < SOON, "{ended:?}");
}

/// Not a test by itself: the server that the tests run.
#[test]
fn the_program() {
    let Some(grace) = part_to_play() else { return };
    log::set_logger(&Stuck).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let grace = Duration::from_millis(grace.parse().unwrap());
    let served: io::Result<()> = task::block_on(async {
        let signals = signal::termination()?;
        let server = Server::bind(ANY_PORT).await?.grace(grace).shutdown_on(signals);
        println!("{server}");
        let report = server.newcomer_time(Duration::ZERO).serve(|conn: Connection| async move {
            println!("handling");
            conn.until_draining(pending::<()>()).await;
            println!("draining");
            pending::<()>().await;
        });
        println!("{}", report.await?);
        Ok(())
    });
    if let Err(error) = &served {
        println!("{error}");
    }
    std::process::exit(i32::from(served.is_err()));
}

/// A logger that blocks forever at the first line of a shutdown.
struct Stuck;

impl log::Log for Stuck {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if !record.args().to_string().contains("serving on") {
            loop {
                thread::park();
            }
        }
    }

    fn flush(&self) {}
}
