//! ebbtide: the echo of the crate's documentation, with the defaults and every guarantee, on each executor.

use crate::control::{Control, How, Stop};
use crate::tls;
use async_std::{io, prelude::*, task};
use ebbtide::{Connection, Handle, ListenOptions, Report, Serve, Server, Tls};
use futures_lite::future;
use std::sync::Arc;
use tokio::runtime::Builder;

pub(super) fn on_async_std<H, Fut>(handler: H, control: &Control) -> io::Result<()>
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    task::block_on(async { serve(bind().await?, handler, control).await })
}

/// Serves on smol, in the program that was built with the crate's feature.
pub(super) fn on_smol<H, Fut>(handler: H, control: &Control) -> io::Result<()>
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    smol::block_on(async { serve(bind().await?, handler, control).await })
}

/// Serves on the runtime of `#[tokio::main(worker_threads = N)]`, as the peer `tokio` does.
pub(super) fn on_tokio<H, Fut>(threads: usize, handler: H, control: &Control) -> io::Result<()>
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let tokio = runtime.handle().clone();
    runtime.block_on(async {
        let server = bind().await?.executor(move |job| drop(tokio.spawn(job)));
        serve(server, handler, control).await
    })
}

/// Serves TLS on async-std. `Tls::from_pem_files` makes the same configuration, for TLS 1.2 too.
pub(super) fn tls(size: usize, control: &Control) -> io::Result<()> {
    let options = ListenOptions::new().tls(&Tls::from_config(Arc::new(tls::server()?)));
    task::block_on(async {
        let server = Server::bind_with("127.0.0.1:0", &options).await?;
        serve(server, move |conn| echo_by_more(conn, size), control).await
    })
}

async fn bind() -> io::Result<Server> {
    Server::bind("127.0.0.1:0").await
}

async fn serve<H, Fut>(server: Server, handler: H, control: &Control) -> io::Result<()>
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    control.listening(server.local_addr());
    let handle = server.handle();
    until_stopped(server.serve(handler), handle, control).await
}

/// Serves until `control` has the server stopped.
pub(super) async fn until_stopped(serving: Serve, handle: Handle, control: &Control) -> io::Result<()> {
    let mut serving = Box::pin(serving);
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
