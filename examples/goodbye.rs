//! A chat of lines. Each member has a task that writes, fed by a queue. Its last line is a goodbye, which also reaches
//! members that read slowly, or that have sent only half a line.
//!
//! ```sh
//! cargo run --example goodbye
//! nc 127.0.0.1 8888   # in two other terminals
//! ```
//!
//! With two members, and then Ctrl-C, it prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! 2 joined, 2 stayed to the end
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = "0.1"
//! femme = "2.2"
//! ```

use async_std::channel::{Sender, bounded};
use async_std::{io, prelude::*};
use ebbtide::{Connection, ConnectionId, Server, signal};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

type Room = Mutex<HashMap<ConnectionId, Sender<String>>>;

#[async_std::main]
async fn main() -> io::Result<()> {
    femme::with_level(femme::LevelFilter::Warn);
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let server = Server::bind(address).await?.shutdown_on(signals);
    println!("{server}");
    let room = Arc::new(Room::default());
    let report = server.serve(move |conn| member(conn, Arc::clone(&room))).await?;
    println!("{} joined, {} stayed to the end", report.accepted(), report.drained());
    Ok(())
}

async fn member(conn: Connection, room: Arc<Room>) -> io::Result<()> {
    let (queue, to_write) = bounded(1024);
    let _ = queue.try_send(format!("you are number {}\n", conn.id()));
    room.lock().unwrap().insert(conn.id(), queue.clone());
    let seat = Seat(conn.id(), &room);
    let mut writer = conn.clone();
    conn.spawn(async move {
        while let Ok(line) = to_write.recv().await {
            writer.write_all(line.as_bytes()).await?;
        }
        io::Result::Ok(())
    });

    let mut lines = conn.lines().max_len(4096);
    // `until_draining`: in a drain, half a line is not waited for.
    while let Some(Some(line)) = conn.until_draining(lines.next()).await.transpose()? {
        for (_, other) in room.lock().unwrap().iter().filter(|(id, _)| **id != conn.id()) {
            // A member that does not read misses the lines for which its queue has no room.
            let _ = other.try_send(format!("{}: {line}\n", conn.id()));
        }
    }
    drop(seat); // from here on the other members put nothing into this queue
    if conn.is_draining() {
        let _ = queue.send("the server closes: goodbye\n".into()).await; // waits for room in the queue
        drop(queue); // the writer ends when it has written everything
        conn.join_tasks().await; // the grace period is its limit; a handler that returns leaves its tasks 1 second
    }
    Ok(())
}

/// Leaves the room when the handler ends, in whichever way.
struct Seat<'a>(ConnectionId, &'a Room);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.1.lock().unwrap().remove(&self.0);
    }
}
