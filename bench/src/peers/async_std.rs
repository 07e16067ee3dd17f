//! Bare async-std: `task::spawn` in an accept loop, as in its book. It cannot be stopped.

use crate::control::Control;
use async_std::net::{TcpListener, TcpStream};
use async_std::{io, prelude::*, task};

pub(super) fn serve(size: usize, control: &Control) -> io::Result<()> {
    let listener = super::listener()?;
    task::block_on(async {
        let listener = TcpListener::from(listener);
        control.listening(listener.local_addr()?);
        let mut incoming = listener.incoming();
        while let Some(stream) = incoming.next().await {
            let stream = stream?;
            stream.set_nodelay(true)?;
            task::spawn(async move {
                // Errors of clients are not reported.
                let _ = echo(stream, size).await;
            });
        }
        Ok(())
    })
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
