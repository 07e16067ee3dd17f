//! The commonest mistake: returning from `main` while `serve` lives in a spawned task; after two ways to do it right.
//!
//! ```text
//! cargo run --example commonest_mistake
//! ```
//!
//! The end of `main` is the end of the process. Tasks are not waited for then: they stop wherever they are, and not
//! even their destructors run. No library can do anything about it, so here is what it looks like.

mod shared;

use async_std::prelude::*;
use async_std::{io, net::TcpStream, task};
use ebbtide::{Connection, Server};
use femme::LevelFilter;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, commonest_mistake)
}

async fn commonest_mistake(address: String) -> io::Result<()> {
    println!("Right: await serve in main");
    right_by_awaiting(&address).await?;

    println!("Right: keep the handle, and await the shutdown");
    right_by_handle(&address).await?;

    println!("Wrong: return from main while serve lives in a spawned task");
    wrong(&address).await?;

    println!("main returns, and the reply and the cleanup are lost");
    Ok(())
}

/// The server has no task of its own. It ends by what was given to it: here by a timer, in a real program by
/// `.shutdown_on(signals)`, with the `signal::termination()?` that it has taken first.
async fn right_by_awaiting(address: &str) -> io::Result<()> {
    let server = Server::bind(address).await?.shutdown_when(task::sleep(A_WHILE));
    let client = connect(&server).await?;
    server.serve(work).await?;
    read_reply(client).await
}

/// The server has a task of its own, and `main` asks for its end first, and waits for it.
async fn right_by_handle(address: &str) -> io::Result<()> {
    let server = Server::bind(address).await?;
    let client = connect(&server).await?;
    let handle = server.handle();
    task::spawn(server.serve(work));
    task::sleep(A_WHILE).await;
    handle.shutdown().await;
    read_reply(client).await
}

/// The server has a task of its own, and nothing waits for it; the drop of its `JoinHandle` does not either.
async fn wrong(address: &str) -> io::Result<()> {
    let server = Server::bind(address).await?;
    let _client = connect(&server).await?;
    task::spawn(server.serve(work));
    task::sleep(A_WHILE).await;
    Ok(())
}

/// When the program has other things to do than to serve: long enough for the work to begin, not for it to end.
const A_WHILE: Duration = Duration::from_millis(500);
const WORK: Duration = Duration::from_millis(1500);

async fn work(mut conn: Connection) -> io::Result<()> {
    let _cleanup = Cleanup;
    println!("  handler: working");
    task::sleep(WORK).await;
    conn.write_all(b"done").await
}

/// Whatever must not be left undone: a temporary file, a lock, a last message.
struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        println!("  handler: cleaned up");
    }
}

async fn connect(server: &Server) -> io::Result<TcpStream> {
    println!("  {server}");
    TcpStream::connect(server.local_addr().tcp()?).await
}

async fn read_reply(mut client: TcpStream) -> io::Result<()> {
    let mut reply = String::new();
    client.read_to_string(&mut reply).await?;
    println!("  client: the reply is `{reply}`");
    Ok(())
}
