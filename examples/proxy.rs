//! A TCP proxy that drains: a request in flight is answered first, and an idle client is disconnected at once.
//!
//! ```text
//! cargo run --example proxy
//! cargo run --example proxy -- 127.0.0.1:8888 192.0.2.1:80
//! ```
//!
//! With an upstream it runs until Ctrl-C. Without one it starts its own, with two clients, and shows a drain.
//!
//! `io::copy` reads until EOF and knows nothing of drains. Given the connection, it would wait for an idle client until
//! the grace period is over; dropped when the drain begins, it would lose the answer that is due. So it reads from
//! `conn.eof_on_drain()`, which gives EOF once the server drains, nothing has arrived, and the last bytes are answered.

mod shared;

use async_std::net::TcpStream;
use async_std::prelude::*;
use async_std::{io, task};
use ebbtide::{Connection, Handle, Report, Server, signal};
use femme::LevelFilter;
use futures_concurrency::prelude::*;
use std::net::Shutdown;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    shared::run_with_another(LevelFilter::Warn, proxy)
}

async fn proxy(address: String, upstream: Option<String>) -> io::Result<()> {
    let signals = signal::termination()?;
    let server = Server::bind(address).await?.shutdown_on(signals);
    println!("{server}");

    let report = match upstream {
        Some(upstream) => server.serve(move |conn| forward(conn, upstream.clone())).await?,
        None => demonstrate(server).await?,
    };
    println!("{} completed, {} failed", report.completed(), report.failed());
    Ok(())
}

/// The proxy's handler: copies both ways, and passes each EOF on, since the other direction may have more to say.
async fn forward(conn: Connection, upstream: String) -> io::Result<()> {
    let upstream = connect(&upstream).await?;
    let client = conn.eof_on_drain();
    let requests = async {
        io::copy(&mut &client, &mut &upstream).await?;
        upstream.shutdown(Shutdown::Write)
    };
    let answers = async {
        io::copy(&mut &upstream, &mut &client).await?;
        conn.close_write().await
    };
    (requests, answers).try_join().await?;
    Ok(())
}

async fn connect(upstream: &str) -> io::Result<TcpStream> {
    let connected = io::timeout(Duration::from_secs(5), TcpStream::connect(upstream)).await;
    let stream = connected.map_err(|error| {
        let text = format!("cannot connect to the upstream `{upstream}`: {error}");
        io::Error::new(error.kind(), text)
    })?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The upstream's scope is around the proxy's, so the upstream is still there when the proxy drains.
async fn demonstrate(server: Server) -> io::Result<Report> {
    let upstream = Server::bind("127.0.0.1:0").await?;
    let upstream_address = upstream.local_addr().to_string();
    let handler = move |conn| forward(conn, upstream_address.clone());
    let (report, _) = upstream
        .scope(shout, async |_| {
            let (_, report) = server.scope(handler, async |proxy| Ok(clients(proxy).await?)).await?;
            Ok(report)
        })
        .await?;
    Ok(report)
}

/// Two clients of the proxy: when it drains, one is idle, and one has a request in flight.
async fn clients(proxy: Handle) -> io::Result<()> {
    let address = proxy.local_addr().tcp()?;
    let mut idle = TcpStream::connect(address).await?;
    idle.write_all(b"hello").await?;
    let mut answer = [0; 5];
    idle.read_exact(&mut answer).await?;
    println!("The idle client has asked `hello` and read `{}`", answer.escape_ascii());
    let mut busy = TcpStream::connect(address).await?;
    busy.write_all(b"and now?").await?;
    println!("The busy client has asked `and now?`");

    println!("Shutting down...");
    drop(proxy.shutdown()); // asks at once; there is no need to wait for it here
    (read_rest("idle", idle), read_rest("busy", busy)).try_join().await?;
    Ok(())
}

async fn read_rest(name: &str, mut client: TcpStream) -> io::Result<()> {
    let mut rest = String::new();
    client.read_to_string(&mut rest).await?;
    println!("The {name} client reads `{rest}` and EOF");
    Ok(())
}

/// The upstream's handler. It takes its time.
async fn shout(mut conn: Connection) -> io::Result<()> {
    let mut buf = [0; 1024];
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        task::sleep(Duration::from_secs(1)).await;
        conn.write_all(&buf[..n].to_ascii_uppercase()).await?;
    }
    Ok(())
}
