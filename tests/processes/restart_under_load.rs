//! A service is started anew, again and again, while clients come without a pause, and one at each restart has been
//! accepted and speaks only when the service has been told to stop. The socket stays with the launcher, as it does with
//! systemd, and no client notices.
#![cfg(all(feature = "systemd", target_os = "linux"))]

use crate::support::launcher::{ONE, launch, service};
use crate::support::process::{ANY_PORT, Ended, PATIENCE, Process};
use nix::sys::signal::Signal;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

const RESTARTS: usize = 40;
const CLIENTS: usize = 4;

/// How many are served by each instance at least, once it is alone.
const BETWEEN: usize = 50;

/// After so many more, one that came before them has been accepted: the queue keeps its order.
const OVERTAKEN: usize = 2 * CLIENTS;

const MESSAGE: &[u8; 14] = b"are you there?";

#[test]
fn a_restart_loses_no_client() {
    loses_no_client(None);
}

#[test]
fn a_restart_loses_no_client_with_one_executor_thread() {
    loses_no_client(Some("1"));
}

fn loses_no_client(threads: Option<&str>) {
    let socket = TcpListener::bind(ANY_PORT).unwrap();
    let address = socket.local_addr().unwrap();
    let over = AtomicBool::new(false);
    let (says, served) = channel();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (says, over) = (says.clone(), &over);
                scope.spawn(move || come_again(address, over, &says))
            })
            .collect();
        let ends = End(&over);
        let (last, accepted) = restart_again_and_again(threads, &socket, &served);
        drop(ends);
        let served: usize = clients.into_iter().map(|client| client.join().unwrap().expect("no client notices")).sum();
        last.send(Signal::SIGTERM);
        let accepted = accepted + accepted_by(&last.wait());
        assert_eq!(accepted, served + RESTARTS, "each client has had its answer, and nobody else has come");
        println!("{RESTARTS} restarts, {accepted} clients, {} executor threads", threads.unwrap_or("the usual"));
    });
}

/// Every other time the next instance is there before the last one is told to stop, and both accept for a while; else
/// there is a gap, as with systemd, and clients wait in the queue.
fn restart_again_and_again(threads: Option<&str>, socket: &TcpListener, served: &Receiver<()>) -> (Process, usize) {
    let start = || {
        let service = launch(ONE, &service(threads), socket);
        service.wait_for("Server listening on ");
        service
    };
    let mut running = start();
    let mut accepted = 0;
    for restart in 0..RESTARTS {
        served.try_iter().for_each(drop);
        serves(BETWEEN, served, &running);
        let mut hesitant = connect(socket.local_addr().unwrap()).unwrap();
        serves(OVERTAKEN, served, &running);

        let next = (restart % 2 == 0).then(start);
        running.send(Signal::SIGTERM);
        running.wait_for("SIGTERM came: shutting down");
        hesitant.write_all(MESSAGE).unwrap();
        accepted += accepted_by(&running.wait());
        running = next.unwrap_or_else(start);
        is_answered(hesitant).unwrap_or_else(|error| panic!("restart {restart}, a client that hesitated: {error}"));
    }
    (running, accepted)
}

fn serves(clients: usize, served: &Receiver<()>, running: &Process) {
    for _ in 0..clients {
        served.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nobody is served by {running}"));
    }
}

/// How many an instance has accepted. It must have served all of them, and ended by itself.
fn accepted_by(ended: &Ended) -> usize {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let report = ended.stdout.last().map_or("", String::as_str);
    let (_, counts) = report.split_once("because SIGTERM came: ").unwrap_or_else(|| panic!("{ended:?}"));
    let accepted = counts.split(' ').next().unwrap_or_default();
    let all = format!("{accepted} accepted, {accepted} completed, 0 failed, 0 panicked, 0 cancelled;");
    assert!(counts.starts_with(&all), "{ended:?}");
    accepted.parse().unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// One client after the other, until it is over; or the first error, of one that was refused, reset or not answered.
fn come_again(address: SocketAddr, over: &AtomicBool, says: &Sender<()>) -> io::Result<usize> {
    let mut served = 0;
    while !over.load(Ordering::SeqCst) {
        let mut client = connect(address)?;
        client.write_all(MESSAGE)?;
        is_answered(client)?;
        served += 1;
        let _nobody_counts_any_more = says.send(());
    }
    Ok(served)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}

/// With its own words, and an orderly end.
fn is_answered(mut client: TcpStream) -> io::Result<()> {
    let mut answer = [0; MESSAGE.len()];
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, MESSAGE);
    client.shutdown(Shutdown::Write)?;
    assert_eq!(client.read(&mut answer)?, 0, "nothing but the end follows");
    Ok(())
}

/// Dropped, it is over: on a panic too, or the scope would wait for ever.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
