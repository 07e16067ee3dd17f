//! A Unix socket: who may connect is who may write to its file, and the server knows who has.
//!
//! ```text
//! cargo run --example unix
//! cargo run --example unix -- /tmp/another.sock
//! ```
//!
//! While it waits at the end, talk to it from another terminal with `nc -U /tmp/ebbtide.sock`.
#![cfg_attr(not(unix), allow(dead_code, unused_imports))]

mod shared;

use async_std::prelude::*;
use async_std::{io, task};
use ebbtide::{Connection, ListenOptions, Server, signal};
use femme::LevelFilter;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[cfg(unix)]
fn main() -> ExitCode {
    shared::run_at("/tmp/ebbtide.sock", LevelFilter::Warn, serve)
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("error: this system has no Unix sockets that async-std knows");
    ExitCode::FAILURE
}

#[cfg(unix)]
async fn serve(path: String) -> io::Result<()> {
    // First, so that a SIGTERM that comes once the file is there does not leave it behind.
    let signals = signal::termination()?;
    // Nobody but this user may write to the file, and so connect. It is set before anybody can.
    let options = ListenOptions::new().mode(0o600);
    // A file that an earlier run has left, because it was killed, is in no server's way: it is removed, unless a
    // server listens.
    let server = Server::bind_unix_with(&path, &options).await?.shutdown_on(signals);
    println!("{server}");
    println!("The file is there: {}", Path::new(&path).exists());

    let (_, report) = server
        .scope(whoami, async |_| {
            println!("A client is told: {}", ask(&path).await?);
            task::sleep(Duration::from_secs(2)).await;
            println!("Shutting down...");
            Ok(())
        })
        .await?;

    println!("Server closed, and the file is there: {}", Path::new(&path).exists());
    println!("{} accepted, {} completed", report.accepted(), report.completed());
    Ok(())
}

/// Tells its client who it is. The client has no say in it: the system tells.
#[cfg(unix)]
async fn whoami(mut conn: Connection) -> io::Result<()> {
    let answer = match conn.peer_credentials() {
        Some(who) if who.pid() == i32::try_from(std::process::id()).ok() => "you are a part of this very process",
        Some(who) if who.uid() == 0 => "you are the administrator",
        Some(_) => "you are another process of this user",
        None => "who you are this system does not tell",
    };
    conn.write_all(answer.as_bytes()).await
}

#[cfg(unix)]
async fn ask(path: &str) -> io::Result<String> {
    let mut client = async_std::os::unix::net::UnixStream::connect(path).await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    Ok(answer)
}
