//! One generation of a service hands over to the next on the same address. Both listen with `SO_REUSEPORT` for a while,
//! then the older one gets SIGTERM. Clients connect without a pause, some of them pause before they send, and this
//! crate loses none of them.
//!
//! The kernel may still lose some: it resets a handshake that has not completed when its listening socket is closed,
//! unless `net.ipv4.tcp_migrate_req` is 1. The test counts such resets, and allows a few. A connection that *ended*
//! without an answer would be this crate's fault.
#![cfg(target_os = "linux")]

use crate::support::echo;
use crate::support::process::{ANY_PORT, PATIENCE, part_to_play, this_binary, with_each_executor};
use async_std::task;
use ebbtide::{ListenOptions, Server, signal};
use nix::sys::signal::Signal;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const GENERATIONS: usize = 40;
const CLIENTS: usize = 8;

/// How long each generation serves alone.
const ALONE: Duration = Duration::from_millis(20);

/// How long every fourth client pauses before it sends.
const HESITATION: Duration = Duration::from_millis(5);

const MESSAGE: &[u8; 14] = b"are you there?";

/// The errors of a client whose connection was reset: they depend on what the client was doing.
const RESET: [ErrorKind; 3] = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::NotConnected];

/// How many connections ended in which way.
#[derive(Debug, Default)]
struct Fates {
    served: usize,
    /// EOF instead of an answer.
    ended: usize,
    /// Reset by the kernel.
    reset: usize,
}

#[test]
fn a_hand_over_between_two_generations_on_one_address_loses_no_client() {
    with_each_executor(|start| {
        let mut running = start(&mut generation(ANY_PORT));
        let address = SocketAddr::from(([127, 0, 0, 1], running.port()));
        let over = AtomicBool::new(false);
        let fates = thread::scope(|scope| {
            let over = &over;
            let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || reconnect(address, n, over))).collect();
            let ends = EndClients(over);
            for _ in 0..GENERATIONS {
                thread::sleep(ALONE);
                let next = start(&mut generation(&address.to_string()));
                next.port(); // waits until it listens
                running.send(Signal::SIGTERM);
                let ended = std::mem::replace(&mut running, next).wait();
                assert_eq!(ended.status.code(), Some(0), "{ended:?}");
                let report = ended.stdout.last().map_or("", String::as_str);
                assert!(report.contains(", 0 failed, 0 panicked, 0 cancelled;"), "{ended:?}");
            }
            drop(ends);
            clients.into_iter().map(|client| client.join().unwrap()).fold(Fates::default(), |sum, one| Fates {
                served: sum.served + one.served,
                ended: sum.ended + one.ended,
                reset: sum.reset + one.reset,
            })
        });
        running.send(Signal::SIGTERM);
        running.wait();
        println!("{GENERATIONS} generations: {fates:?}");
        assert_eq!(fates.ended, 0, "{fates:?}");
        assert!(fates.served > GENERATIONS && 50 * fates.reset <= fates.served, "{fates:?}");
    });
}

/// Connects one client after the other, until the test is over.
fn reconnect(address: SocketAddr, offset: usize, over: &AtomicBool) -> Fates {
    let mut fates = Fates::default();
    for turn in offset.. {
        if over.load(Ordering::SeqCst) {
            break;
        }
        match ask(address, if turn % 4 == 0 { HESITATION } else { Duration::ZERO }) {
            Ok(answer) if answer == MESSAGE => fates.served += 1,
            Ok(_) => fates.ended += 1,
            Err(error) if RESET.contains(&error.kind()) => fates.reset += 1,
            Err(error) => panic!("{error}"),
        }
    }
    fates
}

/// Sends the message, and returns the whole answer.
fn ask(address: SocketAddr, hesitation: Duration) -> io::Result<Vec<u8>> {
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    thread::sleep(hesitation);
    client.write_all(MESSAGE)?;
    client.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    Ok(answer)
}

/// A drop guard that ends the test's clients, on a panic too: otherwise the scope would wait for them forever.
struct EndClients<'a>(&'a AtomicBool);

impl Drop for EndClients<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn generation(address: &str) -> Command {
    this_binary(module_path!(), "the_program", address)
}

/// Not a test by itself: the program that the test runs, one generation of the service.
#[test]
fn the_program() {
    let Some(address) = part_to_play() else { return };
    let served: io::Result<()> = task::block_on(async {
        let signals = signal::termination()?;
        let options = ListenOptions::new().reuse_port(true);
        let server = Server::bind_with(address.as_str(), &options).await?.shutdown_on(signals);
        println!("{server}");
        println!("{}", server.serve(echo).await?);
        Ok(())
    });
    if let Err(error) = &served {
        println!("{error}");
    }
    std::process::exit(i32::from(served.is_err()));
}
