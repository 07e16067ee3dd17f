//! Which generation is the main process of its systemd unit.
//!
//! systemd accepts notifications of the main process alone, and judges that when it reads a datagram, by the id of the
//! sender. All generations send to one socket, so it reads the datagrams in the order in which they were sent. The order
//! that is needed:
//!
//! 1. The next generation confirms that it takes the sockets (TAKEN): from here on the hand-over cannot fail.
//! 2. The old one sends `MAINPID` to systemd, and nothing after that.
//! 3. It closes its connection to the next generation. That one sends nothing to systemd before it has read EOF.
//!
//! If the old generation dies in between, the kernel closes the connection.

use super::Shared;
use async_io::Async;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

#[cfg(all(feature = "systemd", target_os = "linux"))]
mod notified {
    use super::super::{Previous, Upgrade, within};
    use crate::sync::lock;
    use crate::systemd::Notifier;
    use async_io::Async;
    use futures_lite::io::AsyncReadExt;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    /// How long `ready` waits for the old generation's `MAINPID`, which usually is there already. After that the
    /// notifier looks every second.
    const PATIENCE: Duration = Duration::from_secs(1);

    impl Upgrade {
        /// Notifies systemd that the main process of the unit changes with a hand-over (`MAINPID=`, feature `systemd`,
        /// on Linux).
        ///
        /// Call it in each generation, before the servers serve, with the notifier that they have:
        ///
        /// - When a hand-over has succeeded, systemd gets the id of the next generation. This one then sends nothing
        ///   more: its drain is no stop of the service.
        /// - A successor sends nothing before it is the main process. Then it sends READY, its status and WATCHDOG.
        ///
        /// The [module](crate::upgrade#under-systemd) has what else a unit needs, and the limits. Nothing happens if
        /// the notifier is not [active](Notifier::is_active). The first call counts.
        ///
        /// # Examples
        ///
        /// ```
        /// # async_std::task::block_on(async {
        /// use ebbtide::{systemd::Notifier, upgrade::Upgrade};
        ///
        /// let notifier = Notifier::from_env()?;
        /// let upgrade = Upgrade::from_env()?.notify_systemd(&notifier);
        /// let server = upgrade.bind("127.0.0.1:0").await?.notify_systemd(&notifier);
        /// # drop(server);
        /// # std::io::Result::Ok(()) }).unwrap();
        /// ```
        #[doc(alias = "MAINPID")]
        #[doc(alias = "sd_notify")]
        #[must_use = "this returns the `Upgrade` that notifies systemd"]
        pub fn notify_systemd(self, notifier: &Notifier) -> Self {
            if self.shared.notifier.set(notifier.clone()).is_ok()
                && !matches!(*lock(&self.shared.previous), Previous::Done)
            {
                notifier.wait_to_be_main();
            }
            self
        }
    }

    pub(super) async fn until_closed(notifier: &Notifier, mut channel: &Async<UnixStream>) {
        let eof = async { while channel.read(&mut [0]).await.is_ok_and(|read| read > 0) {} };
        if within(Instant::now().checked_add(PATIENCE), eof).await.is_some() {
            notifier.main_once_closed(None);
        }
    }
}

impl Shared {
    /// The next generation has the sockets: makes it the main process, and then closes the connection to it.
    pub(super) fn name_main_process(&self, id: u32, channel: &Arc<Async<UnixStream>>) {
        #[cfg(all(feature = "systemd", target_os = "linux"))]
        if let Some(notifier) = self.notifier.get() {
            notifier.hand_over(id, Arc::clone(channel));
        }
        let _ = (self, id, channel);
    }

    /// This generation has the sockets. It is the main process once the old one has closed the connection.
    pub(super) fn main_process_once_closed(&self, channel: &Arc<Async<UnixStream>>) {
        #[cfg(all(feature = "systemd", target_os = "linux"))]
        if let Some(notifier) = self.notifier.get() {
            notifier.main_once_closed(Some(Arc::clone(channel)));
        }
        let _ = (self, channel);
    }

    /// Waits until this generation is the main process, for a short time: usually it is already.
    pub(super) async fn until_main_process(&self, channel: &Async<UnixStream>) {
        #[cfg(all(feature = "systemd", target_os = "linux"))]
        if let Some(notifier) = self.notifier.get() {
            notified::until_closed(notifier, channel).await;
        }
        let _ = (self, channel);
    }
}
