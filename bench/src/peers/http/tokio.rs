//! tokio: hyper-util's `GracefulShutdown`, as in its example `server_graceful`, in each form of its runtime.

use super::hello;
use crate::control::{Control, How, Stop};
use crate::http::Answer;
use crate::peers::tokio::{self, Form};
use ::tokio::net::TcpListener;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::io;

pub(super) fn serve(form: Form, threads: usize, answer: Answer, control: &Control) -> io::Result<()> {
    tokio::run(form, threads, control, accept(answer, control.clone()))
}

async fn accept(answer: Answer, control: Control) -> io::Result<Stop> {
    let listener = TcpListener::from_std(crate::peers::listener()?)?;
    control.listening(listener.local_addr()?);
    let server = auto::Builder::new(TokioExecutor::new());
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(control.stop());
    let stop = loop {
        ::tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let service = service_fn(move |request| hello(request, answer));
                let conn = server.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
                let conn = graceful.watch(conn);
                ::tokio::spawn(async move {
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
