//! A TCP proxy. In a drain it answers the request in flight, and disconnects idle clients at once.
//!
//! ```sh
//! cargo run --example echo -- 127.0.0.1:9999                   # the upstream, in another terminal
//! cargo run --example proxy -- 127.0.0.1:8888 127.0.0.1:9999
//! nc 127.0.0.1 8888                                            # in a third terminal
//! ```
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
//! futures-concurrency = "7.7"
//! ```

use async_std::io;
use async_std::net::TcpStream;
use ebbtide::{Connection, Server, signal};
use futures_concurrency::prelude::*;
use std::net::Shutdown;
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    femme::with_level(femme::LevelFilter::Warn);
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let upstream = std::env::args().nth(2).unwrap_or("127.0.0.1:9999".into());
    let server = Server::bind(address).await?.shutdown_on(signals);
    println!("{server}");
    let report = server.serve(move |conn| forward(conn, upstream.clone())).await?;
    println!("{} completed, {} failed", report.completed(), report.failed());
    Ok(())
}

async fn forward(conn: Connection, address: String) -> io::Result<()> {
    let connecting = io::timeout(Duration::from_secs(5), TcpStream::connect(&address));
    let upstream = connecting
        .await
        .map_err(|error| io::Error::other(format!("cannot connect to the upstream `{address}`: {error}")))?;
    upstream.set_nodelay(true)?;

    // `io::copy` reads until EOF, which an idle client never sends. `eof_on_drain` makes one when the server drains and
    // no request waits for its answer. Each EOF is passed on, since the other direction may have more to send.
    let client = conn.eof_on_drain();
    let requests = async {
        io::copy(&mut &client, &mut &upstream).await?;
        upstream.shutdown(Shutdown::Write)
    };
    let answers = async {
        io::copy(&mut &upstream, &mut &client).await?;
        conn.close_write().await
    };
    (requests, answers).try_join().await?;
    Ok(())
}
