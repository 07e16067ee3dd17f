//! Bare async-std: hyper by smol-hyper's adapter, with `task::spawn` in an accept loop. It cannot be stopped.

use super::hello;
use crate::control::Control;
use crate::http::{Answer, Version};
use async_std::net::TcpListener;
use async_std::prelude::*;
use async_std::task;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use smol_hyper::rt::FuturesIo;
use std::io;

pub(super) fn serve(version: Version, answer: Answer, control: &Control) -> io::Result<()> {
    // In a task: in `block_on` each connection costs more.
    task::block_on(task::spawn(accept(version, answer, control.clone())))
}

async fn accept(version: Version, answer: Answer, control: Control) -> io::Result<()> {
    let listener = TcpListener::from(crate::peers::listener()?);
    control.listening(listener.local_addr()?);
    let mut incoming = listener.incoming();
    while let Some(stream) = incoming.next().await {
        let (io, service) = (FuturesIo::new(stream?), service_fn(move |request| hello(request, answer)));
        task::spawn(async move {
            // Errors of clients are not reported.
            let _ = match version {
                Version::Http1 => http1::Builder::new().serve_connection(io, service).with_upgrades().await,
                Version::Http2 => http2::Builder::new(Spawn).serve_connection(io, service).await,
            };
        });
    }
    Ok(())
}

/// hyper's executor: smol-hyper's takes an `async_executor::Executor`, which async-std does not show.
#[derive(Clone, Copy, Debug)]
struct Spawn;

impl<F: Future<Output: Send + 'static> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        task::spawn(future);
    }
}
