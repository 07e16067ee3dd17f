//! A server that ends at Ctrl-C. Here the program presses it itself, after two seconds: it raises SIGINT.
//!
//! ```text
//! cargo run --example sigint
//! ```

mod shared;

use async_std::io;
use ebbtide::{Connection, Server, signal};
use femme::LevelFilter;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, sigint)
}

async fn sigint(address: String) -> io::Result<()> {
    // First, so that one that comes before the server listens is not lost. The first Ctrl-C (or SIGTERM) shuts the
    // server down, a second one cancels what is still running, and a third one ends the process whatever happens.
    let signals = signal::termination()?;
    let server = Server::bind(address).await?.shutdown_on(signals);
    println!("{server}");
    let handle = server.handle();

    // Somebody at the keyboard: no part of the program, so on a thread of its own.
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(2));
        println!("Shutting down...");
        press_ctrl_c();
    });

    // A server that ends by a signal needs no task of its own: `main` waits here until the signal has come and
    // everything is closed. Then the program goes on, and ends with status 0.
    server.serve(echo).await?;
    println!("Server closed: serving={}", handle.is_serving());
    Ok(())
}

/// Sends back what it reads, until the client hangs up.
async fn echo(conn: Connection) -> io::Result<()> {
    io::copy(&mut &conn, &mut &conn).await?;
    Ok(())
}

#[cfg(unix)]
fn press_ctrl_c() {
    use nix::sys::signal::{Signal, raise};
    raise(Signal::SIGINT).expect("a process may signal itself");
}

#[cfg(not(unix))]
fn press_ctrl_c() {
    println!("(there is no SIGINT on this system: press Ctrl-C yourself)");
}
