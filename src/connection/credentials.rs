//! Who is behind a Unix socket.

use std::os::unix::net::UnixStream;

/// The user, group and process of a peer: see [`Connection::peer_credentials`](crate::Connection::peer_credentials).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerCredentials {
    uid: u32,
    gid: u32,
    pid: i32,
}

impl PeerCredentials {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn of(stream: &UnixStream) -> Option<Self> {
        let credentials = rustix::net::sockopt::socket_peercred(stream).ok()?;
        let (uid, gid) = (credentials.uid.as_raw(), credentials.gid.as_raw());
        Some(Self { uid, gid, pid: credentials.pid.as_raw_nonzero().get() })
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

    /// The process's number, as this process sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}
