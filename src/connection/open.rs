//! Opening a connection: the PROXY header, the TLS handshake and the first byte, and how long each may take.

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
use async_io::Timer;
use log::Level;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long a connection may take to open once the server drains: clients that have just been accepted get their
/// chance, and silent ones delay nothing.
const IN_A_DRAIN: Duration = Duration::from_secs(1);

/// How long a handshake may take: several round trips over a bad line, and not so long that clients which do nothing
/// fill the server.
#[cfg(feature = "tls")]
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long each step may take; `None`: as long as it likes.
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
    /// No first byte came within this time.
    Silent(Duration),
    /// The TLS handshake failed.
    #[cfg(feature = "tls")]
    Unsecured(std::io::Error),
    /// The TLS handshake took longer than this.
    #[cfg(feature = "tls")]
    SlowHandshake(Duration),
    /// The PROXY header was wrong, or not there, or said that the client may not come.
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

    fn lingers(&self) -> bool {
        match self {
            Self::Silent(_) => false,
            #[cfg(feature = "tls")]
            Self::Unsecured(_) => true, // an alert says what was wrong
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

/// The steps before the handler, under way. On the heap: they are over before the handler begins, and would make the
/// future of every connection larger.
pub(super) type Opening = Pin<Box<dyn Future<Output = Opened> + Send>>;

/// How they have ended; a panic of the user's code in them is caught.
pub(super) struct Opened {
    pub(super) result: Result<Result<(), Unopened>, Payload>,
    /// Where only a proxy knows the client's address it is counted here, whatever comes of the steps after that.
    pub(super) counted: Option<Box<Counted>>,
}

/// Does what comes before the handler.
pub(super) fn open(run: Arc<Run>, record: Arc<ConnectionRecord>, protocols: Protocols, limits: Limits) -> Opening {
    Box::pin(async move {
        let mut counted = None;
        let result = catch_future(|| steps(&run, &record, protocols, limits, &mut counted)).await;
        Opened { result, counted }
    })
}

/// One after the other, each with its own limit; and in a drain, all together within [`IN_A_DRAIN`].
async fn steps(
    run: &Run,
    record: &ConnectionRecord,
    protocols: Protocols,
    limits: Limits,
    counted: &mut Option<Box<Counted>>,
) -> Result<(), Unopened> {
    let mut clock = Clock { run, told: None };
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
    let _ = (protocols, counted); // used by features only
    if let Some(limit) = limits.first_byte {
        // What has come stays to be read. The peer's end, or an error, is something too.
        let _ = clock.within(Some(limit), record.transport.peeked()).await.map_err(Unopened::Silent)?;
    }
    Ok(())
}

/// What a person can do about it.
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

/// Watches the steps' limits.
struct Clock<'a> {
    run: &'a Run,
    /// When the drain was noticed.
    told: Option<Instant>,
}

impl Clock<'_> {
    /// Runs one step. If it takes too long it is dropped, and the error says how long it was allowed.
    async fn within<F: Future>(&mut self, limit: Option<Duration>, step: F) -> Result<F::Output, Duration> {
        let start = Instant::now();
        let mut end =
            earliest(limit.and_then(|limit| start.checked_add(limit)), self.told.map(|told| told + IN_A_DRAIN));
        let mut timer = end.map_or_else(Timer::never, Timer::at);
        let mut draining = self.run.draining.listen(); // its own event is the handler's
        let mut step = pin!(step);
        poll_fn(|cx| {
            if let Poll::Ready(output) = step.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if self.told.is_none() && draining.poll(cx).is_ready() {
                let now = Instant::now();
                self.told = Some(now);
                end = earliest(end, Some(now + IN_A_DRAIN));
                timer = end.map_or_else(Timer::never, Timer::at);
            }
            Pin::new(&mut timer).poll(cx).map(|_| Err(end.map_or(Duration::MAX, |end| end - start)))
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
