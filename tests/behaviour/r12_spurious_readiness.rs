//! R12: a wait for readiness consumes the cause of the readiness, or rests. None of these keeps a CPU busy: an urgent
//! byte, which the crate's reads never take; a stream that another task is polling; a cause that no operation consumes.
#![cfg(target_os = "linux")]

use crate::support::executor::alone_with_threads;
use crate::support::files::Folder;
use crate::support::*;
use async_std::prelude::*;
use async_std::{channel::bounded, io, task};
use ebbtide::{Accept, Address, Connection, Handle, Listener, MemoryStream, Server};
use futures_concurrency::future::Race;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use socket2::SockRef;
use std::future::{Future, pending, poll_fn};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// How long polls or CPU time are measured.
const WHILE: Duration = Duration::from_millis(500);

trait Client: std::io::Read + std::io::Write + std::os::fd::AsFd + Send {}
impl<T: std::io::Read + std::io::Write + std::os::fd::AsFd + Send> Client for T {}

type Connect = Box<dyn FnOnce() -> Box<dyn Client> + Send>;

#[derive(Clone, Copy, Debug)]
enum Way {
    Tcp,
    Unix,
}

impl Way {
    /// Opens a server, and returns a function that connects a client to it.
    fn open(self, folder: &Folder) -> (Server, Connect) {
        match self {
            Self::Tcp => {
                let listener = Listener::tcp(loopback()).unwrap();
                let address = listener.local_addr().clone();
                (Server::new(listener), Box::new(move || Box::new(connect(&address))))
            }
            Self::Unix => {
                let path = folder.path("urgent.sock");
                let listener = Listener::unix(&path).unwrap();
                (Server::new(listener), Box::new(move || Box::new(UnixStream::connect(path).unwrap())))
            }
        }
    }
}

/// Sends an urgent byte. Returns false if the system has none: Unix sockets before Linux 5.15.
fn send_urgent(client: &dyn Client) -> bool {
    match SockRef::from(&client.as_fd()).send_out_of_band(b"!") {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => false,
        sent => sent.is_ok_and(|n| n == 1),
    }
}

/// Counts the polls of a future.
async fn counted<F: Future>(future: F, polls: &AtomicUsize) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        polls.fetch_add(1, Ordering::SeqCst);
        future.as_mut().poll(cx)
    })
    .await
}

/// Returns the CPU time of the whole process, in milliseconds.
pub(crate) fn cpu() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    usage.user_time().num_milliseconds() + usage.system_time().num_milliseconds()
}

#[test]
fn r12_each_wait_rests_beside_an_urgent_byte_and_loses_no_byte() {
    for wait in ["peer_closed", "more", "read"] {
        for way in [Way::Tcp, Way::Unix] {
            test(async move {
                let folder = Folder::new();
                let (server, connect) = way.open(&folder);
                let polls = Arc::new(AtomicUsize::new(0));
                let (waits, has_begun) = bounded(1);
                let handler = {
                    let polls = Arc::clone(&polls);
                    move |mut conn: Connection| {
                        let (polls, waits) = (Arc::clone(&polls), waits.clone());
                        async move {
                            let mut buf = [0; 5];
                            waits.send(()).await.unwrap();
                            match wait {
                                "peer_closed" => counted(conn.peer_closed(), &polls).await,
                                "more" => assert!(counted(conn.more(), &polls).await?),
                                _ => {}
                            }
                            counted(conn.clone().read_exact(&mut buf), &polls).await?;
                            conn.write_all(&buf).await
                        }
                    }
                };
                let body = async |_: Handle| {
                    let mut client = connect();
                    has_begun.recv().await?;
                    let _unsupported = send_urgent(&*client);
                    task::sleep(WHILE).await;
                    let polled = polls.load(Ordering::SeqCst);
                    client.write_all(b"hello")?;
                    if wait == "peer_closed" {
                        SockRef::from(&client.as_fd()).shutdown(std::net::Shutdown::Write)?;
                    }
                    let answer = task::spawn_blocking(move || {
                        let mut answer = String::new();
                        client.read_to_string(&mut answer).map(|_| answer)
                    });
                    Ok((polled, answer.await?))
                };
                let ((polled, answer), report) = server.scope(handler, body).await.unwrap();
                assert!(polled < 50, "{way:?}, {wait}: {polled} polls, {report}");
                assert_eq!(answer, "hello", "{way:?}, {wait}: {report}");
            });
        }
    }
}

#[test]
fn r12_the_wait_for_the_first_byte_rests_beside_an_urgent_byte() {
    for way in [Way::Tcp, Way::Unix] {
        test_alone(async move {
            let folder = Folder::new();
            let (server, connect) = way.open(&folder);
            let server = server.first_byte_timeout(FOR_EVER).grace(FOR_EVER);
            let body = async |server: Handle| {
                let mut client = connect();
                until(|| server.connection_count() == 1).await;
                let _unsupported = send_urgent(&*client);
                task::sleep(Duration::from_millis(50)).await;
                let before = cpu();
                task::sleep(WHILE).await;
                let used = cpu() - before;
                client.write_all(b"hello")?;
                let answer = task::spawn_blocking(move || {
                    let mut answer = [0; 5];
                    client.read_exact(&mut answer).map(|()| answer)
                });
                assert_eq!(&answer.await?, b"hello");
                Ok(used)
            };
            let (used, report) = server.scope(echo, body).await.unwrap();
            assert!(used < 150, "{way:?}: {used} ms of CPU in {WHILE:?}: {report}");
        });
    }
}

/// A stream whose writes block the thread for a while.
struct Blocking(MemoryStream);

impl io::Read for Blocking {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl io::Write for Blocking {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::thread::sleep(WHILE);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

struct One(Option<MemoryStream>);

impl Accept for One {
    type Io = Blocking;

    async fn accept(&mut self) -> io::Result<(Blocking, Address)> {
        match self.0.take() {
            Some(stream) => Ok((Blocking(stream), Address::named("a client"))),
            None => pending().await,
        }
    }
}

#[test]
fn r12_in_a_drain_a_wait_rests_while_another_task_uses_the_stream() {
    alone_with_threads(2, || {
        test_alone(async {
            let (ours, mut client) = MemoryStream::pair();
            let polls = Arc::new(AtomicUsize::new(0));
            let handler = {
                let polls = Arc::clone(&polls);
                move |mut conn: Connection| {
                    let polls = Arc::clone(&polls);
                    async move {
                        conn.read_exact(&mut [0]).await?;
                        drop(conn.server().shutdown());
                        conn.draining().await;
                        let mut writer = conn.clone();
                        let writing = conn.spawn(async move { writer.write_all(b"x").await });
                        task::sleep(WHILE / 10).await; // until the task writes
                        counted(conn.more(), &polls).await?;
                        writing.await?
                    }
                }
            };
            client.write_all(b"!").await.unwrap();
            let listener = Listener::custom(Address::named("blocking"), One(Some(ours)));
            let body = async |_: Handle| pending::<()>().await;
            let (_, report) = Server::new(listener).scope(handler, body).await.unwrap();
            let polled = polls.load(Ordering::SeqCst);
            assert!(polled < 50 && report.completed() == 1, "{polled} polls, {report}");
        });
    });
}

/// Returns a listener. Its connections get a time stamp in their socket's error queue for what they send. Until a time
/// stamp is fetched, the kernel reports the socket as ready in both directions.
fn with_time_stamps() -> Listener {
    use nix::sys::socket::{TimestampingFlag, setsockopt, sockopt::Timestamping};
    let socket = std::net::TcpListener::bind(loopback()).unwrap();
    let stamps = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    setsockopt(&socket, Timestamping, &stamps).unwrap(); // its connections inherit it
    Listener::try_from(socket).unwrap()
}

#[test]
fn r12_a_wait_rests_beside_a_cause_of_readiness_that_no_operation_consumes() {
    alone_with_threads(2, || ["read", "write", "two reads"].into_iter().for_each(rests_with_time_stamps));
}

fn rests_with_time_stamps(wait: &'static str) {
    test_alone(async move {
        let server = Server::new(with_time_stamps());
        let polls = Arc::new(AtomicUsize::new(0));
        let (waits, has_begun) = bounded(1);
        let handler = {
            let polls = Arc::clone(&polls);
            move |mut conn: Connection| {
                let (polls, waits) = (Arc::clone(&polls), waits.clone());
                async move {
                    conn.write_all(b"x").await?; // its time stamp stays in the error queue
                    waits.send(()).await.unwrap();
                    if wait == "write" {
                        return counted(conn.write_all(&vec![b'x'; 16 << 20]), &polls).await;
                    }
                    let mut clone = conn.clone();
                    let other =
                        async { if wait == "two reads" { clone.read(&mut [0]).await } else { pending().await } };
                    let mut buf = [0];
                    let read = counted(conn.read(&mut buf), &polls);
                    (read, other).race().await.map(|n| assert_eq!(n, 1))
                }
            }
        };
        let body = async |server: Handle| {
            let mut client = connect(server.local_addr());
            has_begun.recv().await?;
            task::sleep(WHILE / 5).await;
            let before = cpu();
            task::sleep(WHILE).await;
            let (used, polled) = (cpu() - before, polls.load(Ordering::SeqCst));
            client.write_all(b"!")?;
            task::spawn_blocking(move || std::io::copy(&mut client, &mut std::io::sink())).await?;
            Ok((used, polled))
        };
        let ((used, polled), report) = server.scope(handler, body).await.unwrap();
        assert!(used < 150 && polled < 150, "{wait}: {used} ms of CPU, {polled} polls in {WHILE:?}: {report}");
        assert_eq!(report.completed(), 1, "{report}");
    });
}
