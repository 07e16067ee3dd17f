//! A boxed stream that is not a socket (custom, in memory, TLS), shared by all clones of its connection.
//!
//! Its methods need it exclusively (`Pin<&mut Self>`), and it keeps one waker a direction, as streams do. Clones of a
//! connection are polled by many tasks at once. So:
//!
//! 1. One task at a time has its *turn*. No task ever waits for the lock, since its holder runs user code: a task that
//!    finds it taken is *refused*, and woken when the turn ends. Only refused tasks are woken then: otherwise two tasks
//!    that wait for bytes, woken at the same time, would meet again, and go on refusing each other.
//! 2. The stream is given one waker, always the same, which wakes every waiting task, whichever direction it waits for:
//!    a TLS stream may have to write in order to read.
//! 3. A stream that never blocks yields after a budget of operations (`coop`): otherwise a peer that floods would have
//!    the thread for itself, and nothing could end the handler.
//! 4. The stream is dropped by the first that can: the caller that wants its end, or the task whose turn it then is, on
//!    leaving.
//!
//! 1 and 4 rest on a swap: a task that comes sets a flag and tries the lock again; a task that leaves releases the lock
//! and looks at the flag. Both look by a read-modify-write of the same flag, so one of them comes second, and sees what
//! the other did before.

use crate::panic::{self, Kept, log_line};
use crate::sync::broadcast::BroadcastWaker;
use crate::sync::coop::{self, Budget, Direction};
use crate::sync::{Mutex, MutexGuard};
use crate::text::explained;
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
pub(crate) struct Boxed {
    /// `None` once it is destroyed. Never waited for.
    stream: Mutex<Option<Kept<BoxedStream>>>,
    /// The tasks that wait for the stream.
    waiters: Arc<BroadcastWaker>,
    /// Wakes the waiters.
    waker: Waker,
    /// The tasks that found it taken, and wait for the end of the turn.
    refused: BroadcastWaker,
    /// There may be refused tasks.
    contended: AtomicBool,
    /// It is to be destroyed.
    closing: AtomicBool,
    /// One for each direction.
    budgets: [Budget; 2],
}

impl Boxed {
    pub(crate) fn new(stream: BoxedStream) -> Self {
        let waiters = Arc::<BroadcastWaker>::default();
        Self {
            stream: Mutex::new(Some(Kept::new(stream))),
            waker: Waker::from(Arc::clone(&waiters)),
            waiters,
            refused: BroadcastWaker::default(),
            contended: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            budgets: Default::default(),
        }
    }

    /// Polls the stream if no other task does. Its panic ends the stream, and is an error for the caller.
    pub(crate) fn poll<T>(
        &self,
        direction: Direction,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut dyn Duplex>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let budget = &self.budgets[direction as usize];
        if budget.is_spent() {
            return budget.yield_now(cx);
        }
        let Some(mut turn) = self.turn(cx.waker()) else {
            coop::mark_refusal();
            return Poll::Pending;
        };
        self.waiters.add(cx.waker()); // first, so that no wake-up comes too early
        let Some(stream) = turn.stream() else {
            return Poll::Ready(Err(explained(io::ErrorKind::BrokenPipe, "the connection is closed")));
        };
        match panic::catch(|| poll(stream.get_mut().as_mut(), &mut Context::from_waker(&self.waker))) {
            Ok(poll) => {
                match poll {
                    Poll::Ready(_) => budget.spend(),
                    Poll::Pending => budget.reset(),
                }
                poll
            }
            Err(payload) => {
                self.closing.swap(true, Ordering::AcqRel); // destroyed at the end of the turn
                let message = panic::message(&payload).to_owned();
                panic::discard(payload);
                log_line!(error, "the stream of a connection panicked: {message}");
                Poll::Ready(Err(explained(
                    io::ErrorKind::Other,
                    format_args!("the stream of the connection panicked: {message}"),
                )))
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
        self.closing.swap(true, Ordering::AcqRel);
        self.destroy_closing();
    }

    fn destroy_closing(&self) {
        if let Some(mut guard) = self.try_lock() {
            let stream = guard.take();
            drop(guard);
            drop(stream); // user code, and no lock is held
        }
        self.wake();
    }

    /// Wakes all tasks that wait, so that they look again.
    pub(crate) fn wake(&self) {
        self.waiters.wake_all();
        self.refused.wake_all();
    }
}

impl fmt::Debug for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = self.closing.load(Ordering::Relaxed);
        f.debug_struct("Boxed").field("closed", &closed).finish_non_exhaustive()
    }
}

/// The right to poll the stream.
struct Turn<'a> {
    shared: &'a Boxed,
    /// `None` only while it is dropped.
    guard: Option<MutexGuard<'a, Option<Kept<BoxedStream>>>>,
}

impl Turn<'_> {
    fn stream(&mut self) -> Option<&mut Kept<BoxedStream>> {
        if self.shared.closing.load(Ordering::Acquire) {
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
        if self.shared.closing.fetch_or(false, Ordering::AcqRel) {
            self.shared.destroy_closing();
        }
    }
}
