//! What runs in a server, as a tree, and how far a drain has come.

use crate::support::*;
use async_std::task;
use ebbtide::{Connection, Handle, Listener, Phase, Server};
use std::future::{Future as _, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// Returns the line of this file that contains `code`, and no other that does.
fn line_of(code: &str) -> String {
    let code = format!("{code} // here");
    let (line, _) = include_str!("task_tree.rs").lines().enumerate().find(|(_, line)| line.ends_with(&code)).unwrap();
    format!("tests/behaviour/task_tree.rs:{}:", line + 1)
}

#[test]
fn a_tree_shows_connections_and_tasks_with_names_labels_ages_and_the_lines_that_spawned_them() {
    test(async {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).name("echo").max_connections(7).newcomer_time(Duration::ZERO);
        let handler = async |conn: Connection| {
            conn.label("upload\n\u{1b}[2J");
            drop(conn.spawn_background(pending::<()>())); // here
            drop(conn.spawn_named("part", async {
                pending::<()>().await;
            }));
            conn.draining().await;
        };
        let body = async |server: Handle| {
            let clients = (connector.connect().await?, connector.connect().await?);
            server.spawn_background(pending::<()>());
            let reaper = server.spawn_named("reaper", pending::<()>());
            until(|| server.task_tree().to_string().matches("task `part`").count() == 2).await;
            let tree = server.task_tree().to_string();
            reaper.cancel();
            drop(clients);
            Ok(tree)
        };
        let (tree, _) = server.scope(handler, body).await.unwrap();
        let lines: Vec<_> = tree.lines().collect();
        assert_eq!(
            lines[0], "`echo` on memory: serving, ready, 2 of 7 connections; 1 task, 1 background task",
            "{tree}"
        );
        assert_eq!(lines.len(), 9, "{tree}");
        for (n, line) in [(0, 1), (1, 4)] {
            let connection = format!("├─ connection {n} from memory:{n} (`upload\\n\\u{{1b}}[2J`), serving, ");
            assert!(lines[line].starts_with(&connection), "{tree}");
            assert!(lines[line + 1].starts_with("│  ├─ task `part` at tests/behaviour/task_tree.rs:"), "{tree}");
            let background =
                format!("│  └─ background task at {}", line_of("drop(conn.spawn_background(pending::<()>()));"));
            assert!(lines[line + 2].starts_with(&background), "{tree}");
        }
        assert!(lines[7].starts_with("├─ task `reaper` at tests/behaviour/task_tree.rs:"), "{tree}");
        assert!(lines[8].starts_with("└─ background task at tests/behaviour/task_tree.rs:"), "{tree}");
        assert!(lines[1..].iter().all(|line| line.contains(" old")), "{tree}");
    });
}

#[test]
fn a_tree_shows_the_tasks_that_outlive_their_handler() {
    test(async {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).task_grace(FOR_EVER);
        let handler = async |conn: Connection| drop(conn.spawn_named("last words", pending::<()>()));
        let body = async |server: Handle| {
            let _client = connector.connect().await?;
            until(|| server.task_tree().to_string().contains(", finishing, ")).await;
            let tree = server.task_tree().to_string();
            server.cancel();
            Ok(tree)
        };
        let (tree, _) = server.scope(handler, body).await.unwrap();
        assert!(tree.contains("   └─ task `last words` at "), "{tree}");
    });
}

#[test]
fn a_tree_of_many_connections_and_tasks_has_the_oldest_and_the_number_of_the_others() {
    test(async {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).newcomer_time(Duration::ZERO).max_connections(usize::MAX);
        let ready = Arc::new(AtomicUsize::new(0));
        let handlers = Arc::clone(&ready);
        let handler = move |conn: Connection| {
            for _ in 0..21 {
                conn.spawn_background(pending::<()>());
            }
            handlers.fetch_add(1, Ordering::Relaxed); // the state `Serving` may be seen before its tasks
            async move { conn.draining().await }
        };
        let body = async |server: Handle| {
            let mut clients = Vec::new();
            for _ in 0..230 {
                clients.push(connector.connect().await?);
            }
            for _ in 0..203 {
                server.spawn_background(pending::<()>());
            }
            until(|| ready.load(Ordering::Relaxed) == 230).await;
            // The first ten have gone: the oldest that are left are listed, whichever place they have in a table.
            clients.drain(..10);
            for info in &server.connections()[..10] {
                server.drain_connection(info.id());
            }
            until(|| server.connection_count() == 220).await;
            for _ in 0..10 {
                clients.push(connector.connect().await?);
            }
            until(|| ready.load(Ordering::Relaxed) == 240).await;
            Ok(server.task_tree().to_string())
        };
        let (tree, _) = server.scope(handler, body).await.unwrap();
        assert!(tree.starts_with("memory: serving, ready, 230 connections; 203 background tasks\n"), "{tree}");
        let listed: Vec<_> = tree.lines().filter_map(|line| line.strip_prefix("├─ connection ")).collect();
        assert_eq!(listed.len(), 200);
        for (n, line) in listed.iter().enumerate() {
            assert!(line.starts_with(&format!("{} from ", n + 10)), "{line}");
        }
        assert!(tree.contains("\n├─ … and 30 more connections\n"), "{tree}");
        assert_eq!(tree.matches("\n│  └─ … and 1 more task\n").count(), 200, "{tree}");
        assert!(tree.ends_with("\n└─ … and 3 more tasks\n"), "{tree}");
    });
}

#[test]
fn a_drain_is_shown_with_what_is_left_and_its_limit() {
    test(async {
        let server = bind().await.grace(FOR_EVER).newcomer_time(Duration::ZERO);
        let (handlers, handle) = (Handlers::new(), server.handle());
        let _stubborn = order(server.local_addr(), STUBBORN);
        let _polite = order(server.local_addr(), POLITE);
        assert!(handle.drain_progress().is_none());
        assert!(handle.task_tree().to_string().contains(": bound, not ready, 0 of "), "{}", handle.task_tree());
        let observer = async {
            handlers.started(2).await;
            let task = handle.spawn(pending::<()>());
            let closed = handle.shutdown();
            handle.reached(Phase::Draining).await;
            until(|| handle.connection_count() == 1).await;
            let (drain, tree) = (handle.drain_progress().unwrap(), handle.task_tree().to_string());
            assert_eq!((drain.connections_at_start(), drain.connections_left(), drain.tasks_left()), (2, 1, 1));
            assert!(drain.elapsed() < NET && drain.limit().is_some_and(|limit| limit <= FOR_EVER), "{drain:?}");
            assert!(drain.to_string().starts_with("1 of 2 connections and 1 task left, "), "{drain}");
            // On a busy machine the drain begins some time after the request, from which the limit counts.
            assert!([" of 1h 0m", " of 59m 59s"].iter().any(|end| drain.to_string().ends_with(end)), "{drain}");
            assert!(tree.contains(": draining, not ready, 1 of 2 connections and 1 task left, "), "{tree}");
            task.cancel();
            drop(closed);
            handle.cancel().await;
        };
        let serving = task::spawn(server.serve(handlers.handler()));
        observer.await;
        serving.await.unwrap();
        let drain = handle.drain_progress().unwrap();
        assert_eq!((drain.connections_left(), drain.tasks_left()), (0, 0));
        assert!(handle.task_tree().to_string().contains(": closed, not ready, 0 of "), "{}", handle.task_tree());
    });
}

/// The progress was noted after those who waited for the phase had been woken, so `drain_progress().expect(…)` behind
/// `reached(Phase::Draining)`, as its example has it, could panic.
#[test]
fn a_drain_has_its_progress_as_soon_as_its_phase_is_seen() {
    struct Looks(Handle, Mutex<Vec<(Phase, bool)>>);
    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push((self.0.phase(), self.0.drain_progress().is_some()));
        }
    }

    test(async {
        let server = bind().await;
        let looks = Arc::new(Looks(server.handle(), Mutex::default()));
        let waker = Waker::from(Arc::clone(&looks));
        let mut draining = looks.0.reached(Phase::Draining);
        let mut wait = || assert!(Pin::new(&mut draining).poll(&mut Context::from_waker(&waker)).is_pending());
        server.scope(async |_: Connection| {}, async |_| wait()).await.unwrap();
        let seen = looks.1.lock().unwrap().clone();
        assert!(
            !seen.is_empty() && seen.iter().all(|(phase, drains)| *drains == (*phase >= Phase::Draining)),
            "{seen:?}"
        );
    });
}

#[test]
fn a_server_that_is_cancelled_never_drains() {
    test(async {
        let server = bind().await;
        let handle = server.handle();
        let serving = task::spawn(server.serve(async |conn: Connection| conn.draining().await));
        handle.reached(Phase::Serving).await;
        handle.cancel().await;
        serving.await.unwrap();
        assert!(handle.drain_progress().is_none());
    });
}
