//! [`PeerCredentials`]: the user, group and process at the other end of a Unix socket.

use std::os::unix::net::UnixStream;

/// The user, group and process of a peer: see [`Connection::peer_credentials`](crate::Connection::peer_credentials).
///
/// They are those of the process that called `connect`, at that time.
///
/// # Examples
///
/// ```
/// # if cfg!(target_os = "linux") { async_std::task::block_on(async {
/// # use async_std::{io, os::unix::net::UnixStream};
/// # use ebbtide::{Connection, Server};
/// # let path = std::env::temp_dir().join(format!("ebbtide-credentials-{}.sock", std::process::id()));
/// # let server = Server::bind_unix(&path).await?;
/// # let _client = UnixStream::connect(&path).await?;
/// let handler = async |conn: Connection| {
///     let peer = conn.peer_credentials().expect("a Unix socket on Linux");
///     assert_eq!(peer.pid(), Some(std::process::id() as i32)); // the client is this process
///     println!("user {}, group {}", peer.uid(), peer.gid());
/// };
/// let (_, report) = server.scope(handler, async |_| {}).await?;
/// assert_eq!(report.completed(), 1);
/// # io::Result::Ok(()) }).unwrap(); }
/// ```
#[doc(alias = "SO_PEERCRED")]
#[doc(alias = "UCred")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerCredentials {
    uid: u32,
    gid: u32,
    pid: Option<i32>,
}

impl PeerCredentials {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn of(stream: &UnixStream) -> Option<Self> {
        // By nix, since rustix assumes that the process number is not 0.
        let credentials = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
        let pid = Some(credentials.pid()).filter(|pid| *pid != 0);
        Some(Self { uid: credentials.uid(), gid: credentials.gid(), pid })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn of(_: &UnixStream) -> Option<Self> {
        None
    }

    /// Returns the number of the peer's effective user.
    ///
    /// # Examples
    ///
    /// ```
    /// # if cfg!(target_os = "linux") { async_std::task::block_on(async {
    /// # use async_std::{io, os::unix::net::UnixStream};
    /// # use ebbtide::{Connection, Server};
    /// # let path = std::env::temp_dir().join(format!("ebbtide-uid-{}.sock", std::process::id()));
    /// # let server = Server::bind_unix(&path).await?;
    /// # let _client = UnixStream::connect(&path).await?;
    /// let handler = async |conn: Connection| {
    ///     let peer = conn.peer_credentials().expect("a Unix socket on Linux");
    ///     assert_eq!(peer.uid(), nix::unistd::geteuid().as_raw()); // the crate `nix`
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap(); }
    /// ```
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Returns the number of the peer's effective group.
    ///
    /// # Examples
    ///
    /// ```
    /// # if cfg!(target_os = "linux") { async_std::task::block_on(async {
    /// # use async_std::{io, os::unix::net::UnixStream};
    /// # use ebbtide::{Connection, Server};
    /// # let path = std::env::temp_dir().join(format!("ebbtide-gid-{}.sock", std::process::id()));
    /// # let server = Server::bind_unix(&path).await?;
    /// # let _client = UnixStream::connect(&path).await?;
    /// let handler = async |conn: Connection| {
    ///     let peer = conn.peer_credentials().expect("a Unix socket on Linux");
    ///     assert_eq!(peer.gid(), nix::unistd::getegid().as_raw()); // the crate `nix`
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap(); }
    /// ```
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Returns the number of the peer's process, as this process sees it.
    ///
    /// `None` if this process cannot see the peer's, for example from inside a container.
    ///
    /// # Examples
    ///
    /// ```
    /// # if cfg!(target_os = "linux") { async_std::task::block_on(async {
    /// # use async_std::{io, os::unix::net::UnixStream};
    /// # use ebbtide::{Connection, Server};
    /// # let path = std::env::temp_dir().join(format!("ebbtide-pid-{}.sock", std::process::id()));
    /// # let server = Server::bind_unix(&path).await?;
    /// # let _client = UnixStream::connect(&path).await?;
    /// let handler = async |conn: Connection| {
    ///     let peer = conn.peer_credentials().expect("a Unix socket on Linux");
    ///     assert_eq!(peer.pid(), Some(std::process::id() as i32)); // the client is this process
    /// };
    /// let (_, report) = server.scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # io::Result::Ok(()) }).unwrap(); }
    /// ```
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }
}
