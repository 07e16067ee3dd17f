//! smol: the executor and reactor on which async-std is built, without async-std.

use crate::control::Control;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};
use std::io;

pub(super) fn serve(size: usize, control: &Control) -> io::Result<()> {
    // In a task: in `block_on` each connection costs more.
    smol::block_on(smol::spawn(accept(size, control.clone())))
}

async fn accept(size: usize, control: Control) -> io::Result<()> {
    let listener = TcpListener::try_from(super::listener()?)?;
    control.listening(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        smol::spawn(async move {
            let _ = echo(stream, size).await;
        })
        .detach();
    }
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
