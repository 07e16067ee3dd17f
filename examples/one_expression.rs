//! Bind and scope in one expression. The server lives as long as the code beside it, as with Python's
//! `async with await asyncio.start_server(...)`.
//!
//! ```sh
//! cargo run --example one_expression
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

use async_std::{io, task};
use ebbtide::{Connection, Server};
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let (handle, _report) = Server::bind(address)
        .await?
        .scope(echo, async |handle| {
            println!("Server listening on {}", handle.local_addr());
            task::sleep(Duration::from_secs(2)).await;
            println!("Shutting down...");
            Ok(handle) // the value of the body is a value of the scope
        })
        .await?; // an error of the body arrives here, after the drain
    println!("Server closed: serving={}", handle.is_serving());
    Ok(())
}

/// Sends back what it reads, until EOF or, between two messages, until the server drains.
async fn echo(conn: Connection) -> io::Result<()> {
    io::copy(&mut conn.eof_on_drain(), &mut &conn).await?;
    Ok(())
}
