//! Bare async-std: `task::spawn` in an accept loop, as in its book. It cannot be stopped.

use crate::control::Control;
use async_std::net::{TcpListener, TcpStream};
use async_std::{io, prelude::*, task};

/// Serves with the accept loop in `block_on`, as in the book, or `spawned`: in a task, which costs less for each
/// connection.
pub(super) fn serve(spawned: bool, size: usize, control: &Control) -> io::Result<()> {
    let accepting = accept(size, control.clone());
    if spawned { task::block_on(task::spawn(accepting)) } else { task::block_on(accepting) }
}

async fn accept(size: usize, control: Control) -> io::Result<()> {
    let listener = TcpListener::from(super::listener()?);
    control.listening(listener.local_addr()?);
    let mut incoming = listener.incoming();
    while let Some(stream) = incoming.next().await {
        let stream = stream?;
        task::spawn(async move {
            // Errors of clients are not reported.
            let _ = echo(stream, size).await;
        });
    }
    Ok(())
}

async fn echo(mut stream: TcpStream, size: usize) -> io::Result<()> {
    let mut buf = vec![0; size];
    loop {
        let n = stream.read(&mut buf).await?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buf[..n]).await?;
    }
}
