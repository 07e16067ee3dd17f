//! A TLS server that reads its certificate again at SIGHUP.
//!
//! ```sh
//! openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost \
//!     -keyout key.pem -out cert.pem
//! cargo run --example tls --features tls
//! openssl s_client -connect 127.0.0.1:8888 -CAfile cert.pem   # in another terminal: prints `hello`
//! pkill -HUP -x tls                                           # after a renewal of the two files
//! ```
//!
//! It needs Unix, and takes the folder of the two files as its second argument (default: the current folder). New
//! connections get the new certificate. If the files cannot be read, the old one stays.
//!
//! With one SIGHUP, and then Ctrl-C, it prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! Certificate reloaded
//! Server closed
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = { version = "0.1", features = ["tls"] }
//! femme = "2.2"
//! ```

use async_std::{io, prelude::*};
use ebbtide::{Connection, ListenOptions, Server, Tls, signal};
use std::path::PathBuf;

#[async_std::main]
async fn main() -> io::Result<()> {
    femme::with_level(femme::LevelFilter::Warn);
    let signals = signal::termination()?;
    let mut hangups = signal::hangup()?; // a SIGHUP that nothing listens for ends the process
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let folder: PathBuf = std::env::args().nth(2).unwrap_or(".".into()).into();
    let tls = Tls::from_pem_files(folder.join("cert.pem"), folder.join("key.pem"))?;
    let server = Server::bind_with(address, &ListenOptions::new().tls(&tls)).await?.shutdown_on(signals);
    println!("{server}");

    // A background task ends with the server.
    server.handle().spawn_background(async move {
        while hangups.next().await.is_some() {
            match tls.reload() {
                Ok(()) => println!("Certificate reloaded"),
                Err(error) => println!("The old certificate stays: {error}"),
            }
        }
    });
    server.serve(greet).await?;
    println!("Server closed");
    Ok(())
}

async fn greet(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"hello\n").await
}
