//! Ctrl-C, SIGTERM and SIGHUP as a stream, for a program that ends when it is told to.
//!
//! [`ctrl_c`] makes the stream, and `Server::shutdown_on(signal::ctrl_c()?)` is the usual place for it. Then
//!
//! 1. the first signal asks for a graceful shutdown,
//! 2. the second cancels what is still running,
//! 3. the third exits the process with status 130, even if something hangs.
//!
//! Nothing else in this library uses this module: a server takes any `Stream<Item = ()>`, and a program with signal
//! handlers of its own gives it one that they feed.
//!
//! The handler itself is the work of the [`ctrlc`](https://docs.rs/ctrlc) crate, with its feature `termination`.

use crate::panic::log_line;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{panic, process, thread};

use async_std::stream::Stream;

use disposition::Disposition;
use fanout::{Fanout, Verdict};

mod disposition;
mod fanout;

/// What a shell reports for a program that Ctrl-C ended: 128 and the number of SIGINT.
const EXIT_STATUS: i32 = 130;

/// How long the last log line may hold up the exit. Enough for a slow disk, and little to a person who has pressed
/// Ctrl-C three times.
const LOG_LIMIT: Duration = Duration::from_secs(1);

/// The live streams and what each has had. Written by the handler's thread and by the streams.
static FANOUT: Mutex<Fanout> = Mutex::new(Fanout::new());

/// How far the process' handler is. Held during an installation, so that there is one at a time.
static PROGRESS: Mutex<Progress> = Mutex::new(Progress::Nothing);

enum Progress {
    /// No handler of ours: not tried yet, or refused.
    Nothing,
    /// `ctrlc` may have left its handler in place when it could not start the thread that belongs to it. From outside
    /// that looks like somebody else's handler, so the next attempt must not look.
    Half,
    /// Installed, for as long as the process lives.
    Done,
}

/// A stream of the signals that ask this program to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP; on Windows Ctrl-C and
/// Ctrl-Break. (tokio's `ctrl_c` is a future of one signal: here that is `signal::ctrl_c()?.next().await`.)
///
/// - The stream yields one `()` for each signal and never ends. A signal that comes before the stream is polled is
///   remembered.
/// - Signals within 100 milliseconds of the last counted one count once: a terminal that closes sends SIGHUP twice.
/// - Each stream counts for itself. A signal goes to every stream that is alive (not dropped) and has had fewer than
///   two. If there is no such stream, the process **exits with status 130**, after a log line that may take at most
///   1 second; destructors do not run. So with one stream the third signal exits, polled or not, and once every
///   stream is dropped the next one does.
///
/// The first call installs a handler for the whole process; later calls share it. It stays for the process' life, and
/// replaces the default, which is to die of the signal at once. Signals that were merely *ignored* are taken over
/// too: SIGHUP also under `nohup`, and SIGINT in a program that a shell script started with `&`. (Programs that are
/// started from this one then no longer inherit that they are ignored.)
///
/// # Errors
///
/// - [`AlreadyExists`](io::ErrorKind::AlreadyExists) if the program has a handler of its own for one of these signals.
///   It is left in place. Either remove it, or let it feed a stream (the receiver of an `async_std::channel` is one)
///   and shut the server down on that. On Linux the kernel's `/proc/self/status` tells a handler from a signal that is
///   ignored; on other Unix systems, and where `/proc` is missing, an ignored signal is this error too. On Windows only
///   a handler set through `ctrlc` is.
/// - The system's error where it refuses the handler or its thread. Without the thread the signals may have no effect
///   until a later call succeeds.
///
/// After an error a later call tries again. A handler that is installed *after* this call is not noticed, and takes the
/// signals away from these streams.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use async_std::{future, prelude::*};
/// use ebbtide::signal;
///
/// # fn main() -> std::io::Result<()> {
/// # async_std::task::block_on(async {
/// let mut signals = signal::ctrl_c()?;
/// println!("running until Ctrl-C");
/// signals.next().await;
/// println!("5 seconds to finish; Ctrl-C again to leave at once");
/// let _ = future::timeout(Duration::from_secs(5), signals.next()).await;
/// # Ok(())
/// # })
/// # }
/// ```
pub fn ctrl_c() -> io::Result<CtrlC> {
    // Registered first: a signal right after the installation finds its stream. Where that fails, `Drop` unregisters.
    let stream = CtrlC::register();
    install()?;
    Ok(stream)
}

/// The stream that [`ctrl_c`] makes.
///
/// Dropping it unregisters it, and what it had not yielded yet is lost. Not `Clone`: each stream counts for itself, so
/// a second one comes from a second call.
///
/// # Cancel safety
///
/// A signal is taken from the stream only by the poll that yields it, so dropping `next()` while it waits loses none.
#[derive(Debug)]
#[must_use = "keep the stream: a signal that finds none alive exits the process"]
pub struct CtrlC {
    /// Our entry in [`FANOUT`], made by `register` and removed by `drop`.
    key: usize,
}

impl CtrlC {
    fn register() -> Self {
        let key = lock(&FANOUT).join();
        Self { key }
    }
}

impl Stream for CtrlC {
    type Item = ();

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        // A waker is foreign code: cloned before the lock is taken and, if it comes back, dropped after.
        let waker = cx.waker().clone();
        let (item, _unused) = lock(&FANOUT).poll(self.key, waker);
        item.map(Some)
    }
}

impl Drop for CtrlC {
    fn drop(&mut self) {
        // Named, so that the waker outlives the lock: its destructor may be that of another stream's task.
        let _waker = lock(&FANOUT).leave(self.key);
    }
}

/// Installs the handler unless that is done.
fn install() -> io::Result<()> {
    let mut progress = lock(&PROGRESS);
    let installed = match *progress {
        Progress::Done => return Ok(()),
        Progress::Half => ctrlc::set_handler(on_signal),
        Progress::Nothing => match disposition::current() {
            Some(Disposition::Caught(names)) => return Err(refused(&format!("`{}`", names.join("`, `")))),
            // The one case for overwriting: what is overwritten is that nothing happens.
            Some(Disposition::Ignored) => ctrlc::set_handler(on_signal),
            Some(Disposition::Default) | None => ctrlc::try_set_handler(on_signal),
        },
    };
    match installed {
        Ok(()) => *progress = Progress::Done,
        Err(ctrlc::Error::MultipleHandlers) => {
            return Err(refused("one of them (or ignores it)"));
        }
        Err(ctrlc::Error::System(error)) => {
            *progress = Progress::Half;
            let text = format!("could not handle SIGINT, SIGTERM and SIGHUP: {error}");
            return Err(io::Error::new(error.kind(), text));
        }
        Err(error) => return Err(io::Error::other(error)),
    }
    Ok(())
}

fn refused(whose: &str) -> io::Error {
    let text = format!(
        "could not handle SIGINT, SIGTERM and SIGHUP: the program already has a handler for {whose}; \
         remove it, or let it feed a stream of your own in place of `signal::ctrl_c`"
    );
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}

/// Runs on the thread of `ctrlc`, once for each signal. It must neither panic nor block: either would be the end of
/// that thread's service, and with it of the third signal's way out. So a signal that is delivered is not logged here.
fn on_signal() {
    // Not `match lock(…)…`: the lock would be held to the end of the match.
    let verdict = lock(&FANOUT).count(Instant::now());
    match verdict {
        Verdict::Echo => {}
        Verdict::Deliver(wakers) => {
            for waker in wakers {
                // A waker that panics has had its say; the panic hook has reported it.
                let _ = panic::catch_unwind(panic::AssertUnwindSafe(|| waker.wake()));
            }
        }
        Verdict::Exit => exit(),
    }
}

/// Logs a line and exits, in this order if the logger lets us.
///
/// NOTE: where this exit is needed, a logger may well hang (a full pipe, a lock whose holder is stuck) or panic
/// (`println!` to a terminal that is gone). On a thread of its own it can do neither to us: the channel closes when the
/// thread is through, in whichever way, and also if there is no thread to be had.
fn exit() -> ! {
    let (running, ended) = mpsc::channel::<()>();
    let _detached = thread::Builder::new().spawn(move || {
        let _running = running;
        log_line!(warn, status = EXIT_STATUS; "told to end once more: exiting at once");
    });
    let _closed_or_late = ended.recv_timeout(LOG_LIMIT);
    process::exit(EXIT_STATUS)
}

/// No foreign code runs under these locks, and each change under them is complete: a panic elsewhere taints nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::{Wake, Waker};

    use super::*;

    const fn is_at_home_everywhere<T: Stream<Item = ()> + Send + Sync + Unpin + 'static>() {}
    const _: () = is_at_home_everywhere::<CtrlC>();

    /// What a task can be to its waker: counts, and then does what a test wants.
    struct Probe<F>(AtomicUsize, F);

    impl<F: Fn() + Send + Sync + 'static> Wake for Probe<F> {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
            (self.1)();
        }
    }

    // One test for all that touches the statics: a signal without a stream would end the test process.
    #[test]
    fn a_signal_survives_a_poisoned_lock_and_wakers_that_panic_or_come_back() {
        let poisoner = thread::spawn(|| {
            let _guard = FANOUT.lock();
            panic!("poisons the lock, on purpose");
        });
        assert!(poisoner.join().is_err() && FANOUT.is_poisoned());

        let (mut first, mut second) = (CtrlC::register(), CtrlC::register());
        let panics = Arc::new(Probe(AtomicUsize::new(0), || panic!("in a waker, on purpose")));
        let comes_back = Arc::new(Probe(AtomicUsize::new(0), || drop(CtrlC::register())));
        let (one, two) = (Waker::from(panics.clone()), Waker::from(comes_back.clone()));
        assert!(Pin::new(&mut first).poll_next(&mut Context::from_waker(&one)).is_pending());
        assert!(Pin::new(&mut second).poll_next(&mut Context::from_waker(&two)).is_pending());

        on_signal();
        assert_eq!((panics.0.load(SeqCst), comes_back.0.load(SeqCst)), (1, 1));
        for stream in [&mut first, &mut second] {
            let mut cx = Context::from_waker(Waker::noop());
            assert_eq!(Pin::new(&mut *stream).poll_next(&mut cx), Poll::Ready(Some(())));
            assert_eq!(Pin::new(&mut *stream).poll_next(&mut cx), Poll::Pending);
        }
    }
}
