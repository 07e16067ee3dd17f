//! Shared state: each call of the handler gets its own `Arc` of it.
//!
//! ```sh
//! cargo run --example state
//! nc 127.0.0.1 8888   # in another terminal: `hello, visitor 1`
//! ```
//!
//! With two clients, and then Ctrl-C, it prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! Visitors: 2
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = "0.1"
//! femme = "2.2"
//! ```

use async_std::{io, prelude::*};
use ebbtide::{Connection, Server, signal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct State {
    greeting: String,
    visitors: AtomicU64,
}

#[async_std::main]
async fn main() -> io::Result<()> {
    femme::with_level(femme::LevelFilter::Warn);
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let server = Server::bind(address).await?.shutdown_on(signals);
    println!("{server}");

    let state = Arc::new(State { greeting: "hello".into(), visitors: AtomicU64::new(0) });
    let shared = Arc::clone(&state);
    server.serve(move |conn| greet(conn, Arc::clone(&shared))).await?;
    println!("Visitors: {}", state.visitors.load(Ordering::Relaxed));
    Ok(())
}

async fn greet(mut conn: Connection, state: Arc<State>) -> io::Result<()> {
    let visitor = state.visitors.fetch_add(1, Ordering::Relaxed) + 1;
    conn.write_all(format!("{}, visitor {visitor}\n", state.greeting).as_bytes()).await
}
