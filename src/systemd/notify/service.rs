//! [`Service`]: the servers and groups of a notifier, and when systemd is notified of them.
//!
//! ```text
//! phases of a run (Server::on_event) ──┐
//! changes of a group (GroupObserver) ──┤
//! a side task of each of them ─────────┼──▶ Service::update ──▶ messages (what is to be sent) ──▶ socket
//! reloads of the program ──────────────┘
//! ```
//!
//! - Each phase is sent by the thread that enters it, so a drop is sent too, without an executor.
//! - The side task sends what time changes: the status, the deadline, and that its executor is alive.
//! - The lock is held while a datagram is sent, which keeps their order and never blocks. It is not held while
//!   something is logged, or while a run is dropped.

use super::messages::ServiceState;
use super::socket::NotifySocket;
#[cfg(feature = "upgrade")]
use super::state::MainProcess;
use super::state::{Stage, State, Watched, WatchedGroup};
use super::status::View;
use crate::origin::Origin;
use crate::run::Run;
use crate::run::name::run_line;
use crate::run::phase::Phase;
use crate::server::scope::{SideLog, SideTask};
use crate::services::observer::{GroupPhase, GroupView};
use crate::sync::event::Event;
use crate::sync::{Mutex, lock};
#[cfg(feature = "upgrade")]
use async_io::Async;
use async_io::Timer;
use futures_concurrency::prelude::*;
use log::Level;
use std::future::pending;
#[cfg(feature = "upgrade")]
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a server that serves looks whether its status has changed.
const LOOK: Duration = Duration::from_secs(10);

/// The same for a server that stops, and while something could not be sent.
const LOOK_OFTEN: Duration = Duration::from_secs(1);

/// The shortest pause between two WATCHDOG messages, however short `WatchdogSec=` is.
const SHORTEST_BEAT: Duration = Duration::from_millis(10);

/// What the clones of a notifier share.
pub(super) struct Service {
    /// A forked process leaves the notifications to its parent.
    origin: Origin,
    pub(super) socket: NotifySocket,
    /// Within which time systemd wants to hear that the process is alive.
    pub(super) watchdog: Option<Duration>,
    state: Mutex<State>,
}

impl Service {
    pub(super) fn new(socket: NotifySocket, watchdog: Option<Duration>) -> Self {
        Self { origin: Origin::here(), socket, watchdog, state: Mutex::default() }
    }

    /// Adds a server, by itself or as one of a group. Returns the task that has to run beside it; `None` if it is there
    /// already, or this is a forked process.
    pub(super) fn attach(self: &Arc<Self>, run: &Arc<Run>, group: Option<u64>) -> Option<SideTask> {
        let number = self.watch(run, group)?;
        let (on_phase, of_run) = (Arc::clone(self), Arc::downgrade(run));
        run.observer.add(Box::new(move |event| {
            if let (Some(phase), Some(run)) = (event.phase(), of_run.upgrade()) {
                on_phase.entered(number, &run, phase);
            }
        }));
        let (this, run) = (Arc::clone(self), Arc::clone(run));
        let task = move |log| attend(this, number, Asked::Server(run), log);
        Some(SideTask::new("the task that notifies systemd", task))
    }

    /// Adds a server, and returns its number; `None` as for `attach`.
    fn watch(&self, run: &Arc<Run>, group: Option<u64>) -> Option<u64> {
        if self.origin.is_elsewhere() {
            return None; // without the lock, which another thread may have held at the fork
        }
        let mut state = lock(&self.state);
        let run = Arc::downgrade(run);
        if let Some(server) = state.servers.iter_mut().find(|server| server.run.ptr_eq(&run)) {
            server.group = server.group.or(group);
            return None;
        }
        let number = state.next_number();
        state.servers.push(Watched { number, run, stage: Stage::Bound, group, is_alive: false });
        Some(number)
    }

    /// Adds a group, and returns its number; `None` in a forked process.
    pub(super) fn watch_group(&self) -> Option<u64> {
        if self.origin.is_elsewhere() {
            return None;
        }
        let mut state = lock(&self.state);
        let number = state.next_number();
        let view = GroupView { phase: GroupPhase::Starting, request: None, services: Vec::new() };
        state.groups.push(WatchedGroup { number, view, is_alive: false });
        Some(number)
    }

    /// A group has changed. Returns a line to be logged.
    pub(super) fn group_changed(&self, number: u64, view: GroupView) -> Option<String> {
        let mut before = None; // dropped after the lock, with its weak references to runs
        self.update(true, |state| {
            if let Some(group) = state.groups.iter_mut().find(|group| group.number == number) {
                before = Some(std::mem::replace(&mut group.view, view));
            }
            state.forget_closed();
        })
    }

    /// A group is gone. If it has not ended before, it was dropped. Returns a line to be logged.
    pub(super) fn group_dropped(&self, number: u64) -> Option<String> {
        if self.origin.is_elsewhere() {
            return None;
        }
        let has_ended = |group: &WatchedGroup| matches!(group.view.phase, GroupPhase::Ended(_));
        let group_is_over = lock(&self.state).groups.iter().find(|group| group.number == number).is_none_or(has_ended);
        if group_is_over {
            return None;
        }
        let phase = GroupPhase::Ended("the services were dropped".to_owned());
        self.group_changed(number, GroupView { phase, request: None, services: Vec::new() })
    }

    /// A server has entered a phase.
    pub(super) fn entered(&self, number: u64, run: &Arc<Run>, phase: Phase) {
        let stage = match phase {
            Phase::Bound => return,
            Phase::Closed => Stage::Closed(run.name.to_string(), run.report().to_string()),
            _ => Stage::Serving,
        };
        let is_over = matches!(stage, Stage::Closed(..));
        let failure = self.update(true, |state| {
            if let Some(server) = state.servers.iter_mut().find(|server| server.number == number) {
                server.stage = stage;
            }
            state.forget_closed();
        });
        match failure {
            Some(failure) if is_over && !run.logger_is_stuck.load(Ordering::Relaxed) => {
                run_line!(warn, run, [], "{failure}");
            }
            Some(_) if is_over => {}
            // A shutdown does not wait for a logger: the side task logs it, or the end of the run.
            Some(failure) => lock(&self.state).failure = Some(failure),
            None => {}
        }
    }

    /// A reload begins. Returns a line to be logged.
    pub(super) fn begin_reload(&self) -> Option<String> {
        self.update(true, |state| {
            state.reloads += 1;
            if state.messages.state() == Some(ServiceState::Ready) {
                state.messages.change_to(ServiceState::Reloading);
            }
        })
    }

    /// A reload is over. Returns a line to be logged.
    pub(super) fn end_reload(&self) -> Option<String> {
        self.update(true, |state| {
            state.reloads -= 1;
            if state.reloads == 0 && state.messages.state() == Some(ServiceState::Reloading) {
                state.messages.change_to(ServiceState::Ready);
            }
        })
    }

    #[cfg(feature = "upgrade")]
    pub(super) fn wait_to_be_main(&self) {
        let _nothing_to_log = self.update(false, |state| state.main = MainProcess::Predecessor(None));
    }

    #[cfg(feature = "upgrade")]
    pub(super) fn main_once_closed(&self, connection: Option<Arc<Async<UnixStream>>>) -> Option<String> {
        self.update(true, |state| {
            state.main = match connection {
                Some(connection) => MainProcess::Predecessor(Some(connection)),
                None => MainProcess::This,
            };
        })
    }

    #[cfg(feature = "upgrade")]
    pub(super) fn hand_over(&self, id: u32, connection: Arc<Async<UnixStream>>) -> Option<String> {
        let watchdog = self.watchdog.is_some();
        self.update(false, |state| {
            state.messages.hand_over(id, watchdog);
            state.main = MainProcess::Successor(Some(connection));
        })
    }

    /// Changes the state, and then sends what systemd does not know yet. `is_news`: the status has to be sent now.
    ///
    /// Returns a line to be logged, once.
    fn update(&self, is_news: bool, change: impl FnOnce(&mut State)) -> Option<String> {
        if self.origin.is_elsewhere() {
            return None;
        }
        let mut runs = Vec::new(); // dropped after the lock: if one is the last owner, its drop is user code
        let mut state = lock(&self.state);
        change(&mut state);
        runs.extend(state.servers.iter().map(|server| server.run.upgrade()));
        let views: Vec<_> = runs.iter().map(|run| run.as_deref().map(View::of)).collect();
        let now = Instant::now(); // after the views: the deadline of a server that was just cancelled is over
        state.decide(&views);
        if !state.is_main() {
            return None;
        }
        let wanted = state.wanted(&runs, &views, is_news, now);
        state.send(&self.socket, &wanted, now);
        state.failure.take()
    }
}

/// Whose side task it is.
pub(super) enum Asked {
    Server(Arc<Run>),
    /// Its event is signalled when the group stops.
    Group(Arc<Event>),
}

impl Asked {
    /// Signalled once it is asked to stop.
    fn event(&self) -> &Event {
        match self {
            Self::Server(run) => &run.requested,
            Self::Group(stops) => stops,
        }
    }
}

/// The side task of a server or a group: sends what time changes, until that is closed. Never ends.
pub(super) async fn attend(service: Arc<Service>, number: u64, asked: Asked, log: SideLog) {
    let beat = service.watchdog.map(|within| (within / 2).max(SHORTEST_BEAT)); // as `sd_watchdog_enabled` recommends
    let mut next_beat = Instant::now();
    loop {
        let now = Instant::now();
        let is_beat = beat.is_some() && next_beat <= now;
        if let Some(beat) = beat.filter(|_| is_beat) {
            next_beat = now.checked_add(beat).unwrap_or(now + LOOK);
        }
        let failure = service.update(false, |state| {
            if is_beat {
                state.alive(number);
            }
        });
        if let Some(failure) = failure {
            log(Level::Warn, failure);
        }
        let is_asked = asked.event().is_signalled();
        let look = now + if is_asked || lock(&service.state).messages.has_unsent() { LOOK_OFTEN } else { LOOK };
        let next = if beat.is_some() { look.min(next_beat) } else { look };
        let time = async {
            Timer::at(next).await;
        };
        let request = async {
            match is_asked {
                false => asked.event().wait().await,
                true => pending().await,
            }
        };
        (time, request).race().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Messages;
    use super::super::state::CLOSED;
    use super::*;
    use crate::Listener;
    use crate::server::Server;
    use crate::services::ServiceGroup;
    use crate::systemd::Notifier;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::sync::Weak;

    /// Returns a notifier, and the socket that it notifies, which has an abstract name and so leaves no file.
    fn notifier(name: &str, origin: Origin) -> (Notifier, UnixDatagram) {
        let name = format!("ebbtide-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let systemd = UnixDatagram::bind_addr(&address).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let socket = NotifySocket::open((address, format!("@{name}"))).unwrap();
        let service = Service { origin, ..Service::new(socket, None) };
        (Notifier { inner: Some(Arc::new(service)) }, systemd)
    }

    #[test]
    fn a_forked_process_sends_nothing() {
        for (name, origin, sends) in [("here", Origin::here(), true), ("forked", Origin::another(), false)] {
            let (notifier, systemd) = notifier(name, origin);
            drop(Server::new(Listener::memory().0).notify_systemd(&notifier));
            drop(notifier.reloading());
            assert_eq!(systemd.recv(&mut [0; 4096]).is_ok(), sends, "{name}");
        }
    }

    #[test]
    fn without_a_server_that_serves_a_reload_sends_nothing() {
        let (notifier, systemd) = notifier("early", Origin::here());
        drop(notifier.reloading());
        let server = Server::new(Listener::memory().0).notify_systemd(&notifier);
        drop(notifier.reloading());
        assert!(systemd.recv(&mut [0; 4096]).is_err());
        drop(server);
    }

    #[test]
    fn the_notifier_keeps_no_server_and_few_of_those_that_are_closed() {
        let (notifier, _systemd) = notifier("many", Origin::here());
        let mut runs = Vec::new();
        for _ in 0..3 * CLOSED {
            let server = Server::new(Listener::memory().0).notify_systemd(&notifier);
            runs.push(Arc::downgrade(server.handle().run()));
        }
        assert_eq!(runs.iter().filter(|run| run.strong_count() > 0).count(), 0);
        assert_eq!(lock(&notifier.inner.as_ref().unwrap().state).servers.len(), CLOSED);
    }

    #[test]
    fn the_notifier_keeps_few_groups_that_have_ended() {
        let (notifier, _systemd) = notifier("groups", Origin::here());
        for _ in 0..3 * CLOSED {
            drop(ServiceGroup::on(drop).notify_systemd(&notifier).notify_systemd(&notifier));
        }
        assert_eq!(lock(&notifier.inner.as_ref().unwrap().state).groups.len(), CLOSED);
    }

    #[test]
    fn watchdog_is_sent_only_when_each_server_that_serves_and_each_group_that_runs_is_alive() {
        let mut state = State::default();
        for (number, stage) in [(0, Stage::Serving), (1, Stage::Serving), (2, Stage::Bound)] {
            state.servers.push(Watched { number, run: Weak::new(), stage, group: None, is_alive: false });
        }
        for _ in 0..3 {
            state.alive(0);
            assert!(!state.messages.has_unsent());
        }
        state.alive(1);
        assert!(state.messages.has_unsent());
        assert!(state.servers.iter().all(|server| !server.is_alive), "each has to show it again");

        let mut state = State { messages: Messages::default(), ..state };
        state.alive(1);
        assert!(!state.messages.has_unsent());
        state.servers[0].stage = Stage::Closed(String::new(), String::new());
        state.alive(1);
        assert!(state.messages.has_unsent());

        let view = GroupView { phase: GroupPhase::Running, request: None, services: Vec::new() };
        let group = WatchedGroup { number: 3, view, is_alive: false };
        let mut state = State { messages: Messages::default(), groups: vec![group], ..state };
        state.alive(1);
        assert!(!state.messages.has_unsent(), "the executor of the group's tasks is not known to be alive");
        state.alive(3);
        assert!(state.messages.has_unsent());
    }
}
