//! Thousands of clients in one process, which is killed. Half of them have unread bytes, so their kernel resets those.

use super::{Numbers, connect, id, say_and_hear, server};
use crate::support::process::{PATIENCE, Process, part_to_play, this_binary};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use std::io::Write;
use std::time::{Duration, Instant};

const CLIENTS: u64 = 5000;

/// Not a test by itself: the clients.
#[test]
fn the_clients() {
    let Some(port) = part_to_play() else { return };
    let port = port.parse().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut clients: Vec<_> = (0..CLIENTS.min(hard.saturating_sub(100))).map(|_| connect(port).unwrap()).collect();
    for client in &mut clients {
        say_and_hear(client, b"hello").unwrap();
    }
    // The echo of these bytes stays unread.
    clients.iter_mut().step_by(2).for_each(|client| client.write_all(b"unread").unwrap());
    println!("connected {}", clients.len());
    loop {
        std::thread::park();
    }
}

fn descriptors(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

#[test]
fn thousands_of_clients_that_are_killed_end_and_are_counted_and_the_next_one_is_served() {
    let server = Process::start(&mut server(&[], 2));
    let (id, port) = (id(&server), server.port());
    say_and_hear(&mut connect(port).unwrap(), b"hello").unwrap(); // the reactor has its descriptors from here on
    let before = descriptors(id);
    let clients = Process::start(&mut this_binary(module_path!(), "the_clients", &port.to_string()));
    let line = clients.wait_for("connected ");
    let connected: u64 = line.trim_start_matches("connected ").parse().unwrap();
    let killed = Instant::now();
    clients.send(Signal::SIGKILL);
    say_and_hear(&mut connect(port).unwrap(), b"hello").unwrap();
    let served = killed.elapsed();
    while descriptors(id) > before {
        assert!(killed.elapsed() < PATIENCE, "connections of killed clients stay open: {server}");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!(
        "{connected} clients killed: the next was served after {served:.1?}, all ended after {:.1?}",
        killed.elapsed()
    );
    // One second on an idle machine, and far less. The bound is for a busy one.
    assert!(served < Duration::from_secs(10), "the next client was served after {served:.1?}");
    server.send(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let numbers = Numbers::of(&ended);
    assert_eq!(numbers.get("accepted"), connected + 2, "{ended:?}");
    assert_eq!(numbers.get("completed") + numbers.get("disconnected"), connected + 2, "{ended:?}");
    assert!(numbers.get("disconnected") > 0, "no client was reset: {ended:?}");
}
