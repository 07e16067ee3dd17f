//! A connection whose bytes arrive in chosen pieces.
#![allow(dead_code, reason = "each fuzzer uses a part of it")]

use ebbtide::{Accept, Address, Connection, HandlerOutput, Listener, Report, Server};
use futures_lite::{AsyncRead, AsyncWrite, future};
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Most bytes that a reader may ask for before the peer has sent as many: the buffer of the executor's thread.
pub const SCRATCH: usize = 16 * 1024;
/// Most bytes that a reader may ask for at once.
const LONGEST_READ: usize = 256 * 1024;

/// What one connection has sent and received.
#[derive(Clone, Default)]
pub struct Traffic(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// How many bytes the server has read.
    read: AtomicUsize,
    /// A read has asked for more bytes than those that have arrived justify.
    asked_too_much: AtomicBool,
    written: Mutex<Vec<u8>>,
    /// The stream was dropped; before that, who waits for it.
    dropped: Mutex<(bool, Option<Waker>)>,
}

impl Traffic {
    pub fn read(&self) -> usize {
        self.0.read.load(Ordering::SeqCst)
    }

    /// Returns whether a read has had a buffer that is larger than all that had arrived. An announced length must not
    /// reserve memory.
    pub fn was_asked_too_much(&self) -> bool {
        self.0.asked_too_much.load(Ordering::SeqCst)
    }

    pub fn written(&self) -> Vec<u8> {
        self.0.written.lock().unwrap().clone()
    }

    async fn dropped(&self) {
        std::future::poll_fn(|cx| {
            let mut dropped = self.0.dropped.lock().unwrap();
            dropped.1 = Some(cx.waker().clone());
            if dropped.0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// The client's bytes, and then EOF.
pub struct Pieces {
    bytes: Arc<[u8]>,
    /// How they arrive: 0 at once, 1 byte by byte, otherwise in pieces of up to so many bytes. In the last two cases some
    /// reads are pending first.
    longest: usize,
    random: u32,
    /// How many of the next reads are pending.
    pending: usize,
    was_pending: bool,
    traffic: Traffic,
}

impl Pieces {
    pub fn new(bytes: &[u8], longest: u8, seed: u8) -> Self {
        let random = u32::from(seed) + 1;
        Self {
            bytes: bytes.into(),
            longest: longest.into(),
            random,
            pending: 0,
            was_pending: false,
            traffic: Traffic::default(),
        }
    }

    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    fn random(&mut self) -> usize {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.random >> 16) as usize
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = self.traffic.read();
        if self.longest > 0 && !self.was_pending && self.random() % 3 == 0 {
            self.pending = 1 + self.random() % 3; // a wait in a drain looks twice
        }
        if self.pending > 0 {
            self.pending -= 1;
            self.was_pending = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.was_pending = false;
        if buf.len() > SCRATCH.max(read).min(LONGEST_READ) {
            self.traffic.0.asked_too_much.store(true, Ordering::SeqCst);
        }
        let most = if self.longest == 0 { usize::MAX } else { 1 + self.random() % self.longest };
        let n = (self.bytes.len() - read).min(buf.len()).min(most);
        buf[..n].copy_from_slice(&self.bytes[read..read + n]);
        self.traffic.0.read.fetch_add(n, Ordering::SeqCst);
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.traffic.0.written.lock().unwrap().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let mut dropped = self.traffic.0.dropped.lock().unwrap();
        dropped.0 = true;
        if let Some(waker) = dropped.1.take() {
            waker.wake();
        }
    }
}

/// Listener of one connection.
struct One(Option<Pieces>);

impl Accept for One {
    type Io = Pieces;

    async fn accept(&mut self) -> io::Result<(Pieces, Address)> {
        match self.0.take() {
            Some(stream) => Ok((stream, Address::named("client"))),
            None => pending().await,
        }
    }
}

/// Serves one connection until it is closed. `set` changes the listener's settings.
///
/// # Panics
///
/// If the server fails, or its handler panics.
pub fn serve<H, F>(pieces: Pieces, set: impl FnOnce(Listener) -> Listener, handler: H) -> Report
where
    H: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output: HandlerOutput> + Send + 'static,
{
    let traffic = pieces.traffic();
    let listener = set(Listener::custom(Address::named("pieces"), One(Some(pieces))));
    let server = Server::new(listener).newcomer_time(Duration::ZERO);
    let scope = server.scope(handler, async |_| traffic.dropped().await);
    let ((), report) = future::block_on(scope).expect("the server goes on");
    assert_eq!((report.accepted(), report.panicked(), report.cancelled()), (1, 0, 0), "{report}");
    report
}
