//! Opening a connection, before its handler is called: the PROXY header, the TLS handshake, and the wait for the first
//! byte. Each step has a time limit. In a drain, the server's or that of this connection alone, all of them together have
//! one second, and one more if bytes have arrived that were not read yet.

#[cfg(feature = "proxy-protocol")]
mod proxy;

use crate::handler::Rejection;
use crate::limits::Counted;
use crate::listener::Protocols;
use crate::panic::{Payload, catch_future};
use crate::run::Run;
use crate::run::end_reason::EndReason;
use crate::run::record::ConnectionRecord;
use crate::span::Span;
use crate::sync::time;
use crate::transport::ExtraTime;
use log::Level;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long a connection may take to open once the server drains, the extra time apart: clients that were just accepted get their chance, and
/// silent ones do not delay the exit.
const IN_A_DRAIN: Duration = Duration::from_secs(1);

/// How long a handshake may take: long enough for several round trips over a bad line, and short enough that clients
/// which do nothing do not fill the server.
#[cfg(feature = "tls")]
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The time limit of each step; `None`: no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) first_byte: Option<Duration>,
    #[cfg(feature = "tls")]
    pub(crate) handshake: Option<Duration>,
}

#[cfg_attr(not(feature = "tls"), expect(clippy::derivable_impls, reason = "only without TLS"))]
impl Default for Limits {
    fn default() -> Self {
        Self {
            first_byte: None,
            #[cfg(feature = "tls")]
            handshake: Some(HANDSHAKE),
        }
    }
}

/// Why the handler was never called.
#[derive(Debug)]
pub(crate) enum Unopened {
    /// No byte arrived within this time.
    Silent(Duration),
    /// The TLS handshake failed.
    #[cfg(feature = "tls")]
    Unsecured(std::io::Error),
    /// The TLS handshake took longer than this.
    #[cfg(feature = "tls")]
    SlowHandshake(Duration),
    /// The PROXY header was malformed or missing, or its client has too many connections.
    #[cfg(feature = "proxy-protocol")]
    Unproxied(proxy::Unproxied),
}

impl Unopened {
    pub(super) fn into_rejection(self) -> Rejection {
        Rejection { end: self.end(), level: self.level(), lingers: self.lingers(), reason: Box::new(self) }
    }

    fn end(&self) -> EndReason {
        match self {
            Self::Silent(_) => EndReason::FirstByteTimeout,
            #[cfg(feature = "tls")]
            Self::Unsecured(_) | Self::SlowHandshake(_) => EndReason::Handshake,
            #[cfg(feature = "proxy-protocol")]
            Self::Unproxied(why) => why.end(),
        }
    }

    /// Returns whether bytes for the peer are still on their way.
    fn lingers(&self) -> bool {
        match self {
            Self::Silent(_) => false,
            #[cfg(feature = "tls")]
            Self::Unsecured(_) => true, // a TLS alert with the reason
            #[cfg(feature = "tls")]
            Self::SlowHandshake(_) => false,
            #[cfg(feature = "proxy-protocol")]
            Self::Unproxied(_) => false,
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::Silent(_) => Level::Debug,
            #[cfg(feature = "tls")]
            Self::Unsecured(_) | Self::SlowHandshake(_) => Level::Debug,
            #[cfg(feature = "proxy-protocol")]
            Self::Unproxied(why) => why.level(),
        }
    }
}

impl fmt::Display for Unopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(limit) => write!(f, "it sent nothing for {}", Span(*limit)),
            #[cfg(feature = "tls")]
            Self::Unsecured(error) => write!(f, "its TLS handshake failed: {error}{}", tls_hint(error)),
            #[cfg(feature = "tls")]
            Self::SlowHandshake(limit) => write!(f, "its TLS handshake took longer than {}", Span(*limit)),
            #[cfg(feature = "proxy-protocol")]
            Self::Unproxied(why) => why.fmt(f),
        }
    }
}

/// The future of the steps before the handler. On the heap: they end before the handler begins, and would make the
/// future of every connection larger.
pub(super) type Opening = Pin<Box<dyn Future<Output = Opened> + Send>>;

/// How the steps have ended.
pub(super) struct Opened {
    /// The outer error is a panic of user code (a custom stream).
    pub(super) result: Result<Result<(), Unopened>, Payload>,
    /// If the client's address comes from a PROXY header, the client is counted during these steps. It stays counted
    /// even if a later step fails.
    pub(super) counted: Option<Box<Counted>>,
}

/// Does the steps before the handler.
pub(super) fn open(run: Arc<Run>, record: Arc<ConnectionRecord>, protocols: Protocols, limits: Limits) -> Opening {
    Box::pin(async move {
        let mut counted = None;
        let result = catch_future(|| steps(&run, &record, protocols, limits, &mut counted)).await;
        Opened { result, counted }
    })
}

/// Does the steps one after the other, each within its own limit; and in a drain, all together within [`IN_A_DRAIN`].
async fn steps(
    run: &Run,
    record: &ConnectionRecord,
    protocols: Protocols,
    limits: Limits,
    counted: &mut Option<Box<Counted>>,
) -> Result<(), Unopened> {
    let mut clock = Clock { run, record, drain_seen: None, extra: ExtraTime::default() };
    #[cfg(feature = "proxy-protocol")]
    if let Some(proxy) = &protocols.proxy {
        *counted = proxy::receive(proxy, record, &mut clock, &run.limit).await.map_err(Unopened::Unproxied)?;
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = &protocols.tls {
        let handshake = record.transport.handshake(tls.acceptor());
        let done = clock.within(limits.handshake, handshake).await.map_err(Unopened::SlowHandshake)?;
        done.map_err(Unopened::Unsecured)?;
    }
    let _ = (protocols, counted); // unused without features
    if let Some(limit) = limits.first_byte {
        // The byte stays unread. EOF and errors end the wait as well: the handler's read finds them.
        if let Err(error) = clock.within(Some(limit), record.transport.peeked()).await.map_err(Unopened::Silent)? {
            record.keep_error(error);
        }
    }
    Ok(())
}

/// Returns a hint at the cause of a failed handshake, for the log.
#[cfg(feature = "tls")]
fn tls_hint(error: &std::io::Error) -> &'static str {
    use futures_rustls::rustls::{AlertDescription, Error, InvalidMessage};
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "; it does not speak TLS",
        Some(Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown,
        )) => "; it does not trust this server's certificate",
        _ => "",
    }
}

/// Runs the steps within their limits.
struct Clock<'a> {
    run: &'a Run,
    record: &'a ConnectionRecord,
    /// The time at which a step has seen the drain.
    drain_seen: Option<Instant>,
    /// The drain's limit is the same for all steps, and is extended once.
    extra: ExtraTime,
}

impl Clock<'_> {
    /// Runs one step. If it takes too long it is dropped, and the error is the time that it had.
    ///
    /// If bytes are in the socket when the time is over, the step gets [`ExtraTime`]. A drain that begins in that time
    /// does not shorten it.
    async fn within<F: Future>(&mut self, limit: Option<Duration>, step: F) -> Result<F::Output, Duration> {
        let start = time::now();
        let mut end =
            earliest(limit.and_then(|limit| start.checked_add(limit)), self.drain_seen.map(|seen| seen + IN_A_DRAIN));
        let mut timer = self.run.timers.timer();
        timer.set(end);
        let mut draining = self.run.draining.listen(); // the run's event: the connection's own is for the handler
        let mut step = pin!(step);
        poll_fn(|cx| {
            let begin = time::now();
            // Before the step reads what has arrived: only then can the peer answer what the step makes of it.
            if let Some(end) = end.filter(|end| *end <= begin) {
                if let Some(extra) = self.extra.after(end, begin, &self.record.transport) {
                    timer.set(Some(extra));
                }
            }
            if let Poll::Ready(output) = step.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            // A drain of this connection alone has woken the connection's own task, which polls this.
            if self.drain_seen.is_none() && (draining.poll(cx).is_ready() || self.record.alone().is_some()) {
                let now = time::now();
                self.drain_seen = Some(now);
                end = earliest(end, Some(now + IN_A_DRAIN));
                timer.set(end);
            }
            while timer.poll(cx).is_ready() {
                let Some(end) = end else { break }; // not reached: without an end the timer is not set
                let now = time::now();
                // If the limit has passed in the middle of the step, the step may just have read something.
                let extra = match begin < end {
                    true => self.extra.give(end, now),
                    false => self.extra.after(end, now, &self.record.transport),
                };
                match extra {
                    Some(extra) => timer.set(Some(extra)),
                    // A step that begins in the extra time of a drain has only that.
                    None => return Poll::Ready(Err(if end > start { end - start } else { now - start })),
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(all(test, unix, not(ebbtide_loom)))]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::listener::{Accepted, Listener};
    use crate::run::record::Watch;
    use crate::transport::Transport;
    use std::future::pending;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    /// All steps together have one second in a drain, and one more if bytes have arrived. A step that begins in this
    /// extra time begins after the drain's limit. Its error, which a log line shows, was a time of 0 s.
    #[test]
    fn a_step_that_begins_in_the_extra_time_of_a_drain_fails_with_the_time_that_it_had() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = listener.accept().unwrap().0;
        socket.set_nonblocking(true).unwrap();
        client.write_all(b"!").unwrap();
        let transport = Transport::nonblocking_tcp(socket).unwrap();
        let run = Run::new(Listener::memory().0);
        let peer = Address::named("a peer");
        let accepted = Accepted { transport, peer, local: None, protocols: Protocols::default() };
        let (_, record) = run.registry.enter(accepted, Watch::default());
        let start = time::now();
        let seen = start - IN_A_DRAIN;
        let mut extra = ExtraTime::default();
        while extra.after(seen + IN_A_DRAIN, start, &record.transport).is_none() {
            std::thread::yield_now(); // until the byte has arrived
        }
        let mut clock = Clock { run: &run, record: &record, drain_seen: Some(seen), extra };
        let begun = time::now();
        let had = async_io::block_on(clock.within(Some(Duration::from_secs(3600)), pending::<()>())).unwrap_err();
        assert!(!had.is_zero() && had <= begun.elapsed(), "{had:?}");
    }
}
