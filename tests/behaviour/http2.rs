//! HTTP/2: a drain sends GOAWAY and loses no request; streams are children of their connection.
#![cfg(feature = "http")]

use crate::support::http::paths;
use crate::support::*;
use async_std::task::{self, spawn_blocking};
use ebbtide::http::http_body_util::{BodyExt, Full};
use ebbtide::http::hyper;
use ebbtide::http::hyper::body::{Body, Bytes, Frame, Incoming};
use ebbtide::http::hyper::rt::{Read as _, ReadBuf, Write as _};
use ebbtide::http::hyper::service::service_fn;
use ebbtide::http::hyper::{Request, Response};
use ebbtide::http::{ByHyper, Http, HttpService};
use ebbtide::{Address, Connection, Handle, Phase};
use h2::client::SendRequest;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Longer than the scheduler keeps a client waiting between two steps on a busy machine.
const IDLE: Duration = Duration::from_secs(1);

type Client = SendRequest<Bytes>;

/// Runs a client on a thread, with tokio's I/O for the h2 crate. It gets the connection, and a future of its end.
async fn with_client<T: Send + 'static, Fut: Future<Output = T>>(
    address: Address,
    client: impl FnOnce(Client, tokio::task::JoinHandle<Result<(), h2::Error>>) -> Fut + Send + 'static,
) -> T {
    spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(address.socket_addr().unwrap()).await.unwrap();
            let (send, connection) = h2::client::Builder::new().handshake(socket).await.unwrap();
            let connection = tokio::spawn(connection);
            client(send, connection).await
        })
    })
    .await
}

/// Sends a request. `None`: the server has said that it is going away, so the request was not sent.
async fn ask(client: &Client, path: &str) -> Option<Result<String, h2::Error>> {
    let mut client = client.clone().ready().await.ok()?;
    let request = Request::get(format!("http://a{path}")).body(()).unwrap();
    let (answer, _) = client.send_request(request, true).ok()?;
    let read = async {
        let mut body = answer.await?.into_body();
        let mut text = Vec::new();
        while let Some(data) = body.data().await {
            text.extend_from_slice(&data?);
        }
        Ok(String::from_utf8(text).unwrap())
    };
    Some(read.await)
}

#[test]
fn a_client_of_http_2_is_told_how_many_requests_it_may_send_at_a_time() {
    test(async {
        let server = bind().await;
        let address = server.local_addr().clone();
        let http = Http::new().max_streams(3).handler(paths());
        let body = async |_| {
            let most = with_client(address, async |client: Client, _| {
                ask(&client, "/hello").await.unwrap().unwrap(); // the settings come before the answer
                client.current_max_send_streams()
            });
            Ok(most.await)
        };
        let (most, _) = server.scope(http, body).await.unwrap();
        assert_eq!(most, 3);
    });
}

#[test]
fn r07_a_request_of_http_2_that_its_client_cuts_is_no_failed_request() {
    test(async {
        let (begun, has_begun) = async_std::channel::unbounded();
        let (ended, has_ended) = async_std::channel::unbounded();
        let service = service_fn(move |request: Request<Incoming>| {
            let (begun, ended) = (begun.clone(), ended.clone());
            async move {
                begun.send(()).await.unwrap();
                let body = request.into_body().collect().await;
                ended.send(body.is_err()).await.unwrap();
                Ok::<_, hyper::Error>(Response::new(Full::new(body?.to_bytes())))
            }
        });
        let server = bind().await;
        let address = server.local_addr().clone();
        let body = async |_| {
            let client = with_client(address, async move |client: Client, _| {
                let request = Request::post("http://a/").body(()).unwrap();
                let (answer, mut upload) = client.ready().await.unwrap().send_request(request, false).unwrap();
                upload.send_data(Bytes::from_static(b"half"), false).unwrap();
                has_begun.recv().await.unwrap();
                upload.send_reset(h2::Reason::CANCEL);
                assert!(has_ended.recv().await.unwrap(), "the body ends with an error");
                drop(answer);
            });
            client.await;
            Ok(())
        };
        let ((), report) = server.scope(Http::new().handler(service), body).await.unwrap();
        let counts = report.counts();
        assert_eq!((counts.requests(), counts.requests_failed(), counts.requests_panicked()), (1, 0, 0), "{report}");
        assert_eq!((report.completed(), report.failed()), (1, 0), "{report}");
    });
}

#[test]
fn no_request_of_busy_clients_of_http_2_is_lost() {
    const CONNECTIONS: usize = 8;
    const STREAMS: usize = 8;
    test(async {
        for lame_duck in [0, 50] {
            let busy_streams = Arc::<AtomicUsize>::default();
            let server = bind().await.lame_duck(Duration::from_millis(lame_duck));
            let address = server.local_addr().clone();
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let busy_streams = Arc::clone(&busy_streams);
                    task::spawn(with_client(address.clone(), async move |client, connection| {
                        let busy = |stream: usize| {
                            let (client, busy_streams) = (client.clone(), Arc::clone(&busy_streams));
                            tokio::spawn(async move {
                                let mut answered = 0;
                                while let Some(answer) = ask(&client, &format!("/{stream}")).await {
                                    let answer = answer.map_err(|error| error.to_string())?;
                                    assert_eq!(answer, format!("/{stream}"));
                                    answered += 1;
                                    if answered == 10 {
                                        busy_streams.fetch_add(1, Ordering::SeqCst);
                                    }
                                }
                                Ok::<_, String>(())
                            })
                        };
                        let mut ends = Vec::new();
                        for stream in (0..STREAMS).map(busy).collect::<Vec<_>>() {
                            ends.push(stream.await.unwrap());
                        }
                        drop(client);
                        connection.await.unwrap().unwrap();
                        ends
                    }))
                })
                .collect();
            let body = async |_: Handle| {
                while busy_streams.load(Ordering::SeqCst) < CONNECTIONS * STREAMS {
                    task::sleep(Duration::from_millis(5)).await;
                }
            };
            let (_, report) = server.scope(Http::new().handler(paths()), body).await.unwrap();
            let mut lost = Vec::new();
            for client in clients {
                lost.extend(client.await.into_iter().filter_map(Result::err));
            }
            assert_eq!((lost, report.completed()), (vec![], CONNECTIONS as u64), "{report}");
        }
    });
}

/// Waits for a drain in its requests below `/waits`, and for ever below `/stays`.
async fn wait(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let connection = request.extensions().get::<Connection>().unwrap();
    match request.uri().path() {
        "/waits" => connection.draining().await,
        "/stays" => std::future::pending().await,
        _ => {}
    }
    Ok(Response::new(request.uri().path().to_owned()))
}

/// Returns a service that [waits](wait), except for `/first`, and the number of its requests in progress.
fn counted() -> (impl HttpService<ByHyper, Incoming>, Live) {
    let live = Live::default();
    let held = live.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let guard = (request.uri().path() != "/first").then(|| held.guard());
        async move {
            let answer = wait(request).await;
            drop(guard);
            answer
        }
    });
    (service, live)
}

#[test]
fn goaway_comes_with_the_request_for_a_shutdown_and_streams_in_progress_are_answered() {
    test(async {
        let server = bind().await.lame_duck(FOR_EVER).grace(None);
        let (address, handle) = (server.local_addr().clone(), server.handle());
        let (service, count) = counted();
        let client = task::spawn(with_client(address, async move |client, connection| {
            assert_eq!(ask(&client, "/first").await.unwrap().unwrap(), "/first");
            let waiting = tokio::spawn({
                let client = client.clone();
                async move { ask(&client, "/waits").await.unwrap() }
            });
            while count.count() == 0 {
                tokio::task::yield_now().await;
            }
            drop(handle.shutdown());
            while ask(&client, "/late").await.is_some() {} // answered, until GOAWAY is there
            // GOAWAY may come before the phase: both follow the request.
            assert!(handle.phase() < Phase::Draining, "{}", handle.phase());
            handle.reached(Phase::LameDuck).await;
            drop(handle.shutdown()); // skips the rest
            let answer = waiting.await.unwrap().unwrap();
            drop(client);
            connection.await.unwrap().unwrap();
            answer
        }));
        let report = server.serve_http(service).await.unwrap();
        assert_eq!((client.await.as_str(), report.completed()), ("/waits", 1), "{report}");
    });
}

#[test]
fn a_client_that_does_not_answer_a_ping_holds_a_drain_for_a_moment_only() {
    test(async {
        let server = bind().await.grace(None);
        let address = server.local_addr().clone();
        let body = async |server: Handle| {
            let mut client = connect(&address);
            let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            // HEADERS of stream 1, which end it: GET, http, `/`.
            let headers = [0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84];
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
            client.write_all(&[&settings[..], &headers[..]].concat()).unwrap();
            while server.counts().open() == 0 {
                task::yield_now().await;
            }
            Ok(client)
        };
        let (mut client, report) = server.scope(Http::new().handler(paths()), body).await.unwrap();
        let mut frames = Vec::new();
        client.read_to_end(&mut frames).unwrap();
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
        assert!(frames.windows(9).any(|frame| frame[3..9] == [7, 0, 0, 0, 0, 0]), "no GOAWAY: {frames:?}");
    });
}

#[test]
fn an_idle_connection_of_http_2_gets_goaway() {
    test(async {
        let server = bind().await;
        let address = server.local_addr().clone();
        let handler = Http::new().keep_alive_timeout(IDLE).handler(paths());
        let body = async |_: Handle| {
            let client = with_client(address, async |client, connection| {
                assert_eq!(ask(&client, "/a").await.unwrap().unwrap(), "/a");
                connection.await.unwrap().unwrap(); // the server ends it
                ask(&client, "/b").await.is_none()
            });
            Ok(client.await)
        };
        let (was_refused, report) = server.scope(handler, body).await.unwrap();
        assert!(was_refused);
        assert_eq!(report.completed(), 1, "{report}");
    });
}

#[test]
fn a_cancel_drops_the_streams_of_a_connection() {
    test(async {
        let server = bind().await;
        let (address, handle) = (server.local_addr().clone(), server.handle());
        let (service, live) = counted();
        let count = live.clone();
        let client = task::spawn(with_client(address, async move |client, _| {
            let requests = (0..5).map(|_| {
                let client = client.clone();
                tokio::spawn(async move { ask(&client, "/stays").await.unwrap().is_err() })
            });
            let requests: Vec<_> = requests.collect();
            while count.count() < 5 {
                tokio::task::yield_now().await;
            }
            drop(handle.cancel());
            let mut failed = 0;
            for request in requests {
                failed += usize::from(request.await.unwrap());
            }
            failed
        }));
        let report = server.serve_http(service).await.unwrap();
        assert_eq!(live.count(), 0);
        assert_eq!((client.await, report.cancelled()), (5, 1), "{report}");
    });
}

/// Opens a stream, whose answer is not read yet. The client's window is the default one, 65,535 bytes.
async fn begin(client: &Client, request: Request<()>, ends: bool) -> (Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let (answer, send) = client.clone().ready().await.unwrap().send_request(request, ends).unwrap();
    (answer.await.unwrap(), send)
}

/// h2 takes a chunk as a whole, and sends it as the client's window allows.
#[test]
fn a_slow_reader_of_http_2_gets_its_whole_answer_in_a_drain() {
    const LENGTH: usize = 1 << 20;
    test(async {
        let service = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("x".repeat(LENGTH))));
        let server = bind().await.grace(None);
        let (address, handle) = (server.local_addr().clone(), server.handle());
        let client = task::spawn(with_client(address, async move |client, _| {
            let request = Request::get("http://a/").body(()).unwrap();
            let (answer, _) = begin(&client, request, true).await;
            let (mut body, mut length) = (answer.into_body(), 0);
            drop(handle.shutdown());
            task::sleep(Duration::from_millis(2500)).await; // longer than an idle connection has for its end
            while let Some(data) = body.data().await {
                let n = data.unwrap().len();
                length += n;
                body.flow_control().release_capacity(n).unwrap();
            }
            length
        }));
        let report = server.serve_http(service).await.unwrap();
        assert_eq!((client.await, report.completed()), (LENGTH, 1), "{report}");
    });
}

/// A body of one frame, whose destructor takes a while.
struct SlowToDrop(Option<Bytes>);

impl Body for SlowToDrop {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

impl Drop for SlowToDrop {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The answer's last frame is sent before its body is dropped, on another thread.
#[test]
fn a_connection_is_idle_once_the_body_of_its_last_answer_is_dropped() {
    test(async {
        let service = service_fn(async |_: Request<Incoming>| {
            Ok::<_, Infallible>(Response::new(SlowToDrop(Some(Bytes::from_static(b"slow")))))
        });
        let server = bind().await;
        let address = server.local_addr().clone();
        let handler = Http::new().keep_alive_timeout(IDLE).handler(service);
        let body = async |_: Handle| {
            let client = with_client(address, async |client, connection| {
                assert_eq!(ask(&client, "/").await.unwrap().unwrap(), "slow");
                connection.await.unwrap().unwrap(); // the server ends it
            });
            client.await;
            Ok(())
        };
        let (_, report) = server.scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}

/// Answers CONNECT with an echo, which is a task of the connection.
async fn echo_upgraded(mut request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let upgrade = hyper::upgrade::on(&mut request);
    let connection = request.extensions().get::<Connection>().unwrap().clone();
    drop(connection.clone().spawn(async move {
        let mut stream = pin!(upgrade.await.unwrap());
        let mut buf = [0; 16];
        loop {
            let mut buf = ReadBuf::new(&mut buf);
            poll_fn(|cx| stream.as_mut().poll_read(cx, buf.unfilled())).await.unwrap();
            if buf.filled().is_empty() {
                break;
            }
            poll_fn(|cx| stream.as_mut().poll_write(cx, buf.filled())).await.unwrap();
        }
    }));
    Ok(Response::new(String::new()))
}

#[test]
fn an_upgraded_stream_of_http_2_keeps_its_connection_open() {
    test(async {
        let server = bind().await.grace(None);
        let (address, handle) = (server.local_addr().clone(), server.handle());
        let client = task::spawn(with_client(address, async move |client, _| {
            let (answer, mut send) = begin(&client, Request::connect("a:80").body(()).unwrap(), false).await;
            let mut receive = answer.into_body();
            for word in ["idle", "draining"] {
                task::sleep(Duration::from_millis(1500)).await;
                send.send_data(word.into(), false).unwrap();
                let echo = receive.data().await.expect(word).expect(word);
                assert_eq!(echo, word);
                drop(handle.shutdown());
            }
            send.send_data(Bytes::new(), true).unwrap();
            while let Some(data) = receive.data().await {
                assert_eq!(data.unwrap(), "");
            }
        }));
        let handler = Http::new().keep_alive_timeout(IDLE).handler(service_fn(echo_upgraded));
        let report = server.serve(handler).await.unwrap();
        client.await;
        assert_eq!(report.completed(), 1, "{report}");
    });
}
