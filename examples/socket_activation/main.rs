//! A service whose sockets systemd has opened: it is started by the first client, and a restart loses none.
//!
//! ```text
//! cargo build --example socket_activation --features systemd
//! systemd-socket-activate -l 127.0.0.1:8888 target/debug/examples/socket_activation
//! ```
//!
//! Talk to it with `nc 127.0.0.1 8888`. The units `echo.socket` and `echo.service`, beside this file, make it a
//! service.

#[path = "../shared/mod.rs"]
mod shared;

use async_std::io;
use async_std::prelude::*;
use ebbtide::{Connection, Server, signal};
use femme::LevelFilter;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    // Where to listen is written in the socket unit; an address on the command line means nothing here.
    shared::run(LevelFilter::Info, |_address| serve_until_sigterm())
}

async fn serve_until_sigterm() -> io::Result<()> {
    let signals = signal::termination()?; // systemd stops a service with SIGTERM
    let server = server()?
        .grace(Duration::from_secs(5)) // less than `TimeoutStopSec=` in the unit
        .shutdown_on(signals);
    println!("{server}");

    // From here on accepting is our part; until then clients have waited in the queue, and after us they do again.
    let report = server.serve(echo).await?;
    println!("{report}");
    Ok(())
}

/// A server on all sockets that were passed, TCP and Unix alike.
#[cfg(target_os = "linux")]
fn server() -> io::Result<Server> {
    ebbtide::systemd::sockets()?.into_server()
}

#[cfg(not(target_os = "linux"))]
fn server() -> io::Result<Server> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "there is no systemd on this system"))
}

/// Sends back what it reads, until the client hangs up or the server drains.
async fn echo(mut conn: Connection) -> io::Result<()> {
    let mut buf = vec![0; 1024];
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        conn.write_all(&buf[..n]).await?;
    }
    Ok(())
}
