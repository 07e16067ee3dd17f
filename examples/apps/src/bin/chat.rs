//! A chat in the browser: its page and its WebSockets on one port, without tokio's runtime.
//!
//! ```sh
//! cargo run -p ebbtide-apps --bin chat
//! xdg-open http://127.0.0.1:8080/room/tea # in another terminal, twice: two pages that talk
//! websocat ws://127.0.0.1:8080/room/tea   # any other client of WebSockets talks to them, too
//! ```
//!
//! The WebSockets are async-tungstenite's, on the streams that hyper hands over (`UpgradedIo`). At Ctrl-C or SIGTERM
//! each member is sent what is queued for it, and then the Close frame 1001 (going away). The server waits until the
//! members have answered it, for at most the grace period of 5 seconds. The page shows the reason, and reconnects by
//! itself: start the server again, and talk on.
//!
//! With two clients of WebSockets, and then Ctrl-C, it prints, with its log between these lines:
//!
//! ```text
//! Server listening on 127.0.0.1:8080
//! …
//! closed in … because SIGINT was received: 2 accepted, 2 completed, 0 failed, 0 panicked, 0 cancelled; …
//! ```
//!
//! To copy it, with `chat.html` beside it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! async-tungstenite = { version = "0.34", default-features = false, features = ["handshake"] }
//! ebbtide = { version = "0.1", features = ["http"] }
//! femme = "2.2"
//! futures-lite = "2.6"
//! ```

use async_std::channel::{Sender, bounded};
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use async_tungstenite::tungstenite::{Message, handshake::server::create_response_with_body};
use ebbtide::http::hyper::{Request, Response, body::Incoming, service::service_fn, upgrade};
use ebbtide::{BoxError, Connection, Server, http::UpgradedIo, signal};
use futures_lite::{StreamExt, future};
use std::{collections::HashMap, sync::Arc, sync::Mutex, time::Duration};

/// The members of each room: for each, the queue of the messages that are sent to it.
type Rooms = Arc<Mutex<HashMap<String, Vec<Sender<Message>>>>>;

#[async_std::main]
async fn main() -> Result<(), BoxError> {
    femme::with_level(femme::LevelFilter::Info);
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let rooms = Rooms::default();
    let chat = service_fn(move |request| future::ready(answer(request, rooms.clone())));
    let server = Server::bind(address).await?.grace(Duration::from_secs(5)).shutdown_on(signals);
    println!("{server}");
    println!("{}", server.serve_http(chat).await?);
    Ok(())
}

fn answer(request: Request<Incoming>, rooms: Rooms) -> Result<Response<String>, BoxError> {
    let Some(room) = request.uri().path().strip_prefix("/room/").map(str::to_owned) else {
        return Ok(Response::builder().status(303).header("location", "/room/lobby").body(String::new())?);
    };
    let Ok(response) = create_response_with_body(&request, String::new) else {
        // It does not ask for a WebSocket.
        let page = include_str!("chat.html").to_owned();
        return Ok(Response::builder().header("content-type", "text/html; charset=utf-8").body(page)?);
    };
    let connection = request.extensions().get::<Connection>().expect("every request has it").clone();
    connection.clone().spawn(async move {
        member(UpgradedIo::new(upgrade::on(request).await?), connection, rooms, room).await;
        Ok::<_, BoxError>(())
    });
    Ok(response)
}

async fn member(stream: UpgradedIo, connection: Connection, rooms: Rooms, room: String) {
    let limits = WebSocketConfig::default().max_message_size(Some(16 * 1024)).max_frame_size(Some(16 * 1024));
    let (mut sender, mut receiver) = WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits)).await.split();
    let (queue, queued) = bounded(64);
    rooms.lock().unwrap().retain(|_, members| {
        members.retain(|member| !member.is_closed()); // those that have left
        !members.is_empty()
    });
    rooms.lock().unwrap().entry(room.clone()).or_default().push(queue);
    let read = async {
        while let Some(Ok(message)) = receiver.next().await {
            for member in rooms.lock().unwrap().get(&room).into_iter().flatten().filter(|_| message.is_text()) {
                let _ = member.try_send(message.clone()); // one that reads slowly misses what its queue has no room for
            }
        }
        queued.close(); // it has left, or sent too much
    };
    let write = async {
        while let Some(Ok(message)) = connection.until_draining(queued.recv()).await {
            sender.send(message).await?;
        }
        let away = || CloseFrame { code: CloseCode::Away, reason: "the server shuts down".into() };
        sender.close(connection.is_draining().then(away)).await
    };
    let _gone = future::zip(read, write).await;
}
