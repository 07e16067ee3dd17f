//! A body that panics with clients connected: they are drained first, and then the panic goes on. Exit status 101.
//!
//! ```text
//! cargo run --example panic
//! ```

mod shared;

use async_std::prelude::*;
use async_std::{io, net::TcpStream};
use ebbtide::{Connection, Handle, Server};
use femme::LevelFilter;
use std::process::ExitCode;

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, panic)
}

async fn panic(address: String) -> io::Result<()> {
    let server = Server::bind(address).await?;
    println!("{server}");

    // These outlive the scope: the witness sees the panic pass by, and the clients are still there during the drain.
    let _witness = Witness(server.handle());
    let address = server.local_addr().as_tcp().expect("it was bound to a TCP address");
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(address).await?);
    }

    server
        .scope(greet, async |server| {
            // Who has been greeted has a handler that is running.
            for client in &mut clients {
                client.read_exact(&mut [0; HELLO.len()]).await.expect("each client is greeted");
            }
            println!("Clients connected: {}", server.connection_count());
            println!("The body panics");
            panic!("something went wrong in the body");
        })
        .await?;

    unreachable!("the panic goes on when the scope is closed");
}

const HELLO: &[u8] = b"hello\n";

/// Greets, and waits until the client says something or the server drains, which comes first here.
async fn greet(conn: Connection) -> io::Result<()> {
    let mut stream = &conn;
    stream.write_all(HELLO).await?;
    if conn.until_draining(stream.read(&mut [0])).await.is_none() {
        stream.write_all(b"goodbye\n").await?;
        println!("A handler has said goodbye");
    }
    Ok(())
}

/// Dropped when the panic has left the scope.
struct Witness(Handle);

impl Drop for Witness {
    fn drop(&mut self) {
        println!("The panic goes on: serving={}, connections={}", self.0.is_serving(), self.0.connection_count());
    }
}
