//! Custom streams that panic, hang, never end, or are polled by many tasks at once. Each of these ends its own
//! connection at most: the server goes on, every way out ends in time, and no task spins.

use crate::support::scripted::{Script, ScriptedStream, Step};
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

/// Returns a server whose first client has this stream.
fn server_with(stream: ScriptedStream) -> (Server, Script) {
    let (listener, script) = Script::listener();
    script.tell(Step::Client(Box::pin(stream)));
    (Server::new(listener), script)
}

/// Handler that reads until EOF or the drain.
async fn read(conn: Connection) -> io::Result<()> {
    let mut buf = [0; 16];
    while let Some(n) = conn.until_draining((&conn).read(&mut buf)).await.transpose()? {
        if n == 0 {
            break;
        }
    }
    Ok(())
}

/// Asserts that the server goes on: waits until no connection is open, and then until another client is served.
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
fn a_read_that_panics_gives_its_connection_an_error() {
    test(async {
        let logs = logs::remember();
        let (server, script) = server_with(ScriptedStream::new().read(|_, _| panic!("in a scripted read")));
        let (_, report) = server.scope(read, async |server| survives(&server, &script).await).await.unwrap();
        assert_eq!((report.failed(), report.panicked(), report.completed()), (1, 0, 1), "{report}");
        let lines = logs.lines_with("in a scripted read");
        assert!(lines.iter().any(|(level, _)| *level == log::Level::Error), "{lines:?}");
        assert!(lines.iter().any(|(_, line)| line.contains("peer=client 1")), "the line names the peer: {lines:?}");
    });
}

#[test]
fn a_stream_that_has_panicked_is_dropped_at_once_and_never_polled_again() {
    test(async {
        let (polls, destroyed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, flag) = (Arc::clone(&polls), Arc::clone(&destroyed));
        let stream = ScriptedStream::new().drop(move || flag.store(true, SeqCst)).read(move |_, _| {
            counted.fetch_add(1, SeqCst);
            panic!("once")
        });
        let handler = move |mut conn: Connection| {
            let destroyed = Arc::clone(&destroyed);
            async move {
                conn.read(&mut [0]).await.unwrap_err();
                assert!(destroyed.load(SeqCst), "the stream is alive after its panic");
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
fn a_close_or_a_destructor_that_panics_changes_no_count() {
    test(async {
        for stream in [
            ScriptedStream::new().read(|_, _| Poll::Ready(Ok(0))).close(|_| panic!("in a close")),
            ScriptedStream::new().read(|_, _| Poll::Ready(Ok(0))).drop(|| panic!("in a destructor")),
            ScriptedStream::new().close(|_| panic!("in a close")).drop(|| panic!("and then in a destructor")),
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
fn a_close_that_fails_is_logged_and_the_handler_still_counts_as_completed() {
    test(async {
        let logs = logs::remember();
        let failing = |_: &mut std::task::Context<'_>| Poll::Ready(Err(io::Error::other("in a failing close")));
        let (server, script) = server_with(ScriptedStream::new().read(|_, _| Poll::Ready(Ok(0))).close(failing));
        let (_, report) = server.scope(read, async |server| survives(&server, &script).await).await.unwrap();
        assert_eq!((report.completed(), report.failed()), (2, 0), "{report}");
        let lines = logs.lines_with("cannot shut the connection down: in a failing close");
        assert!(!lines.is_empty() && lines.iter().all(|(level, _)| *level == log::Level::Debug), "{lines:?}");
        assert!(lines[0].1.contains("connection=0 peer=client 1"), "{lines:?}");
    });
}

#[test]
fn after_its_handler_has_returned_a_stream_is_closed_then_read_until_eof_then_dropped() {
    test(async {
        let (note, noted) = async_std::channel::unbounded();
        let so_far = || std::iter::from_fn(|| noted.try_recv().ok()).collect::<Vec<_>>();
        let stream = || {
            let notes = [note.clone(), note.clone(), note.clone()];
            let [read, close, drop] = notes.map(|note| move |what: &'static str| note.try_send(what).unwrap());
            let stream = ScriptedStream::new().read(move |_, _| {
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

        // A cancel drops the stream without closing it first.
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
fn a_stream_is_not_read_again_after_a_reset() {
    test(async {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let (server, script) = server_with(ScriptedStream::new().read(move |_, _| {
            counted.fetch_add(1, SeqCst);
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }));
        let (_, report) = server.scope(read, async |server| survives(&server, &script).await).await.unwrap();
        assert_eq!((report.disconnected(), report.completed()), (1, 1), "{report}");
        assert_eq!(reads.load(SeqCst), 1, "read again after the reset");
    });
}

#[test]
fn a_close_that_hangs_does_not_extend_a_drain_beyond_its_grace() {
    test(async {
        let (server, script) = server_with(ScriptedStream::new().close(|_| Poll::Pending));
        let server = server.grace(Duration::from_secs(1));
        let body = async |server: Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
        };
        let (_, report) = server.scope(read, body).await.unwrap();
        assert!(script.is_gone());
        assert_eq!(report.completed(), 1, "the handler had returned: {report}");
        assert!(report.elapsed() < Duration::from_secs(2), "{report}");
    });
}

#[test]
fn a_close_that_hangs_ends_after_a_time_limit_and_does_not_delay_a_cancel() {
    test(async {
        let (server, script) = server_with(ScriptedStream::new().close(|_| Poll::Pending));
        let at_once = |_: Connection| async {};
        let start = Instant::now();
        let (_, report) = server.scope(at_once, async |server| survives(&server, &script).await).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "a close may take 2 s, and no read follows it");
        assert_eq!(report.completed(), 2, "{report}");

        let (server, script) = server_with(ScriptedStream::new().close(|_| Poll::Pending));
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
fn a_stream_that_never_ends_is_read_for_a_limited_time_only() {
    test(async {
        let endless = || ScriptedStream::new().read(|_, buf| Poll::Ready(Ok(buf.len())));
        // In a drain: for the grace at most, although the peer never stops sending.
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
        // While the server serves: for the time of a linger.
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
fn a_cancel_waits_for_the_handlers_running_poll_and_then_drops_the_stream() {
    test_alone(async {
        let (reading, is_reading) = async_std::channel::bounded(1);
        let (open, gate) = mpsc::channel::<()>();
        let (live, gate) = (Live::default(), Mutex::new(gate));
        let alive = live.guard();
        let stream = ScriptedStream::new().drop(move || drop(alive)).read(move |_, _| {
            let _ = reading.try_send(());
            let _ = gate.lock().unwrap().recv_timeout(NET); // blocks its thread, which is a mistake
            Poll::Pending
        });
        let (server, _script) = server_with(stream);
        let handle = server.handle();
        let serving = task::spawn(server.serve(read));
        is_reading.recv().await.unwrap();
        let cancelling = std::thread::spawn(move || task::block_on(handle.cancel()));
        assert_eq!(live.count(), 1, "the stream was dropped during its poll");
        open.send(()).unwrap();
        let report = task::spawn_blocking(move || cancelling.join().unwrap()).await;
        assert_eq!((report.cancelled(), live.count()), (1, 0), "{report}");
        serving.await.unwrap();
    });
}

#[test]
fn r03_a_cancel_does_not_wait_for_a_detached_poll_and_the_stream_is_dropped_after_it() {
    test(async {
        let (reading, is_reading) = async_std::channel::bounded(1);
        let (open, gate) = mpsc::channel::<()>();
        let (destroyed, is_destroyed) = async_std::channel::bounded(1);
        let gate = Mutex::new(gate);
        let stream = ScriptedStream::new().drop(move || destroyed.try_send(()).unwrap()).read(move |_, _| {
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
        let report = handle.cancel().await; // the server closes although that poll still runs
        assert_eq!(report.cancelled(), 1, "{report}");
        assert!(is_destroyed.try_recv().is_err());
        open.send(()).unwrap();
        is_destroyed.recv().await.unwrap();
        let reads = task::spawn_blocking(move || reader.join().unwrap()).await;
        assert_eq!(reads, (1, 0), "the byte of the running poll, and then EOF");
        serving.await.unwrap();
    });
}

/// Makes a stream that has bytes only when the test feeds it, and that counts its polls.
#[derive(Clone, Default)]
struct Fed(Arc<Feed>);

#[derive(Default)]
struct Feed {
    bytes: AtomicUsize,
    polls: AtomicUsize,
    waker: Mutex<Option<Waker>>,
    /// Whether EOF follows the bytes.
    over: AtomicBool,
    /// How many tasks have begun to read.
    readers: AtomicUsize,
    /// Whether each poll lasts so long that another task polls at the same time.
    slow: bool,
}

impl Feed {
    /// Waits, within a poll, until a second reader has begun to read.
    fn meet(&self) {
        let start = Instant::now();
        while self.readers.load(SeqCst) < 2 && start.elapsed() < Duration::from_millis(20) {
            std::thread::yield_now(); // with one executor thread there is no second reader: hence the limit
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Fed {
    fn stream(&self) -> ScriptedStream {
        let this = self.clone();
        ScriptedStream::new().read(move |cx, _| {
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

    /// Gives the last bytes, and then EOF.
    fn feed(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, SeqCst);
        self.0.over.store(true, SeqCst);
        if let Some(waker) = self.0.waker.lock().unwrap().take() {
            waker.wake();
        }
    }

    /// Waits until the stream is not polled any more, and returns how often it was polled.
    async fn polls_at_rest(&self) -> usize {
        let start = Instant::now();
        loop {
            let before = self.0.polls.load(SeqCst);
            task::sleep(Duration::from_millis(100)).await;
            let polls = self.0.polls.load(SeqCst);
            if polls == before {
                return polls;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "after {polls} polls the readers still wake each other");
        }
    }
}

/// Lets many tasks read one byte each through clones of one connection. Asserts that they stop polling while there are
/// no bytes, and that each of them then gets its byte.
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
            // At least one poll each. Readers that wait together may cause a few rounds of spurious wake-ups.
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
fn two_tasks_that_wait_for_one_stream_stop_waking_each_other() {
    readers_share(2, false);
    readers_share(2, true);
}

#[test]
fn many_tasks_that_wait_for_one_stream_stop_waking_each_other() {
    readers_share(17, true);
    readers_share(100, false);
}

#[test]
fn the_wakers_of_tasks_that_gave_up_waiting_are_not_kept() {
    test(async {
        let (server, script) = server_with(ScriptedStream::new());
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
                assert!(alive.count() <= 1_024, "{} wakers are kept", alive.count());
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

/// Waker of a task that does not exist any more.
struct Gone(#[allow(dead_code)] LiveGuard);

impl std::task::Wake for Gone {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn the_first_byte_timeout_and_peer_closed_work_on_custom_streams() {
    test(async {
        let (listener, script) = Script::listener();
        let server = Server::new(listener).first_byte_timeout(Duration::from_millis(50));
        let handler = async |mut conn: Connection| {
            let mut first = [0];
            conn.read_exact(&mut first).await?; // the wait for the first byte has not consumed it
            assert_eq!(&first, b"x");
            conn.peer_closed().await;
            io::Result::Ok(())
        };
        let body = async |_| {
            let mut silent = script.client();
            assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "a client that sends nothing sees EOF");
            let mut client = script.client();
            client.write_all(b"x").await.unwrap();
            drop(client);
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.rejected(), report.completed(), report.panicked()), (1, 1, 0), "{report}");
    });
}
