//! Inside tokio: the handlers run on tokio's executor, so its timers, `spawn` and I/O work in them.
//!
//! ```sh
//! cargo run --example inside_tokio
//! ```
//!
//! It prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! The handler waits with tokio's timer
//! A task of tokio has computed 42
//! The client has read: 42
//! 1 accepted, 1 completed
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! ebbtide = { version = "0.1", default-features = false }
//! futures-lite = "2.6"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread", "time"] }
//! ```

use ebbtide::{Connection, Listener, Server};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use std::{io, time::Duration};

async fn answer(mut conn: Connection) -> io::Result<()> {
    println!("The handler waits with tokio's timer");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = tokio::spawn(async { 6 * 7 }).await?;
    println!("A task of tokio has computed {answer}");
    conn.write_all(answer.to_string().as_bytes()).await
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let tokio = tokio::runtime::Handle::current();
    let (memory, connector) = Listener::memory(); // for a client in this program
    let server = Server::bind(address).await?.executor(move |job| drop(tokio.spawn(job))).add_listener(memory);
    println!("Server listening on {}", server.local_addr());
    let (answer, report) = server
        .scope(answer, async |_server| {
            let mut client = connector.connect().await?;
            let mut answer = String::new();
            client.read_to_string(&mut answer).await?;
            Ok(answer)
        })
        .await?;
    println!("The client has read: {answer}");
    println!("{} accepted, {} completed", report.accepted(), report.completed());
    Ok(())
}
