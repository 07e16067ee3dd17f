//! R3: when a handler ends, each operation that a clone of its connection waits for ends at once: on every kind of
//! stream, and although the peer keeps its side open.

use crate::support::gate::side_by_side;
use crate::support::on_thread;
use crate::support::ways::Kind;
use async_std::channel::bounded;
use async_std::{prelude::*, task};
use ebbtide::{Connection, Handle, Server};
use std::future::{Future, pending};
use std::pin::Pin;
use std::time::{Duration, Instant};

/// Less than the 2 seconds for which a connection lingers.
const AT_ONCE: Duration = Duration::from_millis(1800);

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

type Wait = (&'static str, fn(Connection) -> Waiting);

const WAITS: [Wait; 7] = [
    ("read", |mut conn| Box::pin(async move { assert_eq!(conn.read(&mut [0]).await.unwrap(), 0) })),
    ("write", |mut conn| Box::pin(async move { while conn.write(&[0; 64 * 1024]).await.is_ok() {} })),
    ("more", |conn| Box::pin(async move { assert!(!conn.more().await.unwrap()) })),
    ("peer_closed", |conn| Box::pin(async move { conn.peer_closed().await })),
    ("until_draining", |conn| Box::pin(async move { assert!(conn.until_draining(pending::<()>()).await.is_none()) })),
    ("draining", |conn| Box::pin(async move { conn.draining().await })),
    ("lines", |conn| Box::pin(async move { assert_eq!(conn.lines().next().await.unwrap(), None) })),
];

#[test]
fn r03_whatever_a_clone_waits_for_ends_at_once_with_the_handler() {
    let all: Vec<_> = Kind::ALL.iter().flat_map(|&kind| WAITS.map(|(name, wait)| (kind, name, wait))).collect();
    side_by_side(&all, |(kind, name, wait)| {
        let (listener, place) = kind.open();
        on_thread(move || {
            task::block_on(async {
                let (send, receive) = bounded(1);
                let handler = move |conn: Connection| {
                    let send = send.clone();
                    async move {
                        let waiting = wait(conn.clone());
                        let detached = task::spawn(async move {
                            waiting.await;
                            Instant::now()
                        });
                        task::sleep(Duration::from_millis(200)).await; // until the clone's task waits, alone
                        send.send((detached, Instant::now())).await.unwrap();
                    }
                };
                let body = async |_: Handle| {
                    let client = place.connect().await?;
                    let (detached, ended) = receive.recv().await?;
                    Ok((detached.await - ended, client))
                };
                let ((took, _client), _) = Server::new(listener).scope(handler, body).await.unwrap();
                assert!(took < AT_ONCE, "{kind:?}, {name}: {took:?}");
            });
        });
    });
}
