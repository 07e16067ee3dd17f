//! A server that Ctrl-C stops. The program sends itself SIGINT after two seconds; you can be faster.
//!
//! ```sh
//! cargo run --example sigint
//! ```
//!
//! It prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! Shutting down...
//! Server closed: serving=false
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = "0.1"
//! ```

use async_std::io;
use ebbtide::{Connection, Server, signal};
use std::process::Command;
use std::thread;
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    let signals = signal::termination()?; // before the bind, so that an early signal is not lost
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let server = Server::bind(address).await?.shutdown_on(signals);
    println!("{server}");
    let handle = server.handle();
    thread::spawn(press_ctrl_c);

    // The first Ctrl-C (or SIGTERM) drains, a second one cancels, a third one exits at once.
    server.serve(echo).await?;
    println!("Server closed: serving={}", handle.is_serving());
    Ok(())
}

/// Sends back what it reads, until EOF or, between two messages, until the server drains.
async fn echo(conn: Connection) -> io::Result<()> {
    io::copy(&mut conn.eof_on_drain(), &mut &conn).await?;
    Ok(())
}

/// Stands in for the keyboard.
fn press_ctrl_c() {
    thread::sleep(Duration::from_secs(2));
    println!("Shutting down...");
    Command::new("sh").args(["-c", "kill -INT $PPID"]).status().expect("there is a shell");
}
