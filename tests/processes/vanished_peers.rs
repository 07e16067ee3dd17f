//! Peers that vanish: the test makes two network namespaces with a virtual cable between them, and cuts it. Connections
//! of vanished peers end, idle or with a reply that is not acknowledged. A live client that reads nothing keeps its
//! connection.
#![cfg(target_os = "linux")]

use crate::support::process::{Process, part_to_play, this_binary};
use crate::support::{NET, bind, on_thread, until};
use async_std::channel::{Receiver, bounded};
use async_std::{prelude::*, task};
use ebbtide::{Connection, EndReason, Handle, Keepalive, ListenOptions, Server};
use std::future::pending;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The server's address, at its end of the cable.
const ADDRESS: &str = "10.64.0.1:4000";

/// Much more than the kernels at both ends buffer while nothing is read.
const LARGE: usize = 32 << 20;

// The first byte of a client chooses what its handler does.
const IDLE: u8 = 0;
const SMALL_REPLY: u8 = 1;
const LARGE_REPLY: u8 = 2;

/// Not a test by itself: the server, in a network of its own, and its clients, in another.
#[test]
fn the_program() {
    match part_to_play().as_deref() {
        Some("server") => task::block_on(serve()),
        Some("clients") => be_clients(),
        _ => return,
    }
    std::process::exit(0);
}

/// The other end of the cable, in a network namespace of its own.
struct FarEnd {
    /// A process that keeps the namespace alive.
    holder: Child,
}

impl FarEnd {
    fn new() -> Self {
        let holder = Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let far = Self { holder };
        // Waits until the process is in its namespace: the cable's end is put there.
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", far.holder.id());
        while std::fs::read_link(&path).is_ok_and(|namespace| namespace == own) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let id = far.holder.id().to_string();
        for words in [
            "link set lo up",
            "link add near type veth peer name far",
            &format!("link set far netns {id}"),
            "addr add 10.64.0.1/24 dev near",
            "link set near up",
        ] {
            run(Command::new("ip").args(words.split(' ')));
        }
        far.run("ip addr add 10.64.0.2/24 dev far");
        far.run("ip link set far up");
        far
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net"]);
        command
    }

    fn run(&self, words: &str) {
        run(self.command().args(words.split(' ')));
    }

    fn cut(&self) {
        self.run("ip link set far down");
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Connects one client of each kind, and keeps them until standard input ends. None of them reads.
fn be_clients() {
    let _clients = [IDLE, SMALL_REPLY, LARGE_REPLY].map(|kind| {
        let mut client = TcpStream::connect(ADDRESS).unwrap();
        client.write_all(&[kind]).unwrap();
        client
    });
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

async fn serve() {
    let far = FarEnd::new();
    let second = Duration::from_secs(1);
    let options = ListenOptions::new().keepalive(Keepalive::after(second).interval(second).retries(2));
    let server = Server::bind_with(ADDRESS, &options).await.unwrap().ack_timeout(2 * second);
    let (cut, is_cut) = bounded(1);
    let body = async |server: Handle| {
        let clients = this_binary(module_path!(), "the_program", "clients");
        let mut inside = far.command();
        inside.arg(clients.get_program()).args(clients.get_args());
        inside.envs(clients.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut clients = inside.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        until(|| server.connections().iter().filter(|connection| connection.label().is_some()).count() == 3).await;
        task::sleep(3 * second).await; // longer than each limit: live peers must not be affected
        assert_eq!(server.connection_count(), 3, "{}", server.counts());
        far.cut();
        cut.send(()).await?;
        until(|| server.connection_count() == 0).await;
        let counts = server.counts();
        let [kept_alive, acknowledged] = [EndReason::Disconnected, EndReason::AckTimeout].map(|end| counts.ended(end));
        println!("ENDED {kept_alive} by keep-alive, {acknowledged} by the lack of acknowledgements");
        clients.kill()?;
        clients.wait()?;
        Ok(())
    };
    server.scope(move |conn| answer(conn, is_cut.clone()), body).await.unwrap();
}

async fn answer(mut conn: Connection, cut: Receiver<()>) -> io::Result<()> {
    let mut kind = [0];
    conn.read_exact(&mut kind).await?;
    conn.label("begun");
    match kind[0] {
        IDLE => conn.read_exact(&mut [0]).await,
        SMALL_REPLY => {
            let _ = cut.recv().await;
            conn.write_all(b"reply").await?;
            pending().await
        }
        _ => conn.write_all(&vec![b'x'; LARGE]).await,
    }
}

#[test]
fn connections_of_peers_behind_a_cut_cable_end_whether_idle_or_with_an_unacknowledged_reply() {
    on_thread(|| {
        let alone = || {
            let mut alone = Command::new("unshare");
            alone.args(["--user", "--map-root-user", "--net"]);
            alone
        };
        let works = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        if !works(alone().args(["ip", "link", "add", "near", "type", "veth", "peer", "name", "far"])) {
            println!("skipped: there is no `unshare` or `ip`, or it is not permitted");
            return;
        }
        let program = this_binary(module_path!(), "the_program", "server");
        let mut server = alone();
        server.arg(program.get_program()).args(program.get_args());
        server.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ended = Process::start(&mut server).wait();
        assert!(ended.status.success(), "{ended:?}");
        let expected = "ENDED 1 by keep-alive, 2 by the lack of acknowledgements";
        assert!(ended.stdout.iter().any(|line| line.contains(expected)), "{ended:?}");
    });
}

/// The client's kernel acknowledges the probes of the server's, which are sent after 0.2, 0.4, 0.8, 1.6 seconds and so
/// on. The limit is longer than 1.6 s, and the client reads nothing for longer than the limit.
#[test]
fn a_live_client_that_reads_nothing_for_longer_than_the_limit_stays_connected() {
    crate::support::test(async {
        let server = bind().await.ack_timeout(Duration::from_millis(2400));
        let address: SocketAddr = server.local_addr().tcp().unwrap();
        let handler = async |mut conn: Connection| conn.write_all(&vec![b'x'; LARGE]).await;
        let body = async |server: Handle| {
            let reading = task::spawn_blocking(move || {
                let mut client = TcpStream::connect(address)?;
                client.set_read_timeout(Some(NET))?;
                std::thread::sleep(Duration::from_secs(5));
                let mut all = Vec::new();
                client.read_to_end(&mut all)?;
                io::Result::Ok(all.len())
            });
            assert_eq!(reading.await?, LARGE, "{}", server.counts());
            Ok(())
        };
        let ((), report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
    });
}
