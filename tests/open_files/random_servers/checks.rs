//! What must hold after every case: the rules of the crate, as far as a case can break them.

use super::case::{Base, Case, Exit, Proxy};
use super::doors::OpenDoor;
use super::exits::Outcome;
use super::handlers;
use super::http;
use super::plan::{Client, Manner, Order};
use super::witness::{End, Ended, Met, Seen, Witness};
use crate::support::NET;
use crate::support::dice::lock;
use async_std::future::timeout;
use async_std::prelude::*;
use ebbtide::{Cause, EndReason, ErrorKind, Handle, Phase, Report};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// How much later than its deadline a server may close on a loaded machine.
const SLACK: Duration = Duration::from_secs(8);

/// Finds violations.
pub struct Checks<'a> {
    pub case: &'a Case,
    pub witness: &'a Witness,
    pub handle: &'a Handle,
    pub outcome: Outcome,
    pub report: Report,
}

/// What a client has read of its reply.
pub struct Got<'a> {
    pub order: Order,
    reply: Vec<u8>,
    bytes: &'a [u8],
    pub is_whole: bool,
}

impl<'a> Got<'a> {
    /// Compares what client `n` has read with its reply. `None`: nobody knows what that should be.
    pub fn new(case: &Case, n: usize, plan: &Client, met: &'a Met) -> Option<Self> {
        let is_http = case.http && cfg!(feature = "http");
        let order = if is_http && plan.order != Order::Echo { Order::Reply } else { plan.order };
        let reply = handlers::reply(order, n, plan.size)?;
        if plan.manner == Manner::Garbage {
            return None; // its answer is an alert, or an error page
        }
        let (bytes, is_whole) = match is_http {
            true => match http::answer(&met.got) {
                Some(answer) if answer.is_ok => (answer.body, answer.is_whole),
                _ => (&[][..], false),
            },
            false => (&met.got[..], met.got == reply),
        };
        Some(Self { order, reply, bytes, is_whole })
    }

    /// Whether a byte is not the reply's.
    pub fn is_wrong(&self) -> bool {
        !self.reply.starts_with(self.bytes)
    }
}

impl Checks<'_> {
    /// Checks the server after its end.
    pub fn server(&self, doors: &[OpenDoor]) {
        self.way_out();
        self.deadline();
        self.counts();
        self.doors(doors);
        self.accepting(doors);
        self.error();
        self.escaped();
    }

    fn check(&self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.witness.violation(text());
        }
    }

    /// R1, R2, R3: control has returned, so nothing of the server lives.
    pub fn closed(&self) {
        let (handle, alive) = (self.handle, self.outcome.alive);
        self.check(alive == 0, || format!("R2: {alive} futures were alive when control returned"));
        let (phase, serving, open) = (handle.phase(), handle.is_serving(), handle.connection_count());
        self.check((phase, serving, open) == (Phase::Closed, false, 0), || {
            format!("R1: after the end it is {phase}, serving: {serving}, with {open} connections")
        });
        self.check(handle.connections().is_empty(), || format!("R1: it still lists {:?}", handle.connections()));
        let late = handle.spawn(async {});
        let refused = async_io::block_on(late).is_err_and(|error| error.is_cancelled());
        self.check(refused, || "R1: a closed server ran a task".to_owned());
        self.check(!handle.cancel_connection("0".parse().unwrap()), || {
            "R1: a connection can still be cancelled".to_owned()
        });
    }

    /// R1: what came out of the scope, and why it ended.
    fn way_out(&self) {
        let (exit, outcome, cause) = (self.case.exit, &self.outcome, self.report.cause());
        let by_handler = self.case.settings.stops_on_failure && exit != Exit::HandlerFails;
        let by_order = !self.case.tame && self.case.clients.iter().any(|it| it.order == Order::Stops);
        let other_cause = (by_handler && cause == Cause::HandlerFailed)
            || (by_order && matches!(cause, Cause::Shutdown | Cause::Cancel));
        let expected = match exit {
            Exit::BodyOk => (Cause::BodyReturned, None, false),
            Exit::BodyErr => (Cause::BodyFailed, Some(ErrorKind::Body), false),
            Exit::BodyPanics => (Cause::BodyPanicked, None, true),
            Exit::Shutdown | Exit::Within(_) | Exit::ShutdownThenCancel | Exit::DropInDrain => {
                (Cause::Shutdown, None, false)
            }
            Exit::Stream | Exit::StreamTwice | Exit::Future => (Cause::Stream, None, false),
            Exit::ListenerFails | Exit::ListenerPanics => (Cause::ListenerFailed, Some(ErrorKind::Listener), false),
            Exit::HandlerFails => (Cause::HandlerFailed, outcome.error, false),
            Exit::Cancel => (Cause::Cancel, None, false),
            Exit::Timeout | Exit::TaskCancelled | Exit::NeverServed | Exit::NeverPolled => {
                (Cause::Dropped, None, false)
            }
            Exit::Unwinds => (Cause::Dropped, None, true),
        };
        let came_out = (cause, outcome.error, outcome.panicked);
        self.check(other_cause || came_out == expected, || format!("R1: {came_out:?} came out, not {expected:?}"));
        let is_same = outcome.report.as_ref().is_none_or(|report| *report == self.report);
        self.check(is_same, || format!("R1: two reports: {} and {:?}", self.report, outcome.report));
    }

    /// R6: the deadline.
    fn deadline(&self) {
        let set = &self.case.settings;
        let bound = match self.case.exit {
            Exit::Within(time) => Some(time),
            _ => set.grace.map(|grace| grace + set.lame_duck),
        };
        let took = self.report.elapsed();
        self.check(bound.is_none_or(|bound| took < bound + SLACK), || {
            format!("R6: the exit took {took:?}, not {bound:?}")
        });
    }

    /// R9: the report, the live counts, the events and the handlers say the same.
    fn counts(&self) {
        let (report, handle) = (&self.report, self.handle);
        crate::support::assert_adds_up(report);
        let (counts, live) = (report.counts(), handle.counts());
        self.check(*counts == live, || format!("R9: the report has {counts}, the handle {live}"));
        let mut accepted: BTreeMap<u64, Option<EndReason>> = BTreeMap::new();
        let (mut by_reason, mut phases, mut refused) = (BTreeMap::<_, u64>::new(), Vec::new(), 0);
        for event in &*lock(&self.witness.events) {
            let is_right = match *event {
                Seen::Accepted(id) => accepted.insert(id, None).is_none(),
                Seen::Ended(id, reason) => {
                    *by_reason.entry(reason.as_str()).or_default() += 1;
                    accepted.get_mut(&id).is_some_and(|end| end.replace(reason).is_none())
                }
                Seen::Refused => {
                    refused += 1;
                    true
                }
                Seen::Phase(phase) => {
                    phases.push(phase);
                    phase != Phase::Closed || accepted.values().all(Option::is_some)
                }
            };
            self.check(is_right, || format!("R9: {event:?} is out of order or double"));
        }
        self.check(accepted.len() as u64 == report.accepted(), || {
            format!("R9: {} accepted events: {report}", accepted.len())
        });
        self.check(accepted.values().all(Option::is_some), || format!("R9: ends without events: {accepted:?}"));
        for (reason, number) in counts.by_reason() {
            let seen = by_reason.get(reason.as_str()).copied().unwrap_or_default();
            self.check(number == seen, || format!("R9: {number} {reason} in the report, {seen} events"));
        }
        self.check(refused <= counts.refused(), || format!("R9: {refused} refused events: {report}"));
        let (cut, listed) = (counts.ended(EndReason::Shutdown), report.cancelled_connections().len() as u64);
        self.check(cut.min(32) == listed, || format!("R9: {cut} were cut by the exit, {listed} are listed"));
        self.check(phases.is_sorted_by(|a, b| a < b), || format!("R9: phases {phases:?}"));
        self.check(phases.last() == Some(&Phase::Closed), || format!("R9: the last of the phases {phases:?}"));
        self.ends(&accepted);
    }

    /// R7, R9: how each handler ended, and how its connection was counted.
    fn ends(&self, accepted: &BTreeMap<u64, Option<EndReason>>) {
        use EndReason as Is;
        let handled = lock(&self.witness.handled);
        for (id, reason) in accepted {
            let Some(reason) = *reason else { continue };
            let ended = handled.get(id).map(|it| it.ended);
            let is_right = match ended {
                None => matches!(
                    reason,
                    Is::FirstByteTimeout
                        | Is::Handshake
                        | Is::ProxyHeader
                        | Is::AddressLimit
                        | Is::Shutdown
                        | Is::CancelledById
                        | Is::DrainedById
                        | Is::Age
                        | Is::IdleTimeout
                ),
                Some(Ended::Not) => false,
                Some(Ended::Ok) => reason == Is::Completed,
                Some(Ended::Failed) => reason == Is::Failed,
                Some(Ended::StreamFailed) => matches!(reason, Is::Disconnected | Is::BadInput),
                Some(Ended::Panicked) => reason == Is::Panicked,
                Some(Ended::Cut) => matches!(
                    reason,
                    Is::Shutdown
                        | Is::CancelledById
                        | Is::DrainedById
                        | Is::Age
                        | Is::IdleTimeout
                        | Is::WriteTimeout
                        | Is::AckTimeout
                        | Is::TaskPanicked
                ),
            };
            self.check(is_right, || format!("R9: connection {id} ended as {reason}, its handler as {ended:?}"));
        }
        let unknown: Vec<_> = handled.keys().filter(|id| !accepted.contains_key(id)).collect();
        self.check(unknown.is_empty(), || format!("R9: handlers of connections {unknown:?}, which were not accepted"));
    }

    /// R8: each accept that failed is counted, and no other.
    fn accepting(&self, doors: &[OpenDoor]) {
        let failed: usize = doors.iter().map(OpenDoor::failures).sum();
        let counted = self.report.counts().accept_errors();
        self.check(counted == failed as u64, || format!("R8: {failed} accepts have failed, {counted} are counted"));
    }

    /// R14: the error says what has failed, and why.
    fn error(&self) {
        let Some(text) = &self.outcome.text else { return };
        let parts: &[&str] = match (self.report.cause(), self.case.exit) {
            (Cause::BodyFailed, _) => &["as ordered"],
            (Cause::ListenerFailed, Exit::ListenerFails) => &["scripted", "Bad file descriptor"],
            (Cause::ListenerFailed, _) => &["scripted", "as ordered"],
            (Cause::HandlerFailed, _) => &["the handler of the connection from "],
            _ => &[],
        };
        let is_one_line = !text.is_empty() && !text.chars().any(char::is_control);
        self.check(is_one_line && parts.iter().all(|part| text.contains(part)), || {
            format!("R14: the error is `{text}`, without one of {parts:?}")
        });
    }

    /// R1, R4: no socket and no file is left.
    fn doors(&self, doors: &[OpenDoor]) {
        for left in doors.iter().filter_map(OpenDoor::left_behind) {
            self.witness.violation(format!("R1: {left}"));
        }
    }

    /// R4, R5, R10: what the clients saw.
    pub fn clients(&self, all: &[Met], phases: &[Phase]) {
        self.check(phases.is_sorted_by(|a, b| a < b), || format!("R1: phases {phases:?}"));
        let mut truncated = 0;
        for (n, (plan, met)) in self.case.clients.iter().zip(all).enumerate() {
            let is_http = self.case.http && cfg!(feature = "http");
            let Some(got) = Got::new(self.case, n, plan, met) else { continue };
            let (order, whole) = (got.order, got.is_whole);
            self.check(!got.is_wrong(), || format!("R10: client {n} has read {} wrong bytes", got.bytes.len()));
            let door = self.case.doors[plan.door];
            let late_header = plan.manner == Manner::Newcomer && door.proxy == Proxy::Optional;
            let half_closed = plan.manner == Manner::HalfCloses && is_http;
            // Its head ends the newcomer's time, while the rest of the request is on its way.
            let in_pieces = matches!(order, Order::Echo | Order::HalfPolled | Order::Lines);
            let late_rest = plan.manner == Manner::Newcomer && in_pieces && !is_http;
            if self.must_answer(n, met) && !late_header && !late_rest && !half_closed {
                let ends = matches!(met.end, End::Eof | End::Left);
                self.check(whole && ends, || {
                    format!("R5: client {n} has read {} of {} bytes: {:?}", got.bytes.len(), got.reply.len(), met.end)
                });
            }
            let completed =
                lock(&self.witness.handled).values().any(|it| it.client == Some(n) && it.ended == Ended::Ok);
            let reads = !matches!(plan.manner, Manner::Leaves | Manner::Resets | Manner::Floods);
            let writes_all =
                order.answers() && !matches!(order, Order::Echo | Order::HalfPolled | Order::Lines | Order::Tasks);
            if completed && reads && writes_all && !whole && !is_http && door.base != Base::Unix {
                truncated += 1;
            }
        }
        let undelivered = self.report.undelivered();
        self.check(truncated <= undelivered, || {
            format!("R10: {truncated} replies are not whole, {undelivered} are counted as undelivered")
        });
    }

    fn must_answer(&self, n: usize, met: &Met) -> bool {
        let plan = &self.case.clients[n];
        let in_time = met.sent_in_time || (plan.manner == Manner::Newcomer && met.connected_in_time);
        // A request that comes before the first poll of `serve` closes the server unserved.
        let served = lock(&self.witness.events).iter().any(|event| matches!(event, Seen::Phase(Phase::Serving)));
        let inherited = matches!(self.case.doors[plan.door].base, Base::Inherited | Base::InheritedUnix);
        // Its listener was paused when the sweep came, or failed in the sweep.
        let paused = self.case.doors[plan.door].faults.end_a_sweep();
        self.case.must_answer(plan) && in_time && served && (!(inherited || paused) || self.was_handled(n))
    }

    fn was_handled(&self, n: usize) -> bool {
        lock(&self.witness.handled).values().any(|it| it.client == Some(n))
    }

    /// R3: clones that have escaped are of no use, and nobody waits through them.
    fn escaped(&self) {
        let clones = std::mem::take(&mut *lock(&self.witness.escaped));
        async_io::block_on(async {
            for mut clone in clones {
                let read = timeout(NET, clone.read(&mut [0])).await;
                self.check(matches!(read, Ok(Ok(0))), || format!("R3: a clone reads {read:?}"));
                let written = timeout(NET, clone.write(b"x")).await;
                let is_broken = matches!(&written, Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe);
                self.check(is_broken, || format!("R3: a clone writes {written:?}"));
            }
            let ended = timeout(NET, self.witness.detached_ended.recv()).await;
            self.check(ended.is_ok(), || "R3: a detached task still waits for a closed connection".to_owned());
        });
    }
}
