//! What handlers do for the orders that are more than a line.

use super::handlers::WORD;
use super::witness::Witness;
use crate::support::dice::lock;
use async_io::Timer;
use async_std::{prelude::*, task};
use ebbtide::{BoxError, Connection, Handle, TaskGroup, TaskSet};
use futures_concurrency::prelude::*;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Under `OnFailure::Shutdown` what follows is a request to stop.
pub fn fault(witness: &Witness) {
    if witness.fault_stops {
        witness.stop();
    }
}

pub async fn echo(mut conn: &Connection, size: u16, half_polled: bool) -> io::Result<()> {
    let (mut left, mut buf) = (usize::from(size), [0; 300]);
    while left > 0 {
        let len = left.min(buf.len());
        let read = async {
            let mut stream = conn;
            stream.read(&mut buf[..len]).await.map(Some)
        };
        let n = if half_polled {
            let gives_up = async {
                task::yield_now().await;
                Ok(None)
            };
            conn.until_draining((read, gives_up).race()).await
        } else {
            conn.until_draining(read).await
        };
        match n.transpose()? {
            None | Some(Some(0)) => return Ok(()),
            Some(None) => {} // it was dropped half-polled: no byte may be lost
            Some(Some(n)) => {
                conn.write_all(&buf[..n]).await?;
                left -= n;
            }
        }
    }
    Ok(())
}

/// Leaves tasks that write last words, that read until EOF, and that never end.
pub fn leave_tasks(conn: &Connection, witness: &Witness, writers: usize) -> Option<ebbtide::JoinHandle<()>> {
    for _ in 0..writers {
        let (guard, clone) = (witness.live.guard(), conn.clone());
        drop(conn.spawn(async move {
            let _guard = guard;
            task::yield_now().await;
            let _ = (&clone).write_all(WORD).await;
        }));
    }
    let (guard, clone) = (witness.live.guard(), conn.clone());
    drop(conn.spawn(async move {
        let _guard = guard;
        while (&clone).read(&mut [0; 16]).await.is_ok_and(|n| n > 0) {}
    }));
    let guard = witness.live.guard();
    Some(conn.spawn_background(async move {
        let _guard = guard;
        pending::<()>().await;
    }))
}

/// Gives a clone away, and another to a task that the server does not know.
pub fn escape(conn: &Connection, witness: &Witness) {
    lock(&witness.escaped).push(conn.clone());
    if let Some(held) = lock(&witness.detached).clone() {
        let clone = conn.clone();
        task::spawn(async move {
            while (&clone).read(&mut [0; 16]).await.is_ok_and(|n| n > 0) {}
            drop(held);
        });
    }
}

/// Nested groups, one joined, the other dropped with children that never end; and a set.
pub async fn groups(witness: &Arc<Witness>, size: u16) -> Result<(), BoxError> {
    let (joined, dropped) = (TaskGroup::new(), TaskGroup::new());
    for n in 0..size % 5 {
        let (live, guard, inner) = (witness.live.clone(), witness.live.guard(), TaskGroup::new());
        joined.spawn(async move {
            let _guard = guard;
            let guard = live.guard();
            inner.spawn(async move {
                let _guard = guard;
                task::yield_now().await;
                Timer::after(Duration::from_millis(u64::from(n % 2))).await;
            });
            inner.join().await;
        });
        let guard = witness.live.guard();
        dropped.spawn(async move {
            let _guard = guard;
            pending::<()>().await;
        });
    }
    let mut set = TaskSet::new().limit(2);
    for n in 0..size % 6 {
        let guard = witness.live.guard();
        set.spawn(async move {
            let _guard = guard;
            task::yield_now().await;
            u32::from(n)
        });
    }
    let mut sum = 0;
    while let Some(n) = set.next().await {
        sum += n?;
    }
    if sum != (0..u32::from(size % 6)).sum::<u32>() {
        witness.violation(format!("the set of {} tasks returned {sum} in all", size % 6));
    }
    joined.join().await;
    Ok(())
}

pub async fn limits(conn: &Connection, witness: &Witness, size: u16) {
    let server = conn.server();
    let limit = server.max_connections() + usize::from(size % 3);
    witness.allow(limit);
    server.set_max_connections(limit);
    if size % 2 == 0 {
        server.pause();
        let _resumes = Resumes(server); // also if this handler is cut
        task::yield_now().await;
    }
}

struct Resumes<'a>(&'a Handle);

impl Drop for Resumes<'_> {
    fn drop(&mut self) {
        self.0.resume();
    }
}

pub async fn stop(conn: &Connection, witness: &Witness, size: u16) {
    witness.stop();
    let closed = match size % 3 {
        0 => conn.server().cancel(),
        1 => conn.server().shutdown(),
        _ => conn.server().shutdown_within(Duration::from_millis(5)),
    };
    if size % 2 == 0 {
        closed.await; // cannot end before this handler does: the deadline ends it
    }
}
