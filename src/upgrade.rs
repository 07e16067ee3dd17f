//! Upgrades without a pause: the next generation of a program takes over its listening sockets (feature `upgrade`,
//! Unix).
//!
//! The program that runs starts its next version. That one inherits the listening sockets, starts, and reports that it
//! is ready. Only then does the old one stop accepting, and drain. Both have the same sockets, so no client is refused,
//! and none in the backlog is lost. If the next generation fails, the old one goes on serving.
//!
//! ```no_run
//! use async_std::prelude::*;
//! use ebbtide::upgrade::Upgrade;
//! use ebbtide::{Connection, signal};
//! use std::{io, process::Command};
//!
//! # async fn echo(_: Connection) {}
//! #[async_std::main]
//! async fn main() -> io::Result<()> {
//!     let program = std::env::current_exe()?; // now: after an update of the file it would be another path
//!     let upgrade = Upgrade::from_env()?; // first: in a successor, it receives the sockets
//!     let (signals, mut hangups) = (signal::termination()?, signal::hangup()?);
//!     let server = upgrade.bind("0.0.0.0:8888").await?.shutdown_on(signals);
//!     let (_, report) = server
//!         .scope(echo, async |server| {
//!             upgrade.ready().await?; // in a successor: from now on it accepts, and the old one drains
//!             while let Some(_hangup) = server.until_shutdown(hangups.next()).await {
//!                 match upgrade.hand_over(Command::new(&program)).await {
//!                     Ok(_) => break, // the next generation accepts: the end of the body drains this one
//!                     Err(error) => eprintln!("{error}"), // this one goes on serving
//!                 }
//!             }
//!             Ok(())
//!         })
//!         .await?;
//!     println!("{report}");
//!     Ok(())
//! }
//! ```
//!
//! # What is handed over
//!
//! Every TCP and Unix socket that was bound with the [`Upgrade`], and whose server has not been closed. The next
//! generation finds a socket by the address or path that it binds:
//!
//! - A socket bound with port 0 is found by that address, or by the one that it got. Several of them are found in the
//!   order in which they were bound.
//! - An address that nothing was passed for is bound anew.
//! - A socket that the next generation has not bound when it is ready is closed there, with a warning that names it; a
//!   Unix socket's file is removed.
//! - The [`ListenOptions`](crate::ListenOptions) of the next generation apply to its connections, and so does the mode
//!   of a socket's file, from the moment at which it accepts. The backlog, `only_v6` and `reuse_port` stay as the first
//!   generation set them.
//!
//! Connections are not handed over: the old generation serves them to the end of its drain. It may last as long as it
//! likes; further upgrades do not wait for it.
//!
//! Bind every port of the program with the `Upgrade`, also the one for metrics ([`listen`](Upgrade::listen) returns a
//! listener for `Admin::new`): a port that each generation binds by itself is in use while the old one drains.
//!
//! At no time do two generations accept from a socket. The old one accepts until the next one is ready, then it stops,
//! and then the next one begins, within microseconds. Before that the servers of the next one wait, and so do clients
//! that connect to its new addresses.
//!
//! # How a hand-over may end
//!
//! | the next generation | then |
//! |---|---|
//! | is ready, and confirms that it takes over | the old one accepts no client any more; [`hand_over`](Upgrade::hand_over) returns, and the program drains |
//! | ends before that, or is killed | the old one goes on serving, and `hand_over` returns the error, with the exit status |
//! | is not ready within [the limit](Upgrade::timeout), or sends something else | the same; it is killed |
//! | is ready, and does not confirm within 3 seconds | the same; clients wait in the backlog for that time |
//! | is another program, or one with another version of these messages | the same; it is killed |
//! | ends after it has confirmed | the old one drains: the program's supervisor starts it again |
//!
//! | the old generation | then |
//! |---|---|
//! | closes one of the listeners (a shutdown, a drop) while a hand-over runs | the hand-over fails, and the next one is killed |
//! | ends without that (SIGKILL, a crash, `exit`) after it has passed the sockets | the next one takes over once it is ready, with the clients in the backlog |
//! | ends without that before it has passed them all | [`from_env`](Upgrade::from_env) returns an error in the next one: both are gone |
//!
//! The clients that a killed process has accepted are lost with it, as ever.
//!
//! # The processes
//!
//! - The next generation is a child of the old one, in the same process group and session, and has the same standard
//!   input, output and error. It lives on when the old one ends, as a child of init. One that ends while the old one
//!   still drains stays a zombie for that time.
//! - Do not run the program as process 1 of a container, nor as the child of an init that ends with it (`tini`): the
//!   container ends then, too, with the old generation.
//! - A wrapper script has to start the program with `exec`, or at least with its own standard input. The process that
//!   is killed is the one that was started.
//! - The sockets come through the child's standard input: it is one end of a socket pair, to which no other process can
//!   connect. [`Upgrade::from_env`] replaces it by the old generation's own standard input. So call it before anything
//!   reads from there, and before other processes are started.
//! - The variable `EBBTIDE_UPGRADE` stays in the environment of the next generation (to remove it, a program would need
//!   `unsafe`). Its other children inherit it, and it has no effect there: it names the inode of that socket, which
//!   their standard input is not.
//! - A program that ignores SIGCHLD can upgrade, too. The error of a hand-over then lacks the exit status.
//!
//! # Under systemd
//!
//! Socket activation is simpler there: systemd keeps the sockets, and a restart loses no client. See `systemd`.
//!
//! With a hand-over the main process of the unit changes. With the feature `systemd` (on Linux), and
//! `Upgrade::notify_systemd` in each generation, systemd follows:
//!
//! 1. When the next generation has confirmed that it takes over, the old one sends `MAINPID=` with its id. After that
//!    it sends nothing more, so its drain is no stop of the service.
//! 2. Then it closes its connection to the next generation, which has sent nothing to systemd so far. That one now sends
//!    READY, its status and the watchdog's pings. So systemd gets each message from the process that is the main one
//!    (`NotifyAccess=main`).
//!
//! With `Type=notify-reload`, or `ExecReload=kill -HUP $MAINPID`, `systemctl reload` is an upgrade: hold the guard of
//! `Notifier::reloading` while `hand_over` runs; READY of the next generation ends the reload, or that of the old one if
//! the hand-over has failed. `deploy/systemd/ebbtide-upgrade.service` has the settings. `hand_over` removes
//! `WATCHDOG_PID` from the environment of the next generation if it names the old one; otherwise the next one would send
//! no pings, and be killed. `LISTEN_PID` stays, so the next one does not take descriptors that it does not have for
//! systemd's sockets.
//!
//! The limits:
//!
//! - While the old generation drains, the next one is its child, and systemd does not notice its death before the old
//!   one has ended, except by `WatchdogSec=`. (It logs that it supervises a process which is not its child.)
//! - If the next generation dies between the two steps, the old one may stay the main process. It drains, and ends in
//!   good order: `Restart=always` starts the service again.
//! - `systemctl stop` during the drain of an old generation cuts that drain when the new main process has ended.
//! - Both versions need `Upgrade::notify_systemd`. The first upgrade to one that has it is a restart.
//! - The order was tested with a notify socket that judges senders as systemd does, and not with systemd itself.
//!
//! # Compared with
//!
//! | | there | here |
//! |---|---|---|
//! | tableflip, ecdysis | descriptors inherited by exec; the next one accepts beside the old one, which stops at `Ready` | passed as messages, so no other child can get one, and no `unsafe`; never do both accept |
//! | tableflip | no upgrade while the previous process still drains | upgrades do not wait for drains |
//! | shellflip | passes no sockets: the program does | by address |
//! | nginx's binary upgrade | both accept until the old one gets SIGQUIT | the old one stops accepting when the new one is ready |
//! | `SO_REUSEPORT` ([`ListenOptions::reuse_port`](crate::ListenOptions::reuse_port)) | two queues: the kernel resets handshakes in the one that closes | one queue, which stays open |

mod bind;
mod channel;
mod descriptors;
mod hand_over;
mod main_process;
pub(crate) mod message;
mod predecessor;
mod process;
mod ready;
mod transfer;

use crate::listener::generations::{BoundSocket, PassedSocket};
use crate::origin::Origin;
use crate::sync::{Mutex, lock};
use crate::text::explained;
use async_io::Timer;
use futures_lite::future::or;
use predecessor::Predecessor;
use std::env;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::{Duration, Instant};

/// Names the socket that is the standard input of a successor.
const VARIABLE: &str = "EBBTIDE_UPGRADE";

/// How long a successor has by default, from its start until it is ready.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The listening sockets of one generation of a program: those that it inherits from the previous one, and those that
/// it hands over to the next. See the [module](self).
///
/// Make one at the start of the program. Clones are handles to the same one.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::Connection;
/// use ebbtide::upgrade::Upgrade;
///
/// let upgrade = Upgrade::from_env()?;
/// let server = upgrade.bind("127.0.0.1:0").await?;
/// let (_, report) = server
///     .scope(async |_: Connection| {}, async |_| {
///         upgrade.ready().await?; // returns at once in a first generation
///         Ok(())
///     })
///     .await?;
/// assert_eq!(report.accepted(), 0);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "tableflip")]
#[doc(alias = "Upgrader")]
#[derive(Clone)]
pub struct Upgrade {
    shared: Arc<Shared>,
    /// The limit of a hand-over.
    timeout: Duration,
}

struct Shared {
    /// The sockets of the previous generation that no `bind` has asked for yet.
    passed: Mutex<Vec<PassedSocket>>,
    /// The sockets that were bound. In a generation that is ready, those that are closed are removed at the next bind.
    /// This lock is taken before that of `previous`, and before those of the sockets.
    bound: Mutex<Vec<BoundSocket>>,
    /// The connection with the previous generation.
    previous: Mutex<Previous>,
    /// Whether this is not a first generation.
    is_successor: bool,
    /// A hand-over runs.
    is_busy: AtomicBool,
    /// The process that has taken the sockets over. 0: none.
    successor: AtomicU32,
    /// Notifies systemd which generation is the main process.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    notifier: std::sync::OnceLock<crate::systemd::Notifier>,
    /// A forked process has copies of the sockets, and no runtime.
    origin: Origin,
}

/// The previous generation.
enum Previous {
    /// There is none, or this generation has taken over.
    Done,
    /// It waits until this one is ready.
    Waits(Predecessor),
    /// This one has sent that it is ready, and waits; or `ready` has failed.
    Asked,
}

impl Shared {
    /// Returns whether this generation owns the sockets that it has bound.
    fn is_ready(&self) -> bool {
        matches!(*lock(&self.previous), Previous::Done)
    }

    /// Checks that this is the process that has made the `Upgrade`.
    fn check_origin(&self, what: &str) -> io::Result<()> {
        match self.origin.why_not_here() {
            Some(why) => Err(explained(io::ErrorKind::Unsupported, format_args!("cannot {what} here: {why}"))),
            None => Ok(()),
        }
    }
}

/// The next generation of the program, which has taken over: see [`Upgrade::hand_over`].
///
/// # Examples
///
/// ```no_run
/// # async fn example(upgrade: ebbtide::upgrade::Upgrade) -> std::io::Result<()> {
/// let successor = upgrade.hand_over(std::process::Command::new("/usr/local/bin/echo-server")).await?;
/// println!("process {} has taken over", successor.id());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    id: u32,
}

impl Successor {
    /// Returns the id of the process that was started.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(successor: ebbtide::upgrade::Successor) -> std::io::Result<()> {
    /// std::fs::write("/run/echo.pid", successor.id().to_string())?;
    /// # Ok(()) }
    /// ```
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Upgrade {
    /// Receives the sockets that the previous generation has passed to this process; none in a first generation.
    ///
    /// Call it once, at the start of `main`: it replaces the standard input (see the [module](self#the-processes)). In
    /// a successor it blocks until the previous generation has sent its sockets, which it does at once.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: `EBBTIDE_UPGRADE` is set to something else than a hand-over sets it to, or the previous
    ///   generation has another version of these messages, or passes something else than listening sockets.
    /// - `InvalidInput`: this process has received its sockets already, in an earlier call.
    /// - The previous generation has withdrawn the hand-over, or its process has ended.
    ///
    /// A successor should exit then; the previous generation goes on serving.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let upgrade = ebbtide::upgrade::Upgrade::from_env()?;
    /// assert!(!upgrade.is_successor());
    /// # Ok(()) }
    /// ```
    pub fn from_env() -> io::Result<Self> {
        let found = match env::var_os(VARIABLE) {
            Some(value) => predecessor::find(&value)?,
            None => None,
        };
        let is_successor = found.is_some();
        let (previous, passed) = match found {
            Some((predecessor, passed)) => (Previous::Waits(predecessor), passed),
            None => (Previous::Done, Vec::new()),
        };
        let shared = Shared {
            passed: Mutex::new(passed),
            bound: Mutex::new(Vec::new()),
            previous: Mutex::new(previous),
            is_successor,
            is_busy: AtomicBool::new(false),
            successor: AtomicU32::new(0),
            #[cfg(all(feature = "systemd", target_os = "linux"))]
            notifier: std::sync::OnceLock::new(),
            origin: Origin::here(),
        };
        Ok(Self { shared: Arc::new(shared), timeout: TIMEOUT })
    }

    /// Limits a hand-over: from the start of the next generation until it is ready.
    ///
    /// Default: 30 seconds. `Duration::MAX` is no limit. It applies to this handle and the clones that are made of it.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use ebbtide::upgrade::Upgrade;
    /// use std::time::Duration;
    ///
    /// let upgrade = Upgrade::from_env()?.timeout(Duration::from_secs(120)); // it loads a large cache first
    /// # Ok(()) }
    /// ```
    #[must_use = "this returns the `Upgrade` with the limit"]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Returns whether a previous generation has passed its sockets to this process.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let upgrade = ebbtide::upgrade::Upgrade::from_env()?;
    /// println!("{}", if upgrade.is_successor() { "upgraded" } else { "started" });
    /// # Ok(()) }
    /// ```
    pub fn is_successor(&self) -> bool {
        self.shared.is_successor
    }
}

/// Waits for the future until the deadline.
async fn within<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    let Some(deadline) = deadline else { return Some(future.await) };
    or(async { Some(future.await) }, async {
        Timer::at(deadline).await;
        None
    })
    .await
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = lock(&self.shared.bound).iter().map(|entry| entry.address.clone()).collect::<Vec<_>>();
        f.debug_struct("Upgrade")
            .field("is_successor", &self.shared.is_successor)
            .field("bound", &bound)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
