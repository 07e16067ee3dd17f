//! The drain of one connection: by its number, or by its age. It is notified as in a shutdown, loses nothing, is cut at
//! the end of its grace, and nothing else notices.

use crate::support::logs;
use crate::support::ways::Kind;
use crate::support::*;
use async_std::channel::{bounded, unbounded};
use async_std::prelude::*;
use ebbtide::{Connection, EndReason, Handle, Phase, Server};
use log::Level;
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

/// Echoes, and says `bye` when it is drained.
async fn echo_and_bye(mut conn: Connection) -> io::Result<()> {
    let mut buf = [0; 16];
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        conn.write_all(&buf[..n]).await?;
    }
    if conn.is_draining() { conn.write_all(b"bye").await } else { Ok(()) }
}

/// One echo there and back.
fn talk(client: &mut std::net::TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn a_connection_that_is_drained_says_goodbye_and_no_other_notices() {
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
                assert!(server.drain_connection(second) && server.drain_connection(second), "again changes nothing");
                let mut rest = String::new();
                clients[1].read_to_string(&mut rest).await?;
                assert_eq!(rest, "bye", "{kind:?}");
                drop(clients.remove(1));
                until(|| server.connection_count() == 2).await;
                assert!(!server.drain_connection(second), "it is gone");
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
fn everything_that_waits_for_a_drain_hears_of_it() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let (heard, hears) = unbounded();
        let (begun, has_begun) = bounded(1);
        let handler = move |conn: Connection| {
            let (heard, begun) = (heard.clone(), begun.clone());
            async move {
                assert!(conn.deadline().is_none() && !conn.is_draining());
                conn.spawn({
                    let (conn, heard) = (conn.clone(), heard.clone());
                    async move {
                        conn.draining().await;
                        heard.send("draining").await.unwrap();
                    }
                });
                begun.send(()).await.unwrap();
                (&conn).read_exact(&mut [0]).await?;
                conn.until_draining(pending::<()>()).await;
                heard.send("until_draining").await.unwrap();
                assert!(conn.is_draining() && conn.deadline().is_some());
                assert!(conn.lines().next().await?.is_none() && conn.frames().next().await?.is_none());
                io::Result::Ok(())
            }
        };
        let body = async |server: Handle| {
            client.write_all(b"x")?;
            has_begun.recv().await?;
            assert!(server.drain_connection(server.connections()[0].id()));
            let mut all = [hears.recv().await?, hears.recv().await?];
            all.sort_unstable();
            assert_eq!(all, ["draining", "until_draining"]);
            until(|| server.counts().completed() == 1).await;
            Ok(())
        };
        server.scope(handler, body).await.unwrap();
    });
}

#[test]
fn one_that_does_not_end_is_cut_at_the_end_of_its_grace_with_a_warning() {
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

/// A client that has just connected is about to send: its first request is answered, as in a drain of the server.
#[test]
fn a_newcomer_that_is_drained_gets_its_first_answer() {
    for first_byte in [false, true] {
        test(async move {
            let mut server = bind().await.newcomer_time(FOR_EVER);
            if first_byte {
                server = server.first_byte_timeout(FOR_EVER); // it is still opening then
            }
            let mut client = connect(server.local_addr());
            let body = async |server: Handle| {
                until(|| server.connection_count() == 1).await;
                assert!(server.drain_connection(server.connections()[0].id()));
                talk(&mut client);
                assert_eq!(rest(&mut client), "bye");
                Ok(())
            };
            let ((), report) = server.scope(echo_and_bye, body).await.unwrap();
            assert_eq!(report.completed(), 1, "{report}");
        });
    }
}

#[test]
fn a_silent_newcomer_is_notified_when_its_time_is_over() {
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
fn a_shutdown_ends_one_that_drains_alone_by_its_own_rules() {
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
fn a_connection_is_drained_at_its_age_and_talks_until_then() {
    test(async {
        let age = Duration::from_millis(400);
        let server = bind().await.max_connection_age(age);
        let address = server.local_addr().clone();
        let body = async |_: Handle| {
            let talking: Vec<_> = (0..8)
                .map(|_| {
                    let mut client = connect(&address);
                    std::thread::spawn(move || {
                        let (start, mut got) = (Instant::now(), Vec::new());
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
            assert!(got.ends_with(b"!bye"), "each message was answered whole: {:?}", got.escape_ascii().to_string());
        }
        assert_eq!((report.completed(), report.drained()), (8, 0), "{report}");
    });
}

#[test]
fn one_that_outlives_its_age_and_its_grace_is_cut_with_a_warning() {
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

/// The handler has returned, and its reply is still on its way: there is nothing to notify, and nothing is cut.
#[test]
fn a_reply_on_its_way_is_not_cut_by_the_drain_of_its_connection() {
    test(async {
        const REPLY: usize = 4 << 20;
        let server = bind().await.grace(Duration::ZERO);
        let mut client = connect(server.local_addr());
        let handler = async |mut conn: Connection| conn.write_all(&vec![b'x'; REPLY]).await;
        let body = async |server: Handle| {
            let mut chunk = vec![0; 64 << 10];
            let mut got = 0;
            while server.counts().completed() == 0 {
                got += client.read(&mut chunk)?; // as much as the handler needs to come to its end
            }
            client.write_all(b"still sending")?; // what is unread would make a close a reset
            assert!(server.drain_connection(server.connections()[0].id()));
            async_std::task::sleep(Duration::from_millis(50)).await;
            while let n @ 1.. = client.read(&mut chunk)? {
                got += n;
            }
            assert_eq!(got, REPLY);
            Ok(())
        };
        let ((), report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), report.undelivered()), (1, 0), "{report}");
    });
}

#[test]
fn a_grace_without_an_end_is_one_for_a_single_connection_too() {
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
fn a_newcomer_that_drains_alone_is_still_one_when_the_server_drains() {
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
            talk(&mut client);
            assert_eq!(rest(&mut client), "bye");
            assert_eq!(serving.await.unwrap().completed(), 1);
        });
    }
}

/// What the peer has not taken at the end of the drain of its connection is lost, and counted, as in a shutdown.
#[test]
#[cfg(target_os = "linux")]
fn a_reply_that_is_not_taken_by_the_deadline_of_its_own_drain_is_counted_as_undelivered() {
    test(async {
        let server = bind().await.grace(Duration::from_millis(300)).newcomer_time(Duration::ZERO);
        let client = connect(server.local_addr()); // it reads nothing
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
