//! A server with an admin listener: probes, metrics, and a page in the browser that shows what runs and what a drain
//! waits for.
//!
//! ```sh
//! cargo run --example admin --features admin
//! xdg-open http://127.0.0.1:9999/   # in another terminal; or: curl http://127.0.0.1:9999/tree
//! nc 127.0.0.1 8888                 # a client: its first line is its label
//! ```
//!
//! Arguments: the address of the server, and the one of the admin listener. With two clients, Ctrl-C, and the end of
//! the clients, it prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! Admin on http://127.0.0.1:…/
//! admin: closed in … because SIGINT was received: …
//! main: closed in … because SIGINT was received: 2 accepted, 2 completed, …
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = { version = "0.1", features = ["admin"] }
//! ```

use async_std::{io, task};
use ebbtide::admin::Admin;
use ebbtide::{Connection, Server, ServiceGroup, signal};
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let signals = signal::termination()?; // Ctrl-C and SIGTERM
    let main = Server::bind(args.next().unwrap_or("127.0.0.1:8888".into())).await?;
    let admin = Admin::bind(args.next().unwrap_or("127.0.0.1:9999".into())).await?;
    println!("{main}\nAdmin on http://{}/", admin.local_addr());

    let main = main.name("main").grace(Duration::from_secs(60));
    let admin = admin.watch(main.handle());
    let reports = ServiceGroup::new()
        .shutdown_on(signals)
        .server(admin.serve()) // starts first, stops last: it can be asked while the other one drains
        .server(main.serve(stay))
        .run()
        .await?;
    println!("{reports}");
    Ok(())
}

/// Stays as long as the client does.
async fn stay(conn: Connection) -> io::Result<()> {
    conn.spawn_background(async {
        loop {
            task::sleep(Duration::from_secs(10)).await; // a heartbeat, for example
        }
    });
    let mut lines = conn.lines();
    while let Some(line) = lines.next().await? {
        conn.label(line);
    }
    drop(lines);
    conn.peer_closed().await;
    Ok(())
}
