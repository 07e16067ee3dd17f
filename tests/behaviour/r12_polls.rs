//! R12: while nothing happens, no wait is polled. The tests count the polls of each public wait of a connection, on
//! each kind of stream, beside things that the wait does not wait for (unread bytes, an urgent byte, a half-close). For
//! the waits inside the crate (accept loops, openings, lingering) they measure the CPU time.
#![cfg(target_os = "linux")]

use super::r12_spurious_readiness::cpu;
use crate::support::ways::{self, Client, Kind, Place};
use crate::support::*;
use async_std::channel::{Sender, unbounded};
use async_std::{io, prelude::*, task};
use ebbtide::{
    Accept, Address, Connection, ConnectionState, Handle, Listener, MemoryStream, Phase, Server, ServiceGroup,
    Stopping, TaskGroup, TaskSet,
};
use futures_concurrency::future::Join;
use socket2::SockRef;
use std::future::{Future, pending, poll_fn};
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context as TaskContext, Wake, Waker};
use std::time::Duration;

/// How long the polls are counted, once the waits rest.
const WHILE: Duration = Duration::from_millis(300);

/// The number of polls that is not spinning. `peer_closed` looks 4 times a second for an EOF that unread bytes hide.
const FEW: usize = 5;

/// What is there, or happens, beside the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// The server has timeouts for idle connections and slow writes.
    Timeouts,
    /// The client has sent an urgent byte, which no read takes.
    Urgent,
    /// The client has sent bytes that are not read.
    Unread,
    /// The client has half-closed, and its EOF is not read.
    HalfClosed,
    /// Another task reads from a clone.
    Reader,
    /// The server drains.
    Drain,
}

/// A wait that does not end by itself, unless `may_end` is set.
struct Wait {
    name: &'static str,
    /// Whether it ends when there are bytes or EOF to read.
    reads: bool,
    /// Whether it may end at once, on some streams or beside some things.
    may_end: bool,
    begin: fn(Connection) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

const fn wait(name: &'static str, begin: fn(Connection) -> Pin<Box<dyn Future<Output = ()> + Send>>) -> Wait {
    Wait { name, reads: false, may_end: false, begin }
}

const fn read(name: &'static str, begin: fn(Connection) -> Pin<Box<dyn Future<Output = ()> + Send>>) -> Wait {
    Wait { reads: true, ..wait(name, begin) }
}

const fn brief(wait: Wait) -> Wait {
    Wait { may_end: true, ..wait }
}

const WAITS: &[Wait] = &[
    read("read", |mut conn| Box::pin(async move { drop(conn.read(&mut [0; 8]).await) })),
    read("read_to_end", |mut conn| Box::pin(async move { drop(conn.read_to_end(&mut Vec::new()).await) })),
    read("more", |conn| Box::pin(async move { drop(conn.more().await) })),
    read("lines", |conn| Box::pin(async move { drop(conn.lines().next().await) })),
    read("frames", |conn| Box::pin(async move { drop(conn.frames().next().await) })),
    read("eof_on_drain", |conn| Box::pin(async move { drop(conn.eof_on_drain().read(&mut [0; 8]).await) })),
    read("until_draining(read)", |conn| {
        Box::pin(async move { drop(conn.until_draining((&mut &conn).read(&mut [0; 8])).await) })
    }),
    wait("write", |mut conn| Box::pin(async move { drop(conn.write_all(&vec![b'x'; 64 << 20]).await) })),
    brief(wait("flush", |mut conn| {
        Box::pin(async move {
            fill(&mut conn).await;
            drop(conn.flush().await);
        })
    })),
    brief(wait("close_write", |mut conn| {
        Box::pin(async move {
            fill(&mut conn).await;
            drop(conn.close_write().await);
        })
    })),
    brief(wait("peer_closed", |conn| Box::pin(async move { conn.peer_closed().await }))),
    wait("draining", |conn| Box::pin(async move { conn.draining().await })),
    wait("until_draining", |conn| Box::pin(async move { _ = conn.until_draining(pending::<()>()).await })),
    wait("Handle::until_draining", |conn| {
        Box::pin(async move { _ = conn.server().until_draining(pending::<()>()).await })
    }),
    wait("ServiceGroup::run", |_| {
        Box::pin(async {
            let group = ServiceGroup::new().shutdown_when(pending());
            drop(group.task("waits", async |stopping: Stopping| stopping.await).run().await);
        })
    }),
    // `Upgrade::ready` waits only in a successor's process: `processes` counts its polls there.
    #[cfg(feature = "upgrade")]
    wait("Upgrade::hand_over", |_| {
        Box::pin(async {
            // No limit: the timer of a limit keeps its earlier wakers until the reactor runs.
            let upgrade = ebbtide::upgrade::Upgrade::from_env().unwrap().timeout(Duration::MAX);
            let _server = upgrade.bind("127.0.0.1:0").await.unwrap();
            let mut never_ready = std::process::Command::new("sleep");
            drop(
                upgrade
                    .hand_over({
                        never_ready.arg("60");
                        never_ready
                    })
                    .await,
            );
        })
    }),
    wait("until_shutdown", |conn| Box::pin(async move { _ = conn.until_shutdown(pending::<()>()).await })),
    wait("Handle::until_shutdown", |conn| {
        Box::pin(async move { _ = conn.server().until_shutdown(pending::<()>()).await })
    }),
    wait("reached", |conn| Box::pin(async move { conn.server().reached(Phase::Closed).await })),
    wait("phases", |conn| {
        Box::pin(async move {
            let mut phases = conn.server().phases();
            while phases.next().await.is_some_and(|phase| phase != Phase::Closed) {}
        })
    }),
    wait("Handle::closed", |conn| Box::pin(async move { drop(conn.server().closed().await) })),
    wait("join_tasks", |conn| {
        Box::pin(async move {
            conn.spawn(pending::<()>());
            conn.join_tasks().await;
        })
    }),
    wait("JoinHandle", |conn| Box::pin(async move { drop(conn.spawn(pending::<()>()).await) })),
    wait("JoinHandle of the server", |conn| {
        Box::pin(async move { drop(conn.server().spawn_background(pending::<()>()).await) })
    }),
];

/// Writes until the stream takes no more bytes at once.
async fn fill(conn: &mut Connection) {
    let block = vec![b'x'; 64 << 10];
    for _ in 0..1024 {
        let mut write = pin!(conn.write(&block));
        if poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx).is_pending())).await {
            break;
        }
    }
}

/// A listener, and how its clients connect.
#[derive(Clone, Copy, Debug)]
enum Way {
    Usual(Kind),
    Custom,
}

enum To {
    Usual(Place),
    Custom(Sender<MemoryStream>),
}

struct Queue(async_std::channel::Receiver<MemoryStream>);

impl Accept for Queue {
    type Io = MemoryStream;

    async fn accept(&mut self) -> io::Result<(MemoryStream, Address)> {
        match self.0.recv().await {
            Ok(stream) => Ok((stream, Address::named("a client"))),
            Err(_) => pending().await,
        }
    }
}

impl Way {
    fn open(self) -> (Listener, To) {
        match self {
            Self::Usual(kind) => {
                let (listener, place) = kind.open();
                (listener, To::Usual(place))
            }
            Self::Custom => {
                let (clients, queue) = unbounded();
                (Listener::custom(Address::named("a queue"), Queue(queue)), To::Custom(clients))
            }
        }
    }
}

/// Connects a client to a socket, and sends an order and an urgent byte after it.
fn urgent(address: &Address, order: u8) -> Client {
    fn send<S: AsFd + std::io::Write>(mut socket: S, order: u8) -> S {
        socket.write_all(&[order]).unwrap();
        // Unix sockets have no urgent bytes before Linux 5.15. The test passes without one there.
        let _unsupported = SockRef::from(&socket).send_out_of_band(b"!");
        socket
    }
    match address.path() {
        None => Box::pin(async_std::net::TcpStream::from(send(connect(address), order))),
        Some(path) => {
            let socket = std::os::unix::net::UnixStream::connect(path).unwrap();
            Box::pin(async_std::os::unix::net::UnixStream::from(send(socket, order)))
        }
    }
}

impl To {
    async fn connect(&self) -> Client {
        match self {
            Self::Usual(place) => place.connect().await.unwrap(),
            Self::Custom(clients) => {
                let (ours, theirs) = MemoryStream::pair();
                clients.send(theirs).await.unwrap();
                Box::pin(ours)
            }
        }
    }
}

/// The number of polls of a wait, and whether it has ended.
#[derive(Default)]
struct Counts {
    polls: AtomicUsize,
    ended: AtomicUsize,
}

async fn counted(wait: impl Future<Output = ()>, counts: &Counts) {
    let mut wait = pin!(wait);
    poll_fn(|cx| {
        counts.polls.fetch_add(1, SeqCst);
        wait.as_mut().poll(cx)
    })
    .await;
    counts.ended.store(1, SeqCst);
}

/// Runs each wait in a connection of its own, all at the same time, and counts their polls once they rest.
async fn rest_beside(beside: Beside, way: Way) {
    let all: Arc<Vec<Counts>> = Arc::new(WAITS.iter().map(|_| Counts::default()).collect());
    let (listener, to) = way.open();
    let grace = if beside == Beside::Drain { FOR_EVER } else { Duration::ZERO };
    let mut server = Server::new(listener).grace(grace).newcomer_time(Duration::ZERO);
    if beside == Beside::Timeouts {
        server = server.first_byte_timeout(FOR_EVER).idle_timeout(FOR_EVER).write_timeout(FOR_EVER);
    }
    let handler = {
        let all = Arc::clone(&all);
        move |mut conn: Connection| {
            let all = Arc::clone(&all);
            async move {
                let mut which = [0];
                conn.read_exact(&mut which).await?;
                let which = usize::from(which[0]);
                if beside == Beside::Reader {
                    let mut clone = conn.clone();
                    conn.spawn_background(async move { drop(clone.read(&mut [0; 8]).await) });
                }
                counted((WAITS[which].begin)(conn.clone()), &all[which]).await;
                pending::<io::Result<()>>().await
            }
        }
    };
    let skips = |wait: &Wait| match beside {
        Beside::Unread | Beside::HalfClosed => wait.reads,
        // A drain ends these waits.
        Beside::Drain => wait.reads || wait.name.contains("draining") || wait.name.contains("until_shutdown"),
        _ => false,
    };
    let body = async |server: Handle| {
        let mut clients = Vec::new();
        for (which, wait) in WAITS.iter().enumerate().filter(|(_, wait)| !skips(wait)) {
            let order = u8::try_from(which).unwrap();
            let mut client = match beside {
                Beside::Urgent => urgent(server.local_addr(), order),
                _ => to.connect().await,
            };
            if beside != Beside::Urgent {
                client.write_all(&[order]).await.unwrap();
                client.flush().await.unwrap();
            }
            until(|| all[which].polls.load(SeqCst) > 0).await;
            match beside {
                Beside::Unread => client.write_all(b"unread").await.unwrap(),
                Beside::HalfClosed => ways::close(&mut client).await,
                _ => {}
            }
            client.flush().await.unwrap();
            clients.push((which, wait, client));
        }
        if beside == Beside::Drain {
            drop(server.shutdown());
        }
        // On a Unix socket an urgent byte leaves a mark that only a read consumes, so `peer_closed` is woken again and
        // again, at growing intervals.
        let few = if beside == Beside::Urgent { 4 * FEW } else { FEW };
        let polls = || all.iter().map(|counts| counts.polls.load(SeqCst)).collect::<Vec<_>>();
        // Blocked writes first fill the buffers of the system. A wait that spins never rests.
        let mut before = polls();
        for _ in 0..30 {
            task::sleep(WHILE / 3).await;
            let now = polls();
            if now.iter().zip(&before).all(|(now, before)| now - before <= few) {
                break;
            }
            before = now;
        }
        let before = polls();
        task::sleep(WHILE).await;
        for (which, wait, _client) in clients {
            let more = all[which].polls.load(SeqCst) - before[which];
            assert!(more <= few, "{way:?}, beside {beside:?}: {} was polled {more} times in {WHILE:?}", wait.name);
            let ended = all[which].ended.load(SeqCst) == 1;
            assert!(wait.may_end || !ended, "{way:?}, beside {beside:?}: {} has ended, but must wait", wait.name);
        }
        server.cancel();
    };
    server.scope(handler, body).await.unwrap();
}

/// Runs the waits on all kinds of streams at the same time.
fn each_wait_rests_beside(beside: Beside) {
    test(async move {
        let mut all = TaskSet::new();
        let ways = Kind::ALL.iter().copied().map(Way::Usual).chain([Way::Custom]);
        let sends_urgent = |way: &Way| matches!(way, Way::Usual(Kind::Tcp | Kind::Unix));
        ways.filter(|way| beside != Beside::Urgent || sends_urgent(way))
            .for_each(|way| all.spawn(rest_beside(beside, way)));
        while let Some(result) = all.next().await {
            if let Err(error) = result {
                std::panic::resume_unwind(error.into_panic().expect("the task is never cancelled"));
            }
        }
    });
}

#[test]
fn r12_no_wait_is_polled_while_nothing_happens() {
    each_wait_rests_beside(Beside::Nothing);
}

#[test]
fn r12_no_wait_is_polled_for_timeouts_that_are_far_away() {
    each_wait_rests_beside(Beside::Timeouts);
}

#[test]
fn r12_no_wait_is_polled_for_an_unread_urgent_byte() {
    each_wait_rests_beside(Beside::Urgent);
}

#[test]
fn r12_no_wait_is_polled_for_unread_bytes_that_it_does_not_ask_for() {
    each_wait_rests_beside(Beside::Unread);
}

#[test]
fn r12_no_wait_is_polled_for_a_half_close_that_it_does_not_ask_for() {
    each_wait_rests_beside(Beside::HalfClosed);
}

#[test]
fn r12_no_wait_is_polled_for_a_clone_that_reads() {
    each_wait_rests_beside(Beside::Reader);
}

#[test]
fn r12_no_wait_is_polled_again_and_again_in_a_drain() {
    each_wait_rests_beside(Beside::Drain);
}

/// Counts the polls of a future that never ends.
async fn polls_of(wait: impl Future) -> usize {
    let counts = Counts::default();
    let counted = counted(async { drop(wait.await) }, &counts);
    assert!(async_std::future::timeout(WHILE, counted).await.is_err(), "the future has ended, but must wait");
    counts.polls.load(SeqCst)
}

#[test]
fn r12_no_wait_of_groups_sets_memory_streams_and_connectors_is_polled_while_nothing_happens() {
    test(async {
        let group = TaskGroup::new();
        group.spawn(pending::<()>());
        let mut set = TaskSet::new();
        set.spawn(pending::<()>());
        let ((mut reader, _silent), (mut writer, _full)) = (MemoryStream::pair(), MemoryStream::pair());
        let (_listener, connector) = Listener::memory();
        let all = (
            polls_of(group.join()),
            polls_of(set.next()),
            polls_of(group.spawn(pending::<()>())),
            polls_of(async { reader.read(&mut [0]).await }),
            polls_of(async { writer.write_all(&vec![0; 1 << 20]).await }),
            polls_of(async {
                let mut connected = Vec::new(); // connects until the listener's queue is full
                loop {
                    connected.push(connector.connect().await);
                }
            }),
        );
        let polls = all.join().await;
        let polls = [polls.0, polls.1, polls.2, polls.3, polls.4, polls.5];
        assert!(polls.iter().all(|&polls| polls <= FEW), "{polls:?}");
    });
}

/// Serves by a handler that never ends, until the server is cancelled.
fn serve(server: Server) -> (Handle, Address) {
    let (handle, address) = (server.handle(), server.local_addr().clone());
    task::spawn(server.serve(async |_: Connection| pending::<()>().await));
    (handle, address)
}

#[test]
fn r12_accept_loops_openings_and_lingering_connections_use_no_cpu_while_nothing_happens() {
    test_alone(async {
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        let mut keep = |(handle, address): (Handle, Address), number: usize, urgently: bool| {
            for _ in 0..number {
                clients.push(match urgently {
                    true => urgent(&address, b'P'),
                    false => Box::pin(async_std::net::TcpStream::from(connect(&address))),
                });
            }
            servers.push(handle);
        };
        // One server is paused, with clients in the backlog. Another one, with two listeners, is at its limit.
        let paused = serve(bind().await);
        paused.0.pause();
        keep(paused, 3, false);
        let full = bind().await.max_connections(1);
        keep(serve(full.add_listener(Listener::tcp(loopback()).unwrap())), 3, false);
        // Connections whose openings never complete.
        keep(serve(bind().await.first_byte_timeout(FOR_EVER)), 2, false);
        #[cfg(feature = "tls")]
        {
            let (listener, _place) = Kind::Tls.open();
            keep(serve(Server::new(listener).handshake_timeout(FOR_EVER)), 2, true);
        }
        #[cfg(feature = "proxy-protocol")]
        {
            let proxy = crate::support::proxied::trusting(ebbtide::ProxyProtocol::required());
            let listener = Listener::tcp(loopback()).unwrap().proxy_protocol(proxy);
            keep(serve(Server::new(listener).first_byte_timeout(FOR_EVER)), 2, true);
        }
        // Lingering connections: their clients neither read nor close.
        let lingering = bind().await;
        let handle = (lingering.handle(), lingering.local_addr().clone());
        task::spawn(lingering.serve(async |mut conn: Connection| conn.write_all(&vec![b'x'; 256 << 10]).await));
        keep(handle.clone(), 3, false);
        until(|| handle.0.connections().iter().filter(|one| one.state() == ConnectionState::Lingering).count() == 3)
            .await;

        task::sleep(WHILE / 3).await;
        let before = cpu();
        task::sleep(2 * WHILE).await;
        let used = cpu() - before;
        for server in servers {
            server.cancel().await;
        }
        assert!(used < 60, "{used} ms of CPU in {:?}", 2 * WHILE);
    });
}

/// A waker without an effect. Its `Arc` counts how many clones of it are kept.
struct CountedWaker;

impl Wake for CountedWaker {
    fn wake(self: Arc<Self>) {}
}

/// A combinator may make a new waker for each of its futures at each poll, so one wait may see a new waker at each
/// poll.
#[test]
fn r12_a_wait_that_is_polled_with_10_000_wakers_keeps_at_most_64_of_them() {
    test(async {
        let (done, kept) = unbounded();
        for way in Kind::ALL.iter().copied().map(Way::Usual).chain([Way::Custom]) {
            let (listener, to) = way.open();
            let done = done.clone();
            let handler = move |mut conn: Connection| {
                let done = done.clone();
                async move {
                    let mut which = [0];
                    conn.read_exact(&mut which).await?;
                    let wait = &WAITS[usize::from(which[0])];
                    let mut future = (wait.begin)(conn.clone());
                    let tasks: Vec<_> = (0..10_000).map(|_| Arc::new(CountedWaker)).collect();
                    for task in &tasks {
                        let waker = Waker::from(Arc::clone(task));
                        if future.as_mut().poll(&mut TaskContext::from_waker(&waker)).is_ready() {
                            break;
                        }
                    }
                    let kept = tasks.iter().filter(|task| Arc::strong_count(task) > 1).count();
                    done.send((wait.name, kept)).await.unwrap();
                    io::Result::Ok(())
                }
            };
            let body = async |server: Handle| {
                let mut clients = Vec::new();
                for which in 0..WAITS.len() {
                    let mut client = to.connect().await;
                    client.write_all(&[u8::try_from(which).unwrap()]).await.unwrap();
                    client.flush().await.unwrap();
                    clients.push(client);
                }
                for _ in WAITS {
                    let (name, kept) = kept.recv().await.unwrap();
                    assert!(kept <= 64, "{way:?}: {name} keeps {kept} wakers");
                }
                server.cancel();
            };
            Server::new(listener).grace(Duration::ZERO).scope(handler, body).await.unwrap();
        }
    });
}

#[test]
fn r12_groups_and_sets_keep_one_waker_per_wait() {
    fn kept(wait: impl Future) -> usize {
        let mut wait = pin!(wait);
        let tasks: Vec<_> = (0..10_000).map(|_| Arc::new(CountedWaker)).collect();
        for task in &tasks {
            let waker = Waker::from(Arc::clone(task));
            assert!(wait.as_mut().poll(&mut TaskContext::from_waker(&waker)).is_pending());
        }
        tasks.iter().filter(|task| Arc::strong_count(task) > 1).count()
    }
    test(async {
        let (group, mut set) = (TaskGroup::new(), TaskSet::new());
        let handle = group.spawn(pending::<()>());
        set.spawn(pending::<()>());
        assert_eq!([kept(group.join()), kept(handle), kept(set.next())], [1, 1, 1]);
        let (_listener, connector) = Listener::memory();
        let (mut reader, _silent) = MemoryStream::pair();
        let mut connected = Vec::new();
        let full = async {
            loop {
                connected.push(connector.connect().await);
            }
        };
        assert!(kept(full) <= 64 && kept(reader.read(&mut [0])) <= 64);
    });
}
