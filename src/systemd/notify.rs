//! [`Notifier`]: notifies systemd of what the servers of a process are doing. See the module `systemd`.
//!
//! This file has the public types; `group` has those of groups. What they share is in `service`.

pub(crate) mod environment;
mod group;
mod messages;
mod service;
mod socket;
mod state;
mod status;

use crate::panic::log_line;
use crate::server::Server;
use crate::text::explained_by;
#[cfg(feature = "upgrade")]
use async_io::Async;
use environment::Environment;
use service::Service;
use socket::NotifySocket;
use std::fmt;
use std::io;
#[cfg(feature = "upgrade")]
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Notifies systemd of what the servers and tasks of this process are doing (`sd_notify`).
///
/// Give it to each server by [`Server::notify_systemd`], or to a group of servers and tasks by
/// [`ServiceGroup::notify_systemd`](crate::ServiceGroup::notify_systemd), before the first of them serves. There is nothing to await:
/// the servers do the rest, until they are closed. The [module](crate::systemd#notifications) has the messages.
///
/// Clones are the same notifier. Make one for the process, and clone it: two that [`from_env`](Self::from_env) has
/// returned are independent, and systemd would get READY from the first whose servers serve. Without `NOTIFY_SOCKET` in the environment it does nothing, so that the program also
/// runs outside systemd.
///
/// A notification is a datagram that is sent without blocking. If it cannot be sent, one line at warn reports it, and
/// the servers go on; later ones are tried again. A process that was forked from this one sends nothing.
///
/// # Examples
///
/// What systemd gets from a server that is asked to stop at once:
///
/// ```
/// # async_std::task::block_on(async {
/// # // As systemd does it: run this program again, with a socket to notify.
/// # if std::env::var_os("EBBTIDE_DOC").is_none() {
/// #     let path = std::env::temp_dir().join(format!("ebbtide-doc-notify-{}.sock", std::process::id()));
/// #     let socket = std::os::unix::net::UnixDatagram::bind(&path)?;
/// #     let mut program = std::process::Command::new(std::env::current_exe()?);
/// #     let status = program.env("EBBTIDE_DOC", "1").env("NOTIFY_SOCKET", &path).env_remove("WATCHDOG_USEC").status();
/// #     socket.set_nonblocking(true)?;
/// #     let mut got = String::new();
/// #     let mut buf = [0; 4096];
/// #     while let Ok(n) = socket.recv(&mut buf) {
/// #         got += std::str::from_utf8(&buf[..n]).unwrap();
/// #     }
/// #     std::fs::remove_file(&path)?;
/// #     assert!(status?.success());
/// #     assert!(got.starts_with("READY=1\nSTATUS=serving, 0 connections\nSTOPPING=1\n"), "{got}");
/// #     assert!(got.contains("\nSTATUS=closed in "), "{got}");
/// #     return Ok(());
/// # }
/// use ebbtide::{Connection, Server, systemd::Notifier};
///
/// let notifier = Notifier::from_env()?;
/// let main = Server::bind("127.0.0.1:0").await?.notify_systemd(&notifier);
/// main.scope(async |_: Connection| {}, async |_| ()).await?;
/// // READY=1
/// // STATUS=serving, 0 connections
/// //
/// // STOPPING=1
/// // EXTEND_TIMEOUT_USEC=12999876
/// // STATUS=shutting down, 0 connections, 0 s of 8 s
/// //
/// // STATUS=closed in 237µs because the body returned: 0 accepted, …
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone)]
#[doc(alias = "sd_notify")]
#[doc(alias = "NOTIFY_SOCKET")]
#[doc(alias = "watchdog")]
pub struct Notifier {
    /// `None`: there is no socket to notify.
    inner: Option<Arc<Service>>,
}

impl Notifier {
    /// Returns the notifier for the socket that `NOTIFY_SOCKET` names, or one that does nothing if it is not set.
    ///
    /// Each call makes a notifier that knows nothing of the others: call it once, and clone what it returns.
    ///
    /// A path and an abstract name (`@name`) are understood. The environment is left as it is, since changing it is not
    /// safe in a process with threads. So programs that this one starts inherit the variables. systemd ignores their
    /// messages by default (`NotifyAccess=main`); a program that would wrongly report itself ready to a unit with
    /// `NotifyAccess=all` is started with `Command::env_remove("NOTIFY_SOCKET")`.
    ///
    /// # Errors
    ///
    /// The text has the value, and what to do. Branch on the [kind](io::Error::kind):
    ///
    /// | kind | reason |
    /// |---|---|
    /// | [`InvalidData`](io::ErrorKind::InvalidData) | `NOTIFY_SOCKET` is not an address; `WATCHDOG_USEC` or `WATCHDOG_PID` is not a number |
    /// | [`Unsupported`](io::ErrorKind::Unsupported) | `NOTIFY_SOCKET` is an address of the form `vsock:…`, the host of a virtual machine |
    /// | another | no datagram socket can be made |
    ///
    /// It is not an error if nothing listens at the address: the first notification then logs a warning.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Server, systemd::Notifier};
    ///
    /// let notifier = Notifier::from_env()?;
    /// let server = Server::bind("127.0.0.1:0").await?.notify_systemd(&notifier);
    /// # drop(server);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn from_env() -> io::Result<Self> {
        Self::of(&Environment::of_this_process()).map_err(|error| {
            let text = format!("cannot notify systemd: {error}");
            explained_by(error, text)
        })
    }

    fn of(environment: &Environment) -> io::Result<Self> {
        let Some(address) = environment.address()? else {
            return Ok(Self { inner: None });
        };
        let watchdog = environment.watchdog(std::process::id())?;
        let service = Service::new(NotifySocket::open(address)?, watchdog);
        Ok(Self { inner: Some(Arc::new(service)) })
    }

    /// Returns whether there is a socket to notify: `NOTIFY_SOCKET` was set.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::systemd::Notifier;
    ///
    /// let notifier = Notifier::from_env()?;
    /// if !notifier.is_active() {
    ///     println!("not started by systemd, or by a unit without `Type=notify`");
    /// }
    /// # std::io::Result::Ok(())
    /// ```
    pub fn is_active(&self) -> bool {
        self.inner.is_some()
    }

    /// Notifies systemd that the service reloads its configuration, until the returned guard is dropped.
    ///
    /// It sends RELOADING=1 with MONOTONIC_USEC, and READY=1 at the drop. With `Type=notify-reload` `systemctl reload`
    /// sends SIGHUP ([`signal::hangup`](crate::signal::hangup)) and waits for that. A reload that fails is over as
    /// well: drop the guard, and the service runs on with what it had.
    ///
    /// Several reloads at the same time are one, from the first guard to the last drop. Before READY=1 and after
    /// STOPPING=1 nothing is sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::systemd::Notifier;
    ///
    /// # async fn read_certificates() -> std::io::Result<()> { Ok(()) }
    /// /// For each SIGHUP.
    /// async fn reload(notifier: &Notifier) {
    ///     let _reloading = notifier.reloading();
    ///     if let Err(error) = read_certificates().await {
    ///         log::error!("cannot reload the certificates: {error}; the old ones stay");
    ///     }
    /// }
    /// # async_std::task::block_on(async { reload(&Notifier::from_env()?).await; std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "RELOADING")]
    pub fn reloading(&self) -> Reloading {
        self.reload(Service::begin_reload);
        Reloading { notifier: self.clone() }
    }

    /// Sends nothing from now on, until [`main_once_closed`](Self::main_once_closed): another process is the main one.
    #[cfg(feature = "upgrade")]
    pub(crate) fn wait_to_be_main(&self) {
        if let Some(service) = &self.inner {
            service.wait_to_be_main();
        }
    }

    /// This is the main process once the other end has closed the connection; `None`: it has.
    #[cfg(feature = "upgrade")]
    pub(crate) fn main_once_closed(&self, connection: Option<Arc<Async<UnixStream>>>) {
        self.log_failure(|service| service.main_once_closed(connection));
    }

    /// Sends that another process is the main one, then nothing more. Closes its connection once that was sent.
    #[cfg(feature = "upgrade")]
    pub(crate) fn hand_over(&self, id: u32, connection: Arc<Async<UnixStream>>) {
        self.log_failure(|service| service.hand_over(id, connection));
    }

    #[cfg(feature = "upgrade")]
    fn log_failure(&self, change: impl FnOnce(&Service) -> Option<String>) {
        if let Some(failure) = self.inner.as_deref().and_then(change) {
            log_line!(warn, "{failure}");
        }
    }

    fn reload(&self, change: fn(&Service) -> Option<String>) {
        if let Some(failure) = self.inner.as_deref().and_then(change) {
            log_line!(warn, "{failure}");
        }
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.inner.as_ref().map(|service| service.socket.shown());
        let watchdog = self.inner.as_ref().and_then(|service| service.watchdog);
        f.debug_struct("Notifier").field("socket", &socket).field("watchdog", &watchdog).finish_non_exhaustive()
    }
}

/// Guard of a reload: returned by [`Notifier::reloading`]. Its drop notifies systemd that the reload is over.
///
/// # Examples
///
/// ```
/// use ebbtide::systemd::{Notifier, Reloading};
///
/// let reloading: Reloading = Notifier::from_env()?.reloading();
/// // Read the configuration again.
/// drop(reloading);
/// # std::io::Result::Ok(())
/// ```
#[must_use = "its drop ends the reload: keep it until the new configuration is in use"]
pub struct Reloading {
    notifier: Notifier,
}

impl Drop for Reloading {
    fn drop(&mut self) {
        self.notifier.reload(Service::end_reload);
    }
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("notifier", &self.notifier).finish()
    }
}

impl Server {
    /// Notifies systemd of this server's phases, status and deadline, and serves the watchdog (feature `systemd`, on
    /// Linux).
    ///
    /// The [module](crate::systemd#notifications) has the messages. Several servers of a process share one notifier:
    /// call this for each of them before the first one serves, because systemd counts the service as ready once every
    /// server that the notifier knows serves. The first one that is asked to stop means that the service stops.
    ///
    /// Default: systemd is not notified. Nothing happens if the notifier is not [active](Notifier::is_active).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Server, systemd::Notifier};
    ///
    /// let notifier = Notifier::from_env()?;
    /// let main = Server::bind("127.0.0.1:0").await?.name("main").notify_systemd(&notifier);
    /// let admin = Server::bind("127.0.0.1:0").await?.name("admin").notify_systemd(&notifier);
    /// # drop((main, admin));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "sd_notify")]
    #[doc(alias = "Type=notify")]
    #[doc(alias = "watchdog")]
    pub fn notify_systemd(self, notifier: &Notifier) -> Self {
        let Some(inner) = &notifier.inner else {
            return self;
        };
        let run = self.handle().run().clone();
        match inner.attach(&run, None) {
            Some(task) => self.beside(task),
            None => self,
        }
    }
}
