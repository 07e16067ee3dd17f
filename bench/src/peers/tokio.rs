//! tokio with `TaskTracker` and `CancellationToken`, as on the page "Graceful Shutdown" of its documentation.

use crate::control::{Control, How, Stop};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) fn serve(threads: usize, size: usize, control: &Control) -> io::Result<()> {
    // The runtime of `#[tokio::main(worker_threads = N)]`.
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let stop = runtime.block_on(accept(size, control))?;
    // `How::Drop`: the connections are dropped with the runtime.
    drop(runtime);
    control.closed(stop, "")
}

async fn accept(size: usize, control: &Control) -> io::Result<Stop> {
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
                stream.set_nodelay(true)?;
                let token = token.clone();
                tracker.spawn(async move {
                    let _ = echo(stream, size, token).await;
                });
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

async fn echo(mut stream: TcpStream, size: usize, token: CancellationToken) -> io::Result<()> {
    let mut buf = vec![0; size];
    loop {
        let n = tokio::select! {
            n = stream.read(&mut buf) => n?,
            () = token.cancelled() => return Ok(()),
        };
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buf[..n]).await?;
    }
}
