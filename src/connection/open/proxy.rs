//! Reads the PROXY header when a connection opens, within its time limit. [`Unproxied`] lists how that can fail, with
//! the log line of each case.

use super::Clock;
use crate::limits::{Client, ConnectionLimit, Counted, TooMany};
use crate::proxy::parse::{Flaw, Parsed, is_begun, parse};
use crate::proxy::{ProxyHeader, ProxyProtocol};
use crate::run::end_reason::EndReason;
use crate::run::record::ConnectionRecord;
use crate::span::Span;
use log::Level;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How many bytes the log shows of what arrived instead of a header.
const SHOWN: usize = 32;

/// Reads the header, if the peer may send one, and no byte after it. Then the connection has the client's address from
/// the header, and the client is counted.
pub(super) async fn receive(
    proxy: &ProxyProtocol,
    record: &ConnectionRecord,
    clock: &mut Clock<'_>,
    limit: &Arc<ConnectionLimit>,
) -> Result<Option<Box<Counted>>, Unproxied> {
    if !proxy.trusts(record.peer()) {
        let is_local = record.peer().ip().is_none();
        if !proxy.is_required() {
            return Ok(None);
        }
        let is_first = !clock.run.has_met_untrusted.swap(true, Ordering::Relaxed);
        return Err(Unproxied::Untrusted { is_local, is_first });
    }
    let mut received = Vec::new();
    let read = clock.within(proxy.limit(), read(record, &mut received)).await;
    if !received.is_empty() {
        record.note_bytes();
    }
    let why = match read {
        Ok(Ok(Received::Header(length, header))) => {
            push_back(record, &received[length..]);
            record.set_proxied(header);
            return count(record, limit);
        }
        Ok(Ok(Received::Flaw(flaw))) => return Err(Unproxied::Malformed(flaw, Beginning::of(&received))),
        Ok(Err(error)) => return Err(Unproxied::Unreadable(error)),
        Ok(Ok(Received::Other)) => Unproxied::Missing(Beginning::of(&received)),
        Ok(Ok(Received::Eof)) => Unproxied::Left(Beginning::of(&received)),
        Err(after) => {
            let in_a_drain = clock.drain_seen.is_some();
            Unproxied::Late { after, in_a_drain, received: Beginning::of(&received) }
        }
    };
    if proxy.is_required() || is_begun(&received) {
        return Err(why);
    }
    push_back(record, &received);
    count(record, limit)
}

/// The first thing that a peer has sent.
enum Received {
    /// A header of this length.
    Header(usize, ProxyHeader),
    /// Something other than a header.
    Other,
    /// A malformed header.
    Flaw(Flaw),
    /// EOF before the header was complete.
    Eof,
}

/// Reads until it is clear what the peer has sent. All bytes are in `received`, even if the future is dropped.
async fn read(record: &ConnectionRecord, received: &mut Vec<u8>) -> io::Result<Received> {
    let mut chunk = Vec::new();
    loop {
        let wanted = match parse(received) {
            Parsed::Need(wanted) => wanted,
            Parsed::Header(length, header) => return Ok(Received::Header(length, header)),
            Parsed::Other => return Ok(Received::Other),
            Parsed::Bad(flaw) => return Ok(Received::Flaw(flaw)),
        };
        chunk.resize(wanted, 0);
        match poll_fn(|cx| record.transport.poll_read(cx, &mut chunk)).await {
            Ok(0) => return Ok(Received::Eof),
            Ok(n) => received.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn push_back(record: &ConnectionRecord, bytes: &[u8]) {
    if !bytes.is_empty() {
        record.transport.push_back(bytes);
    }
}

/// Counts the connection for its client's address.
fn count(record: &ConnectionRecord, limit: &Arc<ConnectionLimit>) -> Result<Option<Box<Counted>>, Unproxied> {
    let Some(client) = record.peer().ip() else {
        return Ok(None);
    };
    limit.count(client).map_err(|TooMany { max, client }| Unproxied::TooMany { max, client })
}

/// Why a connection was closed at its PROXY header.
#[derive(Debug)]
pub(crate) enum Unproxied {
    /// Only trusted proxies may connect, and this peer is none.
    Untrusted { is_local: bool, is_first: bool },
    /// The peer has sent something other than a header.
    Missing(Beginning),
    /// The header is malformed.
    Malformed(Flaw, Beginning),
    /// The header was not complete in time.
    Late { after: Duration, in_a_drain: bool, received: Beginning },
    /// EOF before the header was complete.
    Left(Beginning),
    /// The read failed.
    Unreadable(io::Error),
    /// The header is there, and its client has as many connections as the limit allows.
    TooMany { max: usize, client: Client },
}

impl Unproxied {
    pub(super) fn end(&self) -> EndReason {
        match self {
            Self::TooMany { .. } => EndReason::AddressLimit,
            _ => EndReason::ProxyHeader,
        }
    }

    /// Returns the level of the log line: warn if a proxy is set up wrongly, debug for what any peer can cause.
    pub(super) fn level(&self) -> Level {
        match self {
            Self::Missing(_) | Self::Malformed(..) | Self::Late { in_a_drain: false, .. } => Level::Warn,
            Self::Late { in_a_drain: true, .. } => Level::Debug,
            // The first such peer may be the proxy itself, missing from the trusted ones.
            Self::Untrusted { is_first: true, .. } => Level::Info,
            Self::Untrusted { .. } | Self::Left(_) | Self::Unreadable(_) | Self::TooMany { .. } => Level::Debug,
        }
    }
}

impl fmt::Display for Unproxied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LET_IT: &str = "let the proxy send one (HAProxy: `send-proxy-v2`)";
        match self {
            Self::Untrusted { is_local: false, .. } => {
                f.write_str("it is not a trusted proxy; if it should be one, name its network: `ProxyProtocol::trust`")
            }
            Self::Untrusted { is_local: true, .. } => f.write_str(
                "it is not a trusted proxy, and has no IP address; if it should be one: `ProxyProtocol::trust_local`",
            ),
            Self::Missing(began) => write!(f, "it sent no PROXY header, but `{began}`; {LET_IT}"),
            Self::Malformed(flaw, began) => {
                write!(f, "its PROXY header is malformed: {flaw}: `{began}`; correct or update what sends it")
            }
            Self::Late { after, received, .. } if received.is_empty() => {
                write!(f, "it sent no PROXY header for {}; {LET_IT}", Span(*after))
            }
            Self::Late { after, received, .. } => {
                write!(f, "its PROXY header was not complete after {}: `{received}`", Span(*after))
            }
            Self::Left(received) if received.is_empty() => f.write_str("it left before it sent a PROXY header"),
            Self::Left(received) => write!(f, "it left in the middle of its PROXY header: `{received}`"),
            Self::Unreadable(error) => write!(f, "its PROXY header could not be read: {error}"),
            Self::TooMany { max, client } => {
                write!(f, "there are {max} connections already from its client `{client}` (`max_connections_per_ip`)")
            }
        }
    }
}

/// The first received bytes, escaped for a log line.
#[derive(Debug)]
pub(crate) struct Beginning {
    bytes: Box<[u8]>,
    /// There were more bytes.
    more: bool,
}

impl Beginning {
    fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes[..bytes.len().min(SHOWN)].into(), more: bytes.len() > SHOWN }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl fmt::Display for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.bytes.escape_ascii(), if self.more { "…" } else { "" })
    }
}
