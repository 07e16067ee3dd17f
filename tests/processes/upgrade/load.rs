//! Upgrades in a row, under load: no client and no request is lost.

use super::{GOODBYE, KillGroup, Stream, line, program, tcp, unix};
use crate::support::files::Folder;
use crate::support::process::{Process, send};
use nix::sys::signal::Signal;
use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How many upgrades there are in a row. `EBBTIDE_TEST_UPGRADES` sets another number.
const UPGRADES: usize = 50;

/// How many clients of each kind there are.
const CLIENTS: usize = 3;

/// The least number of short connections that each generation serves.
const BETWEEN: usize = 20;

/// The pause between two requests on a long connection.
const NOW_AND_THEN: Duration = Duration::from_millis(15);

#[test]
fn fifty_upgrades_in_a_row_lose_no_client_and_no_request() {
    let upgrades = std::env::var("EBBTIDE_TEST_UPGRADES").map_or(UPGRADES, |number| number.parse().unwrap());
    let folder = Folder::new();
    let path = folder.path("service.sock");
    let first = Process::start(&mut program("generation", &path));
    let listening = first.wait_for("listens on 127.0.0.1:");
    let address = SocketAddr::from(([127, 0, 0, 1], listening.rsplit(':').next().unwrap().parse().unwrap()));
    let group = KillGroup(first.id());
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (connected, answered) = thread::scope(|scope| {
        let (over, served, path) = (&over, &served, &path);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(scope.spawn(move || short_connections(|| tcp(address), over, served)));
            clients.push(scope.spawn(move || long_connections(|| tcp(address), over)));
        }
        clients.push(scope.spawn(move || short_connections(|| unix(path), over, served)));
        clients.push(scope.spawn(move || long_connections(|| unix(path), over)));
        let ends = EndClients(over);
        let mut running = first.id();
        for upgrade in 1..=upgrades {
            let before = served.load(Ordering::SeqCst);
            while served.load(Ordering::SeqCst) < before + BETWEEN && !clients.iter().any(|one| one.is_finished()) {
                thread::sleep(Duration::from_millis(1));
            }
            send(running, Signal::SIGHUP);
            let line = first.wait_for(&format!("generation {upgrade} is ready, process "));
            running = line.rsplit(' ').next().unwrap().parse().unwrap();
        }
        drop(ends);
        let sums = clients.into_iter().map(|client| client.join().unwrap());
        let sums = sums.fold((0, 0), |sum, one: (usize, usize)| (sum.0 + one.0, sum.1 + one.1));
        send(running, Signal::SIGTERM);
        sums
    });
    let ended = first.wait(); // all generations have closed the output
    std::mem::forget(group);
    let reports: Vec<_> = ended.stdout.iter().filter(|line| line.contains(" has ended: ")).collect();
    assert_eq!(reports.len(), upgrades + 1, "{ended:?}");
    let mut accepted = 0;
    for report in reports {
        assert!(report.contains(", 0 failed, 0 panicked, 0 cancelled"), "{report}");
        let (_, reason) = report.split_once(" because ").unwrap();
        let (_, counts) = reason.split_once(": ").unwrap();
        accepted += counts.split(' ').next().unwrap().parse::<usize>().unwrap();
    }
    println!("{upgrades} upgrades, {connected} connections, {answered} answers");
    assert_eq!(accepted, connected, "the generations must have accepted every client, and no other");
    assert!(!path.exists(), "the last generation must remove the socket's file");
}

/// Connects, asks once, and closes, until the test is over. Returns the numbers of connections and of answers.
fn short_connections(connect: impl Fn() -> Box<dyn Stream>, over: &AtomicBool, served: &AtomicUsize) -> (usize, usize) {
    let mut count = 0;
    while !over.load(Ordering::SeqCst) {
        let mut client = BufReader::new(connect());
        let question = format!("short {count}");
        client.get_mut().write_all(format!("{question}\n").as_bytes()).unwrap();
        assert!(line(&mut client).ends_with(&question), "a short connection must get its answer");
        served.fetch_add(1, Ordering::SeqCst);
        count += 1;
    }
    (count, count)
}

/// Keeps a connection open, and asks now and then, until the server says goodbye; then it connects again.
fn long_connections(connect: impl Fn() -> Box<dyn Stream>, over: &AtomicBool) -> (usize, usize) {
    let (mut connections, mut answers) = (0, 0);
    while !over.load(Ordering::SeqCst) {
        let mut client = BufReader::new(connect());
        connections += 1;
        let mut server = None;
        for turn in 0.. {
            if over.load(Ordering::SeqCst) {
                break;
            }
            let question = format!("long {turn}");
            // It fails only if the server has said goodbye and closed, which is read next.
            let _is_gone = client.get_mut().write_all(format!("{question}\n").as_bytes());
            let answer = line(&mut client);
            if answer == GOODBYE {
                assert!(turn > 0, "the first request of a connection must be answered");
                break;
            }
            let (process, echo) = answer.split_once(' ').unwrap_or_else(|| panic!("no answer: `{answer}`"));
            assert_eq!(echo, question);
            let process = process.to_owned();
            assert_eq!(*server.get_or_insert(process.clone()), process, "a connection stays with its generation");
            answers += 1;
            thread::sleep(NOW_AND_THEN);
        }
    }
    (connections, answers)
}

/// Ends the test's clients, on a panic too.
struct EndClients<'a>(&'a AtomicBool);

impl Drop for EndClients<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
