//! Upgrades without a pause: the next generation of a program takes over its listening sockets (feature `upgrade`,
//! Unix).
//!
//! The program that runs starts its next version. That one inherits the listening sockets, starts, and says that it is
//! ready. Only then the old one stops accepting and drains. Both have the same sockets, so no client is refused, and
//! none in the backlog is lost. If the next generation fails, the old one goes on serving.
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
//!     let upgrade = Upgrade::from_env()?; // first: in a successor, it takes the sockets over
//!     let (signals, mut hangups) = (signal::termination()?, signal::hangup()?);
//!     let server = upgrade.bind("0.0.0.0:8888").await?.shutdown_on(signals);
//!     let (_, report) = server
//!         .scope(echo, async |server| {
//!             upgrade.ready().await?; // the generation before begins its drain
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
//! Every TCP and Unix socket that was bound with the [`Upgrade`], and whose server still runs. The next generation
//! finds a socket by the address or path that it binds:
//!
//! - A socket bound with port 0 is found by that address, or by the one that it got.
//! - An address that nothing was passed for is bound anew.
//! - A socket that the next generation has not bound when it is ready is closed there, with a warning that names it; a
//!   Unix socket's file is removed.
//! - The [`ListenOptions`] of the next generation count for its connections, and so does the mode of a socket's file.
//!   The backlog, `only_v6` and `reuse_port` stay as the first generation set them.
//!
//! Connections are not handed over: the old generation serves them to the end of its drain.
//!
//! Exactly one generation accepts at any time: the next one from the moment at which it is told that the old one has
//! stopped. Before that its servers wait, so one that fails loses no client.
//!
//! # How a hand-over may end
//!
//! | the next generation | then |
//! |---|---|
//! | says that it is ready | the old one accepts no client any more; [`hand_over`](Upgrade::hand_over) returns, and the program drains |
//! | ends, before it is ready | the old one serves on, and `hand_over` returns the error, with the exit status |
//! | is not ready within [the limit](Upgrade::timeout), or says anything else | the same; it is killed |
//! | is another program, or one with another version of these messages | the same; it is killed |
//! | ends after it was told that it may serve | the old one drains: whoever supervises the program starts it again |
//!
//! If the old generation is shut down while a hand-over runs, the hand-over fails, and the next one is killed.
//!
//! # The processes
//!
//! - The next generation is a child of the old one, in the same process group and session, and has the same standard
//!   input, output and error. It lives on when the old one ends, as a child of init. One that ends while the old one
//!   still drains stays a zombie for that time.
//! - A wrapper script has to start the program with `exec`, or at least with its own standard input. The process that is
//!   killed is the one that was started.
//! - The sockets come through the child's standard input: it is one end of a socket pair, to which no other process can
//!   connect. [`Upgrade::from_env`] replaces it by the old generation's own standard input. So call it before anything
//!   reads from there, and before other processes are started.
//! - The variable `EBBTIDE_UPGRADE` stays in the environment of the next generation (to remove it, a program would need
//!   `unsafe`). Its other children inherit it, and it means nothing to them: it names the inode of that socket, which
//!   their standard input is not.
//!
//! # Under systemd
//!
//! The main process of the unit changes, which systemd has to be told (`MAINPID=`, or a PID file with `Type=forking`).
//! Socket activation is simpler there: systemd keeps the sockets, and a restart loses no client. See `systemd`.
//!
//! # Compared with
//!
//! | | there | here |
//! |---|---|---|
//! | tableflip, ecdysis | descriptors inherited by exec; `Ready`, then `Exit` | the same order; passed as messages, so no other child can get one, and no `unsafe` |
//! | nginx's binary upgrade | both accept until the old one gets SIGQUIT | the old one stops accepting when the new one is ready |
//! | `SO_REUSEPORT` ([`ListenOptions::reuse_port`]) | two queues: the kernel resets handshakes in the one that closes | one queue, which stays open |

mod child;
mod descriptors;
mod message;
mod predecessor;

use crate::bind_addrs::ToBindAddrs;
use crate::listener::generations::{self, Heirloom, Hold, Key, Passed};
use crate::listener::{ListenOptions, Listener};
use crate::panic::log_line;
use crate::runtime;
use crate::server::Server;
use crate::span::Span;
use crate::sync::{Mutex, lock};
use crate::text::{Escaped, explained, explained_by};
use async_io::{Async, Timer};
use child::Starting;
use futures_lite::future::or;
use futures_lite::io::AsyncReadExt;
use message::{HEADER, Kind, MOST_SOCKETS, encode, encode_key};
use predecessor::Predecessor;
use std::env;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Names the socket that is the standard input of a successor.
const VARIABLE: &str = "EBBTIDE_UPGRADE";

/// How long a successor has by default, from its start until it is ready.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a process may take to end after it has closed its connection. Then it is killed.
const UNTIL_ENDED: Duration = Duration::from_secs(1);

/// How long a process that was killed is waited for.
const UNTIL_KILLED: Duration = Duration::from_secs(5);

/// What one generation of a program takes over from the one before, and hands over to the next: see the
/// [module](self).
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
    /// The sockets of the generation before that no `bind` has asked for yet.
    passed: Mutex<Vec<Passed>>,
    /// The sockets that were bound. Those that are closed are removed at the next bind.
    bound: Mutex<Vec<Heirloom>>,
    /// The way to the generation before.
    before: Mutex<Before>,
    /// Whether this is not a first generation.
    is_successor: bool,
    /// A hand-over runs.
    is_busy: AtomicBool,
    /// The process to which the sockets have been handed over. 0: none.
    successor: AtomicU32,
}

/// The generation before this one.
enum Before {
    /// There is none, or it has been told that this one is ready.
    Done,
    /// It waits until this one is ready.
    Waits(Predecessor),
    /// It is being told, or it did not answer.
    Told,
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
    /// Takes over what the generation before has passed to this process; nothing in a first generation.
    ///
    /// Call it once, at the start of `main`: it replaces the standard input, as the [module](self#the-processes) says.
    /// In a successor it blocks until the generation before has sent its sockets, which it does at once.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: `EBBTIDE_UPGRADE` is set to something else than a hand-over sets it to, or the generation
    ///   before speaks another version of these messages.
    /// - The generation before has given up, or is gone, or passes something else than listening sockets.
    ///
    /// A successor should exit then; the generation before goes on serving.
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
        let (before, passed) = match found {
            Some((predecessor, passed)) => (Before::Waits(predecessor), passed),
            None => (Before::Done, Vec::new()),
        };
        let shared = Shared {
            passed: Mutex::new(passed),
            bound: Mutex::new(Vec::new()),
            before: Mutex::new(before),
            is_successor,
            is_busy: AtomicBool::new(false),
            successor: AtomicU32::new(0),
        };
        Ok(Self { shared: Arc::new(shared), timeout: TIMEOUT })
    }

    /// Limits a hand-over: from the start of the next generation until it is ready.
    ///
    /// Default: 30 seconds. It concerns this handle and the clones that are made of it.
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

    /// Returns whether a generation before this one has passed its sockets.
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

    /// Listens like [`Server::bind`], with the sockets of the generation before where it has passed some.
    ///
    /// # Errors
    ///
    /// As for [`Server::bind`].
    ///
    /// # Cancel safety
    ///
    /// As for [`Server::bind`]. A socket that was passed may be closed here; the generation before still has it.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let upgrade = ebbtide::upgrade::Upgrade::from_env()?;
    /// let server = upgrade.bind("127.0.0.1:0").await?;
    /// assert!(server.local_addr().port().is_some());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn bind(&self, addresses: impl ToBindAddrs) -> io::Result<Server> {
        self.bind_with(addresses, &ListenOptions::new()).await
    }

    /// Listens like [`bind`](Self::bind), with other options.
    ///
    /// # Errors
    ///
    /// As for [`Server::bind`].
    ///
    /// # Cancel safety
    ///
    /// As for [`bind`](Self::bind).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::ListenOptions;
    /// use ebbtide::upgrade::Upgrade;
    ///
    /// let upgrade = Upgrade::from_env()?;
    /// let server = upgrade.bind_with("127.0.0.1:0", &ListenOptions::new().nodelay(false)).await?;
    /// # drop(server);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn bind_with(&self, addresses: impl ToBindAddrs, options: &ListenOptions) -> io::Result<Server> {
        let listeners = self.listen(addresses, options).await?.into_iter();
        let server = listeners.fold(None, |server: Option<Server>, listener| {
            Some(match server {
                Some(server) => server.add_listener(listener),
                None => Server::new(listener),
            })
        });
        Ok(server.expect("binding returns at least one listener, or an error"))
    }

    /// Listens like [`bind_with`](Self::bind_with), and returns the listeners, at least one: for
    /// [`Server::add_listener`].
    ///
    /// # Errors
    ///
    /// As for [`Server::bind`].
    ///
    /// # Cancel safety
    ///
    /// As for [`bind`](Self::bind).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::ListenOptions;
    /// use ebbtide::upgrade::Upgrade;
    ///
    /// let upgrade = Upgrade::from_env()?;
    /// let mut server = upgrade.bind("127.0.0.1:0").await?;
    /// for listener in upgrade.listen("127.0.0.2:0", &ListenOptions::new().backlog(16)).await? {
    ///     server = server.add_listener(listener);
    /// }
    /// assert_eq!(server.local_addrs().count(), 2);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn listen(&self, addresses: impl ToBindAddrs, options: &ListenOptions) -> io::Result<Vec<Listener>> {
        let found = generations::bind_or_take(addresses, options, &self.shared.passed).await?;
        Ok(found.into_iter().map(|(listener, entry)| self.enter(listener, entry)).collect())
    }

    /// Listens like [`Server::bind_unix`], with the socket of the generation before if it has passed one for this path.
    ///
    /// The next generation owns the socket's file once it is ready; the old one then leaves it in place.
    ///
    /// # Errors
    ///
    /// As for [`Server::bind_unix`].
    ///
    /// # Cancel safety
    ///
    /// As for [`Server::bind_unix`].
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let path = std::env::temp_dir().join(format!("ebbtide-doc-upgrade-{}.sock", std::process::id()));
    /// let upgrade = ebbtide::upgrade::Upgrade::from_env()?;
    /// let server = upgrade.bind_unix(&path).await?;
    /// assert!(path.exists());
    /// drop(server);
    /// assert!(!path.exists());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn bind_unix(&self, path: impl AsRef<Path>) -> io::Result<Server> {
        self.listen_unix(path, &ListenOptions::new()).await.map(Server::new)
    }

    /// Listens like [`bind_unix`](Self::bind_unix), with other options, and returns the listener: for [`Server::new`]
    /// and [`Server::add_listener`].
    ///
    /// # Errors
    ///
    /// As for [`Server::bind_unix`].
    ///
    /// # Cancel safety
    ///
    /// As for [`Server::bind_unix`].
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ListenOptions, upgrade::Upgrade};
    ///
    /// let path = std::env::temp_dir().join(format!("ebbtide-doc-upgrade-with-{}.sock", std::process::id()));
    /// let upgrade = Upgrade::from_env()?;
    /// let local = upgrade.listen_unix(&path, &ListenOptions::new().mode(0o660)).await?;
    /// let server = upgrade.bind("127.0.0.1:0").await?.add_listener(local);
    /// assert_eq!(server.local_addrs().count(), 2);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn listen_unix(&self, path: impl AsRef<Path>, options: &ListenOptions) -> io::Result<Listener> {
        let (listener, entry) = generations::bind_unix_or_take(path.as_ref(), options, &self.shared.passed).await?;
        Ok(self.enter(listener, entry))
    }

    fn enter(&self, listener: Listener, entry: Heirloom) -> Listener {
        let mut bound = lock(&self.shared.bound);
        bound.retain(|entry| !entry.is_closed());
        bound.push(entry);
        listener
    }

    /// Tells the generation before that this one is ready, so that it begins to drain. Returns when it has stopped
    /// accepting; at once in a first generation, and at every later call.
    ///
    /// Call it after the last bind, when this generation can serve: until then its servers accept no clients. What the generation before has passed and nobody
    /// has bound is closed then, with a warning.
    ///
    /// # Errors
    ///
    /// The generation before has given up, because this one took too long, or is gone, or does not answer within 30
    /// seconds. In the first case it goes on serving with the same sockets, so this one has to exit.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: if the future is dropped, whether the generation before drains is not known, and later calls
    /// return an error.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let upgrade = ebbtide::upgrade::Upgrade::from_env()?;
    /// let server = upgrade.bind("127.0.0.1:0").await?;
    /// upgrade.ready().await?;
    /// # drop(server);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn ready(&self) -> io::Result<()> {
        let Some(predecessor) = self.take_predecessor()? else { return Ok(()) };
        predecessor.tell_ready().await?;
        for unclaimed in std::mem::take(&mut *lock(&self.shared.passed)) {
            log_line!(
                warn,
                "closed the socket `{}`: the generation before has passed it, and this one has not bound it",
                unclaimed.address()
            );
            unclaimed.discard();
        }
        for entry in lock(&self.shared.bound).iter() {
            entry.hold.own();
        }
        *lock(&self.shared.before) = Before::Done;
        log_line!(info, "this process has taken over from the generation before");
        Ok(())
    }

    /// Returns the generation before if it waits for this one.
    fn take_predecessor(&self) -> io::Result<Option<Predecessor>> {
        let mut before = lock(&self.shared.before);
        match std::mem::replace(&mut *before, Before::Told) {
            Before::Waits(predecessor) => Ok(Some(predecessor)),
            Before::Done => {
                *before = Before::Done;
                Ok(None)
            }
            Before::Told => {
                let text = "the generation before has been told already that this one is ready, and has not answered";
                Err(explained(ErrorKind::NotConnected, text))
            }
        }
    }

    /// Starts the next generation, and hands the listening sockets over to it.
    ///
    /// When this returns `Ok`, the next generation is ready, and this one does not accept any more. Now shut its servers
    /// down: their connections are drained as ever. When it returns an error, nothing has changed, and this generation
    /// serves on.
    ///
    /// The standard input of the command is replaced; all else is the program's choice. One hand-over runs at a time,
    /// and one can succeed.
    ///
    /// # Errors
    ///
    /// - The command cannot be started.
    /// - The next generation ends before it is ready, or says something else (`InvalidData`), or is not ready within
    ///   [the limit](Self::timeout) (`TimedOut`). It is killed.
    /// - A hand-over runs already (`ResourceBusy`); or has succeeded, nothing is bound, this generation is not
    ///   [ready](Self::ready) itself, or it was closed meanwhile (`InvalidInput`).
    ///
    /// The text of the error is also logged, at warn.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the process that was started is killed, and waited for inside the drop. If it is
    /// dropped, nothing has been handed over.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::upgrade::Upgrade;
    /// use std::process::Command;
    ///
    /// let upgrade = Upgrade::from_env()?;
    /// let server = upgrade.bind("127.0.0.1:0").await?;
    /// let error = upgrade.hand_over(Command::new("true")).await.unwrap_err();
    /// assert!(error.to_string().contains("ended before it was ready (exit status: 0)"), "{error}");
    /// # drop(server);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "upgrade")]
    pub async fn hand_over(&self, command: Command) -> io::Result<Successor> {
        let result = self.try_hand_over(command).await;
        if let Err(error) = &result {
            log_line!(warn, "{error}");
        }
        result
    }

    async fn try_hand_over(&self, command: Command) -> io::Result<Successor> {
        let _turn = Turn::take(&self.shared)?;
        let sockets = self.sockets()?;
        let deadline = Instant::now().checked_add(self.timeout);
        let (starting, channel) = runtime::unblock(move || Starting::start(command, VARIABLE)).await?;
        let id = starting.id();
        log_line!(info, "handing {} listening sockets over to process {id}", sockets.len());
        let result = within(deadline, converse(channel, &sockets)).await.unwrap_or_else(|| {
            let text = format_args!("it was not ready within {}", Span(self.timeout));
            Err(explained(ErrorKind::TimedOut, text))
        });
        match result {
            Ok(()) => {
                self.shared.successor.store(id, Ordering::SeqCst);
                starting.let_go();
                log_line!(info, "process {id} is ready and has taken over: this one accepts no clients any more");
                Ok(Successor { id })
            }
            Err(error) => {
                if is_gone(&error) {
                    // It is just ending, most likely: its own status says more than that of a process that was killed.
                    let until = Instant::now().checked_add(UNTIL_ENDED);
                    within(until, runtime::unblock(move || child::wait_for_end(id))).await;
                }
                let until = Instant::now().checked_add(UNTIL_KILLED);
                let ended = within(until, runtime::unblock(move || starting.end())).await;
                Err(failed(id, error, ended))
            }
        }
    }

    /// Returns the sockets that are open.
    fn sockets(&self) -> io::Result<Vec<Socket>> {
        let not_now = |text: &str| Err(explained(ErrorKind::InvalidInput, format_args!("cannot hand over: {text}")));
        match self.shared.successor.load(Ordering::SeqCst) {
            0 => {}
            id => return not_now(&format!("process {id} has taken over already; shut this one's servers down")),
        }
        if !matches!(*lock(&self.shared.before), Before::Done) {
            return not_now("this generation is not ready itself; call `ready` first");
        }
        let mut sockets = Vec::new();
        for entry in lock(&self.shared.bound).iter().filter(|entry| !entry.is_closed()) {
            if let Some(descriptor) = entry.descriptor()? {
                entry.note_sent();
                sockets.push(Socket { key: entry.key.clone(), descriptor, hold: Arc::clone(&entry.hold) });
            }
        }
        match sockets.len() {
            0 => not_now("no socket is open that was bound with this `Upgrade`"),
            1..=MOST_SOCKETS => Ok(sockets),
            count => not_now(&format!("there are {count} sockets, and at most {MOST_SOCKETS} can be handed over")),
        }
    }
}

/// A socket on its way to the next generation.
struct Socket {
    key: Key,
    descriptor: OwnedFd,
    hold: Arc<Hold>,
}

/// Keeps other hand-overs out until it is dropped.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(shared: &'a Shared) -> io::Result<Self> {
        match shared.is_busy.swap(true, Ordering::SeqCst) {
            false => Ok(Self(&shared.is_busy)),
            true => {
                let text = "cannot hand over: another hand-over runs; wait until it has ended";
                Err(explained(ErrorKind::ResourceBusy, text))
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Hands the sockets over. Reads two headers and nothing else, so whatever the successor sends does no harm.
async fn converse(channel: UnixStream, sockets: &[Socket]) -> io::Result<()> {
    let channel = Async::new(channel)?;
    message::expect(read_header(&channel).await?, Kind::Hello)?;
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let stdin = stdin.or_else(|_closed| File::open("/dev/null").map(OwnedFd::from))?;
    send(&channel, &encode(Kind::Stdin, b""), Some(&stdin)).await?;
    for socket in sockets {
        send(&channel, &encode(Kind::Socket, &encode_key(&socket.key)?), Some(&socket.descriptor)).await?;
    }
    let count = u16::try_from(sockets.len()).expect("there are at most 1024");
    send(&channel, &encode(Kind::End, &count.to_be_bytes()), None).await?;
    message::expect(read_header(&channel).await?, Kind::Ready)?;
    give(&channel, sockets)
}

/// Gives the sockets away, all or none. There is no await here: neither the limit nor a drop comes in between.
fn give(channel: &Async<UnixStream>, sockets: &[Socket]) -> io::Result<()> {
    let keep = |sockets: &[Socket]| sockets.iter().for_each(|socket| socket.hold.keep());
    if let Some(closed) = sockets.iter().position(|socket| !socket.hold.begin_giving()) {
        keep(&sockets[..closed]);
        let text = "a listener of this generation was closed meanwhile";
        return Err(explained(ErrorKind::InvalidInput, text));
    }
    match descriptors::send(channel.get_ref(), &encode(Kind::Go, b""), None) {
        Ok(HEADER) => {
            sockets.iter().for_each(|socket| socket.hold.give());
            Ok(())
        }
        Ok(_) => {
            keep(sockets);
            Err(ErrorKind::WriteZero.into())
        }
        Err(error) => {
            keep(sockets);
            Err(explained_by(error, "it was ready, and did not wait for the answer"))
        }
    }
}

async fn read_header(mut channel: &Async<UnixStream>) -> io::Result<[u8; HEADER]> {
    let mut header = [0; HEADER];
    channel.read_exact(&mut header).await?;
    Ok(header)
}

/// Sends a message, and a descriptor with its first byte.
async fn send(channel: &Async<UnixStream>, mut bytes: &[u8], mut descriptor: Option<&OwnedFd>) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = channel.write_with(|channel| descriptors::send(channel, bytes, descriptor)).await?;
        descriptor = None;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Returns whether the other end of the connection is closed.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected
    )
}

/// Returns the error of a hand-over that failed, with how its process has ended.
fn failed(id: u32, error: io::Error, ended: Option<io::Result<ExitStatus>>) -> io::Error {
    const SIGKILL: i32 = 9;
    let is_gone = is_gone(&error);
    let (why, end) = match ended {
        Some(Ok(status)) if status.signal() == Some(SIGKILL) && is_gone => {
            ("it closed its connection before it was ready".to_owned(), "it was killed".to_owned())
        }
        Some(Ok(status)) if status.signal() == Some(SIGKILL) => (error.to_string(), "it was killed".to_owned()),
        Some(Ok(status)) if is_gone => (format!("it ended before it was ready ({status})"), String::new()),
        Some(Ok(status)) => (error.to_string(), format!("it has ended ({status})")),
        Some(Err(other)) => (error.to_string(), format!("it cannot be killed: {other}")),
        None => (error.to_string(), format!("it was killed, and has not ended within {}", Span(UNTIL_KILLED))),
    };
    let end = if end.is_empty() { end } else { format!("; {end}") };
    let text =
        format!("the hand-over to process {id} failed, and this generation goes on serving: {}{end}", Escaped(why));
    explained_by(error, text)
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
