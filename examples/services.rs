//! Several servers and a task, one exit: they stop in the reverse order, so the health server answers until the main
//! server has drained.
//!
//! ```sh
//! cargo run --example services
//! ```
//!
//! It stops after two seconds, or at Ctrl-C, and prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! the health server says: serving
//! the health server says: draining
//! the health server says: closed
//! health: closed in … because a shutdown stream asked for it: …
//! watcher: completed
//! main: closed in … because a shutdown stream asked for it: 1 accepted, 1 completed, …
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = "0.1"
//! ```

use async_std::{io, net::TcpStream, prelude::*, task};
use ebbtide::{Address, Connection, Handle, Server, ServiceGroup, Stopping, signal};
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let signals = signal::termination()?; // Ctrl-C and SIGTERM
    let health = Server::bind("127.0.0.1:0").await?.name("health");
    let main = Server::bind(address).await?.name("main");
    println!("{main}");
    let (of_main, to_health) = (main.handle(), health.local_addr().clone());
    let _client = TcpStream::connect(main.local_addr().tcp()?).await?;

    let reports = ServiceGroup::new()
        .shutdown_on(signals)
        .shutdown_when(task::sleep(Duration::from_secs(2)))
        .server(health.serve(move |conn| tell(conn, of_main.clone()))) // starts first, stops last
        .task("watcher", move |stopping| watch(stopping, to_health))
        .server(main.serve(work)) // stops first
        .run()
        .await?;
    println!("{reports}");
    Ok(())
}

async fn work(conn: Connection) {
    conn.draining().await;
    task::sleep(Duration::from_secs(1)).await; // what was begun takes a while
}

async fn tell(mut conn: Connection, main: Handle) -> io::Result<()> {
    conn.write_all(main.phase().to_string().as_bytes()).await
}

/// Prints what the health server says, whenever that changes, until the main server has ended.
async fn watch(stopping: Stopping, health: Address) -> io::Result<()> {
    let mut before = String::new();
    loop {
        let is_over = stopping.until(task::sleep(Duration::from_millis(50))).await.is_none();
        let mut says = String::new();
        TcpStream::connect(health.tcp()?).await?.read_to_string(&mut says).await?;
        if says != before {
            println!("the health server says: {says}");
        }
        if is_over {
            return Ok(());
        }
        before = says;
    }
}
