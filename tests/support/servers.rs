//! A TCP server, handlers, and assertions that many tests use.

use super::{NET, loopback};
use async_std::{future, io, prelude::*, task};
use ebbtide::{Connection, Report, Server};

/// Binds a TCP server.
pub async fn bind() -> Server {
    Server::bind(loopback()).await.unwrap()
}

/// Echoes until EOF or the drain.
pub async fn echo(conn: Connection) -> io::Result<()> {
    echo_with_buffer(64 * 1024, conn).await
}

/// Echoes until EOF or the drain, with a buffer of this length.
pub async fn echo_with_buffer(length: usize, conn: Connection) -> io::Result<()> {
    let mut buf = vec![0; length];
    while let Some(n) = conn.until_draining((&conn).read(&mut buf)).await.transpose()? {
        if n == 0 {
            break;
        }
        (&conn).write_all(&buf[..n]).await?;
    }
    Ok(())
}

/// Reads until EOF, and then sends everything back.
pub async fn echo_at_eof(conn: Connection) -> io::Result<()> {
    let mut text = Vec::new();
    (&conn).read_to_end(&mut text).await?;
    (&conn).write_all(&text).await
}

/// Replies `whole reply` to one byte.
pub async fn speaks(mut conn: Connection) -> io::Result<()> {
    conn.read_exact(&mut [0]).await?;
    conn.write_all(b"whole reply").await
}

/// Asserts that every accepted connection is in one bucket of the report.
pub fn assert_adds_up(report: &Report) {
    let ends = report.completed()
        + report.failed()
        + report.panicked()
        + report.cancelled()
        + report.disconnected()
        + report.rejected();
    assert_eq!(report.accepted(), ends, "{report}");
}

/// Waits until `what` returns true.
pub async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            task::yield_now().await;
        }
    };
    future::timeout(NET, waiting).await.expect("the awaited condition never became true");
}
