//! The handlers: each does what its client's request orders.

use super::case::Case;
use super::orders::{echo, escape, fault, groups, leave_tasks, limits, stop};
use super::plan::Order;
use super::witness::{Ended, Witness};
use crate::support::Bomb;
use async_std::{prelude::*, task};
use ebbtide::{BoxError, Connection};
use std::fmt;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub type Work = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
pub type Handler = Box<dyn Fn(Connection) -> Work + Send + Sync>;

/// Bytes of one word of a task.
pub const WORD: &[u8] = b"wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww";

/// A handler's own error.
#[derive(Debug)]
pub struct Ordered;

impl fmt::Display for Ordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as ordered")
    }
}

impl std::error::Error for Ordered {}

/// Whether it is a handler's own error, or contains one.
fn is_ordered(error: &BoxError) -> bool {
    let first: &(dyn std::error::Error + 'static) = error.as_ref();
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<Ordered>())
}

/// Returns a request: the order, the client's number, and the size. What follows depends on the order.
pub fn request(order: Order, client: usize, size: u16) -> Vec<u8> {
    let mut bytes = vec![order as u8, client as u8];
    bytes.extend(size.to_be_bytes());
    match order {
        Order::Echo | Order::HalfPolled => bytes.extend(pattern(client, size)),
        Order::Lines => bytes.extend(lines(client, size).bytes()),
        _ => {}
    }
    bytes
}

/// Returns the whole reply to a request. `None`: nobody knows.
pub fn reply(order: Order, client: usize, size: u16) -> Option<Vec<u8>> {
    Some(match order {
        Order::Lines => lines(client, size).into_bytes(),
        Order::Tasks => [pattern(client, size), WORD.repeat(writers(size))].concat(),
        Order::Polite => b"bye".to_vec(),
        _ if order.answers() => pattern(client, size),
        _ => return None,
    })
}

fn pattern(client: usize, size: u16) -> Vec<u8> {
    (0..usize::from(size)).map(|n| (n * 7 + client + n / 251) as u8).collect()
}

fn lines(client: usize, size: u16) -> String {
    (0..size % 50).map(|n| format!("line {n} of client {client}\n")).collect()
}

fn writers(size: u16) -> usize {
    usize::from(size % 4)
}

/// Returns the handler of a case.
pub fn handler(case: &Case, witness: &Arc<Witness>) -> Handler {
    let witness = Arc::clone(witness);
    let http = case.http.then(|| super::http::handler(&witness)).flatten();
    Box::new(move |conn| {
        let mut probe = witness.begin(&conn);
        let mut work = match &http {
            Some(http) => http(conn),
            None => Box::pin(obey(conn, Arc::clone(&witness))),
        };
        Box::pin(poll_fn(move |cx| {
            probe.poll(
                || work.as_mut().poll(cx),
                |result| match result {
                    Ok(()) => Ended::Ok,
                    Err(error) if is_ordered(error) => Ended::Failed,
                    Err(_) => Ended::StreamFailed,
                },
            )
        }))
    })
}

async fn obey(conn: Connection, witness: Arc<Witness>) -> Result<(), BoxError> {
    let mut head = [0; 4];
    let Some(read) = conn.until_draining((&conn).read_exact(&mut head)).await else { return Ok(()) };
    read?;
    let [order, client, size @ ..] = head;
    let (client, size) = (usize::from(client), u16::from_be_bytes(size));
    let Some(order) = Order::of(order) else { return Ok(()) };
    witness.serves(&conn, client);
    let answer = pattern(client, size);
    let _guard = witness.live.guard();
    match order {
        Order::Reply => (&conn).write_all(&answer).await?,
        Order::Echo => echo(&conn, size, false).await?,
        Order::HalfPolled => echo(&conn, size, true).await?,
        Order::Lines => {
            let mut lines = conn.lines();
            while let Some(line) = lines.next().await? {
                (&conn).write_all(format!("{line}\n").as_bytes()).await?;
            }
        }
        Order::Tasks => {
            (&conn).write_all(&answer).await?;
            let _last = leave_tasks(&conn, &witness, writers(size));
        }
        Order::Escapes => {
            (&conn).write_all(&answer).await?;
            escape(&conn, &witness);
        }
        Order::Groups => {
            groups(&witness, size).await?;
            (&conn).write_all(&answer).await?;
        }
        Order::Blocks => {
            for _ in 0..3 {
                std::thread::sleep(Duration::from_micros(u64::from(size)));
                task::yield_now().await;
            }
            (&conn).write_all(&answer).await?;
        }
        Order::Polite => {
            conn.until_draining(pending::<()>()).await;
            (&conn).write_all(b"bye").await?;
        }
        Order::Fails => {
            fault(&witness);
            return Err(Ordered.into());
        }
        Order::Panics => {
            fault(&witness);
            panic!("as ordered");
        }
        Order::TaskPanics => {
            fault(&witness);
            let guard = witness.live.guard();
            drop(conn.spawn(async move {
                let _guard = guard;
                panic!("as ordered")
            }));
            pending::<()>().await;
        }
        Order::Stubborn => pending::<()>().await,
        Order::Bomb => {
            let _bomb = Bomb("as ordered: a bomb");
            pending::<()>().await;
        }
        Order::Hoards => {
            escape(&conn, &witness);
            pending::<()>().await;
        }
        Order::Cuts => {
            for (n, other) in conn.server().connections().into_iter().enumerate() {
                match (usize::from(size) + n) % 3 {
                    0 => drop(conn.server().cancel_connection(other.id())),
                    1 => drop(conn.server().drain_connection(other.id())),
                    _ => {}
                }
            }
        }
        Order::Limits => limits(&conn, &witness, size).await,
        Order::Stops => stop(&conn, &witness, size).await,
    }
    Ok(())
}
