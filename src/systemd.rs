//! Sockets that systemd has opened, and notifications of what a service is doing (feature `systemd`, on Linux).
//!
//! ```
//! # async_std::task::block_on(async {
//! use ebbtide::{Connection, Server, signal, systemd};
//!
//! let signals = signal::termination()?;
//! let notifier = systemd::Notifier::from_env()?; // does nothing outside systemd
//! let server = Server::bind("127.0.0.1:0").await?.notify_systemd(&notifier).shutdown_on(signals);
//! # let handle = server.handle();
//! # drop(async_std::task::spawn(async move { handle.shutdown().await }));
//! let report = server.serve(async |_: Connection| {}).await?;
//! # assert_eq!(report.accepted(), 0);
//! # std::io::Result::Ok(()) }).unwrap();
//! ```
//!
//! `deploy/systemd` in the repository has the units of a whole service, with each setting explained. Its program is
//! `examples/socket_activation.rs`.
//!
//! # Socket activation
//!
//! With [socket activation](https://www.freedesktop.org/software/systemd/man/latest/systemd.socket.html) the service
//! manager listens. It starts the service when the first client connects; or at boot, or again after a crash. The
//! socket outlives the service: while no process serves it, clients wait in its backlog.
//!
//! ```
//! # async_std::task::block_on(async {
//! use ebbtide::{Server, systemd};
//! use std::io;
//!
//! let server = match systemd::sockets() {
//!     Ok(sockets) => sockets.into_server()?,
//!     // Not started by systemd.
//!     Err(error) if error.kind() == io::ErrorKind::NotFound => Server::bind("127.0.0.1:0").await?,
//!     Err(error) => return Err(error),
//! };
//! # assert!(server.local_addr().tcp().is_ok());
//! # io::Result::Ok(()) }).unwrap();
//! ```
//!
//! # A restart that loses no client
//!
//! The sockets are [inherited](crate::Listener#sockets-that-are-inherited): they are left as they were found, and so is
//! their backlog. At SIGTERM ([`signal::termination`](crate::signal::termination)) the server stops accepting and
//! drains its connections. The next process serves the clients that connect in that time. A client that was accepted a
//! moment before, and has sent nothing yet, is still served by the old process, for the
//! [newcomer time](crate::Server::newcomer_time). `TimeoutStopSec=` in the unit must be longer than the
//! [grace period](crate::Server::grace), unless systemd is notified.
//!
//! # Notifications
//!
//! A unit with `Type=notify` gives its service the address of a socket (`NOTIFY_SOCKET`).
//! [`Server::notify_systemd`], or [`ServiceGroup::notify_systemd`](crate::ServiceGroup::notify_systemd) for all servers
//! and tasks of a group, sends
//!
//! | variable | when |
//! |---|---|
//! | `READY=1` | every server of the [`Notifier`] serves: all sockets listen, and clients are accepted; and every task of its groups has started |
//! | `STOPPING=1` | the first server or group is asked to stop, in whichever way: signal, handle, failure, the return of a body, cancel, drop |
//! | `EXTEND_TIMEOUT_USEC=` | with `STOPPING=1`: the time to the deadline (lame duck and grace; that of a group includes its tasks) and 5 s more; again when the deadline moves, and every 20 s. Without a limit 60 s each time. So a drain may take longer than `TimeoutStopSec=`, and systemd kills a service that is stuck beyond its deadline |
//! | `STATUS=` | `systemctl status` shows it: `serving, 12 connections`, at most every 10 s; `draining, 3 connections and 1 task left, 2 s of 8 s`, every second; at the end the report. With several servers each has its name. A group that stops: `stopping, 2 s of 60 s; health: serving, 0 connections; cleaner: stopping` |
//! | `WATCHDOG=1` | with `WatchdogSec=`, in half of that time, by a task on the executor of each server and of each group, once all have run. If all threads of an executor are blocked, it is missed: systemd aborts the service, and restarts it with `Restart=on-failure` |
//! | `RELOADING=1`, `MONOTONIC_USEC=` | the program calls [`Notifier::reloading`]; `READY=1` follows (`Type=notify-reload`) |
//! | `MAINPID=` | with the feature `upgrade` and `Upgrade::notify_systemd`: the sockets were handed over to the next generation of the program. It is the last message of this process; the next one then sends its own |
//!
//! There is nothing to await: the messages come from tasks of the servers and groups, and from the threads that end
//! them. They end with the servers, and leave nothing.
//!
//! - **One notifier for a process.** Make one by [`Notifier::from_env`] and clone it. Two that were made are independent:
//!   each sends READY when its own servers serve, and the first STOPPING of either stops the service.
//! - **Nothing waits for systemd.** A datagram is sent without blocking. If the socket is gone, full or not permitted,
//!   one line at warn reports what could not be sent, to which socket, why, and what to do; the server goes on, and
//!   READY, STOPPING and the watchdog are tried again every second.
//! - **The environment** is left as it is. Programs that this one starts inherit `NOTIFY_SOCKET`; systemd ignores their
//!   messages unless the unit has `NotifyAccess=all`.
//! - **A sandbox** has to allow Unix sockets (`RestrictAddressFamilies=AF_UNIX …`), and to show the socket's path.
//! - **The status** has names of servers, and may have the text of an error. Line breaks in them are escaped, so that
//!   they cannot begin a variable.
//! - **The file descriptor store** (`FDSTORE=1`) is not used: systemd keeps the listening sockets of a socket unit
//!   anyway, and a connection cannot be handed over, because its handler's state is in this process.

pub(crate) mod notify;
pub(crate) mod variables;

use crate::listener::Listener;
use crate::server::Server;
use crate::text::explained;
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use variables::Variables;

pub use notify::{Notifier, Reloading};

/// Whether the sockets of this process have been taken: a descriptor must not have two owners.
static TAKEN: Mutex<bool> = Mutex::new(false);

/// Takes the sockets that systemd has passed to this process: all of them, once.
///
/// This is `sd_listen_fds` with checks. Call it early, before the program opens descriptors of its own. The environment
/// is left as it is, since changing it is not safe in a process with threads. Programs that this one starts do not get
/// the sockets: the descriptors are closed on `exec`, and `LISTEN_PID` is the id of this process.
///
/// # Errors
///
/// The text reports what was found, and what to do. Branch on the [kind](io::Error::kind):
///
/// | kind | reason |
/// |---|---|
/// | [`NotFound`](ErrorKind::NotFound) | no sockets were passed to this process: `LISTEN_PID` or `LISTEN_FDS` is not set, `LISTEN_PID` is another process, or `LISTEN_FDS` is 0 |
/// | [`InvalidData`](ErrorKind::InvalidData) | the variables cannot be right: they are not numbers, the number of names differs from that of the sockets, or a descriptor is not open or was opened by this process itself |
/// | [`ResourceBusy`](ErrorKind::ResourceBusy) | an earlier call has taken the sockets |
///
/// After an error nothing is taken, and nothing is closed.
///
/// # Examples
///
/// A program that must be started by systemd:
///
/// ```
/// use ebbtide::systemd;
/// use std::io::ErrorKind;
///
/// let error = systemd::sockets().unwrap_err(); // `cargo test` passes no sockets
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// assert!(error.to_string().starts_with("cannot take the sockets of the service manager: "));
/// ```
#[doc(alias = "sd_listen_fds")]
#[doc(alias = "sd_listen_fds_with_names")]
#[doc(alias = "LISTEN_FDS")]
#[doc(alias = "LISTEN_FDNAMES")]
#[doc(alias = "listenfd")]
#[doc(alias = "socket activation")]
pub fn sockets() -> io::Result<Sockets> {
    take().map_err(|error| {
        let text = format!("cannot take the sockets of the service manager: {error}");
        explained(error.kind(), text)
    })
}

fn take() -> io::Result<Sockets> {
    let names = Variables::of_this_process().names(std::process::id())?;
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *taken {
        return Err(explained(
            ErrorKind::ResourceBusy,
            "they have been taken before; keep what the first call returned",
        ));
    }
    let passed = sd_listen_fds::get().map_err(|error| explained(ErrorKind::InvalidData, error))?;
    let fds: Vec<_> = passed.into_iter().map(|(_, fd)| fd.into_std()).collect();
    let fds = adopt(fds)?;
    *taken = true;
    Ok(Sockets { left: names.into_iter().zip(fds).collect() })
}

/// Makes the descriptors this process' own: all of them, or none.
///
/// If one is refused, all are left open as they were, since at least one belongs to other code.
fn adopt(fds: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let checked = fds.iter().try_for_each(|fd| {
        let number = fd.as_raw_fd();
        check(fd).map_err(|text| explained(ErrorKind::InvalidData, format!("the descriptor {number} {text}")))
    });
    let marked = checked.and_then(|()| fds.iter().try_for_each(|fd| Ok(fcntl_setfd(fd, FdFlags::CLOEXEC)?)));
    match marked {
        Ok(()) => Ok(fds),
        Err(error) => {
            fds.into_iter().for_each(|fd| {
                let _left_open = fd.into_raw_fd();
            });
            Err(error)
        }
    }
}

/// Checks that a descriptor was passed: it has survived an `exec`, so it has no CLOEXEC. The descriptors that a Rust
/// program opens have it, and so do those that any `sd_listen_fds` has taken.
fn check(fd: &OwnedFd) -> Result<(), String> {
    match fcntl_getfd(fd) {
        Ok(flags) if flags.contains(FdFlags::CLOEXEC) => {
            Err("was not passed: this process has opened or taken it itself; call this before anything else does"
                .into())
        }
        Ok(_) => Ok(()),
        Err(Errno::BADF) => Err("is not open, though `LISTEN_FDS` counts it".into()),
        Err(error) => Err(format!("cannot be looked at: {error}")),
    }
}

/// Sockets that systemd has passed to this process, each with its name, in the order of the units.
///
/// [`listeners`](Self::listeners) and [`server`](Self::server) take sockets out of it.
///
/// `FileDescriptorName=` in the socket unit sets the name; the default is the unit's own name (`echo.socket`). One unit
/// with several `ListenStream=` passes several sockets of one name. If no names were passed, each is called `unknown`.
///
/// Dropping this closes the sockets that are left, in this process only: systemd still holds them, and clients wait in
/// their backlog until the service is started again.
///
/// # Examples
///
/// Two servers of one process:
///
/// ```
/// # async_std::task::block_on(async {
/// # // As systemd does it: run this program again, with a socket as descriptor 3.
/// # if std::env::var_os("LISTEN_FDS").is_none() {
/// #     let socket = std::os::fd::OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0")?);
/// #     let run = r#"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http:admin exec "$0" 3<&0 4<&0"#;
/// #     let program = std::env::current_exe()?;
/// #     let status = std::process::Command::new("sh").args(["-c", run]).arg(program).stdin(socket).status()?;
/// #     assert!(status.success());
/// #     return Ok(());
/// # }
/// use ebbtide::systemd;
///
/// let mut sockets = systemd::sockets()?;
/// let public = sockets.server("http")?.max_connections(10_000);
/// let admin = sockets.server("admin")?;
/// assert_eq!(sockets.names().count(), 0);
/// # drop((public, admin));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "dropping it closes the sockets that were not taken out of it"]
#[doc(alias = "sd_listen_fds")]
pub struct Sockets {
    /// The sockets that were not taken out yet, with their names.
    left: Vec<(String, OwnedFd)>,
}

impl Sockets {
    /// Returns the names of the sockets that are left, one for each socket.
    ///
    /// # Examples
    ///
    /// ```
    /// # // As systemd does it: run this program again, with a socket as descriptor 3.
    /// # if std::env::var_os("LISTEN_FDS").is_none() {
    /// #     let socket = std::os::fd::OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0")?);
    /// #     let run = r#"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http:admin exec "$0" 3<&0 4<&0"#;
    /// #     let program = std::env::current_exe()?;
    /// #     let status = std::process::Command::new("sh").args(["-c", run]).arg(program).stdin(socket).status()?;
    /// #     assert!(status.success());
    /// #     return Ok(());
    /// # }
    /// let sockets = ebbtide::systemd::sockets()?;
    /// assert_eq!(sockets.names().collect::<Vec<_>>(), ["http", "admin"]);
    /// # std::io::Result::Ok(())
    /// ```
    #[doc(alias = "LISTEN_FDNAMES")]
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.left.iter().map(|(name, _)| name.as_str())
    }

    /// Takes every socket of this name, and returns a server on them.
    ///
    /// # Errors
    ///
    /// The same as those of [`listeners`](Self::listeners).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # // As systemd does it: run this program again, with a socket as descriptor 3.
    /// # if std::env::var_os("LISTEN_FDS").is_none() {
    /// #     let socket = std::os::fd::OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0")?);
    /// #     let run = r#"LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec "$0" 3<&0"#;
    /// #     let program = std::env::current_exe()?;
    /// #     let status = std::process::Command::new("sh").args(["-c", run]).arg(program).stdin(socket).status()?;
    /// #     assert!(status.success());
    /// #     return Ok(());
    /// # }
    /// let mut sockets = ebbtide::systemd::sockets()?;
    /// let server = sockets.server("http")?;
    /// assert!(server.local_addr().tcp()?.ip().is_loopback());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn server(&mut self, name: &str) -> io::Result<Server> {
        self.listeners(name).map(server_on)
    }

    /// Returns a server on every socket that is left.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](ErrorKind::NotFound) if none is left.
    /// - [`InvalidInput`](ErrorKind::InvalidInput) if one is not a listening stream socket. All are closed then.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # // As systemd does it: run this program again, with a socket as descriptor 3.
    /// # if std::env::var_os("LISTEN_FDS").is_none() {
    /// #     let socket = std::os::fd::OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0")?);
    /// #     let run = r#"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http:admin exec "$0" 3<&0 4<&0"#;
    /// #     let program = std::env::current_exe()?;
    /// #     let status = std::process::Command::new("sh").args(["-c", run]).arg(program).stdin(socket).status()?;
    /// #     assert!(status.success());
    /// #     return Ok(());
    /// # }
    /// let server = ebbtide::systemd::sockets()?.into_server()?;
    /// assert_eq!(server.local_addrs().count(), 2);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn into_server(self) -> io::Result<Server> {
        if self.left.is_empty() {
            return Err(explained(ErrorKind::NotFound, "all sockets of the service manager have been taken"));
        }
        listeners(self.left).map(server_on)
    }

    /// Takes every socket of this name, and returns a listener for each: at least one.
    ///
    /// A [`Listener`] can have TLS or the PROXY protocol, and can be added to any
    /// [server](crate::Server::add_listener).
    ///
    /// # Errors
    ///
    /// - [`NotFound`](ErrorKind::NotFound) if no socket of this name is left. The error lists the names that are left.
    /// - [`InvalidInput`](ErrorKind::InvalidInput) if one is not a listening stream socket. The sockets of this name
    ///   are closed then, and the others stay.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # // As systemd does it: run this program again, with a socket as descriptor 3.
    /// # if std::env::var_os("LISTEN_FDS").is_none() {
    /// #     let socket = std::os::fd::OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0")?);
    /// #     let run = r#"LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec "$0" 3<&0"#;
    /// #     let program = std::env::current_exe()?;
    /// #     let status = std::process::Command::new("sh").args(["-c", run]).arg(program).stdin(socket).status()?;
    /// #     assert!(status.success());
    /// #     return Ok(());
    /// # }
    /// use ebbtide::Server;
    ///
    /// let mut sockets = ebbtide::systemd::sockets()?;
    /// let mut server = Server::bind("127.0.0.1:0").await?;
    /// for listener in sockets.listeners("http")? {
    ///     server = server.add_listener(listener);
    /// }
    /// assert_eq!(server.local_addrs().count(), 2);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn listeners(&mut self, name: &str) -> io::Result<Vec<Listener>> {
        let (named, left) = std::mem::take(&mut self.left).into_iter().partition(|(other, _)| other == name);
        self.left = left;
        let named: Vec<_> = named;
        if named.is_empty() {
            return Err(self.unknown(name));
        }
        listeners(named)
    }

    fn unknown(&self, name: &str) -> io::Error {
        let names = match self.left.len() {
            0 => "none is left".to_owned(),
            _ => format!("there are {}", self.names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        let text = format!(
            "the service manager has passed no socket `{name}`: {names}; `FileDescriptorName=` in the socket unit \
             names them"
        );
        explained(ErrorKind::NotFound, text)
    }
}

/// Takes the sockets that are left, as they were passed: for sockets that a server cannot use, such as datagram
/// sockets.
///
/// # Examples
///
/// ```
/// # // As systemd does it: run this program again, with a socket as descriptor 3.
/// # if std::env::var_os("LISTEN_FDS").is_none() {
/// #     let socket = std::os::fd::OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0")?);
/// #     let run = r#"LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec "$0" 3<&0"#;
/// #     let program = std::env::current_exe()?;
/// #     let status = std::process::Command::new("sh").args(["-c", run]).arg(program).stdin(socket).status()?;
/// #     assert!(status.success());
/// #     return Ok(());
/// # }
/// for (name, fd) in ebbtide::systemd::sockets()? {
///     assert_eq!(name, "http");
///     assert!(std::net::TcpListener::from(fd).local_addr()?.ip().is_loopback());
/// }
/// # std::io::Result::Ok(())
/// ```
impl IntoIterator for Sockets {
    type Item = (String, OwnedFd);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.left.into_iter()
    }
}

fn listeners(sockets: Vec<(String, OwnedFd)>) -> io::Result<Vec<Listener>> {
    let listener = |(name, fd)| {
        Listener::try_from(fd).map_err(|error: io::Error| {
            let text =
                format!("the socket `{name}`: {error} (a socket unit takes `ListenStream=`, without `Accept=yes`)");
            explained(error.kind(), text)
        })
    };
    sockets.into_iter().map(listener).collect()
}

/// Returns a server on all these listeners, of which there is at least one.
fn server_on(listeners: Vec<Listener>) -> Server {
    let mut listeners = listeners.into_iter();
    let first = listeners.next().expect("the caller has at least one listener");
    listeners.fold(Server::new(first), Server::add_listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_bytes::Dice;
    use std::fs::{self, File};

    /// Returns whether the descriptor is closed on exec; an error if it is not open.
    fn is_closed_on_exec(number: i32) -> io::Result<bool> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
        let flags = info.split_whitespace().nth(3).expect("`flags:` and its value are in the second line");
        Ok(u32::from_str_radix(flags, 8).unwrap() & 0o2_000_000 != 0)
    }

    #[test]
    fn random_bytes_may_name_any_descriptors_and_all_are_taken_or_none_and_none_of_this_process_own() {
        let mut dice = Dice::new(1);
        let mut taken = 0;
        for _ in 0..300 {
            let fds: Vec<OwnedFd> = (0..=dice.below(4)).map(|_| File::open("/dev/null").unwrap().into()).collect();
            let own: Vec<bool> = fds.iter().map(|_| dice.chance(20)).collect();
            for (fd, _) in fds.iter().zip(&own).filter(|(_, own)| !**own) {
                fcntl_setfd(fd, FdFlags::empty()).unwrap(); // as if it was passed
            }
            let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            match adopt(fds) {
                Ok(fds) => {
                    assert!(own.iter().all(|own| !own));
                    assert_eq!(fds.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), numbers);
                    assert!(numbers.iter().all(|number| is_closed_on_exec(*number).unwrap()));
                    taken += 1;
                }
                Err(error) => {
                    let first = own.iter().position(|own| *own).expect("one is this process' own");
                    assert!(
                        error.to_string().starts_with(&format!("the descriptor {} was not passed", numbers[first]))
                    );
                    for (number, own) in numbers.into_iter().zip(own) {
                        assert_eq!(is_closed_on_exec(number).unwrap(), own, "it is left as it was");
                        nix::unistd::close(number).unwrap();
                    }
                }
            }
        }
        assert!((50..250).contains(&taken), "{taken}");
    }
}
