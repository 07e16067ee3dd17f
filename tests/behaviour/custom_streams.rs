//! Streams that users write may panic, hang, never end, and be polled by many tasks at once. That costs their own
//! connection, and nothing else: the server serves on, every way out still ends, and nobody spins.

use crate::support::scripted::{Puppet, Script, Step};
use crate::support::*;
use async_std::io::Read as _;
use async_std::prelude::*;
use async_std::task;
use ebbtide::{Connection, Handle, Server};
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// A server whose first client is this one.
fn server_with(stream: Puppet) -> (Server, Script) {
    let (listener, script) = Script::listener();
    script.tell(Step::Client(Box::pin(stream)));
    (Server::new(listener), script)
}

/// Reads until the end.
async fn read(conn: Connection) -> io::Result<()> {
    let mut buf = [0; 16];
    while let Some(n) = conn.until_draining((&conn).read(&mut buf)).await.transpose()? {
        if n == 0 {
            break;
        }
    }
    Ok(())
}

/// Waits until nobody is connected, and then until another client is served: the server has survived.
async fn survives(server: &Handle, script: &Script) {
    while server.connection_count() > 0 || script.left() > 0 {
        task::sleep(Duration::from_millis(1)).await;
    }
    let mut client = script.client();
    client.close().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert!(server.is_serving());
}

#[test]
fn a_read_that_panics_is_an_error_of_its_connection() {
    test(async {
        let logs = logs::remember();
        let (server, script) = server_with(Puppet::new().read(|_, _| panic!("in a scripted read")));
        let (_, report) = server.scope(read, async |server| survives(&server, &script).await).await.unwrap();
        assert_eq!((report.failed(), report.panicked(), report.completed()), (1, 0, 1), "{report}");
        let lines = logs.lines_with("in a scripted read");
        assert!(lines.iter().any(|(level, _)| *level == log::Level::Error), "{lines:?}");
        assert!(lines.iter().any(|(_, line)| line.contains("peer=client 1")), "its peer is named: {lines:?}");
    });
}

#[test]
fn a_stream_that_has_panicked_is_never_polled_again_and_destroyed() {
    test(async {
        let (polls, destroyed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, flag) = (Arc::clone(&polls), Arc::clone(&destroyed));
        let stream = Puppet::new().drop(move || flag.store(true, SeqCst)).read(move |_, _| {
            counted.fetch_add(1, SeqCst);
            panic!("once")
        });
        let handler = move |mut conn: Connection| {
            let destroyed = Arc::clone(&destroyed);
            async move {
                conn.read(&mut [0]).await.unwrap_err();
                assert!(destroyed.load(SeqCst), "at once, since nobody can use it any more");
                assert_eq!(conn.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
                assert_eq!(conn.write(b"!").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            }
        };
        let (server, script) = server_with(stream);
        let body = async |server: Handle| {
            while server.connection_count() > 0 || script.left() > 0 {
                task::yield_now().await;
            }
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), polls.load(SeqCst)), (1, 1), "{report}");
    });
}

#[test]
fn a_close_that_panics_and_a_destructor_that_panics_move_nothing_in_the_books() {
    test(async {
        for stream in [
            Puppet::new().read(|_, _| Poll::Ready(Ok(0))).close(|_| panic!("in a close")),
            Puppet::new().read(|_, _| Poll::Ready(Ok(0))).drop(|| panic!("in a destructor")),
            Puppet::new().close(|_| panic!("in a close")).drop(|| panic!("and then in a destructor")),
        ] {
            let (server, script) = server_with(stream);
            let handler = async |conn: Connection| read(conn).await;
            let body = async |server: Handle| {
                while script.left() > 0 {
                    task::yield_now().await;
                }
                drop(server.shutdown());
            };
            let (_, report) = server.scope(handler, body).await.unwrap();
            assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
        }
    });
}

#[test]
fn a_stream_is_closed_at_its_handlers_end_read_to_the_peers_and_then_destroyed() {
    test(async {
        let (note, noted) = async_std::channel::unbounded();
        let so_far = || std::iter::from_fn(|| noted.try_recv().ok()).collect::<Vec<_>>();
        let stream = || {
            let notes = [note.clone(), note.clone(), note.clone()];
            let [read, close, drop] = notes.map(|note| move |what: &'static str| note.try_send(what).unwrap());
            let stream = Puppet::new().read(move |_, _| {
                read("read");
                Poll::Ready(Ok(0))
            });
            let stream = stream.close(move |_| {
                close("close");
                Poll::Ready(Ok(()))
            });
            stream.drop(move || drop("drop"))
        };
        let (server, script) = server_with(stream());
        let body = async |_| {
            let mut order = Vec::new();
            while order.last() != Some(&"drop") {
                order.push(noted.recv().await.unwrap());
            }
            Ok(order)
        };
        let (order, _) = server.scope(|_: Connection| async {}, body).await.unwrap();
        assert_eq!(order, ["close", "read", "drop"]);
        drop(script);

        // A cancel does not ask: its way to close is to be destroyed.
        let (server, script) = server_with(stream());
        let handle = server.handle();
        let serving = task::spawn(server.serve(|_: Connection| pending::<()>()));
        while script.left() > 0 || handle.connection_count() == 0 {
            task::yield_now().await;
        }
        handle.cancel().await;
        assert_eq!(so_far(), ["drop"]);
        serving.await.unwrap();
    });
}

#[test]
fn a_peer_that_has_reset_the_connection_is_not_listened_to_any_more() {
    test(async {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let (server, script) = server_with(Puppet::new().read(move |_, _| {
            counted.fetch_add(1, SeqCst);
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }));
        let (_, report) = server.scope(read, async |server| survives(&server, &script).await).await.unwrap();
        assert_eq!((report.disconnected(), report.completed()), (1, 1), "{report}");
        assert_eq!(reads.load(SeqCst), 1, "nothing more comes, so nothing is waited for");
    });
}

#[test]
fn a_close_that_hangs_keeps_no_drain_beyond_its_grace() {
    test(async {
        let (server, script) = server_with(Puppet::new().close(|_| Poll::Pending));
        let server = server.grace(Duration::from_secs(1));
        let body = async |server: Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
        };
        let (_, report) = server.scope(read, body).await.unwrap();
        assert!(script.is_gone());
        assert_eq!(report.completed(), 1, "its handler had ended: {report}");
        assert!(report.elapsed() < Duration::from_secs(2), "{report}");
    });
}

#[test]
fn a_close_that_hangs_keeps_no_connection_for_ever_and_no_cancel_at_all() {
    test(async {
        let (server, script) = server_with(Puppet::new().close(|_| Poll::Pending));
        let at_once = |_: Connection| async {};
        let start = Instant::now();
        let (_, report) = server.scope(at_once, async |server| survives(&server, &script).await).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "2 seconds to close, and none for the read after it");
        assert_eq!(report.completed(), 2, "{report}");

        let (server, script) = server_with(Puppet::new().close(|_| Poll::Pending));
        let (handle, start) = (server.handle(), Instant::now());
        let serving = task::spawn(server.serve(at_once));
        while script.left() > 0 || handle.connection_count() == 0 {
            task::yield_now().await;
        }
        handle.cancel().await;
        assert!(start.elapsed() < Duration::from_secs(2));
        serving.await.unwrap();
    });
}

#[test]
fn a_stream_without_end_is_not_read_for_ever() {
    test(async {
        let endless = || Puppet::new().read(|_, buf| Poll::Ready(Ok(buf.len())));
        // In a drain no longer than the grace, though it is always still sending.
        let (server, script) = server_with(endless());
        let body = async |_| {
            while script.left() > 0 {
                task::yield_now().await;
            }
        };
        let server = server.grace(Duration::from_secs(1));
        let (_, report) = server.scope(|_: Connection| async {}, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
        assert!(report.elapsed() < Duration::from_secs(2), "{report}");
        // While serving, for as long as a client may linger.
        let (server, script) = server_with(endless());
        let body = async |server: Handle| {
            while server.connection_count() > 0 || script.left() > 0 {
                task::sleep(Duration::from_millis(10)).await;
            }
        };
        let (_, report) = server.scope(|_: Connection| async {}, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn a_cancel_waits_for_the_handlers_poll_of_its_stream_and_destroys_it_then() {
    test_alone(async {
        let (reading, is_reading) = async_std::channel::bounded(1);
        let (open, gate) = mpsc::channel::<()>();
        let (live, gate) = (Live::default(), Mutex::new(gate));
        let alive = live.guard();
        let stream = Puppet::new().drop(move || drop(alive)).read(move |_, _| {
            let _ = reading.try_send(());
            let _ = gate.lock().unwrap().recv_timeout(NET); // blocks its thread: what nobody should do
            Poll::Pending
        });
        let (server, _script) = server_with(stream);
        let handle = server.handle();
        let serving = task::spawn(server.serve(read));
        is_reading.recv().await.unwrap();
        let cancelling = std::thread::spawn(move || task::block_on(handle.cancel()));
        assert_eq!(live.count(), 1, "it is being polled");
        open.send(()).unwrap();
        let report = task::spawn_blocking(move || cancelling.join().unwrap()).await;
        assert_eq!((report.cancelled(), live.count()), (1, 0), "{report}");
        serving.await.unwrap();
    });
}

#[test]
fn r03_a_detached_poll_that_is_under_way_keeps_nobody_waiting_and_its_stream_goes_with_it() {
    test(async {
        let (reading, is_reading) = async_std::channel::bounded(1);
        let (open, gate) = mpsc::channel::<()>();
        let (destroyed, is_destroyed) = async_std::channel::bounded(1);
        let gate = Mutex::new(gate);
        let stream = Puppet::new().drop(move || destroyed.try_send(()).unwrap()).read(move |_, _| {
            let _ = reading.try_send(());
            let _ = gate.lock().unwrap().recv_timeout(NET);
            Poll::Ready(Ok(1))
        });
        let (server, _script) = server_with(stream);
        let (send, escaped) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                send.send(conn).await.unwrap();
                pending::<()>().await
            }
        };
        let handle = server.handle();
        let serving = task::spawn(server.serve(handler));
        let mut conn = escaped.recv().await.unwrap();
        let reader = std::thread::spawn(move || {
            task::block_on(async {
                let first = conn.read(&mut [0]).await.unwrap();
                (first, conn.read(&mut [0]).await.unwrap())
            })
        });
        is_reading.recv().await.unwrap();
        let report = handle.cancel().await; // the server is closed, though that poll goes on
        assert_eq!(report.cancelled(), 1, "{report}");
        assert!(is_destroyed.try_recv().is_err());
        open.send(()).unwrap();
        is_destroyed.recv().await.unwrap();
        let reads = task::spawn_blocking(move || reader.join().unwrap()).await;
        assert_eq!(reads, (1, 0), "what it had read, and then the end");
        serving.await.unwrap();
    });
}

/// A stream that has bytes only when the test says so, and counts how often it is asked.
#[derive(Clone, Default)]
struct Fed(Arc<Feed>);

#[derive(Default)]
struct Feed {
    bytes: AtomicUsize,
    polls: AtomicUsize,
    waker: Mutex<Option<Waker>>,
    /// It ends when the bytes do.
    over: AtomicBool,
    /// How many tasks are about to read.
    readers: AtomicUsize,
    /// Each poll lasts until another task has surely come in between.
    slow: bool,
}

impl Feed {
    fn meet(&self) {
        let start = Instant::now();
        while self.readers.load(SeqCst) < 2 && start.elapsed() < Duration::from_millis(20) {
            std::thread::yield_now(); // there may be only one thread
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Fed {
    fn stream(&self) -> Puppet {
        let this = self.clone();
        Puppet::new().read(move |cx, _| {
            this.0.polls.fetch_add(1, SeqCst);
            *this.0.waker.lock().unwrap() = Some(cx.waker().clone());
            if this.0.slow {
                this.0.meet();
            }
            match this.0.bytes.fetch_update(SeqCst, SeqCst, |bytes| bytes.checked_sub(1)) {
                Ok(_) => Poll::Ready(Ok(1)),
                Err(_) if this.0.over.load(SeqCst) => Poll::Ready(Ok(0)),
                Err(_) => Poll::Pending,
            }
        })
    }

    /// The last bytes, and the end.
    fn feed(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, SeqCst);
        self.0.over.store(true, SeqCst);
        if let Some(waker) = self.0.waker.lock().unwrap().take() {
            waker.wake();
        }
    }

    /// How often it was asked, once nobody asks any more.
    async fn polls_at_rest(&self) -> usize {
        let start = Instant::now();
        loop {
            let before = self.0.polls.load(SeqCst);
            task::sleep(Duration::from_millis(100)).await;
            let polls = self.0.polls.load(SeqCst);
            if polls == before {
                return polls;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "after {polls} polls they still wake each other");
        }
    }
}

/// So many tasks read a byte each, of clones of one connection. They must come to rest while there is none, and all get
/// theirs.
fn readers_share(readers: usize, slow: bool) {
    test(async move {
        let fed = Fed(Arc::new(Feed { slow, ..Feed::default() }));
        let (server, script) = server_with(fed.stream());
        let feed = Arc::clone(&fed.0);
        let handler = move |conn: Connection| {
            let feed = Arc::clone(&feed);
            async move {
                let group = ebbtide::TaskGroup::new();
                for _ in 0..readers {
                    let (mut conn, feed) = (conn.clone(), Arc::clone(&feed));
                    group.spawn(async move {
                        feed.readers.fetch_add(1, SeqCst);
                        assert_eq!(conn.read(&mut [0]).await.unwrap(), 1);
                    });
                }
                group.join().await;
            }
        };
        let body = async |server: Handle| {
            while script.left() > 0 || server.connection_count() == 0 {
                task::yield_now().await;
            }
            let polls = fed.polls_at_rest().await;
            // One at least; else the limit is how often they may be refused, and not more than a few rounds.
            assert!(polls >= readers && polls <= 8 * readers + 8, "{readers} readers, {polls} polls");
            fed.feed(readers);
            while server.connection_count() > 0 {
                task::sleep(Duration::from_millis(1)).await;
            }
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn two_tasks_that_wait_for_one_stream_come_to_rest() {
    readers_share(2, false);
    readers_share(2, true);
}

#[test]
fn many_tasks_that_wait_for_one_stream_come_to_rest() {
    readers_share(17, true);
    readers_share(100, false);
}

#[test]
fn tasks_that_gave_up_waiting_are_not_kept() {
    test(async {
        let (server, script) = server_with(Puppet::new());
        let live = Live::default();
        let alive = live.clone();
        let handler = move |conn: Connection| {
            let alive = alive.clone();
            async move {
                for _ in 0..5_000 {
                    let waker = Waker::from(Arc::new(Gone(alive.guard())));
                    let mut cx = std::task::Context::from_waker(&waker);
                    let mut reader = &conn;
                    assert!(std::pin::Pin::new(&mut reader).poll_read(&mut cx, &mut [0]).is_pending());
                }
                assert!(alive.count() <= 1_024, "{} are remembered", alive.count());
            }
        };
        let body = async |server: Handle| {
            while script.left() > 0 || server.connection_count() == 0 {
                task::yield_now().await;
            }
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), live.count()), (1, 0), "{report}");
    });
}

/// The waker of a task that is gone.
struct Gone(#[allow(dead_code)] LiveGuard);

impl std::task::Wake for Gone {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_first_byte_and_a_peers_end_are_noticed_on_streams_too() {
    test(async {
        let (listener, script) = Script::listener();
        let server = Server::new(listener).first_byte_timeout(Duration::from_millis(50));
        let handler = async |mut conn: Connection| {
            let mut first = [0];
            conn.read_exact(&mut first).await?; // what was waited for is still there
            assert_eq!(&first, b"x");
            conn.peer_closed().await;
            io::Result::Ok(())
        };
        let body = async |_| {
            let mut silent = script.client();
            assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "it said nothing");
            let mut client = script.client();
            client.write_all(b"x").await.unwrap();
            drop(client);
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.rejected(), report.completed(), report.panicked()), (1, 1, 0), "{report}");
    });
}
