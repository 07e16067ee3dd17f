//! A real echo server. It runs until Ctrl-C or SIGTERM, lets its clients finish, and reports what came of it.
//!
//! ```text
//! cargo run --example echo
//! ```
//!
//! Talk to it with `nc 127.0.0.1 8888` or `telnet 127.0.0.1 8888`, press Ctrl-C here, and see how the client is let go.

mod shared;

use async_std::io;
use async_std::prelude::*;
use ebbtide::{Connection, Server, signal};
use femme::LevelFilter;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    shared::run(LevelFilter::Info, serve_until_told)
}

async fn serve_until_told(address: String) -> io::Result<()> {
    let signals = signal::termination()?; // first: one that comes before the bind is remembered
    let server = Server::bind(address)
        .await?
        .grace(Duration::from_secs(5)) // for handlers that are in the middle of something
        .shutdown_on(signals); // a second signal does not wait for them
    println!("{server}");

    let report = server.serve(echo).await?;
    println!("{report}");
    Ok(())
}

/// Sends back what it reads, until the client hangs up or the server drains.
async fn echo(mut conn: Connection) -> io::Result<()> {
    let mut buf = vec![0; 1024];
    // Only the wait for the client's next words is given up when the server drains. What has arrived is still read, and
    // what was read is sent back whole.
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        conn.write_all(&buf[..n]).await?;
    }
    Ok(())
}
