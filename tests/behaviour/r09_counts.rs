//! R9 while the server runs: `Handle::counts` has every number of the report, by the reason for which a connection
//! ended, and how many of the open connections are in each state.

use crate::support::*;
use async_std::channel::bounded;
use async_std::prelude::*;
use ebbtide::{Connection, ConnectionId, ConnectionState, EndReason, Handle, Server};
use std::future::pending;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::pin::Pin;
use std::time::Duration;

type Handler = fn(Connection) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

const SHORT: Duration = Duration::from_millis(20);

/// One way for a connection to end: the server's settings, the handler, and what happens when the client has connected.
struct Case {
    reason: EndReason,
    set: fn(Server) -> Server,
    handler: Handler,
    act: fn(&Handle, &TcpStream),
}

fn cases() -> Vec<Case> {
    let waits: Handler = |_| Box::pin(pending());
    let same: fn(Server) -> Server = |server| server;
    let nothing: fn(&Handle, &TcpStream) = |_, _| {};
    vec![
        Case { reason: EndReason::Completed, set: same, handler: |_| Box::pin(async { Ok(()) }), act: nothing },
        Case {
            reason: EndReason::Failed,
            set: same,
            handler: |_| Box::pin(async { Err(io::Error::other("its own")) }),
            act: nothing,
        },
        Case {
            reason: EndReason::Panicked,
            set: same,
            handler: |_| Box::pin(async { panic!("it panics") }),
            act: nothing,
        },
        Case {
            reason: EndReason::TaskPanicked,
            set: same,
            handler: |conn| {
                drop(conn.spawn(async { panic!("a task panics") }));
                Box::pin(pending())
            },
            act: nothing,
        },
        Case {
            reason: EndReason::Disconnected,
            set: same,
            handler: |mut conn| Box::pin(async move { conn.read_exact(&mut [0]).await }),
            act: |_, client| client.shutdown(std::net::Shutdown::Write).unwrap(),
        },
        Case {
            reason: EndReason::BadInput,
            set: same,
            handler: |conn| Box::pin(async move { conn.lines().next().await.map(drop) }),
            act: |_, mut client| client.write_all(b"\xff\n").unwrap(),
        },
        Case { reason: EndReason::IdleTimeout, set: |server| server.idle_timeout(SHORT), handler: waits, act: nothing },
        Case {
            reason: EndReason::WriteTimeout,
            set: |server| server.write_timeout(SHORT),
            handler: |mut conn| Box::pin(async move { conn.write_all(&vec![0; 16 << 20]).await }),
            act: nothing,
        },
        Case {
            reason: EndReason::FirstByteTimeout,
            set: |server| server.first_byte_timeout(SHORT),
            handler: waits,
            act: nothing,
        },
        Case {
            reason: EndReason::CancelledById,
            set: same,
            handler: waits,
            act: |server, _| assert!(server.cancel_connection(first(server))),
        },
        Case {
            reason: EndReason::DrainedById,
            set: |server| server.grace(SHORT),
            handler: waits,
            act: |server, _| assert!(server.drain_connection(first(server))),
        },
        Case {
            reason: EndReason::Age,
            set: |server| server.grace(SHORT).max_connection_age(SHORT),
            handler: waits,
            act: nothing,
        },
    ]
}

fn first(server: &Handle) -> ConnectionId {
    server.connections()[0].id()
}

#[test]
fn r09_each_end_of_a_connection_is_counted_by_its_reason_while_the_server_runs() {
    for Case { reason, set, handler, act } in cases() {
        test(async move {
            let server = set(bind().await);
            let client = connect(server.local_addr());
            let body = async |server: Handle| {
                // A connection that ends by itself may be closed already.
                until(|| server.connection_count() == 1 || server.counts().ended(reason) == 1).await;
                act(&server, &client);
                until(|| server.counts().ended(reason) == 1 && server.connection_count() == 0).await;
                Ok(server.counts())
            };
            let (counts, report) = server.scope(handler, body).await.unwrap();
            for (other, number) in counts.by_reason() {
                assert_eq!(number, u64::from(other == reason), "{reason}: {other} of {counts}");
            }
            let buckets = [
                counts.completed(),
                counts.failed(),
                counts.panicked(),
                counts.disconnected(),
                counts.rejected(),
                counts.cancelled(),
            ];
            assert_eq!((counts.accepted(), buckets.iter().sum::<u64>()), (1, 1), "{reason}: {counts}");
            assert_adds_up(&report);
            assert_eq!(report.counts().ended(reason), 1, "{report}");
            assert!(report.cancelled_connections().is_empty(), "{reason}: the exit must not cut any connection");
        });
    }
}

#[test]
fn r09_connections_that_the_exit_cuts_are_counted_as_shutdown_and_the_last_counts_stay() {
    test(async {
        let server = bind().await.grace(Duration::ZERO);
        let handle = server.handle();
        let _client = connect(server.local_addr());
        let body = async |server: Handle| {
            until(|| server.counts().in_state(ConnectionState::Serving) == 1).await;
            Ok(())
        };
        let ((), report) = server.scope(|_: Connection| pending::<()>(), body).await.unwrap();
        assert_eq!((report.counts().ended(EndReason::Shutdown), report.cancelled_connections().len()), (1, 1));
        assert_eq!(&handle.counts(), report.counts());
    });
}

#[test]
fn r09_open_connections_are_counted_by_state_and_listeners_that_wait_for_a_permit_are_counted() {
    test(async {
        let server = bind().await.max_connections(2).max_connections_per_ip(1).first_byte_timeout(FOR_EVER);
        let (finish, finished) = bounded::<()>(1);
        let mut client = connect(server.local_addr());
        let handler = move |_: Connection| {
            let finished = finished.clone();
            async move {
                let _ = finished.recv().await;
            }
        };
        let body = async |server: Handle| {
            until(|| server.counts().in_state(ConnectionState::Opening) == 1).await;
            assert_eq!((server.counts().open(), server.counts().listeners_at_limit()), (1, 0));
            client.write_all(b"x")?;
            until(|| server.counts().in_state(ConnectionState::Serving) == 1).await;
            // A second client from this address is one too many.
            assert_eq!(rest(&mut connect(server.local_addr())), "");
            let counts = server.counts();
            assert_eq!((counts.refused(), counts.refused_by_address_limit(), counts.accepted()), (1, 1, 1), "{counts}");
            assert!(counts.to_string().ends_with("; 1 refused; 1 open"), "{counts}");
            server.set_max_connections(1);
            until(|| server.counts().listeners_at_limit() == 1).await;
            server.set_max_connections(2);
            until(|| server.counts().listeners_at_limit() == 0).await;
            server.pause();
            until(|| server.counts().listeners_at_limit() == 1).await;
            drop(finish); // the handler returns, but the client has not closed yet
            until(|| server.counts().in_state(ConnectionState::Lingering) == 1).await;
            drop(client);
            until(|| server.counts().open() == 0).await;
            Ok(())
        };
        let ((), report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}
