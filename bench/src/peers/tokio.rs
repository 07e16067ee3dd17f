//! tokio with `TaskTracker` and `CancellationToken`, as on the page "Graceful Shutdown" of its documentation.

use crate::control::{Control, How, Stop};
use crate::tls;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runtime of tokio, and where the accept loop runs on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// In the `main` of `#[tokio::main(worker_threads = N)]`: on a thread that is not a worker. Each connection wakes a
    /// worker.
    BlockOn,
    /// In a task of the same runtime: on a worker.
    Spawned,
    /// In the `main` of `#[tokio::main(flavor = "current_thread")]`: on the only thread.
    CurrentThread,
}

/// Runs a server on a runtime of this form, until it is stopped.
pub(super) fn run<A>(form: Form, threads: usize, control: &Control, accept: A) -> io::Result<()>
where
    A: Future<Output = io::Result<Stop>> + Send + 'static,
{
    let mut builder = match form {
        Form::CurrentThread => Builder::new_current_thread(),
        Form::BlockOn | Form::Spawned => Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(threads).enable_all().build()?;
    let stop = match form {
        Form::Spawned => runtime.block_on(runtime.spawn(accept)).map_err(io::Error::other)??,
        Form::BlockOn | Form::CurrentThread => runtime.block_on(accept)?,
    };
    // `How::Drop`: the connections are dropped with the runtime.
    drop(runtime);
    control.closed(stop, "")
}

pub(super) fn serve(form: Form, threads: usize, size: usize, control: &Control) -> io::Result<()> {
    let handler = move |mut stream, token| async move { echo(&mut stream, size, token).await };
    run(form, threads, control, accept(control.clone(), handler))
}

/// Serves TLS by tokio-rustls.
pub(super) fn serve_tls(form: Form, threads: usize, size: usize, control: &Control) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server()?));
    let handler = move |stream, token| {
        let accepting = acceptor.accept(stream);
        async move {
            let mut stream = accepting.await?;
            echo(&mut stream, size, token).await?;
            // `close_notify`, and the end of the socket.
            stream.shutdown().await
        }
    };
    run(form, threads, control, accept(control.clone(), handler))
}

async fn accept<H, Fut>(control: Control, handler: H) -> io::Result<Stop>
where
    H: Fn(TcpStream, CancellationToken) -> Fut,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::from_std(super::listener()?)?;
    control.listening(listener.local_addr()?);
    let tracker = TaskTracker::new();
    let token = CancellationToken::new();
    let stop = control.stop();
    tokio::pin!(stop);
    let stop = loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                tracker.spawn(handler(stream, token.clone()));
            }
            stop = &mut stop => break stop,
        }
    };
    if stop.how != How::Drop {
        drop(listener);
        token.cancel();
        tracker.close();
        tracker.wait().await;
        control.closed(stop, "")
    }
    Ok(stop)
}

async fn echo(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    size: usize,
    token: CancellationToken,
) -> io::Result<()> {
    let mut buf = vec![0; size];
    // Pinned once: a new one for each message would register anew, which costs a twentieth more CPU.
    let cancelled = token.cancelled();
    tokio::pin!(cancelled);
    loop {
        let n = tokio::select! {
            n = stream.read(&mut buf) => n?,
            () = &mut cancelled => return Ok(()),
        };
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buf[..n]).await?;
        // TLS may hold bytes back; a socket does nothing here.
        stream.flush().await?;
    }
}
