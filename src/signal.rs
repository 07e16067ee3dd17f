//! Signals as streams: shut down on Ctrl-C and SIGTERM, reload on SIGHUP.
//!
//! [`termination`] returns the stream for a service. Call it first, before anything is bound: a signal that arrives
//! before the server serves is remembered, and the server removes its socket files before the program ends.
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
//! Then:
//!
//! 1. the first signal requests a graceful shutdown,
//! 2. the second cancels what is still running,
//! 3. the third exits the process with status 128 + its number (130 for SIGINT, 143 for SIGTERM), even if something
//!    hangs.
//!
//! | function | signals | for |
//! |---|---|---|
//! | [`ctrl_c`] | SIGINT | programs at a terminal that leave SIGTERM as it is |
//! | [`termination`] | SIGINT, SIGTERM | every service: Docker, Kubernetes and systemd send SIGTERM |
//! | `hangup` | SIGHUP | reloading files (Unix) |
//! | `user1` | SIGUSR1 | whatever the program defines (Unix) |
//!
//! Signals count only while a stream is alive. A server drops its stream when it is closed. If the program still has
//! work to do after that, such as a second server that is still draining, hold another stream until the end of `main`:
//! `let _held = signal::termination()?;`. Without it the next signal exits the process.
//!
//! Only the signals that were asked for are taken. So SIGHUP belongs to the program, whether it has its own handler for
//! it, a stream, or neither. With neither, SIGHUP has its default effect: a terminal that closes ends the program.
//!
//! # Signals that are ignored, blocked or handled already
//!
//! - A signal that is *ignored* stays ignored: SIGHUP under `nohup`, SIGINT in a program that a shell script has
//!   started with `&`. Its stream never yields it. A log line (level `info`; `warn` for SIGTERM) reports it. Only Linux
//!   shows which signals are ignored; on other systems such a signal is taken.
//! - A signal that is *blocked* is still received, by a thread that does not block it, with a warning in the
//!   log. A program inherits the signal mask of its parent, and a server that never receives SIGTERM ends by SIGKILL.
//! - A signal that already has a *handler*, of another part of the program, is shared: that handler is called first,
//!   then the streams get the signal. A handler that is installed *after* the first call here takes the signal away
//!   from the streams, unless the crate `signal-hook`, `async-signal` or `tokio` installs it.
//!
//! # Forks
//!
//! A process that forks afterwards receives its own signals too: from its first poll of a stream, or its first call of
//! a function of this module. It cannot serve what was bound before the fork: [`Server::serve`](crate::Server::serve)
//! returns an error.
//!
//! # Other sources of signals
//!
//! Nothing else in this library depends on this module: [`Server::shutdown_on`](crate::Server::shutdown_on) takes any
//! `Stream<Item = ()>` as well.
//!
//! SIGINT is taken through the [`ctrlc`](https://docs.rs/ctrlc) crate, the other signals one by one through
//! [`signal-hook`](https://docs.rs/signal-hook). If any crate of the program enables the feature `termination` of
//! `ctrlc`, then `ctrlc` would take SIGTERM and SIGHUP as well: in that case `signal-hook` takes SIGINT too, and the
//! signals that were not asked for keep their effect. (Detected on Linux; on other systems only if SIGTERM is asked
//! for.) The program's own `ctrlc::set_handler` must be called first; after [`ctrl_c`] it returns an error.

#[cfg(unix)]
mod disposition;
mod fanout;
mod stream;
#[cfg_attr(windows, path = "signal/take_windows.rs")]
mod take;

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
pub use stream::Signals;
use stream::on_signal;

/// A signal that a stream has yielded.
///
/// # Examples
///
/// ```
/// use ebbtide::signal::Signal;
///
/// assert_eq!(Signal::Terminate.to_string(), "SIGTERM");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// SIGINT: Ctrl-C. On Windows also Ctrl-Break.
    #[doc(alias = "SIGINT")]
    Interrupt,
    /// SIGTERM: the request to stop that `kill`, Docker, Kubernetes and systemd send.
    #[doc(alias = "SIGTERM")]
    Terminate,
    /// SIGHUP: the terminal was closed. By convention a service reloads its files.
    #[doc(alias = "SIGHUP")]
    Hangup,
    /// SIGUSR1: free for the program.
    #[doc(alias = "SIGUSR1")]
    User1,
}

impl Signal {
    const ALL: [Self; 4] = [Self::Interrupt, Self::Terminate, Self::Hangup, Self::User1];

    /// Returns the system's number.
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

    /// Returns the number of SIGINT: Windows has no other of these signals.
    #[cfg(windows)]
    fn number(self) -> i32 {
        2
    }

    /// Returns the exit status that a shell reports for a program that this signal ended.
    fn exit_status(self) -> i32 {
        128 + self.number()
    }
}

/// Writes the system's name, such as `SIGTERM`.
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

/// Returns the stream of SIGINT: Ctrl-C, and on Windows Ctrl-Break.
///
/// SIGTERM and SIGHUP are left as they are. tokio's `ctrl_c` is a future of one signal: here that is
/// `signal::ctrl_c()?.next().await`.
///
/// [`Signals`] describes what a second and a third signal do, and the [module](self) what happens to a signal that is
/// ignored, blocked, or handled already.
///
/// # Errors
///
/// The system's error if it refuses the handler or its thread. A later call tries again. On Windows also
/// [`AlreadyExists`](io::ErrorKind::AlreadyExists), if the program has set a handler through `ctrlc` itself.
///
/// # Examples
///
/// Work that Ctrl-C interrupts:
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::prelude::*;
/// use ebbtide::signal;
/// use futures_concurrency::prelude::*;
///
/// let mut signals = signal::ctrl_c()?;
/// let work = async { Some(6 * 7) };
/// let interrupted = async {
///     signals.next().await;
///     None
/// };
/// assert_eq!((work, interrupted).race().await, Some(42));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "SIGINT")]
#[doc(alias = "Interrupt")]
#[doc(alias = "open_signal_receiver")]
#[doc(alias = "add_signal_handler")]
#[doc(alias = "signal.Notify")]
pub fn ctrl_c() -> io::Result<Signals> {
    Signals::of(&[Signal::Interrupt], true)
}

/// Returns the stream of the signals that ask a program to stop: SIGINT (Ctrl-C) and SIGTERM.
///
/// SIGHUP is left as it is. On Windows this is [`ctrl_c`]: closing the console window ends the process at once, without
/// a drain, because Windows waits (5 seconds) only for a handler that blocks.
///
/// Pass the stream to [`Server::shutdown_on`](crate::Server::shutdown_on). Call this before the server binds: a signal
/// that arrives before the server serves is remembered. (The kernel delivers a signal to process 1 of a container only
/// if the program has a handler for it.)
///
/// # Errors
///
/// The same as those of [`ctrl_c`].
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// # if cfg!(windows) { return Ok(()) }
/// use ebbtide::signal::{self, Signal};
/// use ebbtide::{Cause, Connection, Listener, Server};
///
/// # let (listener, _connector) = Listener::memory();
/// let signals = signal::termination()?;
/// # #[cfg(unix)]
/// nix::sys::signal::raise(nix::sys::signal::SIGTERM)?; // as `kill PID` does
/// let report = Server::new(listener).shutdown_on(signals).serve(async |_: Connection| {}).await?;
/// assert!(matches!(report.cause(), Cause::Signal(Signal::Terminate)));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "SIGTERM")]
#[doc(alias = "SIGINT")]
#[doc(alias = "ctrl_c")]
#[doc(alias = "open_signal_receiver")]
#[doc(alias = "add_signal_handler")]
#[doc(alias = "signal.Notify")]
#[doc(alias = "NotifyContext")]
#[doc(alias = "graceful_shutdown")]
pub fn termination() -> io::Result<Signals> {
    // In this order: see `take`.
    Signals::of(if cfg!(windows) { &[Signal::Interrupt] } else { &[Signal::Terminate, Signal::Interrupt] }, true)
}

/// Returns the stream of SIGHUP, which asks a service to read its files again.
///
/// The stream yields on each signal, and never exits the process. Several signals that arrive before the stream yields
/// are one item: files that are read after an item are never older than the last signal. After the stream was dropped,
/// SIGHUP has no effect except a log line.
///
/// If the stream is passed to [`Server::shutdown_on`](crate::Server::shutdown_on), SIGHUP requests a shutdown instead,
/// and counts as the signals of [`termination`] do.
///
/// # Errors
///
/// The same as those of [`ctrl_c`].
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::prelude::*;
/// use ebbtide::{Connection, Listener, Server, signal};
///
/// # fn read_again() -> std::io::Result<()> { Ok(()) }
/// # let (listener, _connector) = Listener::memory();
/// let mut hangups = signal::hangup()?; // kill -HUP PID
/// let body = async |server: ebbtide::Handle| {
///     server.spawn_background(async move {
///         while hangups.next().await.is_some() {
///             if let Err(error) = read_again() {
///                 eprintln!("cannot reload: {error}; keeping what was loaded");
///             }
///         }
///     });
///     Ok("served")
/// };
/// let (value, _report) = Server::new(listener).scope(async |_: Connection| {}, body).await?;
/// assert_eq!(value, "served");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[cfg(unix)]
#[doc(alias = "SIGHUP")]
#[doc(alias = "reload")]
pub fn hangup() -> io::Result<Signals> {
    Signals::of(&[Signal::Hangup], false)
}

/// Returns the stream of SIGUSR1. The program defines its meaning.
///
/// It behaves as the stream of [`hangup`] does.
///
/// # Errors
///
/// The same as those of [`ctrl_c`].
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::prelude::*;
/// use ebbtide::signal::{self, Signal};
///
/// let mut requests = signal::user1()?;
/// nix::sys::signal::raise(nix::sys::signal::SIGUSR1)?; // as `kill -USR1 PID` does
/// assert_eq!(requests.next().await, Some(Signal::User1));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[cfg(unix)]
#[doc(alias = "SIGUSR1")]
pub fn user1() -> io::Result<Signals> {
    Signals::of(&[Signal::User1], false)
}

/// The items that a [shutdown stream](crate::Server::shutdown_on) may yield: `()` or a [`Signal`].
///
/// The trait is sealed. Map the items of any other stream:
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::{prelude::*, stream};
/// use ebbtide::{Cause, Connection, Listener, Server};
///
/// # let (listener, _connector) = Listener::memory();
/// let messages = stream::once("stop");
/// let server = Server::new(listener).shutdown_on(messages.map(|_| ()));
/// let report = server.serve(async |_: Connection| {}).await?;
/// assert!(matches!(report.cause(), Cause::Stream));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
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
        /// Returns the signal; `None` for `()`.
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

/// A log line about how a signal was found when it was taken. It is logged after the lock is released.
struct Note {
    level: log::Level,
    signal: Signal,
    text: String,
}

/// Locks a mutex and ignores poisoning. No foreign code runs under these locks, and each change under them is complete,
/// so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
