//! The fast read: a connection reads from its socket only if it expects bytes there. The tests check that this loses
//! no bytes, no EOF and no reset, delays no other connection, and does not spin.

use crate::support;
use crate::support::executor::alone_with_threads;
use crate::support::{FOR_EVER, bind, connect, echo_with_buffer, test};
use async_std::channel::bounded;
use async_std::{io, prelude::*, task};
use ebbtide::Connection;
use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

/// Sends a message, and waits until it comes back.
fn ping(client: &mut TcpStream, message: &[u8]) {
    client.write_all(message).unwrap();
    let mut echoed = vec![0; message.len()];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(echoed, message);
}

#[test]
fn messages_that_are_shorter_than_the_buffer_or_as_long_or_longer_are_echoed_whole() {
    test(async {
        let (_, report) = bind()
            .await
            .scope(
                |conn| echo_with_buffer(16, conn),
                async |server| {
                    let mut client = connect(server.local_addr());
                    for round in 0..200_usize {
                        for length in [1, 15, 16, 17, 31, 32, 33, 1000] {
                            let message: Vec<u8> = (0..length).map(|n| (n * 7 + round) as u8).collect();
                            ping(&mut client, &message);
                        }
                    }
                    client.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(support::rest(&mut client), "");
                },
            )
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn eof_right_after_data_is_read_as_eof() {
    test(async {
        let (_, report) = bind()
            .await
            .scope(
                |conn| echo_with_buffer(64, conn),
                async |server| {
                    for length in [1, 63, 64, 65, 128] {
                        let mut client = connect(server.local_addr());
                        ping(&mut client, b"so that the socket was read once");
                        let message = vec![b'm'; length];
                        client.write_all(&message).unwrap();
                        client.shutdown(Shutdown::Write).unwrap();
                        assert_eq!(support::rest(&mut client).as_bytes(), message);
                    }
                },
            )
            .await
            .unwrap();
        assert_eq!(report.completed(), 5, "{report}");
    });
}

#[test]
fn a_pending_read_ends_at_a_reset() {
    test(async {
        let (_, report) = bind()
            .await
            .scope(
                |conn| echo_with_buffer(64, conn),
                async |server| {
                    let mut client = connect(server.local_addr());
                    ping(&mut client, b"hello");
                    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                    drop(client);
                    while server.connection_count() > 0 {
                        task::sleep(Duration::from_millis(1)).await;
                    }
                },
            )
            .await
            .unwrap();
        assert_eq!(report.disconnected(), 1, "{report}");
    });
}

#[test]
fn a_peer_that_has_half_closed_still_gets_a_reply() {
    test(async {
        let handler = async |conn: Connection| {
            (&conn).read_exact(&mut [0; 3]).await?;
            assert_eq!((&conn).read(&mut [0; 8]).await?, 0);
            assert_eq!((&conn).read(&mut [0; 8]).await?, 0, "a read after EOF gives EOF again");
            (&conn).write_all(b"to you").await
        };
        let (_, report) = bind()
            .await
            .scope(handler, async |server| {
                let mut client = connect(server.local_addr());
                client.write_all(b"ask").unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(support::rest(&mut client), "to you");
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn a_request_that_has_arrived_is_answered_in_the_drain_after_any_number_of_short_reads() {
    const SHORT_READS: usize = 8;
    for _ in 0..20 {
        test(async {
            let (ready, is_ready) = bounded(1);
            let (gate, open) = bounded::<()>(1);
            let handler = move |conn: Connection| {
                let (ready, open) = (ready.clone(), open.clone());
                async move {
                    // After short reads the connection assumes that the socket is empty, and that a retry does not pay.
                    for _ in 0..SHORT_READS {
                        (&conn).read(&mut [0; 64]).await?;
                        ready.send(()).await.unwrap();
                    }
                    let _ = open.recv().await; // closed once the drain has begun
                    let mut request = [0; 64];
                    let n = conn.until_draining((&conn).read(&mut request)).await.expect("the request has arrived")?;
                    (&conn).write_all(&request[..n]).await
                }
            };
            let server = bind().await;
            let handle = server.handle();
            let serving = task::spawn(server.grace(FOR_EVER).serve(handler));
            let mut client = connect(handle.local_addr());
            for _ in 0..SHORT_READS {
                task::sleep(Duration::from_millis(1)).await; // the retry finds nothing
                client.write_all(b"short").unwrap();
                is_ready.recv().await.unwrap();
            }
            client.write_all(b"second").unwrap();
            let closed = handle.shutdown();
            handle.until_draining(std::future::pending::<()>()).await;
            drop(gate);
            assert_eq!(support::rest(&mut client), "second");
            closed.await;
            assert_eq!(serving.await.unwrap().completed(), 1);
        });
    }
}

#[test]
fn clients_with_pending_reads_see_eof_after_a_cancel_or_a_drop() {
    test(async {
        for dropped in [false, true] {
            let server = bind().await;
            let handle = server.handle();
            let mut serving = Box::pin(server.serve(|conn| echo_with_buffer(64, conn)));
            let mut clients: Vec<_> = (0..8).map(|_| connect(handle.local_addr())).collect();
            let mut driving = Box::pin(async {
                task::spawn_blocking(move || {
                    for _ in 0..20 {
                        clients.iter_mut().for_each(|client| ping(client, b"hello"));
                    }
                    clients
                })
                .await
            });
            let clients = poll_fn(|cx| {
                assert!(serving.as_mut().poll(cx).is_pending());
                driving.as_mut().poll(cx)
            })
            .await;
            if dropped {
                drop(serving);
            } else {
                handle.cancel().await;
            }
            for mut client in clients {
                assert_eq!(support::rest(&mut client), "");
            }
            assert_eq!(handle.closed().await.cancelled(), 8);
        }
    });
}

#[test]
fn reads_that_are_dropped_at_any_moment_lose_nothing() {
    test(async {
        let handler = async |conn: Connection| {
            let mut all = Vec::new();
            let mut buf = [0; 4];
            loop {
                // The read is polled 1 to 3 times and then dropped: after it has woken itself, after it has
                // registered its waker, or when it is ready.
                let mut reader = &conn;
                let mut reading = pin!(reader.read(&mut buf));
                let mut polls = all.len() % 3 + 1;
                let read = poll_fn(|cx| match reading.as_mut().poll(cx) {
                    Poll::Ready(result) => Poll::Ready(Some(result)),
                    Poll::Pending if polls == 1 => Poll::Ready(None),
                    Poll::Pending => {
                        polls -= 1;
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                })
                .await;
                match read.transpose()? {
                    Some(0) => break,
                    Some(n) => all.extend_from_slice(&buf[..n]),
                    None => task::yield_now().await,
                }
            }
            (&conn).write_all(&all).await
        };
        let (_, report) = bind()
            .await
            .scope(handler, async |server| {
                let mut client = connect(server.local_addr());
                let text: Vec<u8> = (0..5000).map(|n| b'a' + (n % 26) as u8).collect();
                for piece in text.chunks(7) {
                    client.write_all(piece).unwrap();
                    task::yield_now().await;
                }
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(support::rest(&mut client).as_bytes(), text);
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

/// Counts how often a future is polled.
async fn counted<F: Future>(polls: Arc<AtomicUsize>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        polls.fetch_add(1, Ordering::SeqCst);
        future.as_mut().poll(cx)
    })
    .await
}

#[test]
fn two_tasks_that_read_through_clones_neither_hang_nor_spin() {
    two_readers(false);
}

#[test]
fn two_readers_that_also_read_into_empty_buffers_neither_hang_nor_spin() {
    two_readers(true);
}

fn two_readers(with_empty_reads: bool) {
    test(async move {
        let polls = Arc::<AtomicUsize>::default();
        let (seen, count) = bounded(1);
        let handler = {
            let polls = Arc::clone(&polls);
            move |conn: Connection| {
                let (polls, seen) = (Arc::clone(&polls), seen.clone());
                async move {
                    let reader = |conn: Connection, seen: async_std::channel::Sender<usize>| async move {
                        let mut buf = [0; 64];
                        let mut read = async || {
                            poll_fn(|cx| {
                                let mut stream = &conn;
                                if with_empty_reads {
                                    assert!(matches!(
                                        io::Read::poll_read(Pin::new(&mut stream), cx, &mut []),
                                        Poll::Ready(Ok(0))
                                    ));
                                }
                                io::Read::poll_read(Pin::new(&mut stream), cx, &mut buf)
                            })
                            .await
                        };
                        while let Ok(n @ 1..) = read().await {
                            seen.send(n).await.unwrap();
                        }
                    };
                    for _ in 0..2 {
                        conn.spawn(counted(Arc::clone(&polls), reader(conn.clone(), seen.clone())));
                    }
                    std::future::pending::<()>().await;
                }
            }
        };
        let server = bind().await;
        let handle = server.handle();
        let serving = task::spawn(server.serve(handler));
        let mut client = connect(handle.local_addr());
        for _ in 0..100 {
            client.write_all(b"message").unwrap();
            assert_eq!(count.recv().await.unwrap(), 7, "one reader gets the whole message at once");
        }
        // Both readers wait, or will wait in a moment. Then they must not be polled any more.
        let mut before = polls.load(Ordering::SeqCst);
        loop {
            task::sleep(Duration::from_millis(50)).await;
            let now = polls.load(Ordering::SeqCst);
            if now == before {
                break;
            }
            before = now;
        }
        assert!(before < 2000, "{before} polls for 100 messages");
        client.write_all(b"message").unwrap();
        assert_eq!(count.recv().await.unwrap(), 7);
        handle.cancel().await;
        serving.await.unwrap();
    });
}

#[test]
fn two_tasks_that_write_through_clones_neither_hang_nor_spin() {
    const EACH: usize = 4_000_000;
    test(async {
        let polls = Arc::<AtomicUsize>::default();
        let handler = {
            let polls = Arc::clone(&polls);
            move |conn: Connection| {
                let polls = Arc::clone(&polls);
                async move {
                    let (done, both) = bounded(2);
                    for _ in 0..2 {
                        let (conn_, done) = (conn.clone(), done.clone());
                        conn.spawn(counted(Arc::clone(&polls), async move {
                            (&conn_).write_all(&vec![b'd'; EACH]).await.unwrap();
                            done.send(()).await.unwrap();
                        }));
                    }
                    both.recv().await.unwrap();
                    both.recv().await.unwrap();
                }
            }
        };
        let (_, report) = bind()
            .await
            .scope(handler, async |server| {
                let mut client = connect(server.local_addr());
                // Waits until both writers are blocked: the client does not read yet.
                let mut before = usize::MAX;
                loop {
                    task::sleep(Duration::from_millis(50)).await;
                    let now = polls.load(Ordering::SeqCst);
                    if now == before && now > 0 {
                        break;
                    }
                    before = now;
                }
                let mut all = Vec::new();
                client.read_to_end(&mut all).unwrap();
                assert_eq!(all.len(), 2 * EACH);
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn a_flood_that_outruns_its_handler_delays_others_by_a_few_polls_only() {
    // With more than one executor thread another thread would serve the other connection.
    alone_with_threads(1, || {
        test(async {
            let flooded = Arc::<AtomicUsize>::default();
            let handler = {
                let flooded = Arc::clone(&flooded);
                move |conn: Connection| {
                    let flooded = Arc::clone(&flooded);
                    async move {
                        let mut buf = [0; 16];
                        while let n @ 1.. = (&conn).read(&mut buf).await? {
                            match buf[0] {
                                b'?' => (&conn).write_all(b"!").await?,
                                _ => drop(flooded.fetch_add(n, Ordering::SeqCst)),
                            }
                        }
                        io::Result::Ok(())
                    }
                }
            };
            let server = bind().await;
            let handle = server.handle();
            let serving = task::spawn(server.serve(handler));
            let flood = connect(handle.local_addr());
            let flooding = flood.try_clone().unwrap();
            // One write fills a thousand reads, so a read always finds bytes.
            let flooder = std::thread::spawn(move || while (&flooding).write_all(&[b'f'; 16 * 1024]).is_ok() {});
            while flooded.load(Ordering::SeqCst) < 100_000 {
                task::yield_now().await;
            }
            let mut other = connect(handle.local_addr());
            let asked = task::spawn_blocking(move || (0..100).for_each(|_| ping_pong(&mut other)));
            asked.await;
            flood.shutdown(Shutdown::Both).unwrap();
            flooder.join().unwrap();
            handle.shutdown().await;
            serving.await.unwrap();
        });
    });
}

fn ping_pong(client: &mut TcpStream) {
    client.write_all(b"?").unwrap();
    client.read_exact(&mut [0]).expect("the other connection is served");
}

#[test]
fn every_clone_with_a_pending_read_wakes_when_the_handler_returns() {
    test(async {
        let (done, is_done) = bounded(4);
        let handler = move |conn: Connection| {
            let done = done.clone();
            async move {
                (&conn).read_exact(&mut [0]).await?;
                for _ in 0..3 {
                    let (conn, done) = (conn.clone(), done.clone());
                    task::spawn(async move {
                        let end = (&conn).read(&mut [0; 8]).await.map_err(|error: io::Error| error.kind());
                        done.send(end).await.unwrap();
                    });
                }
                task::yield_now().await;
                io::Result::Ok(())
            }
        };
        let (_, report) = bind()
            .await
            .scope(handler, async |server| {
                let mut client = connect(server.local_addr());
                client.write_all(b".").unwrap();
                for _ in 0..3 {
                    assert_eq!(is_done.recv().await.unwrap(), Ok::<usize, ErrorKind>(0));
                }
                assert_eq!(support::rest(&mut client), "");
            })
            .await
            .unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}
