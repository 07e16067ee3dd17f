//! One server with four ways in: two TCP addresses, a Unix socket, and memory. One handler, one limit, one report, and one way
//! out that closes them all.
//!
//! ```text
//! cargo run --example many_listeners
//! ```
#![cfg_attr(not(unix), allow(dead_code, unused_imports))]

mod shared;

use async_std::io::{self, prelude::*};
use async_std::net::TcpStream;
use ebbtide::{Connection, Listener, Server};
use femme::LevelFilter;
use std::process::ExitCode;
use std::{env, process};

#[cfg(unix)]
fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, serve)
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("error: this system has no Unix sockets that async-std knows");
    ExitCode::FAILURE
}

#[cfg(unix)]
async fn serve(address: String) -> io::Result<()> {
    let path = env::temp_dir().join(format!("many_listeners-{}.sock", process::id()));
    let (memory, connector) = Listener::memory();

    let server = Server::bind(address) // all that it resolves to
        .await?
        .listen(Listener::tcp(([127, 0, 0, 1], 0).into())?) // any free port
        .listen(Listener::unix(&path)?)
        .listen(memory)
        .max_connections(100); // in all
    println!("Server listening on {}, and in {} more ways", server.local_addr(), server.local_addrs().count() - 1);

    let (_, report) = server
        .scope(greet, async |server| {
            // The server was told its addresses in this order.
            for address in server.local_addrs() {
                if let Some(tcp) = address.as_tcp() {
                    println!("TCP: {}", hear(TcpStream::connect(tcp).await?).await?);
                } else if let Some(path) = address.as_unix() {
                    let client = async_std::os::unix::net::UnixStream::connect(path).await?;
                    println!("Unix socket: {}", hear(client).await?);
                } else {
                    println!("Memory: {}", hear(connector.connect().await?).await?);
                }
            }
            println!("Shutting down...");
            io::Result::Ok(())
        })
        .await?;

    println!("{} accepted, {} completed", report.accepted(), report.completed());
    let refused = connector.connect().await.is_err();
    println!("Server closed: memory refuses={refused}, the socket's file is there={}", path.exists());
    Ok(())
}

/// Does not care where its client came from.
async fn greet(mut conn: Connection) -> io::Result<()> {
    let greeting = format!("hello, client number {}", conn.id());
    conn.write_all(greeting.as_bytes()).await
}

async fn hear(mut client: impl Read + Unpin) -> io::Result<String> {
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).await?;
    Ok(greeting)
}
