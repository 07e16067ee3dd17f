//! A server behind a proxy, and a stand-in for the proxy in the same program: whom the server takes for its client.
//!
//! ```text
//! cargo run --example proxy_protocol --features proxy-protocol
//! ```

mod shared;

use async_std::prelude::*;
use async_std::{io, net::TcpStream};
use ebbtide::{Connection, ListenOptions, ProxyProtocol, Server};
use femme::LevelFilter;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

fn main() -> ExitCode {
    shared::run(LevelFilter::Error, behind_a_proxy)
}

async fn behind_a_proxy(address: String) -> io::Result<()> {
    // Whoever may send a header may pass for anybody, so only this machine may; all others are closed.
    let proxy = ProxyProtocol::required().trust("127.0.0.0/8")?.trust("::1")?;
    let server = Server::bind_with(address, &ListenOptions::new().proxy_protocol(proxy)).await?;
    println!("{server}");
    let address = server.local_addr().tcp()?;
    let (client, shop) = (SocketAddr::from(([192, 0, 2, 1], 56324)), SocketAddr::from(([198, 51, 100, 2], 443)));

    let (_, report) = server
        .scope(who_are_you, async |_| {
            let line = version_1(client, shop);
            println!("version 1: {}", ask(address, line.as_bytes()).await?);
            println!("version 2: {}", ask(address, &version_2(client, shop)).await?);
            println!("a health check: {}", ask(address, LOCAL).await?);
            println!("no header: the answer is `{}`", ask(address, b"").await?);
            Ok(())
        })
        .await?;
    println!("{} completed, {} rejected", report.completed(), report.rejected());
    Ok(())
}

/// The server's handler. It is called once the header has been read, and begins with the client's own bytes.
async fn who_are_you(mut conn: Connection) -> io::Result<()> {
    let mut question = [0; 12];
    conn.read_exact(&mut question).await?;
    let client = match conn.proxy_header().and_then(|header| header.source()) {
        Some(source) => source.to_string(),
        None => conn.socket_peer_addr().ip().map_or_else(String::new, |ip| ip.to_string()),
    };
    let answer = format!("you are {client}, and asked `{}`", question.escape_ascii());
    conn.write_all(answer.as_bytes()).await
}

/// What a proxy does: connects, says for whom, and passes on what the client sends.
async fn ask(server: SocketAddr, header: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(header).await?;
    stream.write_all(b"who am I now").await?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(answer), // closed while we were sending
        result => result.map(|_| answer),
    }
}

/// A line of text.
fn version_1(source: SocketAddr, destination: SocketAddr) -> String {
    format!("PROXY TCP4 {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port())
}

/// The same in binary: a signature, that it is version 2 and for a client, TCP over IPv4, and 12 bytes of addresses.
fn version_2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    for address in [source, destination] {
        if let IpAddr::V4(ip) = address.ip() {
            header.extend(ip.octets());
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

/// Version 2 for a connection of the proxy's own.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
