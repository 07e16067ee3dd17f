//! [`Signals`], the public stream, and [`on_signal`]: what the thread that reads a signal does with it.
//!
//! `on_signal` asks the [`Fanout`] for a verdict: wake the streams of the signal, do nothing, or exit the process.

use super::fanout::{Fanout, Verdict};
use super::{Signal, lock, take};
use crate::panic::{catch, discard, log_line};
use futures_core::Stream;
use std::pin::Pin;
use std::sync::{Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{fmt, io, process, thread};

/// How long the last log line may delay the exit. Enough for a slow disk, and short for a person who has pressed Ctrl-C
/// three times.
const LOG_LIMIT: Duration = Duration::from_secs(1);

/// The live streams, and which signals each has received. Written by the threads that read signals, and by the streams.
static FANOUT: Mutex<Fanout> = Mutex::new(Fanout::new());

/// Stream of received signals, returned by [`ctrl_c`](super::ctrl_c), [`termination`](super::termination), `hangup` and
/// `user1`.
///
/// The stream never ends. A signal that arrives before the stream is polled is remembered. Every live stream of a
/// signal gets it.
///
/// The signals of `ctrl_c` and `termination` are requests to stop, and are counted:
///
/// - Signals within 100 milliseconds of the last counted one count once: `timeout` and some terminals send a signal
///   twice, and a supervisor may send SIGTERM right after SIGINT. So a burst is one request.
/// - Each stream counts up to two. If a signal arrives and every live (not dropped) stream of it has counted two, the
///   process **exits with status 128 + its number**, after a log line that may take at most 1 second; destructors do
///   not run. So with one stream the third signal exits, whether the stream was polled or not. After every stream was
///   dropped, the next signal exits.
///
/// Dropping a stream unregisters it, and signals that it has not yielded are lost. The signals stay taken for the life
/// of the process: they do not get back their default effect, which is to end the process at once.
///
/// The type is not `Clone`, since each stream counts for itself: call the function again for a second stream.
///
/// # Cancel safety
///
/// Only the poll that yields a signal takes it from the stream, so dropping `next()` while it waits loses none.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// # if cfg!(windows) { return Ok(()) }
/// use async_std::prelude::*;
/// use ebbtide::signal::{self, Signal};
///
/// let (mut first, mut second) = (signal::termination()?, signal::termination()?);
/// # #[cfg(unix)]
/// nix::sys::signal::raise(nix::sys::signal::SIGTERM)?; // as `kill PID` does
/// assert_eq!(first.next().await, Some(Signal::Terminate));
/// assert_eq!(second.next().await, Some(Signal::Terminate));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[must_use = "keep the stream: after its drop, its signal exits the process or has no effect"]
pub struct Signals {
    /// The key of this stream's entry in [`FANOUT`], which `register` adds and `drop` removes.
    key: usize,
    /// The signals of this stream, for `Debug`.
    signals: &'static [Signal],
}

impl Signals {
    pub(super) fn of(signals: &'static [Signal], stop: bool) -> io::Result<Self> {
        // Registered first: a signal right after the handler is installed finds its stream. If the installation fails,
        // `Drop` unregisters.
        let stream = Self::register(signals, stop);
        let (taken, notes) = take::take(signals);
        for note in notes {
            log_line!(note.level, signal:% = note.signal; "{}", note.text);
        }
        taken.map(|()| stream)
    }

    fn register(signals: &'static [Signal], stop: bool) -> Self {
        let key = lock(&FANOUT).join(signals, stop);
        Self { key, signals }
    }

    /// Starts the reading threads again after a fork: the child process has none of its parent's threads.
    fn take_again_if_forked(&self) {
        if let Err(error) = take::take_again_if_forked() {
            log_line!(error, "this process was forked after its signals were taken, and cannot receive them: {error}");
        }
    }

    /// Makes every signal of this stream a request to stop, SIGHUP and SIGUSR1 too.
    pub(crate) fn ask_to_stop(&self) {
        lock(&FANOUT).ask_to_stop(self.key);
    }
}

impl Stream for Signals {
    type Item = Signal;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Signal>> {
        self.take_again_if_forked();
        // A waker is foreign code: it is cloned before the lock is taken, and a waker that is returned is dropped
        // after.
        let waker = cx.waker().clone();
        let (item, _unused) = lock(&FANOUT).poll(self.key, waker);
        item.map(Some)
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signals").field(&self.signals).finish()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Bound to a name, so that the waker outlives the lock: its destructor may drop a task with another stream.
        let _waker = lock(&FANOUT).leave(self.key);
    }
}

/// Handles one signal, on the thread that reads it.
///
/// It must neither panic nor block: the thread could then read no further signal, and the third signal could not exit
/// the process. So a signal that is delivered is not logged here.
pub(super) fn on_signal(signal: Signal) {
    // Not `match lock(…)…`: the lock would be held until the end of the match.
    let verdict = lock(&FANOUT).count(signal, Instant::now());
    match verdict {
        Verdict::Echo => {}
        Verdict::Deliver(wakers) => {
            for waker in wakers {
                // The panic hook has reported the panic of a waker already.
                if let Err(payload) = catch(|| waker.wake()) {
                    discard(payload);
                }
            }
        }
        Verdict::Ignore => log_aside(move || {
            log_line!(info, signal:% = signal; "received {signal}, but its stream was dropped: no effect");
        }),
        Verdict::Default => take::default_effect(signal),
        Verdict::Exit { asked } => exit(signal, asked),
    }
}

/// Logs a line and exits. If the logger hangs or panics, it still exits.
fn exit(signal: Signal, asked: bool) -> ! {
    let status = signal.exit_status();
    let why = match asked {
        true => "after an earlier request to stop",
        false => "whose stream was dropped",
    };
    log_aside(move || {
        log_line!(
            warn, signal:% = signal, status = status;
            "received {signal} {why}: exiting now with status {status}"
        );
    });
    process::exit(status)
}

/// Logs on a new thread, and waits for that thread for at most [`LOG_LIMIT`].
///
/// NOTE: when the process has to exit, a logger may hang (a full pipe, a lock with a stuck holder) or panic (`println!`
/// to a closed terminal). On a thread of its own it affects nothing here: the channel closes when the thread returns or
/// panics, and also if the thread could not be started.
fn log_aside(log: impl FnOnce() + Send + 'static) {
    let (running, ended) = mpsc::channel::<()>();
    let _detached = thread::Builder::new().spawn(move || {
        let _running = running;
        log();
    });
    let _closed_or_late = ended.recv_timeout(LOG_LIMIT);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::{Wake, Waker};

    use super::*;

    const fn assert_usable_in_any_task<T: Stream<Item = Signal> + Send + Sync + Unpin + 'static>() {}
    const _: () = assert_usable_in_any_task::<Signals>();

    /// A waker that counts its wake-ups, and then calls a function of the test.
    struct Probe<F>(AtomicUsize, F);

    impl<F: Fn() + Send + Sync + 'static> Wake for Probe<F> {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
            (self.1)();
        }
    }

    fn interrupts() -> Signals {
        Signals::register(&[Signal::Interrupt], true)
    }

    // One test for everything that uses the statics: a signal without a stream would end the test process.
    #[test]
    fn a_signal_survives_a_poisoned_lock_and_wakers_that_panic_or_take_the_lock() {
        let poisoner = thread::spawn(|| {
            let _guard = FANOUT.lock();
            panic!("poisons the lock, on purpose");
        });
        assert!(poisoner.join().is_err() && FANOUT.is_poisoned());

        let (mut first, mut second) = (interrupts(), interrupts());
        assert_eq!(format!("{first:?}"), "Signals([Interrupt])");
        let panics = Arc::new(Probe(AtomicUsize::new(0), || panic!("in a waker, on purpose")));
        let takes_lock = Arc::new(Probe(AtomicUsize::new(0), || drop(interrupts())));
        let (one, two) = (Waker::from(panics.clone()), Waker::from(takes_lock.clone()));
        assert!(Pin::new(&mut first).poll_next(&mut Context::from_waker(&one)).is_pending());
        assert!(Pin::new(&mut second).poll_next(&mut Context::from_waker(&two)).is_pending());

        on_signal(Signal::Interrupt);
        assert_eq!((panics.0.load(SeqCst), takes_lock.0.load(SeqCst)), (1, 1));
        for stream in [&mut first, &mut second] {
            let mut cx = Context::from_waker(Waker::noop());
            assert_eq!(Pin::new(&mut *stream).poll_next(&mut cx), Poll::Ready(Some(Signal::Interrupt)));
            assert_eq!(Pin::new(&mut *stream).poll_next(&mut cx), Poll::Pending);
        }
    }
}
