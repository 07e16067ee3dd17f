//! ebbtide: the echo of the crate's documentation, with the defaults and every guarantee.

use crate::control::{Control, How, Stop};
use async_std::{io, prelude::*, task};
use ebbtide::{Connection, Report, Server};
use futures_lite::future;

pub(super) fn serve<H, Fut>(handler: H, control: &Control) -> io::Result<()>
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    task::block_on(async {
        let server = Server::bind("127.0.0.1:0").await?;
        control.listening(server.local_addr());
        let handle = server.handle();
        let mut serving = Box::pin(server.serve(handler));
        let by_itself = async { Err((&mut serving).await) };
        let stop = match future::or(by_itself, async { Ok(control.stop().await) }).await {
            Ok(stop) => stop,
            Err(ended) => return Err(ended.map_or_else(io::Error::from, |_| io::Error::other("it ended by itself"))),
        };
        match stop.how {
            How::Shutdown => drop(handle.shutdown()),
            How::Cancel => drop(handle.cancel()),
            How::Drop => {
                drop(serving);
                ended(control, stop, &handle.closed().await)
            }
        }
        ended(control, stop, &serving.await?)
    })
}

/// Handler of the crate's documentation: `more`, then a read.
pub(super) async fn echo_by_more(mut conn: Connection, size: usize) -> io::Result<()> {
    let mut buf = vec![0; size];
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        conn.write_all(&buf[..n]).await?;
    }
    Ok(())
}

/// Handler with the other way to stop between two messages: `until_draining` around the read.
pub(super) async fn echo_until_draining(conn: Connection, size: usize) -> io::Result<()> {
    let mut buf = vec![0; size];
    while let Some(n) = conn.until_draining((&conn).read(&mut buf)).await.transpose()? {
        if n == 0 {
            break;
        }
        (&conn).write_all(&buf[..n]).await?;
    }
    Ok(())
}

/// Reports that the server is closed, with the number of connections and of their ends in its report.
fn ended(control: &Control, stop: Stop, report: &Report) -> ! {
    let ends = report.completed()
        + report.failed()
        + report.panicked()
        + report.cancelled()
        + report.disconnected()
        + report.rejected();
    control.closed(stop, format_args!("{} {ends}", report.accepted()))
}
