//! The accept loop: one task for each listening socket, from its first poll until the socket is closed.
//!
//! The loop takes a [permit](crate::limits) and then a client, and spawns the connection. An accept error is skipped,
//! paused after, or fatal (`accept_error`). At a shutdown the loop empties the backlog (*the sweep*) and closes the
//! socket.

use super::accept_error::{AcceptErrorClass, classify, hint};
use super::progress::Progress;
use crate::address::Address;
use crate::connection::Connection;
use crate::connection::task::{ConnectionGuard, ConnectionTask, Service};
use crate::handler::HandlerOutput;
use crate::limits::{Attempt, ConnectionLimit, Permit, TooMany, Turn};
use crate::listener::{self, Listener};
use crate::panic::{self, Chain, drop_caught};
use crate::run::Run;
use crate::run::completion::{CompletionGuard, OpenListener};
use crate::run::event::What;
use crate::run::name::run_line;
use crate::run::report::{Cause, Failure};
use crate::runtime::yield_now;
use crate::span::Span;
use crate::sync::event::Event;
use async_io::Timer;
use log::Level;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How many clients are accepted before the loop yields: a flood of clients must not starve the handlers.
const BATCH: usize = 64;

/// How many clients the sweep takes from the backlog at most, however large a backlog was set: the kernel clamps that
/// number too.
const LONGEST_QUEUE: u32 = 4096;

/// The first back-off after an error that may pass; each further one in a row is twice as long.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The longest back-off: the log then has one line a second with the error.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts connections and makes each a child of the server.
pub(super) struct AcceptLoop<H> {
    /// Dropped before the completion guard.
    pub(super) listener: OpenListener,
    /// The handler, and the settings of connections.
    pub(super) service: Arc<Service<H>>,
    pub(super) run: Arc<Run>,
    /// Signalled when accepting has to end.
    pub(super) stop: Arc<Event>,
    /// Where its lines go that are about no client: it waits for no logger.
    pub(super) progress: Progress,
    /// Keeps the run from being closed while the loop runs.
    pub(super) completion: CompletionGuard,
}

/// Counts the errors of single clients that follow each other closely.
#[derive(Debug, Default)]
struct Skipped {
    /// How many there are in this row.
    number: usize,
    /// When the last one occurred.
    last: Option<Instant>,
}

impl Skipped {
    /// An error that is later than this after the last one begins a new row.
    const APART: Duration = Duration::from_secs(1);

    /// Counts one more error. Returns `false` after [`BATCH`] in a row: these are not clients that have given up, but
    /// something that makes each accept fail before a client is taken from the queue.
    fn is_harmless(&mut self, now: Instant) -> bool {
        if self.last.is_none_or(|last| now.duration_since(last) > Self::APART) {
            self.number = 0;
        }
        self.last = Some(now);
        self.number += 1;
        self.number <= BATCH
    }
}

/// A client that accept has returned, and its permit.
type WithPermit = io::Result<(listener::Accepted, Permit)>;

impl<H, Fut> AcceptLoop<H>
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: HandlerOutput> + Send + 'static,
{
    /// Accepts until it is stopped, or until the socket fails for good. Then empties the backlog and closes the socket.
    pub(super) async fn run(mut self) {
        let mut pause = SHORTEST_PAUSE;
        let mut turns = 0;
        let mut last = 0;
        let mut skipped = Skipped::default();
        loop {
            // Yield before a client is taken: a client that is held across an await would be lost by a cancel.
            if turns == BATCH {
                turns = 0;
                yield_now().await;
            }
            turns += 1;
            let Some(accepted) = self.next(&mut last).await else {
                break;
            };
            let error = match accepted {
                Ok((client, permit)) => {
                    self.admit(client, permit);
                    note_room(&self.run, &self.progress);
                    (pause, skipped) = (SHORTEST_PAUSE, Skipped::default());
                    continue;
                }
                Err(error) => error,
            };
            self.run.counters.accept_failed();
            match classify(&error) {
                AcceptErrorClass::Skip if skipped.is_harmless(Instant::now()) => self.log_skipped(&error),
                AcceptErrorClass::Skip | AcceptErrorClass::BackOff => {
                    self.log_pause(&error, pause);
                    let _resting = self.run.counters.rest();
                    self.stop.until(Timer::after(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                AcceptErrorClass::Fatal => return self.fail(error),
            }
            drop_caught(error); // may be a custom listener's, with a destructor that panics
        }
        self.empty_queue().await;
    }

    /// Waits for the next client. Returns `None` when accepting has to end. `last` is the number of this loop's last
    /// client: the loop with the lowest number is the next to get a permit.
    async fn next(&mut self, last: &mut u64) -> Option<WithPermit> {
        let listener = self.listener.get_mut();
        let mut stop = self.stop.listen();
        let mut wait = PermitWait { limit: &self.run.limit, turn: Turn::since(*last) };
        let (run, progress) = (&self.run, &self.progress);
        poll_fn(|cx| {
            if stop.poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            let poll = poll_accept(listener, cx, &mut wait, last).map(Some);
            if poll.is_pending() && wait.turn.is_waiting() {
                warn_of_limit(run, progress);
            }
            poll
        })
        .await
    }

    /// Spawns the connection of a client. Nothing is awaited between accept and spawn, so a cancel cannot lose a client
    /// that accept has returned. (The sweep awaits a permit in between, and holds the client as [`Queued`].)
    fn admit(&self, client: listener::Accepted, permit: Permit) {
        let peer = &client.peer;
        // All clients of a proxy have its address: they are counted once its header has named the client.
        let ip = if client.protocols.name_client_of(peer) { None } else { peer.ip() };
        let counted = match ip.map_or(Ok(None), |ip| self.run.limit.count(ip)) {
            Ok(counted) => counted,
            Err(TooMany { max, client }) => {
                self.run.counters.refused_by_address();
                self.run.observer.tell(&self.run, What::Refused(peer));
                run_line!(
                    debug,
                    self.run,
                    [peer:% = peer],
                    "refused a client: there are {max} connections from `{client}` (`max_connections_per_ip`)"
                );
                return;
            }
        };
        let policy = &self.service.policy;
        let guard = ConnectionGuard::new(&self.run, client, (permit, counted), policy, self.completion.clone());
        let name = Arc::downgrade(guard.record());
        // After a cancel the group refuses it: the drop of the guard closes the connection, and counts it as cancelled.
        self.run.connections.spawn_own(name, ConnectionTask::new(Arc::clone(&self.service), guard));
    }

    /// Does the sweep: accepts the clients that are in the backlog, closes the socket, and only then begins to serve
    /// them. So a client that reconnects as soon as it has its answer is refused, and cannot prolong the sweep.
    ///
    /// - It takes at most as many clients as the backlog can hold, and ends at the deadline, so a flood of clients does
    ///   not delay the exit.
    /// - A client without a permit is closed, and counted as refused.
    /// - The backlog of a shared socket is left to its other holders.
    ///
    /// NOTE: the backlog is not set to 0 first (`listen` with 0). The kernel would then forget clients whose handshake
    /// is just ending: they would see neither EOF nor a reset until they write.
    async fn empty_queue(&mut self) {
        self.listener.get_mut().retire();
        let mut queued = Vec::new();
        let turned_away = match self.listener.get().is_shared() {
            true => 0,
            false => self.take_queued(&mut queued).await,
        };
        let address = self.listener.get().local_addr().clone();
        self.listener.close();
        for (client, permit) in queued {
            self.admit(client.into_client(), permit);
        }
        if turned_away > 0 {
            self.log_turned_away(&address, turned_away);
        }
    }

    /// Moves the clients in the backlog into `queued`. Returns how many it has closed because there was no permit.
    async fn take_queued(&mut self, queued: &mut Vec<(Queued, Permit)>) -> u64 {
        let mut turned_away = 0;
        // The kernel queues one client more than the backlog.
        for turn in 1..=self.listener.get().backlog().min(LONGEST_QUEUE) as usize + 1 {
            if turn % BATCH == 0 {
                yield_now().await;
                if self.run.is_out_of_time() {
                    break;
                }
            }
            match self.listener.get_mut().accept_now() {
                None => break,
                Some(Ok(client)) => {
                    let client = Queued { client: Some(client), run: Arc::clone(&self.run) };
                    match self.free_permit().await {
                        Some(permit) => queued.push((client, permit)),
                        None => turned_away += 1,
                    }
                }
                Some(Err(error)) => {
                    if !self.may_continue_after(error) {
                        break;
                    }
                }
            }
        }
        turned_away
    }

    /// Counts and logs an error of the sweep. Returns whether it concerns one client only, so that further clients may
    /// be in the backlog.
    fn may_continue_after(&self, error: io::Error) -> bool {
        self.run.counters.accept_failed();
        let skips = classify(&error) == AcceptErrorClass::Skip;
        if skips {
            self.log_skipped(&error);
        } else {
            self.log_queue_lost(&error);
        }
        drop_caught(error);
        skips
    }

    /// Returns a permit that is free now, or that another loop holds on trial and gives back in a moment because its
    /// listener has no client. It does not wait for a connection to end.
    async fn free_permit(&self) -> Option<Permit> {
        loop {
            match self.run.limit.try_acquire() {
                Attempt::Permit(permit) => return Some(permit),
                Attempt::Undecided if !self.run.is_out_of_time() => yield_now().await,
                Attempt::Undecided | Attempt::Full => return None,
            }
        }
    }

    fn fail(&self, source: io::Error) {
        let address = self.listener.get().local_addr().clone();
        let why = panic::text(|| Chain(&source).to_string());
        self.run.fail(Cause::ListenerFailed, Failure::Listener { address: address.clone(), source });
        self.progress.call(Level::Error, move |run| {
            run_line!(error, run, [listener:% = address], "cannot accept connections on `{address}` any more: {why}");
        });
    }

    fn log_skipped(&self, error: &io::Error) {
        let (listener, error) = (self.listener.get(), Chain(error));
        run_line!(
            debug,
            self.run,
            [listener:% = listener],
            "a client of `{listener}` was gone before it could be accepted: {error}"
        );
    }

    fn log_pause(&self, error: &io::Error, pause: Duration) {
        let (listener, hint) = (self.listener.get().local_addr().clone(), hint(error));
        let (error, connections) = (panic::text(|| Chain(error).to_string()), self.run.registry.len());
        self.progress.call(Level::Warn, move |run| {
            run_line!(
                warn,
                run,
                [listener:% = listener, connections = connections],
                "cannot accept connections on `{listener}`, trying again in {}: {error}{hint}",
                Span(pause)
            );
        });
    }

    fn log_turned_away(&self, listener: &Address, clients: u64) {
        let max = self.run.limit.max();
        let why = match self.run.limit.is_paused() {
            true => "accepting is paused".to_owned(),
            false => format!("all {max} of `max_connections` are in use; raise it"),
        };
        let what = if clients == 1 { "client" } else { "clients" };
        let listener = listener.clone();
        self.progress.call(Level::Warn, move |run| {
            run_line!(
                warn,
                run,
                [listener:% = listener, clients = clients],
                "closed {clients} {what} in the backlog of `{listener}` unserved: {why}"
            );
        });
    }

    fn log_queue_lost(&self, error: &io::Error) {
        let (listener, hint) = (self.listener.get().local_addr().clone(), hint(error));
        let error = panic::text(|| Chain(error).to_string());
        self.progress.call(Level::Warn, move |run| {
            run_line!(
                warn,
                run,
                [listener:% = listener],
                "cannot accept the clients that still wait on `{listener}`: {error}{hint}"
            );
        });
    }
}

/// Warns once that all permits are in use; not if accepting is paused.
fn warn_of_limit(run: &Run, progress: &Progress) {
    let limit = &run.limit;
    let max = limit.max();
    if max > 0 && !limit.is_paused() && !limit.admits() && run.limit_warning.is_new(Instant::now()) {
        progress.call(Level::Warn, move |run| {
            run_line!(
                warn,
                run,
                [connections = max],
                "all {max} of `max_connections` are in use: further clients wait in the backlog. To serve more at a \
                 time raise it, and the limit on open files with it (`ulimit -n`, systemd's `LimitNOFILE=`); to free \
                 places sooner set `idle_timeout`"
            );
        });
    }
}

/// Logs that permits are free again after such a warning.
fn note_room(run: &Run, progress: &Progress) {
    if run.limit_warning.is_set() {
        let (used, max) = (run.limit.used(), run.limit.max());
        if run.limit_warning.is_over(used, max, Instant::now()) {
            progress.call(Level::Info, move |run| {
                run_line!(
                    info,
                    run,
                    [connections = used],
                    "{used} of {max} of `max_connections` are in use: accepting clients again"
                );
            });
        }
    }
}

/// Drop guard of a client that the sweep has taken from the backlog. Its drop, on any way out, closes the client and
/// counts it as refused.
struct Queued {
    /// `None` once it is to be served.
    client: Option<listener::Accepted>,
    run: Arc<Run>,
}

impl Queued {
    /// Disarms the guard.
    fn into_client(mut self) -> listener::Accepted {
        self.client.take().expect("only `into_client` and the drop take it")
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            self.run.counters.refused();
            drop_caught(client); // may be a custom listener's, with a destructor that panics
        }
    }
}

/// Takes a permit first, then a client: the clients that have to wait stay in the kernel's queue.
///
/// A permit without a client is held only during this poll (*on trial*). Otherwise, with several listeners, a listener
/// to which no client connects could hold the last permit.
///
/// Several listeners with clients take turns: see [`Turn`].
fn poll_accept(
    listener: &mut Listener,
    cx: &mut Context<'_>,
    wait: &mut PermitWait<'_>,
    last: &mut u64,
) -> Poll<WithPermit> {
    let trial = ready!(wait.limit.poll_acquire(cx, &mut wait.turn));
    let client = ready!(listener.poll_accept(cx))?;
    let (permit, number) = trial.keep();
    *last = number;
    Poll::Ready(Ok((client, permit)))
}

/// One accept loop's place among those that wait for a permit. Its drop gives the place up.
struct PermitWait<'a> {
    limit: &'a Arc<ConnectionLimit>,
    /// The place.
    turn: Turn,
}

impl Drop for PermitWait<'_> {
    fn drop(&mut self) {
        self.limit.leave(&mut self.turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_single_clients_are_a_row_only_if_they_follow_each_other_closely() {
        let (mut skipped, mut now) = (Skipped::default(), Instant::now());
        for _ in 0..10 * BATCH {
            now += 2 * Skipped::APART;
            assert!(skipped.is_harmless(now), "far apart");
        }
        for _ in 1..BATCH {
            assert!(skipped.is_harmless(now));
        }
        assert!(!skipped.is_harmless(now), "one more than a batch in a row");
        assert!(!skipped.is_harmless(now + Skipped::APART), "the row continues");
        assert!(skipped.is_harmless(now + 3 * Skipped::APART));
    }
}
