//! On smol, without async-std: the feature `smol` in place of the default one.
//!
//! ```sh
//! cargo run --example smol --no-default-features --features smol
//! SMOL_THREADS=4 cargo run --example smol --no-default-features --features smol   # smol has one thread by default
//! ```
//!
//! It prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! The client has read: HELLO
//! Shutting down...
//! Server closed: serving=false
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! ebbtide = { version = "0.1", default-features = false, features = ["smol"] }
//! smol = "2.0"
//! ```

use ebbtide::{Connection, Server};
use smol::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use smol::net::TcpStream;
use std::io;

async fn shout(mut conn: Connection) -> io::Result<()> {
    let mut lines = conn.lines();
    while let Some(line) = lines.next().await? {
        conn.write_all(format!("{}\n", line.to_uppercase()).as_bytes()).await?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    smol::block_on(async {
        let server = Server::bind(address).await?;
        println!("{server}");
        let handle = server.handle();
        let address = server.local_addr().tcp()?;
        let serving = smol::spawn(server.serve(shout));

        let mut client = BufReader::new(TcpStream::connect(address).await?);
        client.get_mut().write_all(b"hello\n").await?;
        let mut line = String::new();
        client.read_line(&mut line).await?;
        println!("The client has read: {}", line.trim_end());

        println!("Shutting down...");
        handle.shutdown().await;
        println!("Server closed: serving={}", handle.is_serving());
        serving.await?;
        Ok(())
    })
}
