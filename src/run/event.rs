//! [`Event`], which the functions of `Server::on_event` receive, and [`Observer`], which calls these functions.
//!
//! A function is user code: it is called without a lock, and a panic in it is caught. Phases are reported in their
//! order, although several threads may enter them: one thread at a time reports all that are waiting.

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
use crate::text::plural;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Event in the life of a server. The function of [`Server::on_event`](crate::Server::on_event) receives it.
///
/// Each getter returns `None` if it does not apply to the [kind](Self::kind) of the event:
///
/// | kind | getters |
/// |---|---|
/// | `Accepted` | [`id`](Self::id), [`peer_addr`](Self::peer_addr), [`connection`](Self::connection), [`age`](Self::age), the bytes |
/// | `Refused` | [`peer_addr`](Self::peer_addr) |
/// | `Ended` | those of `Accepted`, and [`reason`](Self::reason) |
/// | `Phase` | [`phase`](Self::phase) |
///
/// `Display` is one line for a person.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, EndReason, Listener, Server};
/// use std::sync::mpsc;
///
/// let (listener, connector) = Listener::memory();
/// let client = connector.connect().await?;
/// let (seen, reasons) = mpsc::channel();
/// let server = Server::new(listener).on_event(move |event| {
///     println!("{}: {event}", event.server_name());
///     if let Some(reason) = event.reason() {
///         let _ = seen.send(reason);
///     }
/// });
/// server.scope(async |_: Connection| {}, async |_| ()).await?;
/// assert_eq!(reasons.recv(), Ok(EndReason::Completed));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "hook")]
#[doc(alias = "ConnState")]
#[doc(alias = "metrics")]
pub struct Event<'a> {
    run: &'a Run,
    what: What<'a>,
}

/// Kinds of [`Event`].
///
/// # Examples
///
/// ```
/// use ebbtide::{EventKind, Listener, Server};
///
/// let server = Server::new(Listener::memory().0).on_event(|event| match event.kind() {
///     EventKind::Accepted | EventKind::Ended => {} // count them
///     _ => println!("{event}"),
/// });
/// # drop(server);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// A connection was accepted.
    Accepted,
    /// A client was refused: its address has as many connections as
    /// [`max_connections_per_ip`](crate::Server::max_connections_per_ip) allows. (Clients that are closed in the
    /// backlog are counted, and cause no event.)
    Refused,
    /// A connection has ended, and is closed.
    Ended,
    /// The server has entered a phase.
    Phase,
}

/// Content of an [`Event`].
pub(crate) enum What<'a> {
    Accepted(&'a ConnectionRecord),
    Refused(&'a Address),
    Ended(&'a ConnectionRecord, EndReason),
    Phase(Phase),
}

impl Event<'_> {
    /// Returns the kind of the event.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, EventKind, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).on_event(move |event| _ = seen.send(event.kind()));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert!(values.try_iter().any(|kind| kind == EventKind::Accepted));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).on_event(move |event| _ = seen.send(event.id()));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert!(values.try_iter().flatten().all(|id| id.as_u64() == 0)); // one client
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn id(&self) -> Option<ConnectionId> {
        self.record().map(|record| record.id)
    }

    /// Returns the address of the client.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).on_event(move |event| _ = seen.send(event.peer_addr().cloned()));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(values.try_iter().flatten().next().unwrap().to_string(), "memory:0");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn peer_addr(&self) -> Option<&Address> {
        match self.what {
            What::Refused(peer) => Some(peer),
            _ => self.record().map(ConnectionRecord::peer),
        }
    }

    /// Returns what [`Handle::connections`](crate::Handle::connections) shows of the connection.
    ///
    /// It may take a system call.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).on_event(move |event| _ = seen.send(event.connection()));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// let connection = values.try_iter().flatten().next().unwrap();
    /// assert_eq!(connection.id().as_u64(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn connection(&self) -> Option<ConnectionInfo> {
        self.record().map(ConnectionInfo::of)
    }

    /// Returns why the connection has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, EndReason, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).on_event(move |event| _ = seen.send(event.reason()));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(values.try_iter().flatten().next(), Some(EndReason::Completed));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn reason(&self) -> Option<EndReason> {
        match self.what {
            What::Ended(_, reason) => Some(reason),
            _ => None,
        }
    }

    /// Returns how long ago the connection was accepted.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).on_event(move |event| _ = seen.send(event.age()));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert!(values.try_iter().flatten().next().is_some());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn age(&self) -> Option<Duration> {
        self.record().map(|record| record.since.elapsed())
    }

    /// Returns how many bytes the handler has read, if they are [counted](crate::Server::count_bytes).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).count_bytes(true).on_event(move |event| _ = seen.send(event.bytes_read()));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(values.try_iter().flatten().max(), Some(0)); // the handler reads none
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn bytes_read(&self) -> Option<u64> {
        self.record()?.bytes().map(|(read, _)| read)
    }

    /// Returns how many bytes the handler and its tasks have written, if they are
    /// [counted](crate::Server::count_bytes).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).count_bytes(true);
    /// let server = server.on_event(move |event| _ = seen.send(event.bytes_written()));
    /// let greet = async |mut conn: Connection| conn.write_all(b"hello").await;
    /// server.scope(greet, async |_| ()).await?;
    /// assert_eq!(values.try_iter().flatten().max(), Some(5));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn bytes_written(&self) -> Option<u64> {
        self.record()?.bytes().map(|(_, written)| written)
    }

    /// Returns the phase that the server has entered.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Phase, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).on_event(move |event| _ = seen.send(event.phase()));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(values.try_iter().flatten().next(), Some(Phase::Serving));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn phase(&self) -> Option<Phase> {
        match self.what {
            What::Phase(phase) => Some(phase),
            _ => None,
        }
    }

    /// Returns the [name](crate::Server::name) of the server, or its first address if it has no name.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let (seen, values) = std::sync::mpsc::channel();
    /// let server = Server::new(listener).name("api").on_event(move |event| _ = seen.send(event.server_name()));
    /// server.scope(async |_: Connection| {}, async |_| ()).await?;
    /// assert_eq!(values.recv().unwrap(), "api");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
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
                    Some((read, written)) => write!(f, "; {} read, {written} written", plural(read, "byte")),
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

/// The functions of `Server::on_event`, and the phases that are to be reported to them.
#[derive(Default)]
pub(crate) struct Observer {
    /// Dropped at the end of the run, to break a cycle: a function may own a handle, and so the run, which owns this.
    observe: Mutex<Vec<Arc<Kept<Box<Observe>>>>>,
    /// There is a function. A hint, so that a server without one takes no lock.
    is_set: AtomicBool,
    /// A panic of a function was logged.
    has_panicked: AtomicBool,
    phases: Mutex<Phases>,
}

/// Queue of the phases that are to be reported.
#[derive(Debug, Default)]
struct Phases {
    waiting: VecDeque<Phase>,
    /// A thread is reporting the queue.
    is_reporting: bool,
}

impl Observer {
    /// Adds a function.
    pub(crate) fn add(&self, observe: Box<Observe>) {
        lock(&self.observe).push(Arc::new(Kept::new(observe)));
        self.is_set.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Calls the functions. The caller holds no lock. A panic is caught, and logged once.
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
                    "the function of `Server::on_event` panicked at {:?}: {message}. The server continues; further \
                     panics of it are not logged",
                    event.kind()
                );
            }
            panic::discard(payload);
        }
    }

    /// Drops the functions: the run is closed, and everything was reported.
    pub(crate) fn end(&self) {
        self.is_set.store(false, Ordering::Release);
        let all = std::mem::take(&mut *lock(&self.observe));
        drop(all);
    }

    /// Queues a phase that the run enters. Called under the lock of the run's state, so that the phases are queued in
    /// the order in which they are entered.
    pub(crate) fn queue(&self, phase: Phase) {
        if self.is_set() {
            lock(&self.phases).waiting.push_back(phase);
        }
    }

    /// Returns whether this thread must report the queue, until [`next_to_report`](Self::next_to_report) is `None`. If
    /// not, another thread is doing it.
    pub(crate) fn begin_to_report(&self) -> bool {
        !std::mem::replace(&mut lock(&self.phases).is_reporting, true)
    }

    pub(crate) fn next_to_report(&self) -> Option<Phase> {
        let mut phases = lock(&self.phases);
        let next = phases.waiting.pop_front();
        phases.is_reporting = next.is_some();
        next
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("is_set", &self.is_set()).finish_non_exhaustive()
    }
}
