//! An echo server that runs until Ctrl-C or SIGTERM, logs, lets its clients finish, and reports.
//!
//! ```sh
//! cargo run --example echo
//! nc 127.0.0.1 8888   # in another terminal
//! ```
//!
//! With two clients it prints, with its log between these lines:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! …
//! closed in … because SIGINT was received: 2 accepted, 2 completed, 0 failed, 0 panicked, 0 cancelled; …
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
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    femme::start();
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let server = Server::bind(address).await?.grace(Duration::from_secs(5)).shutdown_on(signals);
    println!("{server}");
    let report = server.serve(echo).await?;
    println!("{report}");
    Ok(())
}

async fn echo(mut conn: Connection) -> io::Result<()> {
    let mut buf = vec![0; 1024];
    // `more` is false at EOF, and between two messages once the server drains.
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        conn.write_all(&buf[..n]).await?;
    }
    Ok(())
}
