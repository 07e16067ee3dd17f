//! Large futures of handlers, tasks and bodies: they hold an array across an await.
//!
//! A move of a future copies it, and an unoptimised program copies it onto the stack in each function that it passes. A
//! handler with 128 KiB once overflowed the 2 MiB stack of an executor's thread, which ends the process. So each test
//! runs in a process of its own.

use crate::support::executor::alone_with_threads;
use crate::support::*;
use async_std::prelude::*;
use async_std::{io, task};
use ebbtide::{Connection, Handle, JoinHandle, TaskGroup, TaskSet};
use std::future::Future;
use std::hint::black_box;
use std::io::{Read, Write};

const KIB: usize = 1024;
/// The size that the documentation of `Server::serve` promises to support.
const LARGE: usize = 512 * KIB;

/// Holds this many bytes across an await.
async fn large<const BYTES: usize>() -> usize {
    let mut held = [0_u8; BYTES];
    black_box(&mut held);
    task::yield_now().await;
    held[BYTES - 1] = 1;
    black_box(&mut held).iter().map(|&byte| usize::from(byte)).sum::<usize>() * BYTES
}

/// Handler that echoes through a buffer in its future, an array.
async fn echo_by_array<const BYTES: usize>(mut conn: Connection) -> io::Result<()> {
    let mut buf = [0; BYTES];
    loop {
        let n = conn.read(&mut buf).await?;
        if n == 0 {
            return Ok(());
        }
        conn.write_all(&buf[..n]).await?;
    }
}

/// Serves one client with `handler`, on an executor's thread, which has 2 MiB of stack.
fn echoes<H, F>(handler: H)
where
    H: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    test(async move {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let serving = task::spawn(server.serve(handler));
        client.write_all(b"hello").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = task::spawn_blocking(move || {
            let mut answer = String::new();
            client.read_to_string(&mut answer).map(|_| answer)
        });
        assert_eq!(answer.await.unwrap(), "hello");
        drop(serving);
    });
}

#[test]
fn a_handler_of_512_kib_runs() {
    alone_with_threads(1, || echoes(echo_by_array::<LARGE>));
}

/// A future that is not boxed is copied, so it must fit onto the stack several times.
#[test]
fn a_handler_of_15_kib_which_is_not_boxed_runs() {
    alone_with_threads(1, || echoes(echo_by_array::<{ 15 * KIB }>));
}

#[test]
fn tasks_of_512_kib_run() {
    // Each spawn is in a function of its own: its stack holds the future until it is spawned.
    const SPAWNS: [fn(&TaskGroup) -> JoinHandle<usize>; 4] = [
        |group| group.spawn(large::<LARGE>()),
        |group| group.spawn_named("large", large::<LARGE>()),
        |group| group.spawner().spawn(large::<LARGE>()),
        |group| group.spawner().spawn_named("large", large::<LARGE>()),
    ];
    fn spawn_in_set(set: &mut TaskSet<usize>) {
        set.spawn(large::<LARGE>());
    }
    alone_with_threads(1, || {
        test(async {
            // Spawns on an executor's thread, as most programs do.
            let spawned = task::spawn(async {
                let group = TaskGroup::new();
                for spawn in SPAWNS {
                    assert_eq!(spawn(&group).await.unwrap(), LARGE);
                }
                let mut set = TaskSet::new().limit(1);
                (0..2).for_each(|_| spawn_in_set(&mut set));
                while let Some(result) = set.next().await {
                    assert_eq!(result.unwrap(), LARGE);
                }
            });
            spawned.await;
        });
    });
}

#[test]
fn tasks_of_512_kib_of_a_server_and_of_a_connection_run() {
    const SPAWNS: [fn(&Connection, &Handle) -> JoinHandle<usize>; 6] = [
        |conn, _| conn.spawn(large::<LARGE>()),
        |conn, _| conn.spawn_named("large", large::<LARGE>()),
        |conn, _| conn.spawn_background(large::<LARGE>()),
        |_, server| server.spawn(large::<LARGE>()),
        |_, server| server.spawn_named("large", large::<LARGE>()),
        |_, server| server.spawn_background(large::<LARGE>()),
    ];
    alone_with_threads(1, || {
        test(async {
            let server = bind().await;
            let mut client = connect(server.local_addr());
            let handler = async |conn: Connection| -> io::Result<()> {
                for spawn in SPAWNS {
                    assert_eq!(spawn(&conn, conn.server()).await?, LARGE);
                }
                (&conn).write_all(b"done").await
            };
            let body = async move |_: Handle| {
                let answer = task::spawn_blocking(move || {
                    let mut answer = String::new();
                    client.read_to_string(&mut answer).map(|_| answer)
                });
                Ok(answer.await?)
            };
            let (answer, report) = server.scope(handler, body).await.unwrap();
            assert_eq!(answer, "done", "{report}");
        });
    });
}

#[test]
fn a_body_of_512_kib_runs_and_its_scope_is_small() {
    alone_with_threads(1, || {
        test(async {
            let server = bind().await;
            let scope = server.scope(async |_: Connection| {}, async |_: Handle| Ok(large::<LARGE>().await));
            assert!(size_of_val(&scope) < 16 * KIB, "{} bytes", size_of_val(&scope));
            let (held, _) = task::spawn(scope).await.unwrap();
            assert_eq!(held, LARGE);
        });
    });
}
