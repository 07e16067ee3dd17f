//! A tide application with a shutdown that answers every request in progress. Only the argument of `app.listen(…)` is
//! new.
//!
//! ```sh
//! cargo run -p ebbtide-apps --bin tide_app
//! curl -i 127.0.0.1:8080/orders/shoes --json '{"name":"Chashu","legs":4}'   # in another terminal
//! curl -i 127.0.0.1:8080/slow/3                       # press Ctrl-C at the server now: it is answered
//! ```
//!
//! `Drained` is a listener of tide's, to copy. It serves each connection with async-h1, as tide's own listener does,
//! but in a server of ebbtide. At Ctrl-C or SIGTERM, idle connections are closed, and requests in progress are
//! answered, with `Connection: close`, for at most the grace period of 5 seconds.
//!
//! With one request, and then Ctrl-C, it prints, with its log between these lines:
//!
//! ```text
//! Server listening on 127.0.0.1:8080
//! …
//! closed in … because SIGINT was received: 1 accepted, 1 completed, 0 failed, 0 panicked, 0 cancelled; …
//! ```
//!
//! async-h1 2.3, and with it tide on every listener, has faults that `axum` on hyper does not have:
//!
//! - Pipelining: requests that arrive together with the one before them are lost. The client gets one answer, and waits
//!   for the others.
//! - A malformed request gets no answer, such as 400: the connection is closed. The same happens to a request of
//!   HTTP/1.0, to one without `Host`, and to one whose head has more than 8 KiB. The handler returns an error, so the
//!   report counts the connection as failed.
//! - If a head is not complete within 60 seconds, the connection is closed without an answer, too.
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-h1 = "2.3"
//! async-std = { version = "1.13", features = ["attributes"] }
//! async-trait = "0.1"
//! ebbtide = "0.1"
//! femme = "2.2"
//! serde = { version = "1", features = ["derive"] }
//! tide = { version = "0.16", default-features = false, features = ["logger"] }
//! ```

use async_h1::server::{ConnectionStatus, Server as Http};
use async_std::future::timeout;
use ebbtide::{BoxError, Connection, Server, signal};
use serde::Deserialize;
use std::{fmt, io, time::Duration};
use tide::listener::{ListenInfo, Listener, ToListener};
use tide::{Request, http};

#[derive(Deserialize)]
struct Animal {
    name: String,
    legs: u16,
}

#[async_std::main]
async fn main() -> Result<(), BoxError> {
    femme::with_level(femme::LevelFilter::Info);
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let server = Server::bind(address).await?.grace(Duration::from_secs(5)).shutdown_on(signals);
    println!("{server}");
    let mut app = tide::new();
    app.at("/orders/shoes").post(order_shoes);
    app.at("/slow/:seconds").get(slow);
    app.listen(Drained { address: format!("http://{}", server.local_addr()), server: Some(server), app: None }).await?;
    Ok(())
}

async fn order_shoes(mut request: Request<()>) -> tide::Result {
    let Animal { name, legs } = request.body_json().await?;
    Ok(format!("Hello, {name}! I've put in an order for {legs} shoes\n").into())
}

async fn slow(request: Request<()>) -> tide::Result {
    async_std::task::sleep(Duration::from_secs(request.param("seconds")?.parse()?)).await;
    Ok("slow\n".into())
}

/// The state of the application: what `tide::with_state` is given.
type State = ();

/// A server of ebbtide as a listener of tide's.
#[derive(Debug)]
struct Drained {
    address: String,
    server: Option<Server>,
    app: Option<tide::Server<State>>,
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl ToListener<State> for Drained {
    type Listener = Self;

    fn to_listener(self) -> io::Result<Self> {
        Ok(self)
    }
}

#[async_trait::async_trait]
impl Listener<State> for Drained {
    async fn bind(&mut self, app: tide::Server<State>) -> io::Result<()> {
        self.app = Some(app); // ebbtide's server is bound already
        Ok(())
    }

    async fn accept(&mut self) -> io::Result<()> {
        let (server, app) = self.server.take().zip(self.app.take()).expect("tide binds it, and calls this once");
        let report = server.serve(move |connection| serve(connection, app.clone())).await?;
        println!("{report}");
        Ok(())
    }

    fn info(&self) -> Vec<ListenInfo> {
        vec![ListenInfo::new(self.address.clone(), "tcp".into(), false)]
    }
}

async fn serve(connection: Connection, app: tide::Server<State>) -> Result<(), BoxError> {
    let mut http = Http::new(connection.clone(), async |mut request: http::Request| {
        request.set_peer_addr(Some(connection.peer_addr()));
        request.set_local_addr(Some(connection.local_addr()));
        let mut response: http::Response = app.respond(request).await?;
        if connection.is_draining() {
            response.insert_header("connection", "close");
        }
        Ok(response)
    });
    // `more` is false at EOF, and in a drain between two requests. `eof_on_drain` would not do: for it `100 Continue`
    // is an answer, so the body that follows would be cut.
    while timeout(Duration::from_secs(60), connection.more()).await.unwrap_or(Ok(false))? {
        match http.accept_one().await {
            Ok(ConnectionStatus::KeepAlive) => {}
            Ok(ConnectionStatus::Close) => break,
            // An `io::Error` by value: the peer's faults are counted apart.
            Err(error) => return Err(error.downcast::<io::Error>().map_or_else(BoxError::from, BoxError::from)),
        }
    }
    Ok(())
}
