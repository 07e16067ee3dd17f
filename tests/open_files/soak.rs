//! R11: a thousand servers, each left in one of the ways of R1 while it serves clients, leave no descriptor, thread or
//! memory behind. Then the same with TLS and behind a proxy, with fewer rounds.
//!
//! More rounds: `EBBTIDE_SOAK_ROUNDS=100000 cargo test --release --test open_files soak -- --nocapture`.
#![cfg(target_os = "linux")]

use crate::support::dice::Dice;
use crate::support::*;
use async_std::{future, task};
use ebbtide::{ListenOptions, OnFailure, Server};
use futures_concurrency::prelude::*;
use std::io::Write as _;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Resources that the process holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holds {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) resident_kib: usize,
    /// Bytes that are allocated, as the program has asked for them.
    pub(crate) live_bytes: usize,
}

impl Holds {
    pub(crate) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Self {
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            threads: field("Threads:"),
            resident_kib: field("VmRSS:"),
            live_bytes: crate::LIVE_BYTES.allocated(),
        }
    }
}

/// The protocol between clients and handlers: none, PROXY, or TLS.
struct Protocol {
    options: ListenOptions,
    /// Sends an order (see [`Handlers`]) as a client.
    client: Box<dyn Fn(TcpStream, u8) -> Ordered + Send + Sync>,
}

/// Waits for the end of a client that has sent its order, or that sends it on a thread of its own.
type Ordered = Box<dyn FnOnce() + Send>;

/// Reads once. Ignores a reset: the kernel sends one to a client that was never accepted, or whose bytes are unread.
fn read_some(mut client: impl std::io::Read) {
    let _ = client.read(&mut [0; 64]);
}

fn plain() -> Protocol {
    let client = |mut client: TcpStream, order: u8| -> Ordered {
        client.write_all(&[order]).unwrap();
        Box::new(move || read_some(client))
    };
    Protocol { options: ListenOptions::new(), client: Box::new(client) }
}

#[cfg(feature = "proxy-protocol")]
fn proxy() -> Protocol {
    let proxy = proxied::trusting(ebbtide::ProxyProtocol::required());
    let client = |mut client: TcpStream, order: u8| -> Ordered {
        let header = if order == POLITE { proxied::V1 } else { proxied::V2 };
        client.write_all(&[header, &[order]].concat()).unwrap();
        Box::new(move || read_some(client))
    };
    Protocol { options: ListenOptions::new().proxy_protocol(proxy), client: Box::new(client) }
}

#[cfg(feature = "tls")]
fn tls() -> Protocol {
    let (folder, authority) = (files::Folder::new(), certificates::Authority::new("a test's own"));
    let identity = authority.issue(&folder, "server", &["localhost"]);
    let tls = ebbtide::Tls::from_pem_files(&identity.certificates, &identity.key).unwrap();
    let config = Arc::new(authority.client(None));
    let client = move |client: TcpStream, order: u8| -> Ordered {
        let mut client = certificates::secure(client, Arc::clone(&config));
        let thread = std::thread::spawn(move || {
            let _ = client.write_all(&[order]); // includes the handshake, which the end of the server may cut off
            read_some(client);
        });
        Box::new(move || thread.join().unwrap())
    };
    Protocol { options: ListenOptions::new().tls(&tls), client: Box::new(client) }
}

fn round(dice: &mut Dice, protocol: &Arc<Protocol>) {
    let protocol = Arc::clone(protocol);
    let exit = dice.below(9);
    let orders: Vec<u8> =
        (0..dice.below(6)).map(|_| [POLITE, STUBBORN, FAILS, PANICS, REPLIES][dice.below(5)]).collect();
    let handlers = Handlers::new();
    let live = handlers.live.clone();
    on_thread(move || {
        let leave = async {
            let server =
                Server::bind_with(loopback(), &protocol.options).await.unwrap().grace(Duration::from_millis(2));
            let (address, handle) = (server.local_addr().clone(), server.handle());
            let clients: Vec<_> = orders.iter().map(|&it| (protocol.client)(connect(&address), it)).collect();
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
        assert_eq!(result.is_err(), exit == 8, "only the panic of the body is raised");
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
        assert_leaves_nothing_behind("plain TCP", plain(), rounds);
        #[cfg(feature = "proxy-protocol")]
        assert_leaves_nothing_behind("PROXY headers", proxy(), rounds / 4);
        #[cfg(feature = "tls")]
        assert_leaves_nothing_behind("TLS", tls(), rounds / 4);
    });
}

fn assert_leaves_nothing_behind(what: &str, protocol: Protocol, rounds: usize) {
    let protocol = Arc::new(protocol);
    let mut dice = Dice::new(0x5eed);
    (0..200).for_each(|_| round(&mut dice, &protocol)); // until pools and buffers have grown to their sizes
    let before = Holds::now();
    (0..rounds).for_each(|_| round(&mut dice, &protocol));
    let end = std::time::Instant::now() + NET;
    loop {
        let after = Holds::now();
        let grown = after.resident_kib.saturating_sub(before.resident_kib);
        // The blocking pool starts and ends threads, and the executor frees its last tasks a little later.
        if after.descriptors <= before.descriptors + 2 && after.threads <= before.threads + 2 && grown < 4096 {
            println!("after {rounds} rounds with {what}: {after:?}, before: {before:?}");
            return;
        }
        assert!(std::time::Instant::now() < end, "left behind after {rounds} rounds: {after:?}, before: {before:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
