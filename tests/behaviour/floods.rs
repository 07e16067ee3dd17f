//! A peer that never stops sending keeps nobody from leaving: neither the drain from its deadline nor a cancel from its
//! end.
//!
//! A read that always finds something never waits, and a handler that never waits cannot be ended: nobody but the
//! executor's other tasks could do it, and with one thread there is none for them. R6, R12.

use crate::support::executor::alone_with_threads;
use crate::support::scripted::{Puppet, Script, Step};
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

/// How long the flood lasts. The server must have closed long before.
const FLOOD: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(10);

/// Swallows what comes, and says so when something has come for the thousandth time.
fn sink(flooded: Sender<()>) -> impl Fn(Connection) -> Handling {
    move |conn| {
        let flooded = flooded.clone();
        Box::pin(async move {
            let (mut buf, mut reads) = ([0; 16], 0);
            while let Some(n) = conn.until_draining((&conn).read(&mut buf)).await.transpose()? {
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

/// Floods the server from a thread, and stops it meanwhile.
async fn stops<H>(
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
    assert!(elapsed < LATE, "after {elapsed:?} the flooded handler was still there: {report}");
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
            stops(server, sink, flood, cancel).await;
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

/// Does what can be done, one way or the other: reads what comes, or else writes. Whoever never waits for both at once
/// has the thread for itself, although one of them is waited for every time.
fn either(busy: Sender<()>) -> impl Fn(Connection) -> Handling {
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

/// The peer reads whatever comes, and sends nothing.
#[test]
fn r06_who_always_can_write_while_it_waits_for_a_byte_is_closed_with_one_executor_thread() {
    alone_with_threads(1, || {
        for cancel in [false, true] {
            test(async move {
                let swallow = |handle: &Handle, goes_on: &dyn Fn() -> bool| {
                    let mut client = connect(handle.local_addr());
                    let mut waste = vec![0; 256 * 1024];
                    while goes_on() && client.read(&mut waste).is_ok_and(|n| n > 0) {}
                };
                stops(bind().await, either, swallow, cancel).await;
            });
        }
    });
}

/// The peer sends, and reads nothing: once nothing more can be written, each write waits, and each read finds
/// something.
#[test]
fn r06_who_always_can_read_while_it_waits_to_write_is_closed_with_one_executor_thread() {
    alone_with_threads(1, || {
        for cancel in [false, true] {
            test(async move {
                let flood = |handle: &Handle, goes_on: &dyn Fn() -> bool| {
                    let mut client = connect(handle.local_addr());
                    while goes_on() && client.write_all(&[b'f'; 64 * 1024]).is_ok() {}
                };
                stops(bind().await, or, flood, cancel).await;
            });
        }
    });
}

/// The same, but it writes first, and so much that the peer would have to read.
fn or(busy: Sender<()>) -> impl Fn(Connection) -> Handling {
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

/// A stream of the user's that has something to read whenever it is asked.
fn streams() {
    for cancel in [false, true] {
        test(async move {
            let (listener, script) = Script::listener();
            let end = Instant::now() + FLOOD;
            let endless = Puppet::new().read(move |_, buf| match Instant::now() < end {
                true => Poll::Ready(Ok(buf.len())),
                false => Poll::Ready(Ok(0)),
            });
            script.tell(Step::Client(Box::pin(endless)));
            stops(Server::new(listener), sink, |_, _| {}, cancel).await;
        });
    }
}

#[test]
fn r06_a_stream_that_never_waits_is_closed_at_the_end_of_the_grace_with_one_executor_thread() {
    alone_with_threads(1, || {
        streams();
    });
}

#[test]
fn r06_a_stream_that_never_waits_is_closed_at_the_end_of_the_grace_with_two_executor_threads() {
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
                let house = crate::support::secured::House::new();
                let server = house.bind().await;
                let flood = move |handle: &Handle, goes_on: &dyn Fn() -> bool| {
                    let mut client = house.client(handle.local_addr());
                    while goes_on() && client.write_all(&[b'f'; 64 * 1024]).is_ok() {}
                };
                stops(server, sink, flood, cancel).await;
            });
        }
    });
}
