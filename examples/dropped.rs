//! A serve future under a timeout: once its drop returns, with clients connected, the server is closed.
//!
//! ```text
//! cargo run --example dropped
//! ```

mod shared;

use async_std::prelude::*;
use async_std::{future, io, net::TcpStream};
use ebbtide::{Connection, Server};
use femme::LevelFilter;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How many handlers are alive, counted by the handlers themselves.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Belongs to one handler. It is destroyed with the handler's future, at whichever `await` that is.
struct Live;

impl Live {
    fn new() -> Self {
        LIVE.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, dropped)
}

async fn dropped(address: String) -> io::Result<()> {
    let server = Server::bind(address).await?;
    println!("{server}");
    let handle = server.handle();

    // The server does not serve yet; these clients are in the kernel's queue.
    let address = handle.local_addr().as_tcp().expect("it was bound to a TCP address");
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(address).await?);
    }
    println!("Clients connected: {}", clients.len());

    // Usually this is one line, `timeout(limit, server.serve(wait_for_ever)).await`, and the drop is not to be seen.
    // Here it is taken apart, so that we can look before and after.
    let mut serving = Box::pin(server.serve(wait_for_ever));
    let served = future::timeout(Duration::from_secs(1), &mut serving).await;
    assert!(served.is_err(), "this server does not end by itself");

    println!("Live handlers before the drop: {}", LIVE.load(Ordering::SeqCst));
    drop(serving);
    println!("Live handlers after the drop: {}", LIVE.load(Ordering::SeqCst));
    println!("Server closed: serving={}", handle.is_serving());

    // Seen from the other side: each client reads the end at once, and is not kept waiting.
    for client in &mut clients {
        assert_eq!(client.read(&mut [0]).await?, 0);
    }
    println!("Clients disconnected: {}", clients.len());
    Ok(())
}

async fn wait_for_ever(_conn: Connection) {
    let _live = Live::new();
    future::pending::<()>().await;
}
