//! The application of `axum`, on tokio's executor: with tokio's timers, a timeout for requests, and a WebSocket that
//! sends a Close frame at the shutdown.
//!
//! ```sh
//! cargo run -p ebbtide-apps --features tokio --bin axum_on_tokio
//! curl -i 127.0.0.1:8080/slow/10    # in another terminal: 504 after 3 seconds
//! websocat ws://127.0.0.1:8080/echo # or any other client of WebSockets
//! curl -N 127.0.0.1:8080/ticks
//! ```
//!
//! Handlers run on tokio's executor, and the sockets and the shutdown are ebbtide's. `/echo` and `/ticks` take the
//! `Connection` from the extensions of their requests, and wait for its drain: at Ctrl-C or SIGTERM the WebSocket sends
//! the Close frame 1001 (going away), and the events end. The server waits until each WebSocket is dropped, for at most
//! the grace period of 5 seconds. axum runs the WebSocket in a detached task of tokio's, which no server can end: after
//! the grace period its stream is closed, and the task ends when it sees that. (`chat` spawns it by
//! `Connection::spawn`, so that it is a child of the server.)
//!
//! With these three clients, and then Ctrl-C, it prints, with its log between these lines:
//!
//! ```text
//! Server listening on 127.0.0.1:8080
//! …
//! closed in … because SIGINT was received: 3 accepted, 3 completed, 0 failed, 0 panicked, 0 cancelled; …
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! axum = { version = "0.8", default-features = false, features = ["json", "ws"] }
//! ebbtide = { version = "0.1", default-features = false, features = ["http"] }
//! femme = "2.2"
//! futures-lite = "2.6"
//! serde = { version = "1", features = ["derive"] }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread", "time"] }
//! tower-http = { version = "0.7", features = ["compression-gzip", "cors", "timeout", "trace"] }
//! tracing = { version = "0.1", features = ["log"] }
//! ```

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response, Sse, sse::Event};
use axum::routing::{any, get};
use axum::{Extension, Json, Router, http::StatusCode, middleware, middleware::Next};
use ebbtide::{BoxError, Connection, Server, signal};
use futures_lite::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, sync::Arc, sync::Mutex, time::Duration};
use tokio::{runtime::Handle, time};
use tower_http::{compression::CompressionLayer, cors::CorsLayer, timeout::TimeoutLayer};
use tower_http::{trace::DefaultMakeSpan, trace::TraceLayer};

#[derive(Clone, Deserialize, Serialize)]
struct Note {
    text: String,
}

type Notes = State<Arc<Mutex<Vec<Note>>>>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    femme::with_level(femme::LevelFilter::Info);
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let trace = TraceLayer::new_for_http().make_span_with(DefaultMakeSpan::new().level(tracing::Level::INFO));
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(3));
    let app = Router::new()
        .route("/notes", get(async |State(notes): Notes| Json(notes.lock().unwrap().clone())).post(add))
        .route("/slow/{seconds}", get(slow))
        .route("/ticks", get(ticks))
        .route("/echo", any(upgrade))
        .layer(middleware::from_fn(timed))
        .layer((trace, CorsLayer::permissive(), CompressionLayer::new(), timeout))
        .with_state(Arc::default());
    let tokio = Handle::current();
    let server = Server::bind(address).await?.executor(move |job| drop(tokio.spawn(job)));
    let server = server.grace(Duration::from_secs(5)).shutdown_on(signals);
    println!("{server}");
    println!("{}", server.serve_http(app).await?);
    Ok(())
}

async fn add(State(notes): Notes, Json(note): Json<Note>) -> impl IntoResponse {
    notes.lock().unwrap().push(note.clone());
    (StatusCode::CREATED, Json(note))
}

async fn slow(Path(seconds): Path<u64>) -> &'static str {
    time::sleep(Duration::from_secs(seconds)).await;
    "slow\n"
}

async fn ticks(Extension(connection): Extension<Connection>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = stream::unfold(1, async |n| {
        time::sleep(Duration::from_secs(1)).await;
        Some((Ok(Event::default().data(format!("tick {n}"))), n + 1))
    });
    Sse::new(stream::stop_after_future(ticks, connection.draining()))
}

async fn upgrade(upgrade: WebSocketUpgrade, Extension(connection): Extension<Connection>) -> Response {
    upgrade.on_upgrade(|socket| echo(socket, connection))
}

async fn echo(mut socket: WebSocket, connection: Connection) {
    while let Some(received) = connection.until_draining(socket.recv()).await {
        let Some(Ok(message)) = received else { return }; // the client has left
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
    let away = CloseFrame { code: close_code::AWAY, reason: "the server shuts down".into() };
    let _gone = socket.send(Message::Close(Some(away))).await;
    while let Some(Ok(_)) = socket.recv().await {} // until the client has answered the Close frame
}

async fn timed(request: Request, next: Next) -> Response {
    let began = time::Instant::now();
    let mut response = next.run(request).await;
    response.headers_mut().insert("x-millis", (began.elapsed().as_millis() as u64).into());
    response
}
