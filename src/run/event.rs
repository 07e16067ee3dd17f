//! [`Event`]: what happens to a server, told to a function of the user's.

use super::Run;
use super::end_reason::EndReason;
use super::name::run_line;
use super::phase::Phase;
use super::record::ConnectionRecord;
use super::registry::{ConnectionId, ConnectionInfo};
use crate::address::Address;
use crate::panic::{self, Kept};
use crate::span::Span;
use crate::sync::{Mutex, lock};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What has happened to a server: for the function of [`Server::on_event`](crate::Server::on_event).
///
/// What does not concern an event is `None`. `Display` is a line for a person.
pub struct Event<'a> {
    run: &'a Run,
    what: What<'a>,
}

/// Which [`Event`] it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// A connection was accepted: [`id`](Event::id), [`peer_addr`](Event::peer_addr).
    Accepted,
    /// A client was refused, because there are as many connections from its address as may be:
    /// [`peer_addr`](Event::peer_addr). Those that are closed in the queue are counted, and have no event.
    Refused,
    /// A connection has ended, and is closed: [`reason`](Event::reason), [`age`](Event::age), and its bytes.
    Ended,
    /// The server has entered a [`phase`](Event::phase).
    Phase,
}

pub(crate) enum What<'a> {
    Accepted(&'a ConnectionRecord),
    Refused(&'a Address),
    Ended(&'a ConnectionRecord, EndReason),
    Phase(Phase),
}

impl Event<'_> {
    /// Returns which event it is.
    pub fn kind(&self) -> EventKind {
        match self.what {
            What::Accepted(_) => EventKind::Accepted,
            What::Refused(_) => EventKind::Refused,
            What::Ended(..) => EventKind::Ended,
            What::Phase(_) => EventKind::Phase,
        }
    }

    fn record(&self) -> Option<&ConnectionRecord> {
        match self.what {
            What::Accepted(record) | What::Ended(record, _) => Some(record),
            What::Refused(_) | What::Phase(_) => None,
        }
    }

    /// Returns the number of the connection.
    pub fn id(&self) -> Option<ConnectionId> {
        self.record().map(|record| record.id)
    }

    /// Returns the address of the client.
    pub fn peer_addr(&self) -> Option<&Address> {
        match self.what {
            What::Refused(peer) => Some(peer),
            _ => self.record().map(ConnectionRecord::peer),
        }
    }

    /// Returns what [`Handle::connections`](crate::Handle::connections) shows of the connection. It may take a system
    /// call.
    pub fn connection(&self) -> Option<ConnectionInfo> {
        self.record().map(ConnectionInfo::of)
    }

    /// Returns why the connection has ended.
    pub fn reason(&self) -> Option<EndReason> {
        match self.what {
            What::Ended(_, reason) => Some(reason),
            _ => None,
        }
    }

    /// Returns how long ago the connection was accepted.
    pub fn age(&self) -> Option<Duration> {
        self.record().map(|record| record.since.elapsed())
    }

    /// Returns how many bytes the handler has read, if they are [counted](crate::Server::count_bytes).
    pub fn bytes_read(&self) -> Option<u64> {
        self.record()?.bytes().map(|(read, _)| read)
    }

    /// Returns how many bytes the handler and its tasks have written, if they are
    /// [counted](crate::Server::count_bytes).
    pub fn bytes_written(&self) -> Option<u64> {
        self.record()?.bytes().map(|(_, written)| written)
    }

    /// Returns the phase that the server has entered.
    pub fn phase(&self) -> Option<Phase> {
        match self.what {
            What::Phase(phase) => Some(phase),
            _ => None,
        }
    }

    /// Returns the [name](crate::Server::name) of the server, or its first address.
    pub fn server_name(&self) -> String {
        self.run.name.to_string()
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Accepted(record) => write!(f, "accepted {record}"),
            What::Refused(peer) => write!(f, "refused a client from {peer}"),
            What::Ended(record, reason) => {
                write!(f, "{record} ended after {}: {reason}", Span(record.since.elapsed()))?;
                match record.bytes() {
                    Some((read, written)) => write!(f, "; {read} bytes read, {written} written"),
                    None => Ok(()),
                }
            }
            What::Phase(phase) => write!(f, "{phase}"),
        }
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Event").field(&self.kind()).field(&self.to_string()).finish()
    }
}

type Observe = dyn Fn(&Event<'_>) + Send + Sync;

/// The user's functions, if there are any.
#[derive(Default)]
pub(crate) struct Observer {
    /// Taken at the end of the run: a handle in one would keep the run alive, and the run this.
    observe: Mutex<Vec<Arc<Kept<Box<Observe>>>>>,
    is_set: AtomicBool,
    has_panicked: AtomicBool,
    phases: Mutex<Phases>,
}

/// Phases that are to be told.
#[derive(Debug, Default)]
struct Phases {
    waiting: VecDeque<Phase>,
    /// A thread tells them.
    is_telling: bool,
}

impl Observer {
    /// One more.
    pub(crate) fn add(&self, observe: Box<Observe>) {
        lock(&self.observe).push(Arc::new(Kept::new(observe)));
        self.is_set.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// To be called without a lock. A panic is caught, and logged once.
    #[inline]
    pub(crate) fn tell(&self, run: &Run, what: What<'_>) {
        if self.is_set() {
            self.call(&Event { run, what });
        }
    }

    fn call(&self, event: &Event<'_>) {
        let all = lock(&self.observe).clone();
        for observe in all {
            let Err(payload) = panic::catch(|| observe.get()(event)) else {
                continue;
            };
            if !self.has_panicked.swap(true, Ordering::Relaxed) {
                let message = panic::message(&payload);
                run_line!(
                    error,
                    event.run,
                    [],
                    "the function of `Server::on_event` panicked at {:?}: {message}. The server goes on; further panics of \
                     it are not logged",
                    event.kind()
                );
            }
            panic::discard(payload);
        }
    }

    /// The run is closed, and all was told.
    pub(crate) fn end(&self) {
        self.is_set.store(false, Ordering::Release);
        let all = std::mem::take(&mut *lock(&self.observe));
        drop(all);
    }

    /// One more phase. Returns whether this thread is to tell it, and those that come meanwhile.
    pub(crate) fn begin_to_tell(&self, phase: Phase) -> bool {
        let mut phases = lock(&self.phases);
        phases.waiting.push_back(phase);
        !std::mem::replace(&mut phases.is_telling, true)
    }

    pub(crate) fn next_to_tell(&self) -> Option<Phase> {
        let mut phases = lock(&self.phases);
        let next = phases.waiting.pop_front();
        phases.is_telling = next.is_some();
        next
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("is_set", &self.is_set()).finish_non_exhaustive()
    }
}
