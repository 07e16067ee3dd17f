//! Answers for load balancers and supervisors: is the program ready, and is it alive?

use crate::group::TaskGroup;
use crate::run::handle::Handle;
use crate::run::phase::Phase;
use crate::run::task_tree::Headline;
use crate::sync::event::Event;
use crate::sync::{Mutex, lock};
use crate::text::Escaped;
use async_io::Timer;
use futures_concurrency::prelude::*;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long `/live` waits until an executor runs a task.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns whether all servers are ready, and a text: the answer, and a line for each server.
pub(super) fn ready(watched: &[Handle]) -> (bool, String) {
    let is_ready = !watched.is_empty() && watched.iter().all(Handle::is_ready);
    let mut text = String::from(if is_ready { "ready\n" } else { "not ready\n" });
    for server in watched {
        let _ = writeln!(text, "{}", Headline(&server.task_tree_of(0)));
    }
    if watched.is_empty() {
        text.push_str("no server is watched: see `Admin::watch`\n");
    }
    (is_ready, text)
}

/// Returns whether the executor of each server runs tasks, and a text. All are asked at the same time.
pub(super) async fn live(pulses: &[Pulse]) -> (bool, String) {
    let states = pulses.iter().map(Pulse::check).collect::<Vec<_>>().join().await;
    let mut stuck = String::new();
    for (pulse, state) in pulses.iter().zip(states) {
        let why = match state {
            State::Runs => continue,
            State::Late => format!(
                "has not run a task for {} s: all of its threads are blocked, or it is not run",
                PATIENCE.as_secs()
            ),
            State::Drops => "drops its tasks: it was shut down, it panics, or there is none".to_owned(),
        };
        let name = &pulse.server.run().name;
        let _ = writeln!(stuck, "the executor of the server `{}` {why}", Escaped(name));
    }
    if stuck.is_empty() { (true, "live\n".to_owned()) } else { (false, format!("not live\n{stuck}")) }
}

/// What an executor does with a task.
#[derive(Clone, Copy, Debug)]
enum State {
    Runs,
    /// It has not run the task in time.
    Late,
    /// It has dropped the task without running it.
    Drops,
}

/// Asks the executor of one server whether it runs.
///
/// It has one task there at a time, which all requests share: an executor that does not run keeps each task that it
/// was given, and probes come every few seconds.
pub(super) struct Pulse {
    server: Handle,
    /// The task that has not ended yet, as far as it is known.
    sent: Mutex<Option<Arc<Sent>>>,
}

/// A task that was given to an executor.
struct Sent {
    /// Its drop removes the task.
    group: TaskGroup,
    end: Arc<End>,
}

/// How the task ended.
#[derive(Default)]
struct End {
    has_run: AtomicBool,
    /// Signalled when the task has run, and when it was dropped.
    ended: Event,
}

/// Owned by the task.
struct EndGuard(Arc<End>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.ended.signal();
    }
}

impl Pulse {
    pub(super) fn new(server: Handle) -> Self {
        Self { server, sent: Mutex::default() }
    }

    async fn check(&self) -> State {
        let sent = self.send();
        let state = match &sent {
            Some(sent) => {
                let ended = async {
                    sent.end.ended.wait().await;
                    if sent.end.has_run.load(Ordering::Acquire) { State::Runs } else { State::Drops }
                };
                let late = async {
                    Timer::after(PATIENCE).await;
                    State::Late
                };
                (ended, late).race().await
            }
            None => State::Runs,
        };
        // A server that is closed needs no executor, and has given its own back.
        if self.server.phase() == Phase::Closed { State::Runs } else { state }
    }

    /// Gives the executor a task, unless it still has one. `None`: the server is closed.
    fn send(&self) -> Option<Arc<Sent>> {
        let is_closed = self.server.phase() == Phase::Closed;
        let fresh = || {
            let group = TaskGroup::with_executor(self.server.run().executor());
            Arc::new(Sent { group, end: Arc::default() })
        };
        let (before, now) = {
            let mut place = lock(&self.sent);
            match &*place {
                Some(sent) if !is_closed && !sent.end.ended.is_signalled() => return Some(Arc::clone(sent)),
                _ => {}
            }
            let now = (!is_closed).then(fresh);
            (std::mem::replace(&mut *place, now.clone()), now)
        };
        drop(before); // without the lock: it may be the last owner of the executor, whose drop is user code
        if let Some(sent) = &now {
            let guard = EndGuard(Arc::clone(&sent.end));
            sent.group.spawn(async move { guard.0.has_run.store(true, Ordering::Release) });
        }
        now
    }
}
