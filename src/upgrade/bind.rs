//! Listening with an [`Upgrade`]: on the sockets that were passed, or on new ones.

use super::Upgrade;
use crate::bind_addrs::ToBindAddrs;
use crate::listener::generations::{self, BoundSocket, Found};
use crate::listener::{ListenOptions, Listener};
use crate::server::Server;
use crate::sync::lock;
use std::io;
use std::path::Path;

impl Upgrade {
    /// Listens like [`Server::bind`], with the sockets of the previous generation where it has passed some.
    ///
    /// The server accepts once this generation is [ready](Self::ready); in a first generation at once.
    ///
    /// # Errors
    ///
    /// As for [`Server::bind`].
    ///
    /// # Cancel safety
    ///
    /// As for [`Server::bind`]. A socket that was passed can be bound again.
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
        let bound = generations::bind_or_take(addresses, options, self.found()).await?;
        Ok(bound.into_iter().map(|(listener, entry)| self.enter(listener, entry)).collect())
    }

    /// Listens like [`Server::bind_unix`], with the socket of the previous generation if it has passed one for the path.
    ///
    /// The generation that accepts owns the socket's file: it removes the file when its listener is closed. A program
    /// that removes files of an earlier run itself must not do so in a [successor](Self::is_successor).
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
        let (listener, entry) = generations::bind_unix_or_take(path.as_ref(), options, self.found()).await?;
        Ok(self.enter(listener, entry))
    }

    fn found(&self) -> Found<'_> {
        Found { passed: &self.shared.passed, is_ready: self.shared.is_ready() }
    }

    fn enter(&self, listener: Listener, entry: BoundSocket) -> Listener {
        let mut bound = lock(&self.shared.bound);
        // Under the lock of `bound`: `ready` may return at this moment, and this generation then owns what is bound.
        if self.shared.is_ready() {
            entry.ownership.own();
            bound.retain(|entry| !entry.ownership.is_closed()); // before, `ready` must know of them
        }
        bound.push(entry);
        listener
    }
}
