//! R6, R14: a shutdown that takes long logs the connections and tasks that it waits for, by name, and each line names
//! its server.

use crate::support::executor::alone_with_threads;
use crate::support::*;
use async_std::prelude::*;
use async_std::{channel::bounded, task};
use ebbtide::{Connection, Handle, Server};
use log::Level;
use std::future::pending;
use std::time::Duration;

/// Serves `clients` clients by handlers that never end, and shuts down when all of them run and `before` has run.
async fn stuck(server: Server, clients: usize, before: impl AsyncFnOnce(&Handle)) -> ebbtide::Report {
    let clients: Vec<_> = (0..clients).map(|_| connect(server.local_addr())).collect();
    let (started, has_started) = bounded(64);
    let handler = move |conn: Connection| {
        let started = started.clone();
        async move {
            conn.label("SELECT `x`\n");
            started.send(()).await.unwrap();
            pending::<()>().await;
        }
    };
    let body = async |server: Handle| {
        for _ in &clients {
            has_started.recv().await?;
        }
        before(&server).await;
        Ok(())
    };
    let grace = Duration::from_millis(400);
    let server = server.newcomer_time(Duration::ZERO).grace(grace);
    server.scope(handler, body).await.unwrap().1
}

#[test]
fn r06_a_drain_logs_up_to_ten_connections_that_it_waits_for() {
    let logs = logs::remember();
    test(async move {
        let server = bind().await.name("left over");
        let report = stuck(server, 12, async |server| drop(server.spawn_named("reporter", pending::<()>()))).await;
        assert_eq!(report.cancelled(), 12, "{report}");
        for start in [
            "left over: draining: 12 connections and 1 task left after half of the time: connection 0 from 127.0.0.1:",
            "left over: cancelling 12 connections and 1 task at the end of the grace period: \
             connection 0 from 127.0.0.1:",
        ] {
            let lines = logs.lines_with(start);
            assert!(lines.len() == 1 && lines[0].0 == Level::Warn, "{start}: {lines:?}");
            let line = &lines[0].1;
            assert_eq!(line.matches(" (`SELECT `x`\\n`), serving, ").count(), 10, "{line}");
            assert!(line.contains("; connection 9 from ") && line.contains("; and 3 more"), "{line}");
            #[cfg(target_os = "linux")]
            assert_eq!(line.matches(" old, silent for ").count(), 10, "{line}");
        }
        let cut = &report.cancelled_connections()[0];
        assert_eq!(cut.label(), Some("SELECT `x`\n"));
        assert!(cut.to_string().contains(" (`SELECT `x`\\n`), serving, "), "{cut}");
    });
}

#[test]
fn r06_a_drain_logs_each_task_that_it_waits_for_with_the_line_that_spawned_it() {
    let logs = logs::remember();
    test(async move {
        let server = bind().await.name("with tasks");
        let line = line!() + 2;
        let report = stuck(server, 0, async |server| {
            server.spawn_named("looping", pending::<()>());
            server.spawn(pending::<()>());
        });
        report.await;
        let start = "with tasks: draining: 2 tasks left after half of the time: ";
        let lines = logs.lines_with(start);
        let at = |line| format!("(spawned at {}:{line}:", file!());
        let named = format!("the task `looping` of the server `with tasks` {}", at(line));
        let nameless = format!("a task of the server `with tasks` {}", at(line + 1));
        assert!(lines.len() == 1 && lines[0].1.contains(&named) && lines[0].1.contains(&nameless), "{lines:?}");
    });
}

#[test]
fn r06_a_drain_logs_the_tasks_that_a_connection_waits_for_with_the_lines_that_spawned_them() {
    let logs = logs::remember();
    test(async move {
        let server = bind().await.name("chat").newcomer_time(Duration::ZERO).grace(Duration::from_millis(400));
        let _client = connect(server.local_addr());
        let line = line!() + 2;
        let handler = async |conn: Connection| {
            conn.spawn_named("writer", pending::<()>());
            conn.spawn_background(pending::<()>());
            for _ in 0..4 {
                conn.spawn(pending::<()>());
            }
            conn.join_tasks().await;
        };
        let body = async |server: Handle| until(|| server.task_tree().to_string().matches(file!()).count() == 6).await;
        server.scope(handler, body).await.unwrap();
        let lines = logs.lines_with("chat: draining: 1 connection left after half of the time: connection 0 from ");
        let at = |line| format!(" at {}:{line}:", file!());
        let tasks = [format!("[task `writer`{}", at(line)), format!("; task{}", at(line + 3))];
        let rest = [format!("; background task{}", at(line + 1)), "; … and 3 more tasks]".to_owned()];
        let [(level, text)] = &lines[..] else { panic!("{lines:?}") };
        assert!(*level == Level::Warn && tasks.iter().chain(&rest).all(|part| text.contains(part)), "{text}");
    });
}

#[test]
fn r06_a_drain_logs_the_number_of_connections_before_they_are_notified() {
    let logs = logs::remember();
    test(async move {
        let server = bind().await.name("counted").newcomer_time(Duration::ZERO);
        let clients: Vec<_> = (0..9).map(|_| connect(server.local_addr())).collect();
        let handler = async |conn: Connection| {
            conn.until_draining(pending::<()>()).await;
        };
        let body = async |server: Handle| until(|| server.connection_count() == 9).await;
        server.scope(handler, body).await.unwrap();
        assert_eq!(logs.lines_with("counted: draining 9 connections for at most ").len(), 1);
        drop(clients);
    });
}

#[test]
fn r14_each_log_line_names_its_server() {
    let logs = logs::remember();
    test(async move {
        let (main, health) = (bind().await.name("main door"), bind().await);
        let address = health.local_addr().to_string();
        for server in [main, health] {
            let mut client = connect(server.local_addr());
            let handler = async |_: Connection| Err::<(), _>(std::io::Error::other("which one?"));
            let body = async |_: Handle| Ok(task::spawn_blocking(move || rest(&mut client)).await);
            server.scope(handler, body).await.unwrap();
        }
        for name in ["main door", &address] {
            for text in ["serving on 127.", "the handler of connection ", "closed in "] {
                let lines = logs.lines_with(&format!("{name}: {text}"));
                assert_eq!(lines.len(), 1, "{name}: {text}: {lines:?}");
                assert!(lines[0].1.contains(&format!(" server={name}")), "{lines:?}");
            }
        }
        let failed = logs.lines_with("which one?");
        assert!(failed.len() == 2 && failed.iter().all(|(level, _)| *level == Level::Warn), "{failed:?}");
    });
}

#[test]
fn r14_the_latest_label_counts_and_is_shortened_when_it_is_shown() {
    test(async {
        let (labelled, is_labelled) = bounded(1);
        let handler = move |mut conn: Connection| {
            let labelled = labelled.clone();
            async move {
                conn.label("first");
                conn.label("\u{1b}[31m".to_owned() + &"x".repeat(200));
                labelled.send(()).await.unwrap();
                conn.read(&mut [0]).await.map(drop)
            }
        };
        let server = bind().await;
        let client = connect(server.local_addr());
        let body = async |server: Handle| {
            is_labelled.recv().await?;
            let info = server.connections().remove(0);
            drop(client);
            Ok(info)
        };
        let (info, _) = server.scope(handler, body).await.unwrap();
        assert_eq!(info.label().map(str::len), Some(205));
        let shown = format!(" (`\\u{{1b}}[31m{}…`), ", "x".repeat(95));
        assert!(info.to_string().contains(&shown), "{info}");
    });
}

#[test]
fn r06_a_handler_that_blocks_its_thread_is_logged_with_the_remedy() {
    let body = || {
        let logs = logs::remember();
        test_alone(async move {
            let server = bind().await.name("overrun").newcomer_time(Duration::ZERO).grace(Duration::from_millis(50));
            let client = connect(server.local_addr());
            let peer = client.local_addr().unwrap();
            let (blocks, has_blocked) = bounded(1);
            let handlers_logs = logs.clone();
            let line = format!(
                "which block their threads (work that blocks is for `spawn_blocking`): connection 0 from {peer}"
            );
            let warned = line.clone();
            let handler = move |_: Connection| {
                let (blocks, logs, warned) = (blocks.clone(), handlers_logs.clone(), warned.clone());
                async move {
                    blocks.send(()).await.unwrap();
                    while logs.lines_with(&warned).is_empty() {
                        std::thread::sleep(Duration::from_millis(10)); // blocks the thread, as no handler should
                    }
                    pending::<()>().await;
                }
            };
            let body = async |_: Handle| Ok(has_blocked.recv().await?);
            let (_, report) = server.scope(handler, body).await.unwrap();
            assert_eq!(report.cancelled(), 1, "{report}");
            let lines = logs.lines_with(&line);
            assert!(lines.iter().all(|(level, _)| *level == Level::Warn), "{lines:?}");
            drop(client);
        });
    };
    alone_with_threads(2, body);
}
