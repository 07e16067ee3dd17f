//! A Unix socket that only this user may connect to. The server knows the user and the process of each client.
//!
//! ```sh
//! cargo run --example unix
//! cargo run --example unix -- /tmp/another.sock
//! nc -U /tmp/ebbtide.sock   # in another terminal, within two seconds
//! ```
//!
//! It needs Unix. A file that a killed server left behind is replaced; a second server gets an error.
//!
//! It prints:
//!
//! ```text
//! Server listening on /tmp/ebbtide.sock
//! The file exists: true
//! A client reads: this process
//! Shutting down...
//! Server closed, the file exists: false
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = "0.1"
//! ```

use async_std::os::unix::net::UnixStream;
use async_std::{io, prelude::*, task};
use ebbtide::{Connection, ListenOptions, Server, signal};
use std::path::Path;
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    let signals = signal::termination()?; // before the bind, or an early SIGTERM leaves the file behind
    let path = std::env::args().nth(1).unwrap_or("/tmp/ebbtide.sock".into());
    let options = ListenOptions::new().mode(0o600); // set before any client can connect
    let server = Server::bind_unix_with(&path, &options).await?.shutdown_on(signals);
    println!("{server}");
    println!("The file exists: {}", Path::new(&path).exists());
    server
        .scope(whoami, async |_| {
            let mut client = UnixStream::connect(&path).await?;
            let mut answer = String::new();
            client.read_to_string(&mut answer).await?;
            println!("A client reads: {answer}");
            task::sleep(Duration::from_secs(2)).await;
            println!("Shutting down...");
            Ok(())
        })
        .await?;
    println!("Server closed, the file exists: {}", Path::new(&path).exists());
    Ok(())
}

async fn whoami(mut conn: Connection) -> io::Result<()> {
    // The kernel knows these; the client cannot forge them.
    let answer = match conn.peer_credentials() {
        Some(peer) if peer.pid() == i32::try_from(std::process::id()).ok() => "this process".into(),
        Some(peer) => format!("user {}", peer.uid()),
        None => "this system does not know its peers".into(),
    };
    conn.write_all(answer.as_bytes()).await
}
