//! [`ServiceGroup::notify_systemd`], and what a notifier knows of a group.

use super::Notifier;
use super::service::{Asked, Service, attend};
use crate::panic::log_line;
use crate::server::Serve;
use crate::server::scope::{SideFuture, SideLog};
use crate::services::ServiceGroup;
use crate::services::observer::{GroupObserver, GroupPhase, GroupView};
use crate::sync::event::Event;
use std::sync::Arc;

impl ServiceGroup {
    /// Notifies systemd of the group: of its start, its status and its stop, with the time that it needs (feature
    /// `systemd`, on Linux).
    ///
    /// - `READY=1` is sent when every server of the group serves and every task has started.
    /// - `STOPPING=1` is sent when the group stops, whatever the reason, with the time to the deadline of the
    ///   [group](Self::grace). So a task, too, may take longer than `TimeoutStopSec=`, and systemd kills a service that
    ///   is stuck beyond the deadline.
    /// - `STATUS=` has each service that has not ended: `stopping, 2 s of 60 s; health: serving, 0 connections;
    ///   cleaner: stopping; main: draining, 3 connections left, 2 s of 8 s`; at the end the reports.
    /// - `WATCHDOG=1` is sent if the executor of each server, and that of the group's tasks, is alive.
    ///
    /// This concerns all servers of the group, also those that are added later. A server that has
    /// [`notify_systemd`](crate::Server::notify_systemd) itself, with the same notifier, changes nothing: there is one
    /// READY and one STOPPING. A group has one notifier; the first counts.
    ///
    /// Default: systemd is not notified. Nothing happens if the notifier is not [active](Notifier::is_active).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::systemd::Notifier;
    /// use ebbtide::{Connection, Server, ServiceGroup, Stopping};
    ///
    /// let notifier = Notifier::from_env()?;
    /// let main = Server::bind("127.0.0.1:0").await?.name("main");
    /// let group = ServiceGroup::new()
    ///     .notify_systemd(&notifier)
    ///     .task("cleaner", async |stopping: Stopping| stopping.await)
    ///     .server(main.serve(async |_: Connection| {}));
    /// # group.handle().shutdown();
    /// println!("{}", group.run().await?);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "sd_notify")]
    #[doc(alias = "Type=notify")]
    #[doc(alias = "watchdog")]
    pub fn notify_systemd(self, notifier: &Notifier) -> Self {
        match &notifier.inner {
            Some(service) => self.observe(|| Some(Box::new(WatchedByNotifier::new(service)?))),
            None => self,
        }
    }
}

/// The observer of one group. Its drop is the end of the group, if that was not reported.
struct WatchedByNotifier {
    service: Arc<Service>,
    number: u64,
    /// Signalled when the group stops.
    stops: Arc<Event>,
}

impl WatchedByNotifier {
    /// `None` in a forked process.
    fn new(service: &Arc<Service>) -> Option<Self> {
        let number = service.watch_group()?;
        Some(Self { service: Arc::clone(service), number, stops: Arc::default() })
    }
}

impl GroupObserver for WatchedByNotifier {
    fn prepare(&self, server: &Serve) {
        let run = server.handle().run().clone();
        if let Some(task) = self.service.attach(&run, Some(self.number)) {
            server.beside(task);
        }
    }

    fn changed(&self, view: GroupView) -> Option<String> {
        let stops = view.request.is_some() || matches!(view.phase, GroupPhase::Ended(_));
        let failure = self.service.group_changed(self.number, view);
        if stops {
            self.stops.signal();
        }
        failure
    }

    fn beside(&self, log: SideLog) -> SideFuture {
        Box::pin(attend(Arc::clone(&self.service), self.number, Asked::Group(Arc::clone(&self.stops)), log))
    }
}

impl Drop for WatchedByNotifier {
    fn drop(&mut self) {
        if let Some(failure) = self.service.group_dropped(self.number) {
            log_line!(warn, "{failure}");
        }
    }
}
