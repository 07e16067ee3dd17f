//! A drain of an HTTP server loses no request. A lost request is one that was written as a whole on a connection whose
//! last answer did not say `Connection: close`, and that got no whole answer.
#![cfg(feature = "http")]

use crate::support::http::{HttpClient, get, paths};
use crate::support::*;
use async_std::task::{self, spawn_blocking};
use ebbtide::http::Http;
use ebbtide::http::http_body_util::BodyExt;
use ebbtide::http::hyper::body::{Body, Bytes, Frame, Incoming};
use ebbtide::http::hyper::service::service_fn;
use ebbtide::http::hyper::{Request, Response};
use ebbtide::{Address, BoxError, Connection, Handle, Phase, Report, Server};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Longer than the scheduler keeps a client waiting on a busy machine. Clients that are busy do not use it up.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many busy clients there are.
const CLIENTS: usize = 64;

/// A client is busy from this answer on. Each must be before the shutdown: one whose thread starts late is refused.
const SOME: usize = 10;

/// A body of five chunks, with a short pause before each.
struct Chunks {
    left: usize,
    pause: async_io::Timer,
}

const PAUSE: Duration = Duration::from_millis(1);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        std::task::ready!(Future::poll(Pin::new(&mut self.pause), cx));
        self.pause.set_after(PAUSE);
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"chunk")))))
    }
}

/// Sends one request after the other, until an answer says `Connection: close`. Counts itself in `busy` once some have
/// been answered. Returns how many were.
fn busy_client(address: &Address, n: usize, busy: &AtomicUsize) -> Result<usize, String> {
    let mut client = HttpClient::new(address);
    for count in 1.. {
        let answer = client.ask(&get(&format!("/{n}"))).map_err(|error| format!("lost after {count}: {error}"))?;
        assert_eq!(answer.status(), "200");
        if count == SOME {
            busy.fetch_add(1, Ordering::SeqCst);
        }
        if answer.says_close() {
            assert_eq!(client.rest(), "");
            return Ok(count);
        }
        if n % 2 == 0 {
            std::thread::sleep(Duration::from_millis((count % 4) as u64)); // between two requests when it is closed
        }
    }
    unreachable!()
}

/// Shuts the server down while 64 clients are busy. No request is lost.
async fn loses_nothing<H, Fut>(server: Server, handler: H)
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: ebbtide::HandlerOutput> + Send + 'static,
{
    let busy = Arc::<AtomicUsize>::default();
    let address = server.local_addr().clone();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (address, busy) = (address.clone(), Arc::clone(&busy));
            std::thread::spawn(move || busy_client(&address, n, &busy))
        })
        .collect();
    let body = async |_: Handle| {
        while busy.load(Ordering::SeqCst) < CLIENTS {
            task::sleep(Duration::from_millis(5)).await;
        }
    };
    let (_, report) = server.scope(handler, body).await.unwrap();
    let ends: Vec<_> = spawn_blocking(move || clients.into_iter().map(|client| client.join().unwrap()).collect()).await;
    let lost: Vec<_> = ends.iter().filter(|end| end.is_err()).collect();
    assert!(lost.is_empty(), "{} of {CLIENTS}: {lost:?}; {report}", lost.len());
    assert_eq!((report.accepted(), report.completed()), (CLIENTS as u64, CLIENTS as u64), "{report}");
}

#[test]
fn no_request_of_busy_clients_is_lost_with_plain_answers() {
    test(async {
        for _ in 0..3 {
            loses_nothing(bind().await, Http::new().drain_patience(PATIENCE).handler(paths())).await;
        }
    });
}

#[test]
fn no_request_of_busy_clients_is_lost_with_streaming_answers() {
    test(async {
        for _ in 0..3 {
            let service = service_fn(async |_: Request<Incoming>| {
                Ok::<_, Infallible>(Response::new(Chunks { left: 5, pause: async_io::Timer::after(PAUSE) }))
            });
            loses_nothing(bind().await, Http::new().drain_patience(PATIENCE).handler(service)).await;
        }
    });
}

#[test]
fn no_request_of_busy_clients_is_lost_with_a_lame_duck() {
    test(async {
        let server = bind().await.lame_duck(Duration::from_millis(50));
        loses_nothing(server, Http::new().drain_patience(PATIENCE).handler(paths())).await;
    });
}

/// Serves while the client runs, which may shut the server down.
async fn serving<H, Fut, T: Send + 'static>(
    server: Server,
    handler: H,
    client: impl FnOnce(Address, Handle) -> T + Send + 'static,
) -> (T, Report)
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: ebbtide::HandlerOutput> + Send + 'static,
{
    let (address, handle) = (server.local_addr().clone(), server.handle());
    let client = spawn_blocking(move || client(address, handle));
    let report = server.serve(handler).await.unwrap();
    (client.await, report)
}

/// Waits until the server drains.
fn draining(server: &Handle) {
    drop(server.shutdown());
    task::block_on(server.reached(Phase::Draining));
}

#[test]
fn a_quiet_connection_is_closed_at_once_and_a_recent_one_after_the_patience() {
    test(async {
        let handler = Http::new().drain_patience(FOR_EVER).handler(paths());
        let (_, report) = serving(bind().await.grace(None), handler, |address, server| {
            let (mut quiet, mut recent) = (HttpClient::new(&address), HttpClient::new(&address));
            quiet.ask(&get("/")).unwrap();
            std::thread::sleep(Duration::from_millis(1100));
            recent.ask(&get("/")).unwrap();
            draining(&server);
            assert_eq!(quiet.rest(), "");
            let answer = recent.ask(&get("/late")).unwrap();
            assert!(answer.says_close() && answer.body == "/late", "{answer:?}");
            assert_eq!(recent.rest(), "");
        })
        .await;
        assert_eq!((report.accepted(), report.completed()), (2, 2), "{report}");
    });
}

#[test]
fn a_recent_connection_is_closed_after_the_patience() {
    test(async {
        let handler = Http::new().drain_patience(Duration::from_millis(20)).handler(paths());
        let (_, report) = serving(bind().await.grace(None), handler, |address, server| {
            let mut client = HttpClient::new(&address);
            client.ask(&get("/")).unwrap();
            draining(&server);
            assert_eq!(client.rest(), "");
        })
        .await;
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn half_a_head_is_waited_for() {
    test(async {
        for before in ["", "GET /before HTTP/1.1\r\nhost: a\r\n\r\n"] {
            let handler = Http::new().drain_patience(Duration::ZERO).handler(paths());
            let server = bind().await.grace(None).newcomer_time(Duration::ZERO);
            let (_, report) = serving(server, handler, move |address, server| {
                let mut client = HttpClient::new(&address);
                client.send(&format!("{before}GET /half HTT")).unwrap(); // in one piece
                match before {
                    "" => {
                        while server.connection_count() == 0 {
                            std::thread::yield_now(); // a server that does not serve yet would be closed
                        }
                    }
                    _ => assert_eq!(client.answer().unwrap().body, "/before"),
                }
                draining(&server);
                std::thread::sleep(Duration::from_millis(100));
                let answer = client.ask("P/1.1\r\nhost: a\r\n\r\n").unwrap();
                assert!(answer.says_close() && answer.body == "/half", "{answer:?}");
                assert_eq!(client.rest(), "");
            })
            .await;
            assert_eq!(report.completed(), 1, "{report}");
        }
    });
}

#[test]
fn what_has_arrived_behind_a_chunked_body_is_waited_for_too() {
    test(async {
        let service = service_fn(async |request: Request<Incoming>| {
            let path = request.uri().path().to_owned();
            request.into_body().collect().await?;
            Ok::<_, BoxError>(Response::new(path))
        });
        let handler = Http::new().drain_patience(Duration::ZERO).handler(service);
        let (_, report) = serving(bind().await.grace(None), handler, |address, server| {
            let mut client = HttpClient::new(&address);
            let upload =
                "POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
            client.send(&format!("{upload}GET /half HTT")).unwrap(); // in one piece
            assert_eq!(client.answer().unwrap().body, "/upload");
            draining(&server);
            std::thread::sleep(Duration::from_millis(100));
            let answer = client.ask("P/1.1\r\nhost: a\r\n\r\n").unwrap();
            assert!(answer.says_close() && answer.body == "/half", "{answer:?}");
        })
        .await;
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn an_empty_line_behind_a_request_is_not_waited_for() {
    test(async {
        let server = bind().await.grace(None).newcomer_time(Duration::ZERO);
        let handler = Http::new().header_timeout(None).drain_patience(Duration::ZERO).handler(paths());
        let (_, report) = serving(server, handler, |address, server| {
            let mut client = HttpClient::new(&address);
            client.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello\r\n").unwrap();
            draining(&server);
            assert_eq!(client.rest(), "");
        })
        .await;
        assert_eq!(report.completed(), 1, "{report}");
    });
}

/// Only a further request is answered first.
#[test]
fn neither_an_unread_body_nor_an_empty_line_keeps_an_answer_from_saying_close() {
    test(async {
        let service = service_fn(async |request: Request<Incoming>| {
            request.extensions().get::<Connection>().unwrap().draining().await;
            Ok::<_, Infallible>(Response::new(request.uri().path().to_owned()))
        });
        let handler = Http::new().handler(service);
        let (_, report) = serving(bind().await.count_bytes(true), handler, |address, server| {
            let mut clients = Vec::new();
            for body in
                ["content-length: 5\r\n\r\nhello\r\n", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
            {
                let mut client = HttpClient::new(&address);
                client.send(&format!("POST / HTTP/1.1\r\nhost: a\r\n{body}")).unwrap();
                clients.push(client);
            }
            while server.connections().iter().filter(|connection| connection.bytes_read() > Some(0)).count() < 2 {
                std::thread::yield_now();
            }
            draining(&server);
            for mut client in clients {
                let answer = client.answer().unwrap();
                assert!(answer.says_close(), "{answer:?}");
                assert_eq!(client.rest(), "");
            }
        })
        .await;
        assert_eq!(report.completed(), 2, "{report}");
    });
}

#[test]
fn a_request_in_progress_is_answered_and_the_answer_says_close() {
    test(async {
        let service = service_fn(async |request: Request<Incoming>| {
            let connection = request.extensions().get::<Connection>().unwrap().clone();
            if request.uri().path() == "/waits" {
                connection.draining().await;
            }
            Ok::<_, Infallible>(Response::new(request.uri().path().to_owned()))
        });
        let (answers, report) =
            serving(bind().await.count_bytes(true), Http::new().handler(service), |address, server| {
                let mut client = HttpClient::new(&address);
                // Pipelined: the others have arrived, so they are answered too.
                client.send(&["/waits", "/second", "/third"].map(get).concat()).unwrap();
                while !server.connections().iter().any(|connection| connection.bytes_read() > Some(0)) {
                    std::thread::yield_now();
                }
                draining(&server);
                let answers = [(); 3].map(|()| client.answer().unwrap());
                assert_eq!(client.rest(), "");
                answers.map(|answer| (answer.says_close(), answer.body))
            })
            .await;
        let expected = [(false, "/waits"), (false, "/second"), (true, "/third")];
        assert_eq!(answers.map(|(closes, body)| (closes, body.leak() as &str)), expected);
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn in_a_lame_duck_answers_say_close_and_new_clients_are_served() {
    test(async {
        let server = bind().await.lame_duck(FOR_EVER).grace(None);
        let (_, report) = serving(server, Http::new().handler(paths()), |address, server| {
            let (mut old, mut idle) = (HttpClient::new(&address), HttpClient::new(&address));
            assert!(!old.ask(&get("/")).unwrap().says_close());
            assert!(!idle.ask(&get("/")).unwrap().says_close());
            drop(server.shutdown());
            task::block_on(server.reached(Phase::LameDuck));
            for client in [&mut old, &mut HttpClient::new(&address)] {
                assert!(client.ask(&get("/")).unwrap().says_close());
                assert_eq!(client.rest(), "");
            }
            assert!(idle.ask(&get("/")).unwrap().says_close(), "an idle connection stays open in a lame duck");
            drop(server.shutdown()); // skips the rest of the lame duck
        })
        .await;
        assert_eq!((report.accepted(), report.completed()), (3, 3), "{report}");
    });
}

#[test]
fn one_connection_is_drained_alone() {
    test(async {
        let (_, report) =
            serving(bind().await, Http::new().drain_patience(PATIENCE).handler(paths()), |address, server| {
                let (mut one, mut other) = (HttpClient::new(&address), HttpClient::new(&address));
                one.ask(&get("/")).unwrap();
                other.ask(&get("/")).unwrap();
                let id = server.connections().iter().map(ebbtide::ConnectionInfo::id).min().unwrap();
                assert!(server.drain_connection(id));
                assert!(one.ask(&get("/")).unwrap().says_close());
                assert_eq!(one.rest(), "");
                assert!(!other.ask(&get("/")).unwrap().says_close());
                drop(server.shutdown());
            })
            .await;
        assert_eq!((report.accepted(), report.completed()), (2, 2), "{report}");
    });
}

#[test]
fn a_slow_reader_gets_its_whole_answer_in_a_drain() {
    const LENGTH: usize = 16 << 20;
    test(async {
        let service = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("x".repeat(LENGTH))));
        let handler = Http::new().drain_patience(Duration::ZERO).handler(service);
        let (length, report) = serving(bind().await.grace(None).count_bytes(true), handler, |address, server| {
            let mut client = HttpClient::new(&address);
            client.send(&get("/")).unwrap();
            while !server.connections().iter().any(|connection| connection.bytes_written() > Some(0)) {
                std::thread::yield_now();
            }
            draining(&server);
            std::thread::sleep(Duration::from_millis(100));
            client.answer().unwrap().body.len()
        })
        .await;
        assert_eq!((length, report.completed()), (LENGTH, 1), "{report}");
    });
}

#[test]
fn a_request_that_outlives_the_grace_is_cut() {
    test(async {
        let service = service_fn(async |_: Request<Incoming>| {
            std::future::pending::<()>().await;
            Ok::<_, Infallible>(Response::new(String::new()))
        });
        let server = bind().await.grace(Duration::from_millis(100)).count_bytes(true);
        let (rest, report) = serving(server, Http::new().handler(service), |address, server| {
            let mut client = HttpClient::new(&address);
            client.send(&get("/")).unwrap();
            while !server.connections().iter().any(|connection| connection.bytes_read() > Some(0)) {
                std::thread::yield_now();
            }
            draining(&server);
            client.rest_lossy()
        })
        .await;
        assert_eq!((rest.as_str(), report.cancelled()), ("", 1), "{report}");
    });
}

/// Writes `piece` again and again, until the server has closed the connection.
fn drip(mut client: std::net::TcpStream, piece: &[u8]) {
    use std::io::Write;
    let start = std::time::Instant::now();
    while client.write_all(piece).is_ok() {
        assert!(start.elapsed() < NET, "the connection is still open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Ends of lines are no part of a request, so a client that sends nothing else is quiet.
#[test]
fn empty_lines_hold_a_connection_neither_in_a_drain_nor_beyond_its_time() {
    for (first, drains) in [(&b""[..], true), (REQUEST, true), (b"", false), (REQUEST, false)] {
        test(async move {
            let time = if drains { FOR_EVER } else { Duration::from_millis(300) };
            let http = Http::new().keep_alive_timeout(time).header_timeout(FOR_EVER);
            let handler = http.handler(service_fn(hello));
            let body = async move |server: Handle| {
                let mut client = connect(server.local_addr());
                std::io::Write::write_all(&mut client, first).unwrap();
                while server.connection_count() == 0 {
                    task::yield_now().await;
                }
                if drains {
                    drop(server.shutdown());
                }
                spawn_blocking(move || drip(client, b"\r\n")).await;
            };
            let (_, report) = bind().await.grace(FOR_EVER).scope(handler, body).await.unwrap();
            assert_eq!((report.completed(), report.cancelled()), (1, 0), "{first:?} {drains} {report}");
        });
    }
}

/// It sends PINGs of its own. So it is never silent, and never answers the PING by which the server closes.
#[test]
fn a_client_of_http2_that_answers_no_ping_does_not_hold_a_drain() {
    const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"; // and its settings
    const GET: &[u8] = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a"; // a request, as a whole
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0whatever";
    for request in [&b""[..], GET] {
        test(async move {
            let handler = Http::new().handler(service_fn(hello));
            let body = async move |server: Handle| {
                let mut client = connect(server.local_addr());
                std::io::Write::write_all(&mut client, &[BEGINNING, request].concat()).unwrap();
                while server.connection_count() == 0 || server.counts().requests() < u64::from(!request.is_empty()) {
                    task::yield_now().await;
                }
                drop(server.shutdown());
                spawn_blocking(move || drip(client, PING)).await;
            };
            let (_, report) = bind().await.grace(FOR_EVER).scope(handler, body).await.unwrap();
            assert_eq!((report.completed(), report.cancelled()), (1, 0), "{request:?} {report}");
        });
    }
}

async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("hello".to_owned()))
}
