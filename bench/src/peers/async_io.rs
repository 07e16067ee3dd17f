//! A floor: the least work that is possible with async-std's reactor and executor.
//!
//! One task for each connection waits for readiness, and then reads once; a read finds nothing only after a spurious
//! wake-up. Servers are not written in this way. If every message is waited for, its cost above tokio's is that of the
//! platform.

use crate::control::Control;
use smol::Async;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

pub(super) fn serve(size: usize, control: &Control) -> io::Result<()> {
    smol::block_on(smol::spawn(accept(size, control.clone())))
}

async fn accept(size: usize, control: Control) -> io::Result<()> {
    let listener = Async::new_nonblocking(super::listener()?)?;
    control.listening(listener.get_ref().local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        smol::spawn(async move {
            let _ = echo(stream, size).await;
        })
        .detach();
    }
}

async fn echo(stream: Async<TcpStream>, size: usize) -> io::Result<()> {
    let mut buf = vec![0; size];
    loop {
        poll_fn(|cx| stream.poll_readable(cx)).await?;
        let n = match stream.get_ref().read(&mut buf) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            result => result?,
        };
        if n == 0 {
            return Ok(());
        }
        let mut rest = &buf[..n];
        while !rest.is_empty() {
            match stream.get_ref().write(rest) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll_fn(|cx| stream.poll_writable(cx)).await?;
                }
                result => rest = &rest[result?..],
            }
        }
    }
}
