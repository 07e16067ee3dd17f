//! A user's tests without sockets: no port is taken, nothing leaves the process, and what cannot be had from a network can:
//! a client that stops in the middle of a line, surely; a hundred at a time, at once.
//!
//! ```text
//! cargo run --example in_memory
//! cargo test --example in_memory
//! ```
//!
//! The tests are at the end, to be copied. `main` does the same for people who read.

mod shared;

use async_std::io::{self, BufReader, prelude::*};
use ebbtide::{Connection, Connector, Listener, Report, Server};
use femme::LevelFilter;
use futures_concurrency::prelude::*;
use std::process::ExitCode;

/// The handler that is to be tested: says each line again, louder.
async fn shout(conn: Connection) -> io::Result<()> {
    let mut lines = BufReader::new(&conn);
    let mut line = String::new();
    while lines.read_line(&mut line).await? > 0 {
        if !line.ends_with('\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client stopped in the middle of a line"));
        }
        (&conn).write_all(line.to_uppercase().as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

/// A server that serves the handler while `test` runs, and what came of both.
async fn with_server<T>(test: impl AsyncFnOnce(Connector) -> io::Result<T>) -> io::Result<(T, Report)> {
    let (listener, connector) = Listener::memory();
    let (value, report) = Server::new(listener).scope(shout, async |_| test(connector).await).await?;
    Ok((value.expect("nobody but the body ends this server")?, report))
}

/// All that a client hears who says this and then listens.
async fn talk(connector: &Connector, words: &str) -> io::Result<String> {
    let mut client = connector.connect().await?;
    client.write_all(words.as_bytes()).await?;
    client.close().await?; // its own direction
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn main() -> ExitCode {
    shared::run(LevelFilter::Error, async |_address| {
        let (answer, _) = with_server(async |connector| talk(&connector, "hello\nworld\n").await).await?;
        println!("A client that says `hello` and `world` hears {answer:?}");

        let (answers, report) = with_server(async |connector| {
            (0..100).map(|_| talk(&connector, "at once\n")).collect::<Vec<_>>().try_join().await
        })
        .await?;
        let all = answers.iter().all(|answer| answer == "AT ONCE\n");
        println!("{} clients at a time all hear it: {all}; {} completed", answers.len(), report.completed());

        let (answer, report) = with_server(async |connector| talk(&connector, "hel").await).await?;
        println!("One that stops in the middle of a line hears {answer:?}; {} failed", report.failed());

        let (connector, _) = with_server(async |connector| Ok(connector)).await?;
        println!("One that comes after the end is refused: {}", connector.connect().await.is_err());
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[async_std::test]
    async fn each_line_comes_back_louder() -> io::Result<()> {
        let (answer, report) = with_server(async |connector| talk(&connector, "hello\nworld\n").await).await?;
        assert_eq!(answer, "HELLO\nWORLD\n");
        assert_eq!(report.completed(), 1);
        Ok(())
    }

    #[async_std::test]
    async fn half_a_line_is_a_failure_and_has_no_answer() -> io::Result<()> {
        let (answer, report) = with_server(async |connector| talk(&connector, "whole\nhal").await).await?;
        assert_eq!(answer, "WHOLE\n");
        assert_eq!((report.completed(), report.failed()), (0, 1));
        Ok(())
    }

    #[async_std::test]
    async fn who_is_connected_at_the_shutdown_sees_the_end() -> io::Result<()> {
        let (mut client, report) = with_server(async |connector| {
            let mut client = connector.connect().await?;
            client.write_all(b"one\n").await?;
            client.read_exact(&mut [0; 4]).await?;
            drop(connector);
            client.close().await?; // or the handler, which does not listen for the drain, would use up the grace period
            Ok(client)
        })
        .await?;
        assert_eq!(client.read(&mut [0]).await?, 0);
        assert_eq!(report.completed(), 1);
        Ok(())
    }
}
