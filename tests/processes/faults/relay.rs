//! A network between a server and its clients that delays, splits and cuts: a relay in the test. (Peers that vanish
//! behind a cut cable are in `vanished_peers`.)

use super::{Numbers, assert_ends, connect, server};
use crate::support::dice::Dice;
use crate::support::process::Process;
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Passes bytes on in pieces of random lengths, with delays, until EOF or `most` bytes. Counts them in `passed`.
fn pass(mut from: TcpStream, mut to: TcpStream, mut dice: Dice, most: usize, passed: &AtomicUsize) {
    let mut buf = [0; 4096];
    let mut left = most;
    while left > 0 {
        let wanted = (1 + dice.below(buf.len())).min(left);
        let Ok(n @ 1..) = from.read(&mut buf[..wanted]) else { break };
        let (first, second) = buf[..n].split_at(dice.below(n + 1));
        for piece in [first, second] {
            if to.write_all(piece).is_err() {
                return;
            }
            passed.fetch_add(piece.len(), Ordering::SeqCst);
            if dice.chance(20) {
                std::thread::sleep(Duration::from_micros(dice.below(1500) as u64));
            }
        }
        left -= n;
    }
    let _ = to.shutdown(if left == 0 { Shutdown::Both } else { Shutdown::Write });
    if left == 0 {
        let _ = from.shutdown(Shutdown::Both);
    }
}

/// A client behind a relay, which cuts the connection both ways after `most` bytes.
fn behind_a_relay<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    port: u16,
    dice: &mut Dice,
    most: usize,
    passed: &'env AtomicUsize,
) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect(listener.local_addr().unwrap().port()).unwrap();
    let (near, _) = listener.accept().unwrap();
    let far = connect(port).unwrap();
    for socket in [&near, &far] {
        socket.set_nodelay(true).unwrap();
    }
    let (back, there) = (far.try_clone().unwrap(), near.try_clone().unwrap());
    let (one, other) = (dice.fork(), dice.fork());
    scope.spawn(move || pass(near, far, one, most, passed));
    scope.spawn(move || {
        static UNCOUNTED: AtomicUsize = AtomicUsize::new(0);
        pass(back, there, other, usize::MAX, &UNCOUNTED);
    });
    client
}

fn bytes(dice: &mut Dice, length: usize) -> Vec<u8> {
    (0..length).map(|_| dice.below(256) as u8).collect()
}

#[test]
fn through_a_network_that_delays_and_splits_an_echo_is_exact_and_one_that_cuts_is_counted() {
    const CLIENTS: usize = 12;
    const LENGTH: usize = 64 << 10;
    let server = Process::start(&mut server(&[], 2));
    let port = server.port();
    let passed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let (passed, server) = (&passed, &server);
            let mut dice = Dice::new(seed as u64);
            let is_cut = seed % 3 == 0;
            let most = if is_cut { 1 + dice.below(LENGTH - 1) } else { usize::MAX };
            let mut client = behind_a_relay(scope, port, &mut dice, most, passed);
            scope.spawn(move || {
                let sent = bytes(&mut dice, LENGTH);
                let mut writer = client.try_clone().unwrap();
                let copy = sent.clone();
                let writing = std::thread::spawn(move || {
                    let _cut = writer.write_all(&copy);
                    let _cut = writer.shutdown(Shutdown::Write);
                });
                let mut echo = Vec::new();
                let read = client.read_to_end(&mut echo);
                assert!(sent.starts_with(&echo), "seed {seed}: another echo");
                if !is_cut {
                    read.unwrap_or_else(|error| panic!("seed {seed}: {error}: {server}"));
                    assert_eq!(echo.len(), LENGTH, "seed {seed}: {server}");
                }
                writing.join().unwrap();
            });
        }
    });
    server.send(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let numbers = Numbers::of(&ended);
    assert_eq!(numbers.get("accepted"), CLIENTS as u64, "{ended:?}");
    assert_eq!(numbers.get("completed") + numbers.get("disconnected"), CLIENTS as u64, "{ended:?}");
}

/// What the network has delivered when the server is asked to stop is echoed.
#[test]
fn a_drain_loses_nothing_that_a_slow_network_has_delivered() {
    const CLIENTS: usize = 8;
    let server = Process::start(&mut server(&[], 2));
    let port = server.port();
    let passed: [AtomicUsize; CLIENTS] = Default::default();
    std::thread::scope(|scope| {
        let mut reading = Vec::new();
        for (seed, passed) in passed.iter().enumerate() {
            let mut dice = Dice::new(seed as u64);
            let mut client = behind_a_relay(scope, port, &mut dice, usize::MAX, passed);
            let mut writer = client.try_clone().unwrap();
            scope.spawn(move || {
                let message: Vec<u8> = (0..=u8::MAX).collect();
                while writer.write_all(&message).is_ok() {} // until the server ends
            });
            reading.push(scope.spawn(move || {
                let mut echo = Vec::new();
                let _reset = client.read_to_end(&mut echo); // it is still sending
                let _ = client.shutdown(Shutdown::Both);
                echo
            }));
        }
        while passed.iter().any(|passed| passed.load(Ordering::SeqCst) < 20_000) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let delivered: Vec<_> = passed.iter().map(|passed| passed.load(Ordering::SeqCst)).collect();
        server.send(Signal::SIGTERM);
        for (n, reading) in reading.into_iter().enumerate() {
            let echo = reading.join().unwrap();
            assert!(echo.iter().enumerate().all(|(at, byte)| *byte == at as u8), "client {n}: another echo");
            assert!(echo.len() >= delivered[n], "client {n}: {} of {} bytes: {server}", echo.len(), delivered[n]);
        }
    });
    if let Ok(mut late) = connect(port) {
        assert_ends(&mut late, &server); // in most runs it is refused
    }
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(Numbers::of(&ended).get("accepted"), CLIENTS as u64, "{ended:?}");
}
