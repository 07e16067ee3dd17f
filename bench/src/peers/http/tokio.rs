//! tokio: hyper-util's `GracefulShutdown`, as in its example `server_graceful`, on the runtime of `#[tokio::main]`.

use super::hello;
use crate::control::{Control, How, Stop};
use crate::http::Answer;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::io;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

pub(super) fn serve(threads: usize, answer: Answer, control: &Control) -> io::Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let handle = runtime.handle().clone();
    // The accept loop is a task, as the connections are: one in `block_on` would have a thread of its own.
    let accepting = handle.spawn({
        let control = control.clone();
        async move { accept(answer, &control).await }
    });
    let stop = runtime.block_on(accepting).map_err(io::Error::other)??;
    drop(runtime);
    control.closed(stop, "")
}

async fn accept(answer: Answer, control: &Control) -> io::Result<Stop> {
    let listener = TcpListener::from_std(crate::peers::listener()?)?;
    control.listening(listener.local_addr()?);
    let server = auto::Builder::new(TokioExecutor::new());
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(control.stop());
    let stop = loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let service = service_fn(move |request| hello(request, answer));
                let conn = server.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
                let conn = graceful.watch(conn);
                tokio::spawn(async move {
                    // Errors of clients are not reported.
                    let _ = conn.await;
                });
            }
            stop = &mut stop => break stop,
        }
    };
    if stop.how != How::Drop {
        drop(listener);
        graceful.shutdown().await;
        control.closed(stop, "")
    }
    Ok(stop)
}
