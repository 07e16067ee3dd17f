//! A peer that never stops sending delays neither the deadline of a drain nor a cancel (R6, R12).
//!
//! A read that always finds bytes is never pending. A handler that is never pending keeps its executor thread. Only
//! another task can end the handler, and with one executor thread that task would never be polled. So the connection
//! has to yield by itself (cooperative budget).

use crate::support::executor::alone_with_threads;
use crate::support::scripted::{Script, ScriptedStream, Step};
use crate::support::{bind, connect, test};
use async_std::channel::{Sender, bounded};
use async_std::{io, prelude::*, task};
use ebbtide::{Connection, Handle, Server};
use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long the flood lasts. The server must have closed long before its end.
const FLOOD: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_millis(200);
/// A server that has not closed after this time has waited for the end of the flood.
const LATE: Duration = Duration::from_secs(10);

/// Returns a handler that reads and discards until EOF, and sends a message at its thousandth read. If the flood pauses,
/// because its thread has to wait for a processor, the handler reads on, in a drain too.
fn sink(flooded: Sender<()>) -> impl Fn(Connection) -> Handling {
    move |conn| {
        let flooded = flooded.clone();
        Box::pin(async move {
            let (mut buf, mut reads) = ([0; 16], 0);
            loop {
                let n = match conn.until_draining((&conn).read(&mut buf)).await {
                    Some(n) => n?,
                    None => (&conn).read(&mut buf).await?,
                };
                if n == 0 {
                    break;
                }
                reads += 1;
                if reads == 1000 {
                    flooded.send(()).await.unwrap();
                }
            }
            Ok(())
        })
    }
}

type Handling = std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Floods the server from a thread, and asserts that a shutdown or a cancel closes it while the flood goes on.
async fn closes_during_a_flood<H>(
    server: Server,
    handler: impl FnOnce(Sender<()>) -> H,
    flood: impl FnOnce(&Handle, &dyn Fn() -> bool) + Send + 'static,
    cancel: bool,
) where
    H: Fn(Connection) -> Handling + Send + Sync + 'static,
{
    let (flooded, is_flooded) = bounded(1);
    let handle = server.handle();
    let serving = task::spawn(server.grace(GRACE).serve(handler(flooded)));
    let closed = Arc::<AtomicBool>::default();
    let flooder = {
        let (handle, closed) = (handle.clone(), Arc::clone(&closed));
        let end = Instant::now() + FLOOD;
        std::thread::spawn(move || flood(&handle, &|| Instant::now() < end && !closed.load(Ordering::SeqCst)))
    };
    is_flooded.recv().await.unwrap();
    let start = Instant::now();
    let report = if cancel { handle.cancel().await } else { handle.shutdown().await };
    let elapsed = start.elapsed();
    closed.store(true, Ordering::SeqCst);
    assert!(elapsed < LATE, "the flooded handler was alive for {elapsed:?} after the request: {report}");
    assert_eq!((report.accepted(), report.cancelled()), (1, 1), "{report}");
    serving.await.unwrap();
    flooder.join().unwrap();
}

fn sockets() {
    for cancel in [false, true] {
        test(async move {
            let server = bind().await;
            let flood = |handle: &Handle, goes_on: &dyn Fn() -> bool| {
                let mut client = connect(handle.local_addr());
                while goes_on() && client.write_all(&[b'f'; 64 * 1024]).is_ok() {}
            };
            closes_during_a_flood(server, sink, flood, cancel).await;
        });
    }
}

#[test]
fn r06_a_flooded_socket_is_closed_at_the_end_of_the_grace_with_one_executor_thread() {
    alone_with_threads(1, || {
        sockets();
    });
}

#[test]
fn r06_a_flooded_socket_is_closed_at_the_end_of_the_grace_with_two_executor_threads() {
    alone_with_threads(2, || {
        sockets();
    });
}

/// Returns a handler that reads, or writes if the read is pending. One of the two is always ready, so the handler is
/// never pending, although each of its polls meets a pending read.
fn read_or_write(busy: Sender<()>) -> impl Fn(Connection) -> Handling {
    move |conn| {
        let busy = busy.clone();
        Box::pin(async move {
            let (mut buf, mut done) = ([0; 16], 0);
            loop {
                let n = poll_fn(|cx| {
                    let read = Pin::new(&mut &conn).poll_read(cx, &mut buf);
                    if read.is_ready() { read } else { Pin::new(&mut &conn).poll_write(cx, &[b'w'; 16]) }
                })
                .await?;
                done += 1;
                if n == 0 {
                    return Ok(());
                } else if done == 1000 {
                    busy.send(()).await.unwrap();
                }
            }
        })
    }
}

/// The peer reads everything, and sends nothing.
#[test]
fn r06_a_handler_that_always_writes_while_its_read_is_pending_is_closed_with_one_executor_thread() {
    alone_with_threads(1, || {
        for cancel in [false, true] {
            test(async move {
                let swallow = |handle: &Handle, goes_on: &dyn Fn() -> bool| {
                    let mut client = connect(handle.local_addr());
                    let mut waste = vec![0; 256 * 1024];
                    while goes_on() && client.read(&mut waste).is_ok_and(|n| n > 0) {}
                };
                closes_during_a_flood(bind().await, read_or_write, swallow, cancel).await;
            });
        }
    });
}

/// The peer sends, and reads nothing. Once the send buffer is full, each write is pending, and each read finds bytes.
#[test]
fn r06_a_handler_that_always_reads_while_its_write_is_pending_is_closed_with_one_executor_thread() {
    alone_with_threads(1, || {
        for cancel in [false, true] {
            test(async move {
                let flood = |handle: &Handle, goes_on: &dyn Fn() -> bool| {
                    let mut client = connect(handle.local_addr());
                    while goes_on() && client.write_all(&[b'f'; 64 * 1024]).is_ok() {}
                };
                closes_during_a_flood(bind().await, write_or_read, flood, cancel).await;
            });
        }
    });
}

/// Returns a similar handler, which writes first, and so much that the send buffer is full if the peer does not read.
fn write_or_read(busy: Sender<()>) -> impl Fn(Connection) -> Handling {
    move |conn| {
        let busy = busy.clone();
        Box::pin(async move {
            let (mut buf, mut reads) = ([0; 16], 0);
            loop {
                let read = poll_fn(|cx| match Pin::new(&mut &conn).poll_write(cx, &[b'w'; 64 * 1024]) {
                    Poll::Pending => Pin::new(&mut &conn).poll_read(cx, &mut buf).map_ok(Some),
                    written => written.map_ok(|_| None),
                });
                match read.await? {
                    Some(0) => return Ok(()),
                    Some(_) => reads += 1,
                    None => {}
                }
                if reads == 1000 {
                    busy.send(()).await.unwrap();
                }
            }
        })
    }
}

/// Floods by a custom stream whose reads are always ready.
fn streams() {
    for cancel in [false, true] {
        test(async move {
            let (listener, script) = Script::listener();
            let end = Instant::now() + FLOOD;
            let endless = ScriptedStream::new().read(move |_, buf| match Instant::now() < end {
                true => Poll::Ready(Ok(buf.len())),
                false => Poll::Ready(Ok(0)),
            });
            script.tell(Step::Client(Box::pin(endless)));
            closes_during_a_flood(Server::new(listener), sink, |_, _| {}, cancel).await;
        });
    }
}

#[test]
fn r06_an_always_ready_custom_stream_is_closed_at_the_end_of_the_grace_with_one_executor_thread() {
    alone_with_threads(1, || {
        streams();
    });
}

#[test]
fn r06_an_always_ready_custom_stream_is_closed_at_the_end_of_the_grace_with_two_executor_threads() {
    alone_with_threads(2, || {
        streams();
    });
}

#[cfg(feature = "tls")]
#[test]
fn r06_a_flood_over_tls_is_closed_at_the_end_of_the_grace_with_one_executor_thread() {
    alone_with_threads(1, || {
        for cancel in [false, true] {
            test(async move {
                let house = crate::support::secured::TlsFixture::new();
                let server = house.bind().await;
                let flood = move |handle: &Handle, goes_on: &dyn Fn() -> bool| {
                    let mut client = house.client(handle.local_addr());
                    while goes_on() && client.write_all(&[b'f'; 64 * 1024]).is_ok() {}
                };
                closes_during_a_flood(server, sink, flood, cancel).await;
            });
        }
    });
}
