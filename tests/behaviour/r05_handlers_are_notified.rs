//! R5: handlers are notified of a drain by an event of its own. It is neither EOF nor a cancellation.

use crate::support::*;
use async_std::{future, prelude::*, task};
use ebbtide::Connection;
use std::future::{pending, ready};
use std::io::Write as _;
use std::time::{Duration, Instant};

#[test]
fn r05_a_handler_that_waits_for_input_is_notified_and_the_client_reads_its_whole_goodbye() {
    test(async {
        let goodbye = "good".repeat(100_000) + "bye";
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = {
            let goodbye = goodbye.clone();
            move |conn: Connection| {
                let goodbye = goodbye.clone();
                async move {
                    let mut buf = [0; 16];
                    let read = conn.until_draining((&conn).read(&mut buf)).await;
                    assert!(read.is_none() && conn.is_draining() && conn.deadline().is_some());
                    (&conn).write_all(goodbye.as_bytes()).await
                }
            }
        };
        let reading = task::spawn_blocking(move || rest(&mut client));
        let body = async |server: ebbtide::Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
        assert_eq!(reading.await, goodbye);
    });
}

#[test]
fn r05_a_request_that_has_arrived_is_still_read_although_the_client_was_in_the_backlog() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        client.write_all(b"request").unwrap();
        let handler = |conn: Connection| async move {
            while !conn.is_draining() {
                task::yield_now().await;
            }
            let mut buf = [0; 16];
            let n = conn.until_draining((&conn).read(&mut buf)).await.expect("the request has arrived")?;
            assert_eq!(&buf[..n], b"request");
            // No more has arrived, so the second read does not wait.
            assert!(conn.until_draining((&conn).read(&mut buf)).await.is_none());
            (&conn).write_all(b"reply").await
        };
        server.scope(handler, async |_| ()).await.unwrap();
        assert_eq!(rest(&mut client), "reply");
    });
}

#[test]
fn r05_until_draining_returns_none_at_once_after_the_drain_has_begun() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = |conn: Connection| async move {
            assert_eq!(conn.until_draining(pending::<()>()).await, None);
            assert_eq!(future::timeout(NET, conn.until_draining(pending::<()>())).await, Ok(None));
            assert_eq!(future::timeout(NET, conn.server().until_draining(pending::<()>())).await, Ok(None));
            assert_eq!(conn.until_draining(ready(7)).await, Some(7));
            assert_eq!(conn.server().until_draining(ready(7)).await, Some(7));
        };
        let (_, report) = server.scope(handler, async |_| ()).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r05_all_tasks_of_a_connection_are_notified() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = |conn: Connection| async move {
            let group = ebbtide::TaskGroup::new();
            for _ in 0..10 {
                let conn = conn.clone();
                group.spawn(async move { assert!(conn.until_draining(pending::<()>()).await.is_none()) });
            }
            group.join().await;
        };
        let (_, report) = server.scope(handler, async |_| ()).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r05_a_handler_that_ignores_the_drain_has_the_full_grace() {
    test(async {
        let grace = Duration::from_millis(300);
        let server = bind().await.grace(grace);
        let mut client = connect(server.local_addr());
        let (notified, was_notified) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let notified = notified.clone();
            async move {
                assert_eq!(conn.deadline(), None, "no shutdown has been requested yet");
                conn.until_draining(pending::<()>()).await;
                notified.send((Instant::now(), conn.deadline().unwrap())).await.unwrap();
                (&conn).read(&mut [0]).await.map(drop) // still open, both ways
            }
        };
        let body = async |server: ebbtide::Handle| {
            while server.connection_count() == 0 {
                task::yield_now().await;
            }
            task::sleep(Duration::from_millis(20)).await; // let the handler look at its deadline first
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        let (at, deadline) = was_notified.recv().await.unwrap();
        assert!(deadline > at && deadline <= at + grace);
        assert!(Instant::now() >= deadline && report.elapsed() >= grace, "{report}");
        assert_eq!(report.cancelled(), 1, "{report}");
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r05_a_cancel_ends_the_waits_for_a_drain() {
    test(async {
        let server = bind().await;
        let handle = server.handle();
        let _client = connect(server.local_addr());
        let (send, receive) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                send.send(conn).await.unwrap();
                pending::<()>().await
            }
        };
        let serving = task::spawn(server.serve(handler));
        let clone = receive.recv().await.unwrap();
        let waiting = {
            let (handle, clone) = (handle.clone(), clone.clone());
            task::spawn(async move {
                (handle.until_draining(pending::<()>()).await, clone.until_draining(pending::<()>()).await)
            })
        };
        handle.cancel().await;
        assert_eq!(future::timeout(NET, waiting).await, Ok((None, None)));
        serving.await.unwrap();
    });
}

#[test]
fn r05_a_clone_that_outlives_its_handler_is_not_draining_before_the_server_is() {
    test(async {
        let server = bind().await;
        let _client = connect(server.local_addr());
        let (send, receive) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move { send.send(conn).await.unwrap() }
        };
        let body = async |_| {
            let clone = receive.recv().await.unwrap();
            // The wait ends when the connection's linger ends.
            assert_eq!(future::timeout(NET, clone.until_draining(pending::<()>())).await, Ok(None));
            assert!(!clone.is_draining());
        };
        server.scope(handler, body).await.unwrap();
    });
}
