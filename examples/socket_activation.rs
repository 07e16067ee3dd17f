//! A service with sockets that systemd has opened. The first client starts it, and a restart loses no client. It tells
//! systemd when it is ready, what it is doing, how long its drain may take, and that it is alive.
//!
//! ```sh
//! cargo build --example socket_activation --features systemd
//! systemd-socket-activate -l 127.0.0.1:8888 target/debug/examples/socket_activation
//! nc 127.0.0.1 8888   # in another terminal
//! ```
//!
//! It needs Linux. The units in `deploy/systemd` install it.
//!
//! With one client, and then SIGTERM, it prints, with its log between these lines:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! …
//! closed in … because SIGTERM was received: 1 accepted, 1 completed, 0 failed, 0 panicked, 0 cancelled; …
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = { version = "0.1", features = ["systemd"] }
//! femme = "2.2"
//! ```

use async_std::{io, prelude::*};
use ebbtide::{Connection, signal, systemd};
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    femme::start();
    let signals = signal::termination()?;
    let notifier = systemd::Notifier::from_env()?;
    let server = systemd::sockets()?
        .into_server()? // of all sockets of the unit, TCP and Unix alike
        .grace(Duration::from_secs(30)) // may be more than `TimeoutStopSec=` of the unit, because systemd is notified
        .notify_systemd(&notifier)
        .shutdown_on(signals);
    println!("{server}");
    let report = server.serve(echo).await?;
    println!("{report}");
    Ok(())
}

async fn echo(mut conn: Connection) -> io::Result<()> {
    let mut buf = vec![0; 1024];
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        conn.write_all(&buf[..n]).await?;
    }
    Ok(())
}
