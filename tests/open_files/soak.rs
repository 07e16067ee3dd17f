//! Open, serve with clients, close in one of the ways of R1: a thousand times, and nothing is left. Behaviour 19, R11.
//! Some of these times over TLS, and some behind a proxy.
//!
//! More rounds: `EBBTIDE_SOAK_ROUNDS=100000 cargo test --release --test open_files soak -- --nocapture`.
#![cfg(target_os = "linux")]

use crate::support::*;
use async_std::{future, task};
use ebbtide::{ListenOptions, OnFailure, Server};
use futures_concurrency::prelude::*;
use std::io::Write as _;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Holds {
    descriptors: usize,
    threads: usize,
    resident_kib: usize,
}

impl Holds {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Self {
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            threads: field("Threads:"),
            resident_kib: field("VmRSS:"),
        }
    }
}

/// A small generator of our own: the test must not depend on luck that cannot be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What is between the clients and the handlers.
struct Between {
    options: ListenOptions,
    client: Box<dyn Fn(TcpStream, u8) -> Ordered + Send + Sync>,
}

/// A client that has given its order, or does so on a thread of its own. Its end is waited for.
type Ordered = Box<dyn FnOnce() + Send>;

/// Where it was never accepted, or was still sending when it was cut off, a reset is the kernel's answer.
fn read_some(mut client: impl std::io::Read) {
    let _ = client.read(&mut [0; 64]);
}

fn nothing() -> Between {
    let client = |mut client: TcpStream, order: u8| -> Ordered {
        client.write_all(&[order]).unwrap();
        Box::new(move || read_some(client))
    };
    Between { options: ListenOptions::new(), client: Box::new(client) }
}

#[cfg(feature = "proxy-protocol")]
fn proxy() -> Between {
    let proxy = proxied::trusting(ebbtide::ProxyProtocol::required());
    let client = |mut client: TcpStream, order: u8| -> Ordered {
        let header = if order == POLITE { proxied::V1 } else { proxied::V2 };
        client.write_all(&[header, &[order]].concat()).unwrap();
        Box::new(move || read_some(client))
    };
    Between { options: ListenOptions::new().proxy_protocol(proxy), client: Box::new(client) }
}

#[cfg(feature = "tls")]
fn tls() -> Between {
    let (folder, authority) = (files::Folder::new(), certificates::Authority::new("a test's own"));
    let identity = authority.issue(&folder, "server", &["localhost"]);
    let tls = ebbtide::Tls::from_pem_files(&identity.certificates, &identity.key).unwrap();
    let config = Arc::new(authority.client(None));
    let client = move |client: TcpStream, order: u8| -> Ordered {
        let mut client = certificates::secure(client, Arc::clone(&config));
        let thread = std::thread::spawn(move || {
            let _ = client.write_all(&[order]); // and the handshake, which the end of the server may cut short
            read_some(client);
        });
        Box::new(move || thread.join().unwrap())
    };
    Between { options: ListenOptions::new().tls(&tls), client: Box::new(client) }
}

fn round(dice: &mut Dice, between: &Arc<Between>) {
    let between = Arc::clone(between);
    let exit = dice.roll(9);
    let orders: Vec<u8> =
        (0..dice.roll(6)).map(|_| [POLITE, STUBBORN, FAILS, PANICS, SPEAKS][dice.roll(5) as usize]).collect();
    let handlers = Handlers::new();
    let live = handlers.live.clone();
    on_thread(move || {
        let leave = async {
            let server = Server::bind_with(loopback(), &between.options).await.unwrap().grace(Duration::from_millis(2));
            let (address, handle) = (server.local_addr().clone(), server.handle());
            let clients: Vec<_> = orders.iter().map(|&it| (between.client)(connect(&address), it)).collect();
            let count = clients.len();
            let handler = handlers.handler();
            let started = async || handlers.started(count).await;
            match exit {
                0 => drop(server.scope(handler, async |_| started().await).await.unwrap()),
                1 => drop(server.scope(handler, async |_| started().await).await.map(|(value, _)| value)),
                2 => {
                    let serving = task::spawn(server.serve(handler));
                    started().await;
                    handle.shutdown().await;
                    serving.await.unwrap();
                }
                3 => {
                    let serving = task::spawn(server.serve(handler));
                    started().await;
                    handle.cancel().await;
                    serving.await.unwrap();
                }
                4 => {
                    let serving = task::spawn(server.serve(handler));
                    started().await;
                    serving.cancel().await;
                }
                5 => {
                    let serving = async { server.serve(handler).await.map(drop) };
                    let winner = async {
                        started().await;
                        Ok(())
                    };
                    (serving, winner).race().await.unwrap();
                }
                6 => {
                    let failing = server.on_failure(OnFailure::Shutdown);
                    let body = async |_| started().await;
                    drop(failing.scope(handler, body).await.map(|(value, _)| value));
                }
                7 => drop(future::timeout(Duration::from_millis(1), server.serve(handler)).await),
                _ => {
                    let body = async |_| {
                        started().await;
                        panic!("the body's own");
                    };
                    server.scope(handler, body).await.unwrap();
                }
            }
            assert!(refuses(&address));
            clients.into_iter().for_each(|client| client());
        };
        let result = catch_unwind(AssertUnwindSafe(|| task::block_on(leave)));
        assert_eq!(result.is_err(), exit == 8, "only the body's own panic comes out");
    });
    assert_eq!(live.count(), 0);
}

#[test]
fn r11_a_thousand_rounds_leave_nothing_behind() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if !text.contains("as ordered") && !text.contains("the body's own") {
            eprintln!("{text}");
        }
    }));
    let rounds = std::env::var("EBBTIDE_SOAK_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(1000);
    let as_long_as_it_takes = FOR_EVER * 24;
    gate::run(gate::Role::Alone, as_long_as_it_takes, &String::new, move || {
        leaves_nothing_behind("nothing", nothing(), rounds);
        #[cfg(feature = "proxy-protocol")]
        leaves_nothing_behind("a proxy", proxy(), rounds / 4);
        #[cfg(feature = "tls")]
        leaves_nothing_behind("TLS", tls(), rounds / 4);
    });
}

fn leaves_nothing_behind(what: &str, between: Between, rounds: usize) {
    let between = Arc::new(between);
    let mut dice = Dice(0x5eed);
    (0..200).for_each(|_| round(&mut dice, &between)); // until every pool and buffer has its size
    let before = Holds::now();
    (0..rounds).for_each(|_| round(&mut dice, &between));
    let end = std::time::Instant::now() + NET;
    loop {
        let after = Holds::now();
        let grown = after.resident_kib.saturating_sub(before.resident_kib);
        // Threads of the blocking pool come and go, and the executor frees its last shells in its own time.
        if after.descriptors <= before.descriptors + 2 && after.threads <= before.threads + 2 && grown < 4096 {
            println!("after {rounds} rounds with {what} between: {after:?}, before: {before:?}");
            return;
        }
        assert!(std::time::Instant::now() < end, "left behind: {after:?}, before: {before:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
