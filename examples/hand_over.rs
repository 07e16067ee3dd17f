//! An upgrade without a pause: the program starts its next generation, which takes the listening socket over. When that
//! one is ready, the old one drains.
//!
//! ```sh
//! cargo run --example hand_over --features upgrade
//! ```
//!
//! It needs Unix. The program is its own successor; a real one would start a newer version of its file, on SIGHUP.
//!
//! It prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! A client is served by generation 1
//! Generation 2 is ready
//! Generation 1 drains
//! The next client is served by generation 2
//! The first client reads: goodbye from generation 1
//! Generation 1: 1 accepted, 1 completed
//! Generation 2: 1 accepted, 1 completed
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = { version = "0.1", features = ["upgrade"] }
//! ```

use async_std::io::{self, BufReader, prelude::*};
use async_std::{net::TcpStream, task};
use ebbtide::{Connection, upgrade::Upgrade};
use std::process::Command;
use std::time::Duration;

#[async_std::main]
async fn main() -> io::Result<()> {
    let program = std::env::current_exe()?; // at the start: later the file may have been replaced
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or("127.0.0.1:8888".into());
    let generation: u32 = args.next().map_or(1, |number| number.parse().expect("the generation is a number"));

    let upgrade = Upgrade::from_env()?; // in generation 2: receives the socket of generation 1
    let server = upgrade.bind(&address).await?;
    if !upgrade.is_successor() {
        println!("Server listening on {}", server.local_addr());
    }
    let (_, report) = server
        .scope(
            move |conn| greet(conn, generation),
            async |server| {
                if upgrade.is_successor() {
                    println!("Generation {generation} is ready");
                    upgrade.ready().await?; // from now on it accepts, and generation 1 does not
                    task::sleep(Duration::from_secs(2)).await;
                    return Ok(());
                }
                let address_of_server = server.local_addr().tcp()?;
                let mut first = BufReader::new(TcpStream::connect(address_of_server).await?);
                println!("A client is {}", line(&mut first).await?);

                let mut next = Command::new(program);
                next.args([address, (generation + 1).to_string()]);
                upgrade.hand_over(next).await?; // an error would leave everything as it was
                println!("Generation {generation} drains");
                let closed = server.shutdown();

                let mut second = BufReader::new(TcpStream::connect(address_of_server).await?);
                println!("The next client is {}", line(&mut second).await?);
                println!("The first client reads: {}", line(&mut first).await?);
                drop(closed); // the scope waits for it
                Ok(())
            },
        )
        .await?;
    println!("Generation {generation}: {} accepted, {} completed", report.accepted(), report.completed());
    Ok(())
}

async fn greet(mut conn: Connection, generation: u32) -> io::Result<()> {
    conn.write_all(format!("served by generation {generation}\n").as_bytes()).await?;
    while conn.more().await? {
        conn.read(&mut [0; 1024]).await?;
    }
    if conn.is_draining() {
        conn.write_all(format!("goodbye from generation {generation}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn line(client: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    client.read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}
