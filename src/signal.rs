//! Signals as streams: to stop on Ctrl-C and SIGTERM, to reload on SIGHUP.
//!
//! [`termination`] makes the stream of a program that ends when it is told to. Take it first, before anything is
//! bound: a signal that comes meanwhile is remembered, and no socket file is left behind.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use ebbtide::{Connection, Server, signal};
//!
//! let signals = signal::termination()?;
//! let server = Server::bind("127.0.0.1:8888").await?.shutdown_on(signals);
//! # server.serve(|_: Connection| async {}).await?;
//! # Ok(()) }
//! ```
//!
//! Then
//!
//! 1. the first signal asks for a graceful shutdown,
//! 2. the second cancels what is still running,
//! 3. the third exits the process with status 128 + its number (130 for SIGINT, 143 for SIGTERM), even if something
//!    hangs.
//!
//! | function | signals | for |
//! |---|---|---|
//! | [`ctrl_c`] | SIGINT | programs at a terminal that leave SIGTERM as it is |
//! | [`termination`] | SIGINT, SIGTERM | every service: Docker, Kubernetes and systemd send SIGTERM |
//! | `hangup` | SIGHUP | reloading files (Unix) |
//! | `user1` | SIGUSR1 | whatever the program says (Unix) |
//!
//! Nothing is taken that was not asked for. So SIGHUP is the program's, whether it has a handler of its own for it, a
//! stream, or neither: then a terminal that closes ends the program, as it always did.
//!
//! # What the environment has set
//!
//! - A signal that is *ignored* stays ignored: SIGHUP under `nohup`, SIGINT in a program that a shell script has
//!   started with `&`. Its stream never yields it; a line in the log (info) says so. Linux tells what is ignored; on
//!   other systems such a signal is taken.
//! - A signal that is *blocked* is heard all the same, by a thread that does not block it, with a warning in the log:
//!   the mask of the program that started this one is inherited, and a server that is deaf to SIGTERM is killed.
//! - A signal that has a *handler* already, of another part of the program, is shared: that handler is called first,
//!   and then the streams get the signal. A handler that is installed *after* the first call, other than by the crates
//!   `signal-hook`, `async-signal` or `tokio`, takes the signal away from the streams.
//!
//! Nothing else in this library uses this module: a server takes any `Stream<Item = ()>` as well.
//!
//! Ctrl-C is the work of the [`ctrlc`](https://docs.rs/ctrlc) crate. It takes SIGTERM and SIGHUP too if any crate of
//! the program turns on its feature `termination`: then [`signal-hook`](https://docs.rs/signal-hook), which takes the
//! other signals one by one, takes SIGINT as well, and the signals that were not asked for keep their effect. (Seen on
//! Linux; elsewhere only where SIGTERM is asked for.) The program's own `ctrlc::set_handler` has to come first; after
//! [`ctrl_c`] it is an error.

use crate::panic::{catch, discard, log_line};
use fanout::{Fanout, Verdict};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{process, thread};

use async_std::stream::Stream;

#[cfg(unix)]
mod disposition;
mod fanout;
#[cfg_attr(windows, path = "signal/take_windows.rs")]
mod take;

/// How long the last log line may hold up the exit. Enough for a slow disk, and little to a person who has pressed
/// Ctrl-C three times.
const LOG_LIMIT: Duration = Duration::from_secs(1);

/// The live streams and what each has had. Written by the threads that take signals, and by the streams.
static FANOUT: Mutex<Fanout> = Mutex::new(Fanout::new());

/// A signal that a stream has yielded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// SIGINT: Ctrl-C. On Windows Ctrl-Break too.
    Interrupt,
    /// SIGTERM: stop. What `kill`, Docker, Kubernetes and systemd send.
    Terminate,
    /// SIGHUP: the terminal was closed; by custom, a service reloads its files.
    Hangup,
    /// SIGUSR1: free for the program.
    User1,
}

impl Signal {
    const ALL: [Self; 4] = [Self::Interrupt, Self::Terminate, Self::Hangup, Self::User1];

    /// The system's number.
    #[cfg(unix)]
    fn number(self) -> i32 {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
        match self {
            Self::Interrupt => SIGINT,
            Self::Terminate => SIGTERM,
            Self::Hangup => SIGHUP,
            Self::User1 => SIGUSR1,
        }
    }

    /// There are no others on Windows.
    #[cfg(windows)]
    fn number(self) -> i32 {
        2
    }

    /// What a shell reports for a program that this signal ended.
    fn exit_status(self) -> i32 {
        128 + self.number()
    }
}

/// The system's name: `SIGTERM`.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Interrupt if cfg!(windows) => "Ctrl-C",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
            Self::User1 => "SIGUSR1",
        })
    }
}

/// Returns the stream of SIGINT: Ctrl-C, and on Windows Ctrl-Break. SIGTERM and SIGHUP are left as they are.
///
/// (tokio's `ctrl_c` is a future of one signal: here that is `signal::ctrl_c()?.next().await`.)
///
/// [`Signals`] says what a second and a third signal do, and the [module](self) what happens to a signal that is
/// ignored, blocked, or has a handler.
///
/// # Errors
///
/// The system's error where it refuses the handler or its thread. A later call tries again. On Windows also
/// [`AlreadyExists`](io::ErrorKind::AlreadyExists), if the program has set a handler through `ctrlc` itself.
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
pub fn ctrl_c() -> io::Result<Signals> {
    Signals::of(&[Signal::Interrupt], true)
}

/// Returns the stream of the signals that ask a program to stop: SIGINT (Ctrl-C) and SIGTERM. SIGHUP is left as it is.
///
/// For [`Server::shutdown_on`](crate::Server::shutdown_on). Take it before the server binds: a signal that comes
/// meanwhile is remembered. (As process 1 of a container, a program without a handler never gets it at all.)
///
/// On Windows this is [`ctrl_c`].
///
/// # Errors
///
/// As for [`ctrl_c`].
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use ebbtide::{Connection, Server, signal};
///
/// let signals = signal::termination()?;
/// let report = Server::bind("127.0.0.1:8888").await?.shutdown_on(signals).serve(async |_: Connection| {}).await?;
/// println!("{report}"); // … because SIGTERM came: …
/// # Ok(()) }
/// ```
#[doc(alias = "sigterm")]
pub fn termination() -> io::Result<Signals> {
    // In this order: see `take`.
    Signals::of(if cfg!(windows) { &[Signal::Interrupt] } else { &[Signal::Terminate, Signal::Interrupt] }, true)
}

/// Returns the stream of SIGHUP, by which a service is told to read its files again.
///
/// It yields as often as the signal comes, and never exits the process. Signals that come before the last one was
/// yielded are one: what is read after an item is never older than the last signal. Once the stream is dropped,
/// SIGHUP has no effect but a line in the log.
///
/// Given to [`Server::shutdown_on`](crate::Server::shutdown_on) it asks to stop instead, and counts as the streams of
/// [`termination`] do.
///
/// # Errors
///
/// As for [`ctrl_c`].
///
/// # Examples
///
/// ```no_run
/// # fn example(server: ebbtide::Handle, read_again: fn() -> std::io::Result<()>) -> std::io::Result<()> {
/// use async_std::prelude::*;
/// use ebbtide::signal;
///
/// let mut hangups = signal::hangup()?;
/// server.spawn_background(async move {
///     while hangups.next().await.is_some() {
///         if let Err(error) = read_again() {
///             eprintln!("went on with the old files: {error}");
///         }
///     }
/// });
/// # Ok(()) }
/// ```
#[cfg(unix)]
#[doc(alias = "sighup")]
#[doc(alias = "reload")]
pub fn hangup() -> io::Result<Signals> {
    Signals::of(&[Signal::Hangup], false)
}

/// Returns the stream of SIGUSR1, which means what the program says.
///
/// It behaves as the stream of [`hangup`] does.
///
/// # Errors
///
/// As for [`ctrl_c`].
///
/// # Examples
///
/// ```no_run
/// # async fn example(server: ebbtide::Handle) -> std::io::Result<()> {
/// use async_std::prelude::*;
/// use ebbtide::signal;
///
/// let mut asked = signal::user1()?; // kill -USR1 PID
/// while asked.next().await.is_some() {
///     println!("{} connections", server.connection_count());
/// }
/// # Ok(()) }
/// ```
#[cfg(unix)]
#[doc(alias = "sigusr1")]
pub fn user1() -> io::Result<Signals> {
    Signals::of(&[Signal::User1], false)
}

/// Stream of the signals that came, made by [`ctrl_c`], [`termination`], `hangup` and `user1`. It never ends.
///
/// A signal that comes before the stream is polled is remembered. Every live stream of a signal gets it.
///
/// The streams of [`ctrl_c`] and [`termination`] ask to stop, and count:
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
    fn of(signals: &'static [Signal], stop: bool) -> io::Result<Self> {
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

    /// From now on each signal is a request to stop, whatever signal it is.
    pub(crate) fn ask_to_stop(&self) {
        lock(&FANOUT).ask_to_stop(self.key);
    }
}

impl Stream for Signals {
    type Item = Signal;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Signal>> {
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

/// What a [shutdown stream](crate::Server::shutdown_on) may yield: `()` or a [`Signal`]. Sealed.
#[diagnostic::on_unimplemented(
    message = "a shutdown stream yields `()` or `ebbtide::signal::Signal`",
    note = "for any other stream: `.map(|_| ())`"
)]
pub trait Trigger: sealed::Trigger {}

impl Trigger for () {}
impl Trigger for Signal {}

pub(crate) mod sealed {
    use super::Signal;

    pub trait Trigger {
        /// The signal that it is, if it is one.
        fn signal(self) -> Option<Signal>;
    }

    impl Trigger for () {
        fn signal(self) -> Option<Signal> {
            None
        }
    }

    impl Trigger for Signal {
        fn signal(self) -> Option<Signal> {
            Some(self)
        }
    }
}

/// A line for the log: what was found when a signal was taken. Logged without a lock.
struct Note {
    level: log::Level,
    signal: Signal,
    text: String,
}

/// Runs on the thread that takes the signal, once for each. It must neither panic nor block: either would be the end
/// of that thread's service, and with it of the third signal's way out. So a signal that is delivered is not logged
/// here.
fn on_signal(signal: Signal) {
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
