//! [`Boxed`]: a stream that is not a socket (custom, in memory, TLS), shared by all clones of its connection.
//!
//! The methods of a stream need exclusive access (`Pin<&mut Self>`), and streams keep one waker for each direction. But
//! many tasks at once poll clones of a connection. So:
//!
//! 1. One task at a time has its *turn*. No task blocks on the lock, because its holder runs user code. A task that
//!    finds the lock taken is *refused*, and is woken when the turn ends. Only refused tasks are woken then. (If all
//!    were, two tasks that wait for bytes would be woken at the same time, and refuse each other again and again.)
//! 2. The stream gets one waker, always the same. It wakes every waiting task, in either direction: a TLS stream may
//!    have to write before it can read.
//! 3. A stream that never blocks yields after a budget of operations (`coop`). Otherwise a peer that floods would keep
//!    the thread busy, and nothing could end the handler.
//! 4. The stream is destroyed by the first that can do it: the caller of [`Boxed::destroy`], or the task that has its
//!    turn at that moment, at the end of the turn.
//!
//! Rules 1 and 4 rest on one argument. A task that arrives sets a flag, and then tries the lock again. A task that
//! leaves releases the lock, and then checks the flag. Both access the flag by a read-modify-write, so one of the two
//! is second, and sees what the other did before.

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

/// Byte stream in both directions, which a [custom listener](crate::Accept) returns for each client.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send + ?Sized> Duplex for T {}

/// A [`Duplex`] stream on the heap.
pub(crate) type BoxedStream = Pin<Box<dyn Duplex>>;

/// Boxed stream that any number of tasks can poll: see the module.
pub(crate) struct Boxed {
    /// `None` once the stream is destroyed. Its lock is only tried; no task blocks on it (rule 1).
    stream: Mutex<Option<Kept<BoxedStream>>>,
    /// The tasks that wait for the stream.
    waiters: Arc<BroadcastWaker>,
    /// The waker that the stream gets; it wakes `waiters` (rule 2).
    waker: Waker,
    /// The tasks that found the lock taken, and wait for the end of the turn.
    refused: BroadcastWaker,
    /// There may be refused tasks. The flag of rule 1.
    contended: AtomicBool,
    /// The stream is to be destroyed. The flag of rule 4. Never reset.
    closing: AtomicBool,
    /// The cooperative budget of each [`Direction`].
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

    /// Polls the stream if no other task has its turn. If the stream panics, it is destroyed, and the caller gets an
    /// error.
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
        self.waiters.add(cx.waker()); // before the poll, so that no wake-up is lost
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

    /// Begins this task's turn. Returns `None` if another task has its turn, which wakes this one at its end.
    fn turn(&self, waker: &Waker) -> Option<Turn<'_>> {
        if let Some(guard) = self.try_lock() {
            return Some(Turn { shared: self, guard: Some(guard) });
        }
        self.refused.add(waker);
        self.contended.swap(true, Ordering::AcqRel);
        // Tried again: the other turn may have ended before it could see the flag.
        self.try_lock().map(|guard| Turn { shared: self, guard: Some(guard) })
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Option<Kept<BoxedStream>>>> {
        match self.stream.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Destroys the stream, which closes it. If a task polls it, the stream is destroyed as soon as that poll returns.
    pub(crate) fn destroy(&self) {
        self.closing.swap(true, Ordering::AcqRel);
        self.destroy_closing();
    }

    /// Destroys the stream if no task has its turn, and wakes all tasks that wait.
    fn destroy_closing(&self) {
        if let Some(mut guard) = self.try_lock() {
            let stream = guard.take();
            drop(guard);
            drop(stream); // user code, and no lock is held
        }
        self.wake();
    }

    /// Wakes all tasks that wait, so that they poll again.
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

/// A task's turn: the right to poll the stream.
struct Turn<'a> {
    shared: &'a Boxed,
    /// `None` only during its drop.
    guard: Option<MutexGuard<'a, Option<Kept<BoxedStream>>>>,
}

impl Turn<'_> {
    /// Returns the stream; `None` if it is to be destroyed, or was.
    fn stream(&mut self) -> Option<&mut Kept<BoxedStream>> {
        if self.shared.closing.load(Ordering::Acquire) {
            return None;
        }
        self.guard.as_mut().and_then(|guard| guard.as_mut())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.guard.take()); // first: see the argument at the top
        if self.shared.contended.swap(false, Ordering::AcqRel) {
            self.shared.refused.wake_all();
        }
        if self.shared.closing.fetch_or(false, Ordering::AcqRel) {
            self.shared.destroy_closing();
        }
    }
}
