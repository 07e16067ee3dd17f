//! [`Keepalive`]: settings of `SO_KEEPALIVE`, by which the kernel notices that an idle peer has vanished.

use socket2::{Socket, TcpKeepalive};
use std::io;
use std::time::Duration;

/// Settings of `SO_KEEPALIVE`: the kernel probes a silent peer, and ends the connection if it does not answer.
///
/// For [`ListenOptions::keepalive`](crate::ListenOptions::keepalive).
///
/// A peer vanishes when its cable is cut or its machine is switched off. The defaults notice that after 2 minutes: a
/// first probe after 60 seconds of silence, then one every 15 seconds, 4 in all. A live peer that sends nothing answers
/// the probes, and stays connected.
///
/// The kernel sends no probes while written data is unacknowledged. Then
/// [`Server::ack_timeout`](crate::Server::ack_timeout) ends the connection, after 5 minutes by default; on systems
/// where that does not work, the kernel's retransmissions end it, after about 15 minutes.
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
///
/// let default = Keepalive::after(seconds(60)).interval(seconds(15)).retries(4);
/// assert_eq!(Keepalive::default(), default);
/// ```
#[doc(alias = "SO_KEEPALIVE")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "give it to `ListenOptions::keepalive`"]
pub struct Keepalive {
    /// The silence before the first probe. `None`: off.
    after: Option<Duration>,
    /// The time between two probes.
    interval: Duration,
    /// The number of probes without an answer after which the connection ends.
    retries: u32,
}

/// Default: the silence before the first probe.
const AFTER: Duration = Duration::from_secs(60);
/// Default: the time between two probes.
const INTERVAL: Duration = Duration::from_secs(15);
/// Default: the number of probes.
const RETRIES: u32 = 4;

/// The most that Linux accepts for a time.
const LONGEST: Duration = Duration::from_secs(32_767);
/// The most that Linux accepts for the number of probes.
const MOST_RETRIES: u32 = 127;

impl Keepalive {
    /// No probes: a peer that vanishes while it is idle is never noticed.
    pub const OFF: Self = Self { after: None, interval: INTERVAL, retries: RETRIES };

    /// Creates settings that probe a peer after this silence.
    ///
    /// The kernel counts in whole seconds. The time is clamped to 1 second at least and 32,767 seconds (about 9 hours)
    /// at most, which is the range of Linux.
    ///
    /// # Examples
    ///
    /// ```
    /// # use ebbtide::Keepalive;
    /// # use std::time::Duration;
    /// assert_eq!(Keepalive::after(Duration::from_secs(60)), Keepalive::default());
    /// assert_eq!(Keepalive::after(Duration::ZERO), Keepalive::after(Duration::from_secs(1)));
    /// ```
    #[doc(alias = "TCP_KEEPIDLE")]
    pub fn after(silence: Duration) -> Self {
        Self { after: Some(clamp(silence)), ..Self::OFF }
    }

    /// Sets the time between two probes, clamped like [`after`](Self::after). Default: 15 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// # use ebbtide::Keepalive;
    /// # use std::time::Duration;
    /// assert_eq!(Keepalive::default().interval(Duration::from_secs(15)), Keepalive::default());
    /// ```
    #[doc(alias = "TCP_KEEPINTVL")]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = clamp(interval);
        self
    }

    /// Sets after how many probes without an answer the connection ends: 1 to 127. Default: 4.
    ///
    /// # Examples
    ///
    /// ```
    /// # use ebbtide::Keepalive;
    /// assert_eq!(Keepalive::default().retries(4), Keepalive::default());
    /// ```
    #[doc(alias = "TCP_KEEPCNT")]
    pub fn retries(mut self, probes: u32) -> Self {
        self.retries = probes.clamp(1, MOST_RETRIES);
        self
    }

    /// Applies the settings to a connection, or to a listening socket: its connections inherit them.
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

/// The same as [`Keepalive::after`].
impl From<Duration> for Keepalive {
    fn from(silence: Duration) -> Self {
        Self::after(silence)
    }
}
