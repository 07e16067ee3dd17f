//! [`version`]: whether a client speaks HTTP/1 or HTTP/2.

use super::builder::{Only, Settings};
use crate::connection::Connection;
use crate::transport::{ExtraTime, Transport, with_scratch};
use async_io::Timer;
use futures_lite::FutureExt as _;
use std::future::poll_fn;
use std::io;
use std::task::ready;
use std::time::Instant;

/// The first bytes of every connection of HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol of a connection, or why there is none.
#[derive(Debug)]
pub(super) enum Spoken {
    Http1,
    Http2,
    /// The connection ended, drained or was idle before a request began.
    Nothing,
    /// A part of the preface came, and its rest did not.
    SlowHead,
}

/// Returns the protocol that the client speaks.
///
/// The TLS handshake has negotiated it (ALPN), or the first bytes show it. The bytes that this reads are read again.
pub(super) async fn version(connection: &Connection, settings: &Settings) -> io::Result<Spoken> {
    match settings.only {
        Some(Only::Http1) => return Ok(Spoken::Http1),
        Some(Only::Http2) => return Ok(Spoken::Http2),
        None => {}
    }
    #[cfg(feature = "tls")]
    match connection.tls().and_then(|tls| tls.alpn_protocol()) {
        Some(b"h2") => return Ok(Spoken::Http2),
        Some(b"http/1.1" | b"http/1.0") => return Ok(Spoken::Http1),
        _ => {}
    }
    let mut first = FirstBytes { connection, bytes: Vec::new() };
    let (start, mut began) = (Instant::now(), None);
    let mut extra = ExtraTime::default();
    loop {
        let limit = if began.is_some() { settings.header_timeout } else { settings.keep_alive_timeout };
        let due = limit.and_then(|limit| began.unwrap_or(start).checked_add(limit));
        let mut at = due;
        let read = loop {
            let read = async {
                match began {
                    Some(_) => Some(first.read_more().await),
                    None => connection.until_draining(first.read_more()).await,
                }
            };
            match async { Waited::For(read.await) }.or(passed(at)).await {
                Waited::For(read) => break read.transpose()?,
                Waited::TooLong => at = due.and_then(|due| extra.after(due, Instant::now(), first.transport())),
            }
            if at.is_none() {
                break None;
            }
        };
        match read {
            None if began.is_some() => return Ok(Spoken::SlowHead),
            None | Some(0) if first.bytes.is_empty() => return Ok(Spoken::Nothing),
            _ if first.bytes.starts_with(PREFACE) => return Ok(Spoken::Http2),
            Some(0) => return Ok(Spoken::Http1), // a part of the preface and EOF: hyper makes the error
            _ if !PREFACE.starts_with(&first.bytes) => return Ok(Spoken::Http1),
            _ => began = began.or_else(|| Some(Instant::now())),
        }
    }
}

/// Result of a wait with a time limit.
enum Waited {
    /// What was read; `None` in a drain.
    For(Option<io::Result<usize>>),
    TooLong,
}

/// Ready once this time has passed; `None`: never.
async fn passed(at: Option<Instant>) -> Waited {
    match at {
        Some(at) => Timer::at(at).await,
        None => std::future::pending().await,
    };
    Waited::TooLong
}

/// Bytes that were read to look at them. The drop pushes them back, so that the next read finds them.
struct FirstBytes<'a> {
    connection: &'a Connection,
    bytes: Vec<u8>,
}

impl FirstBytes<'_> {
    fn transport(&self) -> &Transport {
        &self.connection.record().transport
    }

    /// Reads what has arrived, and returns its length.
    async fn read_more(&mut self) -> io::Result<usize> {
        let (transport, bytes) = (&self.connection.record().transport, &mut self.bytes);
        poll_fn(|cx| {
            with_scratch(|scratch| {
                // Not through the connection, which would count these bytes twice.
                let read = match ready!(transport.poll_read(cx, scratch)) {
                    Ok(0) => self.connection.record().take_kept_error().map_or(Ok(0), Err),
                    read => read,
                };
                let n = read.inspect_err(|error| self.connection.note_error(error))?;
                bytes.extend_from_slice(&scratch[..n]);
                Ok(n).into()
            })
        })
        .await
    }
}

impl Drop for FirstBytes<'_> {
    fn drop(&mut self) {
        self.connection.record().transport.push_back(&self.bytes);
    }
}
