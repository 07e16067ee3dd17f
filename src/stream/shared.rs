//! A stream of bytes that is no socket, for all the clones of its connection.
//!
//! Its methods need it for themselves (`Pin<&mut Self>`), and it keeps one waker a direction, as streams do. Clones of a
//! connection are polled by many tasks at once. So:
//!
//! 1. One task at a time has its *turn*. Nobody ever waits for a lock here, since whoever holds it runs user code: who finds
//!    it taken is *refused*, and woken when the turn ends. Nobody else is: else two tasks that wait for bytes, woken at the
//!    same time, would meet again, and go on refusing each other.
//! 2. The stream is given one waker, always the same, which wakes every task that waits, whichever direction it waits for:
//!    a TLS stream may have to write in order to read.
//! 3. Who has had it for long without a wait goes to the end of the executor's queue once: else a peer that floods, or a stream
//!    that never waits, would have the thread for itself, and nothing could end the handler.
//! 4. The stream is destroyed by the first who can: whoever wants its end, or the one whose turn it then is, on leaving.
//!
//! 1 and 4 rest on a swap: who comes in sets a flag and tries the lock again; who leaves releases the lock and looks at the
//! flag. Both look by a read-modify-write of the same flag, so one of them comes second, and sees what the other did before.

use super::put_off;
use super::streak::{Streak, Way};
use super::waiters::Waiters;
use crate::kept::Kept;
use crate::say::say;
use crate::sync::{Mutex, MutexGuard};
use crate::unwind;
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, TryLockError};
use std::task::{Context, Poll, Waker};

/// Bytes in both directions: what a [custom listener](crate::Accept) gives for each client.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send + ?Sized> Duplex for T {}

/// A [`Duplex`] stream on the heap.
pub(crate) type BoxedStream = Pin<Box<dyn Duplex>>;

/// See the module.
pub(crate) struct Shared {
    /// `None` once it is destroyed. Never waited for.
    stream: Mutex<Option<Kept<BoxedStream>>>,
    /// Who waits for the stream.
    waiters: Arc<Waiters>,
    /// Wakes the waiters.
    waker: Waker,
    /// Who found it taken, and waits for the end of the turn.
    refused: Waiters,
    /// There may be somebody among the refused.
    contended: AtomicBool,
    /// It is to be destroyed.
    condemned: AtomicBool,
    /// Of polls without a wait, for each way.
    streaks: [Streak; 2],
}

impl Shared {
    pub(crate) fn new(stream: BoxedStream) -> Self {
        let waiters = Arc::<Waiters>::default();
        Self {
            stream: Mutex::new(Some(Kept::new(stream))),
            waker: Waker::from(Arc::clone(&waiters)),
            waiters,
            refused: Waiters::default(),
            contended: AtomicBool::new(false),
            condemned: AtomicBool::new(false),
            streaks: Default::default(),
        }
    }

    /// Polls the stream if nobody else does. Its panic ends the stream, and is an error for whoever polled.
    pub(crate) fn poll<T>(
        &self,
        way: Way,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut dyn Duplex>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let streak = &self.streaks[way as usize];
        if streak.is_over() {
            return streak.end(cx);
        }
        let Some(mut turn) = self.turn(cx.waker()) else {
            put_off::mark();
            return Poll::Pending;
        };
        self.waiters.add(cx.waker()); // first, so that no wake-up comes too early
        let Some(stream) = turn.stream() else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the connection is closed")));
        };
        match unwind::catch(|| poll(stream.get_mut().as_mut(), &mut Context::from_waker(&self.waker))) {
            Ok(poll) => {
                match poll {
                    Poll::Ready(_) => streak.go_on(),
                    Poll::Pending => streak.reset(),
                }
                poll
            }
            Err(payload) => {
                self.condemned.swap(true, Ordering::AcqRel); // destroyed at the end of the turn
                let message = unwind::message(&payload).to_owned();
                unwind::discard(payload);
                say!(error, "the stream of a connection panicked: {message}");
                Poll::Ready(Err(io::Error::other(format!("the stream of the connection panicked: {message}"))))
            }
        }
    }

    fn turn(&self, waker: &Waker) -> Option<Turn<'_>> {
        if let Some(guard) = self.try_lock() {
            return Some(Turn { shared: self, guard: Some(guard) });
        }
        self.refused.add(waker);
        self.contended.swap(true, Ordering::AcqRel);
        self.try_lock().map(|guard| Turn { shared: self, guard: Some(guard) })
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Option<Kept<BoxedStream>>>> {
        match self.stream.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Destroys the stream, which is its way to close; if it is being polled, as soon as that poll is over.
    pub(crate) fn destroy(&self) {
        self.condemned.swap(true, Ordering::AcqRel);
        self.destroy_condemned();
    }

    fn destroy_condemned(&self) {
        if let Some(mut guard) = self.try_lock() {
            let stream = guard.take();
            drop(guard);
            drop(stream); // user code, and no lock is held
        }
        self.wake();
    }

    /// Has everybody who waits look again.
    pub(crate) fn wake(&self) {
        self.waiters.wake_all();
        self.refused.wake_all();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = self.condemned.load(Ordering::Relaxed);
        f.debug_struct("Shared").field("closed", &closed).finish_non_exhaustive()
    }
}

/// The right to poll the stream.
struct Turn<'a> {
    shared: &'a Shared,
    /// `None` only while it is dropped.
    guard: Option<MutexGuard<'a, Option<Kept<BoxedStream>>>>,
}

impl Turn<'_> {
    fn stream(&mut self) -> Option<&mut Kept<BoxedStream>> {
        if self.shared.condemned.load(Ordering::Acquire) {
            return None;
        }
        self.guard.as_mut().and_then(|guard| guard.as_mut())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        if self.shared.contended.swap(false, Ordering::AcqRel) {
            self.shared.refused.wake_all();
        }
        if self.shared.condemned.fetch_or(false, Ordering::AcqRel) {
            self.shared.destroy_condemned();
        }
    }
}
