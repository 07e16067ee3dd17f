//! A common mistake: `main` returns while `serve` runs in a spawned task. It loses the reply and the cleanup.
//!
//! ```sh
//! cargo run --example common_mistake
//! ```
//!
//! The process ends when `main` returns. Tasks stop where they are, and their destructors do not run. Another right way
//! is to await `serve` in `main`, as most examples do.
//!
//! It prints:
//!
//! ```text
//! Right: main waits for the shutdown
//!   Server listening on 127.0.0.1:8888
//!   handler: working
//!   handler: cleaned up
//!   client: read `done`
//! Wrong: main does not wait
//!   Server listening on 127.0.0.1:8888
//!   handler: working
//! main returns
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = "0.1"
//! ```

use async_std::prelude::*;
use async_std::{io, net::TcpStream, task};
use ebbtide::{Connection, Handle, Server};
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    println!("Right: main waits for the shutdown");
    let (handle, mut client) = start(&address).await?;
    handle.shutdown().await;
    let mut reply = String::new();
    client.read_to_string(&mut reply).await?;
    println!("  client: read `{reply}`");

    println!("Wrong: main does not wait");
    let _started = start(&address).await?;
    println!("main returns");
    Ok(())
}

async fn start(address: &str) -> io::Result<(Handle, TcpStream)> {
    let server = Server::bind(address).await?;
    println!("  {server}");
    let handle = server.handle();
    let client = TcpStream::connect(handle.local_addr().tcp()?).await?;
    task::spawn(server.serve(work));
    task::sleep(Duration::from_millis(500)).await; // the handler has begun its work by then
    Ok((handle, client))
}

async fn work(mut conn: Connection) -> io::Result<()> {
    let _cleanup = Cleanup;
    println!("  handler: working");
    task::sleep(Duration::from_millis(1500)).await;
    conn.write_all(b"done").await
}

struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        println!("  handler: cleaned up");
    }
}
