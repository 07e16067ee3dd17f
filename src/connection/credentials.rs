//! Who is behind a Unix socket.

use std::os::unix::net::UnixStream;

/// The user, group and process of a peer: see [`Connection::peer_credentials`](crate::Connection::peer_credentials).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerCredentials {
    uid: u32,
    gid: u32,
    pid: Option<i32>,
}

impl PeerCredentials {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn of(stream: &UnixStream) -> Option<Self> {
        // Not by rustix, which takes for granted that there is a process number.
        let credentials = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
        let pid = Some(credentials.pid()).filter(|pid| *pid != 0);
        Some(Self { uid: credentials.uid(), gid: credentials.gid(), pid })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn of(_: &UnixStream) -> Option<Self> {
        None
    }

    /// The effective user's number.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The effective group's number.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The process's number, as this process sees it; `None` where it cannot, as from within a container.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }
}
