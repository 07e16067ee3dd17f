//! Pieces of axum and tower that work unmodified: what an application takes for granted.

use async_std::{io, prelude::*, task};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use ebbtide::http::Http;
use ebbtide::http::http_body_util::Limited;
use ebbtide::http::hyper::body::Incoming;
use ebbtide::{Connection, Listener, Report, Server};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tower::ServiceBuilder;
use tower_http::cors::CorsLayer;

/// A safety net.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends the text of requests on one connection, and returns the text of all answers and the report. The last request
/// says `connection: close`, or its answer does.
fn exchange<F, Fut>(handler: F, requests: &str) -> (String, Report)
where
    F: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), ebbtide::http::Error>> + Send + 'static,
{
    task::block_on(io::timeout(PATIENCE, async {
        let (listener, connector) = Listener::memory();
        let client = async |_server| {
            let mut client = connector.connect().await?;
            client.write_all(requests.as_bytes()).await?;
            let mut answers = String::new();
            client.read_to_string(&mut answers).await?;
            Ok(answers)
        };
        let (answers, report) = Server::new(listener).scope(handler, client).await?;
        Ok((answers, report))
    }))
    .unwrap()
}

async fn length(Json(text): Json<String>) -> String {
    text.len().to_string()
}

/// A request with a string of this length in JSON. Its body has two bytes more.
fn json(length: usize, is_chunked: bool) -> String {
    let text = "x".repeat(length);
    let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n";
    if is_chunked {
        format!("{head}transfer-encoding: chunked\r\n\r\n1\r\n\"\r\n{length:x}\r\n{text}\r\n1\r\n\"\r\n0\r\n\r\n")
    } else {
        format!("{head}content-length: {}\r\n\r\n\"{text}\"", length + 2)
    }
}

#[test]
fn a_body_that_is_too_large_for_max_body_is_answered_with_413() {
    let router = || Router::new().route("/", post(length));
    for is_chunked in [false, true] {
        let (answers, report) = exchange(Http::new().max_body(1000).handler(router()), &json(998, is_chunked));
        assert!(answers.starts_with("HTTP/1.1 200 ") && answers.ends_with("\r\n\r\n998"), "{answers}");
        assert_eq!(report.completed(), 1, "{report}");

        let (answers, report) = exchange(Http::new().max_body(1000).handler(router()), &json(999, is_chunked));
        assert!(answers.starts_with("HTTP/1.1 413 "), "chunked: {is_chunked}: {answers}");
        assert_eq!((report.accepted(), report.panicked()), (1, 0), "{report}");
    }
}

#[test]
fn the_limits_of_axum_work_without_max_body() {
    for is_chunked in [false, true] {
        let router = Router::new().route("/", post(length)).layer(DefaultBodyLimit::max(1000));
        let (answers, _) = exchange(Http::new().handler(router), &json(999, is_chunked));
        assert!(answers.starts_with("HTTP/1.1 413 "), "chunked: {is_chunked}: {answers}");
    }
}

#[test]
fn a_router_with_state_shares_it_between_requests() {
    async fn count(State(count): State<Arc<AtomicUsize>>) -> String {
        count.fetch_add(1, SeqCst).to_string()
    }
    let state = Arc::new(AtomicUsize::new(0));
    let router = Router::new().route("/", get(count)).with_state(Arc::clone(&state));
    let get = "GET / HTTP/1.1\r\nhost: a\r\n";
    let (answers, report) = exchange(Http::new().handler(router), &format!("{get}\r\n{get}connection: close\r\n\r\n"));
    let bodies: Vec<_> = answers.split("HTTP/1.1 200 OK").skip(1).map(|answer| answer.rsplit("\r\n").next()).collect();
    assert_eq!(bodies, [Some("0"), Some("1")], "{answers}");
    assert_eq!(state.load(SeqCst), 2);
    assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
}

#[test]
fn a_middleware_from_a_function_sees_the_request_the_answer_and_the_connection() {
    async fn guard(
        Extension(connection): Extension<Connection>,
        mut request: Request,
        next: Next,
    ) -> Result<Response, StatusCode> {
        let is_allowed = request.headers_mut().remove(header::AUTHORIZATION).is_some_and(|value| value == "secret");
        if !is_allowed {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let mut response = next.run(request).await;
        let id = HeaderValue::from_str(&connection.id().to_string()).unwrap();
        response.headers_mut().insert("x-connection", id);
        Ok(response)
    }
    let router = Router::new().route("/", get("hello")).layer(middleware::from_fn(guard));
    let requests = "GET / HTTP/1.1\r\nhost: a\r\n\r\n\
                    GET / HTTP/1.1\r\nhost: a\r\nauthorization: secret\r\nconnection: close\r\n\r\n";
    let (answers, _) = exchange(Http::new().handler(router), requests);
    let (refused, allowed) = answers.split_once("HTTP/1.1 200 OK").expect("the second is allowed");
    assert!(refused.starts_with("HTTP/1.1 401 "), "{answers}");
    assert!(allowed.contains("x-connection: 0\r\n") && allowed.ends_with("hello"), "{answers}");
}

/// Layers outside the `Router` see requests before it chooses a route. The `Limited` bodies of `max_body` pass, too.
#[test]
fn layers_of_tower_outside_the_router_see_each_request() {
    fn rewrite<B>(mut request: Request<B>) -> Request<B> {
        *request.uri_mut() = "/new".parse().unwrap();
        request
    }
    let router = || Router::new().route("/new", get("hello"));
    let get = "GET /old HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let outside = ServiceBuilder::new().layer(CorsLayer::permissive()).map_request(rewrite::<Incoming>);
    let (plain, _) = exchange(Http::new().handler(outside.service(router())), get);
    let outside = ServiceBuilder::new().layer(CorsLayer::permissive()).map_request(rewrite::<Limited<Incoming>>);
    let (limited, _) = exchange(Http::new().max_body(10).handler(outside.service(router())), get);
    for answer in [plain, limited] {
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
        assert!(answer.contains("access-control-allow-origin: *\r\n"), "{answer}");
    }
}

#[test]
fn a_panic_of_a_handler_is_answered_with_500_and_the_connection_ends_well() {
    let boom = async || -> &'static str { panic!("a panic on purpose") };
    let router = Router::new().route("/boom", get(boom)).route("/", get("hello"));
    let requests = "GET /boom HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (answers, report) = exchange(Http::new().handler(router), requests);
    assert!(answers.starts_with("HTTP/1.1 500 ") && answers.ends_with("hello"), "{answers}");
    assert_eq!((report.completed(), report.panicked()), (1, 0), "{report}");
}

/// axum's `on_upgrade` spawns a task of tokio's. The connection counts as open until that task drops its WebSocket.
#[cfg(feature = "tokio")]
#[test]
fn on_tokio_an_upgraded_connection_is_open_until_its_web_socket_is_dropped() {
    use axum::extract::ws::WebSocketUpgrade;
    use std::sync::atomic::AtomicBool;

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tokio = runtime.handle().clone();
    let is_dropped = Arc::new(AtomicBool::new(false));
    let upgrade = {
        let is_dropped = Arc::clone(&is_dropped);
        async |upgrade: WebSocketUpgrade, Extension(connection): Extension<Connection>| {
            upgrade.on_upgrade(async move |socket| {
                connection.draining().await;
                // A server that does not wait for the WebSocket is closed before this has passed.
                tokio::time::sleep(Duration::from_millis(300)).await;
                is_dropped.store(true, SeqCst);
                drop(socket);
            })
        }
    };
    let router = Router::new().route("/", get(upgrade));
    let report = runtime.block_on(async {
        let server = Server::bind("127.0.0.1:0").await.unwrap().executor(move |job| drop(tokio.spawn(job)));
        let address = server.local_addr().to_string();
        let handle = server.handle();
        let serving = tokio::spawn(server.serve_http(router));
        let client = tokio::task::spawn_blocking(move || {
            let stream = std::net::TcpStream::connect(&address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let (mut socket, _) = tungstenite::client(format!("ws://{address}/"), stream).unwrap();
            handle.shutdown();
            socket.read()
        });
        let read = client.await.unwrap();
        assert!(read.is_err(), "the server has dropped the WebSocket: {read:?}");
        serving.await.unwrap().unwrap()
    });
    assert!(is_dropped.load(SeqCst), "the server did not wait for the WebSocket: {report}");
    assert_eq!((report.accepted(), report.completed(), report.cancelled()), (1, 1, 0), "{report}");
}
