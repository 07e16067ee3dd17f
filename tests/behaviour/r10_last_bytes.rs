//! R10: a reply that was written before the handler returned reaches a client that is still sending.

use crate::support::*;
use async_std::prelude::*;
use async_std::task;
use ebbtide::{Connection, ConnectionState, Handle, Report};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

const LINGER: Duration = Duration::from_secs(2);

/// Replies after the first byte of a request, and does not read the rest.
async fn reply_early(mut conn: Connection) -> std::io::Result<()> {
    let mut first = [0; 1];
    conn.read_exact(&mut first).await?;
    conn.write_all("the whole reply".repeat(1000).as_bytes()).await
}

/// Sends all bytes of a client, and reads only then.
fn send_then_read(mut client: TcpStream, bytes: usize) -> std::io::Result<String> {
    let chunk = vec![0; 64 * 1024];
    for _ in 0..bytes / chunk.len() {
        client.write_all(&chunk)?;
    }
    let mut reply = String::new();
    client.read_to_string(&mut reply)?;
    Ok(reply)
}

#[test]
fn r10_a_client_that_sends_ten_megabytes_gets_the_whole_reply_that_was_written_early() {
    test(async {
        let server = bind().await;
        let client = connect(server.local_addr());
        let body = async |_| Ok(task::spawn_blocking(move || send_then_read(client, 10 << 20)).await);
        let (reply, report) = server.scope(reply_early, body).await.unwrap();
        let reply = reply.expect("the client's writes succeed, and no reset arrives");
        assert_eq!(reply.len(), 15_000);
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn r10_an_unread_byte_does_not_cost_the_reply() {
    test(async {
        let server = bind().await;
        let address = server.local_addr().clone();
        let handler = |mut conn: Connection| async move {
            conn.read_exact(&mut [0]).await?;
            conn.write_all(b"reply").await
        };
        let body = async |_| {
            let clients = task::spawn_blocking(move || {
                for _ in 0..500 {
                    let mut client = connect(&address);
                    client.write_all(b"12").unwrap(); // the handler reads only one of the two bytes
                    assert_eq!(rest(&mut client), "reply");
                }
            });
            clients.await;
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 500, "{report}");
    });
}

/// Shuts a server down while a client is sending, which goes on for longer than the quiet time that ends a linger.
/// Returns the client's end and the report; `None` if the client was kept from running for so long that it was quiet.
async fn drained_while_sending() -> Option<(io::Result<String>, Report)> {
    let server = bind().await;
    let mut client = connect(server.local_addr());
    client.write_all(b"x").unwrap();
    let (replied, has_replied) = async_std::channel::bounded(1);
    let handler = move |mut conn: Connection| {
        let replied = replied.clone();
        async move {
            conn.read_exact(&mut [0]).await?;
            conn.write_all(b"reply").await?;
            replied.send(()).await.unwrap();
            io::Result::Ok(())
        }
    };
    let (flow, flows) = async_std::channel::bounded(1);
    let sending = task::spawn_blocking(move || {
        let start = Instant::now();
        let (mut longest, mut last) = (Duration::ZERO, start);
        let mut sent = 0;
        let written = loop {
            let result = client.write_all(&[0; 1000]);
            let now = Instant::now();
            longest = longest.max(now - last);
            last = now;
            if result.is_err() || now - start > Duration::from_millis(400) {
                break result;
            }
            sent += 1;
            if sent == 10 {
                flow.try_send(()).unwrap();
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        drop(flow); // also if it was too slow to send ten times
        let mut reply = String::new();
        let end = written.and_then(|()| client.read_to_string(&mut reply)).map(|_| reply);
        (end, longest < Duration::from_millis(50) && sent > 10)
    });
    let body = async |_| {
        has_replied.recv().await.unwrap();
        let _enough = flows.recv().await;
    };
    let (_, report) = server.scope(handler, body).await.unwrap();
    let (end, was_steady) = sending.await;
    (was_steady || end.is_ok()).then_some((end, report))
}

#[test]
fn r10_a_drain_lingers_for_a_client_that_is_still_sending() {
    test(async {
        // A client that the machine kept from sending proves nothing, so the test tries another one.
        for _ in 0..20 {
            if let Some((end, report)) = drained_while_sending().await {
                assert_eq!(end.expect("no reset"), "reply");
                assert_eq!(report.completed(), 1, "{report}");
                return;
            }
        }
        panic!("no client was steady");
    });
}

/// Some clients send between the linger's last look and the close, which resets them. They must have read EOF by then.
#[test]
fn r10_in_a_drain_clients_that_pause_while_they_send_get_the_reply_and_an_orderly_end() {
    const CLIENTS: usize = 30;
    async fn bye(conn: Connection) -> std::io::Result<()> {
        let mut buf = [0; 64];
        while let Some(n) = conn.until_draining((&conn).read(&mut buf)).await.transpose()? {
            if n == 0 {
                return Ok(());
            }
        }
        (&conn).write_all(b"bye").await
    }
    test(async {
        for _ in 0..10 {
            let server = bind().await;
            let clients: Vec<_> = (0..CLIENTS).map(|_| connect(server.local_addr())).collect();
            let threads: Vec<_> = clients
                .into_iter()
                .map(|mut client| {
                    let mut sender = client.try_clone().unwrap();
                    sender.set_nodelay(true).unwrap();
                    let sender = std::thread::spawn(move || {
                        while sender.write_all(b"on and on").is_ok() {
                            std::thread::sleep(Duration::from_micros(100));
                        }
                    });
                    std::thread::spawn(move || {
                        let mut reply = String::new();
                        let end = client.read_to_string(&mut reply);
                        let _ = client.shutdown(Shutdown::Both);
                        sender.join().unwrap();
                        end.map(|_| reply)
                    })
                })
                .collect();
            let body = async |server: Handle| {
                while server.connection_count() < CLIENTS {
                    task::yield_now().await;
                }
            };
            server.scope(bye, body).await.unwrap();
            for thread in threads {
                let reply = thread.join().unwrap().expect("an orderly end");
                assert_eq!(reply, "bye");
            }
        }
    });
}

#[test]
fn r10_a_thousand_idle_clients_do_not_make_a_drain_linger() {
    test(async {
        let server = bind().await;
        let clients: Vec<_> = (0..1000).map(|_| order(server.local_addr(), POLITE)).collect();
        let handlers = Handlers::new();
        let body = async |_| handlers.started(1000).await;
        let (_, report) = server.scope(handlers.handler(), body).await.unwrap();
        // The clients neither send nor close: outside a drain each of them would linger.
        assert!(report.elapsed() < LINGER, "{report}");
        assert_eq!(report.completed(), 1000, "{report}");
        for mut client in clients {
            assert_eq!(rest(&mut client), "bye");
        }
    });
}

#[test]
fn r10_a_drain_ends_a_linger_of_idle_clients_that_began_before_it() {
    test(async {
        let server = bind().await;
        let clients: Vec<_> = (0..100).map(|_| order(server.local_addr(), REPLIES)).collect();
        let handlers = Handlers::new();
        let body = async |server: Handle| {
            handlers.started(100).await;
            while server.connections().iter().any(|it| it.state() != ConnectionState::Lingering) {
                task::yield_now().await;
            }
            assert_eq!(server.connection_count(), 100);
        };
        let (_, report) = server.scope(handlers.handler(), body).await.unwrap();
        assert!(report.elapsed() < LINGER, "{report}");
        for mut client in clients {
            assert_eq!(rest(&mut client), "whole reply");
        }
    });
}

#[test]
fn r10_a_linger_ends_after_two_seconds_although_the_client_never_stops_sending() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        client.write_all(b"x").unwrap();
        let mut reading = client.try_clone().unwrap();
        let sending = task::spawn_blocking(move || while client.write_all(&[0; 1000]).is_ok() {});
        let body = async |server: Handle| {
            let reply = task::spawn_blocking(move || rest(&mut reading)).await;
            let start = Instant::now();
            while server.connection_count() > 0 {
                task::sleep(Duration::from_millis(10)).await;
            }
            Ok((reply, start.elapsed()))
        };
        let ((reply, lingered), report) = server.scope(reply_early, body).await.unwrap();
        assert_eq!(reply.len(), 15_000);
        assert!(lingered < LINGER * 5, "the linger must end although the client sends on: {lingered:?}");
        assert_eq!(report.completed(), 1, "{report}");
        sending.await;
    });
}

#[test]
fn r10_a_lingering_connection_holds_its_permit_and_ends_with_its_client() {
    test(async {
        let server = bind().await.max_connections(1);
        let (one, mut two) = (connect(server.local_addr()), connect(server.local_addr()));
        let body = async |server: Handle| {
            while server.connections().first().is_none_or(|it| it.state() != ConnectionState::Lingering) {
                task::yield_now().await;
            }
            assert_eq!(server.connection_count(), 1);
            drop(one); // EOF from the client ends the linger at once
            task::spawn_blocking(move || assert_eq!(rest(&mut two), "")).await;
        };
        let (_, report) = server.scope(|_: Connection| async {}, body).await.unwrap();
        assert_eq!(report.completed(), 2, "{report}");
    });
}

#[test]
fn r10_a_cancel_ends_a_linger_at_once() {
    test(async {
        let server = bind().await;
        let handle = server.handle();
        let mut client = order(server.local_addr(), REPLIES);
        let handlers = Handlers::new();
        let serving = task::spawn(server.serve(handlers.handler()));
        handlers.started(1).await;
        while handle.connections().first().is_none_or(|it| it.state() != ConnectionState::Lingering) {
            task::yield_now().await;
        }
        let report = handle.cancel().await;
        assert!(report.elapsed() < LINGER, "{report}");
        assert_eq!((report.completed(), report.cancelled()), (1, 0), "the handler ended before the cancel: {report}");
        assert_eq!(rest(&mut client), "whole reply");
        serving.await.unwrap();
    });
}

#[test]
fn r10_there_is_no_linger_if_the_peer_has_closed() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let handler = |mut conn: Connection| async move {
            let mut request = String::new();
            conn.read_to_string(&mut request).await?;
            conn.write_all(request.as_bytes()).await
        };
        let body = async |server: Handle| {
            let reply = task::spawn_blocking(move || (rest(&mut client), client)).await;
            // The client has sent EOF but keeps its descriptor. The server does not wait for it.
            let start = Instant::now();
            while server.connection_count() > 0 {
                task::yield_now().await;
            }
            Ok((reply, start.elapsed()))
        };
        let (((reply, _client), waited), _) = server.scope(handler, body).await.unwrap();
        assert_eq!(reply, "request");
        assert!(waited < LINGER, "{waited:?}");
    });
}

#[test]
fn r10_no_clone_reads_or_writes_during_a_linger() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let (send, receive) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let mut clone = conn.clone();
                // This task waits for the client's bytes when the linger begins to wait for them, too.
                send.send(task::spawn(async move { (clone.read(&mut [0; 8]).await, clone) })).await.unwrap();
                task::sleep(Duration::from_millis(20)).await;
            }
        };
        let body = async |server: Handle| {
            let (read, mut clone) = receive.recv().await.unwrap().await;
            assert_eq!(read.unwrap(), 0);
            until(|| server.connections()[0].state() == ConnectionState::Lingering).await; // the clone is woken first
            client.write_all(b"too late").unwrap();
            assert_eq!(clone.read(&mut [0; 8]).await.unwrap(), 0);
            assert_eq!(clone.write_all(b"!").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
            assert_eq!(clone.flush().await.unwrap_err().kind(), ErrorKind::BrokenPipe);
            clone.close_write().await.unwrap();
        };
        server.scope(handler, body).await.unwrap();
    });
}
