//! Bind and scope in one expression: the server lives as long as the code beside it, as with Python's
//! `async with await asyncio.start_server(...)`.
//!
//! ```text
//! cargo run --example one_expression
//! ```

mod shared;

use async_std::{io, task};
use ebbtide::{Connection, Server};
use femme::LevelFilter;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, one_expression)
}

async fn one_expression(address: String) -> io::Result<()> {
    let (server, _report) = Server::bind(address)
        .await?
        .scope(echo, async |server| {
            println!("Server listening on {}", server.local_addr());
            task::sleep(Duration::from_secs(2)).await;
            println!("Shutting down...");
            Ok(server) // the value of the body comes out at the top; here it is the handle
        })
        .await?;

    // However the body ends, by a value, an error or a panic, the connections are drained before the scope is left. An
    // error of the body comes out by the `?` above.
    println!("Server closed: serving={}", server.is_serving());
    Ok(())
}

/// Sends back what it reads, until the client hangs up.
async fn echo(conn: Connection) -> io::Result<()> {
    io::copy(&mut &conn, &mut &conn).await?;
    Ok(())
}
