//! On the terminal: a progress bar while the server drains, and what runs in it, as a tree, at SIGUSR1.
//!
//! ```sh
//! cargo run --example progress
//! pkill -USR1 -x progress   # in another terminal
//! ```
//!
//! It has 20 clients of its own, and stops after two seconds. The bar and the tree go to standard error, the bar only
//! if that is a terminal. The rest is:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! Shutting down...
//! closed in … because a shutdown was requested: 20 accepted, 20 completed, …
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = "0.1"
//! indicatif = "0.18"
//! ```

use async_std::{io, net::TcpStream, prelude::*, task};
use ebbtide::{Connection, Handle, Phase, Server, signal};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let mut user1 = signal::user1()?;
    let server = Server::bind(address).await?.newcomer_time(Duration::ZERO);
    println!("{server}");
    let (shown, listed) = (server.handle(), server.handle());
    server.handle().spawn_background(show_drain(shown));
    server.handle().spawn_background(async move {
        while user1.next().await.is_some() {
            eprint!("{}", listed.task_tree());
        }
    });
    let body = async |server: Handle| {
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(TcpStream::connect(server.local_addr().tcp()?).await?);
        }
        task::sleep(Duration::from_secs(2)).await;
        println!("Shutting down...");
        server.shutdown().await;
        Ok(())
    };
    let ((), report) = server.scope(work, body).await?;
    println!("{report}");
    Ok(())
}

async fn work(conn: Connection) {
    conn.label(format!("order {}", conn.id()));
    conn.draining().await;
    task::sleep(Duration::from_millis(100) * conn.id().as_u64() as u32).await; // what was begun takes a while
}

/// Shows a bar from the beginning of the drain until the last connection has ended.
async fn show_drain(server: Handle) {
    server.reached(Phase::Draining).await;
    let Some(drain) = server.drain_progress() else { return };
    let style = ProgressStyle::with_template("draining {wide_bar} {msg}").expect("the template is right");
    let bar = ProgressBar::new(drain.connections_at_start() as u64);
    let bar = bar.with_style(style).with_finish(ProgressFinish::AndClear); // this task ends with the last connection
    while let Some(drain) = server.drain_progress() {
        bar.set_position((drain.connections_at_start() - drain.connections_left()) as u64);
        bar.set_message(drain.to_string());
        task::sleep(Duration::from_millis(50)).await;
    }
}
