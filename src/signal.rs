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
//! They count for a live stream. A server drops its stream when it is closed: so where something comes after that, such
//! as a second server that is still draining, hold another stream until the end of `main`, or the next signal exits:
//! `let _held = signal::termination()?;`.
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
//! # Forks
//!
//! A process that forks after that hears its signals as well: from its first poll of a stream, or its first call of a
//! function of this module, on. What it cannot do is to serve what was bound before:
//! [`Server::serve`](crate::Server::serve) gives an error.
//!
//! Nothing else in this library uses this module: a server takes any `Stream<Item = ()>` as well.
//!
//! Ctrl-C is the work of the [`ctrlc`](https://docs.rs/ctrlc) crate. It takes SIGTERM and SIGHUP too if any crate of
//! the program turns on its feature `termination`: then [`signal-hook`](https://docs.rs/signal-hook), which takes the
//! other signals one by one, takes SIGINT as well, and the signals that were not asked for keep their effect. (Seen on
//! Linux; elsewhere only where SIGTERM is asked for.) The program's own `ctrlc::set_handler` has to come first; after
//! [`ctrl_c`] it is an error.

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

/// No foreign code runs under these locks, and each change under them is complete: a panic elsewhere taints nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
