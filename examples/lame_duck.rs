//! A server behind a load balancer: when it is told to stop, it is not ready at once, but goes on accepting until the load
//! balancer has taken notice. No client is turned away.
//!
//! ```text
//! cargo run --example lame_duck
//! ```

mod shared;

use async_std::prelude::*;
use async_std::{io, net::TcpStream, task};
use ebbtide::{Connection, Handle, Server};
use femme::LevelFilter;
use std::future::pending;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, behind_a_load_balancer)
}

async fn behind_a_load_balancer(address: String) -> io::Result<()> {
    let server = Server::bind(address)
        .await?
        .lame_duck(Duration::from_secs(2)) // longer than the load balancer takes between two looks at us
        .grace(Duration::from_secs(5)); // from then on; the whole exit takes at most 7 seconds
    println!("{server}");
    let address = server.local_addr().as_tcp().expect("it was bound to a TCP address");

    let handle = server.handle();
    server
        .scope(greet, async |server| {
            look(&server, address).await;

            println!("Shutting down...");
            drop(server.shutdown()); // asks at once; nobody has to wait for it here
            look(&server, address).await;

            server.until_draining(pending::<()>()).await; // the lame duck is over, and what is left is drained
        })
        .await?;
    look(&handle, address).await;
    Ok(())
}

/// What the load balancer sees, and what a client does that it sends all the same. A real server would answer the question
/// of readiness on a port of its own: `200` while `is_ready()`, and then `503`.
async fn look(server: &Handle, address: SocketAddr) {
    task::sleep(Duration::from_millis(100)).await; // time for the request to be carried out
    let client = match TcpStream::connect(address).await {
        Ok(mut client) => {
            let mut greeting = String::new();
            match client.read_to_string(&mut greeting).await {
                Ok(_) => format!("is told `{greeting}`"),
                Err(error) => format!("loses its connection: {error}"),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => "is refused".to_owned(),
        Err(error) => format!("cannot connect: {error}"),
    };
    println!("ready={} serving={}: a client that comes now {client}", server.is_ready(), server.is_serving());
}

async fn greet(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"hello").await
}
