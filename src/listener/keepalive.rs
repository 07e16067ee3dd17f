//! [`Keepalive`]: how a peer that vanished without a word is noticed.

use socket2::{Socket, TcpKeepalive};
use std::io;
use std::time::Duration;

/// `SO_KEEPALIVE` of connections: the kernel probes a peer that has been silent, and ends the connection if it does not
/// answer. For [`ListenOptions::keepalive`](crate::ListenOptions::keepalive).
///
/// The defaults notice a peer that vanished, its cable cut or its machine switched off, after 2 minutes: a first probe
/// after 60 seconds of silence, then one every 15 seconds, 4 in all. A peer that lives and sends nothing answers the
/// probes, and stays. The kernel does not probe while it waits for an acknowledgement of something that was written;
/// then [`Server::ack_timeout`](crate::Server::ack_timeout) decides, after 5 minutes by default; where that does not
/// work, the kernel's retransmissions, after some 15 minutes.
///
/// # Examples
///
/// ```
/// use ebbtide::{Keepalive, ListenOptions};
/// use std::time::Duration;
///
/// let seconds = Duration::from_secs;
/// let options = ListenOptions::new().keepalive(Keepalive::after(seconds(20)).interval(seconds(5)).retries(3));
/// let simple = ListenOptions::new().keepalive(seconds(20));
/// let none = ListenOptions::new().keepalive(Keepalive::OFF);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it is for `ListenOptions::keepalive`"]
pub struct Keepalive {
    /// `None`: off.
    after: Option<Duration>,
    interval: Duration,
    retries: u32,
}

/// After how long a silence a peer is probed, how far apart the probes are, and how many there are.
const AFTER: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(15);
const RETRIES: u32 = 4;

/// What Linux takes.
const LONGEST: Duration = Duration::from_secs(32_767);
const MOST_RETRIES: u32 = 127;

impl Keepalive {
    /// No probes: a peer that vanished while it was idle is never noticed.
    pub const OFF: Self = Self { after: None, interval: INTERVAL, retries: RETRIES };

    /// Probes a peer that has been silent for so long. The kernel counts in whole seconds; the crate keeps it between 1
    /// second and 32,767 seconds (about 9 hours), which is all that Linux takes.
    pub fn after(silence: Duration) -> Self {
        Self { after: Some(clamp(silence)), ..Self::OFF }
    }

    /// Sets how far apart the probes are, within the same bounds. Default: 15 seconds.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = clamp(interval);
        self
    }

    /// Sets after how many probes without an answer the connection ends, 1 to 127. Default: 4.
    pub fn retries(mut self, probes: u32) -> Self {
        self.retries = probes.clamp(1, MOST_RETRIES);
        self
    }

    /// Sets it on a socket that listens, whose connections inherit it, or on a connection.
    pub(super) fn set(self, socket: &Socket) -> io::Result<()> {
        let Some(after) = self.after else {
            return Ok(());
        };
        let keepalive = TcpKeepalive::new().with_time(after);
        #[cfg(any(
            target_os = "linux",
            target_os = "android",
            target_os = "freebsd",
            target_vendor = "apple",
            windows
        ))]
        let keepalive = keepalive.with_interval(self.interval);
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_vendor = "apple"))]
        let keepalive = keepalive.with_retries(self.retries);
        socket.set_tcp_keepalive(&keepalive)
    }
}

fn clamp(time: Duration) -> Duration {
    time.clamp(Duration::from_secs(1), LONGEST)
}

impl Default for Keepalive {
    fn default() -> Self {
        Self::after(AFTER)
    }
}

/// [`Keepalive::after`].
impl From<Duration> for Keepalive {
    fn from(silence: Duration) -> Self {
        Self::after(silence)
    }
}
