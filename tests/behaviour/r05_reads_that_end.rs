//! R5: reads that end in a drain, between two messages and never inside one: `more`, `lines`, `frames`, `eof_on_drain`
//! and `draining`.

use crate::support::gate::side_by_side;
use crate::support::ways::{Kind, Place, close, rest};
use crate::support::*;
use async_std::channel::bounded;
use async_std::{io, prelude::*, task};
use ebbtide::{Connection, Handle, Phase, Report, Server};
use futures_concurrency::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

type Handling = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// A handler that echoes messages of five bytes, and ends between two of them when a drain begins.
#[derive(Clone, Copy, Debug)]
struct Reader {
    name: &'static str,
    handler: fn(Connection) -> Handling,
    /// Two messages, which are also the expected answers.
    messages: [&'static [u8]; 2],
}

const READERS: [Reader; 5] = [
    Reader { name: "more", handler: |conn| Box::pin(by_more(conn)), messages: [b"one..", b"two.."] },
    Reader { name: "lines", handler: |conn| Box::pin(by_lines(conn)), messages: [b"one..\n", b"two..\n"] },
    Reader {
        name: "frames",
        handler: |conn| Box::pin(by_frames(conn)),
        messages: [b"\0\0\0\x05one..", b"\0\0\0\x05two.."],
    },
    Reader { name: "eof_on_drain", handler: |conn| Box::pin(by_eof(conn)), messages: [b"one..", b"two.."] },
    Reader { name: "draining", handler: |conn| Box::pin(by_draining(conn)), messages: [b"one..", b"two.."] },
];

async fn by_more(mut conn: Connection) -> io::Result<()> {
    let mut buf = [0; 5];
    while conn.more().await? {
        conn.read_exact(&mut buf).await?;
        conn.write_all(&buf).await?;
    }
    Ok(())
}

async fn by_lines(mut conn: Connection) -> io::Result<()> {
    let mut lines = conn.lines();
    while let Some(line) = lines.next().await? {
        conn.write_all(format!("{line}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn by_frames(conn: Connection) -> io::Result<()> {
    let mut frames = conn.frames();
    while let Some(frame) = frames.next().await? {
        frames.write(&frame).await?;
    }
    Ok(())
}

/// Handler that ignores drains: it ends at EOF.
async fn by_eof(conn: Connection) -> io::Result<()> {
    let mut stream = conn.eof_on_drain();
    let mut buf = [0; 5];
    loop {
        match stream.read_exact(&mut buf).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        stream.write_all(&buf).await?;
    }
}

async fn by_draining(mut conn: Connection) -> io::Result<()> {
    let mut draining = conn.draining();
    let mut buf = [0; 5];
    loop {
        let reader = conn.clone();
        let arrives = async { reader.more().await };
        let over = async {
            (&mut draining).await;
            task::sleep(Duration::from_millis(20)).await; // a request that has arrived is read first
            Ok(false)
        };
        if !(arrives, over).race().await? {
            return Ok(());
        }
        conn.read_exact(&mut buf).await?;
        conn.write_all(&buf).await?;
    }
}

/// Runs the test once for each reader over each kind of listener, with no grace limit unless the test sets one.
fn for_every_reader(test: impl AsyncFn(Server, Place, Reader) + Copy + Send + Sync + 'static) {
    let all: Vec<_> = Kind::ALL.iter().flat_map(|&kind| READERS.map(|reader| (kind, reader))).collect();
    side_by_side(&all, |(kind, reader)| {
        println!("{kind:?}, {}", reader.name);
        let (listener, place) = kind.open();
        on_thread(move || task::block_on(test(Server::new(listener).grace(None), place, reader)));
    });
}

fn drains(server: &Handle) -> impl Future<Output = ()> + use<> {
    let server = server.clone();
    async move {
        drop(server.shutdown());
        until(|| server.phase() >= Phase::Draining).await;
    }
}

fn all_completed(report: &Report, connections: u64) {
    assert_eq!((report.completed(), report.accepted()), (connections, connections), "{report}");
}

#[test]
fn r05_an_idle_client_does_not_delay_the_drain() {
    for_every_reader(async |server, place, reader| {
        let body = async |_: Handle| {
            let mut client = place.say(reader.messages[0]).await;
            let mut answer = vec![0; reader.messages[0].len()];
            client.read_exact(&mut answer).await?;
            Ok((answer, client)) // the client stays connected
        };
        let ((answer, mut client), report) = server.scope(reader.handler, body).await.unwrap();
        assert_eq!(answer, reader.messages[0]);
        all_completed(&report, 1);
        assert_eq!(rest(&mut client).await, "", "{}", reader.name);
    });
}

#[test]
fn r05_requests_that_have_arrived_are_answered_and_then_the_reads_end() {
    for_every_reader(async |server, place, reader| {
        let (started, has_started) = bounded(1);
        let handler = move |conn: Connection| {
            let started = started.clone();
            async move {
                conn.server().until_draining(conn.until_draining(std::future::pending::<()>())).await;
                started.send(()).await.map_err(io::Error::other)?;
                (reader.handler)(conn).await
            }
        };
        let both = reader.messages.concat();
        let body = async |server: Handle| {
            let mut client = place.say(&both).await;
            until(|| server.connection_count() == 1).await;
            drains(&server).await;
            has_started.recv().await?;
            let mut answers = vec![0; both.len()];
            client.read_exact(&mut answers).await?;
            assert_eq!(answers, both, "{}", reader.name);
            Ok(client)
        };
        let (_client, report) = server.scope(handler, body).await.unwrap();
        all_completed(&report, 1);
    });
}

#[test]
fn r05_the_rest_of_half_a_message_is_waited_for() {
    for_every_reader(async |server, place, reader| {
        let [first, second] = reader.messages;
        let (half, more) = second.split_at(second.len() - 2);
        let body = async |server: Handle| {
            let mut client = place.say(&[first, half].concat()).await;
            let mut answer = vec![0; first.len()];
            client.read_exact(&mut answer).await?;
            task::sleep(Duration::from_millis(50)).await; // until the half has arrived, too
            drains(&server).await;
            task::sleep(Duration::from_millis(50)).await; // the drain does not end the read
            client.write_all(more).await?;
            let mut answer = vec![0; second.len()];
            client.read_exact(&mut answer).await?;
            assert_eq!(answer, second, "{}", reader.name);
            Ok(client)
        };
        let (_client, report) = server.scope(reader.handler, body).await.unwrap();
        all_completed(&report, 1);
    });
}

#[test]
fn r05_eof_from_the_peer_ends_every_reader() {
    for_every_reader(async |server, place, reader| {
        let body = async |server: Handle| {
            let mut client = place.say(reader.messages[0]).await;
            close(&mut client).await;
            let answer = rest(&mut client).await;
            assert_eq!(answer.as_bytes(), reader.messages[0], "{}", reader.name);
            until(|| server.connection_count() == 0).await;
        };
        let (_, report) = server.scope(reader.handler, body).await.unwrap();
        all_completed(&report, 1);
    });
}

#[test]
fn r05_the_first_request_of_a_newcomer_is_answered_by_every_reader() {
    for_every_reader(async |server, place, reader| {
        let server = server.newcomer_time(FOR_EVER);
        let body = async |server: Handle| {
            let mut client = place.connect().await?;
            until(|| server.connection_count() == 1).await;
            drains(&server).await;
            client.write_all(reader.messages[0]).await?;
            let mut answer = vec![0; reader.messages[0].len()];
            client.read_exact(&mut answer).await?;
            Ok((answer, client))
        };
        let ((answer, _client), report) = server.scope(reader.handler, body).await.unwrap();
        assert_eq!(answer, reader.messages[0]);
        all_completed(&report, 1);
    });
}

#[test]
fn r05_io_copy_ends_with_the_drain() {
    for &kind in Kind::ALL {
        test(async move {
            let (listener, place) = kind.open();
            let handler = async |conn: Connection| {
                let stream = conn.eof_on_drain();
                io::copy(&mut &stream, &mut &stream).await.map(drop)
            };
            let body = async |_: Handle| {
                let mut clients = Vec::new();
                for _ in 0..20 {
                    let mut client = place.say(b"hello").await;
                    client.read_exact(&mut [0; 5]).await?;
                    clients.push(client);
                }
                Ok(clients)
            };
            let (_clients, report) = Server::new(listener).grace(None).scope(handler, body).await.unwrap();
            all_completed(&report, 20);
        });
    }
}

#[test]
fn r05_the_view_gives_eof_when_another_task_has_written_the_answer() {
    for &kind in Kind::ALL {
        test(async move {
            let (listener, place) = kind.open();
            let (read, has_read) = bounded(1);
            let (answer, may_answer) = bounded::<()>(1);
            let handler = move |mut conn: Connection| {
                let (read, may_answer) = (read.clone(), may_answer.clone());
                async move {
                    let stream = conn.eof_on_drain();
                    let reading = conn.spawn(async move {
                        (&stream).read_exact(&mut [0; 5]).await?;
                        read.send(()).await.map_err(io::Error::other)?;
                        (&stream).read(&mut [0; 5]).await
                    });
                    may_answer.recv().await.map_err(io::Error::other)?;
                    assert!(!reading.is_finished(), "EOF although the answer is not written yet");
                    conn.write_all(b"answer").await?;
                    assert_eq!(reading.await??, 0);
                    Ok::<_, io::Error>(())
                }
            };
            let body = async |server: Handle| {
                let client = place.say(b"hello").await;
                has_read.recv().await?;
                drains(&server).await;
                task::sleep(Duration::from_millis(50)).await; // until the reader waits
                answer.send(()).await?;
                Ok(client)
            };
            let (_client, report) = Server::new(listener).grace(None).scope(handler, body).await.unwrap();
            all_completed(&report, 1);
        });
    }
}

#[test]
fn r05_an_upload_through_the_view_is_read_whole() {
    for &kind in Kind::ALL {
        test(async move {
            let (listener, place) = kind.open();
            let (read, has_read) = bounded(1);
            let handler = move |conn: Connection| {
                let read = read.clone();
                async move {
                    let mut stream = conn.eof_on_drain();
                    let mut upload = vec![0; 5];
                    stream.read_exact(&mut upload).await?;
                    read.send(()).await.map_err(io::Error::other)?;
                    stream.read_to_end(&mut upload).await?;
                    stream.write_all(&upload).await
                }
            };
            let body = async |server: Handle| {
                let mut client = place.say(b"first").await;
                has_read.recv().await?;
                drains(&server).await;
                task::sleep(Duration::from_millis(20)).await;
                client.write_all(b"second").await?;
                close(&mut client).await;
                Ok(rest(&mut client).await)
            };
            let (text, _) = Server::new(listener).grace(None).scope(handler, body).await.unwrap();
            assert_eq!(text, "firstsecond", "{kind:?}");
        });
    }
}

#[test]
fn r05_draining_may_be_awaited_twice_and_outlives_its_connection() {
    test(async {
        let (send, receive) = bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let mut draining = conn.draining();
                send.send(conn.draining()).await.map_err(io::Error::other)?;
                (&mut draining).await;
                draining.await;
                Ok::<_, io::Error>(())
            }
        };
        let server = bind().await;
        let client = connect(server.local_addr());
        let body = async |_: Handle| Ok(receive.recv().await?);
        let (escaped, report) = server.scope(handler, body).await.unwrap();
        escaped.await;
        all_completed(&report, 1);
        drop(client);
    });
}
