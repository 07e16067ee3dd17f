//! The least that can be done with the reactor and the executor that async-std has: a task for each connection, which
//! waits for the reactor's word, and then reads once. It reads in vain only where that word was not true. It is
//! nobody's idiom, but a floor: what it costs more than tokio where every message is waited for is the platform's.

use crate::control::Control;
use smol::Async;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

pub(super) fn serve(size: usize, control: &Control) -> io::Result<()> {
    let listener = Async::new_nonblocking(super::listener()?)?;
    smol::block_on(async {
        control.listening(listener.get_ref().local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.get_ref().set_nodelay(true)?;
            smol::spawn(async move {
                let _ = echo(stream, size).await;
            })
            .detach();
        }
    })
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
