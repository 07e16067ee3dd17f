//! R7: whether an error is the peer's fault or the handler's. An error that the connection's own stream reported is the
//! peer's, however it is wrapped: it is logged at debug, counted apart, and never stops the server. Any other error is
//! the handler's.

use crate::support::logs;
use crate::support::ways::Kind;
use crate::support::*;
use async_std::channel::bounded;
use async_std::io::ReadExt;
use async_std::prelude::*;
use ebbtide::{BoxError, Connection, EndReason, ErrorKind, Handle, OnFailure, Server};
use log::Level;
use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

/// An I/O error as a library wraps it.
#[derive(Debug)]
struct Library(io::Error);

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the library gave up")
    }
}

impl Error for Library {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// An error whose source panics, as any code may.
#[derive(Debug)]
struct Trap;

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a trap")
    }
}

impl Error for Trap {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        panic!("no source")
    }
}

/// An error that is its own cause.
#[derive(Debug)]
struct Circle;

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a circle")
    }
}

impl Error for Circle {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self)
    }
}

/// The ways in which a handler may return an error of its stream.
const WRAPPINGS: [fn(io::Error) -> BoxError; 6] = [
    |error| error.into(),
    |error| Library(error).into(),
    |error| io::Error::other(Library(error)).into(),
    |error| io::Error::other(error).into(),
    |error| Arc::new(error).into(),
    |error| io::Error::new(error.kind(), "made anew").into(),
];

#[test]
fn r07_an_error_of_the_connections_stream_is_the_peers_however_it_is_wrapped() {
    test_alone(async {
        let logs = logs::remember();
        let (reading, is_reading) = bounded(WRAPPINGS.len());
        let server = bind().await.on_failure(OnFailure::Shutdown);
        let address = server.local_addr().clone();
        let handler = move |mut conn: Connection| {
            let reading = reading.clone();
            async move {
                conn.read_exact(&mut [0]).await?;
                reading.send(()).await?;
                let wrap = WRAPPINGS[conn.id().as_u64() as usize];
                conn.read_exact(&mut [0]).await.map_err(wrap)
            }
        };
        let body = async |server: Handle| {
            for _ in WRAPPINGS {
                let mut client = connect(&address);
                client.write_all(b"x")?;
                is_reading.recv().await?;
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
                drop(client); // resets the connection, since the linger time is 0
            }
            until(|| server.counts().disconnected() == WRAPPINGS.len() as u64).await;
            assert!(server.is_serving(), "a peer's fault must not stop the server");
            Ok(())
        };
        let ((), report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.counts().ended(EndReason::Disconnected), WRAPPINGS.len() as u64, "{report}");
        assert_adds_up(&report);
        let closed = logs.lines_with("closed connection ");
        assert_eq!(closed.len(), WRAPPINGS.len(), "{closed:?}");
        assert!(closed.iter().all(|(level, _)| *level == Level::Debug), "{closed:?}");
    });
}

#[test]
fn r07_the_same_error_from_another_source_is_the_handlers() {
    test_alone(async {
        let logs = logs::remember();
        let kinds = [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::TimedOut,
            io::ErrorKind::InvalidData,
        ];
        let errors: Vec<fn(io::ErrorKind) -> BoxError> =
            vec![|kind| io::Error::from(kind).into(), |kind| Library(kind.into()).into(), |_| Trap.into(), |_| {
                Circle.into()
            }];
        let number = kinds.len() * errors.len();
        let server = bind().await;
        let clients: Vec<_> = (0..number).map(|_| connect(server.local_addr())).collect();
        let handler = move |conn: Connection| {
            let (error, kind) = (conn.id().as_u64() as usize / kinds.len(), conn.id().as_u64() as usize % kinds.len());
            let error = errors[error](kinds[kind]);
            async move { Err::<(), _>(error) } // of its database, for example: the connection's stream has no error
        };
        let body = async |server: Handle| {
            until(|| server.counts().failed() == number as u64).await;
            Ok(())
        };
        let ((), report) = server.scope(handler, body).await.unwrap();
        assert_adds_up(&report);
        let lines = logs.lines_with("the handler of connection ");
        assert!(lines.len() == number && lines.iter().all(|(level, _)| *level == Level::Warn), "{lines:?}");
        drop(clients);

        let server = bind().await.on_failure(OnFailure::Shutdown);
        let _client = connect(server.local_addr());
        let handler = async |_: Connection| Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(server.serve(handler).await.unwrap_err().kind(), ErrorKind::Handler);
    });
}

/// `read_exact` turns an early EOF into an error.
#[test]
fn r07_eof_in_the_middle_of_a_message_is_the_peers_fault_on_every_kind_of_stream() {
    for &kind in Kind::ALL {
        test(async move {
            let (listener, place) = kind.open();
            let server = Server::new(listener).on_failure(OnFailure::Shutdown);
            let body = async |server: Handle| {
                let mut client = place.connect().await?;
                client.write_all(b"x").await?;
                std::future::poll_fn(|cx| client.as_mut().poll_close(cx)).await?;
                until(|| server.counts().ended(EndReason::Disconnected) == 1).await;
                Ok(())
            };
            let handler = async |mut conn: Connection| conn.read_exact(&mut [0; 2]).await;
            let ((), report) = server.scope(handler, body).await.unwrap();
            assert_eq!((report.accepted(), report.disconnected()), (1, 1), "{kind:?}: {report}");
        });
    }
}

#[test]
fn r07_malformed_input_is_the_peers_fault() {
    test(async {
        let handlers: [fn(Connection) -> BoxFuture; 3] = [
            |conn| Box::pin(async move { conn.lines().max_len(4).next().await.map(drop) }),
            |conn| Box::pin(async move { conn.lines().next().await.map(drop) }),
            |conn| Box::pin(async move { conn.frames().max_len(4).next().await.map(drop) }),
        ];
        for (handler, input) in
            handlers.into_iter().zip([b"too long\n" as &[u8], b"\xff\xff\xff\n_____", b"\xff\xff\xff\xff_____"])
        {
            let server = bind().await.on_failure(OnFailure::Shutdown);
            let mut client = connect(server.local_addr());
            let body = async |server: Handle| {
                client.write_all(input)?;
                until(|| server.counts().ended(EndReason::BadInput) == 1).await;
                Ok(())
            };
            let ((), report) = server.scope(handler, body).await.unwrap();
            assert_eq!((report.accepted(), report.disconnected()), (1, 1), "{report}");
        }
    });
}

type BoxFuture = std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// A library that does not handle drains reports the drain's EOF as an error if it waits for a message.
#[test]
fn r07_the_eof_that_a_drain_gives_is_not_the_handlers_fault() {
    test(async {
        let server = bind().await;
        let client = connect(server.local_addr());
        let handler = async |conn: Connection| conn.eof_on_drain().read_exact(&mut [0]).await;
        let body = async |server: Handle| {
            until(|| server.connection_count() == 1).await;
            Ok(())
        };
        let ((), report) = server.newcomer_time(Duration::ZERO).scope(handler, body).await.unwrap();
        assert_eq!((report.disconnected(), report.failed()), (1, 0), "{report}");
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// A parser of the handler's own says which input is not valid.
#[test]
fn r07_bad_input_that_a_handler_finds_is_the_peers_fault() {
    test(async {
        let logs = logs::remember();
        let server = bind().await;
        let mut client = connect(server.local_addr());
        let peer = client.local_addr().unwrap();
        let handler = async |mut conn: Connection| {
            conn.read_exact(&mut [0]).await?;
            io::Result::Err(io::Error::other(conn.bad_input("no such\nversion"))) // wrapped by a library
        };
        let body = async |server: Handle| {
            client.write_all(b"?")?;
            until(|| server.counts().ended(EndReason::BadInput) == 1).await;
            Ok(())
        };
        let ((), report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.disconnected(), report.failed()), (1, 0), "{report}");
        let lines = logs.lines_with(&format!("peer={peer}"));
        assert!(lines.iter().any(|(_, line)| line.contains(r"no such\nversion")), "{lines:?}");
        assert!(lines.iter().all(|(level, _)| *level >= Level::Debug), "{lines:?}");
    });
}
