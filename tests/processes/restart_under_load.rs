//! A service is restarted again and again while clients connect without a pause. At each restart one more client has
//! been accepted already, and sends only when the service has got SIGTERM. The launcher keeps the socket, as systemd
//! does, and every client gets its answer.
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

/// The least number of clients that each instance serves alone.
const BETWEEN: usize = 50;

/// When this many later clients have been served, an earlier one has been accepted: the backlog keeps its order.
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
    let (send, served) = channel();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (send, over) = (send.clone(), &over);
                scope.spawn(move || reconnect(address, over, &send))
            })
            .collect();
        let ends = EndClients(&over);
        let (last, accepted) = restart_again_and_again(threads, &socket, &served);
        drop(ends);
        let served: usize =
            clients.into_iter().map(|client| client.join().unwrap().expect("each client gets its answer")).sum();
        last.send(Signal::SIGTERM);
        let accepted = accepted + accepted_by(&last.wait());
        assert_eq!(
            accepted,
            served + RESTARTS,
            "the instances must have accepted the clients that got an answer, and no others"
        );
        println!("{RESTARTS} restarts, {accepted} clients, {} executor threads", threads.unwrap_or("the usual"));
    });
}

/// Restarts the service. At every other restart the next instance starts before the last one gets SIGTERM, and both
/// accept for a while. At the others there is a gap, as with systemd, and the clients wait in the backlog.
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
        let mut paused = connect(socket.local_addr().unwrap()).unwrap();
        serves(OVERTAKEN, served, &running);

        let next = (restart % 2 == 0).then(start);
        running.send(Signal::SIGTERM);
        running.wait_for("received SIGTERM: shutting down");
        paused.write_all(MESSAGE).unwrap();
        accepted += accepted_by(&running.wait());
        running = next.unwrap_or_else(start);
        is_answered(paused).unwrap_or_else(|error| panic!("restart {restart}, the client that paused: {error}"));
    }
    (running, accepted)
}

/// Waits until this many more clients have been served.
fn serves(clients: usize, served: &Receiver<()>, running: &Process) {
    for _ in 0..clients {
        served.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no client is served by {running}"));
    }
}

/// Returns the number of clients that an instance has accepted. It must have served all of them, and ended by itself.
fn accepted_by(ended: &Ended) -> usize {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let report = ended.stdout.last().map_or("", String::as_str);
    let (_, counts) = report.split_once("because SIGTERM was received: ").unwrap_or_else(|| panic!("{ended:?}"));
    let accepted = counts.split(' ').next().unwrap_or_default();
    let all = format!("{accepted} accepted, {accepted} completed, 0 failed, 0 panicked, 0 cancelled;");
    assert!(counts.starts_with(&all), "{ended:?}");
    accepted.parse().unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// Connects one client after the other until the test is over. Returns the number of answers, or the error of the first
/// client that was refused, reset or not answered.
fn reconnect(address: SocketAddr, over: &AtomicBool, send: &Sender<()>) -> io::Result<usize> {
    let mut served = 0;
    while !over.load(Ordering::SeqCst) {
        let mut client = connect(address)?;
        client.write_all(MESSAGE)?;
        is_answered(client)?;
        served += 1;
        let _receiver_is_gone = send.send(());
    }
    Ok(served)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}

/// Checks that the answer is the client's own message, and that EOF follows.
fn is_answered(mut client: TcpStream) -> io::Result<()> {
    let mut answer = [0; MESSAGE.len()];
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, MESSAGE);
    client.shutdown(Shutdown::Write)?;
    assert_eq!(client.read(&mut answer)?, 0, "only EOF may follow the answer");
    Ok(())
}

/// A drop guard that ends the test's clients, on a panic too: otherwise the scope would wait for them forever.
struct EndClients<'a>(&'a AtomicBool);

impl Drop for EndClients<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
