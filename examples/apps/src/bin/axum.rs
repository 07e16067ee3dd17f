//! An axum application without tokio's runtime: an unmodified `Router`, on async-std, with a shutdown that loses no
//! request.
//!
//! ```sh
//! cargo run -p ebbtide-apps --bin axum
//! curl -i 127.0.0.1:8080/notes --json '{"text":"buy milk"}'   # in another terminal
//! curl -i 127.0.0.1:8080/notes --compressed
//! curl -i 127.0.0.1:8080/slow/3 --http2-prior-knowledge       # press Ctrl-C at the server now: it is answered
//! curl -N 127.0.0.1:8080/ticks
//! ```
//!
//! It shows routes, JSON, shared state, a middleware, server-sent events, and three layers of tower-http: the log, CORS
//! and compression. At Ctrl-C or SIGTERM, requests in progress are answered, with `Connection: close` on HTTP/1. The
//! events of `/ticks` have no end, so the grace period of 5 seconds ends them, and the report counts that connection as
//! cancelled; `axum_on_tokio` ends them when the drain begins.
//!
//! With two requests, and then Ctrl-C, it prints, with its log between these lines:
//!
//! ```text
//! Server listening on 127.0.0.1:8080
//! …
//! closed in … because SIGINT was received: 2 accepted, 2 completed, 0 failed, 0 panicked, 0 cancelled; …
//! ```
//!
//! What needs tokio's runtime, such as `WebSocketUpgrade` and `TimeoutLayer`, does not work here: see `axum_on_tokio`.
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! axum = { version = "0.8", default-features = false, features = ["json"] }
//! ebbtide = { version = "0.1", features = ["http"] }
//! femme = "2.2"
//! futures-lite = "2.6"
//! serde = { version = "1", features = ["derive"] }
//! tower-http = { version = "0.7", features = ["compression-gzip", "cors", "trace"] }
//! tracing = { version = "0.1", features = ["log"] }
//! ```

use async_std::{stream::Stream, task};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response, Sse, sse::Event};
use axum::{Json, Router, http::StatusCode, middleware, middleware::Next, routing::get};
use ebbtide::{BoxError, Server, signal};
use futures_lite::stream;
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, sync::Arc, sync::Mutex, time::Duration, time::Instant};
use tower_http::{compression::CompressionLayer, cors::CorsLayer, trace::DefaultMakeSpan, trace::TraceLayer};

#[derive(Clone, Deserialize, Serialize)]
struct Note {
    text: String,
}

type Notes = State<Arc<Mutex<Vec<Note>>>>;

#[async_std::main]
async fn main() -> Result<(), BoxError> {
    femme::with_level(femme::LevelFilter::Info);
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let trace = TraceLayer::new_for_http().make_span_with(DefaultMakeSpan::new().level(tracing::Level::INFO));
    let app = Router::new()
        .route("/notes", get(async |State(notes): Notes| Json(notes.lock().unwrap().clone())).post(add))
        .route("/slow/{seconds}", get(slow))
        .route("/ticks", get(ticks))
        .layer(middleware::from_fn(timed))
        .layer((trace, CorsLayer::permissive(), CompressionLayer::new()))
        .with_state(Arc::default());
    let server = Server::bind(address).await?.grace(Duration::from_secs(5)).shutdown_on(signals);
    println!("{server}");
    println!("{}", server.serve_http(app).await?);
    Ok(())
}

async fn add(State(notes): Notes, Json(note): Json<Note>) -> impl IntoResponse {
    notes.lock().unwrap().push(note.clone());
    (StatusCode::CREATED, Json(note))
}

async fn slow(Path(seconds): Path<u64>) -> &'static str {
    task::sleep(Duration::from_secs(seconds)).await;
    "slow\n"
}

async fn ticks() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(1, async |n| {
        task::sleep(Duration::from_secs(1)).await;
        Some((Ok(Event::default().data(format!("tick {n}"))), n + 1))
    }))
}

async fn timed(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let mut response = next.run(request).await;
    response.headers_mut().insert("x-millis", (began.elapsed().as_millis() as u64).into());
    response
}
