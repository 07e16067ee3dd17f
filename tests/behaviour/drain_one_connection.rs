//! The drain of one connection, by its number (`Handle::drain_connection`) or by its age (`max_connection_age`). Its
//! handler is notified as in a shutdown, loses no bytes, and is cancelled at the end of its grace. Other connections
//! are not affected.

use crate::support::logs;
use crate::support::ways::Kind;
use crate::support::*;
use async_std::channel::{bounded, unbounded};
use async_std::prelude::*;
use ebbtide::{Connection, EndReason, Handle, Phase, Server};
use log::Level;
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// Handler that echoes, and writes `bye` when it is drained.
async fn echo_and_bye(mut conn: Connection) -> io::Result<()> {
    let mut buf = [0; 16];
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        conn.write_all(&buf[..n]).await?;
    }
    if conn.is_draining() { conn.write_all(b"bye").await } else { Ok(()) }
}

/// Sends a message, and waits until it comes back.
fn ping(client: &mut std::net::TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn a_drained_connection_may_write_a_goodbye_and_other_connections_go_on() {
    for &kind in Kind::ALL {
        test(async move {
            let (listener, place) = kind.open();
            let server = Server::new(listener);
            let body = async |server: Handle| {
                let mut clients = Vec::new();
                for _ in 0..3 {
                    let mut client = place.connect().await?;
                    client.write_all(b"hi").await?;
                    client.read_exact(&mut [0; 2]).await?;
                    clients.push(client);
                }
                let second = server.connections()[1].id();
                assert!(server.drain_connection(second) && server.drain_connection(second), "a second call is allowed");
                let mut rest = String::new();
                clients[1].read_to_string(&mut rest).await?;
                assert_eq!(rest, "bye", "{kind:?}");
                drop(clients.remove(1));
                until(|| server.connection_count() == 2).await;
                assert!(!server.drain_connection(second), "the connection has ended");
                assert_eq!((server.phase(), server.counts().completed()), (Phase::Serving, 1));
                for client in &mut clients {
                    client.write_all(b"hi").await?;
                    client.read_exact(&mut [0; 2]).await?;
                }
                Ok(clients)
            };
            let (_clients, report) = server.scope(echo_and_bye, body).await.unwrap();
            assert_eq!((report.completed(), report.drained()), (3, 2), "{kind:?}: {report}");
        });
    }
}

#[test]
fn every_method_that_waits_for_a_drain_is_notified_of_the_drain_of_its_connection() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let (notified, notifications) = unbounded();
        let (begun, has_begun) = bounded(1);
        let handler = move |conn: Connection| {
            let (notified, begun) = (notified.clone(), begun.clone());
            async move {
                assert!(conn.deadline().is_none() && !conn.is_draining());
                conn.spawn({
                    let (conn, notified) = (conn.clone(), notified.clone());
                    async move {
                        conn.draining().await;
                        notified.send("draining").await.unwrap();
                    }
                });
                begun.send(()).await.unwrap();
                (&conn).read_exact(&mut [0]).await?;
                conn.until_draining(pending::<()>()).await;
                notified.send("until_draining").await.unwrap();
                assert!(conn.is_draining() && conn.deadline().is_some());
                assert!(conn.lines().next().await?.is_none() && conn.frames().next().await?.is_none());
                io::Result::Ok(())
            }
        };
        let body = async |server: Handle| {
            client.write_all(b"x")?;
            has_begun.recv().await?;
            assert!(server.drain_connection(server.connections()[0].id()));
            let mut all = [notifications.recv().await?, notifications.recv().await?];
            all.sort_unstable();
            assert_eq!(all, ["draining", "until_draining"]);
            until(|| server.counts().completed() == 1).await;
            Ok(())
        };
        server.scope(handler, body).await.unwrap();
    });
}

#[test]
fn a_handler_that_ignores_the_drain_is_cut_at_the_end_of_its_grace_with_a_warning() {
    test_alone(async {
        let logs = logs::remember();
        let grace = Duration::from_millis(100);
        let server = bind().await.grace(grace).newcomer_time(Duration::ZERO);
        let mut client = connect(server.local_addr());
        let body = async |server: Handle| {
            until(|| server.connection_count() == 1).await;
            let start = Instant::now();
            assert!(server.drain_connection(server.connections()[0].id()));
            until(|| server.counts().ended(EndReason::DrainedById) == 1).await;
            Ok(start.elapsed())
        };
        let (took, report) = server.scope(|_: Connection| pending::<()>(), body).await.unwrap();
        assert!(took >= grace && took < 20 * grace, "{took:?}");
        assert_eq!((report.cancelled(), rest(&mut client)), (1, String::new()), "{report}");
        let lines = logs.lines_with("it was drained on request, and its handler did not end within the grace period");
        assert!(
            lines.len() == 1 && lines[0].0 == Level::Warn && lines[0].1.contains("cut connection 0 from `127."),
            "{lines:?}"
        );
    });
}

/// Its handler was never called, so the log blames no handler.
#[test]
fn a_silent_client_that_is_drained_while_it_opens_is_closed_after_a_second_or_its_grace() {
    for (grace, rejected) in [(FOR_EVER, 1), (Duration::from_millis(50), 0)] {
        test_alone(async move {
            let logs = logs::remember();
            let server = bind().await.first_byte_timeout(FOR_EVER).grace(grace);
            let mut client = connect(server.local_addr());
            let body = async |server: Handle| {
                until(|| server.connection_count() == 1).await;
                assert!(server.drain_connection(server.connections()[0].id()));
                assert_eq!(async_std::task::spawn_blocking(move || rest(&mut client)).await, "");
                until(|| server.connection_count() == 0).await;
                Ok(())
            };
            let ((), report) = server.scope(|_: Connection| pending::<()>(), body).await.unwrap();
            assert_eq!((report.rejected(), report.cancelled()), (rejected, 1 - rejected), "{report}");
            assert_eq!(logs.lines_with("its handler").len(), 0, "{grace:?}");
            assert!(logs.lines_with("connection 0").iter().all(|(level, _)| *level > Level::Warn), "{grace:?}");
        });
    }
}

/// A client that has just connected is about to send. Its first request is answered, as in a drain of the server.
#[test]
fn a_newcomer_that_is_drained_gets_the_answer_to_its_first_request() {
    for first_byte in [false, true] {
        test(async move {
            let mut server = bind().await.newcomer_time(FOR_EVER);
            if first_byte {
                server = server.first_byte_timeout(FOR_EVER); // the connection is then still opening when it is drained
            }
            let mut client = connect(server.local_addr());
            let body = async |server: Handle| {
                until(|| server.connection_count() == 1).await;
                assert!(server.drain_connection(server.connections()[0].id()));
                ping(&mut client);
                assert_eq!(rest(&mut client), "bye");
                Ok(())
            };
            let ((), report) = server.scope(echo_and_bye, body).await.unwrap();
            assert_eq!(report.completed(), 1, "{report}");
        });
    }
}

#[test]
fn a_silent_newcomer_is_notified_when_its_newcomer_time_is_over() {
    test(async {
        let server = bind().await.newcomer_time(Duration::from_millis(50));
        let mut client = connect(server.local_addr());
        let body = async |server: Handle| {
            until(|| server.connection_count() == 1).await;
            assert!(server.drain_connection(server.connections()[0].id()));
            assert_eq!(rest(&mut client), "bye");
            Ok(())
        };
        server.scope(echo_and_bye, body).await.unwrap();
    });
}

#[test]
fn a_shutdown_ends_a_connection_that_is_already_draining_on_request() {
    test(async {
        for grace in [Some(Duration::from_millis(50)), None] {
            let server = bind().await.grace(grace).newcomer_time(Duration::ZERO);
            let _client = connect(server.local_addr());
            let (id_is, is_id) = bounded(1);
            let handler = move |conn: Connection| {
                let id_is = id_is.clone();
                async move {
                    id_is.send(conn.id()).await.unwrap();
                    pending::<()>().await;
                }
            };
            let body = async |server: Handle| {
                assert!(server.drain_connection(is_id.recv().await?));
                if grace.is_none() {
                    server.cancel();
                }
                Ok(())
            };
            let ((), report) = server.scope(handler, body).await.unwrap();
            assert_eq!((report.accepted(), report.cancelled()), (1, 1), "{report}");
        }
    });
}

#[test]
fn a_connection_is_drained_at_its_maximum_age_and_is_answered_until_then() {
    test(async {
        let age = Duration::from_millis(400);
        let server = bind().await.max_connection_age(age);
        let address = server.local_addr().clone();
        let body = async |_: Handle| {
            let talking: Vec<_> = (0..8)
                .map(|_| {
                    let start = Instant::now(); // before the accept, from which the age counts
                    let mut client = connect(&address);
                    std::thread::spawn(move || {
                        let mut got = Vec::new();
                        loop {
                            let mut chunk = [0; 16];
                            let sent = client.write_all(b"tick!");
                            match client.read(&mut chunk) {
                                Ok(0) | Err(_) => break,
                                Ok(n) => got.extend_from_slice(&chunk[..n]),
                            }
                            if sent.is_err() || got.ends_with(b"bye") {
                                break;
                            }
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        (start.elapsed(), got)
                    })
                })
                .collect();
            Ok(talking.into_iter().map(|talk| talk.join().unwrap()).collect::<Vec<_>>())
        };
        let (talks, report) = server.scope(echo_and_bye, body).await.unwrap();
        for (took, got) in talks {
            assert!(took >= age * 9 / 10 && took < age * 20, "{took:?}");
            assert!(got.ends_with(b"!bye"), "the last message was cut off: {:?}", got.escape_ascii().to_string());
        }
        assert_eq!((report.completed(), report.drained()), (8, 0), "{report}");
    });
}

#[test]
fn a_connection_that_outlives_its_maximum_age_and_its_grace_is_cut_with_a_warning() {
    test_alone(async {
        let logs = logs::remember();
        let short = Duration::from_millis(50);
        let server = bind().await.max_connection_age(short).grace(short);
        let _client = connect(server.local_addr());
        let body = async |server: Handle| {
            until(|| server.counts().ended(EndReason::Age) == 1).await;
            Ok(())
        };
        let ((), report) = server.scope(|_: Connection| pending::<()>(), body).await.unwrap();
        assert_eq!(report.cancelled(), 1, "{report}");
        assert_eq!(logs.lines_with("it was drained because of its age").len(), 1);
    });
}

/// The handler has returned, and its last bytes are still in transit: there is no handler to notify, and the linger is
/// not cut off.
#[test]
fn the_drain_of_a_lingering_connection_does_not_cut_off_its_reply() {
    test(async {
        const REPLY: usize = 4 << 20;
        let server = bind().await.grace(Duration::ZERO);
        let mut client = connect(server.local_addr());
        let handler = async |mut conn: Connection| conn.write_all(&vec![b'x'; REPLY]).await;
        let body = async |server: Handle| {
            let mut chunk = vec![0; 64 << 10];
            let mut got = 0;
            // Only until the handler has written everything, and never all of it: the connection must still linger.
            while server.counts().completed() == 0 && got < REPLY - 2 * chunk.len() {
                got += client.read(&mut chunk)?;
            }
            until(|| server.counts().completed() == 1).await;
            client.write_all(b"still sending")?; // these bytes are unread, so a close would send a reset
            assert!(server.drain_connection(server.connections()[0].id()));
            async_std::task::sleep(Duration::from_millis(50)).await;
            while let n @ 1.. = client.read(&mut chunk)? {
                got += n;
            }
            assert_eq!(got, REPLY);
            // The kernel may acknowledge EOF 40 ms late, and the grace is zero. The client's own EOF brings it at once.
            client.shutdown(Shutdown::Both)?;
            until(|| server.connection_count() == 0).await;
            Ok(())
        };
        let ((), report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), report.undelivered()), (1, 0), "{report}");
    });
}

#[test]
fn a_grace_without_a_limit_works_for_the_drain_of_one_connection() {
    test(async {
        let server = bind().await.grace(Duration::MAX).max_connection_age(Duration::from_millis(50));
        let mut clients = [connect(server.local_addr()), connect(server.local_addr())];
        let body = async |server: Handle| {
            until(|| server.connection_count() == 2).await;
            assert!(server.drain_connection(server.connections()[0].id()));
            for client in &mut clients {
                assert_eq!(rest(client), "bye");
            }
            Ok(())
        };
        let ((), report) = server.scope(echo_and_bye, body).await.unwrap();
        assert_eq!(report.completed(), 2, "{report}");
    });
}

#[test]
fn a_newcomer_that_is_draining_on_request_is_still_a_newcomer_when_the_server_drains() {
    for first_byte in [false, true] {
        test(async move {
            let mut server = bind().await.newcomer_time(Duration::from_secs(2));
            if first_byte {
                server = server.first_byte_timeout(FOR_EVER);
            }
            let handle = server.handle();
            let mut client = connect(server.local_addr());
            let serving = async_std::task::spawn(server.serve(echo_and_bye));
            until(|| handle.connection_count() == 1).await;
            assert!(handle.drain_connection(handle.connections()[0].id()));
            drop(handle.shutdown());
            handle.reached(Phase::Draining).await;
            ping(&mut client);
            assert_eq!(rest(&mut client), "bye");
            assert_eq!(serving.await.unwrap().completed(), 1);
        });
    }
}

#[test]
fn a_connection_that_is_drained_while_it_opens_is_a_newcomer_when_its_handler_begins() {
    test(async {
        let server = bind().await.grace(4 * FOR_EVER).newcomer_time(FOR_EVER).first_byte_timeout(FOR_EVER);
        let handle = server.handle();
        let mut client = connect(server.local_addr());
        let (say, draining) = bounded(1);
        let handler = move |conn: Connection| {
            let say = say.clone();
            async move {
                let before = conn.is_draining();
                (&conn).read_exact(&mut [0; 5]).await?;
                say.try_send([before, conn.is_draining()]).unwrap();
                (&conn).write_all(b"hello").await
            }
        };
        let serving = async_std::task::spawn(server.serve(handler));
        until(|| handle.connection_count() == 1).await;
        assert!(handle.drain_connection(handle.connections()[0].id()));
        ping(&mut client);
        assert_eq!(draining.recv().await.unwrap(), [false, true], "notified by its first read, not before");
        drop(handle.shutdown());
        assert_eq!(serving.await.unwrap().completed(), 1);
    });
}

/// Bytes that the peer has not acknowledged at the deadline are lost, and counted, as in a shutdown.
#[test]
#[cfg(target_os = "linux")]
fn a_reply_that_is_not_read_by_the_deadline_of_its_connections_drain_counts_as_undelivered() {
    test(async {
        let server = bind().await.grace(Duration::from_millis(300)).newcomer_time(Duration::ZERO);
        let client = connect(server.local_addr()); // reads nothing
        let handler = async |mut conn: Connection| {
            conn.until_draining(pending::<()>()).await;
            conn.write_all(&vec![b'x'; 1 << 20]).await
        };
        let body = async |server: Handle| {
            until(|| server.connection_count() == 1).await;
            assert!(server.drain_connection(server.connections()[0].id()));
            until(|| server.connection_count() == 0).await;
            Ok(server.counts())
        };
        let (counts, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((counts.completed(), counts.undelivered()), (1, 1), "{report}");
        drop(client);
    });
}
