//! The README's server: defaults, and every guarantee.

use crate::control::{Control, How, Stop};
use async_std::{io, prelude::*, task};
use ebbtide::{Connection, Report, Server};
use futures_lite::future;

/// How the handler stops between two messages.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// The README's.
    More,
    UntilDraining,
}

pub(super) fn serve(form: Form, size: usize, control: &Control) -> io::Result<()> {
    task::block_on(async {
        let server = Server::bind("127.0.0.1:0").await?;
        control.listening(server.local_addr());
        let handle = server.handle();
        let mut serving = Box::pin(server.serve(move |conn| echo(form, conn, size)));
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

async fn echo(form: Form, conn: Connection, size: usize) -> io::Result<()> {
    match form {
        Form::More => echo_by_more(conn, size).await,
        Form::UntilDraining => echo_until_draining(conn, size).await,
    }
}

async fn echo_by_more(mut conn: Connection, size: usize) -> io::Result<()> {
    let mut buf = vec![0; size];
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        conn.write_all(&buf[..n]).await?;
    }
    Ok(())
}

async fn echo_until_draining(conn: Connection, size: usize) -> io::Result<()> {
    let mut buf = vec![0; size];
    while let Some(n) = conn.until_draining((&conn).read(&mut buf)).await.transpose()? {
        if n == 0 {
            break;
        }
        (&conn).write_all(&buf[..n]).await?;
    }
    Ok(())
}

fn ended(control: &Control, stop: Stop, report: &Report) -> ! {
    let ends = report.completed() + report.failed() + report.panicked() + report.cancelled();
    control.closed(stop, format_args!("{} {ends}", report.accepted()))
}
