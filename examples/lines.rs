//! A protocol of lines: the reply to a line is the sum of its numbers.
//!
//! ```sh
//! cargo run --example lines
//! nc 127.0.0.1 8888   # in another terminal: type `1 2 3`
//! ```
//!
//! When the server drains, `next` returns `None` between two lines, never inside one: a client that has sent half a
//! line can send the rest, and gets its reply.
//!
//! With two clients, and then Ctrl-C, it prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! 2 completed, 0 failed
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

#[async_std::main]
async fn main() -> io::Result<()> {
    femme::with_level(femme::LevelFilter::Warn);
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let server = Server::bind(address).await?.shutdown_on(signals);
    println!("{server}");
    let report = server.serve(sums).await?;
    println!("{} completed, {} failed", report.completed(), report.failed());
    Ok(())
}

async fn sums(mut conn: Connection) -> io::Result<()> {
    let mut lines = conn.lines().max_len(4096);
    while let Some(line) = lines.next().await? {
        let sum: Result<f64, _> = line.split_whitespace().map(str::parse::<f64>).sum();
        let reply = match sum {
            Ok(sum) => format!("{sum}\n"),
            Err(error) => format!("error: {error}\n"),
        };
        conn.write_all(reply.as_bytes()).await?;
    }
    if conn.is_draining() {
        conn.write_all(b"goodbye\n").await?;
    }
    Ok(())
}
