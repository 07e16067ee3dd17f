//! [`Signals`], and what the threads that take signals do with each: deliver it, or exit.

use super::fanout::{Fanout, Verdict};
use super::{Signal, lock, take};
use crate::panic::{catch, discard, log_line};
use async_std::stream::Stream;
use std::pin::Pin;
use std::sync::{Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{fmt, io, process, thread};

/// How long the last log line may hold up the exit. Enough for a slow disk, and little to a person who has pressed
/// Ctrl-C three times.
const LOG_LIMIT: Duration = Duration::from_secs(1);

/// The live streams and what each has had. Written by the threads that take signals, and by the streams.
static FANOUT: Mutex<Fanout> = Mutex::new(Fanout::new());

/// Stream of the signals that came, made by [`ctrl_c`](super::ctrl_c), [`termination`](super::termination), `hangup`
/// and `user1`. It never ends.
///
/// A signal that comes before the stream is polled is remembered. Every live stream of a signal gets it.
///
/// The streams of `ctrl_c` and `termination` ask to stop, and count:
///
/// - Signals within 100 milliseconds of the last counted one count once: `timeout` and some terminals send a signal
///   twice, and a supervisor may send SIGTERM right after SIGINT. So a burst is one request.
/// - Each stream counts for itself, up to two. If a signal comes and no live (not dropped) stream of it has had fewer,
///   the process **exits with status 128 + its number**, after a log line that may take at most 1 second; destructors
///   do not run. So with one stream the third signal exits, polled or not, and once every stream is dropped the next
///   one does.
///
/// Not `Clone`: each stream counts for itself, so a second one comes from a second call. Dropping a stream unregisters
/// it, and what it had not yielded yet is lost. The signals stay taken for the process' life: they do not get back
/// their default effect, which is to end the process at once.
///
/// # Cancel safety
///
/// A signal is taken from the stream only by the poll that yields it, so dropping `next()` while it waits loses none.
#[must_use = "keep the stream: a signal that finds none alive exits the process, or has no effect"]
pub struct Signals {
    /// Our entry in [`FANOUT`], made by `of` and removed by `drop`.
    key: usize,
    signals: &'static [Signal],
}

impl Signals {
    pub(super) fn of(signals: &'static [Signal], stop: bool) -> io::Result<Self> {
        // Registered first: a signal right after the installation finds its stream. Where that fails, `Drop`
        // unregisters.
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

    /// A process that was forked from the one that took them has no thread that reads them.
    fn take_again_if_forked(&self) {
        if let Err(error) = take::take_again_if_forked() {
            log_line!(error, "this process was forked after the signals were taken, and is deaf to them: {error}");
        }
    }

    /// From now on each signal is a request to stop, whatever signal it is.
    pub(crate) fn ask_to_stop(&self) {
        lock(&FANOUT).ask_to_stop(self.key);
    }
}

impl Stream for Signals {
    type Item = Signal;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Signal>> {
        self.take_again_if_forked();
        // A waker is foreign code: cloned before the lock is taken and, if it comes back, dropped after.
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
        // Named, so that the waker outlives the lock: its destructor may be that of another stream's task.
        let _waker = lock(&FANOUT).leave(self.key);
    }
}

/// Runs on the thread that takes the signal, once for each. It must neither panic nor block: either would be the end
/// of that thread's service, and with it of the third signal's way out. So a signal that is delivered is not logged
/// here.
pub(super) fn on_signal(signal: Signal) {
    // Not `match lock(…)…`: the lock would be held to the end of the match.
    let verdict = lock(&FANOUT).count(signal, Instant::now());
    match verdict {
        Verdict::Echo => {}
        Verdict::Deliver(wakers) => {
            for waker in wakers {
                // A waker that panics has had its say; the panic hook has reported it.
                if let Err(payload) = catch(|| waker.wake()) {
                    discard(payload);
                }
            }
        }
        Verdict::Ignore => log_aside(move || {
            log_line!(info, signal:% = signal; "{signal} came, and its stream is gone: it has no effect");
        }),
        Verdict::Default => take::default_effect(signal),
        Verdict::Exit { asked } => exit(signal, asked),
    }
}

/// Logs a line and exits, in this order if the logger lets us.
fn exit(signal: Signal, asked: bool) -> ! {
    let status = signal.exit_status();
    let why = match asked {
        true => "came after an earlier request to stop",
        false => "came, and no stream of it is left",
    };
    log_aside(
        move || log_line!(warn, signal:% = signal, status = status; "{signal} {why}: exiting now with status {status}"),
    );
    process::exit(status)
}

/// Logs on a thread of its own, and waits for it, for a while.
///
/// NOTE: where an exit is needed, a logger may well hang (a full pipe, a lock whose holder is stuck) or panic
/// (`println!` to a terminal that is gone). On a thread of its own it can do neither to us: the channel closes when the
/// thread is through, in whichever way, and also if there is no thread to be had.
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

    const fn is_at_home_everywhere<T: Stream<Item = Signal> + Send + Sync + Unpin + 'static>() {}
    const _: () = is_at_home_everywhere::<Signals>();

    /// What a task can be to its waker: counts, and then does what a test wants.
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

    // One test for all that touches the statics: a signal without a stream would end the test process.
    #[test]
    fn a_signal_survives_a_poisoned_lock_and_wakers_that_panic_or_come_back() {
        let poisoner = thread::spawn(|| {
            let _guard = FANOUT.lock();
            panic!("poisons the lock, on purpose");
        });
        assert!(poisoner.join().is_err() && FANOUT.is_poisoned());

        let (mut first, mut second) = (interrupts(), interrupts());
        assert_eq!(format!("{first:?}"), "Signals([Interrupt])");
        let panics = Arc::new(Probe(AtomicUsize::new(0), || panic!("in a waker, on purpose")));
        let comes_back = Arc::new(Probe(AtomicUsize::new(0), || drop(interrupts())));
        let (one, two) = (Waker::from(panics.clone()), Waker::from(comes_back.clone()));
        assert!(Pin::new(&mut first).poll_next(&mut Context::from_waker(&one)).is_pending());
        assert!(Pin::new(&mut second).poll_next(&mut Context::from_waker(&two)).is_pending());

        on_signal(Signal::Interrupt);
        assert_eq!((panics.0.load(SeqCst), comes_back.0.load(SeqCst)), (1, 1));
        for stream in [&mut first, &mut second] {
            let mut cx = Context::from_waker(Waker::noop());
            assert_eq!(Pin::new(&mut *stream).poll_next(&mut cx), Poll::Ready(Some(Signal::Interrupt)));
            assert_eq!(Pin::new(&mut *stream).poll_next(&mut cx), Poll::Pending);
        }
    }
}
