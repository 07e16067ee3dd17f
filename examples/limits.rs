//! A server with limits, and more clients than it takes: overload it, and watch it hold.
//!
//! ```text
//! cargo run --example limits
//! ```

mod shared;

use async_std::prelude::*;
use async_std::{io, net::TcpStream, task};
use ebbtide::{Connection, Handle, Server};
use femme::LevelFilter;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, overload)
}

async fn overload(address: String) -> io::Result<()> {
    let server = Server::bind(address)
        .await?
        .max_connections(3) // the kernel queues the rest
        .first_byte_timeout(Duration::from_secs(2)) // who says nothing does not keep a place
        .idle_timeout(Duration::from_secs(60)); // nor who falls silent
    println!("{server}");
    let address = server.local_addr().as_tcp().expect("it was bound to a TCP address");

    let (_, report) = server
        .scope(answer, async |server| {
            let mut clients = Vec::new();
            for _ in 0..10 {
                let mut client = TcpStream::connect(address).await?;
                client.write_all(b"?").await?;
                clients.push(client);
            }
            settles_at(&server, 3).await;
            println!("{} clients came, and {} are served", clients.len(), server.connection_count());

            server.set_max_connections(5);
            settles_at(&server, 5).await;
            println!("The limit is raised, and {} are served", server.connection_count());

            server.pause();
            clients.remove(0).read_to_end(&mut Vec::new()).await?; // reads its answer, and leaves
            settles_at(&server, 4).await;
            println!("Paused, and one has left: {} are served", server.connection_count());

            server.resume();
            settles_at(&server, 5).await;
            println!("Resumed, and {} are served", server.connection_count());

            // Each answer makes room for the next client.
            for client in &mut clients {
                let mut answer = String::new();
                client.read_to_string(&mut answer).await?;
                assert_eq!(answer, "!");
            }
            println!("All have their answer");

            let mut silent = TcpStream::connect(address).await?;
            silent.read_to_end(&mut Vec::new()).await?;
            println!("One that said nothing has been closed");
            io::Result::Ok(())
        })
        .await?;
    println!("{} completed, {} failed, {} cancelled", report.completed(), report.failed(), report.cancelled());
    Ok(())
}

/// Takes its time: half a second before it answers.
async fn answer(mut conn: Connection) -> io::Result<()> {
    conn.read_exact(&mut [0]).await?;
    task::sleep(Duration::from_millis(500)).await;
    conn.write_all(b"!").await
}

/// Waits until so many are served.
async fn settles_at(server: &Handle, connections: usize) {
    while server.connection_count() != connections {
        task::sleep(Duration::from_millis(5)).await;
    }
}
