//! HTTP: requests are answered as HTTP has it, and every wait and every size has a limit.
#![cfg(feature = "http")]

use crate::support::http::{HttpClient, get, paths};
use crate::support::logs::remember;
use crate::support::*;
use async_std::task::spawn_blocking;
use ebbtide::http::http_body_util::{BodyExt, Limited};
use ebbtide::http::hyper::body::Incoming;
use ebbtide::http::hyper::service::service_fn;
use ebbtide::http::hyper::{Request, Response};
use ebbtide::http::{self, Http};
use ebbtide::{Address, BoxError, Connection, Handle, Report, Server};
use log::Level;
use std::convert::Infallible;
use std::time::Duration;

/// Longer than the scheduler keeps a client waiting between two steps on a busy machine.
const IDLE: Duration = Duration::from_secs(1);

/// Serves with `handler` while the client runs.
async fn serving<H, Fut, T: Send + 'static>(
    handler: H,
    client: impl FnOnce(Address) -> T + Send + 'static,
) -> (T, Report)
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: ebbtide::HandlerOutput> + Send + 'static,
{
    let body = async |server: Handle| {
        let address = server.local_addr().clone();
        Ok(spawn_blocking(move || client(address)).await)
    };
    bind().await.scope(handler, body).await.unwrap()
}

#[test]
fn requests_on_one_connection_are_answered_in_their_order() {
    test(async {
        let (answers, report) = serving(Http::new().handler(paths()), |address| {
            let mut client = HttpClient::new(&address);
            let first = client.ask(&get("/one")).unwrap();
            assert!(!first.says_close(), "{first:?}");
            client.send(&(get("/two") + &get("/three"))).unwrap(); // pipelined
            [first.body, client.answer().unwrap().body, client.answer().unwrap().body]
        })
        .await;
        assert_eq!(answers, ["/one", "/two", "/three"]);
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
    });
}

/// axum's `Router` is such a service too: see `examples/apps`.
#[derive(Clone)]
struct Tower;

impl tower_service::Service<Request<Incoming>> for Tower {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        Ok(()).into()
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        std::future::ready(Ok(Response::new(format!("tower {}", request.uri().path()))))
    }
}

#[test]
fn a_service_of_tower_is_served_as_one_of_hyper_is() {
    test(async {
        let server = bind().await;
        let (address, handle) = (server.local_addr().clone(), server.handle());
        let client = spawn_blocking(move || {
            let answer = HttpClient::new(&address).ask(&get("/a")).unwrap();
            handle.shutdown();
            answer.body
        });
        let report = server.serve_http(Tower).await.unwrap();
        assert_eq!((client.await.as_str(), report.completed()), ("tower /a", 1), "{report}");
    });
}

#[test]
fn the_connection_is_in_the_extensions_of_its_requests() {
    test(async {
        let service = service_fn(async |request: Request<Incoming>| {
            let connection = request.extensions().get::<Connection>().unwrap();
            Ok::<_, Infallible>(Response::new(connection.peer_addr().to_string()))
        });
        let ((answer, own), _) = serving(Http::new().handler(service), |address| {
            let socket = connect(&address);
            let own = socket.local_addr().unwrap();
            (HttpClient::over(socket).ask(&get("/")).unwrap().body, own)
        })
        .await;
        assert_eq!(answer, own.to_string());
    });
}

#[test]
fn a_client_that_has_half_closed_gets_its_answer() {
    test(async {
        let (answer, report) = serving(Http::new().handler(slow()), |address| {
            let mut client = HttpClient::new(&address);
            client.send(&get("/")).unwrap();
            client.close_write();
            client.answer().unwrap().body
        })
        .await;
        assert_eq!((answer.as_str(), report.completed()), ("slow", 1), "{report}");
    });
}

/// Answers after a while.
fn slow() -> impl http::HttpService<http::ByHyper, Incoming> {
    service_fn(async |_: Request<Incoming>| {
        async_io::Timer::after(Duration::from_millis(100)).await;
        Ok::<_, Infallible>(Response::new("slow".to_owned()))
    })
}

#[test]
fn without_half_close_eof_drops_the_requests_future() {
    test(async {
        let (dropped, is_dropped) = async_std::channel::bounded::<()>(1);
        let service = service_fn(move |_: Request<Incoming>| {
            let dropped = dropped.clone();
            async move {
                std::future::pending::<()>().await;
                drop(dropped);
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        });
        let handler = Http::new().half_close(false).handler(service);
        let (_, report) = serving(handler, |address| {
            let mut client = HttpClient::new(&address);
            client.send(&get("/")).unwrap();
            client.close_write();
            client.rest()
        })
        .await;
        assert!(is_dropped.recv().await.is_err());
        assert_eq!((report.disconnected(), report.cancelled()), (1, 0), "{report}");
    });
}

/// Sends `request` and returns what is answered until EOF. The connection is the peer's fault, at debug.
async fn refused(http: Http, request: String) -> String {
    let logs = remember();
    let ((answer, port), report) = serving(http.handler(paths()), move |address| {
        let socket = connect(&address);
        let port = socket.local_addr().unwrap();
        let mut client = HttpClient::over(socket);
        client.send(&request).unwrap();
        (client.rest(), port)
    })
    .await;
    assert_eq!((report.accepted(), report.disconnected()), (1, 1), "{report}");
    let lines = logs.lines_with(&format!("peer={port}"));
    let closed: Vec<_> = lines.iter().filter(|(_, line)| line.contains("closed connection")).collect();
    assert_eq!(closed.len(), 1, "{lines:?}");
    assert!(["the peer's request was", "the peer sent only"].iter().any(|why| closed[0].1.contains(why)), "{closed:?}");
    assert!(lines.iter().all(|(level, _)| *level == Level::Debug), "{lines:?}");
    answer
}

#[test]
fn malformed_requests_are_answered_with_400() {
    test(async {
        for request in [
            "garbage\r\n\r\n",
            "GET / HTTP/1.1\r\nbad header\r\n\r\n",
            "GET / HTTP/9.9\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: nonsense\r\n\r\n",
            "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}\x03\x03\r\n\r\n", // TLS to a server without it
            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        ] {
            let answer = refused(Http::new(), request.to_owned()).await;
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{request:?}: {answer:?}");
        }
    });
}

#[test]
fn heads_that_are_too_large_are_answered_with_431_or_414() {
    test(async {
        let large = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(2000));
        let answer = refused(Http::new().max_head(1000), large).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
        let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(20));
        let answer = refused(Http::new().max_headers(10), many).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
        let endless = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "x".repeat(100_000));
        let answer = refused(Http::new(), endless).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "the default limit: {answer:?}");
        let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(66_000));
        let answer = refused(Http::new().max_head(100_000), long).await;
        assert!(answer.starts_with("HTTP/1.1 414 "), "{answer:?}");
    });
}

#[test]
fn a_head_that_is_not_complete_in_time_is_answered_with_408() {
    test(async {
        let http = Http::new().header_timeout(Duration::from_millis(50));
        for begun in ["G", "GET / HTTP/1.1\r\nhost:", "PRI * HTT"] {
            let answer = refused(http.clone(), begun.to_owned()).await;
            assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{begun}: {answer:?}");
        }
        // A second head on the same connection.
        let answer = refused(http.clone(), get("/") + "GET").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("HTTP/1.1 408 "), "{answer:?}");
    });
}

#[test]
fn a_body_may_be_read_after_the_answer() {
    test(async {
        let (sent, lengths) = async_std::channel::unbounded();
        let service = service_fn(move |request: Request<Incoming>| {
            let (connection, sent) = (request.extensions().get::<Connection>().unwrap().clone(), sent.clone());
            let read = connection.clone().spawn(async move {
                let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
                sent.send(body.map_err(|error| error.to_string())).await.unwrap();
            });
            drop(read);
            std::future::ready(Ok::<_, Infallible>(Response::new("accepted".to_owned())))
        });
        let http = Http::new().header_timeout(Duration::from_millis(50)).keep_alive_timeout(IDLE);
        let handler = http.handler(service);
        let (_, report) = serving(handler, |address| {
            let mut client = HttpClient::new(&address);
            let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
            assert_eq!(client.ask(&format!("{head}5\r\nhello\r\n")).unwrap().body, "accepted");
            std::thread::sleep(Duration::from_millis(1500)); // longer than an idle connection has for its end
            client.send("5\r\nworld\r\n0\r\n\r\n").unwrap();
            assert_eq!(client.rest(), "", "it is idle now");
        })
        .await;
        assert_eq!((lengths.recv().await.unwrap(), report.completed()), (Ok(10), 1), "{report}");
    });
}

/// Some clients send one behind a body. A server ignores it (RFC 9112, 2.2).
#[test]
fn an_empty_line_before_a_request_does_not_begin_its_head() {
    test(async {
        let handler = Http::new().header_timeout(Duration::from_millis(50)).handler(paths());
        let (bodies, report) = serving(handler, |address| {
            let mut client = HttpClient::new(&address);
            [(); 3].map(|()| {
                client.send("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello\r\n").unwrap();
                let answer = client.answer().unwrap();
                std::thread::sleep(Duration::from_millis(200));
                client.send("\r\n").unwrap();
                std::thread::sleep(Duration::from_millis(200));
                answer.body
            })
        })
        .await;
        assert_eq!((bodies, report.completed()), (["/a"; 3].map(String::from), 1), "{report}");
    });
}

#[test]
fn limits_of_any_size_are_limits() {
    test(async {
        let max = Duration::MAX;
        let http = Http::new().header_timeout(max).keep_alive_timeout(max).drain_patience(max);
        for http in [http.clone(), http.http1_only()] {
            let (body, report) = serving(http.max_head(usize::MAX).handler(paths()), |address| {
                let mut client = HttpClient::new(&address);
                client.send("GET /a HTT").unwrap();
                std::thread::sleep(Duration::from_millis(50));
                client.ask("P/1.1\r\nhost: a\r\n\r\n").unwrap().body
            })
            .await;
            assert_eq!((body.as_str(), report.completed()), ("/a", 1), "{report}");
        }
        // More fields than a map of hyper's can have.
        let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x:y\r\n".repeat(40_000));
        let answer = refused(Http::new().max_head(1 << 20).max_headers(usize::MAX), many).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    });
}

/// The limit is for heads: neither a slow answer nor a slow body counts.
#[test]
fn the_time_of_a_head_is_not_that_of_a_body_or_an_answer() {
    test(async {
        let length = service_fn(async |request: Request<Incoming>| {
            let body = request.into_body().collect().await?.to_bytes();
            async_io::Timer::after(Duration::from_millis(200)).await;
            Ok::<_, BoxError>(Response::new(body.len().to_string()))
        });
        let handler = Http::new().header_timeout(Duration::from_millis(100)).handler(length);
        let (lengths, report) = serving(handler, |address| {
            let mut client = HttpClient::new(&address);
            [1, 2].map(|_| {
                client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello").unwrap();
                std::thread::sleep(Duration::from_millis(300));
                client.send("world").unwrap();
                client.answer().unwrap().body
            })
        })
        .await;
        assert_eq!((lengths, report.completed()), (["10", "10"].map(String::from), 1), "{report}");
    });
}

#[test]
fn idle_connections_are_closed_without_an_answer_and_without_a_warning() {
    test(async {
        let logs = remember();
        let handler = Http::new().keep_alive_timeout(IDLE).handler(paths());
        let (peers, report) = serving(handler, |address| {
            let silent = connect(&address); // as a browser's connection in advance
            let peers = [silent.local_addr().unwrap()];
            assert_eq!(HttpClient::over(silent).rest(), "");
            let mut client = HttpClient::new(&address);
            assert_eq!(client.ask(&get("/")).unwrap().status(), "200");
            assert_eq!(client.rest(), "");
            drop(connect(&address)); // as a port scan
            peers
        })
        .await;
        assert_eq!((report.accepted(), report.completed()), (3, 3), "{report}");
        for peer in peers {
            assert!(logs.lines_with(&format!("peer={peer}")).iter().all(|(level, _)| *level == Level::Debug));
        }
    });
}

#[test]
fn a_body_that_is_too_large_is_answered_with_413() {
    test(async {
        let length = service_fn(async |request: Request<Limited<Incoming>>| {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::new(body.len().to_string()))
        });
        let (_, report) = serving(Http::new().max_body(10).handler(length), |address| {
            let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
            for (request, status) in [
                ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n0123456789".to_owned(), "200"),
                ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n01234567890".to_owned(), "413"),
                // The client may send the rest only after `100 Continue`, which does not come.
                ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\nexpect: 100-continue\r\n\r\n".to_owned(), "413"),
                (format!("{chunked}a\r\n0123456789\r\n0\r\n\r\n"), "200"),
                (format!("{chunked}b\r\n01234567890\r\n0\r\n\r\n"), "413"),
                (format!("{chunked}6\r\n012345\r\n6\r\n678901\r\n"), "413"),
            ] {
                let mut client = HttpClient::new(&address);
                let answer = client.ask(&request).unwrap();
                assert_eq!(answer.status(), status, "{request:?}: {answer:?}");
                if status == "413" {
                    assert!(answer.says_close(), "{answer:?}");
                    assert_eq!(client.rest(), "");
                }
            }
        })
        .await;
        assert_eq!((report.completed(), report.disconnected()), (2, 4), "{report}");
    });
}

#[test]
fn an_error_of_the_service_ends_its_connection_with_one_warning() {
    test(async {
        let logs = remember();
        let failing = service_fn(async |_: Request<Incoming>| Err::<Response<String>, _>("the shelf is empty"));
        let (rest, report) = serving(Http::new().handler(failing), |address| {
            let mut client = HttpClient::new(&address);
            client.send(&get("/")).unwrap();
            client.rest()
        })
        .await;
        assert_eq!((rest.as_str(), report.failed()), ("", 1), "{report}");
        let lines = logs.lines_with("the shelf is empty");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0].0, Level::Warn);
        assert!(lines[0].1.contains("the HTTP service failed"), "{lines:?}");
    });
}

#[test]
fn an_error_knows_whose_fault_it_is() {
    test(async {
        let (errors, has_errors) = async_std::channel::unbounded();
        let handler = move |conn: Connection| {
            let errors = errors.clone();
            async move {
                let service = service_fn(async |request: Request<Incoming>| match request.uri().path() {
                    "/" => {
                        let body = request.into_body().collect().await?.to_bytes();
                        Ok::<_, BoxError>(Response::new(body.len().to_string()))
                    }
                    path => Err(path.to_owned().into()),
                });
                let http = Http::new().header_timeout(Duration::from_millis(50));
                let end = http.serve_connection(conn, service).await;
                let end = end.map_err(|error| (error.is_peer(), error.is_timeout(), error.to_string()));
                errors.send(end).await.unwrap();
            }
        };
        serving(handler, |address| {
            for request in ["garbage\r\n\r\n", "GET", &get("/a")] {
                let mut client = HttpClient::new(&address);
                client.send(request).unwrap();
                client.rest();
            }
            let mut client = HttpClient::new(&address);
            client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf").unwrap();
            client.close_write();
            client.rest();
            let mut client = HttpClient::new(&address);
            client.ask(&get("/")).unwrap();
        })
        .await;
        let mut ends = Vec::new();
        while let Ok(end) = has_errors.try_recv() {
            ends.push(end);
        }
        let malformed = "the peer's request was malformed, or exceeded a limit";
        let expected = [
            Err((true, false, malformed)),
            Err((true, true, "the peer sent only a part of a request's head")),
            Err((false, false, "the HTTP service failed")),
            Err((true, false, "the peer left in the middle of a request")),
            Ok(()),
        ];
        let ends: Vec<_> =
            ends.iter().map(|end| end.as_ref().map(|_| ()).map_err(|(a, b, c)| (*a, *b, c.as_str()))).collect();
        assert_eq!(ends, expected);
    });
}

#[test]
fn a_server_of_one_version_refuses_the_other() {
    test(async {
        let answer = serving(Http::new().http2_only().handler(paths()), |address| {
            let mut client = HttpClient::new(&address);
            client.send(&get("/")).unwrap();
            client.rest_lossy()
        });
        let (answer, report) = answer.await;
        assert!(!answer.contains("200"), "{answer:?}");
        assert_eq!(report.disconnected(), 1, "{report}");
        let (answer, report) = serving(Http::new().http1_only().handler(paths()), |address| {
            let mut client = HttpClient::new(&address);
            client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
            client.rest_lossy()
        })
        .await;
        assert!(!answer.contains("200"), "{answer:?}");
        assert_eq!(report.disconnected(), 1, "{report}");
    });
}

/// What hyper spawns, and what it allocates, ends with the connection.
#[test]
fn a_dropped_server_drops_requests_in_progress() {
    test(async {
        let live = Live::default();
        let held = live.clone();
        let service = service_fn(move |_: Request<Incoming>| {
            let guard = held.guard();
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        });
        let server: Server = bind().await;
        let address = server.local_addr().clone();
        let mut serving = Box::pin(server.serve_http(service));
        let mut client = HttpClient::new(&address);
        client.send(&get("/")).unwrap();
        let has_begun = async {
            while live.count() == 0 {
                async_std::task::yield_now().await;
            }
        };
        futures_lite::future::or(async { drop(serving.as_mut().await) }, has_begun).await;
        assert_eq!(live.count(), 1);
        drop(serving);
        assert_eq!(live.count(), 0);
    });
}
