//! A successor ends, or a hand-over is dropped, at many moments, beside clients that connect all the time.

use super::{First, line, program, tcp};
use crate::support::process::PATIENCE;
use async_std::task;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How many successors end at different moments. `EBBTIDE_TEST_UPGRADES` sets another number.
const MOMENTS: u32 = 24;

fn moments() -> u32 {
    std::env::var("EBBTIDE_TEST_UPGRADES").map_or(MOMENTS, |number| number.parse().unwrap())
}

/// Connects and asks, until it is over. Returns the answers, or why there was none.
fn ask_until(over: &AtomicBool, address: SocketAddr, path: &Path) -> Vec<io::Result<String>> {
    fn ask(mut client: impl Read + Write) -> io::Result<String> {
        client.write_all(b"there?\n")?;
        let mut answer = String::new();
        match BufReader::new(client).read_line(&mut answer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.split(' ').next().unwrap().to_owned()),
        }
    }
    let mut answers = Vec::new();
    while !over.load(Ordering::SeqCst) {
        answers.push(TcpStream::connect(address).and_then(|client| {
            client.set_read_timeout(Some(PATIENCE))?;
            ask(client)
        }));
        answers.push(UnixStream::connect(path).and_then(|client| {
            client.set_read_timeout(Some(PATIENCE))?;
            ask(client)
        }));
    }
    answers
}

/// Runs a hand-over beside clients. Returns its result, and the clients' answers.
fn beside_clients<T>(first: &First, hand_over: impl Future<Output = T>) -> (T, Vec<io::Result<String>>) {
    let (over, address, path) = (AtomicBool::new(false), first.address, &first.path);
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask_until(&over, address, path));
        let result = task::block_on(hand_over);
        thread::sleep(Duration::from_millis(3)); // some clients come afterwards
        over.store(true, Ordering::SeqCst);
        (result, asking.join().unwrap())
    })
}

/// Returns how long a hand-over takes here, roughly.
fn usual_time() -> Duration {
    let first = task::block_on(First::start());
    let began = Instant::now();
    let next = task::block_on(first.upgrade.hand_over(program("ends at some moment", &first.path))).unwrap();
    let took = began.elapsed();
    kill(pid(next.id()), Signal::SIGKILL).unwrap();
    task::block_on(async move { drop(first.handle.shutdown().await) });
    took
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

/// A successor that kills or stops itself after a part of the usual time. Most moments are early ones: the usual time
/// includes the start of the process.
fn ends_at(signal: &str, moment: u32, of: u32, usual: Duration, first: &First) -> Command {
    let mut command = program("ends at some moment", &first.path);
    command.env("EBBTIDE_TEST_SIGNAL", signal);
    command.env("EBBTIDE_TEST_DELAY", (usual * moment / of * moment / of).as_micros().to_string());
    command
}

#[test]
fn wherever_the_successor_is_killed_or_stopped_each_client_is_served_unless_the_successor_had_accepted_it() {
    let (usual, of) = (usual_time(), moments());
    let (mut failed, mut taken, mut served) = (0, 0, 0);
    let mut first = task::block_on(First::start());
    for moment in 0..of {
        let signal = if moment % 4 == 3 { "SIGSTOP" } else { "SIGKILL" };
        let command = ends_at(signal, moment, of, usual, &first);
        let upgrade = first.upgrade.clone().timeout(usual * 4 + Duration::from_millis(100));
        let (result, answers) = beside_clients(&first, async {
            let result = upgrade.hand_over(command).await;
            if let Ok(next) = &result {
                // The clients that it has accepted are lost with it; nobody serves the others.
                let _gone = kill(pid(next.id()), Signal::SIGKILL);
                drop(first.handle.shutdown().await);
            }
            result
        });
        match result {
            Ok(next) => {
                let own = std::process::id().to_string();
                let others = answers.iter().flatten().all(|by| *by == own || *by == next.id().to_string());
                assert!(others, "{answers:?}");
                first = task::block_on(First::start());
                taken += 1;
            }
            Err(error) => {
                for by in &answers {
                    let own = by.as_ref().is_ok_and(|by| *by == std::process::id().to_string());
                    assert!(own, "{signal} at {moment}/{of} of {usual:?}: {by:?}, and the hand-over failed: {error}");
                }
                failed += 1;
                served += answers.len();
            }
        }
    }
    println!(
        "{of} successors ended: {failed} hand-overs failed and all of {served} clients were served; {taken} took over"
    );
    task::block_on(first.end());
}

#[test]
fn wherever_a_hand_over_is_dropped_one_generation_serves_every_client() {
    let (usual, of) = (usual_time(), moments());
    let (mut dropped, mut taken, mut served) = (0, 0, 0);
    let mut first = task::block_on(First::start());
    for moment in 0..of {
        let command = program("ends at some moment", &first.path);
        let upgrade = first.upgrade.clone();
        let (_, answers) = beside_clients(&first, async {
            let limit = usual * moment * 5 / 4 / of;
            drop(async_std::future::timeout(limit, upgrade.hand_over(command)).await);
        });
        served += answers.len();
        // A hand-over that has succeeded, or that was dropped when its successor had confirmed, is the last one.
        let error = task::block_on(first.upgrade.hand_over(Command::new("true"))).unwrap_err().to_string();
        let next =
            error.split_once(" has taken over already").map(|(text, _)| text.rsplit(' ').next().unwrap().to_owned());
        let own = std::process::id().to_string();
        for by in answers {
            let by = by.unwrap_or_else(|lost| panic!("a client is lost, at {moment}/{of} of {usual:?}: {lost}"));
            assert!(by == own || Some(&by) == next.as_ref(), "{by} is neither this generation nor {next:?}");
        }
        match next {
            Some(next) => {
                let client = BufReader::new(tcp(first.address));
                let mut client = client;
                client.get_mut().write_all(b"there?\n").unwrap();
                assert_eq!(line(&mut client), format!("{next} there?"));
                kill(pid(next.parse().unwrap()), Signal::SIGKILL).unwrap();
                let old = std::mem::replace(&mut first, task::block_on(First::start()));
                task::block_on(async move { drop(old.handle.shutdown().await) });
                taken += 1;
            }
            None => {
                first.serves();
                dropped += 1;
            }
        }
    }
    println!("{of} hand-overs: {dropped} dropped, {taken} taken over, {served} clients served");
    task::block_on(first.end());
}
