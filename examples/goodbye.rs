//! A chat, line by line, until Ctrl-C: its members are told that the server closes, and read it whole.
//!
//! ```text
//! cargo run --example goodbye
//! ```
//!
//! Join it from two other terminals with `nc 127.0.0.1 8888`, chat, and press Ctrl-C here.

mod shared;

use async_std::channel::{Sender, bounded};
use async_std::io;
use async_std::prelude::*;
use ebbtide::{Connection, ConnectionId, Server, signal};
use femme::LevelFilter;
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, chat)
}

async fn chat(address: String) -> io::Result<()> {
    let signals = signal::termination()?;
    let server = Server::bind(address).await?.shutdown_on(signals);
    println!("{server}");

    let room = Arc::new(Room::default());
    let report = server.serve(move |conn| member(conn, Arc::clone(&room))).await?;
    println!("{} joined, and {} of them stayed to the end", report.accepted(), report.drained());
    Ok(())
}

async fn member(conn: Connection, room: Arc<Room>) -> io::Result<()> {
    let (inbox, to_write) = bounded(1024);
    let _ = inbox.try_send(format!("you are number {}\n", conn.id()));
    let seat = room.join(conn.id(), inbox);

    let mut writer = conn.clone();
    conn.spawn(async move {
        while let Ok(line) = to_write.recv().await {
            writer.write_all(line.as_bytes()).await?;
        }
        io::Result::Ok(())
    });

    let mut lines = conn.lines().max_len(4096);
    while let Some(line) = lines.next().await? {
        room.say(conn.id(), &line);
    }
    if conn.is_draining() {
        let _ = seat.inbox.try_send("the server closes: goodbye\n".to_owned());
    }
    Ok(()) // the seat's drop ends the queue, and the writer has the task grace, 1 second, to write what is in it
}

/// The queue of each member's writer.
#[derive(Default)]
struct Room(Mutex<HashMap<ConnectionId, Sender<String>>>);

/// A member's place. It is given up when the handler ends, in whichever way.
struct Seat<'a> {
    room: &'a Room,
    number: ConnectionId,
    inbox: Sender<String>,
}

impl Room {
    fn join(&self, number: ConnectionId, inbox: Sender<String>) -> Seat<'_> {
        self.0.lock().unwrap().insert(number, inbox.clone());
        Seat { room: self, number, inbox }
    }

    /// Queues a line for all other members.
    fn say(&self, number: ConnectionId, line: &str) {
        for (_, inbox) in self.0.lock().unwrap().iter().filter(|(other, _)| **other != number) {
            // Nothing waits for a member that does not read: it misses the lines for which its queue has no room, and
            // when the server closes it is cut off after the task grace.
            let _ = inbox.try_send(format!("{number}: {line}\n"));
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.room.0.lock().unwrap().remove(&self.number);
    }
}
