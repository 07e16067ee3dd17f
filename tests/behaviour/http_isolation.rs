//! A request that panics or fails ends itself, and no other (R7). An upgraded connection stays a child of its server.
#![cfg(feature = "http")]

use crate::support::http::{HttpClient, get};
use crate::support::logs::remember;
use crate::support::*;
use async_std::task::{self, spawn_blocking};
use ebbtide::http::hyper::body::{Body, Bytes, Frame, Incoming};
use ebbtide::http::hyper::service::service_fn;
use ebbtide::http::hyper::{self, Request, Response, StatusCode};
use ebbtide::http::{ByHyper, Http, HttpService, UpgradedIo};
use ebbtide::{Address, BoxError, Connection, Handle, Report};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use log::Level;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Serves while the client runs, which may shut the server down.
async fn serving<S: HttpService<ByHyper, Incoming>, T: Send + 'static>(
    service: S,
    client: impl FnOnce(Address, Handle) -> T + Send + 'static,
) -> (T, Report) {
    let server = bind().await.grace(Duration::from_secs(5));
    let (address, handle) = (server.local_addr().clone(), server.handle());
    let client = spawn_blocking(move || {
        let _shutdown = OnDrop(handle.clone());
        client(address, handle)
    });
    let report = server.serve(Http::new().handler(service)).await.unwrap();
    (client.await, report)
}

/// Shuts the server down, also if the client panics.
struct OnDrop(Handle);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// A body that panics in one of its methods, or when it is dropped.
struct BadBody(&'static str);

impl Body for BadBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.0 {
            "/body" => panic!("bad body"),
            "/body-error" => Poll::Ready(Some(Err("bad body".into()))),
            "" => Poll::Ready(None),
            _ => {
                self.0 = if self.0 == "/body-drop" { "/body-dropped" } else { "" };
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"fine")))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        assert!(self.0 != "/body-end", "bad body");
        matches!(self.0, "" | "/body-dropped")
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        assert!(self.0 != "/body-size", "bad body");
        hyper::body::SizeHint::new()
    }
}

impl Drop for BadBody {
    fn drop(&mut self) {
        if self.0 == "/body-dropped" && !std::thread::panicking() {
            panic!("bad body's destructor");
        }
    }
}

/// Panics, or fails, where the path says.
fn bad() -> impl HttpService<ByHyper, Incoming> {
    service_fn(|request: Request<Incoming>| {
        let path = request.uri().path().to_owned();
        assert!(path != "/call", "bad call");
        // Dropped with the future, after its answer.
        let bomb = (path == "/later").then(|| Bomb("bad destructor"));
        WithValue {
            _value: bomb,
            future: Box::pin(async move {
                let path: &'static str = match path.as_str() {
                    "/future" => panic!("bad future"),
                    "/error" => return Err(BoxError::from("bad error")),
                    "/future-drop" => {
                        let _bomb = Bomb("bad future");
                        return Ok(Response::new(BadBody("/fine")));
                    }
                    "/body" => "/body",
                    "/body-error" => "/body-error",
                    "/body-drop" => "/body-drop",
                    "/body-end" => "/body-end",
                    "/body-size" => "/body-size",
                    _ => "/fine",
                };
                Ok(Response::new(BadBody(path)))
            }),
        }
    })
}

/// Returns how many requests were given to the service, how many of them failed, and how many panicked.
fn requests(report: &Report) -> (u64, u64, u64) {
    let counts = report.counts();
    (counts.requests(), counts.requests_failed(), counts.requests_panicked())
}

/// A future that holds a value until it is dropped.
struct WithValue<F, T> {
    future: Pin<Box<F>>,
    _value: Option<T>,
}

impl<F: Future, T: Unpin> Future for WithValue<F, T> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.future.as_mut().poll(cx)
    }
}

#[test]
fn r07_a_panicking_request_of_http_1_is_answered_with_500_and_the_next_is_served() {
    test(async {
        let logs = remember();
        let (peer, report) = serving(bad(), |address, _| {
            let socket = connect(&address);
            let peer = socket.local_addr().unwrap();
            let mut client = HttpClient::over(socket);
            for path in ["/call", "/future", "/future-drop"] {
                assert_eq!(client.ask(&get(path)).unwrap().status(), "500", "{path}");
                assert_eq!(client.ask(&get("/fine")).unwrap().body, "fine", "after {path}");
            }
            assert_eq!(client.ask(&get("/later")).unwrap().body, "fine", "the answer was there before the panic");
            assert_eq!(client.ask(&get("/fine")).unwrap().body, "fine");
            peer
        })
        .await;
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
        assert_eq!(requests(&report), (8, 0, 3), "{report}");
        let lines = logs.lines_with(&format!("peer={peer}"));
        let errors: Vec<_> = lines.iter().filter(|(level, _)| *level <= Level::Warn).collect();
        assert_eq!(errors.len(), 3, "one line for each: {lines:#?}");
        let what = "the HTTP service panicked, and its request is answered with 500";
        assert!(errors.iter().all(|(level, line)| *level == Level::Error && line.contains(what)), "{lines:#?}");
    });
}

/// An error that panics when it is asked for its source.
#[derive(Debug)]
struct BadError;

impl std::fmt::Display for BadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bad error")
    }
}

impl std::error::Error for BadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        panic!("bad source")
    }
}

#[test]
fn r07_a_request_whose_error_panics_is_a_failed_request_and_other_connections_go_on() {
    test(async {
        let service = service_fn(async |request: Request<Incoming>| match request.uri().path() {
            "/bad" => Err(BadError),
            _ => Ok(Response::new(String::from("fine"))),
        });
        let (end, report) = serving(service, |address, _| {
            let mut other = HttpClient::new(&address);
            assert_eq!(other.ask(&get("/")).unwrap().body, "fine");
            let end = HttpClient::new(&address).ask(&get("/bad")).unwrap_err().kind();
            assert_eq!(other.ask(&get("/")).unwrap().body, "fine");
            end
        })
        .await;
        assert_eq!(end, io::ErrorKind::UnexpectedEof);
        assert_eq!((report.completed(), report.failed(), report.panicked()), (1, 1, 0), "{report}");
        assert_eq!(requests(&report), (3, 1, 0), "{report}");
    });
}

#[test]
fn r07_a_panicking_body_of_http_1_cuts_its_answer_and_no_other_connection() {
    test(async {
        let (ends, report) = serving(bad(), |address, _| {
            let mut other = HttpClient::new(&address);
            assert_eq!(other.ask(&get("/fine")).unwrap().body, "fine");
            let ends = ["/body", "/body-error"].map(|path| {
                let error = HttpClient::new(&address).ask(&get(path)).unwrap_err();
                error.kind()
            });
            for path in ["/body-drop", "/body-end", "/body-size"] {
                assert_eq!(HttpClient::new(&address).ask(&get(path)).unwrap().body, "fine", "{path}");
            }
            assert_eq!(other.ask(&get("/fine")).unwrap().body, "fine");
            ends
        })
        .await;
        assert_eq!(ends, [io::ErrorKind::UnexpectedEof; 2], "an answer that is cut does not look complete");
        assert_eq!((report.completed(), report.failed(), report.panicked()), (4, 2, 0), "{report}");
        assert_eq!(requests(&report), (7, 1, 1), "{report}");
    });
}

/// The body of the answer is that of the request, so it fails if the client leaves: that was counted as a failed request.
#[test]
fn an_echoed_body_that_its_client_cuts_is_no_failed_request() {
    test(async {
        let echo = service_fn(async |request: Request<Incoming>| Ok::<_, BoxError>(Response::new(request.into_body())));
        let ((), report) = serving(echo, |address, _| {
            let mut client = HttpClient::new(&address);
            client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf").unwrap();
            client.close_write();
            client.rest();
        })
        .await;
        assert_eq!((requests(&report), report.failed()), ((1, 0, 0), 0), "{report}");
    });
}

/// Runs a client of HTTP/2: `/waits` is in progress while the other request is made.
async fn ask_http2(address: Address, paths: Vec<&'static str>) -> Vec<Result<(StatusCode, usize), String>> {
    spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(address.socket_addr().unwrap()).await.unwrap();
            let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
            let connection = tokio::spawn(connection);
            let requests = paths.iter().map(|path| {
                let request = Request::get(format!("http://a{path}")).body(()).unwrap();
                client.send_request(request, true).unwrap().0
            });
            let requests: Vec<_> = requests.collect(); // all of them are in progress
            let mut answers = Vec::new();
            for request in requests {
                answers.push(whole_answer(request).await.map_err(|error| error.to_string()));
            }
            drop(client);
            connection.await.unwrap().unwrap();
            answers
        })
    })
    .await
}

async fn whole_answer(answer: h2::client::ResponseFuture) -> Result<(StatusCode, usize), h2::Error> {
    let answer = answer.await?;
    let (status, mut body) = (answer.status(), answer.into_body());
    let mut length = 0;
    while let Some(data) = body.data().await {
        length += data?.len();
    }
    Ok((status, length))
}

#[test]
fn r07_a_panicking_request_of_http_2_ends_its_stream_and_no_other() {
    test(async {
        let logs = remember();
        let body = async |server: Handle| {
            let paths = vec!["/later", "/call", "/future", "/future-drop", "/body", "/error", "/body-error", "/fine"];
            Ok(ask_http2(server.local_addr().clone(), paths).await)
        };
        let (answers, report) = bind().await.scope(Http::new().handler(bad()), body).await.unwrap();
        let fine = Ok((StatusCode::OK, 4));
        let panicked = Ok((StatusCode::INTERNAL_SERVER_ERROR, 0));
        assert_eq!((&answers[0], &answers[7]), (&fine, &fine));
        assert_eq!(answers[1..4], [panicked.clone(), panicked.clone(), panicked]);
        assert!(answers[4..7].iter().all(|answer| answer.as_ref().is_err_and(|e| e.contains("stream"))), "{answers:?}");
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
        assert_eq!(requests(&report), (8, 2, 4), "{report}");
        let resets = logs.lines_with("the body of an HTTP answer failed, and the stream is reset: bad body");
        assert_eq!((resets.len(), resets[0].0), (1, Level::Warn), "{resets:?}");
        let resets = logs.lines_with("the stream is reset: bad error");
        assert_eq!((resets.len(), resets[0].0), (1, Level::Warn), "{resets:?}");
    });
}

/// Upgrades, echoes once, and says goodbye in a drain; or, for `/stays`, ignores the drain.
fn upgrading() -> impl HttpService<ByHyper, Incoming> {
    service_fn(async |mut request: Request<Incoming>| {
        let connection = request.extensions().get::<Connection>().unwrap().clone();
        let stays = request.uri().path() == "/stays";
        let upgrade = hyper::upgrade::on(&mut request);
        connection.clone().spawn(async move {
            let mut stream = UpgradedIo::new(upgrade.await.unwrap());
            let mut buf = [0; 100];
            let n = stream.read(&mut buf).await.unwrap();
            stream.write_all(&buf[..n]).await.unwrap();
            if stays {
                std::future::pending::<()>().await;
            }
            connection.draining().await;
            let goodbye = [IoSlice::new(b"good"), IoSlice::new(b"bye")];
            assert_eq!(stream.write_vectored(&goodbye).await.unwrap(), 7, "both slices in one write");
            stream.flush().await.unwrap();
            stream.close().await.unwrap(); // only this direction
            assert_eq!(stream.read(&mut buf).await.unwrap(), 1, "what the client sends afterwards");
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        Ok::<_, BoxError>(response.body(String::new())?)
    })
}

#[test]
fn an_upgraded_connection_is_open_until_its_stream_is_dropped_and_is_notified_of_the_drain() {
    test(async {
        let (rest, report) = serving(upgrading(), |address, server| {
            let mut client = HttpClient::new(&address);
            // The first bytes of the other protocol come with the request.
            client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello").unwrap();
            let answer = client.answer().unwrap();
            assert_eq!(answer.status(), "101");
            assert!(!answer.says_close(), "{answer:?}");
            assert_eq!(client.read_exactly(5), "hello");
            assert_eq!(server.connection_count(), 1);
            server.shutdown();
            assert_eq!(client.read_exactly(7), "goodbye");
            client.send("!").unwrap();
            client.rest()
        })
        .await;
        assert_eq!((rest.as_str(), report.completed()), ("", 1), "{report}");
    });
}

#[test]
fn an_upgraded_connection_that_ignores_the_drain_is_cut_at_the_end_of_the_grace() {
    test(async {
        let server = bind().await.grace(Duration::from_millis(100));
        let (address, handle) = (server.local_addr().clone(), server.handle());
        let client = task::spawn_blocking(move || {
            let mut client = HttpClient::new(&address);
            client.send("GET /stays HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
            client.answer().unwrap();
            client.send("hello").unwrap();
            assert_eq!(client.read_exactly(5), "hello");
            handle.shutdown();
            client.rest_lossy()
        });
        let report = server.serve_http(upgrading()).await.unwrap();
        assert_eq!((client.await.as_str(), report.cancelled()), ("", 1), "{report}");
    });
}
