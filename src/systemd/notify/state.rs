//! [`State`]: the servers and groups of a notifier, and what systemd has to be sent about them. `service` changes it, under
//! its lock.

use super::messages::{End, Messages, ServiceState, Wanted};
use super::socket::NotifySocket;
use super::status::{self, View};
use crate::run::Run;
use crate::services::observer::{GroupPhase, GroupView};
use crate::text::Escaped;
#[cfg(feature = "upgrade")]
use async_io::Async;
#[cfg(feature = "upgrade")]
use std::io::{ErrorKind, Read};
#[cfg(feature = "upgrade")]
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// How many servers and groups that are closed the status still names, if another one is not.
pub(super) const CLOSED: usize = 8;

#[derive(Default)]
pub(super) struct State {
    /// The servers, in the order in which they were given.
    pub(super) servers: Vec<Watched>,
    pub(super) groups: Vec<WatchedGroup>,
    /// The number of the next server or group.
    pub(super) next: u64,
    pub(super) messages: Messages,
    #[cfg(feature = "upgrade")]
    pub(super) main: MainProcess,
    /// How many [`Reloading`]s there are.
    pub(super) reloads: usize,
    /// A datagram could not be sent, which was logged or is in `failure`.
    pub(super) has_failed: bool,
    /// The line that is to be logged.
    pub(super) failure: Option<String>,
}

/// Which process systemd accepts notifications from.
#[cfg(feature = "upgrade")]
#[derive(Default)]
pub(super) enum MainProcess {
    #[default]
    This,
    /// The generation before. It closes the connection when it has named this process to systemd. `None`: there is
    /// none yet.
    Predecessor(Option<Arc<Async<UnixStream>>>),
    /// The next generation. Its connection is closed when systemd was notified of that.
    Successor(Option<Arc<Async<UnixStream>>>),
}

/// A server that is watched.
pub(super) struct Watched {
    pub(super) number: u64,
    /// The run has a function that owns the notifier, so this must not own the run.
    pub(super) run: Weak<Run>,
    pub(super) stage: Stage,
    /// The number of its group, which has it in its own part of the status.
    pub(super) group: Option<u64>,
    /// Its executor was alive since the last WATCHDOG=1.
    pub(super) is_alive: bool,
}

/// A group that is watched.
pub(super) struct WatchedGroup {
    pub(super) number: u64,
    pub(super) view: GroupView,
    /// Its executor was alive since the last WATCHDOG=1.
    pub(super) is_alive: bool,
}

impl WatchedGroup {
    fn stops(&self) -> bool {
        self.view.request.is_some() || matches!(self.view.phase, GroupPhase::Cancelling | GroupPhase::Ended(_))
    }
}

pub(super) enum Stage {
    Bound,
    Serving,
    /// With its name and its report.
    Closed(String, String),
}

impl State {
    /// Returns whether systemd accepts notifications of this process.
    pub(super) fn is_main(&mut self) -> bool {
        #[cfg(feature = "upgrade")]
        if let MainProcess::Predecessor(connection) = &self.main {
            let Some(mut connection) = connection.as_ref().map(|connection| connection.get_ref()) else { return false };
            match connection.read(&mut [0]) {
                Ok(read) if read > 0 => return false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Ok(_) | Err(_) => self.main = MainProcess::This,
            }
        }
        true
    }

    /// Closes the connection to the next generation once systemd knows of it.
    pub(super) fn close_when_handed_over(&mut self) {
        #[cfg(feature = "upgrade")]
        if let (MainProcess::Successor(connection), false) = (&mut self.main, self.messages.has_unsent()) {
            *connection = None;
        }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Decides on the service's state: ready when all servers serve and all groups have started, stopping when the
    /// first of them is asked to stop.
    pub(super) fn decide(&mut self, views: &[Option<View>]) {
        if self.servers.is_empty() && self.groups.is_empty() {
            return;
        }
        let groups_run = self.groups.iter().all(|group| group.view.phase == GroupPhase::Running);
        let mut all = self.servers.iter().zip(views);
        let is_asked = |server: &Watched, view: &Option<View>| {
            matches!(server.stage, Stage::Closed(..)) || view.is_some_and(|view| view.request.is_some())
        };
        if all.clone().any(|(server, view)| is_asked(server, view)) || self.groups.iter().any(WatchedGroup::stops) {
            self.messages.change_to(ServiceState::Stopping);
        } else if self.messages.state().is_none()
            && groups_run
            && all.all(|(server, _)| matches!(server.stage, Stage::Serving))
        {
            self.messages.change_to(ServiceState::Ready);
        }
    }

    pub(super) fn wanted(
        &self,
        runs: &[Option<Arc<Run>>],
        views: &[Option<View>],
        is_news: bool,
        now: Instant,
    ) -> Wanted {
        let mut servers = Vec::new();
        let mut of_groups = Vec::new();
        let mut ends = Vec::new();
        for ((server, run), view) in self.servers.iter().zip(runs).zip(views) {
            let line = match (&server.stage, run, view) {
                (Stage::Closed(name, report), ..) => (name.clone(), report.clone()),
                (_, Some(run), Some(view)) => {
                    ends.extend(view.request.map(|(_, deadline)| deadline));
                    (run.name.to_string(), view.line(now))
                }
                _ => continue,
            };
            match server.group {
                Some(_) => of_groups.push((&server.run, line)),
                None => servers.push(line),
            }
        }
        let mut groups = Vec::new();
        for WatchedGroup { view, .. } in &self.groups {
            ends.extend(view.request.map(|(_, deadline)| deadline));
            let server = |run: &Weak<Run>| of_groups.iter().find(|(other, _)| other.ptr_eq(run)).map(|(_, line)| line);
            groups.push(status::of_group(view, server, now));
        }
        let is_reloading = self.messages.state() == Some(ServiceState::Reloading);
        // The server with the most time counts. `None` is no limit, the most of all.
        let end = match ends.iter().any(Option::is_none) {
            true => Some(End::Unlimited),
            false => ends.into_iter().flatten().max().map(End::At),
        };
        // If each server that was asked is closed, there is still what the program does next.
        let end = end.or((self.messages.state() == Some(ServiceState::Stopping)).then_some(End::At(now)));
        Wanted { status: status::joined(&servers, &groups, is_reloading), is_news, end }
    }

    /// Sends all that is to be sent, up to the first failure, of which the first of all is to be logged.
    pub(super) fn send(&mut self, socket: &NotifySocket, wanted: &Wanted, now: Instant) {
        loop {
            let (what, failure) = match self.messages.next(wanted, now) {
                Ok(None) => return self.close_when_handed_over(),
                Ok(Some(datagram)) => match socket.send(&datagram.text) {
                    Ok(()) => {
                        self.messages.sent(datagram, now);
                        continue;
                    }
                    Err(error) => (datagram.variables(), error),
                },
                Err(error) => ("RELOADING".to_owned(), format!("the clock cannot be read: {error}")),
            };
            if !std::mem::replace(&mut self.has_failed, true) {
                let (socket, failure) = (Escaped(socket.shown()), Escaped(failure));
                self.failure = Some(format!(
                    "cannot send {what} to systemd at `{socket}` (`NOTIFY_SOCKET`): {failure}. The server goes on and \
                     tries again; further failures are not logged"
                ));
            }
            return;
        }
    }

    /// The executor of a server or a group is alive. WATCHDOG is sent once all are: one that hangs must be noticed.
    pub(super) fn alive(&mut self, number: u64) {
        let servers = self.servers.iter_mut().filter(|server| matches!(server.stage, Stage::Serving));
        let runs = |group: &&mut WatchedGroup| matches!(group.view.phase, GroupPhase::Running | GroupPhase::Cancelling);
        let groups = self.groups.iter_mut().filter(runs);
        let mut marks: Vec<_> = servers.map(|server| (server.number, &mut server.is_alive)).collect();
        marks.extend(groups.map(|group| (group.number, &mut group.is_alive)));
        if marks.iter().all(|(other, is_alive)| **is_alive || *other == number) {
            marks.into_iter().for_each(|(_, is_alive)| *is_alive = false);
            self.messages.alive();
        } else if let Some((_, is_alive)) = marks.into_iter().find(|(other, _)| *other == number) {
            *is_alive = true;
        }
    }

    /// Bounds the memory of a program that makes one server after the other.
    pub(super) fn forget_closed(&mut self) {
        let is_closed = |server: &Watched| matches!(server.stage, Stage::Closed(..));
        while self.servers.iter().filter(|server| is_closed(server)).count() > CLOSED {
            let Some(oldest) = self.servers.iter().position(is_closed) else { break };
            self.servers.remove(oldest);
        }
        let has_ended = |group: &WatchedGroup| matches!(group.view.phase, GroupPhase::Ended(_));
        while self.groups.iter().filter(|group| has_ended(group)).count() > CLOSED {
            let Some(oldest) = self.groups.iter().position(has_ended) else { return };
            self.groups.remove(oldest);
        }
    }
}
