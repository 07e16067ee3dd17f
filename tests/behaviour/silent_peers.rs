//! Silent peers: before their first byte (`first_byte_timeout`), later (`idle_timeout`), and when they have closed
//! (`peer_closed`).

use crate::support::*;
use async_std::prelude::*;
use async_std::{future, task};
use ebbtide::{Connection, ConnectionState, Handle, OnFailure};
use std::future::pending;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(100);

/// Echoes one message, and counts its calls.
fn echo(calls: &Arc<AtomicUsize>) -> impl Fn(Connection) -> Echo + Send + Sync + 'static {
    let calls = Arc::clone(calls);
    move |mut conn| {
        calls.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let mut buf = [0; 16];
            let n = conn.read(&mut buf).await?;
            conn.write_all(&buf[..n]).await
        })
    }
}

type Echo = std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;

#[test]
fn a_client_that_sends_no_first_byte_is_closed_and_its_handler_is_not_called() {
    test(async {
        let calls = Arc::default();
        let server = bind().await.first_byte_timeout(SHORT).on_failure(OnFailure::Shutdown);
        let mut silent = connect(server.local_addr());
        let body = async |server: Handle| {
            task::spawn_blocking(move || assert_eq!(rest(&mut silent), "")).await;
            assert!(server.is_serving(), "a silent peer must not stop the server");
        };
        let (_, report) = server.scope(echo(&calls), body).await.unwrap();
        assert_eq!((report.rejected(), report.cancelled(), calls.load(Ordering::SeqCst)), (1, 0, 0), "{report}");
    });
}

#[test]
fn the_first_byte_is_read_by_the_handler() {
    test(async {
        let calls = Arc::default();
        let server = bind().await.first_byte_timeout(FOR_EVER);
        let mut client = connect(server.local_addr());
        let body = async |server: Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
            assert_eq!(server.connections()[0].state(), ConnectionState::Opening);
            task::spawn_blocking(move || {
                client.write_all(b"all of it").unwrap();
                assert_eq!(rest(&mut client), "all of it");
            })
            .await;
        };
        let (_, report) = server.scope(echo(&calls), body).await.unwrap();
        assert_eq!((report.completed(), calls.load(Ordering::SeqCst)), (1, 1), "{report}");
    });
}

#[test]
fn in_a_drain_a_silent_client_delays_no_exit_and_a_client_that_sends_is_served() {
    test(async {
        let calls = Arc::default();
        let server = bind().await.first_byte_timeout(FOR_EVER).grace(FOR_EVER);
        let mut silent = connect(server.local_addr());
        let mut quick = connect(server.local_addr());
        let body = async |server: Handle| {
            while server.connection_count() < 2 {
                task::yield_now().await;
            }
            drop(server.shutdown());
            server.until_draining(pending::<()>()).await;
            task::spawn_blocking(move || {
                quick.write_all(b"just in time").unwrap();
                assert_eq!(rest(&mut quick), "just in time");
            })
            .await;
        };
        let (_, report) = server.scope(echo(&calls), body).await.unwrap();
        assert_eq!((report.rejected(), report.completed()), (1, 1), "{report}");
        assert_eq!(rest(&mut silent), "");
    });
}

#[test]
fn an_idle_connection_is_ended_and_a_busy_one_is_not() {
    test(async {
        let server = bind().await.idle_timeout(SHORT * 5).on_failure(OnFailure::Shutdown);
        let live = Live::default();
        let mut idle = connect(server.local_addr());
        let mut busy = connect(server.local_addr());
        let handler = {
            let live = live.clone();
            move |mut conn: Connection| {
                let guard = live.guard();
                async move {
                    let _guard = guard;
                    let mut buf = [0; 16];
                    loop {
                        match conn.read(&mut buf).await? {
                            0 => return std::io::Result::Ok(()),
                            n => conn.write_all(&buf[..n]).await?,
                        }
                    }
                }
            }
        };
        let body = async |server: Handle| {
            let idle = task::spawn_blocking(move || assert_eq!(rest(&mut idle), ""));
            let busy = task::spawn_blocking(move || {
                for _ in 0..20 {
                    busy.write_all(b"!").unwrap();
                    busy.read_exact(&mut [0]).unwrap();
                    std::thread::sleep(SHORT / 2);
                }
            });
            idle.await;
            busy.await;
            assert!(server.is_serving());
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.disconnected(), report.completed(), live.count()), (1, 1, 0), "{report}");
    });
}

#[test]
fn idle_clients_do_not_hold_permits_for_ever() {
    test(async {
        let server = bind().await.max_connections(2).idle_timeout(SHORT);
        let _idle: Vec<_> = (0..6).map(|_| connect(server.local_addr())).collect();
        let mut late = connect(server.local_addr());
        late.write_all(b"at last").unwrap();
        let calls = Arc::default();
        let body = async |_| task::spawn_blocking(move || assert_eq!(rest(&mut late), "at last")).await;
        server.scope(echo(&calls), body).await.unwrap();
    });
}

/// Runs a handler that waits for `peer_closed` while `client` closes the connection. `before` is sent before that, and
/// is not read.
fn peer_closed(before: &'static [u8], client: impl FnOnce(std::net::TcpStream) + Send + 'static) {
    test(async move {
        let server = bind().await;
        let mut stream = connect(server.local_addr());
        stream.write_all(before).unwrap();
        let (progress, has_progressed) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let progress = progress.clone();
            async move {
                let open = future::timeout(SHORT / 2, conn.peer_closed()).await;
                assert!(open.is_err(), "`peer_closed` is ready although the peer is open");
                progress.send(()).await.unwrap();
                future::timeout(NET, conn.peer_closed()).await.expect("`peer_closed` is ready after the close");
                future::timeout(NET, conn.peer_closed()).await.expect("`peer_closed` stays ready");
                let mut unread = Vec::new();
                let _ = (&conn).read_to_end(&mut unread).await;
                assert!(unread.is_empty() || unread == before, "`peer_closed` takes no bytes");
                progress.send(()).await.unwrap();
            }
        };
        let body = async |_| {
            has_progressed.recv().await.unwrap();
            task::spawn_blocking(move || client(stream)).await;
            has_progressed.recv().await.unwrap();
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn peer_closed_is_ready_after_a_close() {
    peer_closed(b"", drop);
}

#[test]
fn peer_closed_is_ready_after_a_reset() {
    peer_closed(b"", |stream| socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap());
}

#[cfg(target_os = "linux")]
#[test]
fn peer_closed_is_ready_after_a_close_behind_unread_bytes() {
    peer_closed(b"never read", drop);
}

#[test]
fn peer_closed_does_not_disturb_a_task_that_reads() {
    test(async {
        let server = bind().await;
        let client = connect(server.local_addr());
        let (polls, was_polled) = async_std::channel::bounded(1);
        let handler = move |mut conn: Connection| {
            let polls = polls.clone();
            async move {
                let watching = conn.clone();
                conn.spawn(async move { watching.peer_closed().await });
                let mut count = 0;
                let mut buf = [0; 8];
                let mut read = std::pin::pin!(conn.read(&mut buf));
                let n = std::future::poll_fn(|cx| {
                    count += 1;
                    read.as_mut().poll(cx)
                })
                .await;
                polls.send((n.unwrap(), count)).await.unwrap();
            }
        };
        let body = async |_| {
            task::sleep(SHORT * 2).await;
            drop(client);
            Ok(was_polled.recv().await?)
        };
        let ((n, polls), _) = server.scope(handler, body).await.unwrap();
        assert_eq!(n, 0);
        assert!(polls < 20, "the reader and `peer_closed` have woken each other: {polls} polls");
    });
}

#[test]
fn a_handler_can_abandon_its_work_when_the_peer_has_closed() {
    test(async {
        use futures_concurrency::prelude::*;
        let server = bind().await;
        let client = connect(server.local_addr());
        let handler = |conn: Connection| async move {
            let working = async {
                task::sleep(FOR_EVER).await;
                false
            };
            let gone = async {
                conn.peer_closed().await;
                true
            };
            assert!((working, gone).race().await);
        };
        let body = async |server: Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
            drop(client);
            while server.connection_count() > 0 {
                task::yield_now().await;
            }
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

/// Linux reports a reset once. So a wait that finds it must not hide it from the read that follows, or that another task
/// has begun: the read would find EOF, and a handler that was cut would count as completed.
#[test]
fn a_reset_that_a_wait_has_found_is_the_error_of_the_next_read() {
    /// Waits in some way, and then reads.
    type Waits = fn(Connection) -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<usize>> + Send>>;
    let ways: [(&str, bool, Waits); 6] = [
        ("the first byte, and `read`", true, |mut conn| Box::pin(async move { conn.read(&mut [0; 8]).await })),
        ("the first byte, and `more`", true, |conn| Box::pin(async move { conn.more().await.map(usize::from) })),
        ("the first byte, and `lines`", true, |conn| {
            Box::pin(async move { conn.lines().next().await.map(|line| line.map_or(0, |line| line.len())) })
        }),
        ("no wait", false, |mut conn| Box::pin(async move { conn.read(&mut [0; 8]).await })),
        ("`peer_closed`, and `read`", false, |mut conn| {
            Box::pin(async move {
                conn.peer_closed().await;
                conn.read(&mut [0; 8]).await
            })
        }),
        ("`peer_closed` beside `read`", false, |conn| {
            use futures_concurrency::prelude::*;
            Box::pin(async move {
                let mut reader = &conn;
                let mut buf = [0; 8];
                (conn.peer_closed(), reader.read(&mut buf)).join().await.1
            })
        }),
    ];
    for (name, has_limit, waits) in ways {
        test(async move {
            let server = bind().await.first_byte_timeout(has_limit.then_some(FOR_EVER));
            let client = connect(server.local_addr());
            let handler = move |conn: Connection| {
                let read = waits(conn);
                async move { read.await.map(drop) }
            };
            let body = async |server: Handle| {
                while server.connection_count() == 0 {
                    task::yield_now().await;
                }
                task::sleep(SHORT / 4).await; // until it waits; on a busy machine the reset comes first, and passes too
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                drop(client);
                while server.connection_count() > 0 {
                    task::yield_now().await;
                }
            };
            let (_, report) = server.scope(handler, body).await.unwrap();
            assert_eq!((report.disconnected(), report.completed()), (1, 0), "{name}: {report}");
        });
    }
}

/// A queue of errors holds time stamps, and `poll` reports it beside the hang-ups.
#[cfg(target_os = "linux")]
#[test]
fn a_queue_of_time_stamps_is_no_close() {
    use nix::sys::socket::{TimestampingFlag, setsockopt, sockopt::Timestamping};
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        client.write_all(b"never read").unwrap();
        let handler = async |mut conn: Connection| {
            let stamps = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
            setsockopt(conn.tcp_stream().unwrap(), Timestamping, &stamps).unwrap();
            conn.write_all(b"stamped").await?;
            let open = future::timeout(SHORT * 5, conn.peer_closed()).await;
            assert!(open.is_err(), "`peer_closed` is ready although the peer is open");
            std::io::Result::Ok(())
        };
        let body = async |server: Handle| {
            let _client = task::spawn_blocking(move || client.read_exact(&mut [0; 7]).map(|()| client)).await.unwrap();
            while server.connection_count() > 0 {
                task::yield_now().await;
            }
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}
