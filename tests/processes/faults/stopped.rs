//! A server, or a client, that is stopped (SIGSTOP, a paused machine, a debugger) for longer than each time limit.
//!
//! What it found: after the stop all timers fire at once, and the reactor learns of at most 1,024 sockets at a time. The
//! connections behind those were closed as idle or silent although their bytes had arrived long before: of 3,000 clients
//! that had sent a message in time, 124 got EOF in place of its echo. Now a limit that has passed is checked against the
//! socket, and bytes that are there get another second to be read.

use super::{Numbers, assert_ends, connect, id, say_and_hear, server, ticks};
use crate::support::process::{PATIENCE, Process, part_to_play, this_binary};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// More than the sockets that the reactor learns of at a time.
const CLIENTS: usize = 1500;

/// Longer than the limits of one second.
const STOP: Duration = Duration::from_millis(1500);

/// Stops a process, and waits until all of its threads are stopped.
fn stop(id: u32) {
    crate::support::process::send(id, Signal::SIGSTOP);
    let start = Instant::now();
    let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
        stat.map_or(true, |stat| stat.rsplit(')').next().unwrap().starts_with(" T")) // an error: it has ended
    };
    while !std::fs::read_dir(format!("/proc/{id}/task")).unwrap().all(is_stopped) {
        assert!(start.elapsed() < PATIENCE, "process {id} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn go_on(id: u32) {
    crate::support::process::send(id, Signal::SIGCONT);
}

/// Not a test by itself: the clients of a stopped server. Half of them have spoken before the stop.
#[test]
fn the_clients() {
    let Some(port) = part_to_play() else { return };
    let port = port.parse().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut clients: Vec<_> = (0..2 * CLIENTS).map(|_| connect(port).unwrap()).collect();
    for client in &mut clients[CLIENTS..] {
        say_and_hear(client, b"hello").unwrap();
    }
    println!("connected");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    // The reactor learns first of those that have sent first, and theirs are the last limits here.
    clients.iter_mut().rev().for_each(|client| client.write_all(b"sent in time").unwrap());
    println!("sent");
    let is_echoed = |client: &mut TcpStream| {
        let mut echo = [0; 12];
        client.read_exact(&mut echo).is_ok_and(|()| &echo == b"sent in time")
    };
    let echoed = clients.iter_mut().map(is_echoed).filter(|echoed| *echoed).count();
    println!("echoed {echoed} of {}", clients.len());
    std::process::exit(0);
}

#[test]
fn clients_that_have_sent_while_the_server_was_stopped_are_served_and_the_drain_ends() {
    // On a busy machine the limits may pass before the stop. Then longer ones are tried.
    assert!([3, 8, 20].into_iter().any(|seconds| are_served(Duration::from_secs(seconds))), "the machine is too slow");
}

/// Returns whether all clients have connected before a part of the limit has passed.
fn are_served(limit: Duration) -> bool {
    let limits = ["idle", "first-byte"].map(|name| format!("{name}={}", limit.as_millis()));
    let server = Process::start(&mut server(&limits.each_ref().map(String::as_str), 2));
    let (id, port) = (id(&server), server.port());
    let start = Instant::now();
    let mut clients = Process::start(&mut this_binary(module_path!(), "the_clients", &port.to_string()));
    // So that none of them is in the backlog, which would begin its limit after the stop.
    let is_accepted = || std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() >= 2 * CLIENTS;
    while !clients.prints_within(Duration::from_millis(1), "connected") || !is_accepted() {
        if start.elapsed() > limit / 2 {
            return false;
        }
    }
    stop(id);
    if start.elapsed() > limit / 2 {
        return false;
    }
    clients.say("send");
    clients.wait_for("sent");
    std::thread::sleep(limit + Duration::from_millis(100));
    let before = ticks(id);
    go_on(id);
    let ended = clients.wait();
    assert!(ended.stdout.contains(&format!("echoed {0} of {0}", 2 * CLIENTS)), "{:?}: {server}", ended.stdout);
    println!("{} ticks of 10 ms after the stop", ticks(id) - before);
    server.send(Signal::SIGTERM);
    let numbers = numbers(server);
    assert_eq!([numbers.get("accepted"), numbers.get("completed")], [2 * CLIENTS as u64; 2], "{numbers:?}");
    true
}

/// Not a test by itself: a server with TLS. It is given the limit of its handshakes in milliseconds, its certificates
/// and its key.
#[cfg(feature = "tls")]
#[test]
fn a_tls_server() {
    let Some(given) = part_to_play() else { return };
    let [limit, certificates, key] = given.split(' ').collect::<Vec<_>>().try_into().expect("three words");
    let limit = Duration::from_millis(limit.parse().unwrap());
    let tls = ebbtide::Tls::from_pem_files(certificates, key).unwrap();
    let serving = async move {
        let signals = ebbtide::signal::termination().unwrap();
        let options = ebbtide::ListenOptions::new().tls(&tls);
        let server = ebbtide::Server::bind_with("127.0.0.1:0", &options).await.unwrap();
        let server = server.handshake_timeout(limit).shutdown_on(signals);
        println!("Server listening on {server}");
        let report = server.serve(crate::support::speaks).await.unwrap();
        println!("{report}");
    };
    crate::support::test(serving);
    std::process::exit(0);
}

#[cfg(feature = "tls")]
#[test]
fn handshakes_that_were_begun_when_the_server_was_stopped_go_on() {
    assert!(
        [1, 1, 4, 15].into_iter().any(|seconds| handshakes_go_on(Duration::from_secs(seconds))),
        "the machine is too slow"
    );
}

/// Returns whether all clients had begun before a part of the limit had passed, and could answer in the extra time.
#[cfg(feature = "tls")]
fn handshakes_go_on(limit: Duration) -> bool {
    use crate::support::secured::TlsFixture;
    use ebbtide::rustls::ClientConnection;
    const CLIENTS: usize = 50;
    /// A part of the second that the server waits for what is still on its way.
    const EXTRA: Duration = Duration::from_millis(800);
    let tls = TlsFixture::new();
    let config = std::sync::Arc::new(tls.authority.client(None));
    let with_hello = || {
        let mut client = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        (client, hello)
    };
    let hellos: Vec<_> = (0..CLIENTS).map(|_| with_hello()).collect();
    let (certificates, key) = (tls.server.certificates.display(), tls.server.key.display());
    let given = format!("{} {certificates} {key}", limit.as_millis());
    let server = Process::start(&mut this_binary(module_path!(), "a_tls_server", &given));
    let (id, port) = (server.id(), server.port());
    let before = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    let start = Instant::now();
    let mut clients: Vec<_> = hellos.into_iter().map(|(tls, hello)| (connect(port).unwrap(), tls, hello)).collect();
    clients.iter_mut().for_each(|(client, _, hello)| client.write_all(&hello[..10]).unwrap());
    while std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() < before + CLIENTS {
        if start.elapsed() > limit / 2 {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    stop(id);
    if start.elapsed() > limit / 2 {
        return false;
    }
    clients.iter_mut().for_each(|(client, _, hello)| client.write_all(&hello[10..]).unwrap());
    std::thread::sleep(limit + Duration::from_millis(100));
    let start = Instant::now();
    go_on(id);
    // All of them answer the server before one of them waits for its reply.
    let mut secure = |(client, tls, _): &mut (TcpStream, ClientConnection, _)| {
        while tls.is_handshaking() {
            tls.complete_io(client)?;
        }
        tls.writer().write_all(b"!")?;
        tls.complete_io(client).map(drop)
    };
    let secured: Vec<_> = clients.iter_mut().map(&mut secure).collect();
    let took = start.elapsed();
    let mut reply = |(n, (client, tls, _)): (usize, &mut (TcpStream, ClientConnection, _))| {
        secured[n].as_ref().map_err(ToString::to_string)?;
        let mut reply = String::new();
        let read = ebbtide::rustls::Stream::new(tls, client).read_to_string(&mut reply);
        read.map(|_| reply).map_err(|error| error.to_string())
    };
    let replies: Vec<_> = clients.iter_mut().enumerate().map(&mut reply).collect();
    if let Some(other) = replies.iter().find(|reply| **reply != Ok("whole reply".to_owned())) {
        assert!(took > EXTRA, "after {took:?}: {other:?}: {server}");
        return false;
    }
    server.send(Signal::SIGTERM);
    drop(clients);
    assert_eq!(server.wait().status.code(), Some(0));
    true
}

/// A limit counts as ever for clients that have sent nothing.
#[test]
fn a_server_that_is_stopped_in_its_drain_ends_and_silent_clients_are_counted_as_such() {
    let test = |threads| {
        let served = Process::start(&mut server(&["idle=1000", "first-byte=900"], threads));
        let mut idle = connect(served.port()).unwrap();
        say_and_hear(&mut idle, b"hello").unwrap();
        let mut silent = connect(served.port()).unwrap();
        stop(served.id());
        std::thread::sleep(STOP);
        go_on(served.id());
        assert_ends(&mut idle, &served);
        assert_ends(&mut silent, &served);
        served.send(Signal::SIGTERM);
        let numbers = numbers(served);
        // The limit of the first byte may begin after the stop, if that came just after the accept.
        let [idle, first_byte] = ["idle_timeout", "first_byte_timeout"].map(|end| numbers.get(end));
        assert!(idle >= 1 && idle + first_byte == 2, "{numbers:?}");

        let drained = Process::start(&mut server(&["grace=1000", "stubborn"], threads));
        let mut held = connect(drained.port()).unwrap();
        say_and_hear(&mut held, b"hello").unwrap();
        drained.send(Signal::SIGTERM);
        drained.wait_for("draining 1 connection");
        stop(drained.id());
        std::thread::sleep(STOP);
        go_on(drained.id());
        assert_ends(&mut held, &drained);
        let numbers = self::numbers(drained);
        assert_eq!(["accepted", "shutdown"].map(|end| numbers.get(end)), [1, 1], "{numbers:?}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| test(1));
        test(2);
    });
}

/// Returns the numbers of a server that ends with status 0 and has not panicked.
fn numbers(server: Process) -> Numbers {
    let ended = server.wait();
    assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &[][..]), "{ended:?}");
    Numbers::of(&ended)
}

/// Not a test by itself: a client that reads nothing, and is stopped.
#[test]
fn a_client() {
    let Some(port) = part_to_play() else { return };
    let mut client = connect(port.parse().unwrap()).unwrap();
    // Writes until all buffers on the way there and back are full, so that the server waits with its write.
    client.set_nonblocking(true).unwrap();
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(300) {
        match client.write(&[b'x'; 1 << 16]) {
            Ok(1..) => last = Instant::now(),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    println!("full");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_client_that_is_stopped_in_the_middle_of_a_reply_ends_by_the_write_timeout() {
    let server = Process::start(&mut server(&["write=1000"], 2));
    let (id, port) = (id(&server), server.port());
    let client = Process::start(&mut this_binary(module_path!(), "a_client", &port.to_string()));
    client.wait_for("full");
    stop(client.id());
    let start = Instant::now();
    let connections = || {
        std::fs::read_dir(format!("/proc/{id}/fd"))
            .unwrap()
            .filter(|entry| {
                let target = std::fs::read_link(entry.as_ref().unwrap().path());
                target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
            })
            .count()
    };
    let mut other = connect(port).unwrap();
    say_and_hear(&mut other, b"beside it").unwrap(); // accepted
    let all = connections();
    while connections() >= all {
        assert!(start.elapsed() < PATIENCE, "a stopped client keeps its connection: {server}");
        say_and_hear(&mut other, b"beside it").unwrap(); // others are served
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(other);
    server.send(Signal::SIGTERM);
    let numbers = numbers(server);
    assert_eq!([numbers.get("accepted"), numbers.get("write_timeout")], [2, 1], "{numbers:?}");
    drop(client);
}
