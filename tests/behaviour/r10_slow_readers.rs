//! R10: a client that reads slowly or pauses gets every byte, also while it sends. A client that takes no bytes holds
//! its connection only for a bounded time. Linux reports how many bytes were acknowledged; elsewhere a linger has 2
//! seconds.
#![cfg(target_os = "linux")]

use crate::support::*;
use async_std::prelude::*;
use async_std::{channel::bounded, task};
use ebbtide::{Address, Connection, ConnectionState, Handle, Report, Server};
use log::Level;
use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// More than a client's kernel takes at once, and less than both kernels buffer: the handler returns while many bytes
/// are not delivered yet.
const REPLY: usize = 2 << 20;

/// Longer than a linger without progress lasts in a drain, or on a system that does not report acknowledged bytes.
const PAUSE: Duration = Duration::from_secs(3);

/// Connects a client with a small receive buffer.
fn narrow(address: &Address) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    socket.connect(&tcp(address).into()).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(NET)).unwrap();
    client
}

/// Writes a large reply, and returns without a flush.
async fn large_reply(mut conn: Connection) -> io::Result<()> {
    conn.write_all(&vec![b'x'; REPLY]).await
}

/// Reads the whole reply, sends a byte after each quarter of a megabyte, and then sleeps for `pace`.
fn read_slowly(mut client: impl Read + Write, pace: impl Fn(usize) -> Duration) -> io::Result<usize> {
    let (mut total, mut buf) = (0, vec![0; 16 * 1024]);
    let mut quarters = 0;
    loop {
        let n = client.read(&mut buf)?;
        total += n;
        if n == 0 {
            return Ok(total);
        }
        if total >> 18 > quarters {
            quarters = total >> 18;
            let _ping = client.write(b"."); // fails once the server has closed
            sleep(pace(quarters));
        }
    }
}

/// Runs each client in a thread, beside the server, until all of them have finished.
async fn serve<C>(server: Server, clients: Vec<C>, drains: bool, client: fn(C) -> io::Result<usize>) -> Report
where
    C: Send + 'static,
{
    let number = clients.len();
    let body = async |server: Handle| {
        let threads: Vec<_> = clients.into_iter().map(|one| thread::spawn(move || client(one))).collect();
        if drains {
            until(|| {
                server.connections().iter().filter(|one| one.state() == ConnectionState::Lingering).count() == number
            })
            .await;
            drop(server.shutdown());
        }
        let results =
            task::spawn_blocking(move || threads.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>());
        for result in results.await {
            assert_eq!(result.expect("an orderly end"), REPLY);
        }
        Ok(())
    };
    let (_, report) = server.grace(FOR_EVER).scope(large_reply, body).await.unwrap();
    assert_eq!((report.completed(), report.undelivered()), (number as u64, 0), "{report}");
    report
}

#[test]
fn r10_clients_that_pause_and_ping_get_every_byte() {
    test(async {
        let server = bind().await;
        let clients: Vec<_> = (0..20).map(|_| narrow(server.local_addr())).collect();
        let client = |client| read_slowly(client, |quarter| if quarter == 1 { PAUSE } else { Duration::ZERO });
        serve(server, clients, false, client).await;
    });
}

#[test]
fn r10_in_a_drain_clients_that_read_steadily_and_ping_get_every_byte() {
    test(async {
        let server = bind().await;
        let clients: Vec<_> = (0..20).map(|_| narrow(server.local_addr())).collect();
        let report = serve(server, clients, true, |client| read_slowly(client, |_| Duration::from_millis(400))).await;
        assert!(report.elapsed() < Duration::from_secs(30), "{report}");
    });
}

#[cfg(feature = "tls")]
#[test]
fn r10_tls_clients_that_pause_get_every_byte_and_the_close_notify() {
    use crate::support::certificates::secure;
    use crate::support::secured::TlsFixture;
    for drains in [false, true] {
        test(async move {
            let house = TlsFixture::new();
            let server = house.bind().await;
            let config = std::sync::Arc::new(house.authority.client(None));
            let clients: Vec<_> =
                (0..10).map(|_| secure(narrow(server.local_addr()), std::sync::Arc::clone(&config))).collect();
            // rustls reports an EOF without `close_notify` as an error.
            let client: fn(_) -> _ = match drains {
                false => |client| read_slowly(client, |quarter| if quarter == 1 { PAUSE } else { Duration::ZERO }),
                true => |client| read_slowly(client, |_| Duration::from_millis(300)),
            };
            serve(server, clients, drains, client).await;
        });
    }
}

/// Serves a client that takes no bytes, and runs `end` when its connection lingers. Returns how long the server still
/// ran, and its report.
async fn takes_nothing(name: &'static str, grace: Duration, end: impl AsyncFnOnce(&Handle)) -> (Duration, Report) {
    let server = bind().await.name(name);
    let client = narrow(server.local_addr());
    let body = async |server: Handle| {
        until(|| server.connections().iter().any(|one| one.state() == ConnectionState::Lingering)).await;
        let start = Instant::now();
        end(&server).await;
        Ok((start, client))
    };
    let ((start, _client), report) = server.grace(grace).scope(large_reply, body).await.unwrap();
    (start.elapsed(), report)
}

#[test]
fn r10_a_client_that_takes_nothing_is_closed_and_the_loss_is_logged_and_counted() {
    let logs = logs::remember();
    test(async move {
        let (took, report) = takes_nothing("takes nothing", FOR_EVER, async |server| drop(server.shutdown())).await;
        assert!(took < Duration::from_secs(10), "a linger without progress has 2 s in a drain: {took:?}, {report}");
        assert_eq!((report.completed(), report.undelivered()), (1, 1), "{report}");
        let mut lines = logs.lines_with("takes nothing: closed connection 0 from `");
        lines.retain(|(level, _)| *level != Level::Debug); // without the line for the handler's end
        assert!(lines.len() == 1 && lines[0].0 == Level::Warn, "{lines:?}");
        assert!(lines[0].1.contains(" before the peer had received all that was written to it: "), "{lines:?}");
    });
}

#[test]
fn r10_outside_a_drain_a_client_that_takes_nothing_is_closed_after_ten_seconds() {
    test(async {
        let gone = async |server: &Handle| until(|| server.connection_count() == 0).await;
        let (took, report) = takes_nothing("takes nothing for long", FOR_EVER, gone).await;
        let bounds = Duration::from_secs(9)..Duration::from_secs(20);
        assert!(bounds.contains(&took) && report.undelivered() == 1, "{took:?}: {report}");
    });
}

#[test]
fn r10_the_deadline_and_a_cancel_do_not_wait_for_a_client_that_takes_nothing() {
    test(async {
        let cancel = async |server: &Handle| drop(server.cancel());
        for (took, report) in [
            takes_nothing("cancelled", FOR_EVER, cancel).await,
            takes_nothing("out of time", Duration::from_millis(100), async |_| ()).await,
        ] {
            assert!(took < Duration::from_secs(2), "{took:?}: {report}");
            assert_eq!((report.completed(), report.undelivered()), (1, 1), "{report}");
        }
    });
}

#[test]
fn r10_a_reply_that_arrives_at_once_is_not_counted_as_undelivered() {
    test(async {
        let server = bind().await;
        let address = server.local_addr().clone();
        let (replied, has_replied) = bounded(8);
        let handler = move |mut conn: Connection| {
            let replied = replied.clone();
            async move {
                conn.write_all(b"reply").await?;
                replied.send(()).await.map_err(io::Error::other)
            }
        };
        let body = async |_: Handle| {
            let clients: Vec<_> = (0..8).map(|_| connect(&address)).collect(); // none of them reads or closes
            for _ in &clients {
                has_replied.recv().await?;
            }
            Ok(clients)
        };
        let (_clients, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), report.undelivered()), (8, 0), "{report}");
        assert!(report.elapsed() < Duration::from_secs(1), "{report}");
    });
}

#[test]
fn r12_the_write_timeout_ends_a_write_without_progress_and_no_other() {
    test(async {
        let limit = Duration::from_secs(2);
        for reads in [false, true] {
            let server = bind().await.write_timeout(limit).idle_timeout(FOR_EVER);
            let client = narrow(server.local_addr());
            let handler = async |mut conn: Connection| conn.write_all(&vec![b'x'; 8 << 20]).await;
            let start = Instant::now();
            let body = async |server: Handle| {
                let (mut client, pace) = (Some(client), Duration::from_millis(100)); // the sum is longer than the limit
                let reader = client.take_if(|_| reads);
                let reading = reader.map(|client| thread::spawn(move || read_slowly(client, |_| pace).unwrap()));
                until(|| server.connection_count() == 1).await;
                until(|| server.connection_count() == 0).await;
                Ok(reading.map(|reading| reading.join().unwrap()))
            };
            let (read, report) = server.scope(handler, body).await.unwrap();
            let took = start.elapsed();
            match reads {
                true => assert_eq!((read, report.completed()), (Some(8 << 20), 1), "{report}"),
                false => {
                    assert_eq!((report.disconnected(), report.completed()), (1, 0), "{report}");
                    assert!(took >= limit && took < 5 * limit, "{took:?}");
                }
            }
        }
    });
}

#[test]
fn r12_neither_a_dropped_write_nor_a_write_timeout_of_zero_ends_a_live_connection() {
    test(async {
        for limit in [Duration::from_millis(300), Duration::ZERO] {
            let server = bind().await.write_timeout(limit);
            let client = narrow(server.local_addr());
            let handler = async |mut conn: Connection| {
                if drops_a_write(&conn).await {
                    // Drops the write while it waits. The peer takes the rest during the sleep.
                    let chunk = vec![b'x'; 4 << 20];
                    let _dropped = async_std::future::timeout(Duration::from_millis(50), conn.write_all(&chunk)).await;
                }
                task::sleep(Duration::from_millis(1500)).await;
                conn.write_all(b"end").await
            };
            let body = async |_: Handle| {
                let first = limit.is_zero();
                let mut client = client;
                client.write_all(if first { b"0" } else { b"1" })?;
                Ok(task::spawn_blocking(move || {
                    let mut text = Vec::new();
                    client.read_to_end(&mut text).map(|_| text.ends_with(b"end"))
                })
                .await?)
            };
            let (ends_well, report) = server.scope(handler, body).await.unwrap();
            assert!(ends_well && report.completed() == 1, "{limit:?}: {report}");
        }
    });

    /// Reads from the client whether to drop a write.
    async fn drops_a_write(conn: &Connection) -> bool {
        let (mut conn, mut first) = (conn, [0]);
        conn.read_exact(&mut first).await.unwrap();
        first == *b"1"
    }
}
