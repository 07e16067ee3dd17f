//! A certificate that is renewed while the server serves: SIGHUP makes it read the files again.
//!
//! ```text
//! cargo run --example reload --features tls
//! cargo run --example reload --features tls -- 127.0.0.1:8888 FOLDER
//! ```
//!
//! With a folder it serves the certificate `cert.pem` and the key `key.pem` in there until Ctrl-C or SIGTERM; renew
//! them, and `kill -HUP` it (systemd: `ExecReload=kill -HUP $MAINPID`). Without one it makes its own, and does all of
//! that itself. See what a client sees with `openssl s_client -connect 127.0.0.1:8888 -CAfile FOLDER/cert.pem`.
#![cfg_attr(not(unix), allow(dead_code, unused_imports))]

mod shared;

use async_std::io;
use async_std::prelude::*;
use ebbtide::{Connection, ListenOptions, Server, Tls, signal};
use femme::LevelFilter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, process, thread};

#[cfg(unix)]
fn main() -> ExitCode {
    shared::run_with_another(LevelFilter::Warn, serve)
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("error: this system has no SIGHUP");
    ExitCode::FAILURE
}

#[cfg(unix)]
async fn serve(address: String, folder: Option<String>) -> io::Result<()> {
    // Both first: a SIGHUP to a program that has not taken it ends it.
    let signals = signal::termination()?;
    let mut hangups = signal::hangup()?;

    let (folder, own) = match folder {
        Some(folder) => (PathBuf::from(folder), None),
        None => {
            let own = Folder::new()?;
            (own.0.clone(), Some(own))
        }
    };
    let tls = Tls::from_pem_files(folder.join("cert.pem"), folder.join("key.pem"))?;
    let server = Server::bind_with(address, &ListenOptions::new().tls(&tls)).await?.shutdown_on(signals);
    println!("{server}");

    // It ends with the server, which does not wait for it.
    server.handle().spawn_background(async move {
        while hangups.next().await.is_some() {
            match tls.reload() {
                Ok(()) => println!("The files are read again: new connections get the new certificate"),
                Err(error) => println!("The old certificate stays: {error}"),
            }
        }
    });

    if own.is_some() {
        thread::spawn(move || renew_and_stop(&folder));
    }
    server.serve(greet).await?;
    println!("Server closed");
    Ok(())
}

async fn greet(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"hello\n").await
}

/// What an administrator does, or the tool that renews certificates: no part of the program, so on a thread of its own.
#[cfg(unix)]
fn renew_and_stop(folder: &Path) {
    use nix::sys::signal::{Signal, raise};
    thread::sleep(Duration::from_secs(1));
    println!("The certificate is renewed, and SIGHUP is sent");
    renew(folder).expect("the folder is our own");
    raise(Signal::SIGHUP).expect("a process may signal itself");
    thread::sleep(Duration::from_secs(1));
    println!("Shutting down...");
    raise(Signal::SIGTERM).expect("a process may signal itself");
}

fn renew(folder: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other)?;
    fs::write(folder.join("cert.pem"), made.cert.pem())?;
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())
}

/// A folder with a certificate and its key, which is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let folder = Self(env::temp_dir().join(format!("ebbtide-example-reload-{}", process::id())));
        fs::create_dir_all(&folder.0)?;
        renew(&folder.0)?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
