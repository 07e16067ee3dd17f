//! HTTP connections whose stream fails: a reset is the peer's fault, and if the system has run out of something it is
//! nobody's.
//!
//! What it found: a client that connected and reset the connection before it had sent a byte counted as `failed`, with a
//! line at warn, and stopped a server under `OnFailure::Shutdown`. A connection for which the system had no memory counted
//! as the peer's fault.
#![cfg(all(feature = "http", unix))]

use crate::support::http::{HttpClient, get, paths};
use crate::support::scripted::{Script, Step};
use crate::support::*;
use async_std::task;
use ebbtide::http::Http;
use ebbtide::{Connection, ConnectionState, Handle, MemoryStream, OnFailure, Server, http};
use futures_lite::{AsyncRead, AsyncWrite, AsyncWriteExt};
use log::Level;
use rustix::io::Errno;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

#[test]
fn r07_a_client_that_resets_is_no_failure_of_the_server() {
    let moments = ["", "GET / HTTP/1.1\r\n", "PRI * HTTP"];
    for (first, only) in moments.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        test(async move {
            let http = if only { Http::new().http1_only() } else { Http::new() };
            let server = bind().await.on_failure(OnFailure::Shutdown);
            let mut client = connect(server.local_addr());
            let mut kept = HttpClient::new(server.local_addr());
            client.write_all(first.as_bytes()).unwrap();
            let body = async |server: Handle| {
                let is_serving = |connection: ebbtide::ConnectionInfo| connection.state() == ConnectionState::Serving;
                until(|| server.connections().into_iter().filter(|it| is_serving(it.clone())).count() == 2).await;
                let kept = task::spawn_blocking(move || {
                    assert_eq!(kept.ask(&get("/a")).unwrap().status(), "200");
                    kept
                });
                let kept = kept.await;
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                drop(client); // resets the connection, since the linger time is 0
                until(|| server.connection_count() == 1).await;
                assert!(server.is_serving(), "{first:?}");
                drop(kept);
            };
            let (_, report) = server.scope(http.handler(paths()), body).await.unwrap();
            assert_eq!((report.failed(), report.accepted()), (0, 2), "{first:?}: {report}");
        });
    }
}

/// Stream that fails once so many bytes were read, or at the first write.
struct Fails {
    stream: MemoryStream,
    reads: usize,
    writes: bool,
    error: Errno,
}

impl AsyncRead for Fails {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.reads == 0 {
            return Poll::Ready(Err(self.error.into()));
        }
        let len = buf.len().min(self.reads);
        let n = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf[..len]))?;
        self.reads -= n;
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Fails {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.writes {
            return Poll::Ready(Err(self.error.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[test]
fn r07_a_system_that_has_run_out_of_memory_is_not_the_peers_fault() {
    let request = get("/a");
    let http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"; // with empty settings
    let moments = [
        ("before a byte", "", false),
        ("in a head", "GET / HT", false),
        ("in the preface", "PRI * HT", false),
        ("between two requests", &request, false),
        ("in an answer", &request, true),
        ("in HTTP/2", http2, false),
        ("in an answer of HTTP/2", http2, true),
    ];
    for (moment, input, writes) in moments {
        for (error, is_own) in [(Errno::NOMEM, true), (Errno::NOBUFS, true), (Errno::CONNRESET, false)] {
            let input = input.as_bytes().to_vec();
            test_alone(async move {
                let logs = logs::remember();
                let (listener, script) = Script::listener();
                let (mut client, stream) = MemoryStream::pair();
                client.write_all(&input).await.unwrap();
                let reads = if writes { usize::MAX } else { input.len() };
                script.tell(Step::Client(Box::pin(Fails { stream, reads, writes, error })));
                let serve = Http::new().handler(paths());
                let handler = move |conn: Connection| {
                    let serving = serve(conn);
                    async move { serving.await.inspect_err(|error: &http::Error| assert_eq!(error.is_peer(), !is_own)) }
                };
                let body = async |server: Handle| {
                    let ended = |counts: ebbtide::Counts| counts.failed() + counts.completed() + counts.disconnected();
                    until(|| ended(server.counts()) == 1).await;
                    drop(client); // before that the linger would wait for its EOF
                };
                let (_, report) = Server::new(listener).scope(handler, body).await.unwrap();
                assert_eq!((report.failed(), report.panicked()), (is_own.into(), 0), "{moment}, {error}: {report}");
                let lines = logs.lines_with("because the system has run out of memory");
                assert_eq!(lines.len(), usize::from(is_own), "{moment}, {error}: {lines:?}");
                assert!(lines.iter().all(|(level, _)| *level == Level::Warn), "{moment}, {error}: {lines:?}");
            });
        }
    }
}
