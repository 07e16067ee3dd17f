//! R5: a newcomer, a client that has just connected, gets an answer to its first request although the drain has begun.

use crate::support::gate::side_by_side;
use crate::support::ways::{Kind, Place, rest};
use crate::support::{FOR_EVER, bind, connect, echo, on_thread, test, until};
use async_std::channel::{Receiver, bounded};
use async_std::{future, io, prelude::*, task};
use ebbtide::{Connection, Handle, Phase, Report, Server};
use futures_concurrency::prelude::*;
use std::future::pending;
#[cfg(any(feature = "tls", feature = "proxy-protocol"))]
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Runs the test once for each kind of listener, in parallel.
fn for_every_kind(test: impl AsyncFn(Server, Place) + Copy + Send + Sync + 'static) {
    side_by_side(Kind::ALL, |kind| {
        println!("{kind:?}");
        let (listener, place) = kind.open();
        // So long that only the event under test can end a newcomer's time or a drain.
        let server = Server::new(listener).grace(4 * FOR_EVER).newcomer_time(FOR_EVER);
        on_thread(move || task::block_on(test(server, place)));
    });
}

/// Connects a client before the shutdown, sends `words` after the drain has begun, and returns all that the client
/// reads.
async fn late_request(server: Server, place: &Place, handler: impl AsyncHandler, words: &[u8]) -> (String, Report) {
    let (started, handler) = announced(handler);
    let body = async |server: Handle| {
        let mut client = place.connect().await?;
        started.recv().await?;
        drop(server.shutdown());
        until(|| server.phase() == Phase::Draining).await;
        client.write_all(words).await?;
        Ok(rest(&mut client).await)
    };
    server.scope(handler, body).await.unwrap()
}

trait AsyncHandler: Fn(Connection) -> Handling + Send + Sync + 'static {}
impl<F: Fn(Connection) -> Handling + Send + Sync + 'static> AsyncHandler for F {}
type Handling = std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Returns the handler, and a channel that gets a message when the handler is called.
fn announced(handler: impl AsyncHandler) -> (Receiver<()>, impl AsyncHandler) {
    let (say, started) = bounded(64);
    let handler = move |conn| -> Handling {
        say.try_send(()).unwrap();
        handler(conn)
    };
    (started, handler)
}

#[test]
fn r05_the_first_request_of_a_newcomer_is_answered() {
    for_every_kind(async |server, place| {
        let (text, report) = late_request(server, &place, |conn| Box::pin(echo(conn)), b"are you there?").await;
        assert_eq!((text.as_str(), report.completed(), report.drained()), ("are you there?", 1, 1), "{report}");
    });
}

#[test]
fn r05_a_newcomer_is_notified_in_the_poll_of_its_first_read_and_not_before() {
    for_every_kind(async |server, place| {
        let handler = |mut conn: Connection| -> Handling {
            Box::pin(async move {
                while conn.server().phase() != Phase::Draining {
                    task::yield_now().await;
                }
                task::sleep(Duration::from_millis(20)).await; // time in which an early notification would arrive
                let before = conn.is_draining();
                let read = conn.until_draining((&conn).read(&mut [0; 16])).await.is_some();
                let notified = [before, read, conn.is_draining(), conn.until_draining(pending::<()>()).await.is_none()];
                conn.write_all(format!("{notified:?}").as_bytes()).await
            })
        };
        let (text, _) = late_request(server, &place, handler, b"!").await;
        assert_eq!(text, "[false, true, true, true]");
    });
}

#[test]
fn r05_a_client_that_got_a_greeting_is_still_a_newcomer() {
    for_every_kind(async |server, place| {
        let handler = |mut conn: Connection| -> Handling {
            Box::pin(async move {
                conn.write_all(b"hello! ").await?;
                echo(conn).await
            })
        };
        let (text, _) = late_request(server, &place, handler, b"hello yourself").await;
        assert_eq!(text, "hello! hello yourself");
    });
}

#[test]
fn r05_a_client_whose_bytes_were_read_before_the_drain_is_not_a_newcomer() {
    for_every_kind(async |server, place| {
        let (read, has_read) = bounded(1);
        let handler = move |mut conn: Connection| {
            let read = read.clone();
            async move {
                conn.read_exact(&mut [0]).await?;
                read.send(()).await.map_err(io::Error::other)?;
                conn.until_draining(pending::<()>()).await;
                conn.write_all(b"notified").await
            }
        };
        let body = async |_: Handle| {
            let mut client = place.say(b"?").await;
            has_read.recv().await?;
            Ok(task::spawn(async move { rest(&mut client).await }))
        };
        let (text, _) = server.scope(handler, body).await.unwrap();
        assert_eq!(text.await, "notified");
    });
}

/// Shuts a server down when so many silent clients are connected. Returns how long the drain takes, and the report.
async fn silent(server: Server, clients: usize) -> (Duration, Report) {
    let (started, handler) = announced(|conn| Box::pin(echo(conn)));
    let address = server.local_addr().clone();
    let body = async |_: Handle| {
        let clients: Vec<_> = (0..clients).map(|_| connect(&address)).collect();
        for _ in &clients {
            started.recv().await?;
        }
        Ok((clients, Instant::now()))
    };
    let ((_clients, start), report) = server.scope(handler, body).await.unwrap();
    (start.elapsed(), report)
}

#[test]
fn r05_a_silent_newcomer_is_notified_when_its_time_is_over() {
    test(async {
        let time = Duration::from_millis(300);
        let (elapsed, report) = silent(bind().await.newcomer_time(time), 20).await;
        assert!(elapsed < Duration::from_secs(3) && report.completed() == 20, "{elapsed:?}: {report}");
        assert!(elapsed > time / 3, "the newcomers were notified early: {elapsed:?}: {report}");
    });
}

#[test]
fn r05_a_newcomer_has_at_most_a_quarter_of_the_grace() {
    test(async {
        let grace = Duration::from_secs(8);
        let (elapsed, report) = silent(bind().await.newcomer_time(FOR_EVER).grace(grace), 2).await;
        let quarter = grace / 4;
        assert!(elapsed >= quarter && elapsed < 2 * quarter && report.completed() == 2, "{elapsed:?}: {report}");
    });
}

#[test]
fn r05_a_newcomer_time_of_zero_makes_no_newcomers() {
    test(async {
        let (_, report) = silent(bind().await.newcomer_time(Duration::ZERO).grace(None), 20).await;
        assert_eq!(report.completed(), 20, "{report}");
    });
}

#[test]
fn r05_a_silent_client_that_connected_long_ago_is_notified_at_once() {
    test(async {
        let time = Duration::from_millis(1);
        let (started, handler) = announced(|conn| Box::pin(echo(conn)));
        let server = bind().await.newcomer_time(time);
        let _client = connect(server.local_addr());
        let body = async |_: Handle| {
            started.recv().await?;
            task::sleep(10 * time).await;
            Ok(())
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert!(report.completed() == 1 && report.elapsed() < Duration::from_secs(1), "{report}");
    });
}

#[test]
fn r05_a_newcomer_whose_handler_ends_lingers_no_longer_than_others_in_a_drain() {
    test(async {
        let (started, handler) = announced(|conn| {
            Box::pin(async move {
                conn.server().until_draining(pending::<()>()).await;
                (&conn).write_all(b"closing").await
            })
        });
        let server = bind().await.newcomer_time(FOR_EVER).grace(4 * FOR_EVER);
        let mut client = connect(server.local_addr());
        let body = async |_: Handle| Ok(started.recv().await?);
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert!(report.completed() == 1 && report.elapsed() < Duration::from_secs(1), "{report}");
        assert_eq!((crate::support::rest(&mut client).as_str(), report.drained()), ("closing", 1));
    });
}

/// If the server took the end of the newcomer time for an answer, a view that is polled at that moment would give EOF in
/// the middle of a request, and a view that is not polled then would wait until the deadline.
#[test]
fn r05_the_end_of_the_newcomer_time_does_not_count_as_an_answer_to_the_first_request() {
    const TIME: Duration = Duration::from_millis(200);
    for_every_kind(async |server, place| {
        let (started, handler) = announced(|conn| {
            Box::pin(async move {
                until(|| conn.server().phase() == Phase::Draining).await;
                let view = conn.eof_on_drain();
                let polled_at_its_end = (&view).read(&mut [0; 16]).await? == 1;
                if polled_at_its_end {
                    let early = future::timeout(2 * TIME, (&view).read(&mut [0])).await;
                    assert!(early.is_err(), "EOF although the answer is not written yet: {early:?}");
                }
                let answer = async {
                    task::sleep(2 * TIME).await;
                    (&conn).write_all(b"!").await
                };
                let (end, written) = ((&view).read(&mut [0]), answer).join().await;
                assert_eq!((end?, written?), (0, ()));
                Ok(())
            })
        });
        let body = async |_: Handle| {
            let clients = [place.say(b"1").await, place.say(b"12").await];
            for _ in &clients {
                started.recv().await?;
            }
            Ok(clients)
        };
        let (_clients, report) = server.newcomer_time(TIME).scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 2, "{report}");
    });
}

/// Tests a connection that is still opening when the drain begins. Its client completes the opening, pauses, and sends
/// a request.
#[cfg(any(feature = "tls", feature = "proxy-protocol"))]
async fn opens_late<C: Send + 'static>(server: Server, client: C, open: fn(&mut C), ask: fn(&mut C) -> String) {
    let (started, handler) = announced(|conn| Box::pin(echo(conn)));
    let body = async |server: Handle| {
        until(|| server.connection_count() == 1).await;
        drop(server.shutdown());
        until(|| server.phase() == Phase::Draining).await;
        let opened = task::spawn_blocking(move || {
            let mut client = client;
            open(&mut client);
            client
        });
        let mut client = opened.await;
        started.recv().await?;
        task::sleep(Duration::from_millis(50)).await;
        Ok(task::spawn_blocking(move || ask(&mut client)).await)
    };
    let server = server.newcomer_time(FOR_EVER).grace(4 * FOR_EVER);
    let (answer, report) = server.scope(handler, body).await.unwrap();
    assert_eq!((answer.as_str(), report.completed()), ("are you there?", 1), "{report}");
}

#[cfg(feature = "tls")]
#[test]
fn r05_the_newcomer_time_begins_at_the_end_of_the_handshake() {
    use crate::support::secured::{TlsFixture, rest};
    test(async {
        let house = TlsFixture::new();
        let server = house.bind().await;
        let client = house.client(server.local_addr());
        let open = |client: &mut crate::support::certificates::Client| {
            let (connection, socket) = (&mut client.conn, &mut client.sock);
            connection.complete_io(socket).unwrap();
        };
        let ask = |client: &mut crate::support::certificates::Client| {
            client.write_all(b"are you there?").unwrap();
            rest(client).unwrap()
        };
        opens_late(server, client, open, ask).await;
    });
}

#[cfg(feature = "proxy-protocol")]
#[test]
fn r05_the_newcomer_time_begins_when_the_proxy_header_was_read() {
    use crate::support::loopback;
    use crate::support::proxied::{V2, trusting};
    use ebbtide::{Listener, ProxyProtocol};
    test(async {
        let listener = Listener::tcp(loopback()).unwrap().proxy_protocol(trusting(ProxyProtocol::required()));
        let server = Server::new(listener);
        let client = connect(server.local_addr());
        let ask = |client: &mut std::net::TcpStream| {
            client.write_all(b"are you there?").unwrap();
            crate::support::rest(client)
        };
        opens_late(server, client, |client| client.write_all(V2).unwrap(), ask).await;
    });
}

#[test]
fn r05_a_connection_that_opened_late_does_not_delay_the_notice_of_another() {
    test(async {
        let time = Duration::from_millis(1000);
        let (notified, was_notified) = bounded(2);
        let handler = move |conn: Connection| {
            let notified = notified.clone();
            async move {
                conn.draining().await;
                notified.send((conn.id().as_u64(), Instant::now())).await.unwrap();
            }
        };
        let server = bind().await.grace(4 * FOR_EVER).newcomer_time(time).first_byte_timeout(FOR_EVER);
        let address = server.local_addr().clone();
        let body = async |server: Handle| {
            let mut late = connect(&address);
            until(|| server.connection_count() == 1).await;
            let mut early = connect(&address);
            std::io::Write::write_all(&mut early, b"x")?;
            until(|| server.connections().iter().any(|one| one.state() == ebbtide::ConnectionState::Serving)).await;
            let opened = Instant::now();
            task::sleep(time * 3 / 4).await;
            std::io::Write::write_all(&mut late, b"x")?;
            until(|| server.connections().iter().all(|one| one.state() == ebbtide::ConnectionState::Serving)).await;
            drop(server.shutdown());
            let first = was_notified.recv().await?;
            Ok((opened, first, late, early))
        };
        let ((opened, (id, at), ..), _) = server.scope(handler, body).await.unwrap();
        assert_eq!(id, 1, "connection 1 opened first, so its newcomer time ends first");
        assert!(at - opened < time * 3 / 2, "{:?}", at - opened);
    });
}
