//! A chat, line by line, until Ctrl-C: its members are told that the server closes, and read it whole.
//!
//! ```text
//! cargo run --example goodbye
//! ```
//!
//! Join it from two other terminals with `nc 127.0.0.1 8888`, chat, and press Ctrl-C here.

mod shared;

use async_std::channel::{Receiver, Sender, unbounded};
use async_std::io;
use async_std::prelude::*;
use ebbtide::{Connection, ConnectionId, Server, signal};
use femme::LevelFilter;
use futures_concurrency::prelude::*;
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, chat)
}

async fn chat(address: String) -> io::Result<()> {
    let server = Server::bind(address).await?.shutdown_on(signal::ctrl_c()?);
    println!("{server}");

    let room = Arc::new(Room::default());
    let report = server
        .serve(move |conn| {
            let room = Arc::clone(&room); // what handlers share is cloned for each call
            async move { member(conn, &room).await }
        })
        .await?;
    println!("{} joined, and {} of them stayed to the end", report.accepted(), report.drained());
    Ok(())
}

/// What can happen to a member.
enum Event {
    /// It has sent so many bytes.
    Sent(usize),
    /// Somebody else has said this.
    Said(String),
}

async fn member(conn: Connection, room: &Room) -> io::Result<()> {
    let mut stream = &conn;
    let seat = room.join(conn.id());
    stream.write_all(format!("you are number {}\n", conn.id()).as_bytes()).await?;

    let mut typed = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let event = {
            let sent = async { stream.read(&mut chunk).await.map(Event::Sent) };
            let said = async { Ok(Event::Said(seat.said.recv().await.unwrap_or_default())) };
            // NOTE: whatever is ready comes first; the drain ends only the wait. Both futures lose nothing when they
            // are dropped: a single `read` and a `recv` take something or nothing.
            conn.until_draining((sent, said).race()).await
        };
        match event.transpose()? {
            None => return stream.write_all(b"the server closes: goodbye\n").await,
            Some(Event::Said(line)) => stream.write_all(line.as_bytes()).await?,
            Some(Event::Sent(0)) => return Ok(()), // it has left
            Some(Event::Sent(n)) => {
                typed.extend_from_slice(&chunk[..n]);
                while let Some(end) = typed.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = typed.drain(..=end).collect();
                    room.say(conn.id(), &String::from_utf8_lossy(&line));
                }
                if typed.len() > 4096 {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of more than 4,096 bytes"));
                }
            }
        }
    }
}

/// Who is in the chat.
#[derive(Default)]
struct Room {
    members: Mutex<HashMap<ConnectionId, Sender<String>>>,
}

/// A member's place. It is given up when the handler ends, in whichever way.
struct Seat<'a> {
    room: &'a Room,
    number: ConnectionId,
    said: Receiver<String>,
}

impl Room {
    fn join(&self, number: ConnectionId) -> Seat<'_> {
        let (say, said) = unbounded();
        self.members.lock().unwrap().insert(number, say);
        Seat { room: self, number, said }
    }

    /// To everybody else.
    fn say(&self, number: ConnectionId, line: &str) {
        for (&other, inbox) in self.members.lock().unwrap().iter() {
            if other != number {
                let _ = inbox.try_send(format!("{number}: {line}")); // it may just have left
            }
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.room.members.lock().unwrap().remove(&self.number);
    }
}
