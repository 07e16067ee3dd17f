//! R3: when a handler has returned, the tasks of its connection may finish what they write, within the task grace. Then
//! none of them is left.

use crate::support::gate::side_by_side;
use crate::support::ways::{Kind, Place, rest};
use crate::support::*;
use async_std::channel::{bounded, unbounded};
use async_std::{io, prelude::*, task};
use ebbtide::{Connection, ConnectionState, Handle, Server};
use std::future::pending;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// Runs the test once for each kind of listener, in parallel.
fn for_every_kind(test: impl AsyncFn(Server, Place) + Copy + Send + Sync + 'static) {
    side_by_side(Kind::ALL, |kind| {
        println!("{kind:?}");
        let (listener, place) = kind.open();
        on_thread(move || task::block_on(test(Server::new(listener), place)));
    });
}

/// Handler of a member of a chat. Its lines go through a queue and a writer task.
async fn member(conn: Connection, ends_with_error: bool) -> io::Result<()> {
    let (say, said) = unbounded::<String>();
    let mut writer = conn.clone();
    conn.spawn(async move {
        while let Ok(line) = said.recv().await {
            task::yield_now().await; // as if the task had other work
            writer.write_all(line.as_bytes()).await?;
        }
        io::Result::Ok(())
    });
    say.send("hello\n".to_owned()).await.map_err(io::Error::other)?;
    let mut lines = conn.lines();
    while let Some(line) = lines.next().await? {
        say.send(line + "\n").await.map_err(io::Error::other)?;
    }
    say.send("goodbye\n".to_owned()).await.map_err(io::Error::other)?;
    if ends_with_error { Err(io::Error::other("on purpose")) } else { Ok(()) }
}

#[test]
fn r03_every_goodbye_of_a_writer_task_arrives() {
    for ends_with_error in [false, true] {
        side_by_side(Kind::ALL, move |kind| {
            let (listener, place) = kind.open();
            on_thread(move || {
                task::block_on(async {
                    let body = async |server: Handle| {
                        let mut clients = Vec::new();
                        for _ in 0..50 {
                            clients.push(place.say(b"one\n").await);
                        }
                        until(|| server.connection_count() == 50).await;
                        drop(server.shutdown());
                        for client in &mut clients {
                            assert_eq!(rest(client).await, "hello\none\ngoodbye\n", "{kind:?}");
                        }
                        Ok(())
                    };
                    let server = Server::new(listener).task_grace(FOR_EVER).grace(None);
                    let (_, report) = server.scope(move |conn| member(conn, ends_with_error), body).await.unwrap();
                    let ends = if ends_with_error { report.failed() } else { report.completed() };
                    assert_eq!((ends, report.undelivered()), (50, 0), "{kind:?}: {report}");
                });
            });
        });
    }
}

#[test]
fn r03_a_read_of_a_task_gives_eof_when_the_handler_has_returned() {
    for_every_kind(async |server, place| {
        let (state, seen) = bounded(1);
        let handler = move |conn: Connection| {
            let state = state.clone();
            async move {
                let mut reader = conn.clone();
                conn.spawn(async move {
                    let read = reader.read(&mut [0; 8]).await; // waits, alone
                    let again = reader.read(&mut [0; 8]).await;
                    let info = reader.server().connections();
                    reader.write_all(b"last words").await?;
                    state.send((read?, again?, info[0].state())).await.map_err(io::Error::other)
                });
                task::sleep(Duration::from_millis(50)).await; // until the task waits
            }
        };
        let body = async |_: Handle| {
            let mut client = place.connect().await?;
            Ok((rest(&mut client).await, seen.recv().await?))
        };
        let ((text, seen), report) = server.task_grace(FOR_EVER).scope(handler, body).await.unwrap();
        assert_eq!((text.as_str(), seen), ("last words", (0, 0, ConnectionState::Finishing)));
        assert_eq!((report.completed(), report.undelivered()), (1, 0), "{report}");
    });
}

#[test]
fn r03_a_task_that_never_ends_is_cut_after_the_task_grace_and_logged_once() {
    let logs = logs::remember();
    test(async move {
        let live = Live::default();
        let grace = Duration::from_millis(200);
        let server = bind().await.task_grace(grace).grace(FOR_EVER);
        let clients: Vec<_> = (0..5).map(|_| connect(server.local_addr())).collect();
        let (started, has_started) = bounded(8);
        let handler = {
            let live = live.clone();
            move |mut conn: Connection| {
                let (guard, started) = (live.guard(), started.clone());
                async move {
                    let mut heart = conn.clone();
                    let line = line!() + 1;
                    conn.spawn_named("heartbeat", async move {
                        let _guard = guard;
                        while heart.write_all(b"+").await.is_ok() {
                            task::sleep(Duration::from_millis(5)).await;
                        }
                    });
                    started.send(line).await.unwrap();
                    conn.read(&mut [0]).await.map(drop)
                }
            }
        };
        let body = async |_: Handle| {
            let mut line = 0;
            for client in &clients {
                line = has_started.recv().await?;
                client.shutdown(std::net::Shutdown::Write)?;
            }
            Ok((Instant::now(), line))
        };
        let ((start, line), report) = server.scope(handler, body).await.unwrap();
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
        assert_eq!((report.completed(), report.undelivered(), live.count()), (5, 5, 0), "{report}");
        assert!(report.to_string().contains("; 5 undelivered"), "{report}");
        let lines = logs.lines_with("the task `heartbeat` of connection");
        assert_eq!(lines.len(), 1, "one log line for the line of code that spawns the tasks: {lines:?}");
        let at = format!("r03_last_words.rs:{line}:");
        assert!(lines[0].0 == log::Level::Warn && lines[0].1.contains(&at), "{at}: {lines:?}");
    });
}

#[test]
fn r03_join_tasks_waits_longer_than_the_task_grace() {
    for_every_kind(async |server, place| {
        let handler = |conn: Connection| async move {
            conn.join_tasks().await; // there are none
            for part in [b"one ".as_slice(), b"two ", b"six"] {
                let mut writer = conn.clone();
                conn.spawn(async move {
                    task::sleep(Duration::from_millis(50)).await;
                    writer.write_all(part).await
                });
            }
            conn.spawn_background(pending::<()>());
            conn.join_tasks().await;
        };
        let body = async |_: Handle| Ok(rest(&mut place.connect().await?).await.len());
        let (read, report) = server.task_grace(Duration::ZERO).scope(handler, body).await.unwrap();
        assert_eq!((read, report.completed(), report.undelivered()), (11, 1, 0), "{report}");
    });
}

#[test]
fn r03_join_tasks_also_waits_for_tasks_that_are_spawned_during_the_wait() {
    test(async {
        let handler = |conn: Connection| async move {
            let parent = conn.clone();
            conn.spawn(async move {
                let mut child = parent.clone();
                parent.spawn(async move {
                    task::sleep(Duration::from_millis(20)).await;
                    child.write_all(b"child").await
                });
            });
            conn.join_tasks().await;
        };
        let server = bind().await.task_grace(Duration::ZERO);
        let mut client = connect(server.local_addr());
        let body = async |_: Handle| Ok(task::spawn_blocking(move || crate::support::rest(&mut client)).await);
        let (text, _) = server.scope(handler, body).await.unwrap();
        assert_eq!(text, "child");
    });
}

#[test]
fn r03_a_background_task_ends_with_its_handler() {
    for_every_kind(async |server, place| {
        let live = Live::default();
        let handler = {
            let live = live.clone();
            move |mut conn: Connection| {
                let guard = live.guard();
                async move {
                    conn.spawn_background(async move {
                        let _guard = guard;
                        pending::<()>().await;
                    });
                    conn.write_all(b"done").await
                }
            }
        };
        let body = async |server: Handle| {
            let start = Instant::now();
            assert_eq!(rest(&mut place.connect().await?).await, "done");
            until(|| server.connection_count() == 0).await;
            assert!(live.count() == 0 && start.elapsed() < Duration::from_secs(30));
            Ok(())
        };
        let (_, report) = server.task_grace(FOR_EVER).scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), report.undelivered()), (1, 0), "{report}");
    });
}

#[test]
fn r03_the_task_grace_ends_at_the_deadline_at_a_cancel_and_at_a_drop() {
    for how in ["deadline", "cancel", "drop"] {
        test(async move {
            let live = Live::default();
            let grace = if how == "deadline" { Duration::from_millis(300) } else { FOR_EVER };
            let server = bind().await.task_grace(FOR_EVER).grace(grace);
            let handle = server.handle();
            let mut client = connect(server.local_addr());
            let (returns, has_returned) = bounded(1);
            let handler = {
                let live = live.clone();
                move |conn: Connection| {
                    let (guard, returns) = (live.guard(), returns.clone());
                    async move {
                        conn.spawn(async move {
                            let _guard = guard;
                            pending::<()>().await;
                        });
                        returns.send(()).await.unwrap();
                    }
                }
            };
            let serving = task::spawn(server.serve(handler));
            has_returned.recv().await.unwrap();
            until(|| handle.connections().iter().all(|info| info.state() == ConnectionState::Finishing)).await;
            let report = match how {
                "deadline" => handle.shutdown().await,
                "cancel" => handle.cancel().await,
                _ => {
                    serving.cancel().await;
                    assert_eq!(live.count(), 0);
                    handle.closed().await
                }
            };
            assert_eq!((live.count(), report.completed(), report.undelivered()), (0, 1, 1), "{how}: {report}");
            assert_eq!(crate::support::rest(&mut client), "");
        });
    }
}

#[test]
fn r03_after_a_panic_or_without_a_task_grace_tasks_are_cut_at_once() {
    for panics in [true, false] {
        test(async move {
            let live = Live::default();
            let server = bind().await.task_grace(if panics { FOR_EVER } else { Duration::ZERO });
            let mut client = connect(server.local_addr());
            let handler = {
                let live = live.clone();
                move |conn: Connection| {
                    let guard = live.guard();
                    async move {
                        conn.spawn(async move {
                            let _guard = guard;
                            pending::<()>().await;
                        });
                        assert!(!panics, "on purpose: no last words");
                    }
                }
            };
            let body = async |server: Handle| {
                let text = task::spawn_blocking(move || crate::support::rest(&mut client)).await;
                until(|| server.connection_count() == 0).await;
                assert_eq!((text.as_str(), live.count()), ("", 0));
                Ok(())
            };
            let (_, report) = server.scope(handler, body).await.unwrap();
            assert_eq!((report.panicked(), report.completed()), (u64::from(panics), u64::from(!panics)), "{report}");
            assert_eq!(report.undelivered(), u64::from(!panics), "counted only after an orderly end: {report}");
        });
    }
}

#[test]
fn r03_after_the_handler_no_task_starts_and_after_the_last_task_no_clone_reads_or_writes() {
    for_every_kind(async |server, place| {
        let (send, receive) = bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let mut writer = conn.clone();
                conn.spawn(async move {
                    let refused = loop {
                        task::yield_now().await;
                        if writer.read(&mut [0]).await.is_ok_and(|n| n == 0) {
                            break writer.spawn(async {}).await.unwrap_err();
                        }
                    };
                    writer.write_all(b"words").await.unwrap();
                    send.send((refused.is_cancelled(), writer)).await.unwrap();
                });
            }
        };
        let body = async |_: Handle| {
            let mut client = place.connect().await?;
            let (refused, mut clone) = receive.recv().await?;
            let text = rest(&mut client).await;
            let error = clone.write_all(b"more").await.unwrap_err();
            assert_eq!((refused, text.as_str(), error.kind()), (true, "words", ErrorKind::BrokenPipe));
            assert_eq!(clone.read(&mut [0]).await?, 0);
            Ok(())
        };
        server.task_grace(FOR_EVER).scope(handler, body).await.unwrap();
    });
}

#[test]
fn r03_a_background_task_of_the_server_delays_no_drain_and_is_gone_at_the_close() {
    test(async {
        let live = Live::default();
        let server = bind().await.grace(FOR_EVER);
        let client = connect(server.local_addr());
        let guard = live.guard();
        let handle = server.handle();
        handle.spawn_background(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        let (seen, was_seen) = bounded(1);
        let handler = {
            let live = live.clone();
            move |conn: Connection| {
                let (seen, live) = (seen.clone(), live.clone());
                async move {
                    conn.server().until_draining(pending::<()>()).await;
                    task::sleep(Duration::from_millis(30)).await;
                    seen.send(live.count()).await.unwrap(); // the task lives as long as a connection is open
                }
            }
        };
        let body = async |server: Handle| until(|| server.connection_count() == 1).await;
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!((was_seen.recv().await, live.count(), report.completed()), (Ok(1), 0, 1), "{report}");
        assert!(handle.spawn_background(async {}).await.unwrap_err().is_cancelled());
        drop(client);
    });
}

#[test]
fn r03_the_background_tasks_of_a_server_that_never_serves_end_with_its_drop() {
    test(async {
        let live = Live::default();
        let server = bind().await;
        let guard = live.guard();
        server.handle().spawn_background(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        drop(server);
        assert_eq!(live.count(), 0);
    });
}

#[test]
fn r03_a_task_that_panics_costs_neither_the_reply_nor_the_last_bytes_of_other_tasks() {
    for_every_kind(async |server, place| {
        let handler = |mut conn: Connection| async move {
            // The ends of these channels are dropped with the handler, and with the task that panics.
            let (_returned, has_returned) = bounded::<()>(1);
            let (panicked, has_panicked) = bounded::<()>(1);
            let mut writer = conn.clone();
            conn.spawn(async move {
                has_panicked.recv().await.unwrap_err();
                writer.write_all(b" goodbye").await
            });
            drop(conn.spawn(async move {
                let _panicked = panicked;
                has_returned.recv().await.unwrap_err();
                panic!("a last word of a task that is not awaited");
            }));
            let _kept_to_the_end = conn.spawn(async { panic!("a task whose handle is dropped with the handler") });
            conn.read_exact(&mut [0]).await?;
            conn.write_all(b"reply").await
        };
        let body = async |_: Handle| {
            let mut client = place.say(b"! and what is not read").await;
            Ok(rest(&mut client).await)
        };
        let (text, report) = server.task_grace(FOR_EVER).scope(handler, body).await.unwrap();
        assert_eq!((text.as_str(), report.completed(), report.undelivered()), ("reply goodbye", 1, 0), "{report}");
    });
}

#[test]
fn r03_a_task_in_peer_closed_ends_when_the_handler_has_returned() {
    for_every_kind(async |server, place| {
        let handler = |mut conn: Connection| async move {
            let watcher = conn.clone();
            conn.spawn(async move { watcher.peer_closed().await });
            conn.read_exact(&mut [0]).await?;
            conn.write_all(b"reply").await
        };
        let body = async |_: Handle| {
            let mut client = place.say(b"!").await;
            Ok(rest(&mut client).await)
        };
        let (text, report) = server.task_grace(FOR_EVER).scope(handler, body).await.unwrap();
        assert_eq!((text.as_str(), report.undelivered()), ("reply", 0), "{report}");
    });
}

#[test]
fn r03_a_task_in_peer_closed_disturbs_no_reader() {
    for_every_kind(async |server, place| {
        let handler = |mut conn: Connection| async move {
            let watcher = conn.clone();
            conn.spawn_background(async move { watcher.peer_closed().await });
            let mut buf = [0; 16];
            loop {
                match conn.read(&mut buf).await? {
                    0 => return Ok::<_, io::Error>(()),
                    n => conn.write_all(&buf[..n]).await?,
                }
            }
        };
        let body = async |server: Handle| {
            let mut client = place.say(b"ping").await;
            for n in 0..500 {
                let mut buf = [0; 4];
                let answer = client.read_exact(&mut buf);
                async_std::future::timeout(NET, answer).await.unwrap_or_else(|_| panic!("no answer to {n}"))?;
                match n {
                    100 => drop(server.shutdown()),
                    499 => break,
                    _ => {}
                }
                client.write_all(b"ping").await?;
            }
            crate::support::ways::close(&mut client).await;
            Ok(())
        };
        let (_, report) = server.grace(FOR_EVER).scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}
