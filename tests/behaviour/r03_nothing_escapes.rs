//! R3: a connection ends with its handler, for every clone, every task and the peer.

use crate::support::*;
use async_std::prelude::*;
use async_std::task;
use ebbtide::{Connection, TaskGroup};
use std::future::pending;
use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

#[test]
fn r03_a_handler_that_returns_without_closing_gives_its_client_eof_at_once() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let scope = server.scope(
            |_: Connection| async {},
            async |server| {
                let client = task::spawn_blocking(move || rest(&mut client));
                assert_eq!(client.await, "");
                assert!(server.is_serving(), "the connection has ended; the server has not");
            },
        );
        scope.await.unwrap();
    });
}

#[test]
fn r03_a_clone_in_a_detached_task_keeps_no_connection_open() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let (send, receive) = async_std::channel::bounded(1);
        let handler = move |mut conn: Connection| {
            let send = send.clone();
            async move {
                let mut clone = conn.clone();
                let detached = task::spawn(async move {
                    let mut buf = [0; 8];
                    let waited = clone.read(&mut buf).await; // very likely begins before the handler ends
                    let after = clone.read(&mut buf).await;
                    let written = clone.write_all(b"from beyond").await;
                    (waited, after, written, clone)
                });
                send.send(detached).await.unwrap();
                conn.write_all(b"last").await
            }
        };
        let scope = server.scope(handler, async |_| {
            let (waited, after, written, clone) = receive.recv().await.unwrap().await;
            assert_eq!((waited.unwrap(), after.unwrap()), (0, 0));
            assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe);
            assert!(clone.spawn(async {}).await.unwrap_err().is_cancelled(), "no task starts after the handler's end");
            Ok(clone)
        });
        let (clone, _) = scope.await.unwrap();
        // The clone still exists, and so does the descriptor. The peer still reads EOF.
        assert_eq!(rest(&mut client), "last");
        drop(clone);
    });
}

/// The crate cannot close the duplicate descriptor, but it can shut the connection down.
#[test]
fn r03_a_duplicate_of_the_socket_does_not_keep_the_peer_from_eof() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let (send, receive) = async_std::channel::bounded(1);
        let handler = move |mut conn: Connection| {
            let send = send.clone();
            async move {
                send.send(conn.tcp_stream().unwrap().try_clone().unwrap()).await.unwrap();
                conn.read_to_end(&mut Vec::new()).await?;
                conn.write_all(b"last").await
            }
        };
        let scope = server.scope(handler, async |_| {
            let duplicate = receive.recv().await.unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            client.set_read_timeout(Some(NET / 4)).unwrap();
            assert_eq!(task::spawn_blocking(move || rest(&mut client)).await, "last");
            drop(duplicate);
        });
        scope.await.unwrap();
    });
}

/// In a drain a connection on which nothing is on its way is closed with its descriptor, which a duplicate keeps open.
#[test]
fn r03_a_duplicate_of_the_socket_is_of_no_use_after_a_drain_although_the_peer_stays() {
    test(async {
        let server = bind().await.newcomer_time(Duration::ZERO);
        let mut client = connect(server.local_addr());
        let (send, receive) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                send.send(conn.tcp_stream().unwrap().try_clone().unwrap()).await.unwrap();
                conn.until_draining(pending::<()>()).await;
            }
        };
        let (mut duplicate, report) = server.scope(handler, async |_| Ok(receive.recv().await?)).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
        // Its mode is that of the connection: a read of an open socket without bytes returns an error at once.
        assert_eq!(std::io::Read::read(&mut duplicate, &mut [0]).expect("the socket is shut down"), 0);
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r03_bytes_that_arrived_before_the_handlers_end_are_not_read_after_it() {
    test(async {
        let server = bind().await;
        let mut client = order(server.local_addr(), b'x');
        let (send, receive) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move { send.send(conn).await.unwrap() }
        };
        let scope = server.scope(handler, async |_| {
            let clone = receive.recv().await.unwrap();
            while clone.server().connection_count() > 0 {
                task::yield_now().await;
            }
            assert_eq!((&clone).read(&mut [0; 8]).await.unwrap(), 0);
        });
        scope.await.unwrap();
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn r03_after_a_cancel_or_a_drop_the_peer_reads_eof_although_its_bytes_were_not_read() {
    for dropped in [false, true] {
        test(async move {
            let handlers = Handlers::new();
            let server = bind().await;
            let handle = server.handle();
            let mut client = order(server.local_addr(), STUBBORN);
            client.write_all(b"never read").unwrap();
            let serving = task::spawn(server.serve(handlers.handler()));
            handlers.started(1).await;
            if dropped {
                serving.cancel().await;
            } else {
                handle.cancel().await;
            }
            let mut buf = [0; 8];
            assert_eq!(client.read(&mut buf).unwrap(), 0);
        });
    }
}

#[test]
fn r03_background_tasks_of_a_connection_are_cancelled_and_joined_when_its_handler_ends() {
    test(async {
        let live = Live::default();
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = {
            let live = live.clone();
            move |conn: Connection| {
                let live = live.clone();
                async move {
                    for _ in 0..10 {
                        let guard = live.guard();
                        let task = conn.spawn_background(async move {
                            let _guard = guard;
                            task::sleep(FOR_EVER).await;
                        });
                        assert!(!task.is_finished());
                    }
                    task::yield_now().await;
                }
            }
        };
        let scope = server.scope(handler, async |server| {
            let client = task::spawn_blocking(move || rest(&mut client));
            client.await;
            while server.connection_count() > 0 {
                task::yield_now().await;
            }
            assert_eq!(live.count(), 0);
        });
        let (_, report) = scope.await.unwrap();
        assert_eq!(report.completed(), 1);
    });
}

#[test]
fn r03_tasks_of_a_connection_are_gone_when_a_drop_returns() {
    test(async {
        let live = Live::default();
        let server = bind().await;
        let _client = connect(server.local_addr());
        let (start, started) = async_std::channel::bounded(1);
        let handler = {
            let live = live.clone();
            move |conn: Connection| {
                let (live, start) = (live.clone(), start.clone());
                async move {
                    let guard = live.guard();
                    conn.spawn(async move {
                        let _guard = guard;
                        start.send(()).await.unwrap();
                        task::sleep(FOR_EVER).await;
                    });
                    pending::<()>().await
                }
            }
        };
        let serving = task::spawn(server.serve(handler));
        started.recv().await.unwrap();
        serving.cancel().await;
        assert_eq!(live.count(), 0);
    });
}

#[test]
fn r03_a_task_that_panics_ends_its_connection() {
    let logs = logs::remember();
    test(async move {
        let handlers = Live::default();
        let server = bind().await;
        let handle = server.handle();
        let mut client = connect(server.local_addr());
        let peer = client.local_addr().unwrap();
        let handler = {
            let handlers = handlers.clone();
            move |conn: Connection| {
                let guard = handlers.guard();
                async move {
                    let _guard = guard;
                    conn.spawn(async { panic!("a task's own") });
                    pending::<()>().await
                }
            }
        };
        let serving = task::spawn(server.serve(handler));
        assert_eq!(rest(&mut client), "");
        let report = handle.shutdown().await;
        assert_eq!((report.panicked(), handlers.count()), (1, 0));
        serving.await.unwrap();
        let lines = logs.lines_with("a task's own");
        assert_eq!(lines.len(), 1, "the panic is logged once: {lines:?}");
        assert!(lines[0].0 == log::Level::Error && lines[0].1.contains(&peer.to_string()), "{lines:?}");
    });
}

#[test]
fn r03_a_handler_can_wait_for_tasks_in_a_group_of_its_own() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = |conn: Connection| async move {
            let group = TaskGroup::new();
            for n in 0..3 {
                let mut conn = conn.clone();
                group.spawn(async move { conn.write_all(&[b'0' + n]).await.unwrap() });
            }
            group.join().await;
        };
        let scope = server.scope(handler, async |_| {
            let client = task::spawn_blocking(move || rest(&mut client));
            let mut digits: Vec<_> = client.await.chars().collect();
            digits.sort();
            assert_eq!(digits, ['0', '1', '2']);
        });
        scope.await.unwrap();
    });
}

#[test]
fn r03_a_handler_can_half_close_and_go_on_reading() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let handler = |mut conn: Connection| async move {
            conn.write_all(b"over to you").await?;
            conn.close_write().await?;
            let mut answer = String::new();
            conn.read_to_string(&mut answer).await?;
            assert_eq!(answer, "thanks");
            std::io::Result::Ok(())
        };
        let scope = server.scope(handler, async |server| {
            let client = task::spawn_blocking(move || {
                assert_eq!(rest(&mut client), "over to you");
                client.write_all(b"thanks").unwrap();
            });
            client.await;
            while server.connection_count() > 0 {
                task::yield_now().await;
            }
        });
        let (_, report) = scope.await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}
