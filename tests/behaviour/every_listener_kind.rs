//! The rules that depend on the kind of stream, tested for every kind of listener: TCP, Unix, memory, TLS.
//! `r01_one_exit` tests the ways out (R1) in the same way.

use crate::support::gate::side_by_side;
use crate::support::ways::{Client, Kind, Place, close, rest};
use crate::support::{NET, alone, assert_adds_up, echo_at_eof, hold_executor, on_thread};
use async_std::io as io_std;
use async_std::prelude::*;
use async_std::{future, task};
use ebbtide::{Connection, Handle, Server};
use std::future::{pending, poll_fn};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::time::Duration;

/// Runs a test for each kind, all at the same time.
fn for_every_kind(test: impl AsyncFn(Server, Place) + Copy + Send + Sync + 'static) {
    side_by_side(Kind::ALL, |kind| {
        println!("{kind:?}");
        let (listener, place) = kind.open();
        on_thread(move || task::block_on(test(Server::new(listener), place)));
    });
}

/// Handler that replies to one message of five bytes.
async fn reply(mut conn: Connection) -> io::Result<()> {
    conn.read_exact(&mut [0; 5]).await?;
    conn.write_all(b"reply").await
}

#[test]
fn a_client_that_half_closes_still_gets_its_reply() {
    for_every_kind(async |server, place| {
        let body = async |_| {
            let mut client = place.say(b"hello").await;
            close(&mut client).await;
            Ok(rest(&mut client).await)
        };
        let (reply, report) = server.scope(echo_at_eof, body).await.unwrap();
        assert_eq!((reply.as_str(), report.completed()), ("hello", 1), "{report}");
    });
}

/// Reads into three buffers, the first of which is empty. Returns the bytes.
async fn read_into_three(stream: &mut (impl io_std::Read + Unpin)) -> io::Result<Vec<u8>> {
    let (mut first, mut second) = ([0; 3], [0; 4]);
    let mut bufs = [IoSliceMut::new(&mut []), IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    let n = stream.read_vectored(&mut bufs).await?;
    let mut bytes = [&first[..], &second[..]].concat();
    bytes.truncate(n);
    Ok(bytes)
}

/// Sends a text, closes, and returns the reply.
async fn say_all(place: &Place, text: &str) -> String {
    let mut client = place.say(text.as_bytes()).await;
    close(&mut client).await;
    rest(&mut client).await
}

#[test]
fn reads_into_several_buffers_lose_no_byte_also_if_some_were_looked_at_before() {
    const TEXT: &str = "a text that is longer than all buffers together";
    for_every_kind(async |server, place| {
        let handler = async |mut conn: Connection| {
            let (mut text, mut turn) = (Vec::new(), 0);
            loop {
                turn += 1;
                if turn % 3 == 1 && !conn.more().await? {
                    break; // it keeps bytes that it has read too early
                }
                let bytes = read_into_three(&mut conn).await?;
                if bytes.is_empty() {
                    break;
                }
                text.extend(bytes);
            }
            assert_eq!(conn.read_vectored(&mut [IoSliceMut::new(&mut [])]).await?, 0, "it does not wait");
            conn.write_all(&text).await
        };
        let (reply, report) = server.scope(handler, async |_| Ok(say_all(&place, TEXT).await)).await.unwrap();
        assert_eq!((reply.as_str(), report.completed()), (TEXT, 1), "{report}");
    });
}

#[test]
fn the_view_with_eof_in_a_drain_reads_and_writes_several_buffers_and_half_closes() {
    for_every_kind(async |server, place| {
        let handler = async |conn: Connection| {
            let mut view = conn.eof_on_drain();
            let mut text = Vec::new();
            while text.len() < 5 {
                text.extend(read_into_three(&mut view).await?);
            }
            let mut parts = vec![&text[..2], &[], &text[2..]];
            while !parts.is_empty() {
                let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
                let mut n = view.write_vectored(&slices).await?;
                for part in &mut parts {
                    let done = n.min(part.len());
                    (*part, n) = (&part[done..], n - done);
                }
                parts.retain(|part| !part.is_empty());
            }
            view.flush().await?;
            poll_fn(|cx| io_std::Write::poll_close(Pin::new(&mut view), cx)).await?; // the client reads EOF, and the handler goes on
            assert_eq!(read_into_three(&mut view).await?, b"", "EOF, because the server drains");
            assert!(conn.is_draining());
            io::Result::Ok(())
        };
        let body = async |server: Handle| {
            let mut client = place.say(b"hello").await;
            let reply = rest(&mut client).await;
            drop(server.shutdown());
            server.closed().await;
            Ok(reply)
        };
        let (reply, report) = server.newcomer_time(Duration::ZERO).scope(handler, body).await.unwrap();
        assert_eq!((reply.as_str(), report.completed()), ("hello", 1), "{report}");
    });
}

#[test]
fn r03_after_the_handlers_end_clones_of_its_connection_read_eof_and_cannot_write() {
    for_every_kind(async |server, place| {
        let (send, receive) = async_std::channel::bounded(2);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let mut clone = conn.clone();
                let detached = task::spawn(async move {
                    let waited = clone.read(&mut [0; 8]).await;
                    let written = clone.write_all(b"from beyond").await;
                    (waited.unwrap(), written.unwrap_err().kind())
                });
                send.send((detached, conn.clone())).await.unwrap();
                (&conn).write_all(b"last").await
            }
        };
        let body = async |server: Handle| {
            let mut client = place.connect().await.unwrap();
            assert_eq!(rest(&mut client).await, "last");
            let (detached, clone) = receive.recv().await.unwrap();
            assert_eq!(detached.await, (0, ErrorKind::BrokenPipe));
            assert!(server.is_serving());
            Ok(clone)
        };
        let (mut clone, _) = server.scope(handler, body).await.unwrap();
        assert_eq!(clone.read(&mut [0; 8]).await.unwrap(), 0);
    });
}

#[test]
fn r03_after_a_cancel_or_a_drop_a_clone_that_is_still_alive_keeps_no_connection_open() {
    let escapes = async |server: Server, place: Place, by_cancel: bool| {
        let (send, receive) = async_std::channel::bounded(2);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                send.send(conn).await.unwrap();
                pending::<()>().await
            }
        };
        let handle = server.handle();
        let serving = task::spawn(server.serve(handler));
        let mut client = place.connect().await.unwrap();
        let clone = receive.recv().await.unwrap();
        match by_cancel {
            true => drop(handle.cancel().await),
            false => drop(serving.cancel().await),
        }
        assert_eq!(rest(&mut client).await, "");
        assert_eq!((&clone).read(&mut [0]).await.unwrap(), 0);
        assert_eq!((&clone).write(b"!").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    };
    for_every_kind(async move |server, place| escapes(server, place, true).await);
    for_every_kind(async move |server, place| escapes(server, place, false).await);
}

#[test]
fn r04_clients_in_the_backlog_are_served_in_the_drain() {
    alone(|| {
        for_every_kind(async |server, place| {
            let mut clients: Vec<Client> = Vec::new();
            for _ in 0..50 {
                clients.push(place.say(b"hello").await);
            }
            let mut held = Some(hold_executor());
            let body = async |server: Handle| {
                drop(server.shutdown());
                assert_eq!(server.connection_count(), 0);
                held.take();
            };
            let (_, report) = server.scope(reply, body).await.unwrap();
            assert_eq!((report.accepted(), report.completed()), (50, 50), "{report}");
            for client in &mut clients {
                assert_eq!(rest(client).await, "reply");
            }
        })
    });
}

#[test]
fn r05_until_draining_still_reads_a_request_that_has_arrived_before_it_returns_none() {
    for_every_kind(async |server, place| {
        // Over TLS the request is sent after the handshake, so it may still be in transit. It arrives in one record,
        // so its first byte shows that all of it has arrived.
        let waited_for = usize::from(place.kind.is_encrypted());
        let handler = move |conn: Connection| async move {
            let mut text = [0; 5];
            (&conn).read_exact(&mut text[..waited_for]).await?;
            conn.until_draining(pending::<()>()).await;
            for byte in &mut text[waited_for..] {
                let read = conn.until_draining((&conn).read(std::slice::from_mut(byte))).await;
                assert_eq!(read.expect("the byte has arrived")?, 1);
            }
            assert!(conn.until_draining((&conn).read(&mut [0])).await.is_none(), "nothing more has arrived");
            (&conn).write_all(&text).await
        };
        let mut client = place.say(b"hello").await;
        let body = async |server: Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), report.drained()), (1, 1), "{report}");
        assert_eq!(rest(&mut client).await, "hello");
    });
}

#[test]
fn r09_the_report_adds_up_after_raced_shutdowns_and_no_client_hangs() {
    for &kind in Kind::ALL {
        on_thread(move || task::block_on(raced_shutdowns(kind)));
    }
}

async fn raced_shutdowns(kind: Kind) {
    let (mut served, mut ended, mut refused) = (0, 0, 0);
    for round in 0..300 {
        let (listener, place) = kind.open();
        let server = Server::new(listener);
        let handle = server.handle();
        let place = std::sync::Arc::new(place);
        let clients: Vec<_> = (0..4).map(|_| task::spawn(one_client(std::sync::Arc::clone(&place)))).collect();
        let serving = task::spawn(server.serve(reply));
        task::sleep(Duration::from_micros(round % 10 * 50)).await; // the clients are at different points
        drop(if round % 2 == 0 { handle.shutdown() } else { handle.cancel() });
        let report = serving.await.unwrap();
        assert_adds_up(&report);
        let mut served_now = 0;
        for client in clients {
            match future::timeout(NET, client).await.expect("a client hangs") {
                Some(true) => served_now += 1,
                Some(false) => ended += 1,
                None => refused += 1,
            }
        }
        assert!(report.accepted() >= served_now, "{report}");
        served += served_now;
        assert_eq!(place.left_behind().await, None);
    }
    println!("{kind:?}: {served} served, {ended} ended, {refused} refused");
}

/// Returns whether the client got its reply; `None` if it was refused.
async fn one_client(place: std::sync::Arc<Place>) -> Option<bool> {
    let mut client = place.connect().await.ok()?;
    if client.write_all(b"hello").await.is_err() {
        return Some(false);
    }
    let mut text = String::new();
    Some(client.read_to_string(&mut text).await.is_ok() && text == "reply")
}

#[test]
fn r10_a_client_that_is_still_sending_gets_the_whole_reply() {
    for_every_kind(async |server, place| {
        let body = async |_| {
            let mut client = place.say(b"hello").await;
            for _ in 0..64 {
                client.write_all(&[0; 64 * 1024]).await.expect("the server reads and discards it");
            }
            close(&mut client).await;
            Ok(rest(&mut client).await)
        };
        let (reply, report) = server.scope(reply, body).await.unwrap();
        assert_eq!((reply.as_str(), report.completed()), ("reply", 1), "{report}");
    });
}

#[test]
fn r10_a_large_reply_arrives_whole_although_the_drain_begins_while_it_is_written() {
    for_every_kind(async |server, place| {
        let handler = async |mut conn: Connection| {
            conn.read_exact(&mut [0; 5]).await?;
            conn.write_all("x".repeat(4 << 20).as_bytes()).await
        };
        let mut client = place.say(b"hello").await;
        let (begun, has_begun) = async_std::channel::bounded(1);
        let reading = task::spawn(async move {
            client.read_exact(&mut [0]).await.unwrap();
            begun.send(()).await.unwrap();
            rest(&mut client).await.len()
        });
        let (_, report) = server.scope(handler, async |_| Ok(has_begun.recv().await?)).await.unwrap();
        assert_eq!((reading.await, report.completed()), ((4 << 20) - 1, 1), "{report}");
    });
}
