//! A server behind a proxy: the PROXY header gives it the address of the client.
//!
//! ```sh
//! cargo run --example proxy_protocol --features proxy-protocol
//! ```
//!
//! It prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! version 1: `client 192.0.2.1:56324`
//! version 2: `client 192.0.2.1:56324`
//! health check: `client 127.0.0.1, no header`
//! no header: ``
//! 3 completed, 1 rejected
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = { version = "0.1", features = ["proxy-protocol"] }
//! ```

use async_std::prelude::*;
use async_std::{io, net::TcpStream};
use ebbtide::{Connection, ListenOptions, ProxyProtocol, Server};
use std::net::SocketAddr;

/// What a proxy sends for a client 192.0.2.1:56324 that has connected to 198.51.100.2:443.
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb";
/// What it sends for a connection of its own.
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[async_std::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    // Trust the addresses of your proxies only: a trusted peer can pretend to be any client.
    let proxy = ProxyProtocol::required().trust("127.0.0.0/8")?;
    let server = Server::bind_with(address, &ListenOptions::new().proxy_protocol(proxy)).await?;
    println!("{server}");
    let address = server.local_addr().tcp()?;
    let (_, report) = server
        .scope(whoami, async |_| {
            println!("version 1: `{}`", ask(address, V1).await?);
            println!("version 2: `{}`", ask(address, V2).await?);
            println!("health check: `{}`", ask(address, V2_LOCAL).await?);
            println!("no header: `{}`", ask(address, b"").await?);
            Ok(())
        })
        .await?;
    println!("{} completed, {} rejected", report.completed(), report.rejected());
    Ok(())
}

/// Runs after the header has been read; the first byte that it reads is the client's.
async fn whoami(mut conn: Connection) -> io::Result<()> {
    conn.read_exact(&mut [0; 8]).await?;
    let answer = match conn.proxy_header().and_then(|header| header.source()) {
        Some(client) => format!("client {client}"),
        None => format!("client {}, no header", conn.peer_addr().tcp()?.ip()),
    };
    conn.write_all(answer.as_bytes()).await
}

/// Stands in for the proxy.
async fn ask(server: SocketAddr, header: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[header, b"who am I"].concat()).await?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {} // closed before it had read all
        result => drop(result?),
    }
    Ok(answer)
}
